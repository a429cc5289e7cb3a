"""The decoded material of scenes: bursts, speech, music and sounds of one side, concatenated in one file.

`pool_SIDE.pcm` contains 16-bit samples at 16 kHz without a header. `pool_SIDE.csv` has one row per piece: kind, group
(a burst's speaker, a language, a package), label, start and stop in samples; `avb.events.mining` adds `alarms`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from audio_avb import SAMPLING_RATE, AudioError, load_audio
from avb.corpora import load_bursts
from avb.corpora.folds import read_folds
from avb.errors import AvbError
from avb.events.sources import SIDES, read_sources
from avb.files import make_folder
from avb.recipes import FOLDER as RECIPES

FOLDS = RECIPES / "emogator" / "folds.csv"
HELD_OUT_FOLD = 4  # of EmoGator's training speakers; the detector is tested on its bursts
ENERGY_HOP = 320  # samples per energy frame, 20 ms
ACTIVE_DB, SILENCE_SECONDS = 30.0, 0.4  # below the loudest frame; a pause that separates two events
SHORTEST_SECONDS, LONGEST_SECONDS = 0.15, 8.0
ALARMS = "alarms"  # column: see `avb.events.mining.mine`
LEAST_PEAK = 0.003  # of full scale; below it, a clip is considered empty


@dataclass(frozen=True)
class Pool:
    """Attributes:
    samples: int16 of shape (samples,), mapped from the file.
    pieces: see the module's docstring.
    """

    samples: np.ndarray
    pieces: pd.DataFrame

    @classmethod
    def load(cls, folder: str | Path, side: str) -> "Pool":
        """Loads what `build_pool` wrote.

        Raises:
            AvbError: there is no such pool.
        """
        path = Path(folder) / f"pool_{side}.pcm"
        if not path.is_file():
            raise AvbError(f"{path}: no such file; python -m avb.events prepare makes it")
        table = pd.read_csv(path.with_suffix(".csv"), keep_default_na=False)
        return cls(np.memmap(path, np.int16, "r"), table)

    @cached_property
    def labels(self) -> list[str]:
        return self.pieces["label"].tolist()

    @cached_property
    def _spans(self) -> np.ndarray:
        return self.pieces[["start", "stop"]].to_numpy()  # indexing the table itself takes as long as the audio

    def length(self, number: int) -> int:
        """Number of samples in a piece."""
        start, stop = self._spans[number]
        return int(stop - start)

    def audio(self, number: int, first: int = 0, length: int | None = None) -> np.ndarray:
        """A piece, or `length` samples of it starting at sample `first`; float32 of shape (samples,)."""
        start, stop = self._spans[number]
        start += first
        stop = stop if length is None else min(stop, start + length)
        return np.asarray(self.samples[start:stop], np.float32) / 32768


def build_pool(
    data_dir: str | Path, negatives: str | Path, output: str | Path, instances: tuple[int, ...] = (1, 2)
) -> list[Path]:
    """Decodes EmoGator's train speakers and the free recordings into the pools of both sides.

    Args:
        data_dir: folder of EmoGator.
        negatives: folder written by `avb.events.sources.fetch`.
        output: folder for the pools.
        instances: takes of each emotion.

    Raises:
        AvbError: something is missing.
    """
    folder, fold_of = make_folder(output), read_folds(FOLDS)
    _, splits = load_bursts("emogator", data_dir, "emotion", instances=instances)
    clips = splits["train"]
    paths = []
    for side in SIDES:
        is_ours = [(fold_of[speaker] == HELD_OUT_FOLD) == (side == "test") for speaker in clips["speaker"][:]]
        rows: list[dict] = []
        parts: list[np.ndarray] = []
        stop = 0
        found = [_bursts(clips.select(np.flatnonzero(is_ours))), _negatives(Path(negatives), side)]
        for kind, group, label, waveform in (piece for pieces in found for piece in pieces):
            parts.append((waveform * 32767).clip(-32768, 32767).astype(np.int16))
            start, stop = stop, stop + len(waveform)
            rows.append({"kind": kind, "group": group, "label": label, "start": start, "stop": stop})
        path = folder / f"pool_{side}.pcm"
        pd.DataFrame(rows).to_csv(path.with_suffix(".csv"), index=False)
        np.concatenate(parts).tofile(path)
        paths.append(path)
    return paths


def _bursts(clips) -> Iterator[tuple[str, str, str, np.ndarray]]:
    for clip in tqdm(clips, desc="bursts", disable=None):
        try:
            waveform = load_audio(clip["audio"], peak_db=None)
        except AudioError:  # damaged clips are skipped
            continue
        regions = active_regions(waveform)
        if not regions or np.abs(waveform).max() < LEAST_PEAK:
            continue
        start, stop = max(regions, key=lambda region: np.square(waveform[slice(*region)]).sum())
        burst = waveform[start : min(stop, start + int(LONGEST_SECONDS * SAMPLING_RATE))]
        if len(burst) >= SHORTEST_SECONDS * SAMPLING_RATE:
            yield "burst", clip["speaker"], clip["category"], burst


def _negatives(folder: Path, side: str) -> Iterator[tuple[str, str, str, np.ndarray]]:
    for source in read_sources():
        if source.side != side:
            continue
        recordings = list(source.recordings(folder))
        if not recordings:
            raise AvbError(f"{folder / source.package}: no {source.files}; python -m avb.events fetch {folder}")
        for path, group in tqdm(recordings, desc=source.package, disable=None):
            try:
                waveform = _decode_g722(path) if path.suffix == ".g722" else load_audio(str(path), peak_db=None)
            except AudioError:  # an empty file, or a table of contents next to the sounds
                continue
            if np.abs(waveform).max() >= LEAST_PEAK:
                yield source.kind, f"{source.package} {group}", "", waveform


def _decode_g722(path: Path) -> np.ndarray:
    """Decodes raw G.722 at 16 kHz, which has no header."""
    import av

    with av.open(str(path), format="g722") as container:
        blocks = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    if not blocks:
        raise AudioError(f"{path}: contains no samples")
    return np.concatenate(blocks).astype(np.float32) / 32768


def active_regions(waveform: np.ndarray) -> list[tuple[int, int]]:
    """First and past-the-last sample of each loud region, including pauses shorter than `SILENCE_SECONDS`."""
    frames = len(waveform) // ENERGY_HOP
    if not frames:
        return []
    energy = np.square(waveform[: frames * ENERGY_HOP].reshape(frames, ENERGY_HOP)).mean(1)
    active = np.flatnonzero(energy > energy.max() * 10 ** (-ACTIVE_DB / 10))
    if not len(active):
        return []
    breaks = np.flatnonzero(np.diff(active) * ENERGY_HOP > SILENCE_SECONDS * SAMPLING_RATE)
    firsts, lasts = np.r_[active[0], active[breaks + 1]], np.r_[active[breaks], active[-1]]
    return [(int(first) * ENERGY_HOP, int(last + 1) * ENERGY_HOP) for first, last in zip(firsts, lasts, strict=True)]
