"""Tables with one row per rater: makes one clip of these rows, and keeps its ratings beside the combined label."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from avb.corpora.tables import Table
from avb.errors import CorpusError, did_you_mean
from avb.tasks import Task, majority_class

SPREAD, MAJORITY = TARGETS = ("spread", "majority")  # of --rater_targets


@dataclass(frozen=True)
class Pooled:
    """The clips of a table: one row each, which raters' rows become.

    Attributes:
        positions: of each clip its first row in the table.
        labels: (clips,) class indices: what most raters say, of equally frequent classes the first in the task's order;
            or (clips, labels) float32: their mean, of those who gave a score.
        ratings: of each clip (raters,) class indices, or (raters, labels) scores, in the table's order; None where
            the table does not tell its raters apart.
    """

    positions: list[int]
    labels: np.ndarray
    ratings: list[np.ndarray] | None


def pool_raters(
    table: Table,
    clips: Sequence[str],
    raters: Sequence[str],
    labels: np.ndarray,
    task: Task,
    same: Sequence[str | None],
) -> Pooled:
    """Joins the rows of each clip.

    Args:
        table: for messages, and for what must not differ.
        clips: each row's clip.
        raters: each row's rater.
        labels: each row's label, as `avb.corpora.cells.read_labels` gives it.
        task: what the labels mean.
        same: columns of which a clip has one value, such as its speaker and its split.

    Raises:
        CorpusError: a rater rates a clip twice, or two rows of a clip differ in one of the columns `same`.
    """
    rows_of: dict[str, list[int]] = {}
    seen: dict[tuple[str, str], int] = {}
    for position, key in enumerate(zip(clips, raters, strict=True)):
        clip, rater = key
        if key in seen:
            raise CorpusError(
                f"{table.where(position)}: rater {rater!r} rates the clip {clip!r} a second time; the first rating is "
                f"in {table.row_word} {table.cells.index[seen[key]]}"
            )
        seen[key] = position
        rows_of.setdefault(clip, []).append(position)
    for column in filter(None, same):
        cells = table.cells[column].to_numpy()
        for clip, rows in rows_of.items():
            other = next((row for row in rows if cells[row] != cells[rows[0]]), None)
            if other is not None:
                raise CorpusError(
                    f"{table.where(other)}, column {column!r}: the clip {clip!r} has {cells[other]!r} here and "
                    f"{cells[rows[0]]!r} in {table.row_word} {table.cells.index[rows[0]]}; correct one of them"
                )
    ratings = [labels[rows] for rows in rows_of.values()]
    if task.kind == "classification":
        joined = np.array([majority_class(clip, task.num_labels) for clip in ratings], np.int64)
    else:
        known = [~np.isnan(clip) for clip in ratings]
        with np.errstate(invalid="ignore"):
            means = [np.where(has, clip, 0).sum(0) / has.sum(0) for clip, has in zip(ratings, known, strict=True)]
        joined = np.array(means, np.float32)
    return Pooled([rows[0] for rows in rows_of.values()], joined, ratings)


def check_targets(targets: str, rater_column: str | None, task: Task):
    """Raises a CorpusError where `--rater_targets` is unknown or does not fit."""
    if targets not in TARGETS:
        raise CorpusError(f"--rater_targets {targets!r} is unknown{did_you_mean(targets, TARGETS, 'Legal')}")
    if rater_column is None:
        raise CorpusError(f"--rater_targets {targets} needs --rater_column, the column of the raters")
    fitting = "regression" if targets == SPREAD else "classification"
    if task.kind != fitting:
        raise CorpusError(f"--rater_targets {targets} is for a {fitting}, but this is a {task.kind}: leave it out")


def with_spreads(task: Task, clips: Pooled) -> tuple[Task, Pooled]:
    """A regression whose labels are followed by `NAME_spread` for each: how far a clip's raters differ.

    The spread is 2 σ above the lowest score, σ the standard deviation over the clip's raters (of the population): the
    whole range of the label from "all say the same" to "half say the lowest, half the highest". Missing where fewer
    than two gave a score.
    """
    low, high = task.label_range
    spreads = np.full_like(clips.labels, np.nan)
    for row, ratings in zip(spreads, clips.ratings or [], strict=True):
        has_two = (~np.isnan(ratings)).sum(0) > 1
        row[has_two] = np.clip(low + 2 * np.nanstd(ratings[:, has_two], axis=0), low, high)
    labels = np.concatenate([clips.labels, spreads], axis=1)
    names = (*task.labels, *(f"{label}_spread" for label in task.labels))
    return replace(task, labels=names), replace(clips, labels=labels)
