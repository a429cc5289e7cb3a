"""Scores beside a task's own metric. A function, and its entry here, are all of one: runs, logs and cards read it.

`ccc`, `pearson` and `uar` are not among them: they have values by label and intervals, see `avb.metrics.evaluation`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from avb.metrics.classification import accuracy, macro_f1
from avb.metrics.regression import official_ccc


class Score(NamedTuple):
    """A further score.

    Attributes:
        of: its function of targets and predictions: of a regression (clips, labels) with NaN for a missing label, of
            a classification (clips,) class indices with -100, and behind them the number of classes. It gives a number,
            or one per label, of which the mean counts.
        title: what a card calls it.
        hub_type: the Hub's name of the metric; None where it has none, and the score stays out of `model-index`.
        each_epoch: whether it is logged after each epoch too.
    """

    of: Callable[..., float | np.ndarray]
    title: str
    hub_type: str | None = None
    each_epoch: bool = True


REGRESSION = {
    "official_ccc": Score(
        official_ccc,
        "CCC, computed as in the challenge's script",
        each_epoch=False,
    ),
}
CLASSIFICATION = {
    "accuracy": Score(accuracy, "accuracy", "accuracy"),
    "macro_f1": Score(macro_f1, "macro F1", "f1"),
}
