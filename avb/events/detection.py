"""Turns frame probabilities into events, for recordings in files and for endless streams.

`FrameStream` keeps what the next frames depend on, audio for the stem and its output for the blocks. So the probability
of a frame is the same as for the whole recording, each part is computed once, and memory is bounded. `Segmenter` turns
probabilities into events, frame by frame. `EventStream` combines both and returns each event with its audio. Positions
are integer sample numbers since the start, which remain exact however long a stream runs.
"""

import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError

from audio_avb import SAMPLING_RATE
from avb.encoders.weights import quiet
from avb.errors import AvbError
from avb.models import DETECTOR, locate
from configuration_events_avb import BurstEventsConfig
from modeling_events_avb import FRAME_SAMPLES, BurstEventsModel

# An event lasts while the probability is at least this, or the threshold where that is lower. On training scenes, at 5
# false alarms per hour: F1 .79 with .2, .81 with .3, .82 with .4, .84 with .5.
LOW = 0.5
MERGE_SECONDS = 0.24  # a shorter pause does not end an event
SHORTEST_SECONDS = 0.12
LONGEST_SECONDS = 30.0  # an event that lasts longer is cut
MARGIN_SECONDS = 0.1  # of audio on both sides of an event, which the emotion model hears too


@dataclass(frozen=True)
class Detection:
    """Attributes:
    start, stop: in samples at 16 kHz since the start of the recording.
    probability: median of the event's frames.
    """

    start: int
    stop: int
    probability: float

    @property
    def start_seconds(self) -> float:
        return self.start / SAMPLING_RATE

    @property
    def end_seconds(self) -> float:
        return self.stop / SAMPLING_RATE


