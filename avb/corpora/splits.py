"""Names of splits, and splits made where a corpus has none: deterministic, by hash, no speaker on two sides."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from avb.errors import CorpusError

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}

_SPELLINGS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev", "devel", "development"),
    "test": ("test", "testing", "tst"),
}
_SPLIT_OF_SPELLING = {spelling: split for split, spellings in _SPELLINGS.items() for spelling in spellings}


def parse_split(text: str) -> str | None:
    """`Train`, `Val`, `dev`, ... to train, validation or test; None for anything else."""
    return _SPLIT_OF_SPELLING.get(text.strip().casefold())


def hashed_split(group: str) -> str:
    """The split of a group (a speaker), from its name alone: 80 % train, 10 % validation, 10 % test on average.

    It does not depend on which other groups are there: a clip added to the corpus moves no other clip.
    """
    position = _hash(group) / 2**64  # uniform in [0, 1)
    return "train" if position < 0.8 else "validation" if position < 0.9 else "test"


def ranked_splits(groups: Sequence[str], where: str) -> list[str]:
    """Splits of a closed set of clips, group by group, with shares as near to 80/10/10 as whole groups allow.

    Groups are put in the order of their hashes; validation takes from the front until it has a tenth of the clips,
    then test, and train has the rest: at least one group each, so that a corpus of three speakers has three splits.
    Unlike `hashed_split`, adding a clip may move others.

    Args:
        groups: each clip's group (its speaker, or its id where speakers are not known).
        where: the corpus, for messages.

    Returns:
        Each clip's split.

    Raises:
        CorpusError: fewer than three groups.
    """
    clips_of = Counter(groups)
    if len(clips_of) < 3:
        raise CorpusError(
            f"{where}: splits cannot be made: they need at least 3 speakers (or clips), there are {len(clips_of)}; add "
            "a split column (train, validation, test)"
        )
    order = sorted(clips_of, key=lambda group: (_hash(group), group))
    split_of_group = {}
    for split, groups_to_keep in (("validation", 2), ("test", 1)):  # for the splits still to come
        quota, taken = SHARES[split] * len(groups), 0
        for group in list(order):
            overshoot = taken + clips_of[group] - quota
            # A big speaker is passed over if the split is nearer its share without it.
            if len(order) > groups_to_keep and overshoot <= quota - taken:
                split_of_group[group] = split
                taken += clips_of[group]
                order.remove(group)
        if not taken:
            smallest = min(order, key=lambda group: clips_of[group])
            split_of_group[smallest] = split
            order.remove(smallest)
    split_of_group |= dict.fromkeys(order, "train")
    return [split_of_group[group] for group in groups]


def _hash(group: str) -> int:
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big")
