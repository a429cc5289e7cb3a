"""Rejects sounds that are not vocal bursts: fits `burst` in the calibration.json of an emotion model.

The classifier (`avb.events.burst_check`) is fitted on bursts of half of EmoGator's validation speakers, on whom no
shipped emotion model was trained, and on windows of the recordings of the training side (`recipes/events/sources.csv`),
of noise and of silence. It is evaluated on the other half of the speakers and on the test side: other speakers,
languages and packages.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from audio_avb import SAMPLING_RATE, AudioError, load_audio
from avb.corpora import load_bursts
from avb.errors import AvbError
from avb.events.burst_check import BURST, HOP_SECONDS, WINDOW_SECONDS, Sounds, fit, measure
from avb.events.evaluation import negatives
from avb.events.finding import score_stretches
from avb.events.pool import Pool
from avb.events.sources import SIDES
from avb.files import write_text
from avb.inference.calibrated import find_calibration
from avb.inference.scorer import Scorer
from avb.models import locate
from calibration_avb import CALIBRATION_FILE, BurstCheck, Calibration, log_scores

SILENCE_WINDOWS = 60
NOISE_MINUTES, GROUP_MINUTES = 10, 6  # minutes of noise; maximum minutes per language of a package
CHUNK = 64

Heard = tuple[str, str, np.ndarray]  # kind and source (see `Sounds`), float32 (samples,)


def fit_rejection(
    model: str, data_dir: str | Path, pool: str | Path, windows: int = 1200, clips: int = 2700
) -> BurstCheck:
    """Fits a model's rejection and adds it to the calibration.json in its folder.

    Args:
        model: a folder, or a model that comes with the project.
        data_dir: folder of EmoGator.
        pool: folder written by `python -m avb.events prepare`.
        windows: number of 2 s windows without bursts per side, in equal parts per kind if there are enough.
        clips: number of burst clips.

    Raises:
        AvbError: the model is not a folder, or something is missing.
    """
    folder = Path(locate(model))
    if not folder.is_dir():
        raise AvbError(f"{model}: give the model's folder, where {CALIBRATION_FILE} will be written")
    scorer = replace(Scorer.load(str(folder)), calibrated=None)
    labels = [scorer.config.id2label[index] for index in range(scorer.config.num_labels)]
    halves = _bursts(data_dir, clips, labels if scorer.config.loss == "ce" else None)
    sounds = {}
    for number, (side, (bursts, _)) in enumerate(zip(SIDES, halves, strict=True)):
        others = _windows(Pool.load(pool, side), windows, seed=number)
        sounds[side] = _scored(scorer, (heard for part in (bursts, others) for heard in part))
    check, true = fit(sounds["train"]), halves[1][1]
    check = replace(check, measured=measure(check, sounds["test"], None if true is None else np.array(true)))
    weights = scorer.model.trained_weights
    found = find_calibration(str(folder), weights) or Calibration(weights, {})
    write_text(folder / CALIBRATION_FILE, replace(found, burst=check).to_json())
    return check


def _bursts(data_dir: str | Path, most: int, labels: list[str] | None) -> list[tuple[list[Heard], list[int] | None]]:
    """For each half of the validation speakers: its bursts, and the index of each in `labels` if they have classes."""
    task, splits = load_bursts("emogator", data_dir, "emotion")
    rows = splits["validation"]
    known = labels is not None and set(labels) == set(task.labels)
    speakers = sorted(set(rows["speaker"][:]))
    chosen = np.random.default_rng(0).permutation(len(rows))[:most]
    found: tuple[list, list] = ([], [])
    classes: tuple[list, list] = ([], [])
    for row in rows.select(np.sort(chosen)):
        half = speakers.index(row["speaker"]) % 2
        try:
            found[half].append((BURST, row["speaker"], load_audio(row["audio"], peak_db=None)))
        except AudioError:  # damaged clips are skipped
            continue
        classes[half].append(labels.index(task.labels[int(row["labels"])]) if labels and known else 0)
    return [(found[half], classes[half] if known else None) for half in (0, 1)]


def _windows(pool: Pool, most: int, seed: int) -> Iterator[Heard]:
    """At most `most` windows of recordings without bursts, the same maximum per kind, and windows of silence."""
    rng, size = np.random.default_rng(seed), round(WINDOW_SECONDS * SAMPLING_RATE)
    places: dict[str, list[tuple[int, int]]] = {}  # per kind: number of the recording, first sample
    for number, negative in enumerate(negatives(pool, NOISE_MINUTES, GROUP_MINUTES)):
        starts = range(0, len(negative.waveform) - size, round(HOP_SECONDS * SAMPLING_RATE))
        places.setdefault(negative.kind, []).extend((number, start) for start in starts)
    share = most // len(places)
    chosen = {place for found in places.values() for place in map(tuple, rng.permutation(found)[:share].tolist())}
    for number, negative in enumerate(negatives(pool, NOISE_MINUTES, GROUP_MINUTES)):
        for start in sorted(start for of, start in chosen if of == number):
            yield negative.kind, negative.group, negative.waveform[start : start + size].copy()
    for number in range(SILENCE_WINDOWS):
        silence = rng.standard_normal(size) * 10 ** rng.uniform(-5, -3)
        yield "silence", f"silence{number}", silence.astype(np.float32)


def _scored(scorer: Scorer, heard: Iterable[Heard]) -> Sounds:
    kinds, sources, scores = [], [], []
    heard = iter(heard)
    while part := list(islice(heard, CHUNK)):
        scores.append(score_stretches(scorer, [waveform for _, _, waveform in part]))
        kinds += [kind for kind, _, _ in part]
        sources += [source for _, source, _ in part]
    return Sounds(log_scores(np.concatenate(scores)), np.array(kinds), np.array(sources))
