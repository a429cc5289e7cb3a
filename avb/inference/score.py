"""Scores clips with a trained model: decodes while the model computes, batches by length, returns scores in order.

For a regression task, the scores are the `logits`; for a classification, they are probabilities (softmax).
"""

import ctypes
import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Barrier

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from audio_avb import FASTEST_VIEW, MAX_SECONDS, AudioPreparation, speed_views
from avb.collator import BurstCollator, length_batches
from avb.errors import AudioError
from avb.inference.clips import Clip
from avb.inference.engines import MAX_SECONDS as EXPORT_MAX_SECONDS
from avb.inference.engines import ExportedModel
from configuration_avb import MULTITASK
from pipeline_avb import scores_from_logits

# Audio per batch, in seconds. A CPU does not benefit from larger batches, and smaller ones have less padding.
CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 24.0, 64.0
MAX_BATCH_WORKERS = 4  # simultaneous batches on a CPU; each has its own activations in memory
CHUNK_CLIPS = 128  # clips decoded ahead; batches have clips of similar length from one chunk


def model_key(model: PreTrainedModel | ExportedModel, feature_extractor) -> str:
    """What a table depends on besides the clips: configuration, audio preparation, some weights, its columns."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    digest.update("\0".join(score_columns(model.config)).encode())  # a table started by an older version has others
    digest.update(feature_extractor.to_json_string().encode())
    for parameter in model.parameters():
        digest.update(parameter.detach().flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def score_row(scores: np.ndarray, config: PreTrainedConfig) -> dict:
    """One clip's scores (labels,) as columns, after the predicted class and its probability in a classification."""
    row: dict[str, str | float] = {}
    for suffix, part in _classifications(config):
        best = int(scores[part].argmax())
        row |= {f"prediction{suffix}": config.id2label[part.start + best]}
        row |= {f"confidence{suffix}": round(float(scores[part][best]), 6)}
    # Last, so that a label with one of these names wins; older models may have such labels.
    return row | {config.id2label[index]: round(float(score), 6) for index, score in enumerate(scores)}


def score_columns(config: PreTrainedConfig) -> dict[str, type]:
    """The columns of `score_row`, in order, and their content: text or numbers."""
    columns: dict[str, type] = {}
    for suffix, _ in _classifications(config):
        columns |= {f"prediction{suffix}": str, f"confidence{suffix}": float}
    return columns | {config.id2label[index]: float for index in range(config.num_labels)}


def _classifications(config: PreTrainedConfig) -> list[tuple[str, slice]]:
    """The suffix of a classification's columns, and the outputs of its classes; several in a multitask."""
    if config.loss != MULTITASK:
        return [("", slice(0, config.num_labels))] if config.loss == "ce" else []
    parts = zip(config.tasks, config.task_slices, strict=True)
    return [(f"_{task['name']}", place) for task, place in parts if task["loss"] == "ce"]


def score_waveforms(
    model, feature_extractor, waveforms: list[np.ndarray], batch_seconds: float | None = None, views: int = 1
) -> np.ndarray:
    """Scores 16 kHz waveforms, which were trimmed and levelled when decoded; returns (clips, labels).

    Batches contain clips of similar length, and at most `batch_seconds` of audio including padding (None: 24 s on a
    CPU, 64 s elsewhere). With several `views` of each clip (`audio_avb.speed_views`), their scores are averaged.
    """
    with _batch_workers(model) as run_all:
        return _score_batches(model, feature_extractor, waveforms, batch_seconds, views, run_all)


def _score_batches(model, feature_extractor, waveforms, batch_seconds, views: int, run_all: Callable) -> np.ndarray:
    clips = len(waveforms)
    waveforms = [view for waveform in waveforms for view in speed_views(waveform, views)]
    if batch_seconds is None:
        batch_seconds = CPU_BATCH_SECONDS if model.device.type == "cpu" else GPU_BATCH_SECONDS
    collate = BurstCollator(feature_extractor)
    scores = np.empty((len(waveforms), model.config.num_labels), dtype=np.float32)
    budget = int(batch_seconds * feature_extractor.sampling_rate)

    @torch.inference_mode()
    def score(indices: list[int]):
        inputs = collate([{"input_values": waveforms[index]} for index in indices]).to(model.device)
        inputs["input_values"] = inputs["input_values"].to(model.dtype)
        logits = model(**inputs).logits.float().cpu().numpy()
        scores[indices] = scores_from_logits(logits, model.config)

    run_all(score, length_batches([len(waveform) for waveform in waveforms], budget))
    return scores.reshape(clips, views, scores.shape[1]).mean(1) if views > 1 else scores


