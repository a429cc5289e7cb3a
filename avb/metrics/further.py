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
        of: function of targets and predictions. Regression: (clips, labels), NaN for a missing label. Classification:
            (clips,) class indices, -100 for missing, followed by the number of classes. It returns a number, or one
            number per label, which are averaged.
        title: its name on a card.
        hub_type: the Hub's name of the metric; None if it has none, which leaves the score out of `model-index`.
        each_epoch: whether it is also logged after each epoch.
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
