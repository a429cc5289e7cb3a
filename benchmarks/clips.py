"""Clips for benchmarks: synthetic bursts of a falling tone in noise, of mixed length. No person was recorded."""

from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import soundfile as sf


def make_burst(generator: np.random.Generator, seconds: float, rate: int = 16_000) -> np.ndarray:
    """float32 (samples,): silence, a harmonic tone that falls and fades, silence, all in faint noise."""
    samples = max(1, round(seconds * rate))
    time = np.arange(samples, dtype=np.float32) / rate
    pitch = generator.uniform(120, 500) * np.exp(-time * generator.uniform(0, 1))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    weights = generator.uniform(0, 1, 4)
    tone = sum(weight * np.sin(order * phase) for order, weight in enumerate(weights, 1))
    onset, end = generator.uniform(0, 0.3), generator.uniform(0.6, 1)
    position = np.arange(samples) / samples
    burst = tone * np.exp(-2 * position) * ((position >= onset) & (position < end))
    noise = generator.standard_normal(samples, dtype=np.float32)
    return (0.1 * burst + 10 ** generator.uniform(-4, -2) * noise).astype(np.float32)


def make_folder(folder: Path, count: int, low: float, high: float, rate: int = 16_000, suffix: str = ".wav") -> Path:
    """`count` files of `low` to `high` seconds, the same ones every time; many of them in several processes."""
    folder.mkdir(parents=True)
    write = partial(_write, folder, low, high, rate, suffix)
    with ProcessPoolExecutor() if count > 500 else nullcontext() as pool:
        list(pool.map(write, range(count), chunksize=100) if pool else map(write, range(count)))
    return folder


def _write(folder: Path, low: float, high: float, rate: int, suffix: str, number: int):
    generator = np.random.default_rng(number)
    sf.write(folder / f"{number:06d}{suffix}", make_burst(generator, generator.uniform(low, high), rate), rate)
