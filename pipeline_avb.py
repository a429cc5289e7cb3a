"""VocalBurstPipeline: audio in, the score of every label out; long recordings are scored window by window.

    pipe = pipeline(model="org/avb-high", trust_remote_code=True)
    pipe("laugh.wav")                                          # [{"label": "Awe", "score": 0.31}, ...]
    pipe("evening.wav", window_seconds=2, hop_seconds=1)       # [{"start": 0.0, "end": 2.0, "scores": [...]}, ...]

Self-contained code for the Hub: it needs only torch, transformers and `audio_avb.py` beside it.

It differs from the stock audio-classification pipeline in three ways. WAV, FLAC, Ogg and MP3 need no ffmpeg; they are
decoded as in training, with the same errors. All labels are returned, in the order of the model's task. Batches are
padded with an attention mask, so scores do not depend on the other clips of the batch.
"""

import io
import numbers
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from huggingface_hub.utils import httpx  # httpx or httpx2, whichever the installed client uses
from transformers.pipelines.base import ChunkPipeline

try:  # as remote code from the Hub, or as a module of the installed project
    from .audio_avb import (
        MAX_SECONDS,
        AudioError,
        AudioPreparation,
        check_views,
        load_audio,
        speed_views,
        waveform_from_array,
    )
    from .calibration_avb import (
        CALIBRATION_FILE,
        burst_answers,
        calibrated_scores,
        covered,
        read_calibration,
        task_parts,
        weights_fingerprint,
    )  # fmt: skip
except ImportError:
    from audio_avb import (
        MAX_SECONDS,
        AudioError,
        AudioPreparation,
        check_views,
        load_audio,
        speed_views,
        waveform_from_array,
    )
    from calibration_avb import (
        CALIBRATION_FILE,
        burst_answers,
        calibrated_scores,
        covered,
        read_calibration,
        task_parts,
        weights_fingerprint,
    )  # fmt: skip

TASK = "vocal-burst-recognition"
MAX_DOWNLOAD_BYTES = 128 * 2**20  # ten minutes of 16-bit stereo at 48 kHz are 110 MiB
DOWNLOAD_SECONDS = 30.0  # for a whole file


