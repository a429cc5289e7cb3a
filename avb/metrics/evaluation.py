"""All scores of the predictions for a task, with 95 % bootstrap intervals by speaker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from avb.metrics.bootstrap import Unit, interval, resampled_sums, unit_indices
from avb.metrics.classification import (
    class_indices,
    class_pairs,
    confusion_matrix,
    mean_over_defined,
    recalls,
    uar,
    wilson_interval,
)
from avb.metrics.further import CLASSIFICATION, REGRESSION, Score
from avb.metrics.regression import (
    ccc,
    ccc_of_moments,
    clip_terms,
    moments_of_totals,
    pearson,
    pearson_of_moments,
    quiet,
)
from avb.tasks import MISSING_CLASS, MultiTask, Task

if TYPE_CHECKING:
    from transformers import EvalPrediction


def evaluate_predictions(
    task: Task | MultiTask,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: Sequence | np.ndarray | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    unit: Unit = "speaker",
) -> dict:
    """Computes all scores of one set of predictions, with 95 % percentile bootstrap intervals.

    Each resample draws as many units as there are, with replacement: the speakers or other units in `groups`, or single
    clips without `groups`. Resamples in which a score is undefined (a rare class may not be drawn) are left out of its
    interval. If more than 5 % are undefined (the share outside a 95 % interval), the interval is NaN. It is also NaN if
    there is only one unit.

    Args:
        task: defines what the arrays contain.
        y_true: (clips, labels) floats with NaN for missing, or (clips,) class indices with -100 for missing.
        y_pred: (clips, labels) floats: predictions, or logits of a classification task, which may also be given as
            (clips,) class indices.
        groups: the speaker or other unit of each clip, (clips,), any hashable values.
        num_resamples: number of resamples.
        seed: seed of the resampling.
        unit: the kind of unit in `groups`.

    Returns:
        Plain floats, integers, lists and strings, ready for JSON. "num_clips" counts the clips with a label,
        "interval_unit" is "speaker", "group" or "clip", and "interval_units" is the number of units of those clips.
        Regression: "ccc", "ccc_low", "ccc_high", "pearson" (means over labels; one NaN label makes them NaN),
        "official_ccc" (as in the challenge's script) and "per_label" with the first four per label.
        Classification: "uar", "uar_low", "uar_high", "accuracy", "macro_f1", "confusion_matrix" (rows: true classes)
        and "per_label" with "recall", "recall_low", "recall_high", "count" per label; a recall of 0 or 1 has a Wilson
        interval over clips, unless the bootstrap gives NaN. If a class has no clips, "uar" and its bounds are NaN,
        "missing_classes" lists it, and "uar_present", "uar_present_low", "uar_present_high" are over the others.
        "predicts_only" names the class if the same one is predicted for every clip.
        "chance" is the score of guessing: 1 / (number of classes that occur), or a CCC of 0.
        Several tasks: "mean_score" over the tasks with labels, "num_clips" with any label, and "tasks" with all of the
        above per task.

    Raises:
        ValueError: shapes or lengths do not fit the task or each other, a class index is out of range, a logit is NaN,
            a group is missing, or num_resamples is below 1.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    if isinstance(task, MultiTask):
        return _evaluate_tasks(task, y_true, y_pred, groups, num_resamples, seed, unit)
    y_true, y_pred, units = _labelled_clips(task, y_true, y_pred, groups)
    evaluate = _evaluate_regression if task.kind == "regression" else _evaluate_classification
    return evaluate(task, y_true, y_pred, units, num_resamples, seed) | {
        "num_clips": len(units),
        "interval_unit": "clip" if groups is None else unit,
        "interval_units": len(np.unique(units)),
    }


def compute_metrics(task: Task | MultiTask) -> Callable[[EvalPrediction], dict[str, float]]:
    """Makes the hook that `transformers.Trainer(compute_metrics=...)` calls after each evaluation; no intervals.

    Returns:
        A function from an EvalPrediction, whose `predictions` are logits or a tuple that starts with them, to a flat
        dict: "ccc", "pearson" (means over labels) and "ccc_<label>", or "uar", "uar_present", "accuracy", "macro_f1".
        Several tasks: "mean_score", and all of these prefixed with the task's name, such as "high_ccc". It raises the
        ValueErrors of `evaluate_predictions`. Epochs are compared by `best_metric(task)`.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        return _point_scores(task, prediction.label_ids, logits[0] if isinstance(logits, tuple) else logits)

    return compute


def best_metric(task: Task | MultiTask) -> str:
    """The score of `compute_metrics` by which epochs are compared; it is defined even if a class has no clips."""
    return "uar_present" if task.metric == "uar" else task.metric


def defined_metric(scores: dict, metric: str) -> str:
    """The key under which the scores of `evaluate_predictions` contain a defined value of the task's metric:
    "uar_present" instead of "uar" if a class has no clips."""
    return f"{metric}_present" if "missing_classes" in scores else metric


def _point_scores(task: Task | MultiTask, y_true: np.ndarray, y_pred: np.ndarray) -> dict[str, float]:
    if isinstance(task, MultiTask):
        by_part = [(part, _point_scores(part, true, outputs)) for part, true, outputs in _parts(task, y_true, y_pred)]
        mean = float(np.mean([scores[best_metric(part)] for part, scores in by_part]))
        named = {f"{part.name}_{name}": score for part, scores in by_part for name, score in scores.items()}
        return {task.metric: mean} | named
    y_true, y_pred = _checked_arrays(task, y_true, y_pred)
    if task.kind == "regression":
        scores = np.asarray(ccc(y_true, y_pred))  # (labels,)
        per_label = {f"ccc_{label}": float(score) for label, score in zip(task.labels, scores, strict=True)}
        further = _further_scores(REGRESSION, y_true, y_pred, only_each_epoch=True)
        return {"ccc": float(scores.mean()), "pearson": float(np.mean(pearson(y_true, y_pred)))} | further | per_label
    return _class_scores(y_true, y_pred, task.num_labels, only_each_epoch=True)


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
    unit: Unit,
) -> dict:
    tasks = {}
    for part, true, outputs in _parts(task, y_true, y_pred):
        if has_label(part, true).any():
            tasks[part.name] = evaluate_predictions(part, true, outputs, groups, num_resamples, seed, unit)
        else:
            tasks[part.name] = {"num_clips": 0, "note": "no clip has its labels"}
    scored = [(part, tasks[part.name]) for part in task.parts if part.metric in tasks[part.name]]
    means = [scores[defined_metric(scores, part.metric)] for part, scores in scored]
    return {
        task.metric: float(np.mean(means)),
        "chance": float(np.mean([scores["chance"] for _, scores in scored])),
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
    return mean_over_defined(_resampled_recalls(task.num_labels, y_true, y_pred, units, num_resamples, seed))


def _resampled_ccc(
    y_true: np.ndarray, y_pred: np.ndarray, units: np.ndarray, num_resamples: int, seed: int
) -> np.ndarray:
    """CCC of each resample and label, (resamples, labels)."""
    offset, terms = clip_terms(y_true, y_pred)  # (labels,), (6, clips, labels)
    num_labels = y_true.shape[1]
    columns = np.moveaxis(terms, 0, 1).reshape(len(y_true), 6 * num_labels)
    totals = resampled_sums(columns, units, num_resamples, seed).reshape(num_resamples, 6, num_labels)
    return ccc_of_moments(moments_of_totals(offset, totals.swapaxes(0, 1)))


@quiet
def _resampled_recalls(
    num_labels: int, y_true: np.ndarray, y_pred: np.ndarray, units: np.ndarray, num_resamples: int, seed: int
) -> np.ndarray:
    """Recall of each resample and class, (resamples, labels); NaN where a class was not drawn."""
    # Recalls need only two numbers per class and unit, clips and hits, not a whole confusion matrix.
    is_class = y_true[:, None] == np.arange(num_labels)  # (clips, labels)
    is_hit = is_class & (y_true == y_pred)[:, None]
    columns = np.concatenate([is_class, is_hit], axis=1).astype(np.float64)
    counts, hits = np.split(resampled_sums(columns, units, num_resamples, seed), 2, axis=1)
    return hits / counts


def _evaluate_regression(
    task: Task, y_true: np.ndarray, y_pred: np.ndarray, units: np.ndarray, num_resamples: int, seed: int
) -> dict:
    offset, terms = clip_terms(y_true, y_pred)  # (labels,), (6, clips, labels)
    moments = moments_of_totals(offset, terms.sum(axis=1))
    label_ccc, label_pearson = ccc_of_moments(moments), pearson_of_moments(moments)  # (labels,)
    resampled = _resampled_ccc(y_true, y_pred, units, num_resamples, seed)  # (resamples, labels)
    low, high = interval(resampled.mean(axis=1))
    label_low, label_high = interval(resampled)
    names = ("ccc", "ccc_low", "ccc_high", "pearson")
    rows = np.stack([label_ccc, label_low, label_high, label_pearson], axis=1).tolist()  # (labels, 4)
    return {
        "ccc": float(label_ccc.mean()),
        "ccc_low": float(low),
        "ccc_high": float(high),
        "chance": 0.0,
        "pearson": float(label_pearson.mean()),
        **_further_scores(REGRESSION, y_true, y_pred),
        "per_label": {label: dict(zip(names, row, strict=True)) for label, row in zip(task.labels, rows, strict=True)},
    }


@quiet
def _evaluate_classification(
    task: Task, y_true: np.ndarray, y_pred: np.ndarray, units: np.ndarray, num_resamples: int, seed: int
) -> dict:
    confusion = confusion_matrix(y_true, y_pred, task.num_labels)
    label_recalls = recalls(y_true, y_pred, task.num_labels)

    resampled = _resampled_recalls(task.num_labels, y_true, y_pred, units, num_resamples, seed)  # (resamples, labels)
    low, high = map(float, interval(mean_over_defined(resampled)))
    counts, hits = confusion.sum(axis=1), np.diagonal(confusion)
    bounds = interval(resampled)  # (2, labels); a recall of 0 or 1 is the same in every resample
    is_point = np.isin(label_recalls, (0, 1)) & ~np.isnan(bounds[0])
    label_low, label_high = np.where(is_point, wilson_interval(hits, counts), bounds)
    missing = [label for label, count in zip(task.labels, counts, strict=True) if not count]
    scores: dict = _class_scores(y_true, y_pred, task.num_labels)
    present = scores.pop("uar_present")
    scores |= {"uar_low": low, "uar_high": high, "chance": 1 / max(1, task.num_labels - len(missing))}
    if missing:
        scores |= {"uar_low": np.nan, "uar_high": np.nan, "missing_classes": missing}
        scores |= {"uar_present": present, "uar_present_low": low, "uar_present_high": high}
    answers = np.flatnonzero(confusion.sum(axis=0))
    if len(answers) == 1 and len(y_true) > 1:
        scores["predicts_only"] = task.labels[answers[0]]
    return scores | {
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


def _class_scores(
    y_true: np.ndarray, y_pred: np.ndarray, num_labels: int, only_each_epoch: bool = False
) -> dict[str, float]:
    present = uar(y_true, y_pred, num_labels)
    occurring = np.unique(y_true[y_true != MISSING_CLASS])
    return {
        "uar": present if len(occurring) == num_labels else np.nan,
        "uar_present": present,
        **_further_scores(CLASSIFICATION, y_true, y_pred, num_labels, only_each_epoch=only_each_epoch),
    }


def _further_scores(scores: dict[str, Score], *arrays, only_each_epoch: bool = False) -> dict[str, float]:
    wanted = {name: score for name, score in scores.items() if score.each_epoch or not only_each_epoch}
    return {name: float(np.mean(score.of(*arrays))) for name, score in wanted.items()}


def has_label(task: Task | MultiTask, y_true: np.ndarray) -> np.ndarray:
    """Which clips have a label (regression and multitask: at least one), (clips,) booleans."""
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
    y_true, y_pred = class_indices("y_true", y_true), class_indices("y_pred", y_pred)
    class_pairs(y_true, y_pred, task.num_labels)  # raises for unequal lengths and indices out of range
    return y_true, y_pred
