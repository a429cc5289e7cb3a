"""How well raters agree with each other: an upper bound for a model of their mean."""

from collections.abc import Sequence

import numpy as np

from avb.metrics.classification import uar
from avb.metrics.regression import ccc
from avb.tasks import MISSING_CLASS, Task, majority_class


def rater_agreement(task: Task, ratings: Sequence[np.ndarray]) -> float:
    """Computes the task's metric of each rating against the clip's other raters, over all clips with several raters.

    The other raters are combined to the mean of their scores, or to their most frequent class (in a tie, the first in
    the task's order). A model is compared with all raters combined, which is less noisy than all but one, so it may
    score slightly higher.

    Args:
        task: one task.
        ratings: for each clip, (raters,) class indices, or (raters, labels) scores, NaN where a rater gave none.

    Returns:
        Mean CCC over labels, or UAR over the classes that raters gave; NaN if no clip has two raters.
    """
    one, others = [], []
    for clip in ratings:
        clip = np.asarray(clip)
        if task.kind == "classification":
            clip = clip[clip != MISSING_CLASS]
        for index in range(len(clip) if len(clip) > 1 else 0):
            one.append(clip[index])
            rest = np.delete(clip, index, axis=0)
            others.append(majority_class(rest, task.num_labels) if task.kind == "classification" else _mean(rest))
    if not one:
        return float("nan")
    if task.kind == "classification":
        return uar(np.array(one), np.array(others), task.num_labels)
    rated, expected = np.array(one, np.float64), np.array(others, np.float64)
    rated[np.isnan(expected)] = np.nan  # a label that no other rater of the clip gave
    return float(np.mean(ccc(rated, np.nan_to_num(expected))))


def _mean(scores: np.ndarray) -> np.ndarray:
    """Mean over raters, (raters, labels) -> (labels,); NaN where no rater gave a score."""
    known = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        return np.where(known, scores, 0).sum(axis=0) / known.sum(axis=0)
