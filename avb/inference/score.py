"""Scores clips with a trained model: decodes while the model computes, batches by length, returns scores in order.

For a regression task, the scores are the `logits`; for a classification, they are probabilities (softmax).
"""

import ctypes
import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from threading import Barrier
from typing import TypeVar

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from audio_avb import FASTEST_VIEW, MAX_SECONDS, AudioPreparation, speed_views
from avb.collator import BurstCollator, length_batches
from avb.errors import AudioError
from avb.inference.clips import Clip
from avb.inference.decode_ahead import decoded_chunks
from avb.inference.engines import MAX_SECONDS as EXPORT_MAX_SECONDS
from avb.inference.engines import ExportedModel
from configuration_avb import MULTITASK
from pipeline_avb import scores_from_logits

# Audio per batch, in seconds. A CPU does not benefit from larger batches, and smaller ones have less padding.
CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 24.0, 64.0
MAX_BATCH_WORKERS = 4  # simultaneous batches on a CPU; each has its own activations in memory
_T = TypeVar("_T")


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
    scores = np.empty((len(waveforms), model.config.num_labels), dtype=np.float32)
    with _batch_workers(model) as run_all:
        for clip, scored in _score_batches(model, feature_extractor, waveforms, batch_seconds, views, run_all):
            scores[clip] = scored
    return scores


def _score_batches(
    model, feature_extractor, waveforms, batch_seconds, views: int, run_all: Callable
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number of each clip and its scores (labels,), once the batches of all its views are scored."""
    unscored = [views] * len(waveforms)
    waveforms = [view for waveform in waveforms for view in speed_views(waveform, views)]
    if batch_seconds is None:
        batch_seconds = CPU_BATCH_SECONDS if model.device.type == "cpu" else GPU_BATCH_SECONDS
    collate = BurstCollator(feature_extractor)
    scores = np.empty((len(waveforms), model.config.num_labels), dtype=np.float32)
    budget = int(batch_seconds * feature_extractor.sampling_rate)

    @torch.inference_mode()
    def score(indices: list[int]) -> list[int]:
        inputs = collate([{"input_values": waveforms[index]} for index in indices]).to(model.device)
        inputs["input_values"] = inputs["input_values"].to(model.dtype)
        logits = model(**inputs).logits.float().cpu().numpy()
        scores[indices] = scores_from_logits(logits, model.config)
        return indices

    for indices in run_all(score, length_batches([len(waveform) for waveform in waveforms], budget)):
        for clip in (index // views for index in indices):
            unscored[clip] -= 1
            if not unscored[clip]:
                yield clip, scores[clip * views : (clip + 1) * views].mean(0)


@contextmanager
def _batch_workers(model: PreTrainedModel | ExportedModel) -> Iterator[Callable]:
    """Yields a function `(work, items)` that yields results as they come, on a CPU of several items at once, which
    share torch's threads.

    Operations of a small encoder on a few seconds of audio are too short to be parallelised: two simultaneous batches
    with one thread each are faster than one after the other with two threads.
    """
    threads = torch.get_num_threads()
    is_export = isinstance(model, ExportedModel)  # it has its own threads
    workers = 1 if is_export or model.device.type != "cpu" else min(MAX_BATCH_WORKERS, threads)
    if workers == 1:
        yield map
        return
    everyone = Barrier(workers)

    def take_threads(_):
        everyone.wait()  # each worker takes one of these
        torch.get_num_threads()  # otherwise the worker's first operation resets it to the number of the process
        torch.set_num_threads(threads // workers)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(take_threads, range(workers)))
        torch.set_num_threads(threads)  # for this thread, and those started from now on

        def run_all(work: Callable[[_T], _T], items: Iterable[_T]) -> Iterator[_T]:
            futures = [pool.submit(work, item) for item in items]
            try:
                yield from (future.result() for future in as_completed(futures))
            finally:
                for future in futures:
                    future.cancel()

        yield run_all


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


def score_clips(model, feature_extractor, clips: Iterable[Clip], *settings, **more) -> Iterator[tuple]:
    """Yields each clip with its scores (labels,), or with the error that made it unreadable, in the given order.

    For the arguments, see `score_as_computed`.
    """
    numbered = score_as_computed(model, feature_extractor, enumerate(clips), *settings, **more)
    return in_order((number, (clip, scores)) for number, clip, scores in numbered)


def in_order(numbered: Iterable[tuple[int, _T]]) -> Iterator[_T]:
    """The items by their numbers, 0, 1, 2, …; those that come too early wait."""
    early: dict[int, _T] = {}
    following = 0
    for number, item in numbered:
        early[number] = item
        while following in early:
            yield early.pop(following)
            following += 1


def score_as_computed(
    model,
    feature_extractor,
    clips: Iterable[tuple[int, Clip]],
    batch_seconds: float | None = None,
    num_workers: int | None = None,
    max_seconds: float = MAX_SECONDS,
    views: int = 1,
) -> Iterator[tuple[int, Clip, np.ndarray | AudioError]]:
    """Yields the number of each clip, the clip, and its scores (labels,) or the error that made it unreadable.

    The order is that in which they are computed, so that whoever stops here has lost none: within a chunk, batch by
    batch. Audio is prepared as the feature extractor specifies (level, trimming); a clip longer than `max_seconds` is
    an error. While one chunk is scored, `num_workers` threads decode the next one (None: `decode_threads`). For
    `views`, see `score_waveforms`.
    """
    num_workers = num_workers or decode_threads(model)
    if isinstance(model, ExportedModel):  # a clip that is too long for it must not end the scoring of the others
        max_seconds = min(max_seconds, EXPORT_MAX_SECONDS / (FASTEST_VIEW if views > 1 else 1))
    preparation = AudioPreparation.of(feature_extractor, max_seconds)

    def decode(numbered: tuple[int, Clip]) -> np.ndarray | AudioError:
        try:
            return preparation.load(numbered[1].read())
        except AudioError as error:
            return error

    give_back = _memory_trimmer()
    with _batch_workers(model) as run_all:
        for chunk in decoded_chunks(clips, decode, num_workers, feature_extractor.sampling_rate):
            readable: list[tuple[int, Clip]] = []
            waveforms = []
            for (number, clip), waveform in chunk:
                if isinstance(waveform, AudioError):
                    yield number, clip, waveform
                else:
                    readable.append((number, clip))
                    waveforms.append(waveform)
            for index, scores in _score_batches(model, feature_extractor, waveforms, batch_seconds, views, run_all):
                yield *readable[index], scores
            give_back()
