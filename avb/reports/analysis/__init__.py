"""A report about finished runs: where a model errs, how sure it is, for whom and for which clips.

    python -m avb.reports analyse runs/high [RUN ...] [--split test] [--results results/runs.csv]

The first run is looked at in detail, from the predictions it wrote; all of them share the table of scores and the
figure of learning curves. Needs matplotlib, the extra `report`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from avb.reports.analysis.numbers import ablation, learning_curve
from avb.reports.analysis.page import write_report
from avb.reports.analysis.runs import ablation_section, curves_section, scores_section
from avb.reports.analysis.sections import task_sections
from avb.reports.scored import read_predictions
from avb.run_files import CROSS_VALIDATION, read_metrics, trained_folders

__all__ = ["analyse"]

BEST_FIRST = ("test", CROSS_VALIDATION, "validation")  # the first two were not used for model selection


def analyse(
    runs: Sequence[str | Path],
    split: str | None = None,
    output: str | Path | None = None,
    summaries: Iterable | None = None,
    table: str = "",
) -> Path:
    """Writes the report on the first run, compared with the others.

    Args:
        runs: folders of finished runs of `train_avb.py` with one metric.
        split: split to analyse: test, cross_validation or validation; None is the first of these that
            the first run was scored on.
        output: output folder; None is `analysis` in the first run's folder.
        summaries: summaries of many runs for the ablation, see `avb.reports.summaries.summarize`; None omits it.
        table: name of the table that the summaries come from.

    Returns:
        The Markdown page; report.html and the figures (SVG and PNG) are written to the same folder.

    Raises:
        AvbError: a file of a run is missing or damaged, the labels are withheld, or the output cannot be written.
    """
    folder = Path(runs[0])
    metrics = read_metrics(folder)
    metric = metrics.metric
    split = split or next((name for name in BEST_FIRST if metrics.is_scored(name)), "validation")
    tasks = read_predictions(folder, split)
    sections = [scores_section(runs, split)]
    for predictions in tasks:
        sections += task_sections(predictions, predictions.task.name if len(tasks) > 1 else "")
    sections.append(
        curves_section([learning_curve(trained, metric) for run in runs for trained in trained_folders(run)], metric)
    )
    if summaries is not None:
        sections.append(ablation_section(*ablation(summaries, split), table))
    return write_report(f"Analysis of {folder.resolve().name}", sections, output or folder / "analysis")
