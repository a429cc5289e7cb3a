"""Tones of rising pitch, and the tasks that the tests of the baselines set on them."""

import numpy as np
from datasets import Dataset, concatenate_datasets

from avb.tasks import Task, get_task

TYPE = get_task("type")
RATINGS = Task("ratings", "regression", ("calm", "tense"), label_range=(1.0, 7.0))


def tone_clips(count: int, samples: int = 4000) -> list[np.ndarray]:
    """Tones of rising pitch in noise: what tells them apart is easy to hear."""
    noise = np.random.default_rng(0).standard_normal((count, samples)) * 0.01
    pitch = np.geomspace(150, 1500, count)[:, None]  # Hz
    return list((0.5 * np.sin(2 * np.pi * pitch * np.arange(samples) / 16_000) + noise).astype(np.float32))


def tone_split(count: int = 6, samples: int = 3000) -> Dataset:
    """What decoding gives: waveforms in a table of their own, joined to the rows side by side."""
    waveforms = Dataset.from_dict({"input_values": tone_clips(count, samples), "num_samples": [samples] * count})
    ids = [str(number) for number in range(count)]
    rows = Dataset.from_dict({"id": ids, "labels": [[number / count, 0.5] for number in range(count)]})
    joined = concatenate_datasets([rows, waveforms], axis=1)
    return joined.with_format("numpy", columns=["input_values"], output_all_columns=True)
