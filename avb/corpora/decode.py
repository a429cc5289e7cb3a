"""Decodes all clips once, into a memory-mapped Arrow file on disk.

The file contains only waveforms; labels and other columns are joined to it when it is opened. So the four tasks of a
release share one file, and a corrected label requires no decoding. The name of the file is a fingerprint of the clips
(ids, and each file's path, size and modification time, or the bytes), the settings and the versions of the libraries,
so an outdated file is never read. Old files are not deleted; the folder can be emptied at any time.

For a clip that cannot be decoded, the file stores the error; the clip is left out of the rows and reported every time.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import datasets
import librosa
import numpy as np
import pyarrow as pa
import soundfile as sf
from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm

from audio_avb import AudioPreparation, split_segment
from avb.cache import arrow_writer, cache_folder
from avb.errors import AudioError, CorpusError
from avb.files import batches

_FORMAT = 2  # increase this when the file's columns or the decoding change
_BATCH_CLIPS = 64  # 64 clips of 2 s at 16 kHz: 8 MB
_BLOCK_CLIPS = 512  # passed to the processes at a time
_SCHEMA = pa.schema({"input_values": pa.list_(pa.float32()), "num_samples": pa.int64(), "error": pa.string()})


class BadClip(NamedTuple):
    """A clip that could not be decoded, and why."""

    split: str
    id: str
    path: str
    reason: str


def decode_splits(
    splits: DatasetDict,
    preparation: AudioPreparation = AudioPreparation(),
    *,
    cache_dir: str | os.PathLike | None = None,
    num_proc: int | None = None,
    strict: bool = False,
) -> tuple[DatasetDict, list[BadClip]]:
    """Replace the column `audio` with waveforms at 16 kHz.

    Args:
        splits: rows with `id` and `audio`, as the loaders of `avb.corpora` return them.
        preparation: how the clips are prepared; its sampling rate is 16 kHz, as for every encoder.
        cache_dir: folder of the decoded files; None means the folder `avb` in the cache of datasets.
        num_proc: number of decoding processes; None means one.
        strict: raise at the first clip that cannot be decoded.

    Returns:
        The splits with `input_values` (float32 waveform of shape (samples,), returned as a numpy array) and
        `num_samples` instead of `audio`; and the clips that were left out.

    Raises:
        AudioError: `strict`, and a clip cannot be decoded.
        AvbError: no clip of a split can be decoded, or the cache cannot be written.
    """
    folder = cache_folder(cache_dir)
    decoded, bad_clips = {}, []
    for split, rows in splits.items():
        path = folder / f"{fingerprint(rows, preparation)}.arrow"
        if not path.exists():
            _write(path, rows, preparation, num_proc, strict, progress=f"decode {split}")
        waveforms = Dataset.from_file(str(path))
        errors = waveforms["error"][:]
        bad = [position for position, error in enumerate(errors) if error is not None]
        bad_clips += _describe(split, rows, {position: errors[position] for position in bad})
        if strict and bad:
            raise AudioError(errors[bad[0]])
        if len(bad) == len(rows):
            first = errors[bad[0]]
            raise CorpusError(f"split {split!r}: none of its {len(rows)} clips can be decoded; the first: {first}")
        joined = datasets.concatenate_datasets(
            [rows.remove_columns("audio"), waveforms.remove_columns("error")], axis=1
        ).with_format("numpy", columns=["input_values"], output_all_columns=True)
        decoded[split] = joined.select(sorted(set(range(len(rows))) - set(bad))) if bad else joined
    return DatasetDict(decoded), bad_clips


def decode_clips(
    rows: Dataset, preparation: AudioPreparation, *, num_proc: int | None = None, strict: bool = False
) -> Iterator[tuple[np.ndarray, str | None]]:
    """Decode clips in order, one at a time or in several processes.

    Yields:
        The waveform, float32 of shape (samples,), and None; or an empty waveform and an error message.

    Raises:
        AudioError: `strict`, and a clip cannot be decoded.
        CorpusError: a process died.
    """
    decode = partial(_decode, preparation)
    with ProcessPoolExecutor(num_proc) if num_proc and num_proc > 1 else nullcontext() as pool:
        for start in range(0, len(rows), _BLOCK_CLIPS):  # an executor loads all of its input into memory
            sources = rows[start : start + _BLOCK_CLIPS]["audio"]
            try:
                clips = list(pool.map(decode, sources, chunksize=16)) if pool else map(decode, sources)
            except BrokenProcessPool as error:
                raise CorpusError(
                    "a decoding process was killed, perhaps because memory ran out; use fewer processes"
                ) from error
            for waveform, error in clips:
                if strict and error is not None:
                    raise AudioError(error)
                yield waveform, error


def fingerprint(rows: Dataset, preparation: AudioPreparation) -> str:
    """Hash of everything that a decoded file depends on: 32 hexadecimal digits.

    Args:
        rows: clips with `id` and `audio`.
        preparation: how the clips are prepared.
    """
    librosa_version = librosa.__version__  # type: ignore[attr-defined]  # missing from its stub
    try:
        av_version = metadata.version("av")  # once it is installed, more formats can be read
    except metadata.PackageNotFoundError:
        av_version = None
    versions = {
        "format": _FORMAT,
        "av": av_version,
        "libsndfile": sf.__libsndfile_version__,
        "librosa": librosa_version,
    }
    digest = hashlib.sha256(json.dumps([asdict(preparation), versions], sort_keys=True).encode())
    for row in rows.select_columns(["id", "audio"]):
        audio = row["audio"]
        if audio["bytes"] is not None:
            content = hashlib.sha256(audio["bytes"]).hexdigest()
        else:
            try:
                stat = os.stat(split_segment(audio["path"])[0])
                # Includes the mode, so that a file that has become readable is decoded again.
                content = (stat.st_size, stat.st_mtime_ns, stat.st_mode)
            except OSError:
                content = "missing"
        digest.update(json.dumps([row["id"], audio["path"], content]).encode())
    return digest.hexdigest()[:32]


def _decode(preparation: AudioPreparation, source: dict) -> tuple[np.ndarray, str | None]:
    try:
        return preparation.load(source), None
    except AudioError as error:
        return np.zeros(0, np.float32), str(error)


def _describe(split: str, rows: Dataset, error_of: dict[int, str]) -> list[BadClip]:
    bad = rows.select(list(error_of))
    ids, audio = bad["id"], bad["audio"]
    return [
        BadClip(split, clip_id, clip["path"] or "", error)
        for clip_id, clip, error in zip(ids, audio, error_of.values(), strict=True)
    ]


def _write(
    path: Path, rows: Dataset, preparation: AudioPreparation, num_proc: int | None, strict: bool, progress: str
) -> None:
    with arrow_writer(path, _SCHEMA) as writer:
        clips = decode_clips(rows, preparation, num_proc=num_proc, strict=strict)
        for batch in batches(tqdm(clips, desc=progress, total=len(rows), unit="clip", disable=None), _BATCH_CLIPS):
            writer.write_batch(_record_batch(batch))


def _record_batch(clips: list[tuple[np.ndarray, str | None]]) -> pa.RecordBatch:
    waveforms = [waveform for waveform, _ in clips]
    lengths = [len(waveform) for waveform in waveforms]
    values = pa.ListArray.from_arrays(np.cumsum([0, *lengths], dtype=np.int32), np.concatenate(waveforms))
    errors = pa.array([error for _, error in clips], pa.string())
    return pa.record_batch([values, pa.array(lengths), errors], schema=_SCHEMA)
