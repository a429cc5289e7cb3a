"""Loads one clip (file, bytes or array) as the waveform a model expects: mono float32, 16 kHz, trimmed, levelled.

Self-contained code for the Hub. It needs `recording_avb.py` beside it, numpy, soundfile (libsndfile) for decoding,
librosa for trimming, and soxr, which librosa depends on, for resampling. PyAV is imported only for files that
libsndfile cannot read. Unusual:

- A damaged or truncated file raises an `AudioError` that names it; it is never read in part. libsndfile alone would
  shorten a truncated WAV silently and stop early in a damaged MP3.
- Headers are not trusted. Samples are read in blocks up to `max_seconds`, so a header that claims 2^31 frames costs
  nothing. Each block is resampled at once, so ten minutes at 384 kHz, which can be a few kilobytes of FLAC, need no
  more memory than ten minutes at 16 kHz.
- `talk.wav#12.5-14`, a path with seconds, is a segment: only this part of the file is decoded, as a clip of its own.

The default level, a peak of -3 dBFS, is that of the processed release of HUME-VB (Baird et al. 2022, arXiv:2207.03572).
"""

import io
import os
import re
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

try:
    from .decoders_avb import AudioError, Resampler, too_long
    from .decoders_avb import AvbError as AvbError  # re-exported
    from .recording_avb import LEGAL_RATES, Segment, load_recordings, printable
except ImportError:  # imported from this folder, not from the Hub
    from decoders_avb import AudioError, Resampler, too_long
    from decoders_avb import AvbError as AvbError
    from recording_avb import LEGAL_RATES, Segment, load_recordings, printable

SAMPLING_RATE = 16_000  # Hz; the rate of every encoder used here
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".w64", ".rf64", ".wave",
    ".bwf", ".caf", ".mp2", ".voc", ".sph", ".nist", ".avr", ".svx", ".8svx", ".m4a", ".m4b", ".aac", ".mp4", ".3gp",
    ".3gpp", ".3g2", ".webm", ".weba", ".mkv", ".mka", ".mov", ".wma", ".amr", ".awb", ".ac3", ".eac3", ".sf", ".ircam",
    ".paf", ".fap", ".pvf", ".xi", ".sd2", ".sds", ".iff", ".16sv", ".htk", ".wve", ".wv", ".tta", ".ape", ".mpga",
    ".mp1", ".mpc", ".tak", ".asf", ".ra", ".rm", ".spx", ".loas", ".adts", ".m4r", ".3ga", ".caff", ".alac", ".dts",
    ".gsm", ".g722",
)  # fmt: skip
SHADOWS = ("._", ".DS_Store", "Thumbs.db", "desktop.ini")  # how names of file-system metadata start

AudioSource = str | os.PathLike | bytes | dict

MAX_SECONDS = 600.0  # default limit for a clip
MAX_VIEWS = 15  # number of views of a clip at prediction
FASTEST_VIEW = 1.14  # the fastest speed of several views of a clip
MAX_CHANNELS = 16  # in an array, to distinguish channels from samples

_SEGMENT = re.compile(r"(.+)#(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)?", re.DOTALL)


