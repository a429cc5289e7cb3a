"""Names of splits; splits and folds for corpora without them: deterministic, with no speaker in two of them."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from avb.errors import CorpusError

SPLITS = ("train", "validation", "test")
CLIPS_PER_BIN = 10  # minimum for bins of scores, so that a tenth of a bin is one clip
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}

_SPELLINGS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev", "devel", "development"),
    "test": ("test", "testing", "tst"),
}
_SPLIT_OF_SPELLING = {spelling: split for split, spellings in _SPELLINGS.items() for spelling in spellings}


def parse_split(text: str) -> str | None:
    """Convert `Train`, `Val`, `dev`, ... to train, validation or test; None for anything else."""
    return _SPLIT_OF_SPELLING.get(text.strip().casefold())


def hashed_split(group: str) -> str:
    """The split of a group (a speaker), from its name alone: 80 % train, 10 % validation, 10 % test on average.

    It does not depend on the other groups, so a clip added to the corpus moves no other clip.
    """
    position = _hash(group) / 2**64  # uniform in [0, 1)
    return "train" if position < 0.8 else "validation" if position < 0.9 else "test"


def stratified_splits(groups: Sequence[str], strata: Sequence[Hashable], where: str) -> list[str]:
    """Split a closed set of clips by whole groups, with each stratum (a class, a bin of scores) divided 80/10/10.

    A stratum found in at least three groups is in all three splits; one found in two is in train and validation.
    Unlike `hashed_split`, adding a clip may move others.

    Args:
        groups: each clip's group (its speaker, or its id if speakers are unknown).
        strata: each clip's stratum.
        where: the corpus, for messages.

    Returns:
        Each clip's split.

    Raises:
        CorpusError: fewer than three groups.
    """
    number = len(set(groups))
    if number < len(SHARES):
        raise CorpusError(
            f"{where}: splits cannot be made: at least 3 speakers (or clips) are needed, but there are {number}; add "
            "a split column (train, validation, test)"
        )
    names = list(SHARES)
    return [names[part] for part in _stratify(groups, strata, list(SHARES.values()))]


def stratified_folds(groups: Sequence[str], strata: Sequence[Hashable], num_folds: int, where: str) -> list[int]:
    """Each clip's fold, 0 to `num_folds` - 1: groups stay whole, and each stratum is spread evenly.

    Arguments as `stratified_splits`.

    Raises:
        CorpusError: fewer than two folds, or fewer groups than folds.
    """
    number = len(set(groups))
    if not 2 <= num_folds <= number:
        raise CorpusError(f"{where}: {num_folds} folds of {number} speakers (or clips): give 2 to {number}")
    return _stratify(groups, strata, [1 / num_folds] * num_folds)


def hold_out(groups: Sequence[str], strata: Sequence[Hashable], share: float, where: str) -> np.ndarray:
    """Which clips are held out, booleans (clips,): whole groups, and about `share` of each stratum.

    Arguments as `stratified_splits`.

    Raises:
        CorpusError: fewer than two groups.
    """
    if len(set(groups)) < 2:
        raise CorpusError(f"{where}: nothing can be held out: there is only one speaker, or only one clip")
    return np.array(_stratify(groups, strata, [1 - share, share])) == 1


def strata_of(labels: np.ndarray) -> list:
    """Each clip's stratum: its class, for labels (clips,), or a bin of its scores, for labels (clips, labels).

    With one or two labels, bins are terciles; with more, the label that stands out most. A missing score (NaN) is a
    bin too. If bins would contain fewer than `CLIPS_PER_BIN` clips on average, all clips are in one bin.
    """
    if labels.ndim == 1:
        return labels.tolist()
    bins = _score_bins(labels)
    return bins if len(bins) >= CLIPS_PER_BIN * len(set(bins)) else [0] * len(bins)


def _score_bins(scores: np.ndarray) -> list:
    if scores.shape[1] > 2:
        deviations = scores - np.nanmean(scores, axis=0)
        spread = np.nanstd(scores, axis=0)
        standard = np.where(np.isnan(deviations), -np.inf, deviations / np.where(spread > 0, spread, 1))
        return [(int(label),) for label in standard.argmax(axis=1)]
    bounds = np.nanquantile(scores, [1 / 3, 2 / 3], axis=0)  # (2, labels)
    terciles = (scores > bounds[0]).astype(int) + (scores > bounds[1])
    return [tuple(row) for row in np.where(np.isnan(scores), -1, terciles).tolist()]


def _stratify(groups: Sequence[str], strata: Sequence[Hashable], shares: Sequence[float]) -> list[int]:
    """Iterative stratification (Sechidis et al. 2011) of whole groups: each clip's part, as an index into `shares`.

    Strata found in the fewest groups come first, and their largest groups first. Each group goes to the part that lacks
    the most clips of the stratum; on a tie, to the part that lacks the most clips overall. If no more groups are left
    than parts without the stratum, these parts come first, in order. Ties are broken by hash, not by clip order.
    """
    number_of = {stratum: number for number, stratum in enumerate(sorted(set(strata), key=repr))}
    counts: dict[str, Counter] = defaultdict(Counter)  # clips per group and stratum
    for group, stratum in zip(groups, strata, strict=True):
        counts[group][number_of[stratum]] += 1
    having: dict[int, list[str]] = defaultdict(list)  # groups per stratum
    for group in sorted(counts, key=lambda group: (_hash(group), group)):
        for stratum in counts[group]:
            having[stratum].append(group)

    parts = range(len(shares))
    total = Counter(number_of[stratum] for stratum in strata)
    lacking = [{stratum: share * clips for stratum, clips in total.items()} for share in shares]
    lacking_clips = [share * len(strata) for share in shares]
    part_of: dict[str, int] = {}
    for stratum in sorted(having, key=lambda stratum: (len(having[stratum]), stratum)):
        left = [group for group in having[stratum] if group not in part_of]
        present = {part_of[group] for group in having[stratum] if group in part_of}
        left.sort(key=lambda group: -counts[group][stratum])  # stable: equal groups stay in hash order
        for position, group in enumerate(left):
            without = [part for part in parts if part not in present]
            if without and len(left) - position <= len(without):
                part = without[0]
            else:
                part = max(parts, key=lambda part: (lacking[part][stratum], lacking_clips[part], -part))
            part_of[group] = part
            present.add(part)
            for other, clips in counts[group].items():
                lacking[part][other] -= clips
                lacking_clips[part] -= clips
    for part in parts:  # needed if most groups are the only one in their stratum
        if part not in part_of.values():
            fullest = Counter(part_of.values()).most_common(1)[0][0]
            movable = [group for group in part_of if part_of[group] == fullest]
            part_of[min(movable, key=lambda group: (counts[group].total(), _hash(group)))] = part
    return [part_of[group] for group in groups]


def _hash(group: str) -> int:
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big")
