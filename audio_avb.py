"""One clip, from a file, its bytes or an array, to the waveform a model hears: mono float32, 16 kHz, trimmed, levelled.

Self-contained code for the Hub: it needs numpy, soundfile (libsndfile), which decodes, librosa, which trims, and soxr,
which comes with librosa and resamples. Unusual:

- a file is refused, by an `AudioError` that names it, rather than half read: libsndfile itself shortens a truncated WAV
  without a word, and stops early in a damaged MP3;
- a header is never believed: samples are read in blocks up to `max_seconds`, so one that claims 2^31 frames costs
  nothing; and each block is resampled at once, so ten minutes at 384 kHz, a few kilobytes of FLAC, take the memory of
  ten minutes at 16 kHz.

The default level, a peak of -3 dBFS, is that of the processed release of HUME-VB (Baird et al. 2022, arXiv:2207.03572).
"""

import io
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf

SAMPLING_RATE = 16_000  # Hz, of every encoder used here
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64")
# Recorded by phones and browsers; libsndfile reads none of them.
CONVERTIBLE_SUFFIXES = (".m4a", ".aac", ".mp4", ".3gp", ".webm", ".mkv", ".mka", ".wma", ".amr")

AudioSource = str | os.PathLike | bytes | dict

MAX_SECONDS = 600.0  # of a clip, unless said otherwise
MAX_CHANNELS = 16  # of an array, to tell them from its samples

_BLOCK_SAMPLES = 2**20  # over all channels: 4 MiB a block
_LEGAL_RATES = (1_000, 384_000)  # Hz
_HEAD_BYTES = 4096
_STREAMED_BYTES = 0x7FFF0000  # a WAV written to a pipe claims at least this much data: its length is unknown
_LOST_SHARE = 0.01  # of the promised audio that may be missing: encoders pad, and some headers are off by a few bytes


class AvbError(ValueError):
    """Something in the user's input or options is wrong.

    The root of `avb.errors`, and defined here only because the Hub serves this file without the package `avb`.
    """


class AudioError(AvbError):
    """A clip cannot be read, decoded or used."""


def load_audio(
    source: AudioSource,
    *,
    sampling_rate: int = SAMPLING_RATE,
    trim_top_db: float | None = None,
    peak_db: float | None = -3.0,
    max_seconds: float = MAX_SECONDS,
) -> np.ndarray:
    """Decode one clip.

    Args:
        source: a path, the bytes of a file, or a row's `{"bytes": ..., "path": ...}` (bytes win where both are given).
        sampling_rate: of the result, Hz.
        trim_top_db: cut from both ends what lies this many dB below the loudest frame (positive; 60 keeps all but
            silence); None trims nothing.
        peak_db: level of the highest absolute sample after trimming, dBFS; None leaves the level as recorded. A clip
            of zeros stays zero.
        max_seconds: longest clip that is decoded, seconds.

    Returns:
        float32 waveform of shape (samples,), at least one sample.

    Raises:
        AudioError: the file is missing, unreadable, empty, truncated, damaged, no audio, of a format soundfile cannot
            read, longer than `max_seconds`, without samples, or holds NaN or infinity; or an argument is illegal.
    """
    check_preparation(trim_top_db, peak_db)
    name, file, handle = _open(source)
    with file:
        try:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(_HEAD_BYTES)
            if size == 0:
                raise AudioError(f"{name}: the file is empty (0 bytes); copy or record it again")
            _refuse_truncated_wav(name, file, size)
            file.seek(0)
        except OSError as error:  # a network drive that is gone, a bad sector
            raise AudioError(f"{name}: cannot be read ({error.strerror}); check the disk, or copy it again") from error
        waveform = _decode(name, handle, head, sampling_rate, max_seconds)

    return prepare_waveform(waveform, trim_top_db=trim_top_db, peak_db=peak_db)


