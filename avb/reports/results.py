"""The results of a run as rows: one per split, and one more for each of several tasks.

A run that fails has a row too, with an empty score and the reason in `note`. A row contains the recipe and the changes
made on the command line: `paper/high-lv60k` run with `--max_steps 5` is not the paper's row. See
`avb.reports.run_table` for the table to which rows are appended.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from avb.errors import AvbError
from avb.recipes import SUFFIXES
from avb.run_files import Metrics


@dataclass(frozen=True)
class Result:
    """One row: the score of one run on one split, or the fact that it has none.

    Attributes:
        recipe: the recipe's name, `paper/high-lv60k` (`avb.recipes.recipe_name`); several names are joined by `+`.
        changes: what the command line changed in the recipe, as returned by `avb.command_line.typed_changes`; empty for
            the unchanged recipe.
        task: name of the task.
        split: validation, test or cross_validation; empty if the run failed.
        metric: ccc, uar, or mean_score over several tasks.
        score: in [-1, 1] or [0, 1]; None if there is none (see `note`), NaN if it is undefined.
        low: lower bound of the score's 95 % interval.
        high: upper bound of that interval.
        num_clips: number of labelled clips in the split.
        interval_unit: unit that the interval resamples: speaker, group or clip.
        seed: seed of the run.
        seconds: training time.
        epochs: epochs trained, fewer than planned if training stopped early.
        encoder: name in the recipe; for a local path, its last part.
        train_clips: number of clips trained on.
        corpus: name of the corpus.
        data_dir: last part of the path of the corpus's folder.
        commit: commit of this project.
        versions: JSON of everything else that the result depends on.
        date: time at which the row was written, UTC.
        note: why there is no score, or anything else that a reader must know.
        run_id: id of the run, as in its `metrics.json`; empty in rows from versions that had no ids.
    """

    recipe: str
    changes: str = ""
    task: str = ""
    split: str = ""
    metric: str = ""
    score: float | None = None
    low: float | None = None
    high: float | None = None
    num_clips: int | None = None
    interval_unit: str = ""
    seed: int | None = None
    seconds: float | None = None
    epochs: float | None = None
    encoder: str = ""
    train_clips: int | None = None
    corpus: str = ""
    data_dir: str = ""
    commit: str = ""
    versions: str = ""
    date: str = ""
    note: str = ""
    run_id: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """Identifies a row: by the id of its run if it has one, else by all its cells."""
        # As text, because NaN does not equal itself.
        return (self.run_id, self.task, self.split) if self.run_id else tuple(map(repr, asdict(self).values()))


def run_results(
    recipe: str,
    changes: str,
    metrics: Metrics,
    *,
    encoder: str,
    data_dir: str | Path,
    corpus: str,
    epochs: float | None,
    versions: dict,
) -> list[Result]:
    """The rows of a finished run: one per split, and one more per task if there are several.

    Args:
        recipe: name of the recipe.
        changes: arguments that change the recipe.
        metrics: contents of the run's `metrics.json`.
        encoder: the recipe's encoder.
        data_dir: folder of the corpus.
        corpus: name of the corpus, as in the recipe.
        epochs: epochs trained.
        versions: contents of the run's `versions.json`.
    """
    versions = dict(versions)
    common: dict[str, Any] = {
        "recipe": recipe,
        "changes": changes,
        "seed": metrics.seed,
        "seconds": metrics.train_seconds,
        "epochs": None if epochs is None else round(epochs, 2),
        "encoder": _encoder_name(encoder),
        "train_clips": metrics.train_clips,
        "corpus": corpus,
        "data_dir": Path(data_dir).resolve().name,
        "commit": versions.pop("commit", None) or "",
        "versions": json.dumps(versions, sort_keys=True),
        "date": _now(),
        "run_id": metrics.run_id,
    }
    rows = []
    for split, scores in metrics.splits.items():
        scored = [(metrics.task, metrics.metric, scores)]
        if metrics.tasks and metrics.is_scored(split):
            scored += [(part.task.name, part.task.metric, part.scores) for part in metrics.task_scores(split)]
        for task, metric, part in scored:
            rows.append(Result(**common, task=task, metric=metric, split=split, **_score_columns(metric, part)))
    return rows


def _score_columns(metric: str, scores: dict) -> dict:
    return {
        "score": scores.get(metric),
        "low": scores.get(f"{metric}_low"),
        "high": scores.get(f"{metric}_high"),
        "num_clips": scores["num_clips"],
        "interval_unit": scores.get("interval_unit", ""),
        "note": scores.get("note", ""),
    }


def failed_run(recipe: str, changes: str, reason: str, **known) -> Result:
    """The row of a run that failed.

    Args:
        recipe: name of the recipe.
        changes: arguments that change the recipe.
        reason: why it failed; only the first line is kept.
        **known: known fields of `Result` (task, seed, encoder, corpus, data_dir, ...).
    """
    if known.get("data_dir"):
        known["data_dir"] = Path(known["data_dir"]).resolve().name
    if known.get("encoder"):
        known["encoder"] = _encoder_name(known["encoder"])
    known = {name: value for name, value in known.items() if value is not None}
    reason = (reason.strip().splitlines() or ["no reason given"])[0]
    return Result(recipe=recipe, changes=changes, date=_now(), note=f"failed: {reason}", **known)


def find_row(metrics: Metrics, rows: Iterable[Result], tables: Sequence[str | Path]) -> Result:
    """The last row that a run with these metrics wrote when it finished.

    Raises:
        AvbError: there is no such row.
    """
    found = None
    for row in rows:
        if row.score is None or row.task != metrics.task:
            continue
        if row.run_id == metrics.run_id and (row.run_id or _is_alike(metrics, row)):
            found = row
    if found is None:
        raise AvbError(f"{', '.join(map(str, tables))}: no row of this run; leave out --results, or give its table")
    return found


def _is_alike(metrics: Metrics, row: Result) -> bool:
    """Whether a row without a run id belongs to the run with these metrics, judged by seed, seconds and score."""
    score = metrics.splits.get(row.split, {}).get(metrics.metric)
    # An undefined score is NaN in both, and NaN does not equal itself.
    return (row.seed, row.seconds, str(row.score)) == (metrics.seed, metrics.train_seconds, str(score))


def _encoder_name(encoder: str) -> str:
    return Path(encoder).name if Path(encoder).exists() or Path(encoder).suffix in SUFFIXES else encoder


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
