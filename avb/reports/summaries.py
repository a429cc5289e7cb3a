"""Results over seeds, and the table of all runs. Scores are percentages, as in the paper.

Over several seeds: the mean, its standard deviation, and an interval from the mean lower bound to the mean upper bound.
If several runs have the same seed, the last one counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from avb.reports.markdown import markdown_table
from avb.reports.results import Result

# Fields that summarized runs have in common.
_SHARED = ("recipe", "changes", "corpus", "data_dir", "train_clips", "task", "split", "metric", "num_clips")


@dataclass(frozen=True)
class Summary:
    """Runs that differ only in their seed, on one split. Scores are in percent; None if there is none.

    Attributes:
        mean: over seeds.
        sd: standard deviation over seeds (divisor n - 1); None for a single seed.
        low: mean lower bound of the runs' 95 % intervals.
        high: mean upper bound of these intervals.
        note: why there is no score, if no run has one.
    """

    recipe: str
    changes: str = ""
    corpus: str = ""
    data_dir: str = ""
    train_clips: int | None = None
    task: str = ""
    split: str = ""
    metric: str = ""
    num_clips: int | None = None
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    num_seeds: int = 0
    note: str = ""


def summarize(results: Iterable[Result]) -> list[Summary]:
    """Summarizes results by recipe and split, in order of first appearance; failures are included, with their note."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(getattr(result, name) for name in _SHARED), []).append(result)
    return [_summary(group) for group in groups.values()]


def _summary(group: list[Result]) -> Summary:
    """Summarizes runs that differ only in their seed; the last run of each seed counts."""
    shared: dict[str, Any] = {name: getattr(group[0], name) for name in _SHARED}
    of_seed = {result.seed: result for result in group if result.score is not None}
    if not of_seed:
        return Summary(**shared, note=group[-1].note or "no score")
    scores = 100 * np.array([[result.score, *_bounds(result)] for result in of_seed.values()])  # (seeds, 3)
    mean, low, high = map(float, scores.mean(0))
    return Summary(
        **shared,
        mean=mean,
        sd=float(scores[:, 0].std(ddof=1)) if len(scores) > 1 else None,
        low=low,
        high=high,
        minimum=float(scores[:, 0].min()),
        maximum=float(scores[:, 0].max()),
        num_seeds=len(scores),
    )


def _bounds(result: Result) -> tuple[float, float]:
    low, high = (np.nan if bound is None else bound for bound in (result.low, result.high))
    return low, high


def runs_table(summaries: Iterable[Summary]) -> list[str]:
    """The lines of a Markdown table of any runs."""
    header = (
        "recipe",
        "corpus",
        "train clips",
        "task",
        "split",
        "metric",
        "mean ± sd",
        "95 % interval",
        "min",
        "max",
        "seeds",
    )
    cells = []
    for s in summaries:
        scores = [s.note, "", "", ""]
        if s.mean is not None:
            spread = "" if s.sd is None else f" ± {s.sd:.2f}"
            scores = [f"{s.mean:.2f}{spread}", interval(s.low, s.high), f"{s.minimum:.2f}", f"{s.maximum:.2f}"]
        recipe = f"{s.recipe} {s.changes}".strip()
        corpus = s.corpus if s.data_dir in ("", s.corpus) else f"{s.corpus} ({s.data_dir})"
        known = ["" if value is None else str(value) for value in (s.train_clips, s.task, s.split, s.metric)]
        cells.append([recipe, corpus, *known, *scores, str(s.num_seeds)])
    return markdown_table(header, cells)


def interval(low: float | None, high: float | None) -> str:
    """Formats an interval as lower to upper bound, in percent; "none" if there is none."""
    return "none" if low is None or high is None or np.isnan(low) or np.isnan(high) else f"{low:.2f} to {high:.2f}"
