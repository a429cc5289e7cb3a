"""Reads a recording of any length block by block at 16 kHz, so that memory does not grow with its length."""

import os
from collections.abc import Iterator

import numpy as np
import soundfile as sf

from audio_avb import SAMPLING_RATE, AudioError, open_source
from containers_avb import states_length
from decoders_avb import AvBlocks, Resampler
from pipeline_avb import read_audio
from recording_avb import check_rate, is_one_whole

BLOCK_SECONDS = 30.0


def read_blocks(source, block_seconds: float = BLOCK_SECONDS) -> Iterator[np.ndarray]:
    """Blocks of float32 samples (samples,) at 16 kHz, channels averaged, at the recorded level.

    Args:
        source: a path, which is read as needed, or anything else that a pipeline takes, which is read at once, as is
            a segment (`evening.wav#12.5-14`).
        block_seconds: length of a block; the last one may be shorter.

    Raises:
        AudioError: the recording cannot be read, is empty, or contains NaN or infinity.
    """
    is_path = isinstance(source, (str, os.PathLike)) and not str(source).lower().startswith(("http://", "https://"))
    if not is_path:
        waveform, step = read_audio(source, SAMPLING_RATE, float("inf")), round(block_seconds * SAMPLING_RATE)
        for start in range(0, len(waveform), step):
            yield waveform[start : start + step]
        return
    name, path = as_one_whole(source)
    if path is None:
        yield from read_blocks({"path": source}, block_seconds)
        return
    empty = True
    for block in _resampled(name, *_open(name, path, block_seconds)):
        if len(block):
            empty = False
            yield block
    if empty:
        raise AudioError(f"{name}: contains no samples (0 seconds); copy it again or leave it out")


def as_one_whole(source: str | os.PathLike) -> tuple[str, bytes | None]:
    """The name of a path for messages, and the path if the file can be read in blocks.

    It is None for a segment of a file, several recordings in one file, and an unfinished header.

    Raises:
        AudioError: there is no such file, or it cannot be read, is empty or truncated.
    """
    name, file, path, segment = open_source(source)
    assert isinstance(path, bytes)  # the source is a path
    with file:
        try:
            return name, path if is_one_whole(name, file) and segment is None else None
        except OSError as error:
            raise AudioError(f"{name}: cannot be read ({error.strerror}); check the disk, or copy it again") from error


def _open(name: str, path: bytes, block_seconds: float) -> tuple[int, Iterator[np.ndarray]]:
    """Sampling rate and blocks, read by soundfile, or by PyAV if soundfile cannot."""
    try:
        file = sf.SoundFile(path)
    except (sf.SoundFileError, TypeError) as error:
        try:
            source = AvBlocks(path)
        except (ImportError, ValueError) as other:
            raise AudioError(f"{name}: cannot be decoded ({error}; {other}); copy or export it again") from other
        return source.rate, _by_av(source)
    return file.samplerate, _by_soundfile(file, block_seconds)


def _by_soundfile(file: sf.SoundFile, block_seconds: float) -> Iterator[np.ndarray]:
    with file:
        frames, read = max(1, round(block_seconds * file.samplerate)), 0
        while len(block := file.read(frames, dtype="float32", always_2d=True)):  # (frames, channels)
            read += len(block)
            yield block.mean(axis=1)
        if file.format == "MP3" and read < 0.99 * file.frames:  # it stops early without an error
            with open(file.name, "rb") as content:
                if states_length(content):
                    raise ValueError(f"{read:,} of {file.frames:,} samples")


def _by_av(source: AvBlocks) -> Iterator[np.ndarray]:
    try:
        seconds = 0.0
        for block in source:
            seconds += len(block) / source.rate
            yield block
        if source.seconds is not None and seconds < 0.99 * source.seconds:
            raise ValueError(f"{seconds:.1f} of the {source.seconds:.1f} seconds that its header promises")
    finally:
        source.close()


def _resampled(name: str, rate: int, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    check_rate(name, rate)
    resampler = Resampler(rate, SAMPLING_RATE)
    try:
        for block in blocks:
            if not np.isfinite(block).all():
                raise AudioError(f"{name}: a sample is NaN or infinite; export it again, as 16-bit PCM")
            yield resampler.push(block)
    except AudioError:
        raise
    except (sf.SoundFileError, ValueError) as error:
        raise AudioError(f"{name}: damaged: it cannot be decoded to its end ({error}); copy it again") from error
    yield resampler.finish()
