"""What an interval draws: speakers where they are known, else what names of files keep together, else clips."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from datasets import Dataset

Unit = Literal["speaker", "group", "clip"]


class Units(NamedTuple):
    """The unit of each clip; `names` is None where each clip is its own."""

    kind: Unit
    names: list[str] | None


BY_CLIP = Units("clip", None)


def resampling_units(
    ids: Sequence[str], speakers: Sequence[str] | None = None, groups: Sequence[str] | None = None
) -> Units:
    """Speakers, or the groups of `--group_pattern` where no speaker is known; a clip without one is its own.

    Args:
        ids: of the clips.
        speakers: each clip's, "" where it is unknown.
        groups: likewise.
    """
    known: list[tuple[Unit, Sequence[str] | None]] = [("speaker", speakers), ("group", groups)]
    for kind, names in known:
        if names is not None and any(names):
            return Units(kind, [name or clip for name, clip in zip(names, ids, strict=True)])
    return BY_CLIP


def units_of_clips(clips: "Dataset") -> Units:
    """Those of decoded rows."""
    known = {name: clips[name][:] if name in clips.column_names else None for name in ("speaker", "group")}
    return resampling_units(clips["id"][:], known["speaker"], known["group"])