def scores_from_logits(logits: np.ndarray, config) -> np.ndarray:
    """(clips, labels) logits → scores: unchanged for a regression, probabilities for a classification."""
    if config.loss == "multitask":
        parts = [(task, logits[..., place]) for task, place in zip(config.tasks, config.task_slices, strict=True)]
        return np.concatenate([softmax(part) if task["loss"] == "ce" else part for task, part in parts], axis=-1)
    return logits if config.problem_type == "regression" else softmax(logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


class VocalBurstPipeline(ChunkPipeline):
    """Scores vocal bursts with `Wav2Vec2ForVocalBurst` or a baseline.

    Args (of the constructor or of a call):
        top_k: return only this many highest scores, sorted; None returns all labels in the task's order.
        window_seconds: length of the windows into which a recording is divided, each scored as a clip; None scores the
            whole recording as one clip.
        hop_seconds: from the start of one window to the next; None is `window_seconds`: windows without overlap.
        max_seconds: longest recording that is accepted, seconds.
        coverage: for a calibrated model: adds `in_set` to each label, whether it is in the set that contains the true
            label of this fraction of clips (0.9: 90 %), or `low` and `high` to each score of a regression; None adds
            neither.
        false_alarms_per_hour: for a model whose calibration has a burst check: adds `burst_score` and `is_burst` of
            the clip or window to each label. At most this many windows (2 s, one per second) in an hour without bursts
            are taken for bursts. 5, 10, 20, 60, 180 or 360.
        views: number of speeds at which each clip or window is scored (`audio_avb.speed_views`); the result is the
            mean of the scores. Takes that many times as long; 1 is the unchanged clip.
        batch_size: number of clips, windows or views per batch (1).
    """

    _load_feature_extractor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_processor = False

    @cached_property
    def calibration(self):
        """The calibration stored beside the weights, or None. Probabilities are calibrated with it."""
        config = self.model.config
        name = getattr(config, "_name_or_path", "")
        if not name:  # a model trained in this process
            return None
        weights = getattr(self.model, "trained_weights", None)
        if weights is None:
            weights = weights_fingerprint(self.model.named_parameters())
        return read_calibration(name, weights, revision=getattr(config, "_commit_hash", None))

    def __call__(self, inputs, **kwargs):
        """Scores one clip or many.

        Args:
            inputs: a path, an http(s) URL, the bytes of a file, a file opened in binary mode, a waveform (samples,) or
                (samples, channels) with its sampling rate, `(array, rate)`, a dict `{"array" or "raw": ...,
                "sampling_rate": ...}` or `{"bytes": ..., "path": ...}`, or a row's audio from `datasets`. A waveform
                without a sampling rate is assumed to have the model's, with a warning. Or several of these: a list,
                tuple, column, generator or torch dataset.
            kwargs: see the class; and `num_workers`, the number of processes that decode a torch dataset.

        Returns:
            For one clip, `[{"label": ..., "score": ...}, ...]`; with `window_seconds`,
            `[{"start": ..., "end": ..., "scores": [{"label": ..., "score": ...}, ...]}, ...]`, times in seconds. The
            last window ends with the recording and has full length; a recording shorter than a window is one window.
            For a list, tuple or column, a list of these; for a generator or dataset, an iterator.

        Raises:
            AudioError: a clip cannot be read, see `audio_avb.load_audio`; the message names the clip.
            ValueError: an argument is invalid.
        """
        if isinstance(inputs, Sequence) and not is_one_clip(inputs):
            # Through a generator, so that a column is never decoded as a whole, and an empty list is not an error.
            return list(super().__call__((clip for clip in inputs), **kwargs))
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, **kwargs):
        preprocess = {
            name: kwargs.pop(name) for name in ("window_seconds", "hop_seconds", "max_seconds", "views") & kwargs.keys()
        }
        views = preprocess.get("views", 1)
        check_views(views, "views")
        postprocess = {
            name: kwargs.pop(name) for name in ("top_k", "coverage", "false_alarms_per_hour") if name in kwargs
        }
        if kwargs:
            raise ValueError(
                f"unknown argument {', '.join(kwargs)}: this pipeline has top_k, window_seconds, hop_seconds, "
                "max_seconds, coverage, false_alarms_per_hour, views, batch_size and num_workers"
            )
        for name, value in preprocess.items():
            if value is not None and not is_duration(value):
                raise ValueError(f"{name}={value!r} is invalid: it must be a positive number of seconds")
        check_top_k(postprocess.get("top_k"))
        if postprocess.get("coverage") is not None and self.calibration is None:
            raise ValueError(f"coverage needs a calibrated model: there is no {CALIBRATION_FILE} for these weights")
        if postprocess.get("false_alarms_per_hour") is not None:
            rate = postprocess["false_alarms_per_hour"]
            burst_answers(self.calibration, np.zeros((0, self.model.config.num_labels)), rate)  # raises
        shared = {"views": views} if "views" in preprocess else {}
        return preprocess, {}, postprocess | shared

    def preprocess(
        self,
        source,
        window_seconds: float | None = None,
        hop_seconds: float | None = None,
        max_seconds: float = MAX_SECONDS,
        views: int = 1,
    ) -> Iterator[dict]:
        """Yields the model's inputs for each view of each window of a recording."""
        rate = self.feature_extractor.sampling_rate
        waveform = read_audio(source, rate, max_seconds)
        spans = window_spans(len(waveform), rate, window_seconds, hop_seconds)
        settings = {"sampling_rate": rate, "return_attention_mask": True, "return_tensors": "pt"}
        for number, (start, end) in enumerate(spans):
            heard = [waveform[start:end]]
            if views > 1:  # of the prepared clip, as in predict_avb.py
                heard = speed_views(AudioPreparation.of(self.feature_extractor).apply(heard[0]), views)
                settings["prepared"] = True
            span = None if window_seconds is None else (start / rate, end / rate)
            for position, view in enumerate(heard, start=1):
                is_last = number + 1 == len(spans) and position == len(heard)
                yield {**self.feature_extractor(view, **settings), "span": span, "is_last": is_last}

    def _forward(self, model_inputs: dict) -> dict:
        inputs = {name: value for name, value in model_inputs.items() if isinstance(value, torch.Tensor)}
        inputs["input_values"] = inputs["input_values"].to(self.dtype)
        # The logits come first, because the batch size is read from the first entry.
        return {
            "logits": self.model(**inputs).logits.float(),
            "span": model_inputs["span"],
            "is_last": model_inputs["is_last"],
        }

    def postprocess(
        self,
        model_outputs: list[dict],
        top_k: int | None = None,
        coverage: float | None = None,
        false_alarms_per_hour: float | None = None,
        views: int = 1,
    ) -> list[dict]:
        """Combines the windows of one recording into its result."""
        logits = torch.cat([output["logits"] for output in model_outputs]).numpy()  # (windows × views, labels)
        found = scores_from_logits(logits, self.model.config)
        found = found.reshape(-1, views, found.shape[-1]).mean(1)  # (windows, labels)
        about = burst_answers(self.calibration, found, false_alarms_per_hour)
        found = calibrated_scores(self.calibration, found, self.model.config)
        answers = [self._answer(scores, top_k, coverage) for scores in found]
        answers = [[entry | more for entry in answer] for answer, more in zip(answers, about, strict=True)]
        spans = [output["span"] for output in model_outputs[::views]]
        if spans[0] is None:
            return answers[0]
        return [
            {"start": start, "end": end, "scores": scores} for (start, end), scores in zip(spans, answers, strict=True)
        ]

    def _answer(self, scores: np.ndarray, top_k: int | None, coverage: float | None) -> list[dict]:
        order = range(len(scores)) if top_k is None else np.argsort(-scores, kind="stable")[:top_k].tolist()
        config = self.model.config
        answer = [{"label": config.id2label[index], "score": float(score)} for index, score in enumerate(scores)]
        if coverage is not None:
            bounds = covered(self.calibration, scores, config, coverage)
            for (_, place, is_class), found in zip(task_parts(config), bounds, strict=True):
                for entry, *values in zip(answer[place], *found, strict=True):
                    names = ("in_set",) if is_class else ("low", "high")
                    entry.update({name: value.item() for name, value in zip(names, values, strict=True)})
        return [answer[index] for index in order]


