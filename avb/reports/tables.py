"""Tables made from `results/runs.csv`: the paper's five with ours beside them, and any runs compared; and pictures.

    python -m avb.reports paper [--results results/runs.csv] [--output results]
    python -m avb.reports runs  [--results results/runs.csv] [--output results]
    python -m avb.reports add RUN [RUN ...] [--results results/runs.csv]        # rows of finished runs into the table
    python -m avb.reports compare RUN [RUN ...] --against RUN [RUN ...]         # see avb.reports.comparison
    python -m avb.reports analyse RUN [RUN ...] [--results results/runs.csv]    # RUN/analysis: see avb.reports.analysis

Scores are percentages, as in the paper. Over several seeds: the mean, its standard deviation, and an interval from the
mean lower to the mean upper bound. Of runs with the same seed the last one counts.

A run counts as a row of the paper if its recipe is that row's, nothing in it was changed on the command line, and it
saw the corpus of the paper: `hume_vb` with exactly the release's number of clips, in training and in the split scored.
A sample or a tree of pseudo-labels in the release's layout has other numbers. All else is listed apart. With
`--changes` the rows are the runs that changed every recipe in that one way: the same tables of another encoder.
"""

import argparse
import csv
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from avb.errors import AvbError
from avb.files import make_folder, write_table, write_text
from avb.reports import comparison
from avb.reports.markdown import markdown_table
from avb.reports.results import Result, add_runs, read_results, split_command

PAPER_ROWS = Path(__file__).resolve().parents[2] / "recipes" / "paper" / "rows.csv"
RELEASE_CLIPS = {"train": 19_990, "validation": 19_396, "test": 19_815}
RECOMMENDED = "+presets/recommended"  # what a recipe's name gets from the preset after it

_SPLITS = {"val": "validation", "test": "test"}
_TABLES = {  # caption, and the columns in which rows differ
    "I": ("Extractors: validation, last pooling, CCC loss (TYPE: CE)", ("extractor", "task")),
    "II": ("Pooling: validation, HIGH, CCC loss", ("extractor", "pooling")),
    "III": ("Loss: validation, HIGH, last pooling", ("extractor", "loss")),
    "IV": ("With and without RNN: validation, LARGE-LV60K, last pooling, CCC loss (TYPE: CE)", ("rnn", "task")),
    "V": ("50 epochs with early stopping: last pooling, CCC loss (TYPE: CE)", ("extractor", "task", "split")),
}


@dataclass(frozen=True)
class Summary:
    """Runs that differ by seed only, on one split. Scores in percent; None where there is none.

    Attributes:
        mean: over seeds.
        sd: standard deviation over seeds (divisor n - 1); None for one.
        low: mean lower bound of the runs' 95 % intervals.
        high: mean upper bound.
        note: why there is no score, where no run has one.
    """

    recipe: str
    changes: str
    corpus: str
    data_dir: str
    train_clips: int | None
    task: str
    split: str
    metric: str
    num_clips: int | None
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    minimum: float | None
    maximum: float | None
    num_seeds: int
    note: str


def summarize(results: Iterable[Result]) -> list[Summary]:
    """Results by recipe and split, in the order in which the first of each came; failures too, with their note."""
    groups: dict[tuple, list[Result]] = {}
    for r in results:
        key = (r.recipe, r.changes, r.corpus, r.data_dir, r.train_clips, r.task, r.split, r.metric, r.num_clips)
        groups.setdefault(key, []).append(r)
    summaries = []
    for key, group in groups.items():
        of_seed = {r.seed: r for r in group if r.score is not None}  # the last run of a seed counts
        scores = 100 * np.array([[r.score, *_bounds(r)] for r in of_seed.values()]).reshape(-1, 3)
        note = "" if of_seed else group[-1].note or "no score"
        if not of_seed:
            unscored: tuple[Any, ...] = (*key, *[None] * 6, 0, note)
            summaries.append(Summary(*unscored))
            continue
        mean, low, high = map(float, scores.mean(0))
        sd = float(scores[:, 0].std(ddof=1)) if len(scores) > 1 else None
        lowest, highest = float(scores[:, 0].min()), float(scores[:, 0].max())
        scored: tuple[Any, ...] = (*key, mean, sd, low, high, lowest, highest, len(scores), note)
        summaries.append(Summary(*scored))
    return summaries


def _bounds(result: Result) -> tuple[float, float]:
    low, high = (np.nan if bound is None else bound for bound in (result.low, result.high))
    return low, high


def is_release(result: Result) -> bool:
    """Whether the run saw the paper's corpus: every clip of the release, in training and in the split scored."""
    whole_split = result.score is None or result.num_clips == RELEASE_CLIPS.get(result.split)
    return result.corpus == "hume_vb" and result.train_clips == RELEASE_CLIPS["train"] and whole_split


