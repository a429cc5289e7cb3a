"""The clips of each optimiser step, the same ones on any number of devices and accumulation steps.

Unusual: one step takes the next `devices × accumulation × batch size` clips of the epoch's order and deals them out, so
that no clip is in it twice: accelerate's own sharding repeats clips of the epoch's start to fill a last batch, and
leaves Transformers' length-grouped order to each device's own random numbers, which drift apart with the first dropout.
The order depends on seed and epoch alone, so a run that goes on in mid-epoch goes on in the same order.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices

STRATEGIES = ("group_by_length", "random", "sequential")


class JoinedBatches(BatchRebalanceSampler):
    """Yields this device's micro-batches, lists of indices, `accumulation` of them a step.

    A subclass of Transformers' sampler only because the Trainer takes that one for what it is: batches, already dealt
    out to the devices.

    Args:
        num_clips: of the train split.
        lengths: of each clip, any unit; needed by `group_by_length`.
        strategy: `group_by_length` (clips of like length share a step), `random` or `sequential`.
        batch_size: clips a device and micro-batch.
        accumulation: micro-batches a step.
        world_size: number of devices.
        rank: which of them this is.
        drop_last: leave out the last clips of an epoch, fewer than one step takes. False: they make a smaller step,
            evenly dealt out; if there are fewer of them than devices, those that no device could share are left out.
        seed: of the order; the epoch is added.
    """

    def __init__(
        self,
        num_clips: int,
        lengths: Sequence[int] | None,
        strategy: str,
        *,
        batch_size: int,
        accumulation: int = 1,
        world_size: int = 1,
        rank: int = 0,
        drop_last: bool = True,
        seed: int = 42,
    ):
        self.num_clips, self.lengths, self.strategy = num_clips, lengths, strategy
        self.group_size, self.accumulation = batch_size * world_size, accumulation
        self.world_size, self.rank, self.drop_last, self.seed = world_size, rank, drop_last, seed
        self.epoch = 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.num_clips, self.group_size * self.accumulation)
        return whole * self.accumulation + (0 if self.drop_last else len(self._groups(range(rest))))

    def __iter__(self) -> Iterator[list[int]]:
        order, size = self._order(), self.group_size * self.accumulation
        for start in range(0, len(order), size):
            step = order[start : start + size]
            if len(step) == size or not self.drop_last:
                for group in self._groups(step):
                    yield group[self.rank :: self.world_size]

    def _order(self) -> list[int]:
        """Every clip once, as this epoch has them."""
        if self.strategy == "sequential":
            return list(range(self.num_clips))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.strategy == "random":
            return torch.randperm(self.num_clips, generator=generator).tolist()
        return get_length_grouped_indices(self.lengths, self.group_size * self.accumulation, generator=generator)

    def _groups(self, step: Sequence[int]) -> list[list[int]]:
        """A step's clips in groups of at most `group_size`, each large enough that every device gets a clip."""
        if not len(step):
            return []
        count = -(-len(step) // self.group_size)
        if len(step) // count < self.world_size:
            step = step[: len(step) - len(step) % self.world_size]
            count = -(-len(step) // self.group_size)
        return [group.tolist() for group in np.array_split(np.asarray(step), count)] if count else []
