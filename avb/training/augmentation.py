"""Augmentation of training clips: random changes that keep the label, and mixtures that also mix the labels.

`avb.training.draws` draws the changes. This module applies them to one clip, in NumPy, after it is read from disk;
`avb.training.batched_changes` does the same for a batch of clips in a device's memory.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import librosa
import numpy as np
import torch
from datasets import Dataset

from audio_avb import SAMPLING_RATE
from avb.errors import AvbError
from avb.training.draws import (
    EQUALIZER_POINTS,
    MIXUP,
    NOISE_SAMPLES,
    Augmentation,
    Equalizer,
    Gain,
    Mix,
    Mixup,
    Noise,
    Pitch,
    Rate,
    Shift,
)

EQUALIZER_TAIL = 1024  # samples of silence behind a clip, into which the filter rings
_SHORTEST_FOR_PITCH = 2048  # samples: two windows of the phase vocoder

# ---- one clip, changed: (waveform (samples,), the change, how other rows' waveforms are read) → the waveform --------

Read = Callable[[int], np.ndarray]


def change_rate(waveform: np.ndarray, change: Rate, read: Read) -> np.ndarray:
    """Plays the clip 0.85 to 1.15 times as fast: duration, pitch and formants change together (Ko et al. 2015)."""
    return play(waveform, change.rate, change.samples)


def change_pitch(waveform: np.ndarray, change: Pitch, read: Read) -> np.ndarray:
    """Moves the pitch by up to 2 semitones and keeps the duration."""
    if len(waveform) < _SHORTEST_FOR_PITCH:
        return waveform
    return librosa.effects.pitch_shift(
        waveform, sr=SAMPLING_RATE, n_steps=change.semitones, n_fft=1024, res_type="soxr_mq"
    )


def shift_in_time(waveform: np.ndarray, change: Shift, read: Read) -> np.ndarray:
    """Starts the clip up to 0.2 s later, after silence, or up to a tenth of it earlier, which is then lost."""
    if change.pause == 0:
        return waveform[change.skipped :]
    return np.concatenate([np.zeros(change.pause, np.float32), waveform])


def mix_in(waveform: np.ndarray, change: Mix, read: Read) -> np.ndarray:
    """Lays another train clip under this one, 10 to 25 dB lower; where it begins is random."""
    return waveform + _at_level(waveform, _excerpt(read, change), change.decibels)


def add_noise(waveform: np.ndarray, change: Noise, read: Read) -> np.ndarray:
    """Adds white noise, 10 to 40 dB below the clip."""
    noise = white_noise().take(np.arange(change.start, change.start + len(waveform)), mode="wrap")
    return waveform + _at_level(waveform, noise, change.decibels)


def equalize(waveform: np.ndarray, change: Equalizer, read: Read) -> np.ndarray:
    """Makes parts of the spectrum up to 6 dB louder or softer: a smooth curve through six points, 50 Hz to 8 kHz."""
    size = -(-(len(waveform) + EQUALIZER_TAIL) // EQUALIZER_TAIL) * EQUALIZER_TAIL  # a size that an FFT likes
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLING_RATE)
    decibels = np.interp(np.log(np.maximum(frequencies, 1)), np.log(EQUALIZER_POINTS), change.decibels)
    spectrum = np.fft.rfft(waveform, size) * (10 ** (decibels / 20)).astype(np.float32)
    return np.fft.irfft(spectrum, size)[: len(waveform)].astype(np.float32)


def change_gain(waveform: np.ndarray, change: Gain, read: Read) -> np.ndarray:
    """Makes the clip up to 12 dB softer. Without effect where the feature extractor normalises each clip."""
    return waveform * np.float32(10 ** (-change.decibels / 20))


def mix_up(waveform: np.ndarray, change: Mixup, read: Read) -> np.ndarray:
    """Mixes the clip with an excerpt of another one, both at one level."""
    return change.share * waveform + (1 - change.share) * _at_level(waveform, _excerpt(read, change), 0)


CHANGES: dict[str, Callable[[np.ndarray, Any, Read], np.ndarray]] = {
    "rate": change_rate,
    "pitch": change_pitch,
    "shift": shift_in_time,
    "mix": mix_in,
    "noise": add_noise,
    "equalizer": equalize,
    "gain": change_gain,
    MIXUP: mix_up,
}


class AugmentedClips(torch.utils.data.Dataset):
    """Train rows whose `input_values` change from epoch to epoch; columns and the number of rows stay.

    Args:
        rows: decoded train split, with `input_values` waveforms at 16 kHz and `num_samples`; for `mixup` with `labels`
            of (labels,) floats.
        names: see `Augmentation`.
        prob: see `Augmentation`.
        seed: see `Augmentation`.

    Raises:
        AvbError: an unknown name, a probability outside 0 to 1, or rows that hold features instead of waveforms.
    """

    def __init__(self, rows: Dataset, names: Sequence[str], prob: float = 0.5, seed: int = 42):
        if "input_values" not in rows.column_names:
            raise AvbError("--augment changes waveforms, and this model is trained on features of them: leave it out")
        self.rows = rows
        self.augmentation = Augmentation(rows["num_samples"][:], names, prob, seed)

    def set_epoch(self, epoch: int):
        self.augmentation.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str):
        if isinstance(key, str):  # a column; the lengths that batches are made by stay those of the rows
            return self.rows[key]
        row, others = self.rows[key], dict[int, dict]()

        def read(clip: int) -> np.ndarray:
            others[clip] = self.rows[clip]
            return _waveform(others[clip])

        waveform, changes = _waveform(row), self.augmentation.draw(key).changes
        for name, change in changes.items():
            waveform = CHANGES[name](waveform, change, read)
        if MIXUP in changes:
            row = row | {"labels": mix_labels(row["labels"], others[changes[MIXUP].clip]["labels"], changes[MIXUP])}
        return row | {"input_values": waveform.astype(np.float32), "num_samples": len(waveform)}


def mix_labels(own, others, change: Mixup) -> np.ndarray:
    """(labels,) of a mixture: missing where they are missing in one of the two."""
    return (change.share * np.asarray(own) + (1 - change.share) * np.asarray(others)).astype(np.float32)


def play(waveform: np.ndarray, rate: float, samples: int) -> np.ndarray:
    """The clip `rate` times as fast, in so many samples."""
    played = librosa.resample(waveform, orig_sr=SAMPLING_RATE * rate, target_sr=SAMPLING_RATE, res_type="soxr_mq")
    return librosa.util.fix_length(played, size=samples)


@cache
def white_noise() -> np.ndarray:
    """`NOISE_SAMPLES` of it, the same in every process: standard deviation 1."""
    noise = np.random.default_rng(0).standard_normal(NOISE_SAMPLES, dtype=np.float32)
    noise.flags.writeable = False
    return noise


def _waveform(row: Mapping) -> np.ndarray:
    return np.asarray(row["input_values"], dtype=np.float32)


def _excerpt(read: Read, change: Mix | Mixup) -> np.ndarray:
    return read(change.clip)[change.start : change.start + change.samples]


def _at_level(waveform: np.ndarray, addition: np.ndarray, decibels: float) -> np.ndarray:
    """`addition` at a level of so many dB below the waveform's (root mean square), padded by zeros on the right."""
    power = np.square(addition).mean()
    if power == 0:
        return np.zeros(len(waveform), np.float32)
    scale = np.sqrt(np.square(waveform).mean() / power) * 10 ** (-decibels / 20)
    return np.pad(addition * np.float32(scale), (0, len(waveform) - len(addition)))