def read_paper_rows(path: Path = PAPER_ROWS) -> list[dict[str, str]]:
    """The 48 rows of Tables I-V: table, extractor, pooling, loss, rnn, epochs, task, split, metric, score, recipe.

    Raises:
        AvbError: the file is not there; it is part of the source tree, not of an installed package.
    """
    if not path.is_file():
        raise AvbError(f"{path}: no such file; it comes with the recipes, in a copy of the source tree")
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compare_with_paper(
    rows: list[dict], results: Iterable[Result], changes: str = ""
) -> tuple[list[dict], list[Result]]:
    """The paper's rows with ours beside them, and the runs of the paper's recipes that do not count as one.

    Args:
        rows: as `read_paper_rows` returns them.
        results: all runs.
        changes: what was changed in every recipe, as `Result.changes` has it: the tables again with another encoder.

    Returns:
        The rows, each with paper, ours, delta, low, high, sd, recommended, recommended_delta (percent, None where
        nothing was measured), num_seeds, note and recommended_note (why nothing was) besides what it had.
    """
    recipes = {row["recipe"] for row in rows}
    counted: list[Result] = []
    others: list[Result] = []
    for result in results:
        if result.recipe.removesuffix(RECOMMENDED) in recipes:
            (counted if is_release(result) and result.changes == changes else others).append(result)
    # The release is one corpus, whatever its folder is called.
    summary_of: dict[tuple[str, str], Summary] = {}
    for summary in summarize(replace(result, data_dir="") for result in counted):
        key = (summary.recipe, summary.split)  # the split of a run that failed is empty
        if summary.mean is not None or key not in summary_of:
            summary_of[key] = summary
    nothing: tuple[Any, ...] = (*[""] * 8, None, *[None] * 6, 0, "not run")
    unrun = Summary(*nothing)

    def find(recipe: str, split: str) -> Summary:
        return summary_of.get((recipe, split)) or summary_of.get((recipe, "")) or unrun

    compared = []
    for row in rows:
        paper, split = float(row["score"]), _SPLITS[row["split"]]
        ours, recommended = find(row["recipe"], split), find(row["recipe"] + RECOMMENDED, split)
        compared.append(
            {name: cell for name, cell in row.items() if name != "score"}
            | {
                "paper": paper,
                "ours": ours.mean,
                "delta": None if ours.mean is None else ours.mean - paper,
                "low": ours.low,
                "high": ours.high,
                "sd": ours.sd,
                "num_seeds": ours.num_seeds,
                "note": ours.note,
                "recommended": recommended.mean,
                "recommended_delta": None if recommended.mean is None else recommended.mean - paper,
                "recommended_note": recommended.note,
            }
        )
    return compared, others


def paper_report(compared: list[dict], others: Iterable[Result], changes: str = "") -> str:
    """Tables I-V as Markdown: paper | ours | difference | interval, "not run" where it was not; then the other runs."""
    measured = sum(row["ours"] is not None for row in compared)
    lines = [
        "# The paper's tables, and ours",
        "",
        f"{measured} of {len(compared)} rows were run on the release. Scores in percent; Δ is ours minus the paper's, "
        "the interval the 95 % one of ours; recommended is the same recipe under our own preset.",
    ]
    if changes:
        lines += ["", f"Ours are the recipes changed by `{changes}`."]
    for table, (caption, names) in _TABLES.items():
        header = [*names, "paper", "ours", "Δ", "95 % interval", "seeds", "recommended", "recipe"]
        cells = [_paper_cells(row, names) for row in compared if row["table"] == table]
        lines += ["", f"## Table {table}. {caption}", "", *markdown_table(header, cells)]
    if others := list(others):
        title = "## Other runs of these recipes: another corpus, part of it, or changed settings"
        lines += ["", title, "", *runs_table(summarize(others))]
    return "\n".join(lines) + "\n"


def _paper_cells(row: dict, names: Sequence[str]) -> list[str]:
    recommended = row["recommended_note"]
    if row["recommended"] is not None:
        recommended = f"{row['recommended']:.2f} ({row['recommended_delta']:+.2f})"
    if row["ours"] is None:
        ours = [row["note"], "", "", ""]
    else:
        spread = f" ± {row['sd']:.2f}" if row["sd"] is not None else ""
        interval = _interval(row["low"], row["high"])
        ours = [f"{row['ours']:.2f}{spread}", f"{row['delta']:+.2f}", interval, str(row["num_seeds"])]
    return [*(row[name] for name in names), f"{row['paper']:.2f}", *ours, recommended, row["recipe"]]


def runs_table(summaries: Iterable[Summary]) -> list[str]:
    """Any runs as the lines of a Markdown table."""
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
            scores = [f"{s.mean:.2f}{spread}", _interval(s.low, s.high), f"{s.minimum:.2f}", f"{s.maximum:.2f}"]
        recipe = f"{s.recipe} {s.changes}".strip()
        corpus = s.corpus if s.data_dir in ("", s.corpus) else f"{s.corpus} ({s.data_dir})"
        known = ["" if value is None else str(value) for value in (s.train_clips, s.task, s.split, s.metric)]
        cells.append([recipe, corpus, *known, *scores, str(s.num_seeds)])
    return markdown_table(header, cells)