@contextmanager
def _batch_workers(model: PreTrainedModel | ExportedModel) -> Iterator[Callable]:
    """Yields a function `(work, items)` that processes items, on a CPU several at once, which share torch's threads.

    Operations of a small encoder on a few seconds of audio are too short to be parallelised: two simultaneous batches
    with one thread each are faster than one after the other with two threads.
    """
    threads = torch.get_num_threads()
    is_export = isinstance(model, ExportedModel)  # it has its own threads
    workers = 1 if is_export or model.device.type != "cpu" else min(MAX_BATCH_WORKERS, threads)
    if workers == 1:
        yield lambda work, items: [work(item) for item in items]
        return
    everyone = Barrier(workers)

    def take_threads(_):
        everyone.wait()  # each worker takes one of these
        torch.get_num_threads()  # otherwise the worker's first operation resets it to the number of the process
        torch.set_num_threads(threads // workers)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(take_threads, range(workers)))
        torch.set_num_threads(threads)  # for this thread, and those started from now on
        yield lambda work, items: list(pool.map(work, items))


def _memory_trimmer() -> Callable[[], object]:
    """Returns freed memory to the system, if the C library is glibc.

    glibc keeps freed memory below a block in use: with clips of mixed length, some hundred MB over time.
    """
    if platform.libc_ver()[0] != "glibc":
        return lambda: None
    trim = ctypes.CDLL(None).malloc_trim
    return lambda: trim(0)


def settings_key(max_seconds: float, views: int) -> str:
    """The part of a model's key for a limit of duration other than the default, and for several views."""
    return ("" if max_seconds == MAX_SECONDS else f" {max_seconds:g} s") + (f" {views} views" if views > 1 else "")


def decode_threads(model) -> int:
    """Two on a CPU, which also scores; with a GPU, one less than the number of processors, at most 8."""
    is_export = isinstance(model, ExportedModel)
    return 2 if is_export or model.device.type == "cpu" else min(8, max((os.cpu_count() or 1) - 1, 2))


def score_clips(
    model,
    feature_extractor,
    clips: Iterable[Clip],
    batch_seconds: float | None = None,
    num_workers: int | None = None,
    max_seconds: float = MAX_SECONDS,
    views: int = 1,
) -> Iterator[tuple[Clip, np.ndarray | AudioError]]:
    """Yields each clip with its scores (labels,), or with the error that made it unreadable, in the given order.

    Audio is prepared as the feature extractor specifies (level, trimming); a clip longer than `max_seconds` is an
    error. While one chunk is scored, `num_workers` threads decode the next one (None: `decode_threads`). For `views`,
    see `score_waveforms`.
    """
    num_workers = num_workers or decode_threads(model)
    if isinstance(model, ExportedModel):  # a clip that is too long for it must not end the scoring of the others
        max_seconds = min(max_seconds, EXPORT_MAX_SECONDS / (FASTEST_VIEW if views > 1 else 1))
    preparation = AudioPreparation.of(feature_extractor, max_seconds)

    def decode(clip: Clip) -> np.ndarray | AudioError:
        try:
            return preparation.load(clip.read())
        except AudioError as error:
            return error

    clips = iter(clips)
    give_back = _memory_trimmer()
    with ThreadPoolExecutor(num_workers) as pool, _batch_workers(model) as run_all:

        def submit() -> list[tuple[Clip, Future]]:
            return [(clip, pool.submit(decode, clip)) for clip in islice(clips, CHUNK_CLIPS)]

        chunk = submit()
        while chunk:
            following = submit()
            decoded = [(clip, future.result()) for clip, future in chunk]
            readable = [waveform for _, waveform in decoded if not isinstance(waveform, AudioError)]
            scores = iter(_score_batches(model, feature_extractor, readable, batch_seconds, views, run_all))
            for clip, waveform in decoded:
                yield clip, waveform if isinstance(waveform, AudioError) else next(scores)
            chunk = following
            give_back()
