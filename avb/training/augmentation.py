"""Random changes to a train clip that leave its label what it is, and mixtures that mix the labels too.

Each is drawn by itself, with the common probability or its own (`noise:0.3`). What is drawn depends on the seed, the
epoch and the clip alone, so that a run that goes on in mid-epoch, or on another number of devices, hears the very same
clips.
"""

from collections.abc import Callable, Sequence

import librosa
import numpy as np
import torch
from datasets import Dataset

from audio_avb import SAMPLING_RATE
from avb.errors import AvbError, did_you_mean

LONGEST_PAUSE = 0.2  # seconds of silence that `shift` puts before a clip
EQUALIZER_TAIL = 1024  # samples of silence behind a clip, into which the filter rings
_SHORTEST_FOR_PITCH = 2048  # samples: two windows of the phase vocoder

Draw = np.random.Generator
Transform = Callable[[np.ndarray, Draw, Callable[[], np.ndarray]], np.ndarray]


def change_rate(waveform: np.ndarray, draw: Draw, other: Callable[[], np.ndarray]) -> np.ndarray:
    """Plays the clip 0.85 to 1.15 times as fast: duration, pitch and formants change together (Ko et al. 2015)."""
    rate = draw.uniform(0.85, 1.15)
    changed = librosa.resample(waveform, orig_sr=SAMPLING_RATE * rate, target_sr=SAMPLING_RATE, res_type="soxr_mq")
    return changed if len(changed) else waveform


def change_pitch(waveform: np.ndarray, draw: Draw, other: Callable[[], np.ndarray]) -> np.ndarray:
    """Moves the pitch by up to 2 semitones and keeps the duration."""
    steps = draw.uniform(-2, 2)
    if len(waveform) < _SHORTEST_FOR_PITCH:
        return waveform
    return librosa.effects.pitch_shift(waveform, sr=SAMPLING_RATE, n_steps=steps, n_fft=1024, res_type="soxr_mq")


def shift_in_time(waveform: np.ndarray, draw: Draw, other: Callable[[], np.ndarray]) -> np.ndarray:
    """Starts the clip up to 0.2 s later, after silence, or up to a tenth of it earlier, which is then lost."""
    shift = draw.uniform(-1, 1)
    if shift < 0:
        return waveform[int(-shift * 0.1 * len(waveform)) :]
    return np.concatenate([np.zeros(int(shift * LONGEST_PAUSE * SAMPLING_RATE), np.float32), waveform])


def mix_in(waveform: np.ndarray, draw: Draw, other: Callable[[], np.ndarray]) -> np.ndarray:
    """Lays another train clip under this one, 10 to 25 dB lower; where it begins is random."""
    second = _excerpt(other(), len(waveform), draw)
    return waveform + _at_level(waveform, second, draw.uniform(10, 25), pad_to=len(waveform))


def add_noise(waveform: np.ndarray, draw: Draw, other: Callable[[], np.ndarray]) -> np.ndarray:
    """Adds white noise, 10 to 40 dB below the clip."""
    noise = draw.standard_normal(len(waveform), dtype=np.float32)
    return waveform + _at_level(waveform, noise, draw.uniform(10, 40), pad_to=len(waveform))


def equalize(waveform: np.ndarray, draw: Draw, other: Callable[[], np.ndarray]) -> np.ndarray:
    """Makes parts of the spectrum up to 6 dB louder or softer: a smooth curve through six points, 50 Hz to 8 kHz."""
    size = -(-(len(waveform) + EQUALIZER_TAIL) // EQUALIZER_TAIL) * EQUALIZER_TAIL  # a size that an FFT likes
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLING_RATE)
    points = np.geomspace(50, SAMPLING_RATE / 2, 6)
    decibels = np.interp(np.log(np.maximum(frequencies, 1)), np.log(points), draw.uniform(-6, 6, len(points)))
    spectrum = np.fft.rfft(waveform, size) * (10 ** (decibels / 20)).astype(np.float32)
    return np.fft.irfft(spectrum, size)[: len(waveform)].astype(np.float32)


def change_gain(waveform: np.ndarray, draw: Draw, other: Callable[[], np.ndarray]) -> np.ndarray:
    """Makes the clip up to 12 dB softer. Without effect where the feature extractor normalises each clip."""
    return waveform * np.float32(10 ** (-draw.uniform(0, 12) / 20))


AUGMENTATIONS: dict[str, Transform] = {  # in the order in which they are applied
    "rate": change_rate,
    "pitch": change_pitch,
    "shift": shift_in_time,
    "mix": mix_in,
    "noise": add_noise,
    "equalizer": equalize,
    "gain": change_gain,
}


MIXUP = "mixup"  # comes after them
MIXUP_ALPHA = 0.4  # of the beta distribution that a clip's share is drawn from


