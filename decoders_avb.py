"""Decodes a file block by block, with libsndfile or, where that fails, PyAV; checks, cuts and resamples the samples.

Self-contained code for the Hub, used by `recording_avb.py`. PyAV (`av`, which bundles FFmpeg) is imported only if a
file needs it.
"""

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf

_BLOCK_SAMPLES = 2**20  # over all channels: 4 MiB per block
# No playlists, because they refer to other files.
_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,asf_o,au,avi,caf,dts,eac3,flac,flv,g722,loas,matroska,mov,mp3,mpc,mpc8,"
    "mpegts,ogg,rm,tak,tta,voc,w64,wav,wv"
)
# Containers whose header states the duration, and whose decoder stops silently where the bytes end.
_STATE_DURATION = ("ape", "flv", "mpc", "mpc8", "rm", "tak", "tta", "wv")
_SEEKABLE = ("mov", "matroska", "flac", "tta")  # exactly, by time
_PREROLL = 0.5  # s to decode before a segment, until a codec no longer depends on earlier samples


class AvbError(ValueError):
    """An error in the user's input or options.

    The root of `avb.errors`. It is defined here because the Hub serves these files without the package `avb`.
    """


class AudioError(AvbError):
    """A clip cannot be read, decoded or used."""


class Window(io.RawIOBase):
    """A part of an open file, with the interface of a file.

    Args:
        file: open.
        start: first byte.
        stop: the byte after the last one.
        repair: a position, counted from `start`, and the bytes to read there instead of the file's.
    """

    def __init__(self, file: BinaryIO, start: int, stop: int, repair: tuple[int, bytes] | None = None):
        self._file, self._start, self._size, self._repair, self._at = file, start, stop - start, repair, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # libsndfile seeks before the start of a damaged file, and cannot handle Python errors.
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._at)
        content = self._file.read(max(0, min(len(view), self._size - self._at)))
        if self._repair:
            place, right = self._repair
            first, last = max(place, self._at), min(place + len(right), self._at + len(content))
            if first < last:
                changed = bytearray(content)
                changed[first - self._at : last - self._at] = right[first - place : last - place]
                content = bytes(changed)
        view[: len(content)] = content
        self._at += len(content)
        return len(content)


class AvBlocks:
    """The samples of a file that PyAV decodes, block by block, averaged over channels.

    Args:
        handle: a path as bytes, or an open file.
        start: of the requested part, s.
        end: of the requested part, s; None is the end of the file.

    Attributes:
        rate: Hz.
        format: FFmpeg's name for the container.
        damaged: whether the last packet could not be decoded.
        seconds: as stated in the header; None if it states none, or if bytes are counted instead.
        states_nothing: whether the header should state the duration, but does not.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: there is no audio that FFmpeg can read.
    """

    def __init__(self, handle: bytes | BinaryIO, start: float = 0.0, end: float | None = None):
        try:
            import av
        except ImportError as error:
            raise ImportError("pip install av") from error

        self._av: Any = av
        file = os.fsdecode(handle) if isinstance(handle, bytes) else handle
        if not isinstance(file, str):
            file.seek(0)
        # A path is opened by name; `file:` prevents a colon in it from being parsed as a protocol.
        name = f"file:{file}" if isinstance(file, str) else file
        try:
            self._container: Any = av.open(name, metadata_errors="ignore", options={"format_whitelist": _FORMATS})
        except (av.error.FFmpegError, ValueError) as error:
            raise ValueError(getattr(error, "strerror", None) or str(error)) from error
        if not any(stream.codec_context for stream in self._container.streams.audio[:1]):
            self.close()
            raise ValueError("it has no sound, or an unknown format")
        self.rate = self._container.streams.audio[0].rate
        self.format = self._container.format.name
        self.damaged = False
        container: Any = self._container  # it is one to read
        stated = container.duration if self.format in _STATE_DURATION else None
        self.seconds = stated / self._av.time_base if stated else None
        self.states_nothing = self.format in _STATE_DURATION and not stated
        self._start, self._end = start, end
        self._first_time: Any = None  # of the first frame, in time units of its stream

    def close(self):
        self._container.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """float32 of shape (samples,), never empty."""
        first, stop = round(self._start * self.rate), None if self._end is None else round(self._end * self.rate)
        count = None if stop is None else stop - first
        stream = self._container.streams.audio[0]
        if self._start <= 2 * _PREROLL or self.format.split(",")[0] not in _SEEKABLE:
            yield from drop(self._blocks(), first, count)
            return
        begin = stream.start_time or 0
        self._container.seek(begin + int((self._start - _PREROLL) / stream.time_base), stream=stream)
        blocks = self._blocks()
        block = next(blocks, None)
        if block is not None:
            at = round((self._first_time - begin) * stream.time_base * self.rate)  # the block's first sample
            yield from drop(itertools.chain([block], blocks), max(0, first - at), count)

    def _blocks(self) -> Iterator[np.ndarray]:
        errors = self._av.error.FFmpegError
        stream, kind = self._container.streams.audio[0], None
        resampler: Any = None
        try:
            for packet in self._container.demux(stream):
                frames = self._decode(packet)
                if self.damaged and frames and packet.size:
                    raise ValueError("a part of it is damaged")
                for frame in frames:
                    new = (frame.rate, frame.format.name, frame.layout.name)
                    if new != kind:  # parts of a concatenated file may have different ones
                        yield from _mono(resampler.resample(None) if resampler else [])
                        resampler, kind = self._av.AudioResampler("fltp", frame.layout, self.rate), new
                    self._first_time = frame.pts if self._first_time is None else self._first_time
                    frame.pts = None
                    yield from _mono(resampler.resample(frame))
            yield from _mono(resampler.resample(None) if resampler else [])
        except errors as error:
            raise ValueError(error.strerror) from error

    def _decode(self, packet) -> list:
        try:
            return packet.decode()
        except self._av.error.EOFError:
            return []
        except self._av.error.InvalidDataError:
            self.damaged = True
            return []


