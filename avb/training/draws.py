"""Draws the random numbers of augmentation for a training clip: which changes to apply, and their parameters.

Each change is drawn independently, with the common probability or its own (`noise:0.3`). The draws depend only on the
seed, the epoch and the clip, so a run that is resumed within an epoch, or on another number of devices, gets exactly
the same clips. Only the length of each clip is needed, not its audio.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from audio_avb import SAMPLING_RATE
from avb.errors import AvbError, did_you_mean

LONGEST_PAUSE = 0.2  # seconds of silence that `shift` puts before a clip
NOISE_SAMPLES = 2**21  # of white noise, 131 s; each clip gets a random excerpt
EQUALIZER_POINTS = np.geomspace(50, SAMPLING_RATE / 2, 6)  # Hz
MIXUP = "mixup"  # comes after the other changes
MIXUP_ALPHA = 0.4  # parameter of the beta distribution that a clip's share is drawn from

Draw = np.random.Generator


class Rate(NamedTuple):
    rate: float
    samples: int  # after the change


class Pitch(NamedTuple):
    semitones: float


class Shift(NamedTuple):
    """One of the two is 0."""

    skipped: int  # samples skipped at the start
    pause: int  # samples of silence before it


class Mix(NamedTuple):
    clip: int  # the row of the other clip
    start: int
    samples: int  # of it
    decibels: float  # below this one


class Noise(NamedTuple):
    start: int  # position in `white_noise`
    decibels: float  # below the clip


class Equalizer(NamedTuple):
    decibels: tuple[float, ...]  # at each of `EQUALIZER_POINTS`


class Gain(NamedTuple):
    decibels: float  # how much softer


class Mixup(NamedTuple):
    clip: int  # the row of the other clip
    start: int
    samples: int  # of it
    share: float  # share of this clip


class Drawn(NamedTuple):
    """The changes drawn for a clip.

    Attributes:
        clip: row of the clip.
        samples: number of samples before any change.
        changed_samples: number of samples after all changes.
        longest: largest number of samples at any point in between.
        changes: by name, in the order in which they are applied.
    """

    clip: int
    samples: int
    changed_samples: int
    longest: int
    changes: dict[str, Any]


# ---- what is drawn: (generator, samples of the clip, samples of all clips) → a change, and the samples after it -----


def _draw_rate(draw: Draw, samples: int, lengths: np.ndarray) -> tuple[Rate, int]:
    rate = draw.uniform(0.85, 1.15)
    after = math.ceil(samples * (SAMPLING_RATE / (SAMPLING_RATE * rate)))  # as librosa computes it
    return Rate(rate, after), after


def _draw_pitch(draw: Draw, samples: int, lengths: np.ndarray) -> tuple[Pitch, int]:
    return Pitch(draw.uniform(-2, 2)), samples


def _draw_shift(draw: Draw, samples: int, lengths: np.ndarray) -> tuple[Shift, int]:
    shift = draw.uniform(-1, 1)
    if shift < 0:
        skipped = int(-shift * 0.1 * samples)
        return Shift(skipped, 0), samples - skipped
    pause = int(shift * LONGEST_PAUSE * SAMPLING_RATE)
    return Shift(0, pause), samples + pause


def _draw_mix(draw: Draw, samples: int, lengths: np.ndarray) -> tuple[Mix, int]:
    clip = int(draw.integers(len(lengths)))
    return Mix(clip, *_draw_excerpt(draw, samples, int(lengths[clip])), draw.uniform(10, 25)), samples


def _draw_noise(draw: Draw, samples: int, lengths: np.ndarray) -> tuple[Noise, int]:
    return Noise(int(draw.integers(NOISE_SAMPLES)), draw.uniform(10, 40)), samples


def _draw_equalizer(draw: Draw, samples: int, lengths: np.ndarray) -> tuple[Equalizer, int]:
    return Equalizer(tuple(draw.uniform(-6, 6, len(EQUALIZER_POINTS)))), samples


def _draw_gain(draw: Draw, samples: int, lengths: np.ndarray) -> tuple[Gain, int]:
    return Gain(draw.uniform(0, 12)), samples


def _draw_mixup(draw: Draw, samples: int, lengths: np.ndarray) -> tuple[Mixup, int]:
    clip = int(draw.integers(len(lengths)))
    share = draw.beta(MIXUP_ALPHA, MIXUP_ALPHA)
    return Mixup(clip, *_draw_excerpt(draw, samples, int(lengths[clip])), max(share, 1 - share)), samples


def _draw_excerpt(draw: Draw, samples: int, of: int) -> tuple[int, int]:
    """Start and length of a random excerpt of at most `samples` samples from a clip of `of` samples."""
    return int(draw.integers(max(1, of - samples + 1))), min(samples, of)


DRAWS: dict[str, Callable[[Draw, int, np.ndarray], tuple[Any, int]]] = {  # in the order in which they are applied
    "rate": _draw_rate,
    "pitch": _draw_pitch,
    "shift": _draw_shift,
    "mix": _draw_mix,
    "noise": _draw_noise,
    "equalizer": _draw_equalizer,
    "gain": _draw_gain,
    MIXUP: _draw_mixup,
}


class Augmentation:
    """Draws the changes of each clip in each epoch.

    With `mixup` (Zhang et al. 2018, arXiv:1710.09412) labels change too: λ × a clip and its labels + (1 - λ) × another
    clip and its labels, both clips at the same level; λ ≥ 0.5, and the other clip is cut to the first one's duration.

    Args:
        lengths: number of samples of each train clip.
        names: names of the changes, keys of `DRAWS`; `NAME:PROB` sets a change's own probability.
        prob: probability of each other change, for each clip and epoch.
        seed: seed of the draws.

    Raises:
        AvbError: a name is unknown, or a probability is not in [0, 1].
    """

    def __init__(self, lengths: Sequence[int], names: Sequence[str], prob: float = 0.5, seed: int = 42):
        if not 0 <= prob <= 1:
            raise AvbError(f"--augment_prob {prob} is not a probability: give 0 to 1")
        probs = read_augmentations(names, prob)
        self.probs = {name: probs[name] for name in DRAWS if name in probs}
        self.lengths, self.seed = np.asarray(lengths), seed
        # In shared memory, so that loader workers that persist between epochs draw the new epoch's changes.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int):
        self._epoch.fill_(epoch)

    def draw(self, clip: int) -> Drawn:
        """The changes of a row in this epoch."""
        draw = np.random.default_rng((self.seed, self.epoch, clip))
        before = samples = longest = int(self.lengths[clip])
        changes = {}
        for name, prob in self.probs.items():
            if draw.random() < prob:
                changes[name], samples = DRAWS[name](draw, samples, self.lengths)
                longest = max(longest, samples)
        return Drawn(clip, before, samples, longest, changes)


def read_augmentations(names: Sequence[str], prob: float) -> dict[str, float]:
    """`["rate", "noise:0.3"]` → the probability of each change; `prob` if it has none of its own.

    Raises:
        AvbError: a name is unknown or given twice, or a probability is not in [0, 1].
    """
    probs = {}
    for item in names:
        name, colon, own = item.partition(":")
        if name not in DRAWS:
            raise AvbError(f"--augment {name!r} is unknown{did_you_mean(name, tuple(DRAWS), 'Legal')}")
        if name in probs:
            raise AvbError(f"--augment {name!r} is given twice: leave one of them out")
        try:
            probs[name] = float(own) if colon else prob
        except ValueError:
            probs[name] = -1.0
        if not 0 <= probs[name] <= 1:
            raise AvbError(f"--augment {item!r}: {own!r} is not a probability: give 0 to 1, as in {name}:0.3")
    return probs
