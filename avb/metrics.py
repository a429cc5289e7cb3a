"""Scores of vocal-burst predictions: CCC and Pearson correlation for regression, UAR for classification.

Pure functions over arrays, in float64, with population moments (divisor n). Unusual:

- an undefined score is NaN and stays NaN, in a mean over labels too;
- a missing target (NaN, or -100 for a class) is left out; a NaN *prediction* is not: it makes the score NaN;
- `evaluate_predictions` adds bootstrap intervals that resample whole speakers where they are known, because clips of
  one speaker are not independent. No clip is copied: each unit is summed up once, and a resample is a row of counts
  times those sums.

Sources: Lin (1989), "A concordance correlation coefficient to evaluate reproducibility", Biometrics 45(1), 255-268;
Baird et al. (2022), arXiv:2207.03572 (the challenge scores by CCC and UAR); Field & Welsh (2007), "Bootstrapping
clustered data", JRSS B 69(3), 369-390 (resampling whole clusters).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from avb.bootstrap import interval, resampled_sums, unit_indices
from avb.tasks import MISSING_CLASS, MultiTask, Task

if TYPE_CHECKING:
    from transformers import EvalPrediction

# 0/0 is an undefined score, NaN by intent: no warning.
_quiet = np.errstate(divide="ignore", invalid="ignore")


# ---------------------------------------------------------------------------------------------------- regression


def ccc(y_true: ArrayLike, y_pred: ArrayLike) -> float | np.ndarray:
    """Concordance correlation coefficient (Lin, 1989), label by label.

    CCC = 2 s_xy / (s_x² + s_y² + (x̄ - ȳ)²), population moments. In [-1, 1]; 0 for a constant prediction; NaN without a
    single pair, and where both sides are the same constant (0/0).

    Args:
        y_true: targets, (clips,) or (clips, labels); a NaN target is left out of its label.
        y_pred: predictions of the same shape.

    Returns:
        A float for (clips,), an array (labels,) for (clips, labels).

    Raises:
        ValueError: the shapes differ or are neither of the two.

    >>> ccc([0.0, 1.0, 2.0], [0.0, 1.0, 1.0])
    0.6666666666666666
    >>> ccc([[0.0, 0.5], [1.0, 0.5], [float("nan"), 0.5]], [[0.0, 0.5], [1.0, 0.5], [7.0, 0.5]])
    array([ 1., nan])
    """
    return _scalar_or_array(_ccc(_moments(*_total_terms(y_true, y_pred))))


def pearson(y_true: ArrayLike, y_pred: ArrayLike) -> float | np.ndarray:
    """Pearson correlation s_xy / (s_x s_y); shapes, missing targets and errors as `ccc`.

    NaN where either side is constant.

    >>> round(pearson([0.0, 1.0, 2.0], [0.0, 10.0, 10.0]), 4)
    0.866
    """
    return _scalar_or_array(_pearson(_moments(*_total_terms(y_true, y_pred))))


@_quiet
def official_ccc(y_true: ArrayLike, y_pred: ArrayLike) -> float | np.ndarray:
    """The challenge's own CCC, for comparison with published numbers only; shapes and errors as `ccc`.

    Its baseline code divides the variances by n - 1 and the covariance by n, so a perfect prediction scores below 1:
    official_ccc(y, y) = (n - 1) / n, .9375 at n = 16. From a thousand clips on it differs from `ccc` by less than .001.
    """
    offset, totals = _total_terms(y_true, y_pred)
    difference, var_true, var_pred, covariance = _moments(offset, totals)
    count = totals[0]
    sample = count / (count - 1)
    return _scalar_or_array(_ccc((difference, var_true * sample, var_pred * sample, covariance)))


@_quiet
def _ccc(moments: tuple[np.ndarray, ...]) -> np.ndarray:
    difference, var_true, var_pred, covariance = moments
    return 2 * covariance / (var_true + var_pred + difference**2)


@_quiet
def _pearson(moments: tuple[np.ndarray, ...]) -> np.ndarray:
    _, var_true, var_pred, covariance = moments
    return np.clip(covariance / (np.sqrt(var_true) * np.sqrt(var_pred)), -1.0, 1.0)


@_quiet
def _terms(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Each clip's share in the sums that moments are made of.

    Returns:
        offset: mean target - mean prediction, (labels,), or () for arrays of shape (clips,).
        terms: (6, clips, labels) or (6, clips): presence, t, p, t², p², tp, with t and p centred label by label (so
            that one-pass variances lose no digits) and all six 0 where the target is missing.
    """
    y_true, y_pred = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    if y_true.shape != y_pred.shape or y_true.ndim not in (1, 2):
        raise ValueError(
            f"y_true and y_pred must have one shape, (clips,) or (clips, labels), got {y_true.shape} and {y_pred.shape}"
        )
    present = ~np.isnan(y_true)
    count = present.sum(axis=0)

    def centre(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # The lowest value goes first: a constant then becomes exactly 0, which `values - mean` alone does not grant.
        lowest = np.min(values, axis=0, where=present, initial=np.inf)
        above = np.where(present, values - lowest, 0.0)
        mean = above.sum(axis=0) / count
        return lowest + mean, np.where(present, above - mean, 0.0)

    mean_true, true = centre(y_true)
    mean_pred, pred = centre(y_pred)
    return mean_true - mean_pred, np.stack([present, true, pred, true * true, pred * pred, true * pred])


def _total_terms(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    offset, terms = _terms(y_true, y_pred)
    return offset, terms.sum(axis=1)  # (6, clips, labels) -> (6, labels)


@_quiet
def _moments(offset: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Difference of means, variance of targets, variance of predictions, covariance.

    Args:
        offset: as `_terms` returns it.
        totals: (6, ..., labels), sums of the terms over clips.
    """
    count, true, pred, true_true, pred_pred, true_pred = totals
    mean_true, mean_pred = true / count, pred / count
    var_true = _variance(true_true / count, mean_true)
    var_pred = _variance(pred_pred / count, mean_pred)
    covariance = np.where((var_true == 0) | (var_pred == 0), 0.0, true_pred / count - mean_true * mean_pred)
    return offset + mean_true - mean_pred, var_true, var_pred, covariance


def _variance(mean_square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    # A resample may hold one value many times; what the subtraction then leaves is rounding, not variance.
    variance = mean_square - mean**2
    return np.where(variance <= 1e-12 * mean_square, 0.0, variance)


def _scalar_or_array(score: np.ndarray) -> float | np.ndarray:
    return score if score.ndim else float(score)


# ------------------------------------------------------------------------------------------------ classification


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, num_labels: int | None = None) -> np.ndarray:
    """How often class i (row) was called class j (column).

    Args:
        y_true: class indices, (clips,); clips with -100 are left out.
        y_pred: predicted class indices, (clips,).
        num_labels: number of classes; by default one more than the highest index that occurs.

    Returns:
        Counts of shape (num_labels, num_labels), integers.

    Raises:
        ValueError: an array is not (clips,) integers, the lengths differ, or an index lies outside 0 .. num_labels - 1.

    >>> confusion_matrix([0, 0, 1, -100], [0, 1, 1, 1])
    array([[1, 1],
           [0, 1]])
    """
    y_true, y_pred, num_labels = _class_pairs(y_true, y_pred, num_labels)
    return np.bincount(y_true * num_labels + y_pred, minlength=num_labels**2).reshape(num_labels, num_labels)


@_quiet
def recalls(y_true: ArrayLike, y_pred: ArrayLike, num_labels: int | None = None) -> np.ndarray:
    """Recall of each class, (num_labels,): true positives / clips of that class; NaN for a class not in y_true.

    Arguments and errors as `confusion_matrix`.
    """
    confusion = confusion_matrix(y_true, y_pred, num_labels)
    return np.diagonal(confusion) / confusion.sum(axis=1)


def uar(y_true: ArrayLike, y_pred: ArrayLike, num_labels: int | None = None) -> float:
    """Unweighted average recall: the mean recall over the classes that occur in y_true.

    A class without a clip has no recall and is left out of the mean, so chance is 1 / (classes that occur). NaN for no
    clip at all. Arguments and errors as `confusion_matrix`.

    >>> uar([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 1])  # the mean of 3/4 and 1/2
    0.625
    """
    return float(_mean_over_defined(recalls(y_true, y_pred, num_labels)))


@_quiet
def accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Share of clips whose class is right; NaN for no clip. Arguments and errors as `confusion_matrix`."""
    confusion = confusion_matrix(y_true, y_pred)
    return float(np.trace(confusion) / confusion.sum())


@_quiet
def macro_f1(y_true: ArrayLike, y_pred: ArrayLike, num_labels: int | None = None) -> float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN); arguments and errors as `confusion_matrix`.

    As in scikit-learn, the mean is over the classes that occur in y_true or y_pred; NaN for no clip.
    """
    confusion = confusion_matrix(y_true, y_pred, num_labels)
    return float(_mean_over_defined(2 * np.diagonal(confusion) / (confusion.sum(axis=0) + confusion.sum(axis=1))))


@_quiet
def _mean_over_defined(values: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    return np.where(defined, values, 0.0).sum(axis=-1) / defined.sum(axis=-1)


def _class_pairs(y_true: ArrayLike, y_pred: ArrayLike, num_labels: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    y_true, y_pred = _class_indices("y_true", y_true), _class_indices("y_pred", y_pred)
    if len(y_true) != len(y_pred):
        raise ValueError(f"y_true and y_pred must be equally long, got {len(y_true)} and {len(y_pred)} clips")
    present = y_true != MISSING_CLASS
    y_true, y_pred = y_true[present], y_pred[present]
    if num_labels is None:
        num_labels = int(max(y_true.max(initial=-1), y_pred.max(initial=-1))) + 1
    for name, values in (("y_true", y_true), ("y_pred", y_pred)):
        outside = values[(values < 0) | (values >= num_labels)]
        if outside.size:
            raise ValueError(
                f"{name} must hold class indices from 0 to {num_labels - 1}, got {outside[0]} "
                f"({MISSING_CLASS} marks a missing label, in y_true only)"
            )
    return y_true, y_pred, num_labels


def _class_indices(name: str, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values)
    # An empty list arrives as float64.
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be integers of shape (clips,), got {values.dtype} of shape {values.shape}")
    return values.astype(np.int64)


# ------------------------------------------------------------------------------------------- a task's whole score


def evaluate_predictions(
    task: Task | MultiTask,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: Sequence | np.ndarray | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """All scores of one set of predictions, with 95 % percentile bootstrap intervals.

    Each resample draws as many units as there are, with replacement: whole speakers where `groups` tells them, single
    clips otherwise. Resamples in which a score is undefined (a rare class may go undrawn) are left out of its interval;
    above 5 % of them, the share the interval itself leaves out, the interval is NaN. So it is with a single unit.

    Args:
        task: says what the arrays hold.
        y_true: (clips, labels) floats with NaN for missing, or (clips,) class indices with -100 for missing.
        y_pred: (clips, labels) floats: predictions, or logits of a classification task, which may also be given as
            (clips,) class indices.
        groups: the speaker of each clip, (clips,), any hashable values.
        num_resamples: number of resamples.
        seed: seed of the resampling.

    Returns:
        Plain floats, integers, lists and strings, ready for JSON. "num_clips" counts the clips with a label,
        "interval_unit" is "speaker" or "clip", "interval_units" how many of them those clips come from.
        Regression: "ccc", "ccc_low", "ccc_high", "pearson" (means over labels; one NaN label makes them NaN),
        "official_ccc" (the challenge's own) and "per_label" with the first four a label.
        Classification: "uar", "uar_low", "uar_high", "accuracy", "macro_f1", "confusion_matrix" (rows: true classes)
        and "per_label" with "recall", "recall_low", "recall_high", "count" a label.
        Several tasks: "mean_score" over those with labels, "num_clips" with any label, and "tasks", all of the above
        for each.

    Raises:
        ValueError: shapes or lengths do not fit the task or each other, a class index is out of range, a logit is NaN,
            a group is missing, or num_resamples is below 1.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    if isinstance(task, MultiTask):
        return _evaluate_tasks(task, y_true, y_pred, groups, num_resamples, seed)
    y_true, y_pred, units = _labelled_clips(task, y_true, y_pred, groups)
    evaluate = _evaluate_regression if task.kind == "regression" else _evaluate_classification
    return evaluate(task, y_true, y_pred, units, num_resamples, seed) | {
        "num_clips": len(units),
        "interval_unit": "clip" if groups is None else "speaker",
        "interval_units": len(np.unique(units)),
    }


def compute_metrics(task: Task | MultiTask) -> Callable[[EvalPrediction], dict[str, float]]:
    """The hook that `transformers.Trainer(compute_metrics=...)` calls after each evaluation; no intervals.

    Returns:
        A function from an EvalPrediction, whose `predictions` are logits or a tuple that starts with them, to a flat
        dict: "ccc", "pearson" (means over labels) and "ccc_<label>", or "uar", "accuracy" and "macro_f1". Of several
        tasks: "mean_score" and all these, preceded by the task's name, "high_ccc". It raises the ValueErrors of
        `evaluate_predictions`.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        return _point_scores(task, prediction.label_ids, logits[0] if isinstance(logits, tuple) else logits)

    return compute


def _point_scores(task: Task | MultiTask, y_true: np.ndarray, y_pred: np.ndarray) -> dict[str, float]:
    if isinstance(task, MultiTask):
        by_part = [(part, _point_scores(part, true, outputs)) for part, true, outputs in _parts(task, y_true, y_pred)]
        mean = float(np.mean([scores[part.metric] for part, scores in by_part]))
        named = {f"{part.name}_{name}": score for part, scores in by_part for name, score in scores.items()}
        return {task.metric: mean} | named
    y_true, y_pred = _checked_arrays(task, y_true, y_pred)
    if task.kind == "regression":
        scores = np.asarray(ccc(y_true, y_pred))  # (labels,)
        per_label = {f"ccc_{label}": float(score) for label, score in zip(task.labels, scores, strict=True)}
        return {"ccc": float(scores.mean()), "pearson": float(np.mean(pearson(y_true, y_pred)))} | per_label
    return _class_scores(y_true, y_pred, task.num_labels)


def _parts(task: MultiTask, y_true: ArrayLike, y_pred: ArrayLike) -> Iterable[tuple[Task, np.ndarray, np.ndarray]]:
    """Each part of a multitask with its labels and outputs."""
    return zip(task.parts, task.targets(np.asarray(y_true)), task.outputs(np.asarray(y_pred)), strict=True)


def _evaluate_tasks(
    task: MultiTask,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: Sequence | np.ndarray | None,
    num_resamples: int,
    seed: int,
) -> dict:
    tasks = {}
    for part, true, outputs in _parts(task, y_true, y_pred):
        if has_label(part, true).any():
            tasks[part.name] = evaluate_predictions(part, true, outputs, groups, num_resamples, seed)
        else:
            tasks[part.name] = {"num_clips": 0, "note": "no clip has its labels"}
    means = [tasks[part.name][part.metric] for part in task.parts if part.metric in tasks[part.name]]
    return {
        task.metric: float(np.mean(means)),
        "num_clips": int(has_label(task, np.asarray(y_true)).sum()),
        "tasks": tasks,
    }


def resampled_scores(
    task: Task,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: Sequence | np.ndarray | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """The task's metric of each bootstrap resample, (num_resamples,); see `evaluate_predictions`.

    The same clips in the same order, groups and seed give the same resamples, so that the scores of two systems can be
    subtracted, resample by resample.
    """
    y_true, y_pred, units = _labelled_clips(task, y_true, y_pred, groups)
    if task.kind == "regression":
        return _resampled_ccc(y_true, y_pred, units, num_resamples, seed).mean(axis=1)
    return _mean_over_defined(_resampled_recalls(task.num_labels, y_true, y_pred, units, num_resamples, seed))


def _resampled_ccc(
    y_true: np.ndarray, y_pred: np.ndarray, units: np.ndarray, num_resamples: int, seed: int
) -> np.ndarray:
    """(resamples, labels)"""
    offset, terms = _terms(y_true, y_pred)  # (labels,), (6, clips, labels)
    num_labels = y_true.shape[1]
    columns = np.moveaxis(terms, 0, 1).reshape(len(y_true), 6 * num_labels)
    totals = resampled_sums(columns, units, num_resamples, seed).reshape(num_resamples, 6, num_labels)
    return _ccc(_moments(offset, totals.swapaxes(0, 1)))


@_quiet
def _resampled_recalls(
    num_labels: int, y_true: np.ndarray, y_pred: np.ndarray, units: np.ndarray, num_resamples: int, seed: int
) -> np.ndarray:
    """(resamples, labels); NaN where a class went undrawn."""
    # Recalls need two numbers a class, not a whole confusion matrix a unit: its clips, and those that were hit.
    is_class = y_true[:, None] == np.arange(num_labels)  # (clips, labels)
    is_hit = is_class & (y_true == y_pred)[:, None]
    columns = np.concatenate([is_class, is_hit], axis=1).astype(np.float64)
    counts, hits = np.split(resampled_sums(columns, units, num_resamples, seed), 2, axis=1)
    return hits / counts


def _evaluate_regression(
    task: Task, y_true: np.ndarray, y_pred: np.ndarray, units: np.ndarray, num_resamples: int, seed: int
) -> dict:
    offset, terms = _terms(y_true, y_pred)  # (labels,), (6, clips, labels)
    moments = _moments(offset, terms.sum(axis=1))
    label_ccc, label_pearson = _ccc(moments), _pearson(moments)  # (labels,)
    resampled = _resampled_ccc(y_true, y_pred, units, num_resamples, seed)  # (resamples, labels)
    low, high = interval(resampled.mean(axis=1))
    label_low, label_high = interval(resampled)
    names = ("ccc", "ccc_low", "ccc_high", "pearson")
    rows = np.stack([label_ccc, label_low, label_high, label_pearson], axis=1).tolist()  # (labels, 4)
    return {
        "ccc": float(label_ccc.mean()),
        "ccc_low": float(low),
        "ccc_high": float(high),
        "pearson": float(label_pearson.mean()),
        "official_ccc": float(np.mean(official_ccc(y_true, y_pred))),
        "per_label": {label: dict(zip(names, row, strict=True)) for label, row in zip(task.labels, rows, strict=True)},
    }


@_quiet
def _evaluate_classification(
    task: Task, y_true: np.ndarray, y_pred: np.ndarray, units: np.ndarray, num_resamples: int, seed: int
) -> dict:
    confusion = confusion_matrix(y_true, y_pred, task.num_labels)
    label_recalls = recalls(y_true, y_pred, task.num_labels)

    resampled = _resampled_recalls(task.num_labels, y_true, y_pred, units, num_resamples, seed)  # (resamples, labels)
    low, high = interval(_mean_over_defined(resampled))
    label_low, label_high = interval(resampled)
    return _class_scores(y_true, y_pred, task.num_labels) | {
        "uar_low": float(low),
        "uar_high": float(high),
        "per_label": {
            label: {
                "recall": float(label_recalls[index]),
                "recall_low": float(label_low[index]),
                "recall_high": float(label_high[index]),
                "count": int(confusion[index].sum()),
            }
            for index, label in enumerate(task.labels)
        },
        "confusion_matrix": confusion.tolist(),
    }


def _class_scores(y_true: np.ndarray, y_pred: np.ndarray, num_labels: int) -> dict[str, float]:
    return {
        "uar": uar(y_true, y_pred, num_labels),
        "accuracy": accuracy(y_true, y_pred),
        "macro_f1": macro_f1(y_true, y_pred, num_labels),
    }


def has_label(task: Task | MultiTask, y_true: np.ndarray) -> np.ndarray:
    """Which clips have a label, in a regression or multitask at least one of several: (clips,) of booleans."""
    return y_true != MISSING_CLASS if task.kind == "classification" else ~np.isnan(y_true).all(axis=1)


def _labelled_clips(
    task: Task, y_true: ArrayLike, y_pred: ArrayLike, groups: Sequence | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets and predictions of the clips with a label, and their resampling units."""
    y_true, y_pred = _checked_arrays(task, y_true, y_pred)
    is_labelled = has_label(task, y_true)
    return y_true[is_labelled], y_pred[is_labelled], unit_indices(groups, is_labelled)


def _checked_arrays(task: Task, y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    check = _regression_arrays if task.kind == "regression" else _classification_arrays
    return check(task, y_true, y_pred)


def _regression_arrays(task: Task, y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    y_true, y_pred = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    for name, values in (("y_true", y_true), ("y_pred", y_pred)):
        if values.ndim != 2 or values.shape[1] != task.num_labels:
            raise ValueError(f"{name} of task {task.name!r} must be (clips, {task.num_labels}), got {values.shape}")
    if len(y_true) != len(y_pred):
        raise ValueError(f"y_true and y_pred must be equally long, got {len(y_true)} and {len(y_pred)} clips")
    return y_true, y_pred


def _classification_arrays(task: Task, y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    y_pred = np.asarray(y_pred)
    if y_pred.ndim == 2:
        if y_pred.shape[1] != task.num_labels:
            raise ValueError(f"logits of task {task.name!r} must be (clips, {task.num_labels}), got {y_pred.shape}")
        # argmax would silently call the first NaN the winner.
        if np.isnan(y_pred).any():
            raise ValueError(f"y_pred has NaN logits in {np.isnan(y_pred).any(axis=1).sum()} of {len(y_pred)} clips")
        y_pred = y_pred.argmax(axis=1)  # (clips, labels) -> (clips,)
    y_true, y_pred = _class_indices("y_true", y_true), _class_indices("y_pred", y_pred)
    _class_pairs(y_true, y_pred, task.num_labels)  # raises for unequal lengths and indices out of range
    return y_true, y_pred
