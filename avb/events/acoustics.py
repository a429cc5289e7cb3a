"""Noise, and what rooms, microphones and telephones do to a recording; drawn from a random generator."""

import numpy as np
import soxr
from scipy.signal import oaconvolve

from audio_avb import SAMPLING_RATE


def noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """White, pink or brown noise, or in between, sometimes with hum or a slow swell; unit level; float32 (length,)."""
    size = min(length, 1 << 16)  # 4 s, repeated
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequency = np.fft.rfftfreq(size, 1 / SAMPLING_RATE)
    spectrum *= np.maximum(frequency, 20.0) ** -rng.uniform(0, 1.1)
    if rng.random() < 0.3:  # keep one band
        low = 10 ** rng.uniform(1.5, 3.3)
        spectrum[(frequency < low) | (frequency > low * rng.uniform(2, 20))] *= 0.03
    track = np.resize(np.fft.irfft(spectrum, size), length)
    time = np.arange(length) / SAMPLING_RATE
    track /= np.sqrt(np.square(track).mean()) + 1e-9
    if rng.random() < 0.2:
        base = rng.choice([50, 60, rng.uniform(80, 400)])
        track += rng.uniform(0.2, 1.5) * sum(np.sin(2 * np.pi * base * k * time) / k for k in (1, 2, 3, 5))
    if rng.random() < 0.3:
        track *= 1 + rng.uniform(0, 0.9) * np.sin(2 * np.pi * (rng.uniform(0.05, 2) * time + rng.random()))
    return track.astype(np.float32)


def through_a_channel(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Puts (samples,) through a room, a dull, bright, uneven or overdriven microphone, a telephone, each at random."""
    length = len(scene)
    if rng.random() < 0.3:
        scene = _room(scene, rng)
    if rng.random() < 0.5:
        scene = scene + rng.uniform(-0.6, 0.6) * np.r_[0, scene[:-1]].astype(np.float32)
    if rng.random() < 0.4:
        scene = _uneven(scene, rng)
    if rng.random() < 0.1:
        most = np.abs(scene).max(initial=1e-9) * rng.uniform(0.15, 0.6)
        scene = most * np.tanh(scene / most)
    if rng.random() < 0.25:
        rate = int(rng.choice([8_000, 8_000, 11_025]))
        narrow = soxr.resample(soxr.resample(scene, SAMPLING_RATE, rate, quality="LQ"), rate, SAMPLING_RATE, "LQ")
        scene = np.pad(narrow, (0, max(0, length - len(narrow))))[:length]
    return scene.astype(np.float32)


def _room(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds echoes that decay by 60 dB within 0.1 to 0.8 s and are at most as loud as the direct sound."""
    seconds = rng.uniform(0.1, 0.8)
    time = np.arange(int(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    echoes = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    echoes *= 10 ** (rng.uniform(-18, 0) / 20) / np.sqrt(np.square(echoes).sum())
    echoes[0] = 1.0
    return oaconvolve(scene, echoes.astype(np.float32))[: len(scene)]


def _uneven(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes each octave from 62 Hz to 8 kHz louder or softer by up to 8 dB, with smooth steps in between."""
    gains = rng.uniform(-8, 8, 8)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(scene), 1 / SAMPLING_RATE), 1.0) / 62.5)
    spectrum = np.fft.rfft(scene) * 10 ** (np.interp(octaves, np.arange(8), gains) / 20)
    return np.fft.irfft(spectrum, len(scene)).astype(np.float32)
