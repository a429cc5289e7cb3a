"""Is one system better than another? The difference of their scores on the same clips, with a 95 % interval.

    python -m avb.comparison runs/last-1 runs/last-2 --against runs/avg-1 runs/avg-2 [--split validation]

A system is one run or several that differ by seed; its score is their mean. Both systems are scored on the same
bootstrap resamples, of whole speakers where speakers are known, so what makes a speaker easy or hard for both cancels
out. An interval without zero says that other speakers would probably agree; it does not say what another training run
with other clips would give.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avb.bootstrap import interval
from avb.errors import AvbError
from avb.metrics import evaluate_predictions, resampled_scores
from avb.tasks import Task


@dataclass(frozen=True)
class Predictions:
    """What `predictions_SPLIT.csv` of a run holds: targets and predictions as `Task` has them."""

    task: Task
    ids: list[str]
    speakers: list[str] | None
    y_true: np.ndarray
    y_pred: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Means over seeds, their difference, and its interval."""

    metric: str
    score: float
    other: float
    difference: float
    low: float
    high: float
    num_clips: int
    unit: str


def compare(runs: Sequence[str | Path], others: Sequence[str | Path], split: str = "validation") -> Comparison:
    """Compares two systems.

    Args:
        runs: folders of one system's runs.
        others: folders of the other's.
        split: on which they are compared.

    Raises:
        AvbError: a run has no predictions of the split, or not of the same clips with the same labels.
    """
    systems = [[read_predictions(folder, split) for folder in folders] for folders in (runs, others)]
    first = systems[0][0]
    for system, folders in zip(systems, (runs, others), strict=True):
        for run, folder in zip(system, folders, strict=True):
            if run.ids != first.ids or run.task != first.task or not _same(run.y_true, first.y_true):
                raise AvbError(f"{folder}: its {split} clips or labels are not those of {runs[0]}")
    scores = [np.mean([_score(run) for run in system]) for system in systems]
    low, high = interval(_resampled(systems[0]) - _resampled(systems[1]))
    return Comparison(
        metric=first.task.metric,
        score=float(scores[0]),
        other=float(scores[1]),
        difference=float(scores[0] - scores[1]),
        low=float(low),
        high=float(high),
        num_clips=len(first.ids),
        unit="clip" if first.speakers is None else "speaker",
    )


def _resampled(system: Sequence[Predictions]) -> np.ndarray:
    """Mean over the runs of each resample's score, (resamples,)."""
    return np.mean([resampled_scores(run.task, run.y_true, run.y_pred, run.speakers) for run in system], axis=0)


def _score(run: Predictions) -> float:
    return evaluate_predictions(run.task, run.y_true, run.y_pred, num_resamples=1)[run.task.metric]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def read_predictions(folder: str | Path, split: str) -> Predictions:
    """The predictions that a run of one task wrote.

    Raises:
        AvbError: there are none.
    """
    folder = Path(folder)
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        with open(folder / f"predictions_{split}.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise AvbError(
            f"{error.filename}: cannot be read; give folders of finished runs that scored {split}"
        ) from error
    if metrics["metric"] not in ("ccc", "uar"):
        raise AvbError(f"{folder}: runs of several tasks cannot be compared yet")
    labels = metrics["labels"]
    if metrics["metric"] == "uar":
        task = Task(metrics["task"], "classification", labels)
        index = {label: number for number, label in enumerate(labels)} | {"": -100}
        y_true = np.array([index[row["label"]] for row in rows])
        y_pred = np.array([index[row["prediction"]] for row in rows])
    else:
        task = Task(metrics["task"], "regression", labels)
        y_true = np.array([[float(row[f"true_{label}"] or "nan") for label in labels] for row in rows])
        y_pred = np.array([[float(row[label]) for label in labels] for row in rows])
    speakers = [row["speaker"] or row["id"] for row in rows] if rows and "speaker" in rows[0] else None
    return Predictions(task, [row["id"] for row in rows], speakers, y_true, y_pred)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of one system's runs")
    parser.add_argument("--against", metavar="RUN", nargs="+", required=True, help="folders of the other system's runs")
    parser.add_argument("--split", default="validation", help="validation (default) or test")
    args = parser.parse_args(argv)
    try:
        found = compare(args.runs, args.against, args.split)
    except AvbError as error:
        print(f"avb.comparison: error: {error}", file=sys.stderr)
        return 1
    print(
        f"{found.metric.upper()} {found.score:.3f} ({len(args.runs)} runs) against {found.other:.3f} "
        f"({len(args.against)}): difference {found.difference:+.3f}, 95 % interval {found.low:+.3f} to "
        f"{found.high:+.3f} by {found.unit} ({found.num_clips} clips)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