@dataclass(frozen=True)
class AudioPreparation:
    """How a clip is prepared for a model: sampling rate, trimming of quiet ends, level, and maximum duration.

    Args:
        sampling_rate: of the result, Hz.
        trim_top_db: trim both ends where they are more than this many dB below the loudest frame (positive; 60 trims
            only silence); None does not trim.
        peak_db: level of the highest absolute sample after trimming, dBFS; None keeps the recorded level. A clip of
            zeros remains zero.
        max_seconds: longest clip that is decoded, seconds.

    Raises:
        AudioError: a setting is invalid.
    """

    sampling_rate: int = SAMPLING_RATE
    trim_top_db: float | None = None
    peak_db: float | None = -3.0
    max_seconds: float = MAX_SECONDS

    def __post_init__(self):
        # Strings are refused where a file's settings are read, because that error can name the file.
        if isinstance(self.peak_db, (int, float)) and not self.peak_db <= 0:
            raise AudioError(f"peak_db must be at most 0 (dBFS) or None, got {self.peak_db!r}")
        if self.trim_top_db is not None and not self.trim_top_db > 0:
            raise AudioError(
                f"trim_top_db must be positive (dB below the loudest frame) or None, got {self.trim_top_db!r}"
            )
        if not self.max_seconds > 0:
            raise AudioError(f"max_seconds={self.max_seconds} is invalid (--max_seconds): it must be positive")

    @classmethod
    def of(cls, feature_extractor, max_seconds: float = MAX_SECONDS) -> "AudioPreparation":
        """The preparation that a model's feature extractor specifies."""
        return cls(
            feature_extractor.sampling_rate, feature_extractor.trim_top_db, feature_extractor.peak_db, max_seconds
        )

    def load(self, source: AudioSource) -> np.ndarray:
        """Decodes and prepares one clip; see `load_audio`."""
        name, file, handle, segment = open_source(source)
        with file:
            try:
                size = file.seek(0, os.SEEK_END)
                if size == 0:
                    raise AudioError(f"{name}: the file is empty (0 bytes); copy or record it again")
                waveform = load_recordings(
                    name, file, size, handle, self.sampling_rate, self.max_seconds, segment=segment
                )
            except OSError as error:  # a disconnected network drive, a bad sector
                raise AudioError(
                    f"{name}: cannot be read ({error.strerror}); check the disk, or copy it again"
                ) from error
        return self.apply(waveform)

    def apply(self, waveform: np.ndarray) -> np.ndarray:
        """Prepares a decoded clip, in training and at prediction: trims quiet ends, then sets the level.

        Args:
            waveform: float32 of shape (samples,) at `sampling_rate`.

        Returns:
            float32 waveform of shape (samples,), at least one sample.
        """
        if self.trim_top_db is not None:
            import librosa  # takes seconds to load, and is only needed for trimming

            waveform, _ = librosa.effects.trim(waveform, top_db=self.trim_top_db)
        if self.peak_db is not None:
            waveform = set_peak(waveform, self.peak_db)
        return np.ascontiguousarray(waveform, dtype=np.float32)  # (samples,)


def load_audio(source: AudioSource, **settings) -> np.ndarray:
    """Decodes one clip.

    Args:
        source: a path (`talk.wav#12.5-14` is this part of the file, in s), the bytes of a file, or a row's
            `{"bytes": ..., "path": ...}` (if both are given, the bytes are used).
        settings: fields of `AudioPreparation` that differ from its defaults.

    Returns:
        float32 waveform of shape (samples,), at least one sample.

    Raises:
        AudioError: the file is missing, unreadable, empty, truncated, damaged, not audio, in an unsupported format,
            longer than `max_seconds`, without samples, or contains NaN or infinity; or a setting is invalid.
    """
    return AudioPreparation(**settings).load(source)


def split_segment(path: str) -> tuple[str, Segment | None]:
    """`talk.wav#12.5-14` → `talk.wav` and its segment. None if there is no segment, or if a file has this name."""
    match = _SEGMENT.fullmatch(path)
    if match is None or os.path.exists(path):
        return path, None
    return match[1], Segment(float(match[2]), float(match[3]) if match[3] else None)


def waveform_from_array(
    array: np.ndarray, rate: float, *, sampling_rate: int = SAMPLING_RATE, max_seconds: float = MAX_SECONDS
) -> np.ndarray:
    """Converts decoded samples to what `load_audio` returns without trimming and levelling.

    Args:
        array: shape (samples,), or (samples, channels) or (channels, samples), whose channels are averaged; floats, or
            integers whose full scale is that of their type, as in a WAV file.
        rate: sampling rate of the array, Hz.
        sampling_rate: of the result, Hz.
        max_seconds: longest clip that is accepted, seconds.

    Returns:
        float32 waveform of shape (samples,), at least one sample.

    Raises:
        AudioError: empty, too long, not numeric, NaN or infinity in the array; or its shape or rate is invalid.
    """
    array = np.asarray(array)
    if array.ndim != 1 and not (array.ndim == 2 and min(array.shape) <= MAX_CHANNELS < max(array.shape)):
        raise AudioError(f"<array>: its shape is {array.shape}; give (samples,), or (samples, channels)")
    check_array_rate(rate)
    if not array.size:
        raise AudioError("<array>: contains no samples (0 seconds); leave it out")
    if max(array.shape) > max_seconds * rate:
        raise AudioError(f"<array>: {too_long(max_seconds)}")
    array = mono_samples(array, channel_axis=int(np.argmin(array.shape)))
    return np.ascontiguousarray(Resampler(rate, sampling_rate).all_of([array]))


