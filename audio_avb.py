"""One clip, from a file, its bytes or an array, to the waveform a model hears: mono float32, 16 kHz, trimmed, levelled.

Self-contained code for the Hub: it needs numpy, soundfile (libsndfile), which decodes, librosa, which trims, soxr,
which comes with librosa and resamples, and `containers_avb.py` beside it. PyAV decodes what libsndfile does not read,
and is asked for only then. Unusual:

- a file is refused, by an `AudioError` that names it, rather than half read: libsndfile itself shortens a truncated WAV
  without a word, and stops early in a damaged MP3;
- a header is never believed: samples are read in blocks up to `max_seconds`, so one that claims 2^31 frames costs
  nothing; and each block is resampled at once, so ten minutes at 384 kHz, a few kilobytes of FLAC, take the memory of
  ten minutes at 16 kHz.

The default level, a peak of -3 dBFS, is that of the processed release of HUME-VB (Baird et al. 2022, arXiv:2207.03572).
"""

import io
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile as sf

try:
    from .containers_avb import UNKNOWN, AvBlocks, Promise, flac_states_length, is_joined_mp3, mp3_head, read_promise
except ImportError:  # run from this folder, not loaded from the Hub
    from containers_avb import UNKNOWN, AvBlocks, Promise, flac_states_length, is_joined_mp3, mp3_head, read_promise

logger = logging.getLogger(__name__)

SAMPLING_RATE = 16_000  # Hz, of every encoder used here
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".w64", ".rf64", ".wave",
    ".bwf", ".caf", ".mp2", ".voc", ".sph", ".nist", ".avr", ".svx", ".8svx", ".m4a", ".m4b", ".aac", ".mp4", ".3gp",
    ".3gpp", ".3g2", ".webm", ".weba", ".mkv", ".mka", ".mov", ".wma", ".amr", ".awb", ".ac3", ".eac3",
)  # fmt: skip
SHADOWS = ("._", ".DS_Store", "Thumbs.db", "desktop.ini")  # how names of what file systems leave beside files start

AudioSource = str | os.PathLike | bytes | dict

MAX_SECONDS = 600.0  # of a clip, unless said otherwise
MAX_CHANNELS = 16  # of an array, to tell them from its samples

_BLOCK_SAMPLES = 2**20  # over all channels: 4 MiB per block
_LEGAL_RATES = (1_000, 384_000)  # Hz
_HEAD_BYTES = 4096
_MAX_FRAMES = 2**48
_LOST_SHARE = 0.01  # of the promised audio that may be missing: encoders pad, and some headers are off by a few bytes
_LOST_BYTES, _LOST_SHORT_SHARE = 44, 0.1  # a header counted as audio may be missing too, if it is no more than a tenth
# libsndfile's and FFmpeg's names of containers whose length only the file's end tells.
_UNSTATED = ("IRCAM", "PAF", "PVF", "XI", "SD2", "RAW", "MAT4", "MAT5", "MPC2K", "WVE")
_AV_UNSTATED = ("aac", "ac3", "eac3", "amr", "amrnb", "amrwb", "g722", "mp3", "mpegts", "flac")


class AvbError(ValueError):
    """Something in the user's input or options is wrong.

    The root of `avb.errors`, and defined here only because the Hub serves this file without the package `avb`.
    """


class AudioError(AvbError):
    """A clip cannot be read, decoded or used."""


