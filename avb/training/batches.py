"""Selects the clips of each optimiser step: the same ones for any number of devices and accumulation steps.

Unusual: a step takes the next `devices × accumulation × batch size` clips in the order of the epoch and divides them
among devices, so that no clip is used twice. accelerate's own sharding repeats clips from the start of the epoch to
fill the last batch. It also leaves Transformers' length-grouped order to the random numbers of each device, which
differ after the first dropout. Here the order depends only on the seed and the epoch, so a run that is resumed within
an epoch continues in the same order.

A step has a fixed number of clips, or a fixed amount of audio (`budget`). For the latter, clips are sorted by length
into bands, and each band has as many clips as fill whole steps; which clips of a band form a step is drawn anew in each
epoch. So the number of steps per epoch is constant and known in advance, as the learning-rate schedule requires.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices

STRATEGIES = ("group_by_length", "random", "sequential")
BAND = 7 / 8  # shortest / longest clip of a band: at most an eighth of a batch is padding


class Band(NamedTuple):
    """Clips of similar length, and how many of them form a micro-batch of a device."""

    clips: list[int]
    batch_size: int


class JoinedBatches(BatchRebalanceSampler):
    """Yields this device's micro-batches, lists of indices, `accumulation` of them per step.

    It is a subclass of Transformers' sampler only so that the Trainer knows that it yields batches, already divided
    among devices.

    Args:
        num_clips: of the train split.
        lengths: of each clip, any unit; needed by `group_by_length`.
        strategy: `group_by_length` (clips of similar length share a step), `random` or `sequential`.
        batch_size: clips per device and micro-batch.
        budget: instead of `batch_size`: maximum per device and micro-batch in the unit of `lengths`, including
            padding; a longer clip is a micro-batch of its own. The strategy is then `group_by_length`.
        accumulation: micro-batches per step.
        world_size: number of devices.
        rank: number of this device.
        drop_last: leave out the last clips of an epoch if they do not fill a step. False: they form a smaller step,
            divided evenly; clips that cannot be divided evenly among devices are left out.
        seed: of the order; the epoch is added.
    """

    def __init__(
        self,
        num_clips: int,
        lengths: Sequence[int] | None,
        strategy: str,
        *,
        batch_size: int | None = None,
        budget: float | None = None,
        accumulation: int = 1,
        world_size: int = 1,
        rank: int = 0,
        drop_last: bool = True,
        seed: int = 42,
    ):
        self.num_clips, self.lengths, self.strategy = num_clips, lengths, strategy
        self.world_size, self.accumulation = world_size, accumulation
        self.rank, self.drop_last, self.seed = rank, drop_last, seed
        self.bands: list[Band] = []
        if budget is not None:
            assert lengths is not None  # a budget needs lengths
            self.bands = length_bands(lengths, budget, world_size * accumulation)
        if self.bands:
            batch_size = self.bands[-1].batch_size
        assert batch_size is not None  # one of the two is given
        # Size of the last step, which may be smaller. Not called `batch_size`, by which accelerate divides batches.
        self._last_size = batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = 0, self.num_clips
        for size, number in self._whole_steps():
            whole, rest = whole + number, rest - size * number
        return whole * self.accumulation + (0 if self.drop_last else len(self._groups(range(rest), self._last_size)))

    def __iter__(self) -> Iterator[list[int]]:
        for step, batch_size in self._banded_steps() if self.bands else self._equal_steps():
            if len(step) == self._step_size(batch_size) or not self.drop_last:
                for group in self._groups(step, batch_size):
                    yield group[self.rank :: self.world_size]

    def _step_size(self, batch_size: int) -> int:
        return batch_size * self.world_size * self.accumulation

    def _whole_steps(self) -> list[tuple[int, int]]:
        """Clips per step, and the number of such steps."""
        parts = [(len(band.clips), band.batch_size) for band in self.bands] if self.bands else None
        parts = parts or [(self.num_clips, self._last_size)]
        return [(self._step_size(size), number // self._step_size(size)) for number, size in parts]

    def _equal_steps(self) -> Iterator[tuple[list[int], int]]:
        """The clips of each step in this epoch, and the clips per micro-batch."""
        order, size = self._order(), self._step_size(self._last_size)
        for start in range(0, len(order), size):
            yield order[start : start + size], self._last_size

    def _banded_steps(self) -> Iterator[tuple[list[int], int]]:
        """Like `_equal_steps`: shuffles each band's clips, then all steps; a longest one is first, a rest is last."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        steps = []
        for clips, batch_size in self.bands:
            order = torch.randperm(len(clips), generator=generator).tolist()
            for start in range(0, len(order), size := self._step_size(batch_size)):
                steps.append(([clips[index] for index in order[start : start + size]], batch_size))
        rest = [steps.pop()] if len(steps[-1][0]) < self._step_size(self._last_size) else []
        # A batch that does not fit into memory ends the run at its first step, not after hours.
        order = [0, *(1 + torch.randperm(max(len(steps) - 1, 0), generator=generator)).tolist()] if steps else []
        yield from [steps[index] for index in order] + rest

    def _order(self) -> list[int]:
        """The order of all clips in this epoch."""
        if self.strategy == "sequential":
            return list(range(self.num_clips))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.strategy == "random":
            return torch.randperm(self.num_clips, generator=generator).tolist()
        return get_length_grouped_indices(self.lengths, self._step_size(self._last_size), generator=generator)

    def _groups(self, step: Sequence[int], batch_size: int) -> list[list[int]]:
        """The clips of a step, one group per micro-batch, each large enough for every device to get a clip."""
        if not len(step):
            return []
        group_size = batch_size * self.world_size
        count = -(-len(step) // group_size)
        if len(step) // count < self.world_size:
            step = step[: len(step) - len(step) % self.world_size]
            count = -(-len(step) // group_size)
        return [group.tolist() for group in np.array_split(np.asarray(step), count)] if count else []


def length_bands(lengths: Sequence[int], budget: float, batches: int) -> list[Band]:
    """Sorts clips by length, longest first, into bands; each band but the last has as many clips as fill whole steps.

    Args:
        lengths: of each clip.
        budget: maximum length of a micro-batch, including padding.
        batches: micro-batches per step, over all devices.
    """
    order = sorted(range(len(lengths)), key=lambda clip: -lengths[clip])
    bands, start = [], 0
    while start < len(order):
        longest = lengths[order[start]]
        batch_size = max(1, int(budget // longest))
        step = batch_size * batches
        end = start + step
        while end < len(order) and lengths[order[end]] >= BAND * longest:
            end += step
        bands.append(Band(order[start:end], batch_size))
        start = end
    if len(bands) > 1 and len(bands[-1].clips) < bands[-1].batch_size * batches:
        # Less than a step: as a band of its own, the shortest clips would be left out of every epoch.
        rest = bands.pop().clips
        bands[-1] = Band(bands[-1].clips + rest, bands[-1].batch_size)
    return bands
