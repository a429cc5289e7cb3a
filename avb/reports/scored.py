"""Reads what a finished run stored about a split: targets, scores, speakers and durations, task by task."""

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from avb.errors import AvbError
from avb.metrics import evaluate_predictions, has_label, resampling_units
from avb.metrics.bootstrap import Unit
from avb.run_files import METRICS, Metrics, predictions_path, read_metrics
from avb.tasks import MISSING_CLASS, Task

TOLERANCE = 1e-3  # predictions are written with six decimals; a score computed from them differs by less


@dataclass(frozen=True)
class Predictions:
    """Predictions for a task's labelled clips of one split.

    Attributes:
        task: the task, which determines what the arrays contain.
        ids: (clips,) clip ids.
        split: validation, test or cross_validation.
        groups: speaker of each clip, or the clip itself if it has none; None if no speaker is known.
        seconds: (clips,) duration that the model received, after trimming; None if it is not on file.
        y_true: (clips, labels) floats with NaN for missing, or (clips,) class indices.
        y_pred: (clips, labels) floats, or (clips,) class indices.
        scores: (clips, labels) the model's outputs: equal to `y_pred` for regression, class probabilities for
            classification.
        group_kind: what `groups` are: "group" if file names defined groups of clips but no speakers.
    """

    task: Task
    split: str
    ids: np.ndarray
    groups: np.ndarray | None
    seconds: np.ndarray | None
    y_true: np.ndarray
    y_pred: np.ndarray
    scores: np.ndarray
    group_kind: Unit = "speaker"

    def __len__(self) -> int:
        return len(self.y_true)

    def select(self, mask: np.ndarray) -> "Predictions":
        """Selects the clips of a boolean mask (clips,)."""
        arrays = {name: getattr(self, name) for name in ("ids", "groups", "seconds", "y_true", "y_pred", "scores")}
        kept: dict[str, Any] = {name: None if array is None else array[mask] for name, array in arrays.items()}
        return replace(self, **kept)

    @property
    def unit(self) -> Unit:
        """The unit that the intervals resample."""
        return "clip" if self.groups is None else self.group_kind

    def basis(self) -> str:
        """The number of clips and speakers behind a figure, in words."""
        units = "speakers not known" if self.groups is None else f"{len(set(self.groups))} {self.unit}s"
        return f"{self.split}: {len(self)} clips, {units}"

    def evaluate(self, num_resamples: int = 1000) -> dict:
        """See `avb.metrics.evaluate_predictions`."""
        return evaluate_predictions(self.task, self.y_true, self.y_pred, self.groups, num_resamples, unit=self.unit)


def read_predictions(folder: str | Path, split: str) -> list[Predictions]:
    """The predictions of a split, one per task that has labels there.

    Raises:
        AvbError: a file is missing or damaged, the labels are withheld, or the predictions do not match
            `metrics.json`.
    """
    folder = Path(folder)
    metrics = read_metrics(folder)
    path = predictions_path(folder, split)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise AvbError(f"{path}: cannot be read ({error.strerror}); give a finished run that scored {split}") from error
    if not metrics.is_scored(split):
        raise AvbError(f"{folder}: no clip of {split} has a label; give --split of one that was scored")
    try:
        found = [_predictions(part, columns, split, rows) for part, columns in _parts(metrics)]
    except (KeyError, ValueError) as error:
        what = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise AvbError(f"{path}: {what}; it is not the table that train_avb.py wrote: train again") from error
    found = [predictions for predictions in found if len(predictions)]
    noted = {part.task.name: part.scores for part in metrics.task_scores(split)}
    for predictions in found:
        _check(folder, predictions, noted[predictions.task.name])
    return found


def _parts(metrics: Metrics) -> list[tuple[Task, dict]]:
    """Each task of a run, and the columns of its file: scores, true (one column, or one per label), and predicted."""
    found, start = [], 0
    for task in metrics.parts:
        scores = metrics.labels[start : start + task.num_labels]
        suffix = f"_{task.name}" if metrics.tasks else ""
        true = [f"true_{label}" for label in task.labels] if task.kind == "regression" else [f"label{suffix}"]
        found.append((task, {"scores": scores, "true": true, "predicted": f"prediction{suffix}"}))
        start += task.num_labels
    return found


def _predictions(task: Task, columns: dict, split: str, rows: list[dict]) -> Predictions:
    has_seconds = bool(rows) and "seconds" in rows[0] and "seconds" not in columns["scores"]
    scores = np.array([[float(row[column]) for column in columns["scores"]] for row in rows])
    if task.kind == "classification":
        index = {label: number for number, label in enumerate(columns["scores"])}
        true_index = task.label2id | {"": MISSING_CLASS}
        y_true = np.array([_class(true_index, row[columns["true"][0]]) for row in rows])
        y_pred = np.array([_class(index, row[columns["predicted"]]) for row in rows])
    else:
        y_true = np.array([[float(row[column] or "nan") for column in columns["true"]] for row in rows])
        y_pred = scores
    ids = np.array([row["id"] for row in rows])
    known = {name: [row[name] for row in rows] for name in ("speaker", "group") if rows and name in rows[0]}
    units = resampling_units(ids.tolist(), known.get("speaker"), known.get("group"))
    groups = None if units.names is None else np.array(units.names)
    seconds = np.array([float(row["seconds"]) for row in rows]) if has_seconds else None
    found = Predictions(task, split, ids, groups, seconds, y_true, y_pred, scores, units.kind)
    return found.select(has_label(task, y_true))


def _class(index: dict[str, int], label: str) -> int:
    if label not in index:
        raise ValueError(f"{label!r} is not a class of the run")
    return index[label]


def _check(folder: Path, predictions: Predictions, noted: dict):
    """Checks that the report will agree with the run's own metrics."""
    task = predictions.task
    found = predictions.evaluate(num_resamples=1)
    is_same = math.isclose(found[task.metric], noted[task.metric], abs_tol=TOLERANCE)
    if noted["num_clips"] != len(predictions) or not (is_same or math.isnan(noted[task.metric])):
        raise AvbError(
            f"{folder}: {len(predictions)} predictions of {predictions.split} score {found[task.metric]:.3f}, "
            f"{METRICS} says {noted[task.metric]:.3f} of {noted['num_clips']}: files of two runs; train again"
        )
