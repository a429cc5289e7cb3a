"""Is one system better than another? The difference of their scores on the same clips, with a 95 % interval.

    python -m avb.reports compare runs/last-1 runs/last-2 --against runs/avg-1 runs/avg-2 [--split validation]

A system is one run, or several that differ only by seed; its score is their mean. Both systems are scored on the same
bootstrap resamples, of whole speakers if speakers are known, so differences in difficulty between speakers cancel out.
If the interval excludes zero, the result would probably hold for other speakers; it does not tell what another training
run with other clips would give.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avb.errors import AvbError
from avb.metrics import resampled_scores
from avb.metrics.bootstrap import interval
from avb.reports.scored import Predictions, read_predictions
from avb.run_files import SCORED_SPLITS


@dataclass(frozen=True)
class Comparison:
    """Two systems' means over seeds on one task, their difference, and its interval."""

    task: str
    metric: str
    score: float
    other: float
    difference: float
    low: float
    high: float
    num_clips: int
    unit: str


def compare(runs: Sequence[str | Path], others: Sequence[str | Path], split: str = "validation") -> list[Comparison]:
    """Compares two systems, task by task.

    Args:
        runs: folders of the first system's runs.
        others: folders of the second system's runs.
        split: the split they are compared on.

    Raises:
        AvbError: a run has no predictions for the split, or its clips or labels differ from the other runs'.
    """
    systems = [[read_predictions(folder, split) for folder in folders] for folders in (runs, others)]
    first = systems[0][0]
    for system, folders in zip(systems, (runs, others), strict=True):
        for run, folder in zip(system, folders, strict=True):
            if len(run) != len(first) or not all(_is_same(*pair) for pair in zip(run, first, strict=True)):
                raise AvbError(
                    f"{folder}: its {split} clips or labels are not those of {runs[0]}; compare "
                    "runs of one table, task and way of making splits (see their recipe.yaml)"
                )
    return [_compare(*([run[part] for run in system] for system in systems)) for part in range(len(first))]


def _compare(system: Sequence[Predictions], other: Sequence[Predictions]) -> Comparison:
    """Compares two systems on one task; each has one `Predictions` per run."""
    first = system[0]
    metric = first.task.metric
    scores = [np.mean([run.evaluate(num_resamples=1)[metric] for run in runs]) for runs in (system, other)]
    low, high = interval(_resampled(system) - _resampled(other))
    return Comparison(
        task=first.task.name,
        metric=metric,
        score=float(scores[0]),
        other=float(scores[1]),
        difference=float(scores[0] - scores[1]),
        low=float(low),
        high=float(high),
        num_clips=len(first),
        unit=first.unit,
    )


def _is_same(run: Predictions, first: Predictions) -> bool:
    is_float = first.y_true.dtype.kind == "f"
    is_same = run.task == first.task and np.array_equal(run.ids, first.ids)
    return is_same and np.array_equal(run.y_true, first.y_true, equal_nan=is_float)


def _resampled(system: Sequence[Predictions]) -> np.ndarray:
    """Score of each resample, averaged over runs, (resamples,)."""
    return np.mean([resampled_scores(run.task, run.y_true, run.y_pred, run.groups) for run in system], axis=0)


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of one system's runs")
    parser.add_argument("--against", metavar="RUN", nargs="+", required=True, help="folders of the other system's runs")
    parser.add_argument("--split", default="validation", choices=SCORED_SPLITS, help="default: validation")


def print_comparison(args: argparse.Namespace):
    """Prints one line per task, for `python -m avb.reports compare`."""
    found = compare(args.runs, args.against, args.split)
    runs = f"{len(args.runs)} run{'s' if len(args.runs) > 1 else ''}"
    for part in found:
        task = f"{part.task}: " if len(found) > 1 else ""
        print(
            f"{task}{part.metric.upper()} {part.score:.3f} ({runs}) against {part.other:.3f} "
            f"({len(args.against)}): difference {part.difference:+.3f}, 95 % interval {part.low:+.3f} to "
            f"{part.high:+.3f} by {part.unit} ({part.num_clips} clips)"
        )