@dataclass(frozen=True)
class AudioPreparation:
    """How a clip becomes the waveform that a model hears: rate, quiet ends, level, and how long it may be.

    Args:
        sampling_rate: of the result, Hz.
        trim_top_db: cut from both ends what lies this many dB below the loudest frame (positive; 60 keeps all but
            silence); None trims nothing.
        peak_db: level of the highest absolute sample after trimming, dBFS; None leaves the level as recorded. A clip
            of zeros stays zero.
        max_seconds: longest clip that is decoded, seconds.

    Raises:
        AudioError: a setting is illegal.
    """

    sampling_rate: int = SAMPLING_RATE
    trim_top_db: float | None = None
    peak_db: float | None = -3.0
    max_seconds: float = MAX_SECONDS

    def __post_init__(self):
        # A word is refused where a file's settings are read, which can name the file.
        if isinstance(self.peak_db, (int, float)) and not self.peak_db <= 0:
            raise AudioError(f"peak_db must be at most 0 (dBFS) or None, got {self.peak_db!r}")
        if self.trim_top_db is not None and not self.trim_top_db > 0:
            raise AudioError(
                f"trim_top_db must be positive (dB below the loudest frame) or None, got {self.trim_top_db!r}"
            )
        if not self.max_seconds > 0:
            raise AudioError(f"max_seconds={self.max_seconds} is not legal (--max_seconds): it must be positive")

    @classmethod
    def of(cls, feature_extractor, max_seconds: float = MAX_SECONDS) -> "AudioPreparation":
        """What a feature extractor says of its model's clips."""
        return cls(
            feature_extractor.sampling_rate, feature_extractor.trim_top_db, feature_extractor.peak_db, max_seconds
        )

    def load(self, source: AudioSource) -> np.ndarray:
        """Decode and prepare one clip; see `load_audio`."""
        name, file, handle = _open(source)
        with file:
            try:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                head = file.read(_HEAD_BYTES)
                if size == 0:
                    raise AudioError(f"{name}: the file is empty (0 bytes); copy or record it again")
                promise = read_promise(file, size)
                _refuse_truncated(name, promise, size)
                joined = is_joined_mp3(file, size) or (promise is not None and promise.joined)
                # libsndfile hears the first of several recordings, and nothing of a WAV that claims no data.
                is_for_av = joined or (head[:3] == b"RIF" and _claims_nothing(file, promise))
                has_length = (
                    flac_states_length(file) or b"Xing\0\0\0" in (start := mp3_head(file)[1]) or b"Info\0\0\0" in start
                )
                file.seek(0)
            except OSError as error:  # a network drive that is gone, a bad sector
                raise AudioError(
                    f"{name}: cannot be read ({error.strerror}); check the disk, or copy it again"
                ) from error
            decode = _decode_by_av if is_for_av else _decode
            waveform = decode(_Opened(name, handle, head, has_length), self)
        return self.apply(waveform)

    def apply(self, waveform: np.ndarray) -> np.ndarray:
        """What is done to every clip once it is decoded, in training and after: quiet ends cut, then the level set.

        Args:
            waveform: float32 of shape (samples,) at `sampling_rate`.

        Returns:
            float32 waveform of shape (samples,), at least one sample.
        """
        if self.trim_top_db is not None:
            import librosa  # takes seconds to load, and is not needed for a clip that is not trimmed

            waveform, _ = librosa.effects.trim(waveform, top_db=self.trim_top_db)
        if self.peak_db is not None:
            waveform = set_peak(waveform, self.peak_db)
        return np.ascontiguousarray(waveform, dtype=np.float32)  # (samples,)


def load_audio(source: AudioSource, **settings) -> np.ndarray:
    """Decode one clip.

    Args:
        source: a path, the bytes of a file, or a row's `{"bytes": ..., "path": ...}` (bytes win where both are given).
        settings: fields of `AudioPreparation` that differ from its defaults.

    Returns:
        float32 waveform of shape (samples,), at least one sample.

    Raises:
        AudioError: the file is missing, unreadable, empty, truncated, damaged, no audio, of a format soundfile cannot
            read, longer than `max_seconds`, without samples, or holds NaN or infinity; or a setting is illegal.
    """
    return AudioPreparation(**settings).load(source)


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
    return f"longer than {max_seconds:g} seconds; cut it into bursts, or raise max_seconds (--max_seconds)"


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


def is_shadow(path: str | os.PathLike) -> bool:
    """Whether a file is what file systems leave beside files: named like audio, but without sound."""
    parts = os.path.normpath(os.fspath(path)).split(os.sep)
    return parts[-1].startswith(SHADOWS) or "__MACOSX" in parts


