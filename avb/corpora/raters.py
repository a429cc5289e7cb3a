"""Tables with one row per rater: makes one clip of these rows, and keeps its ratings beside the combined label."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from avb.corpora.tables import Table
from avb.errors import CorpusError, did_you_mean
from avb.tasks import Task, majority_class

SPREAD, MAJORITY = TARGETS = ("spread", "majority")  # values of --rater_targets


@dataclass(frozen=True)
class Pooled:
    """The clips of a table, one row each, joined from the raters' rows.

    Attributes:
        positions: each clip's first row in the table.
        labels: (clips,) class indices: the most frequent class, on a tie the first in the task's order;
            or (clips, labels) float32: the mean over the raters who gave a score.
        ratings: for each clip (raters,) class indices, or (raters, labels) scores, in the table's order; None if
            the table does not distinguish its raters.
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
        table: for messages, and for the columns `same`.
        clips: the clip of each row.
        raters: the rater of each row.
        labels: the label of each row, as `avb.corpora.cells.read_labels` returns it.
        task: what the labels mean.
        same: columns that must have one value per clip, such as its speaker and its split.

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
    """Raises a CorpusError if `--rater_targets` is unknown or does not fit the task or table."""
    if targets not in TARGETS:
        raise CorpusError(f"--rater_targets {targets!r} is unknown{did_you_mean(targets, TARGETS, 'Legal')}")
    if rater_column is None:
        raise CorpusError(f"--rater_targets {targets} needs --rater_column, the column of the raters")
    fitting = "regression" if targets == SPREAD else "classification"
    if task.kind != fitting:
        raise CorpusError(f"--rater_targets {targets} is for a {fitting}, but this is a {task.kind}: leave it out")


def with_spreads(task: Task, clips: Pooled) -> tuple[Task, Pooled]:
    """Adds a label `NAME_spread` for each label of a regression: how much a clip's raters differ.

    The spread is the lowest score + 2 σ, with σ the population standard deviation over the clip's raters. It spans the
    label's whole range, from "all agree" to "half give the lowest score, half the highest". It is missing if fewer
    than two raters gave a score.
    """
    low, high = task.label_range
    spreads = np.full_like(clips.labels, np.nan)
    for row, ratings in zip(spreads, clips.ratings or [], strict=True):
        has_two = (~np.isnan(ratings)).sum(0) > 1
        row[has_two] = np.clip(low + 2 * np.nanstd(ratings[:, has_two], axis=0), low, high)
    labels = np.concatenate([clips.labels, spreads], axis=1)
    names = (*task.labels, *(f"{label}_spread" for label in task.labels))
    return replace(task, labels=names), replace(clips, labels=labels)