def _interval(low: float | None, high: float | None) -> str:
    return "none" if low is None or high is None or np.isnan(low) or np.isnan(high) else f"{low:.2f} to {high:.2f}"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m avb.reports", description="Tables and pictures of the results of runs."
    )
    commands = parser.add_subparsers(dest="report", required=True)
    for name, what in (("paper", "the paper's Tables I-V and ours"), ("runs", "all runs")):
        command = commands.add_parser(name, help=what)
        command.add_argument(
            "--results",
            default="results/runs.csv",
            help="table of runs, as train_avb.py --results writes it; default: results/runs.csv",
        )
        default = "results" if name == "paper" else "none"
        command.add_argument("--output", help=f"folder for {name}.md and {name}.csv; default: {default}")
        if name == "paper":
            command.add_argument(
                "--changes",
                default="",
                metavar='"--NAME VALUE ..."',
                help="the tables of the runs that changed every recipe so, such as "
                '"--encoder facebook/wav2vec2-xls-r-300m"; --output is then none',
            )
    command = commands.add_parser("add", help="finished runs into the table, where --results was left out")
    command.add_argument("runs", metavar="RUN", nargs="+", help="folder of a finished run")
    command.add_argument("--results", default="results/runs.csv", help="table of runs; default: results/runs.csv")
    command = commands.add_parser("analyse", help="figures and a page about a run: errors, calibration, speakers, …")
    command.add_argument("runs", metavar="RUN", nargs="+", help="folder of a finished run; others are set beside it")
    command.add_argument("--split", default="validation", choices=("validation", "test"), help="default: validation")
    command.add_argument("--results", help="table of runs, for the ablation of recipes/emogator/frozen")
    command.add_argument("--output", help="folder of the report; default: RUN/analysis")
    command = commands.add_parser(
        "compare",
        help="two systems on the same clips: the difference of their scores, with an interval",
        description=comparison.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    comparison.add_arguments(command)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Prints a report as Markdown and writes it to a folder, beside a CSV of its numbers; or analyses a run."""
    args = parse_arguments(argv)
    try:
        if args.report == "analyse":
            print(_analyse(args))
            return 0
        if args.report == "compare":
            comparison.print_comparison(args)
            return 0
        if args.report == "add":
            added, known = add_runs(args.results, args.runs)
            print(f"{args.results}: {added} rows added, {known} were there")
            return 0
        results = read_results(args.results)
        if not results:
            print(f"avb.reports: {args.results} holds no results yet", file=sys.stderr)
        if args.report == "paper":
            changes = _normalize_changes(args.changes)
            rows, others = compare_with_paper(read_paper_rows(), results, changes)
            text, names = paper_report(rows, others, changes), list(rows[0])
            if not any(row["num_seeds"] for row in rows):
                print(
                    f"avb.reports: no run in {args.results} is a row of the paper{changes and ' with ' + changes}; "
                    f"train_avb.py notes its run there with --results {args.results}",
                    file=sys.stderr,
                )
        else:
            summaries = summarize(results)
            rows, names = [asdict(summary) for summary in summaries], [field.name for field in fields(Summary)]
            text = "\n".join(runs_table(summaries)) + "\n"
        print(text, end="")
        output = args.output or ("results" if args.report == "paper" and not args.changes else None)
        if output:
            folder = make_folder(output)
            write_table(folder / f"{args.report}.csv", rows, names)
            write_text(folder / f"{args.report}.md", text)
    except AvbError as error:
        print(f"avb.reports: error: {error}", file=sys.stderr)
        return 1
    return 0


def _normalize_changes(typed: str) -> str:
    """Arguments behind a recipe, in any order, as `Result.changes` has them."""
    try:
        recipes, changes = split_command(shlex.split(typed))
    except ValueError as error:
        raise AvbError(f"--changes {typed}: {error}") from error
    if recipes or (typed and not changes):
        raise AvbError(f'--changes {typed}: give what was typed behind the recipe, such as "--encoder_layer 9"')
    return changes


def _analyse(args: argparse.Namespace) -> Path:
    summaries = None
    if args.results:
        if not Path(args.results).is_file():
            raise AvbError(f"--results {args.results}: no such file; it is the table that train_avb.py --results wrote")
        summaries = summarize(read_results(args.results))
    try:
        from avb.reports.analysis import analyse  # here: tables, and cards, which are made of them, need no matplotlib
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise AvbError('analyse draws with matplotlib: pip install "avb[report]"') from error
    return analyse(args.runs, args.split, args.output, summaries, args.results)
