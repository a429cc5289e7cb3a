"""Decodes a file with one recording, or with several concatenated ones, to a waveform; an incomplete file is an error.

Self-contained code for the Hub, used by `audio_avb.py`. It compares the length in the header, read by
`containers_avb.py`, with the samples that `decoders_avb.py` decodes.
"""

import logging
import re
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile as sf

try:
    from .containers_avb import UNKNOWN, Promise, end_of_first, read_promise, states_length
    from .decoders_avb import AudioError, AvBlocks, Blocks, Resampler, Stream, Window, read_blocks, too_long
except ImportError:  # run from this folder, not loaded from the Hub
    from containers_avb import UNKNOWN, Promise, end_of_first, read_promise, states_length
    from decoders_avb import AudioError, AvBlocks, Blocks, Resampler, Stream, Window, read_blocks, too_long

logger = logging.getLogger(__name__)

LEGAL_RATES = (1_000, 384_000)  # Hz
_HEAD_BYTES = 4096
_MAX_FRAMES = 2**48
_LOST_SHARE = 0.01  # of the promised audio that may be missing: encoders pad, and some headers are off by a few bytes
_LOST_BYTES, _LOST_SHORT_SHARE = 44, 0.1  # so may a header counted as audio, if it is at most a tenth
# Names in libsndfile and FFmpeg of containers whose length is only known from the end of the file.
_UNSTATED = ("IRCAM", "PAF", "PVF", "XI", "SD2", "RAW")
_AV_UNSTATED = (
    "aac", "ac3", "eac3", "amr", "amrnb", "amrwb", "dts", "flac", "g722", "loas", "mp3", "mpegts",
)  # fmt: skip
_SEGMENT_SLACK = 0.05  # s by which a segment may end after its file: durations are rounded, and codecs pad


class Segment(NamedTuple):
    """A part of a recording, in s from its start; None as `end` is the end of the recording."""

    start: float
    end: float | None


def load_recordings(
    name: str,
    file: BinaryIO,
    size: int,
    handle: bytes | BinaryIO,
    sampling_rate: int,
    max_seconds: float,
    segment: Segment | None = None,
) -> np.ndarray:
    """Decodes all recordings in a file, or a segment of it.

    Args:
        name: of the file, for messages.
        file: open.
        size: its bytes.
        handle: what libsndfile opens: the file, or its path.
        sampling_rate: of the result, Hz.
        max_seconds: longest clip that is accepted, seconds.
        segment: the part to decode; None is all of it.

    Returns:
        float32 of shape (samples,).

    Raises:
        AudioError: see `audio_avb.load_audio`.
    """
    end = end_of_first(file, size)
    if end == size:
        return _load_one(name, file, size, handle, sampling_rate, max_seconds, segment)
    # Concatenated recordings: libsndfile only reads the first one.
    waveforms: list[np.ndarray] = []
    start, left = 0, max_seconds if segment is None else np.inf
    most = left  # s of each
    while start < size:
        part: BinaryIO = Window(file, start, start + end)  # has all the methods needed of a file
        part_name = f"{name}, recording {len(waveforms) + 1} in it"
        waveforms.append(_load_one(part_name, part, end, part, sampling_rate, most, None))
        left -= len(waveforms[-1]) / sampling_rate
        if left < 0:
            raise AudioError(f"{name}: {too_long(max_seconds)}")
        start += end
        end = end_of_first(Window(file, start, size), size - start)
    waveform = np.concatenate(waveforms)
    _say_once("joined", f"{name}: {len(waveforms)} recordings joined in one file; all are read")
    if segment is None:
        return waveform
    seconds = len(waveform) / sampling_rate
    _check_segment(name, segment, seconds, max_seconds)
    stop = seconds if segment.end is None else segment.end
    return waveform[round(segment.start * sampling_rate) : round(stop * sampling_rate)]


def is_one_whole(name: str, file: BinaryIO) -> bool:
    """Whether a decoder reads all of an open file from its start: one recording, with a finished header.

    Raises:
        AudioError: it is empty, or truncated.
    """
    size = file.seek(0, 2)
    if not size:
        raise AudioError(f"{name}: the file is empty (0 bytes); copy or record it again")
    promise = read_promise(file, size)
    end = end_of_first(file, size)
    file.seek(0)
    if end < size:
        return False
    _refuse_truncated(name, promise, size)
    return promise is None or not promise.repair