def check_array_rate(rate: Any):
    """Raises an AudioError if the sampling rate given with samples (Hz) is not one."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)):
        raise AudioError(f"<array>: sampling_rate={rate!r} is not a number (in Hz)")
    if not LEGAL_RATES[0] <= rate <= LEGAL_RATES[1]:
        raise AudioError(f"<array>: sampling_rate={rate!r} is invalid: it must be 1,000 to 384,000 (Hz)")


def mono_samples(array: np.ndarray, channel_axis: int = 1) -> np.ndarray:
    """Converts decoded samples to float32 of shape (samples,) at the same rate.

    Args:
        array: shape (samples,), or 2-D with channels, which are averaged; floats, or integers whose full scale is that
            of their type, as in a WAV file.
        channel_axis: of a 2-D array.

    Raises:
        AudioError: it has another shape, is not numeric, or contains NaN or infinity.
    """
    if array.dtype.kind not in "fi":
        raise AudioError(f"<array>: its type is {array.dtype}; give floats in [-1, 1] or signed integers")
    if array.ndim not in (1, 2):
        raise AudioError(f"<array>: its shape is {array.shape}; give (samples,), or (samples, channels)")
    if array.dtype.kind == "i":
        array = array / -float(np.iinfo(array.dtype).min)
    if array.ndim == 2:
        array = array.mean(axis=channel_axis)
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise AudioError(f"<array>: sample {int(np.argmin(np.isfinite(array))):,} is NaN or infinite")
    return array


def set_peak(waveform: np.ndarray, peak_db: float) -> np.ndarray:
    """Scales a waveform so that its highest absolute sample is `peak_db` dBFS; zeros remain zeros.

    Args:
        waveform: float32, shape (samples,).
        peak_db: dB relative to full scale (1.0).
    """
    peak = np.abs(waveform).max(initial=0.0)
    # Divided first: 1 / peak overflows for the subnormal peaks of near-silent recordings.
    return waveform / peak * np.float32(10 ** (peak_db / 20)) if peak > 0 else waveform


def check_views(views: Any, name: str):
    """Raises an AvbError that names the argument if a number of views is not in 1 to `MAX_VIEWS`."""
    if not (isinstance(views, int) and 1 <= views <= MAX_VIEWS):
        raise AvbError(f"{name} {views!r} is invalid: it must be 1 to {MAX_VIEWS}")


def speed_views(waveform: np.ndarray, views: int) -> list[np.ndarray]:
    """The clip at `views` playback speeds, whose scores are averaged at prediction (test-time augmentation).

    Args:
        waveform: float32, shape (samples,), prepared.
        views: number of speeds, evenly spaced on a logarithmic scale from 1 / 1.14 to 1.14; duration, pitch and
            formants change together. If it is odd, the middle one is the unchanged clip; 1 gives only that clip.
    """
    if views == 1:
        return [waveform]
    import soxr  # imported here, because scoring a single view does not need it

    played = [
        waveform
        if round(speed, 6) == 1
        else soxr.resample(waveform, SAMPLING_RATE * speed, SAMPLING_RATE, quality="MQ").astype(np.float32)
        for speed in np.geomspace(1 / FASTEST_VIEW, FASTEST_VIEW, views)
    ]
    return [view if len(view) else waveform for view in played]


class _Bytes(io.BytesIO):
    """Bytes for libsndfile, which seeks before the start of a damaged file and cannot handle Python errors."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return 0


def open_source(source: AudioSource) -> tuple[str, BinaryIO, bytes | BinaryIO, Segment | None]:
    """Opens a source. Returns its name for messages, an open binary file, the input for libsndfile (the path, if there
    is one), and the requested segment.

    Raises:
        AudioError: there is no such file, or it cannot be opened.
    """
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
        return printable(str(path or f"<{len(source)} bytes>")), file, file, None

    assert path is not None  # there is one if there are no bytes
    try:
        path = os.fsencode(path)  # as bytes, because a name may not be UTF-8
    except UnicodeEncodeError as error:
        raise AudioError(f"{path!a}: not a valid file name; correct it") from error
    name = printable(path.decode("utf-8", "backslashreplace"))
    file_path, segment = split_segment(os.fsdecode(path))
    if segment is not None:
        path = os.fsencode(file_path)
        if segment.end is not None and not segment.start < segment.end:
            raise AudioError(f"{name}: the segment must end after it starts; correct it, or leave it out")
    if not os.path.exists(path):
        raise AudioError(f"{name}: no such file; check the path, and which folder the table's paths are relative to")
    if not os.path.isfile(path):  # a pipe would block forever
        raise AudioError(f"{name}: not a regular file; give the path of one audio file")
    try:
        return name, open(path, "rb"), path, segment
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror}); check its permissions") from error


def is_shadow(path: str | os.PathLike) -> bool:
    """Whether a file is metadata that a file system wrote beside a file: named like audio, but without sound."""
    parts = os.path.normpath(os.fspath(path)).split(os.sep)
    return parts[-1].startswith(SHADOWS) or "__MACOSX" in parts
