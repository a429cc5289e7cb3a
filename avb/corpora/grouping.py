"""Groups of clips that belong together (one speaker or one recording), and splits that do not separate them."""

import logging
from collections.abc import Sequence

import numpy as np

from avb.corpora.patterns import cuts_of_recordings, without_suffix
from avb.corpora.splits import strata_of, stratified_splits

logger = logging.getLogger(__name__)


def make_splits(
    ids: Sequence[str],
    labels: np.ndarray,
    where: str,
    *,
    speakers: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    by_clip: bool = False,
) -> list[str]:
    """Each clip's split, for a corpus that has none; logs what may be wrong with it.

    Args:
        ids: the clips' ids, usually their file names.
        labels: (clips, labels) scores or (clips,) classes; each split gets its share of them.
        where: the corpus, for messages.
        speakers: each clip's speaker, "" if it is unknown; None if no speaker is known.
        groups: each clip's group, which must stay together too, from `--group_pattern`.
        by_clip: whether the user said that there are no speakers.

    Raises:
        CorpusError: too few speakers, groups or clips.
    """
    if speakers is None and not by_clip:
        logger.warning(
            "%s: no speakers are known, so splits are made %s, and a speaker may be in two of them; --speaker_column "
            'names their column, --speaker_pattern reads them from file names (--speaker_column "" where there are '
            "none)",
            where,
            "clip by clip" if groups is None else "group by group",
        )
    split_of = stratified_splits(units_of(ids, speakers, groups), strata_of(labels), where)
    warn_of_parted_cuts(ids, split_of, where, speakers)
    return split_of


def units_of(
    ids: Sequence[str], speakers: Sequence[str] | None = None, groups: Sequence[str] | None = None
) -> list[str]:
    """Each clip's unit, by name: clips linked by a speaker or a group, directly or through others, stay together.

    A clip that has neither a speaker nor a group is a unit of its own.
    """
    above: dict[tuple[int, str], tuple[int, str]] = {}  # maps a speaker or group to another one of the same unit

    def top(member: tuple[int, str]) -> tuple[int, str]:
        while member in above:
            member = above[member]
        return member

    members = []
    for position, clip_id in enumerate(ids):
        own = [(0, speakers[position])] if speakers is not None and speakers[position] else []
        own += [(1, f"group {groups[position]}")] if groups is not None and groups[position] else []
        members.append(own[0] if own else (2, f"clip {clip_id}"))
        first, *others = sorted({top(member) for member in own}) or [members[-1]]
        above |= dict.fromkeys(others, first)
    return [top(member)[1] for member in members]


def warn_of_parted_cuts(ids: Sequence[str], part_of: Sequence, where: str, speakers: Sequence[str] | None = None):
    """Warns if clips whose names differ only in a running number, perhaps cuts of one recording, are separated.

    Of clips whose speaker is known nothing is said: a speaker's recordings are never separated.
    """
    known = speakers or [""] * len(ids)
    parts = zip(map(without_suffix, ids), part_of, known, strict=True)
    part_of_name = {name: part for name, part, speaker in parts if not speaker}
    parted = [cuts for cuts in cuts_of_recordings(list(part_of_name)) if len({part_of_name[cut] for cut in cuts}) > 1]
    if not parted:
        return
    one = parted[0][0]
    other = next(name for name in parted[0] if part_of_name[name] != part_of_name[one])
    logger.warning(
        "%s: names that differ only in a running number, such as %s (%s) and %s (%s), are in different splits (%d such "
        "groups): if they are segments of one recording, --group_pattern '^(.+?)[ _.-]*\\d*$' keeps them together",
        where,
        one,
        part_of_name[one],
        other,
        part_of_name[other],
        len(parted),
    )