class AugmentedClips(torch.utils.data.Dataset):
    """Train rows whose `input_values` change from epoch to epoch; columns and the number of rows stay.

    With `mixup` (Zhang et al. 2018, arXiv:1710.09412) labels change too: λ × a clip and its labels + (1 - λ) × another
    one, both at one level; λ ≥ 0.5, and the other one is cut to the first one's duration.

    Args:
        rows: decoded train split, with `input_values` waveforms at 16 kHz; for
            `mixup` with `labels` of (labels,) floats.
        names: of the transformations, keys of `AUGMENTATIONS`, or `mixup`; `NAME:PROB` has its own probability.
        prob: probability of each of the others, for each clip and epoch.
        seed: of what is drawn.

    Raises:
        AvbError: an unknown name, a probability outside 0 to 1, or rows that hold features instead of waveforms.
    """

    def __init__(self, rows: Dataset, names: Sequence[str], prob: float = 0.5, seed: int = 42):
        if not 0 <= prob <= 1:
            raise AvbError(f"--augment_prob {prob} is not a probability: give 0 to 1")
        probs = read_augmentations(names, prob)
        if "input_values" not in rows.column_names:
            raise AvbError("--augment changes waveforms, and this model is trained on features of them: leave it out")
        self.rows, self.seed = rows, seed
        # In memory that loader workers share: those that live on between epochs draw the new one's changes.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self.transforms = [(probs[name], transform) for name, transform in AUGMENTATIONS.items() if name in probs]
        self.mixup_prob = probs.get(MIXUP)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int):
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str):
        if isinstance(key, str):  # a column; the lengths that batches are made by stay those of the rows
            return self.rows[key]
        row = self.rows[key]
        draw = np.random.default_rng((self.seed, self.epoch, key))
        waveform = _waveform(row)
        for prob, transform in self.transforms:
            if draw.random() < prob:
                waveform = transform(waveform, draw, lambda: _waveform(self._other(draw)))
        if self.mixup_prob is not None and draw.random() < self.mixup_prob:
            waveform, labels = mix_labels(waveform, row["labels"], self._other(draw), draw)
            row = row | {"labels": labels}
        return row | {"input_values": waveform.astype(np.float32), "num_samples": len(waveform)}

    def _other(self, draw: Draw) -> dict:
        return self.rows[int(draw.integers(len(self.rows)))]


def read_augmentations(names: Sequence[str], prob: float) -> dict[str, float]:
    """`["rate", "noise:0.3"]` → each one's probability; `prob` where it has none of its own.

    Raises:
        AvbError: an unknown name, one that is given twice, or no probability from 0 to 1.
    """
    legal, probs = (*AUGMENTATIONS, MIXUP), {}
    for item in names:
        name, colon, own = item.partition(":")
        if name not in legal:
            raise AvbError(f"--augment {name!r} is unknown{did_you_mean(name, legal, 'Legal')}")
        if name in probs:
            raise AvbError(f"--augment {name!r} is given twice: leave one of them out")
        try:
            probs[name] = float(own) if colon else prob
        except ValueError:
            probs[name] = -1.0
        if not 0 <= probs[name] <= 1:
            raise AvbError(f"--augment {item!r}: {own!r} is not a probability: give 0 to 1, as in {name}:0.3")
    return probs


def mix_labels(waveform: np.ndarray, labels, other: dict, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Mixup of a clip with another row: the waveform and its labels, which are missing where either's is."""
    share = draw.beta(MIXUP_ALPHA, MIXUP_ALPHA)
    share = max(share, 1 - share)
    second = _excerpt(_waveform(other), len(waveform), draw)
    second = _at_level(waveform, second, 0, pad_to=len(waveform))
    mixed = [
        share * np.asarray(first) + (1 - share) * np.asarray(last)
        for first, last in ((waveform, second), (labels, other["labels"]))
    ]
    return mixed[0], mixed[1].astype(np.float32)


def _waveform(row: dict) -> np.ndarray:
    return np.asarray(row["input_values"], dtype=np.float32)


def _excerpt(waveform: np.ndarray, samples: int, draw: Draw) -> np.ndarray:
    """At most so many samples, from anywhere."""
    start = draw.integers(max(1, len(waveform) - samples + 1))
    return waveform[start : start + samples]


def _at_level(waveform: np.ndarray, addition: np.ndarray, decibels: float, pad_to: int) -> np.ndarray:
    """`addition` at a level of so many dB below the waveform's (root mean square), padded by zeros on the right."""
    power = np.square(addition).mean()
    if power == 0:
        return np.zeros(pad_to, np.float32)
    scale = np.sqrt(np.square(waveform).mean() / power) * 10 ** (-decibels / 20)
    return np.pad(addition * np.float32(scale), (0, pad_to - len(addition)))
