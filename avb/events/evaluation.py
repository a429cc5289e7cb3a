"""Evaluates a detector on scenes with bursts, and on hours of recordings without any.

The threshold is set on scenes and recordings of the training side. All reported results are of the test side: speakers,
languages and packages that the detector was not trained on.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np

from audio_avb import SAMPLING_RATE
from avb.events.acoustics import noise
from avb.events.detection import Detection, EventStream, FrameStream, Segmenter
from avb.events.pool import Pool
from avb.events.scenes import Scene, Scenes, SceneSettings
from avb.metrics.events import event_scores, false_alarms_per_hour
from modeling_events_avb import BurstEventsModel

THRESHOLDS = tuple(np.r_[0.1:0.9:0.02, 0.9:0.996:0.005].round(3).tolist())
PAUSE_SECONDS = 0.4  # between two prompts of a recording of speech
RECORDING_SECONDS = 120.0  # minimum length of the joined pieces of a group
BLOCK_SECONDS = 30.0
SCENE_SEED, NOISE_SEED = 1000, 2000  # training scenes use the seed of the training


@dataclass(frozen=True)
class Negative:
    """A recording without bursts: kind, group, waveform."""

    kind: str
    group: str
    waveform: np.ndarray


def recordings(pool: Pool, most_minutes: float = 1e9) -> Iterator[tuple[str, str, list[int]]]:
    """Kind, group and the numbers of the pieces of each recording: those without bursts, joined within their groups.

    A recording lasts at least `RECORDING_SECONDS`, if its group does. For `most_minutes`, see `negatives`.
    """
    pause = round(PAUSE_SECONDS * SAMPLING_RATE)
    for (kind, group), numbers in pool.pieces.groupby(["kind", "group"]).indices.items():
        if kind == "burst":
            continue
        rows: list[int] = []
        held, total = 0, 0
        for position, row in enumerate(map(int, numbers)):
            rows.append(row)
            held += pool.length(row) + pause
            if held >= RECORDING_SECONDS * SAMPLING_RATE or position + 1 == len(numbers):
                total += held
                yield kind, group, rows
                rows, held = [], 0
                if total > most_minutes * 60 * SAMPLING_RATE:
                    break


def joined(waveforms: list[np.ndarray]) -> np.ndarray:
    """float32 waveforms (samples,) one after the other, each with a pause of `PAUSE_SECONDS` after it."""
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLING_RATE), np.float32)
    return np.concatenate([part for waveform in waveforms for part in (waveform, pause)])


def negatives(pool: Pool, noise_minutes: float = 30.0, most_minutes: float = 1e9) -> Iterator[Negative]:
    """The pool's speech, music and sounds, joined within their groups, and generated noise.

    Args:
        pool: the pool of one side.
        noise_minutes: minutes of noise.
        most_minutes: maximum minutes of each group, for a quicker evaluation.
    """
    for kind, group, rows in recordings(pool, most_minutes):
        yield Negative(kind, group, joined([pool.audio(row) for row in rows]))
    for number in range(round(noise_minutes)):
        rng = np.random.default_rng((NOISE_SEED, number))
        waveform = noise(60 * SAMPLING_RATE, rng)
        yield Negative("noise", str(number), waveform * np.float32(0.3 * rng.uniform(0.01, 1) / np.abs(waveform).max()))


def frame_probabilities(model: BurstEventsModel, waveform: np.ndarray) -> np.ndarray:
    """Probabilities (frames,) of a waveform, computed block by block."""
    stream, step = FrameStream(model), round(BLOCK_SECONDS * SAMPLING_RATE)
    blocks = [stream.push(waveform[start : start + step]) for start in range(0, len(waveform), step)]
    return np.concatenate([*blocks, stream.finish()])


def detections(probabilities: np.ndarray, threshold: float) -> list[Detection]:
    """The events in probabilities (frames,) of a whole recording."""
    segmenter = Segmenter(threshold)
    return [*segmenter.push(probabilities), *segmenter.finish()]


def events_of(probabilities: np.ndarray, threshold: float, samples: int) -> list[tuple[float, float]]:
    """Onset and offset in seconds of the events in probabilities (frames,) of this many samples."""
    found = detections(probabilities, threshold)
    return [(event.start_seconds, min(event.stop, samples) / SAMPLING_RATE) for event in found]


def find_events(
    model: BurstEventsModel, waveform: np.ndarray, threshold: float | None = None
) -> list[tuple[float, float]]:
    """Onset and offset in seconds of the events of a waveform at 16 kHz."""
    stream = EventStream(model, threshold)
    found = [*stream.push(waveform), *stream.finish()]
    return [(event.start_seconds, event.end_seconds) for event, _ in found]


def fit_threshold(
    model: BurstEventsModel,
    pool: Pool,
    scenes: int = 60,
    most_minutes: float = 4.0,
    most_alarms: float = 1.0,
    f1_given_up: float = 0.0,
) -> tuple[float, list[dict]]:
    """The highest threshold whose F1 on training scenes is at most `f1_given_up` below the best.

    Only thresholds with at most `most_alarms` false alarms per hour are considered. On recordings that the detector was
    not trained on, there are more: so the threshold should be stricter than that.

    Args:
        model: the detector.
        pool: the pool of the training side.
        scenes: number of one-minute scenes.
        most_minutes: maximum minutes of each group of recordings without bursts.
        most_alarms: per hour of these recordings; if every threshold exceeds it, the one with the fewest is returned.
        f1_given_up: F1 that a higher threshold may cost.

    Returns:
        The threshold, and a row for each threshold tried.
    """
    made = list(islice(Scenes(pool, SceneSettings(), SCENE_SEED), scenes))
    on_scenes = [frame_probabilities(model, scene.waveform) for scene in made]
    without = [
        (frame_probabilities(model, negative.waveform), len(negative.waveform))
        for negative in negatives(pool, scenes / 4, most_minutes)
    ]
    hours = sum(samples for _, samples in without) / SAMPLING_RATE / 3600
    rows = []
    for threshold in THRESHOLDS:
        found = [events_of(p, threshold, len(s.waveform)) for p, s in zip(on_scenes, made, strict=True)]
        alarms = sum(len(events_of(p, threshold, samples)) for p, samples in without)
        rows.append({"threshold": threshold, "f1": event_scores(reference_events(made), found).f1})
        rows[-1]["false_alarms_per_hour"] = alarms / hours
    quiet = [row for row in rows if row["false_alarms_per_hour"] <= most_alarms]
    if not quiet:
        return min(rows, key=lambda row: row["false_alarms_per_hour"])["threshold"], rows
    least = max(row["f1"] for row in quiet) - f1_given_up
    return max(row["threshold"] for row in quiet if row["f1"] >= least), rows


def evaluate(model: BurstEventsModel, pool: Pool, scenes: int = 120, noise_minutes: float = 60.0) -> dict:
    """Scores on the test side at the model's own threshold: scenes, also by background; false alarms by kind."""
    threshold = model.config.threshold
    made = list(islice(Scenes(pool, SceneSettings(), SCENE_SEED), scenes))
    found = [find_events(model, scene.waveform) for scene in made]
    report: dict = {"threshold": threshold, "scenes": _scores(made, found), "by_background": {}}
    for background in sorted({scene.background for scene in made}):
        chosen = [pair for pair in zip(made, found, strict=True) if pair[0].background == background]
        report["by_background"][background] = _scores([one for one, _ in chosen], [other for _, other in chosen])
    counted: dict[str, list[tuple[int, float]]] = {}
    for negative in negatives(pool, noise_minutes):
        alarms = events_of(frame_probabilities(model, negative.waveform), threshold, len(negative.waveform))
        for name in (negative.kind, f"{negative.kind} {negative.group}"):
            if name != f"noise {negative.group}":
                counted.setdefault(name, []).append((len(alarms), len(negative.waveform) / SAMPLING_RATE))
    report["false_alarms"] = {}
    for name, recordings in sorted(counted.items()):
        lengths = [length for _, length in recordings]
        per_hour, bounds = false_alarms_per_hour([alarms for alarms, _ in recordings], lengths)
        report["false_alarms"][name] = {"per_hour": per_hour, "interval": bounds, "hours": sum(lengths) / 3600}
    return report


def reference_events(scenes: list[Scene]) -> list[list[tuple[float, float]]]:
    return [[(event.start, event.end) for event in scene.events] for scene in scenes]


def _scores(scenes: list[Scene], found: list[list[tuple[float, float]]]) -> dict:
    return asdict(event_scores(reference_events(scenes), found))