def printable(text: str) -> str:
    """Text on one line: a newline, or a terminal's control sequence in a name, is spelled out."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


class _Opened(NamedTuple):
    """A file that is there, and what was seen of it before it is decoded."""

    name: str
    handle: bytes | BinaryIO
    head: bytes
    has_length: bool  # an MP3 or FLAC file that states it


def _decode(opened: _Opened, preparation: AudioPreparation) -> np.ndarray:
    """Read all samples, averaged over channels and resampled: float32 of shape (samples,)."""
    name, handle, head, has_length = opened
    try:
        with _Stream(handle) as file:
            rate, promised, container = file.samplerate, file.frames, file.format
            _check_rate(name, rate)
            blocks = _Blocks(name, _read_blocks(file), rate, preparation.max_seconds)
            waveform = _Resampler(rate, preparation.sampling_rate).all_of(blocks)
    except (sf.SoundFileError, TypeError) as error:  # TypeError: a path ending in .raw
        refusal = _undecodable(name, head, error)
        if refusal is None and has_length:  # it was libsndfile's to read
            refusal = _damaged(name, str(error))
        if refusal is not None:
            raise AudioError(refusal) from error
        return _decode_by_av(opened, preparation, error)
    # An MP3's length is only known where the encoder wrote it down; otherwise it is guessed from the bit rate.
    # A FLAC written to a pipe says 0, which libsndfile takes for as much as there can be.
    length_known = promised < _MAX_FRAMES if container != "MP3" else has_length
    if length_known and blocks.frames < promised * (1 - _LOST_SHARE):
        raise AudioError(
            f"{name}: truncated or damaged: {blocks.frames:,} of {promised:,} samples could be decoded; "
            "copy or export it again"
        )
    _check_samples(name, blocks)
    if not length_known or container in _UNSTATED:
        _say_unstated(name, container)
    return waveform


def _decode_by_av(opened: _Opened, preparation: AudioPreparation, first_error: Exception | None = None) -> np.ndarray:
    """As `_decode`, by PyAV."""
    name = opened.name
    try:
        source = AvBlocks(opened.handle)
    except ImportError as error:
        raise AudioError(f"{name}: soundfile cannot read it, PyAV perhaps can: {error}") from error
    except ValueError as error:
        raise AudioError(_damaged(name, str(first_error or error))) from error
    try:
        _check_rate(name, source.rate)
        blocks = _Blocks(name, source, source.rate, preparation.max_seconds)
        waveform = _Resampler(source.rate, preparation.sampling_rate).all_of(blocks)
    except AudioError:
        raise
    except ValueError as error:
        raise AudioError(_damaged(name, str(error))) from error
    finally:
        source.close()
    is_unstated = source.format in _AV_UNSTATED
    if source.damaged and not is_unstated:
        raise AudioError(_damaged(name, "its end cannot be decoded"))
    _check_samples(name, blocks)
    if is_unstated:
        _say_unstated(name, source.format)
    return waveform


def _check_rate(name: str, rate: int):
    if not _LEGAL_RATES[0] <= rate <= _LEGAL_RATES[1]:
        raise AudioError(f"{name}: its header says {rate:,} Hz, legal are 1,000 to 384,000; export it again")


def _check_samples(name: str, blocks: "_Blocks"):
    if not blocks.frames:
        raise AudioError(
            f"{name}: holds no samples (0 seconds): recorded so, or truncated; copy it again or leave it out"
        )


def _read_blocks(file: sf.SoundFile) -> Iterator[np.ndarray]:
    block_frames = max(1, _BLOCK_SAMPLES // file.channels)
    while len(block := file.read(block_frames, dtype="float32", always_2d=True)):  # (frames, channels)
        yield block[:, 0] if file.channels == 1 else block.mean(axis=1)


class _Stream(sf.SoundFile):
    """Read from its start to its end: soundfile seeks after each block, which not every codec can."""

    def seekable(self) -> bool:
        return False


class _Blocks:
    """Blocks of samples, float32 of shape (samples,), checked as they pass; `frames` counts them."""

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
                raise AudioError(f"{self._name}: {_too_long(self._max_seconds)}")
            yield mono


def _refuse_truncated(name: str, promise: Promise | None, size: int):
    """Compare what the header promises with what is there."""
    if promise is None:
        return
    present, promised = max(0, size - promise.start), promise.length
    if promised == UNKNOWN:
        _say_once("unknown length", f"{name}: its header leaves the length open; nothing vouches for its end")
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
        _say_once("unended", f"{name}: its last page is not marked as the end; nothing vouches for it")


def _claims_nothing(file: BinaryIO, promise: Promise | None) -> bool:
    if promise is None or promise.length != UNKNOWN:
        return False
    file.seek(promise.start - 4)
    return file.read(4) == bytes(4)


_said: set[str] = set()  # kinds of doubtful files that were named


def _say_unstated(name: str, container: str):
    _say_once(container, f"{name}: {container} files do not state their length; nothing vouches for its end")


def _say_once(kind: str, message: str):
    """One line for the first file of a kind: a corpus of browsers' recordings would fill the screen."""
    if kind not in _said:
        _said.add(kind)
        logger.warning("%s (said once; others like it are read as well)", message)


def _undecodable(name: str, head: bytes, error: Exception) -> str | None:
    """What is wrong with a file that cannot be audio; None where another decoder may read it."""
    if not head.strip(b"\0"):
        return f"{name}: no audio: the file starts with zeros only (an interrupted copy?); copy it again"
    if _looks_like_text(head):
        return f"{name}: no audio but text, starting {head[:24].decode(errors='replace')!r}; is it the right file?"
    return None if isinstance(error, sf.SoundFileError) else _damaged(name, str(error))


def _damaged(name: str, reason: str) -> str:
    reason = printable(reason.rpartition(": ")[2].strip().rstrip(".")) or "unknown format"
    if "File does not exist" in reason:  # what libsndfile says of an MP3 without a whole frame
        reason = "unknown format"
    return (
        f"{name}: cannot be decoded ({reason}): damaged, truncated, or no audio of a known format; "
        "copy or export it again"
    )


def _looks_like_text(head: bytes) -> bool:
    return all(byte in b"\t\n\r\f" or byte >= 32 for byte in head[:256])
