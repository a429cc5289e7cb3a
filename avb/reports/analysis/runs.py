"""Sections about runs side by side: their scores, how they learned, and the ablation of the table of results."""

from collections.abc import Sequence
from pathlib import Path

from avb.errors import AvbError
from avb.reports.analysis import figures
from avb.reports.analysis.numbers import Curve, Estimate
from avb.reports.analysis.page import Section, Table, interval
from avb.reports.markdown import number
from avb.run_files import Metrics, read_metrics


def scores_section(runs: Sequence[str | Path], split: str) -> Section:
    """One row per run, split and task, from each run's `metrics.json`.

    Raises:
        AvbError: a run has no metrics, or its metric differs from the first run's.
    """
    metrics = [read_metrics(run) for run in runs]
    names = [Path(run).resolve().name for run in runs]
    rows: list[tuple[str, ...]] = []
    for folder, name, of_run in zip(runs, names, metrics, strict=True):
        if of_run.metric != metrics[0].metric:
            raise AvbError(
                f"{folder}: scored by {of_run.metric}, but {runs[0]} by {metrics[0].metric}; analyse them apart"
            )
        seed, train_clips = ("" if value is None else str(value) for value in (of_run.seed, of_run.train_clips))
        for part in of_run.splits:
            rows += [(name, seed, part, *row, train_clips) for row in _score_cells(of_run, part)]
    text = (
        f"Task {metrics[0].task}, corpus {metrics[0].corpus or 'not on file'}. The figures below are of "
        f"{names[0]} on {split}. Scores with 95 % bootstrap intervals, from the runs' metrics.json."
    )
    header = ("run", "seed", "split", "score", "value", "95 % interval", "clips", "speakers", "train clips")
    return Section("Scores", text, tables=(Table(header, rows),))


def _score_cells(metrics: Metrics, split: str) -> list[tuple[str, ...]]:
    """Score, value, interval, clips and speakers of each task."""
    if not metrics.is_scored(split):
        return [("", metrics.splits[split]["note"], "", "0", "")]
    rows: list[tuple[str, ...]] = []
    for part in metrics.task_scores(split):
        metric, scores = part.task.metric, part.scores
        title = f"{part.task.name} {metric.upper()}" if metrics.tasks else metric.upper()
        if not part.is_scored:
            rows.append((title, scores["note"], "", "0", ""))
            continue
        estimate = Estimate(*(scores[metric + end] for end in ("", "_low", "_high")))
        speakers = str(scores["interval_units"]) if scores["interval_unit"] == "speaker" else "not known"
        rows.append((title, number(estimate.value), interval(estimate), str(scores["num_clips"]), speakers))
    return rows


def curves_section(curves: list[Curve], metric: str) -> Section:
    """Learning curves of one or more runs."""
    title = "Learning curves"
    if not any(curve.loss or curve.score for curve in curves):
        return Section(title, "Nothing was logged in training.")
    name = {"mean_score": "Mean score"}.get(metric, metric.upper())
    if any(curve.score for curve in curves):
        text = (
            "Left: training loss, the mean since the dot before. "
            f"Right: {name} on the validation clips, where the run was scored while it trained. "
        )
    else:
        text = "Training loss, the mean since the dot before. No run was scored while it trained (eval_strategy no). "
    text += f"From the Trainer's log of {len(curves)} {'run' if len(curves) == 1 else 'runs'}."
    return Section(title, text, "curves", (figures.curves_figure, curves, name))


def ablation_section(variants: dict[str, dict[str, Estimate]], basis: str, table: str) -> Section:
    """Scores of the recipes emogator/frozen by pooling and variant."""
    title = "Pooling, LSTM and trimming"
    if not variants:
        return Section(title, f"{table} has no scored row of recipes/emogator/frozen. {basis}.")
    poolings = list(dict.fromkeys(pooling for scores in variants.values() for pooling in scores))
    rows = []
    for pooling in poolings:
        found = [scores.get(pooling) for scores in variants.values()]
        rows.append((pooling, *("not run" if e is None else f"{number(e.value)} ({interval(e)})" for e in found)))
    return Section(
        title,
        "UAR of the recipes emogator/frozen: one frozen encoder, heads that differ in pooling, with an LSTM or none, "
        "on trimmed clips or whole ones. Dots are means over seeds; bars go from the mean lower to the mean upper "
        "bound of the runs' 95 % intervals. Where bars overlap, avb.reports.comparison tells by paired differences. "
        f"{table}, {basis}.",
        "ablation",
        (figures.ablation_figure, variants),
        (Table(("pooling", *variants), rows),),
    )