def waveform_from_array(
    array: np.ndarray, rate: float, *, sampling_rate: int = SAMPLING_RATE, max_seconds: float = MAX_SECONDS
) -> np.ndarray:
    """Samples that are decoded already, as `load_audio` without trimming and level would give them.

    Args:
        array: shape (samples,), or of several channels (samples, channels) or (channels, samples), which are averaged;
            floats, or integers whose full scale is that of their type, as in a WAV file.
        rate: of the samples, Hz.
        sampling_rate: of the result, Hz.
        max_seconds: longest clip that is accepted, seconds.

    Returns:
        float32 waveform of shape (samples,), at least one sample.

    Raises:
        AudioError: no samples, an impossible shape, not numbers, NaN or infinity, too long, or an impossible rate.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "fi":
        raise AudioError(f"<array>: its type is {array.dtype}; give floats in [-1, 1] or signed integers")
    if array.ndim != 1 and not (array.ndim == 2 and min(array.shape) <= MAX_CHANNELS < max(array.shape)):
        raise AudioError(f"<array>: its shape is {array.shape}; give (samples,), or (samples, channels)")
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)):
        raise AudioError(f"<array>: sampling_rate={rate!r} is no number of Hz")
    if not _LEGAL_RATES[0] <= rate <= _LEGAL_RATES[1]:
        raise AudioError(f"<array>: sampling_rate={rate!r} is not legal: it must be 1,000 to 384,000 (Hz)")
    if not array.size:
        raise AudioError("<array>: holds no samples (0 seconds); leave it out")
    if max(array.shape) > max_seconds * rate:
        raise AudioError(f"<array>: {_too_long(max_seconds)}")
    if array.dtype.kind == "i":
        array = array / -float(np.iinfo(array.dtype).min)
    if array.ndim == 2:
        array = array.mean(axis=int(np.argmin(array.shape)))
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise AudioError(f"<array>: sample {int(np.argmin(np.isfinite(array))):,} is NaN or infinite")
    return np.ascontiguousarray(_Resampler(rate, sampling_rate).all_of([array]))


def prepare_waveform(waveform: np.ndarray, *, trim_top_db: float | None, peak_db: float | None) -> np.ndarray:
    """What is done to every clip once it is decoded, in training and after: quiet ends cut, then the level set.

    Args:
        waveform: float32 of shape (samples,) at the model's rate.
        trim_top_db: see `load_audio`.
        peak_db: see `load_audio`.

    Returns:
        float32 waveform of shape (samples,), at least one sample.
    """
    if trim_top_db is not None:
        import librosa  # takes seconds to load, and is not needed for a clip that is not trimmed

        waveform, _ = librosa.effects.trim(waveform, top_db=trim_top_db)
    if peak_db is not None:
        waveform = set_peak(waveform, peak_db)
    return np.ascontiguousarray(waveform, dtype=np.float32)  # (samples,)


def check_preparation(trim_top_db: float | None, peak_db: float | None) -> None:
    """Raises an AudioError where `trim_top_db` is neither positive nor None, or `peak_db` is above full scale."""
    # A word is refused where a file's settings are read, which can name the file.
    if isinstance(peak_db, (int, float)) and not peak_db <= 0:
        raise AudioError(f"peak_db must be at most 0 (dBFS) or None, got {peak_db!r}")
    if trim_top_db is not None and not trim_top_db > 0:
        raise AudioError(f"trim_top_db must be positive (dB below the loudest frame) or None, got {trim_top_db!r}")


def set_peak(waveform: np.ndarray, peak_db: float) -> np.ndarray:
    """Scale a waveform so that its highest absolute sample is `peak_db` dBFS; zeros stay zeros.

    Args:
        waveform: float32, shape (samples,).
        peak_db: dB relative to full scale (1.0).
    """
    peak = np.abs(waveform).max(initial=0.0)
    # Divided first: 1 / peak overflows for the subnormal peaks of near-silent recordings.
    return waveform / peak * np.float32(10 ** (peak_db / 20)) if peak > 0 else waveform


class _Resampler:
    """soxr's HQ, block by block: to the bit what librosa.resample(res_type="soxr_hq") gives for all blocks at once."""

    def __init__(self, rate: float, sampling_rate: int):
        self._ratio = float(sampling_rate) / rate
        self._stream = None
        if rate != sampling_rate:
            import soxr

            self._stream = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")

    def all_of(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """float32 blocks of shape (samples,) → one waveform of shape (samples,)."""
        given, samples = [], 0
        for block in blocks:
            samples += len(block)
            given.append(block if self._stream is None else self._stream.resample_chunk(block))
        if self._stream is None:
            return np.concatenate([np.zeros(0, np.float32), *given])
        given.append(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
        waveform = np.concatenate(given)
        length = int(np.ceil(samples * self._ratio))
        return np.pad(waveform[:length], (0, max(0, length - len(waveform))))


class _Bytes(io.BytesIO):
    """For libsndfile: of a damaged file it asks for places before the start, and cannot hear a Python error."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return 0


def _too_long(max_seconds: float) -> str:
    return f"longer than {max_seconds:g} seconds; cut it into bursts, or raise max_seconds"


def _open(source: AudioSource) -> tuple[str, BinaryIO, bytes | BinaryIO]:
    """The source's name for messages, an open binary file, and what libsndfile reads: a path where there is one."""
    path = None
    if isinstance(source, dict):
        path, source = source.get("path"), source.get("bytes")
        if path is None and source is None:
            raise AudioError('the clip has neither bytes nor a path; give {"bytes": ..., "path": ...}')
    elif isinstance(source, (str, os.PathLike)):
        path, source = source, None
    if source is not None:
        if not isinstance(source, (bytes, bytearray, memoryview)):
            raise AudioError(f"audio must be a path, bytes or a dict of both, got {type(source).__name__}")
        file = _Bytes(source)
        return printable(str(path or f"<{len(source)} bytes>")), file, file

    assert path is not None  # without bytes there is one
    try:
        path = os.fsencode(path)  # as bytes: a name need not be UTF-8
    except UnicodeEncodeError as error:
        raise AudioError(f"{path!a}: no name a file can have; correct it") from error
    name = printable(path.decode("utf-8", "backslashreplace"))
    if not os.path.exists(path):
        raise AudioError(f"{name}: no such file; check the path, or where the table's paths start from")
    if not os.path.isfile(path):  # a pipe would block for ever
        raise AudioError(f"{name}: not a regular file; give the path of one audio file")
    try:
        return name, open(path, "rb"), path
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror}); check its permissions") from error