def load_detector(name: str | os.PathLike = DETECTOR) -> BurstEventsModel:
    """A detector in evaluation mode, by the name of one that comes with the project, a folder, or a name on the Hub.

    Raises:
        AvbError: there is no such detector, it is another kind of model, or its files are damaged.
    """
    name = locate(name, [DETECTOR])
    try:
        config = BurstEventsConfig.get_config_dict(name)[0]
        if config.get("model_type") != BurstEventsConfig.model_type:
            raise AvbError(f"{name}: a {config.get('model_type')!r} model, no detector; try {DETECTOR}")
        with quiet():
            model, info = BurstEventsModel.from_pretrained(
                name, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except OSError as error:
        raise AvbError(f"{name}: no such detector; try {DETECTOR} ({str(error).splitlines()[0]})") from error
    except (RuntimeError, SafetensorError, TypeError) as error:
        raise AvbError(f"{name}: its files are damaged ({str(error).splitlines()[0]:.200}); copy it again") from error
    if info["missing_keys"]:
        raise AvbError(f"{name}: the weights lack {', '.join(sorted(info['missing_keys'])[:3])}; copy it again")
    return model.eval()


def low_threshold(threshold: float) -> float:
    """The probability from which on a frame belongs to an event, for events whose median reaches `threshold`."""
    return min(LOW, threshold)


def decoding_rule(model: BurstEventsModel) -> dict[str, float]:
    """The parameters that turn a detector's logits into events; exports contain them for readers in other languages."""
    return {
        "threshold": model.config.threshold,
        "low": low_threshold(model.config.threshold),
        "merge_seconds": MERGE_SECONDS,
        "shortest_seconds": SHORTEST_SECONDS,
        "longest_seconds": LONGEST_SECONDS,
        "margin_seconds": MARGIN_SECONDS,
        "sampling_rate": SAMPLING_RATE,
        "frame_samples": FRAME_SAMPLES,
        "left_samples": model.left_samples,
        "right_samples": model.right_samples,
    }


class FrameStream:
    """Probabilities of a stream's frames; frame t is centred on sample t * `FRAME_SAMPLES`.

    Args:
        model: see `load_detector`.
        start: position of the first sample, to resume a stream; a multiple of `FRAME_SAMPLES`.
    """

    def __init__(self, model: BurstEventsModel, start: int = 0):
        self.model = model
        self.frame = start // FRAME_SAMPLES  # the next one to return
        self._begin = start  # of the buffer
        self._buffer = np.zeros(0, np.float32)
        self._features = torch.zeros(1, model.config.channels, 0)  # (1, channels, frames)
        self._first = self.frame  # of the features

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Takes float32 samples (samples,); returns the probabilities (frames,) that are final by now."""
        self._buffer = np.concatenate([self._buffer, samples])
        self._hear((self._begin + len(self._buffer) - self.model.stem_samples) // FRAME_SAMPLES + 1)
        return self._classify(self._first + self._features.shape[2] - self.model.right_frames)

    def finish(self) -> np.ndarray:
        """Ends the stream; returns the probabilities (frames,) of its last frames."""
        self._hear((self._begin + len(self._buffer)) // FRAME_SAMPLES + 1)
        return self._classify(self._first + self._features.shape[2])

    @torch.inference_mode()
    def _hear(self, stop: int):
        """Adds the features of the frames before `stop`."""
        start = self._first + self._features.shape[2]
        if stop <= start or not len(self._buffer):
            return
        heard = self.model.frame_features(torch.from_numpy(self._buffer)[None])
        first = start - self._begin // FRAME_SAMPLES
        self._features = torch.cat([self._features, heard[..., first : first + stop - start]], 2)
        keep = max(self._begin, stop * FRAME_SAMPLES - self.model.stem_samples)
        self._buffer, self._begin = self._buffer[keep - self._begin :].copy(), keep

    @torch.inference_mode()
    def _classify(self, stop: int) -> np.ndarray:
        """Probabilities (frames,) of the frames before `stop` that were not returned yet."""
        if stop <= self.frame:
            return np.zeros(0, np.float32)
        logits = self.model.classify(self._features)[0, :, 0]  # (frames of the features,)
        probabilities = logits[self.frame - self._first : stop - self._first].sigmoid().numpy()
        self.frame = stop
        keep = max(self._first, stop - self.model.left_frames)
        self._features, self._first = self._features[..., keep - self._first :].clone(), keep
        return probabilities


class Segmenter:
    """Turns probabilities into events: from the first to the last frame of at least `LOW`, across short pauses.

    Pauses shorter than `MERGE_SECONDS` do not end an event. The median of an event's frames must reach the threshold,
    because single frames that look like a burst are common in speech, and the first and last frames are less certain.

    Args:
        threshold: a probability.
        frame: number of the first frame.
    """

    def __init__(self, threshold: float, frame: int = 0):
        if not 0 < threshold < 1:
            raise AvbError(f"threshold={threshold!r} is invalid: it must be a probability between 0 and 1")
        self.threshold, self.low, self.frame = threshold, low_threshold(threshold), frame
        self.first: int | None = None  # of the event in progress
        self._last = 0  # frame of at least `low`
        self._heard: list[float] = []  # probabilities since the first frame

    def push(self, probabilities: np.ndarray) -> Iterator[Detection]:
        """Takes probabilities (frames,); yields the events that have ended."""
        for probability in probabilities:
            if probability >= self.low:
                if self.first is None:
                    self.first, self._heard = self.frame, []
                self._last = self.frame
            if self.first is not None:
                self._heard.append(float(probability))
                is_over = self.frame - self._last >= MERGE_SECONDS * SAMPLING_RATE / FRAME_SAMPLES
                if is_over or self.frame - self.first >= LONGEST_SECONDS * SAMPLING_RATE / FRAME_SAMPLES:
                    yield from self._close()
            self.frame += 1

    def finish(self) -> Iterator[Detection]:
        """Yields the event that is in progress when the recording ends, if any."""
        if self.first is not None:
            yield from self._close()

    def _close(self) -> Iterator[Detection]:
        assert self.first is not None
        median = statistics.median(self._heard[: self._last - self.first + 1])
        start = max(0, self.first * FRAME_SAMPLES - FRAME_SAMPLES // 2)
        stop = self._last * FRAME_SAMPLES + FRAME_SAMPLES // 2
        self.first = None
        if median >= self.threshold and stop - start >= SHORTEST_SECONDS * SAMPLING_RATE:
            yield Detection(start, stop, median)


class EventStream:
    """Events of a stream, each with its audio and `MARGIN_SECONDS` more on both sides.

    Args:
        model: see `load_detector`.
        threshold: a probability; None: the one in the model's configuration.
        start: position of the first sample, a multiple of `FRAME_SAMPLES`.
    """

    def __init__(self, model: BurstEventsModel, threshold: float | None = None, start: int = 0):
        self.frames = FrameStream(model, start)
        self.segmenter = Segmenter(model.config.threshold if threshold is None else threshold, self.frames.frame)
        self._begin = start
        self._buffer = np.zeros(0, np.float32)

    def push(self, samples: np.ndarray) -> list[tuple[Detection, np.ndarray]]:
        """Takes float32 samples (samples,) at 16 kHz; returns events that have ended, with float32 audio (samples,)."""
        self._buffer = np.concatenate([self._buffer, samples])
        found = self._cut(self.segmenter.push(self.frames.push(samples)))
        first = self.segmenter.frame if self.segmenter.first is None else self.segmenter.first
        keep = max(self._begin, int(first * FRAME_SAMPLES - FRAME_SAMPLES // 2 - MARGIN_SECONDS * SAMPLING_RATE))
        self._buffer, self._begin = self._buffer[keep - self._begin :].copy(), keep
        return found

    def finish(self) -> list[tuple[Detection, np.ndarray]]:
        """Ends the stream; returns the remaining events."""
        return self._cut(self.segmenter.push(self.frames.finish())) + self._cut(self.segmenter.finish())

    def _cut(self, detections: Iterator[Detection]) -> list[tuple[Detection, np.ndarray]]:
        margin, end = int(MARGIN_SECONDS * SAMPLING_RATE), self._begin + len(self._buffer)
        found = []
        for detection in detections:
            detection = Detection(detection.start, min(detection.stop, end), detection.probability)
            start = max(0, detection.start - margin - self._begin)
            found.append((detection, self._buffer[start : detection.stop + margin - self._begin].copy()))
        return found