def is_duration(value) -> bool:
    """Whether it is a positive number of seconds; as a limit it may be infinite."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(value > 0)


def check_top_k(top_k):
    """Raises a ValueError if it is neither a positive integer nor None."""
    if top_k is not None and not (isinstance(top_k, (int, np.integer)) and top_k >= 1):
        raise ValueError(f"top_k={top_k!r} is invalid: it must be 1 or more, or None for all labels")


def window_spans(
    samples: int, rate: int, window_seconds: float | None, hop_seconds: float | None
) -> list[tuple[int, int]]:
    """The first sample of each window, and the one after its last, of a recording of `samples` samples at `rate` Hz.

    Raises:
        ValueError: `hop_seconds` is longer than `window_seconds`, shorter than a sample, or given without it.
    """
    if window_seconds is None:
        if hop_seconds is not None:
            raise ValueError(f"hop_seconds={hop_seconds!r} needs window_seconds, the length of the windows")
        return [(0, samples)]
    if np.isinf(window_seconds):
        raise ValueError(f"window_seconds={window_seconds!r} is invalid: None scores the whole recording as one clip")
    window = max(1, round(window_seconds * rate))
    # A hop that is too long, perhaps infinite, is refused below.
    hop = window if hop_seconds is None else round(min(hop_seconds, 2 * window_seconds) * rate)
    if not 1 <= hop <= window:
        raise ValueError(
            f"hop_seconds={hop_seconds!r} is invalid: it must be at most window_seconds={window_seconds!r}, so that "
            "no audio falls between two windows, and at least one sample"
        )
    if samples <= window:
        return [(0, samples)]
    starts = list(range(0, samples - window + 1, hop))
    if starts[-1] + window < samples:
        starts.append(samples - window)
    return [(start, start + window) for start in starts]


def is_one_clip(source) -> bool:
    """Whether it is one clip in any form that `read_audio` accepts; a file is one clip, although it is iterable."""
    kinds = (str, bytes, bytearray, memoryview, os.PathLike, io.IOBase, dict, np.ndarray, torch.Tensor)
    return isinstance(source, kinds) or is_array_with_rate(source) or is_audio_decoder(source)


def is_audio_decoder(source) -> bool:
    """Whether it is a decoder of `datasets`; it cannot be one unless torchcodec is already imported."""
    torchcodec = sys.modules.get("torchcodec")
    return torchcodec is not None and isinstance(source, torchcodec.decoders.AudioDecoder)


def is_array_with_rate(source) -> bool:
    """Whether it is one clip as (array, rate) or, as in Gradio, (rate, array)."""
    if not (isinstance(source, tuple) and len(source) == 2):
        return False
    kinds = {isinstance(part, numbers.Number) for part in source}
    return kinds == {True, False} and any(isinstance(part, (np.ndarray, torch.Tensor)) for part in source)


def read_audio(source, sampling_rate: int, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Reads any input of the pipeline as a float32 waveform (samples,) at `sampling_rate` Hz, not trimmed or levelled.

    Raises:
        AudioError: it cannot be read, downloaded or used.
    """
    if is_audio_decoder(source):
        samples = source.get_all_samples()
        source = {"array": samples.data.mean(0).numpy(), "sampling_rate": samples.sample_rate}
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        source = {"bytes": download(source), "path": source}
    if is_array_with_rate(source):
        array, rate = sorted(source, key=lambda part: isinstance(part, numbers.Number))
        source = {"array": array, "sampling_rate": rate}
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        warnings.warn(
            f"array given without a sampling rate; assuming {sampling_rate:,} Hz: give (array, rate)", stacklevel=2
        )
        source = {"array": source, "sampling_rate": sampling_rate}
    if isinstance(source, dict) and source.keys() & {"array", "raw"}:
        if "sampling_rate" not in source:
            raise AudioError('<array>: its rate is unknown; give {"array": ..., "sampling_rate": ...}')
        array = source["array"] if "array" in source else source["raw"]
        if isinstance(array, torch.Tensor):
            array = array.detach().cpu().numpy()
        return waveform_from_array(array, source["sampling_rate"], sampling_rate=sampling_rate, max_seconds=max_seconds)
    if isinstance(source, io.IOBase):
        source = _read_file(source)
    if not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview, dict)):
        raise AudioError(
            "audio must be a path, a URL, bytes, an open file, (array, rate) or a dict of one of these, got "
            f"{type(source).__name__}"
        )
    return load_audio(source, sampling_rate=sampling_rate, trim_top_db=None, peak_db=None, max_seconds=max_seconds)


