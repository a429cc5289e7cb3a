"""Bootstrap by unit: a resample is a vector of counts times the sums of each unit, so no clip is copied.

If speakers are known, whole speakers are resampled, because clips of one speaker are not independent (Field & Welsh,
2007, "Bootstrapping clustered data", JRSS B 69(3), 369-390); otherwise groups found by file names, otherwise clips.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

INTERVAL_PERCENTILES = (2.5, 97.5)  # a 95 % interval
RESAMPLED_COUNTS_AT_ONCE = 2**22  # float64: 32 MiB, for any number of resamples

Unit = Literal["speaker", "group", "clip"]


class Units(NamedTuple):
    """The resampling unit of each clip; `names` is None if each clip is its own unit."""

    kind: Unit
    names: list[str] | None


BY_CLIP = Units("clip", None)


def resampling_units(
    ids: Sequence[str], speakers: Sequence[str] | None = None, groups: Sequence[str] | None = None
) -> Units:
    """Speakers, or the groups of `--group_pattern` if no speaker is known; a clip without one is its own unit.

    Args:
        ids: the clips' ids.
        speakers: the speaker of each clip, "" if unknown.
        groups: the group of each clip, likewise.
    """
    known: list[tuple[Unit, Sequence[str] | None]] = [("speaker", speakers), ("group", groups)]
    for kind, names in known:
        if names is not None and any(names):
            return Units(kind, [name or clip for name, clip in zip(names, ids, strict=True)])
    return BY_CLIP


def units_of_clips(clips: "Dataset") -> Units:
    """The `resampling_units` of decoded rows."""
    known = {name: clips[name][:] if name in clips.column_names else None for name in ("speaker", "group")}
    return resampling_units(clips["id"][:], known["speaker"], known["group"])


def unit_indices(groups: Sequence | np.ndarray | None, has_label: np.ndarray) -> np.ndarray:
    """Resampling unit of each labelled clip, (labelled clips,), numbered from 0 in the order of first occurrence."""
    if groups is None:
        return np.arange(has_label.sum())
    if len(groups) != len(has_label):
        raise ValueError(f"groups must have one entry per clip, got {len(groups)} for {len(has_label)} clips")
    if any(group is None or group != group for group in groups):
        raise ValueError("groups must not contain None or NaN: give every clip a group, or none at all")
    numbers: dict = {}
    kept = (group for group, keep in zip(groups, has_label, strict=True) if keep)
    return np.array([numbers.setdefault(group, len(numbers)) for group in kept], dtype=np.int64)


def resampled_sums(columns: np.ndarray, units: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Sums of `columns` (clips, columns) over each bootstrap resample, (resamples, columns); NaN for < 2 units."""
    num_units = len(np.unique(units))
    if num_units < 2:
        return np.full((num_resamples, columns.shape[1]), np.nan)
    order = np.argsort(units, kind="stable")
    starts = np.flatnonzero(np.diff(units[order], prepend=-1))
    unit_sums = np.add.reduceat(columns[order], starts, axis=0)  # (units, columns)

    rng = np.random.default_rng(seed)
    chunk = max(1, RESAMPLED_COUNTS_AT_ONCE // num_units)
    sums = []
    for first in range(0, num_resamples, chunk):
        counts = np.empty((min(chunk, num_resamples - first), num_units))
        for row in counts:
            # Counting equally likely draws gives multinomial counts, several times faster than rng.multinomial here.
            row[:] = np.bincount(rng.integers(num_units, size=num_units), minlength=num_units)
        sums.append(counts @ unit_sums)  # (rows, units) @ (units, columns)
    return np.concatenate(sums)


def interval(values: np.ndarray) -> np.ndarray:
    """Lower and upper bound, (2, ...), of the interval of resampled scores (resamples, ...)."""
    low, high = INTERVAL_PERCENTILES
    too_few = np.isnan(values).mean(axis=0) > 1 - (high - low) / 100
    bounds = np.nanpercentile(np.where(too_few, 0.0, values), INTERVAL_PERCENTILES, axis=0)
    return np.where(too_few, np.nan, bounds)
