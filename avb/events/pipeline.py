"""The result of `avb.load`: a pipeline for clips, with generators for recordings of any length.

pipe = avb.load("emogator-small")
for event in pipe.events("interview.wav"): ...  # {"start", "end", "detection", "scores": [{"label", "score"}, ...]}
for window in pipe.windows("interview.wav"): ...  # {"start", "end", "scores"}
for event in pipe.stream(chunks): ...  # each event when it has ended
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from audio_avb import SAMPLING_RATE, check_array_rate, mono_samples
from avb.errors import AvbError
from avb.events.detection import Detection, load_detector
from avb.events.finding import Finder, as_scorer
from avb.events.reading import read_blocks
from avb.events.windows import HOP_SECONDS, WINDOW_SECONDS, score_windows
from avb.inference.load import load_model
from avb.models import DETECTOR
from calibration_avb import calibrated_scores
from decoders_avb import Resampler
from modeling_events_avb import BurstEventsModel
from pipeline_avb import TASK, VocalBurstPipeline, check_top_k


class RecordingPipeline(VocalBurstPipeline):
    """`VocalBurstPipeline` with generators for recordings. It is saved and pushed as a `VocalBurstPipeline`."""

    def events(
        self,
        recording,
        *,
        detector: str | BurstEventsModel = DETECTOR,
        threshold: float | None = None,
        top_k: int | None = None,
    ) -> Iterator[dict]:
        """The vocal bursts of a recording, in order; a path is read as needed.

        Args:
            recording: anything that the pipeline takes, of any length.
            detector: see `avb.find`.
            threshold: see `avb.find`.
            top_k: number of highest scores to return, sorted; None: the scores of all labels.

        Raises:
            AudioError: the recording cannot be read.
        """
        check_top_k(top_k)
        finder = self._finder(detector, threshold)
        for detection, scores in finder.events(read_blocks(recording)):
            yield self.event(detection, scores, top_k)

    def stream(
        self,
        chunks: Iterable[np.ndarray],
        sampling_rate: int = SAMPLING_RATE,
        *,
        detector: str | BurstEventsModel = DETECTOR,
        threshold: float | None = None,
        top_k: int | None = None,
    ) -> Iterator[dict]:
        """The vocal bursts in the audio of a microphone or a line, each as soon as it has ended.

        Args:
            chunks: samples, each (samples,) or (samples, channels), of any length; floats in [-1, 1], or integers whose
                full scale is that of their type.
            sampling_rate: of the chunks, Hz.
            detector, threshold, top_k: see `events`.

        Raises:
            AudioError: a chunk has another type or shape, or contains NaN or infinity; or the rate is invalid.
        """
        check_top_k(top_k)
        check_array_rate(sampling_rate)
        samples = (mono_samples(np.asarray(chunk)) for chunk in chunks)
        finder = self._finder(detector, threshold)
        for detection, scores in finder.events(Resampler(sampling_rate, SAMPLING_RATE).stream(samples), live=True):
            yield self.event(detection, scores, top_k)

    def windows(
        self,
        recording,
        window_seconds: float = WINDOW_SECONDS,
        hop_seconds: float | None = HOP_SECONDS,
        *,
        top_k: int | None = None,
    ) -> Iterator[dict]:
        """Scores of each window of a recording, the same as from a call with `window_seconds`, in constant memory.

        Args:
            recording: see `events`.
            window_seconds: length of a window.
            hop_seconds: time from the start of one window to the next; None: `window_seconds`.
            top_k: see `events`.
        """
        check_top_k(top_k)
        for start, end, scores in score_windows(as_scorer(self), read_blocks(recording), window_seconds, hop_seconds):
            yield {"start": start, "end": end, "scores": self._scores(scores, top_k)}

    def save_pretrained(self, save_directory, **kwargs):
        """Saves it as a `VocalBurstPipeline`, which the Hub knows."""
        plain = VocalBurstPipeline(
            model=self.model, feature_extractor=self.feature_extractor, task=TASK, device=self.device
        )
        plain.save_pretrained(save_directory, **kwargs)

    def __getstate__(self) -> dict:
        """For another process (`multiprocessing`, `copy.deepcopy`): torch refuses to pickle a weight norm as it is.

        Raises:
            AvbError: the model runs in another engine than torch.
        """
        if not isinstance(self.model, torch.nn.Module):
            raise AvbError(
                "a model of ONNX Runtime or OpenVINO cannot be sent to another process: call avb.load in each process, "
                f"with {self.model.config.name_or_path!r}"
            )
        _ = self.calibration  # read now: its files may not be where the other process runs
        weights = {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}
        return vars(self) | {"model": (type(self.model), self.model.config, weights)}

    def __setstate__(self, state: dict):
        model_class, config, weights = state["model"]
        model = model_class(config)
        model.load_state_dict(weights, assign=True)  # also their precision
        self.__dict__.update(state | {"model": model.to(state["device"]).eval()})

    def _scores(self, scores: np.ndarray, top_k: int | None) -> list[dict]:
        return self._answer(calibrated_scores(self.calibration, scores, self.model.config), top_k, None)

    def _finder(self, detector: str | BurstEventsModel, threshold: float | None) -> Finder:
        found = detector if isinstance(detector, BurstEventsModel) else load_detector(detector)
        return Finder(found, as_scorer(self), threshold)

    def event(self, detection: Detection, scores: np.ndarray, top_k: int | None) -> dict:
        """What `events` yields for a detection and its uncalibrated scores (labels,)."""
        times = {"start": detection.start_seconds, "end": detection.end_seconds}
        return {**times, "detection": detection.probability, "scores": self._scores(scores, top_k)}


def load(
    name: str, device: str = "auto", engine: str | None = None, precision: str | None = None, **settings
) -> RecordingPipeline:
    """See `avb.load`."""
    model, feature_extractor = load_model(name, device, engine=engine, precision=precision)
    return RecordingPipeline(
        model=model, feature_extractor=feature_extractor, task=TASK, device=model.device, **settings
    )