def printable(text: str) -> str:
    """Text on one line: a newline, or a terminal's control sequence in a name, is spelled out."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _decode(name: str, handle: bytes | BinaryIO, head: bytes, sampling_rate: int, max_seconds: float) -> np.ndarray:
    """Read all samples, averaged over channels and resampled: float32 of shape (samples,)."""
    try:
        with sf.SoundFile(handle) as file:
            rate, promised = file.samplerate, file.frames
            if not _LEGAL_RATES[0] <= rate <= _LEGAL_RATES[1]:
                raise AudioError(f"{name}: its header says {rate:,} Hz, legal are 1,000 to 384,000; export it again")
            blocks = _Blocks(name, file, max_seconds)
            waveform = _Resampler(rate, sampling_rate).all_of(blocks)
            # An MP3's length is only known where the encoder wrote it down; otherwise it is guessed from the bit rate.
            length_known = file.format != "MP3" or b"Xing\0\0\0" in head or b"Info\0\0\0" in head
    except (sf.SoundFileError, TypeError) as error:  # TypeError: a path ending in .raw
        raise AudioError(_undecodable(name, head, error)) from error
    if length_known and blocks.frames < promised * (1 - _LOST_SHARE):
        raise AudioError(
            f"{name}: truncated or damaged: {blocks.frames:,} of {promised:,} samples could be decoded; "
            "copy or export it again"
        )
    if not blocks.frames:
        raise AudioError(
            f"{name}: holds no samples (0 seconds): recorded so, or truncated; copy it again or leave it out"
        )
    return waveform


class _Blocks:
    """The samples of an open file block by block, averaged over channels; `frames` counts them."""

    def __init__(self, name: str, file: sf.SoundFile, max_seconds: float):
        self.frames = 0
        self._name, self._file, self._max_seconds = name, file, max_seconds

    def __iter__(self) -> Iterator[np.ndarray]:
        channels = self._file.channels
        block_frames = max(1, _BLOCK_SAMPLES // channels)
        while len(block := self._file.read(block_frames, dtype="float32", always_2d=True)):  # (frames, channels)
            mono = block[:, 0] if channels == 1 else block.mean(axis=1)
            if not np.isfinite(mono).all():
                first = self.frames + int(np.argmin(np.isfinite(mono)))
                raise AudioError(
                    f"{self._name}: sample {first:,} is NaN or infinite; export the clip again, as 16-bit PCM"
                )
            self.frames += len(mono)
            if self.frames > self._max_seconds * self._file.samplerate:
                raise AudioError(f"{self._name}: {_too_long(self._max_seconds)}")
            yield mono


def _refuse_truncated_wav(name: str, file: BinaryIO, size: int) -> None:
    """Compare what the WAV header promises with what is there."""
    file.seek(0)
    riff = file.read(12)
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        return
    while len(chunk := file.read(8)) == 8:
        chunk_id, promised = struct.unpack("<4sI", chunk)
        if chunk_id == b"data":
            present = size - file.tell()
            if promised < _STREAMED_BYTES and present < promised * (1 - _LOST_SHARE):
                raise AudioError(
                    f"{name}: truncated: {present:,} of the {promised:,} bytes of audio its header promises are there; "
                    "copy or export it again"
                )
            return
        file.seek(promised + promised % 2, os.SEEK_CUR)  # chunks are padded to even length


def _undecodable(name: str, head: bytes, error: Exception) -> str:
    suffix = Path(name).suffix.lower()
    is_mp4, is_matroska = head[4:8] == b"ftyp", head[:4] == b"\x1aE\xdf\xa3"
    is_adts = head[:1] == b"\xff" and head[1:2] in (b"\xf1", b"\xf9")
    if suffix in CONVERTIBLE_SUFFIXES or is_mp4 or is_matroska or is_adts:
        kind = "WebM" if is_matroska else "MP4/AAC" if is_mp4 or is_adts else suffix
        return (
            f"{name}: soundfile cannot read {kind} audio; convert it once, with the program ffmpeg: "
            f"ffmpeg -i {Path(name).name} -ac 1 {Path(name).stem}.wav"
        )
    if not head.strip(b"\0"):
        return f"{name}: no audio: the file starts with zeros only (an interrupted copy?); copy it again"
    if _looks_like_text(head):
        return f"{name}: no audio but text, starting {head[:24].decode(errors='replace')!r}; is it the right file?"
    reason = str(error).rpartition(": ")[2].strip().rstrip(".") or "unknown format"
    if "File does not exist" in reason:  # what libsndfile says of an MP3 without a whole frame
        reason = "unknown format"
    return (
        f"{name}: cannot be decoded ({reason}): damaged, truncated, or none of the formats wav, flac, ogg, mp3; "
        "copy or export it again"
    )


def _looks_like_text(head: bytes) -> bool:
    return all(byte in b"\t\n\r\f" or byte >= 32 for byte in head[:256])