def _load_one(
    name: str,
    file: BinaryIO,
    size: int,
    handle: bytes | BinaryIO,
    sampling_rate: int,
    max_seconds: float,
    segment: Segment | None,
) -> np.ndarray:
    """Like `load_recordings`, for a file that contains one recording."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    promise = read_promise(file, size)
    _refuse_truncated(name, promise, size)
    has_length = states_length(file)
    if promise is not None and promise.repair:
        handle = Window(file, 0, size, promise.repair)
    file.seek(0)
    return _decode(name, handle, head, sampling_rate, max_seconds, segment, has_length)


def _decode(
    name: str,
    handle: bytes | BinaryIO,
    head: bytes,
    sampling_rate: int,
    max_seconds: float,
    segment: Segment | None,
    has_length: bool,
) -> np.ndarray:
    """Reads all samples of the file or segment, averaged over channels and resampled: float32 of shape (samples,)."""
    start, end = segment or (0.0, None)
    try:
        with Stream(handle) as file:
            rate, promised, container = file.samplerate, file.frames, file.format
            check_rate(name, rate)
            # The length of an MP3 is only known if the encoder stated it; otherwise it is guessed from the bit rate.
            # A FLAC written to a pipe states 0, for which libsndfile reports the largest possible length.
            is_stated = promised < _MAX_FRAMES if container != "MP3" else has_length
            # For MP3 in a WAV it is rounded up, but the bytes have been counted.
            length_known = is_stated and (container == "MP3" or not file.subtype.startswith("MPEG"))
            if segment is not None and length_known:
                _check_segment(name, segment, promised / rate, max_seconds)
            blocks = Blocks(name, read_blocks(file, start, end), rate, max_seconds)
            waveform = Resampler(rate, sampling_rate).all_of(blocks)
    except (sf.SoundFileError, TypeError) as error:  # TypeError: a path ending in .raw
        refusal = _undecodable(name, head, error)
        if refusal is None and has_length:  # libsndfile should have read it
            refusal = _damaged(name, str(error))
        if refusal is not None:
            raise AudioError(refusal) from error
        return _decode_by_av(name, handle, sampling_rate, max_seconds, segment, error)
    if segment is not None:
        promised = round((promised / rate if end is None else min(end, promised / rate)) * rate) - round(start * rate)
    if length_known and blocks.frames < promised * (1 - _LOST_SHARE):
        raise AudioError(
            f"{name}: truncated or damaged: {blocks.frames:,} of {promised:,} samples could be decoded; "
            "copy or export it again"
        )
    if segment is not None and not length_known:
        _check_segment(name, segment, start + blocks.frames / rate, max_seconds)
    _check_samples(name, blocks)
    if not is_stated or container in _UNSTATED:
        _say_unstated(name, container)
    return waveform


def _decode_by_av(
    name: str,
    handle: bytes | BinaryIO,
    sampling_rate: int,
    max_seconds: float,
    segment: Segment | None,
    first_error: Exception,
) -> np.ndarray:
    """Like `_decode`, with PyAV."""
    start, end = segment or (0.0, None)
    try:
        source = AvBlocks(handle, start, end)
    except ImportError as error:
        raise AudioError(f"{name}: soundfile cannot read it, but PyAV may: {error}") from error
    except ValueError as error:
        raise AudioError(_damaged(name, str(first_error))) from error
    try:
        check_rate(name, source.rate)
        blocks = Blocks(name, source, source.rate, max_seconds)
        waveform = Resampler(source.rate, sampling_rate).all_of(blocks)
    except AudioError:
        raise
    except ValueError as error:
        raise AudioError(_damaged(name, str(error))) from error
    finally:
        source.close()
    is_unstated = source.format in _AV_UNSTATED or source.states_nothing
    if source.damaged and not is_unstated:
        raise AudioError(_damaged(name, "its end cannot be decoded"))
    if segment is not None:
        _check_segment(name, segment, start + blocks.frames / source.rate, max_seconds)
    elif source.seconds is not None and blocks.frames / source.rate < source.seconds * (1 - _LOST_SHARE):
        raise AudioError(
            f"{name}: truncated: {blocks.frames / source.rate:.2f} of the {source.seconds:.2f} seconds that its header "
            "promises could be decoded; copy or export it again"
        )
    _check_samples(name, blocks)
    if is_unstated:
        _say_unstated(name, source.format)
    return waveform


def _check_segment(name: str, segment: Segment, seconds: float, max_seconds: float):
    """Raises if a recording is too short for its segment, or the segment is too long."""
    if segment.start >= seconds or (segment.end is not None and segment.end > seconds + _SEGMENT_SLACK):
        raise AudioError(
            f"{name}: the segment is beyond the end of the file, which has {seconds:g} seconds; correct start and "
            "end (seconds from the file's start), or leave it out"
        )
    if (seconds if segment.end is None else segment.end) - segment.start > max_seconds:
        raise AudioError(f"{name}: {too_long(max_seconds)}")


def check_rate(name: str, rate: int):
    """Raises an AudioError if the sampling rate in a header is none that a recording has."""
    if not LEGAL_RATES[0] <= rate <= LEGAL_RATES[1]:
        raise AudioError(f"{name}: its header says {rate:,} Hz, not 1,000 to 384,000 Hz; export it again")


def _check_samples(name: str, blocks: "Blocks"):
    if not blocks.frames:
        raise AudioError(
            f"{name}: contains no samples (0 seconds): recorded so, or truncated; copy it again or leave it out"
        )


def _refuse_truncated(name: str, promise: Promise | None, size: int):
    """Compares the length that the header promises with the size of the file."""
    if promise is None:
        return
    present, promised = max(0, size - promise.start), promise.length
    if promised == UNKNOWN:
        _say_once("unknown length", f"{name}: its header does not state the length, so a truncation cannot be detected")
        return
    lost = promised - present
    tolerated = max(_LOST_SHARE * promised, min(_LOST_BYTES, _LOST_SHORT_SHARE * promised))
    if lost > (0 if promise.exact else tolerated):
        raise AudioError(
            f"{name}: truncated: {present:,} of the {promised:,} bytes of audio its header promises are there; "
            "copy or export it again"
        )
    if lost > 0:
        _say_once("short", f"{name}: {lost:,} of the {promised:,} bytes that its header promises are not there; read")
    if promise.unended:
        _say_once("unended", f"{name}: its last part is not marked as the end, so a truncation cannot be detected")


_said: set[str] = set()  # kinds of doubtful files that were reported


def _say_unstated(name: str, container: str):
    _say_once(
        container, f"{name}: {container.upper()} that does not state its length, so a truncation cannot be detected"
    )


def _say_once(kind: str, message: str):
    """Logs only the first file of a kind: a corpus of browser recordings would fill the screen."""
    if kind not in _said:
        _said.add(kind)
        logger.warning("%s (this warning is shown once; other such files are read too)", message)


def _undecodable(name: str, head: bytes, error: Exception) -> str | None:
    """What is wrong with a file that cannot be audio; None if another decoder may read it."""
    if not head.strip(b"\0"):
        return f"{name}: not audio: the file starts with zeros (an interrupted copy?); copy it again"
    if _looks_like_text(head):
        return (
            f"{name}: not audio but text, starting with {head[:24].decode(errors='replace')!r}; is it the right file?"
        )
    return None if isinstance(error, sf.SoundFileError) else _damaged(name, str(error))


def _damaged(name: str, reason: str) -> str:
    reason = printable(reason.rpartition(": ")[2].strip().rstrip(".")) or "unknown format"
    if "File does not exist" in reason:  # libsndfile's error for an MP3 without a complete frame
        reason = "unknown format"
    return (
        f"{name}: cannot be decoded ({reason}): damaged, truncated, or not audio of a known format; "
        "copy or export it again"
    )


def _looks_like_text(head: bytes) -> bool:
    return all(byte in b"\t\n\r\f" or byte >= 32 for byte in head[:256])


def printable(text: str) -> str:
    """Text on one line: newlines and terminal control sequences in a name are escaped.

    So are bytes of a name that are not UTF-8; those that the locale (`LC_ALL=C`) could not decode are decoded.
    """
    if any("\udc80" <= sign <= "\udcff" for sign in text):
        text = re.sub("[\udc80-\udcff]+", _decoded_name, text)
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _decoded_name(undecoded: re.Match) -> str:
    return undecoded[0].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
