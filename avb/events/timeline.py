"""The data of a recording's picture: its level, its scores over time and its events, in constant memory.

An hour has more windows than a picture has columns: neighbouring windows share one, with the maximum of each score.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from audio_avb import SAMPLING_RATE
from avb.errors import AvbError, did_you_mean
from avb.events.detection import load_detector
from avb.events.finding import Finder, as_scorer
from avb.events.reading import read_blocks
from avb.events.windows import WINDOW_SECONDS, score_windows
from avb.models import DETECTOR
from modeling_events_avb import BurstEventsModel
from pipeline_avb import VocalBurstPipeline, read_audio

MOST_COLUMNS = 1000  # maximum per picture, a few pixels each in print; long recordings have at least half
PEAK_SECONDS = 0.02  # of audio per value of the level
LABELS = 8  # shown if none are given


class Track:
    """Values over time in at most `most` columns; when full, neighbours are merged into one with the higher values.

    Attributes:
        stops: end of each column, s; each begins at the end of the previous one, the first at 0.
        values: (labels,) of each column.
    """

    def __init__(self, most: int = MOST_COLUMNS):
        self.most = most
        self.stops: list[float] = []
        self.values: list[np.ndarray] = []
        self._share, self._in_last = 1, 0  # entries per column; in the last column so far

    def add(self, stop: float, values: np.ndarray):
        """Takes (labels,) values that hold until `stop`, s."""
        if self.stops and self._in_last < self._share:
            self.stops[-1], self.values[-1] = stop, np.maximum(self.values[-1], values)
            self._in_last += 1
            return
        if len(self.stops) == self.most:
            self.stops = self.stops[1::2]
            self.values = [np.maximum(*pair) for pair in zip(self.values[::2], self.values[1::2], strict=True)]
            self._share *= 2
        self.stops.append(stop)
        self.values.append(values)
        self._in_last = 1

    @property
    def edges(self) -> np.ndarray:
        """Edges of the columns (columns + 1,), s."""
        return np.array([0.0, *self.stops])


@dataclass(frozen=True)
class Event:
    """start and end in seconds, the detector's median probability, the most likely label."""

    start: float
    end: float
    detection: float
    label: str


@dataclass(frozen=True)
class Timeline:
    """Attributes:
    seconds: length of the recording.
    labels: the labels shown; highest first if none were given.
    scores: of `labels`, (labels,) per column.
    level: highest amplitude, (1,) per column.
    events: in order.
    window_seconds: length of the windows that were scored.
    """

    seconds: float
    labels: list[str]
    scores: Track
    level: Track
    events: list[Event]
    window_seconds: float


def make_timeline(
    recording,
    model: str | VocalBurstPipeline = "emogator-small",
    *,
    window_seconds: float = WINDOW_SECONDS,
    hop_seconds: float | None = None,
    labels: Sequence[str] | None = None,
    detector: str | BurstEventsModel = DETECTOR,
    threshold: float | None = None,
    device: str = "auto",
) -> Timeline:
    """Scores a recording's windows and finds its events; a path is read twice, block by block.

    Args:
        recording: anything that `avb.find` takes.
        model: as `avb.find`.
        window_seconds: see `avb.events.windows.score_windows`.
        hop_seconds: see there; None: half a window.
        labels: labels to show; None: the `LABELS` with the highest scores in events, or in windows if there are none.
        detector: as `avb.find`.
        threshold: as `avb.find`.
        device: as `avb.find`.

    Raises:
        AudioError: the recording cannot be read.
        AvbError: a label is unknown, or `avb.find` or `score_windows` would raise it.
    """
    found = detector if isinstance(detector, BurstEventsModel) else load_detector(detector)
    finder = Finder(found, as_scorer(model, device), threshold)
    calibrated = finder.scorer.calibrated
    assert calibrated is not None  # as_scorer sets it
    for label in labels or ():
        if label not in finder.labels:
            raise AvbError(f"no label {label!r}{did_you_mean(label, finder.labels, 'the labels')}")
    if not isinstance(recording, (str, os.PathLike)) or str(recording).lower().startswith(("http://", "https://")):
        recording = (read_audio(recording, SAMPLING_RATE, float("inf")), SAMPLING_RATE)  # decoded once
    level, scores = Track(), Track()
    hop = window_seconds / 2 if hop_seconds is None else hop_seconds
    windows = score_windows(finder.scorer, _tapped(read_blocks(recording), level), window_seconds, hop)
    total, count, before = np.zeros(len(finder.labels)), 0, None
    for start, end, row in windows:
        middle, row = (start + end) / 2, calibrated.scores(row)
        if before is not None:  # a window's column reaches halfway to the next one's middle
            scores.add((before[0] + middle) / 2, before[1])
        before, total, count = (middle, row), total + row, count + 1
    seconds = level.stops[-1]
    assert before is not None  # a recording without samples raises an error
    scores.add(seconds, before[1])
    mean, total, events = total / count, np.zeros(len(finder.labels)), []
    for detection, row in finder.events(read_blocks(recording)):
        row = calibrated.scores(row)
        total = total + row
        best = finder.labels[int(row.argmax())]
        events.append(Event(detection.start_seconds, detection.end_seconds, detection.probability, best))
    order = np.argsort(-(total if events else mean), kind="stable")[:LABELS]
    shown = [finder.labels.index(label) for label in labels] if labels else order.tolist()
    scores.values = [values[shown] for values in scores.values]
    return Timeline(seconds, [finder.labels[index] for index in shown], scores, level, events, window_seconds)


def _tapped(blocks: Iterable[np.ndarray], level: Track) -> Iterator[np.ndarray]:
    """Yields the blocks unchanged, and adds their peaks to `level`."""
    step, samples = round(PEAK_SECONDS * SAMPLING_RATE), 0
    for block in blocks:
        for start in range(0, len(block), step):
            part = block[start : start + step]
            samples += len(part)
            level.add(samples / SAMPLING_RATE, np.abs(part).max(keepdims=True))
        yield block
