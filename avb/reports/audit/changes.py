"""What happens to recordings between a mouth and a file: changes that leave a clip's emotion what it is.

Each takes a 16 kHz waveform as it was recorded and gives the changed one; what is random comes from a generator that
the clip alone seeds, so that two models, and a model and its export, hear the very same clips. The kinds are those of
Derington et al. (2023), "Testing Speech Emotion Recognition Machine Learning Models", arXiv:2312.06270.
"""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import soundfile as sf

from audio_avb import SAMPLING_RATE, load_audio
from avb.errors import AvbError
from avb.inference.clips import find_paths

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
BACKGROUND_DB = 15.0  # level of background speech below the clip

# Sampling rate in Hz, and arguments for soundfile (libsndfile), of lossy formats.
_CODECS: dict[str, tuple[int, dict]] = {
    "mp3": (SAMPLING_RATE, {"format": "MP3", "compression_level": 0.9}),
    "opus": (SAMPLING_RATE, {"format": "OGG", "subtype": "OPUS", "compression_level": 0.9}),
    "mu-law, 8 kHz": (8_000, {"format": "WAV", "subtype": "ULAW"}),
}


def gain(waveform: np.ndarray, draw: np.random.Generator, decibels: float) -> np.ndarray:
    """Makes the clip softer, as from another distance or microphone, then rounds it to 16 bits."""
    softer = waveform * 10 ** (decibels / 20)
    return (np.round(softer * 32_767) / 32_767).astype(np.float32)


def noise(waveform: np.ndarray, draw: np.random.Generator, decibels: float, slope: float = 0.0) -> np.ndarray:
    """Adds stationary noise `decibels` below the clip; its spectral density falls as frequency to the power `slope`."""
    spectrum = np.fft.rfft(draw.standard_normal(len(waveform)))
    frequencies = np.maximum(np.fft.rfftfreq(len(waveform), 1 / SAMPLING_RATE), 20)
    return _add(waveform, np.fft.irfft(spectrum * frequencies ** (-slope / 2), len(waveform)), decibels)


def rate(waveform: np.ndarray, draw: np.random.Generator, hertz: int) -> np.ndarray:
    """Simulates a lower sampling rate: frequencies above half of it are lost."""
    low = librosa.resample(waveform, orig_sr=SAMPLING_RATE, target_sr=hertz, res_type="soxr_hq")
    back = librosa.resample(low, orig_sr=hertz, target_sr=SAMPLING_RATE, res_type="soxr_hq")
    return librosa.util.fix_length(back, size=len(waveform))


def codec(waveform: np.ndarray, draw: np.random.Generator, name: str) -> np.ndarray:
    """Encodes the clip in a lossy format and decodes it again."""
    hertz, settings = _CODECS[name]
    clip = librosa.resample(waveform, orig_sr=SAMPLING_RATE, target_sr=hertz, res_type="soxr_hq")
    with io.BytesIO() as file:
        sf.write(file, np.clip(clip, -1, 1), hertz, **settings)
        return load_audio(file.getvalue(), peak_db=None, max_seconds=np.inf)


def reverberation(waveform: np.ndarray, draw: np.random.Generator, seconds: float) -> np.ndarray:
    """Adds a room that decays by 60 dB in `seconds`: decaying noise (Polack) with the energy of the direct sound."""
    time = np.arange(int(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    tail = draw.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response = np.concatenate([[1.0], tail / np.linalg.norm(tail)])
    size = len(waveform) + len(response) - 1
    wet = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(response, size), size)
    return (wet / max(1.0, np.abs(wet).max())).astype(np.float32)


def clipping(waveform: np.ndarray, draw: np.random.Generator, decibels: float) -> np.ndarray:
    """Overdrives the clip by `decibels`, so that peaks are clipped."""
    limit = np.abs(waveform).max() * 10 ** (-decibels / 20)
    return np.clip(waveform, -limit, limit)


def cut(waveform: np.ndarray, draw: np.random.Generator, start: float, end: float) -> np.ndarray:
    """Trims the clip too tightly: removes these shares of it at the start and at the end."""
    return waveform[int(start * len(waveform)) : max(1, int((1 - end) * len(waveform)))]


def silence(waveform: np.ndarray, draw: np.random.Generator, seconds: float) -> np.ndarray:
    """Simulates an untrimmed clip: adds `seconds` of silence before and after it."""
    return np.pad(waveform, int(seconds * SAMPLING_RATE))


CHANGES: dict[str, Change] = {
    "gain -20 dB": partial(gain, decibels=-20),
    "gain -40 dB": partial(gain, decibels=-40),
    "white noise, 30 dB below": partial(noise, decibels=30),
    "white noise, 15 dB below": partial(noise, decibels=15),
    "pink noise, 15 dB below": partial(noise, decibels=15, slope=1.0),
    "rate 8 kHz": partial(rate, hertz=8_000),
    **{f"codec {name}": partial(codec, name=name) for name in _CODECS},
    "reverberation 0.3 s": partial(reverberation, seconds=0.3),
    "reverberation 1 s": partial(reverberation, seconds=1.0),
    "clipping 10 dB": partial(clipping, decibels=10),
    "first tenth cut off": partial(cut, start=0.1, end=0),
    "last tenth cut off": partial(cut, start=0, end=0.1),
    "half a second of silence around": partial(silence, seconds=0.5),
}


def backgrounds(folder: str | Path) -> dict[str, Change]:
    """One change per language: speech from each sub-folder of recordings is added to the clips, 15 dB below them.

    Raises:
        AvbError: no sub-folder contains audio.
    """
    parts = sorted(part for part in Path(folder).iterdir() if part.is_dir()) if Path(folder).is_dir() else []
    found = {part.name: find_paths([str(part)]) for part in parts}
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        raise AvbError(f"--background {folder}: give a folder with a sub-folder of recordings per language")
    return {f"{name} behind, 15 dB below": partial(_behind, paths=paths) for name, paths in found.items()}


def _behind(waveform: np.ndarray, draw: np.random.Generator, paths: list[str]) -> np.ndarray:
    speech = load_audio(paths[draw.integers(len(paths))], peak_db=None)
    start = draw.integers(max(1, len(speech) - len(waveform)))
    return _add(waveform, np.resize(speech[start:], len(waveform)), BACKGROUND_DB)  # repeated if it is shorter


def _add(waveform: np.ndarray, other: np.ndarray, decibels: float) -> np.ndarray:
    """Adds another sound, `decibels` below the clip by root mean square; scales the result to [-1, 1] if needed."""
    level, other_level = (np.sqrt(np.mean(np.square(part, dtype=np.float64))) for part in (waveform, other))
    if not other_level:
        return waveform
    joined = waveform + other * (level / other_level * 10 ** (-decibels / 20))
    return (joined / max(1.0, np.abs(joined).max())).astype(np.float32)