def _read_file(file: io.IOBase) -> bytes:
    """Reads an open file from its current position, at most `MAX_DOWNLOAD_BYTES`."""
    if isinstance(file, io.TextIOBase):
        raise AudioError("<file>: opened as text; open it for bytes: open(path, 'rb')")
    content = file.read(MAX_DOWNLOAD_BYTES + 1)
    if len(content) > MAX_DOWNLOAD_BYTES:
        raise AudioError(f"<file>: larger than {MAX_DOWNLOAD_BYTES / 2**20:g} MiB; give its path")
    return content


def download(url: str) -> bytes:
    """Downloads an http(s) URL, at most `MAX_DOWNLOAD_BYTES`, within `DOWNLOAD_SECONDS`.

    Raises:
        AudioError: there is no response, or it is not successful, too large or too slow.
    """
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    content = bytearray()
    try:
        with httpx.stream("GET", url, timeout=DOWNLOAD_SECONDS, follow_redirects=True) as response:
            if response.status_code != httpx.codes.OK:
                raise AudioError(f"{url}: the server answered {response.status_code}; check the URL")
            for part in response.iter_bytes():
                content += part
                if len(content) > MAX_DOWNLOAD_BYTES:
                    raise AudioError(
                        f"{url}: larger than {MAX_DOWNLOAD_BYTES / 2**20:g} MiB; download it and cut it into parts"
                    )
                if time.monotonic() > deadline:
                    raise AudioError(f"{url}: download timed out after {DOWNLOAD_SECONDS:g} seconds; download it first")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AudioError(f"{url}: cannot be downloaded ({error or type(error).__name__}); check the URL") from error
    return bytes(content)