def _mono(frames: list) -> Iterator[np.ndarray]:
    for frame in frames:
        if frame.samples:
            yield frame.to_ndarray().mean(axis=0, dtype=np.float32)


def drop(blocks: Iterator[np.ndarray], skipped: int, count: int | None) -> Iterator[np.ndarray]:
    """Drops the first `skipped` samples of the blocks and keeps `count` of the others; None keeps all."""
    left = np.inf if count is None else count
    for block in blocks:
        part = block[skipped:]
        skipped = max(0, skipped - len(block))
        if len(part):
            yield part[: int(min(left, len(part)))]
            left -= len(part)
        if left <= 0:
            return


def read_blocks(file: "Stream", start: float = 0.0, end: float | None = None) -> Iterator[np.ndarray]:
    """Blocks from `start` to `end` (s), float32 of shape (samples,)."""
    skipped = round(start * file.samplerate)
    if skipped and file.can_seek() and file.format != "MP3":  # whose seeking is inexact
        file.seek(skipped)
        skipped = 0
    count = None if end is None else round(end * file.samplerate) - round(start * file.samplerate)
    yield from drop(_mono_blocks(file), skipped, count)


def _mono_blocks(file: sf.SoundFile) -> Iterator[np.ndarray]:
    block_frames = max(1, _BLOCK_SAMPLES // file.channels)
    while len(block := file.read(block_frames, dtype="float32", always_2d=True)):  # (frames, channels)
        yield block[:, 0] if file.channels == 1 else block.mean(axis=1)


class Stream(sf.SoundFile):
    """A file read from start to end: soundfile seeks after each block, which not every codec supports."""

    def seekable(self) -> bool:
        return False

    def can_seek(self) -> bool:
        return super().seekable()


class Blocks:
    """Blocks of samples, float32 of shape (samples,), which are checked and counted (`frames`) as they pass."""

    def __init__(self, name: str, blocks: Iterable[np.ndarray], rate: int, max_seconds: float):
        self.frames = 0
        self._name, self._blocks, self._rate, self._max_seconds = name, blocks, rate, max_seconds

    def __iter__(self) -> Iterator[np.ndarray]:
        for mono in self._blocks:
            if not np.isfinite(mono).all():
                first = self.frames + int(np.argmin(np.isfinite(mono)))
                raise AudioError(
                    f"{self._name}: sample {first:,} is NaN or infinite; export the clip again, as 16-bit PCM"
                )
            self.frames += len(mono)
            if self.frames > self._max_seconds * self._rate:
                raise AudioError(f"{self._name}: {too_long(self._max_seconds)}")
            yield mono


class Resampler:
    """soxr's HQ, block by block; bit-identical to librosa.resample(res_type="soxr_hq") on all blocks at once.

    A block is float32 of shape (samples,), at `rate` Hz; what is returned is so at `sampling_rate` Hz.
    """

    def __init__(self, rate: float, sampling_rate: int):
        self.rate = rate
        self._ratio = float(sampling_rate) / rate
        self._stream = None
        if rate != sampling_rate:
            import soxr

            self._stream = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")

    def push(self, block: np.ndarray) -> np.ndarray:
        """The samples that are known after this block, possibly none."""
        return block if self._stream is None else self._stream.resample_chunk(block)

    def finish(self) -> np.ndarray:
        """The samples that remain."""
        rest = np.zeros(0, np.float32)
        return rest if self._stream is None else self._stream.resample_chunk(rest, last=True)

    def stream(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            yield self.push(block)
        yield self.finish()

    def all_of(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """All blocks as one waveform, as long as librosa makes it."""
        given, samples = [], 0
        for block in blocks:
            samples += len(block)
            given.append(self.push(block))
        waveform = np.concatenate([*given, self.finish()])
        length = int(np.ceil(samples * self._ratio))
        return np.pad(waveform[:length], (0, max(0, length - len(waveform))))


def too_long(max_seconds: float) -> str:
    return (
        f"longer than {max_seconds:g} seconds; cut it into bursts (--events finds them), or raise max_seconds "
        "(--max_seconds)"
    )
