"""Events of a recording, with their emotion scores: `avb.find`, and the code shared by commands and pipelines."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from audio_avb import SAMPLING_RATE, AudioPreparation
from avb.events.detection import Detection, EventStream, load_detector
from avb.events.reading import read_blocks
from avb.inference.calibrated import Calibrated
from avb.inference.score import score_waveforms
from avb.inference.scorer import Scorer
from avb.models import DETECTOR
from modeling_events_avb import BurstEventsModel
from pipeline_avb import VocalBurstPipeline

EVENTS_AT_ONCE = 32  # scored together by the emotion model
EVENT_COLUMNS = ("start", "end", "detection")


@dataclass(frozen=True)
class Finder:
    """A detector, and the emotion model that scores what it finds.

    Attributes:
        detector: see `avb.events.detection.load_detector`.
        scorer: scores emotions.
        threshold: see `avb.events.detection.EventStream`.
    """

    detector: BurstEventsModel
    scorer: Scorer
    threshold: float | None = None

    @property
    def labels(self) -> list[str]:
        """Labels of the emotion model, in its order."""
        return list(self.scorer.config.id2label.values())

    def events(self, blocks: Iterable[np.ndarray], live: bool = False) -> Iterator[tuple[Detection, np.ndarray]]:
        """Yields each event with its uncalibrated scores (labels,) as soon as it has ended.

        Args:
            blocks: float32 samples (samples,) at 16 kHz.
            live: score each event immediately, not together with the next ones.
        """
        stream, waiting = EventStream(self.detector, self.threshold), []
        for block in blocks:
            waiting += stream.push(block)
            if waiting and (live or len(waiting) >= EVENTS_AT_ONCE):
                yield from self.scored(waiting)
                waiting = []
        yield from self.scored(waiting + stream.finish())

    def scored(self, found: list[tuple[Detection, np.ndarray]]) -> Iterator[tuple[Detection, np.ndarray]]:
        """Events with their audio (samples,) → events with their scores (labels,)."""
        if found:
            scores = score_stretches(self.scorer, [audio for _, audio in found])
            yield from ((detection, row) for (detection, _), row in zip(found, scores, strict=True))


def score_stretches(scorer: Scorer, waveforms: list[np.ndarray]) -> np.ndarray:
    """Uncalibrated scores (stretches, labels) of parts of a recording, prepared like the model's clips."""
    prepared = list(map(AudioPreparation.of(scorer.feature_extractor).apply, waveforms))
    return score_waveforms(scorer.model, scorer.feature_extractor, prepared, scorer.batch_seconds, scorer.views)


def as_scorer(model: str | VocalBurstPipeline, device: str = "auto") -> Scorer:
    """A scorer of events and windows, from a name or from what `avb.load` returned, which is not changed."""
    if isinstance(model, str):
        return Scorer.load(model, device)
    calibrated = Calibrated(model.model.config, model.calibration)
    views = model._preprocess_params.get("views", 1)  # 3 after `avb.load(..., views=3)`
    return Scorer(model.model, model.feature_extractor, calibrated=calibrated, views=views)


def find(
    recording,
    model: str | VocalBurstPipeline = "emogator-small",
    *,
    detector: str | BurstEventsModel = DETECTOR,
    threshold: float | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """The vocal bursts of a recording; a path is read block by block, however long it is.

    Args:
        recording: a path, bytes, (array, rate), or whatever else a pipeline takes.
        model: emotion model: anything that `avb.load` takes, or what it returned.
        detector: one that comes with the project, a folder, a name on the Hub, or a loaded one.
        threshold: least median probability of an event; None: the detector's own.
        device: of the emotion model.

    Returns:
        A row per event, in order: `start` and `end` in seconds, `detection` (the median of its frames), and a
        column per emotion. No rows if there are no events.

    Raises:
        AudioError: the recording cannot be read.
        AvbError: there is no such model or detector, or the threshold is not a probability.
    """
    found = detector if isinstance(detector, BurstEventsModel) else load_detector(detector)
    finder = Finder(found, as_scorer(model, device), threshold)
    calibrated = finder.scorer.calibrated
    assert calibrated is not None  # as_scorer sets it
    found_events = finder.events(read_blocks(recording))
    rows = [event_row(detection, calibrated.scores(scores)) for detection, scores in found_events]
    return pd.DataFrame(rows, columns=[*EVENT_COLUMNS, *finder.labels], dtype=np.float64)


def event_row(detection: Detection, scores: np.ndarray) -> list[float]:
    """Start, end, detection and the scores (labels,), rounded as in a table."""
    times = (round(detection.start / SAMPLING_RATE, 3), round(detection.stop / SAMPLING_RATE, 3))
    return [*times, round(detection.probability, 6), *(round(float(score), 6) for score in scores)]
