"""The paper's Tables I to V, with our results beside them.

A run counts as a row of the paper if its recipe is that row's, nothing was changed on the command line, and it used the
paper's corpus: `hume_vb` with exactly the release's number of clips, in training and in the scored split. A sample or a
corpus with pseudo-labels in the release's layout has other numbers. All other runs are listed separately. With
`--changes`, the rows are the runs that changed every recipe in this one way: the same tables for another encoder.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from avb.corpora.release import is_release
from avb.errors import AvbError
from avb.recipes import FOLDER
from avb.reports.markdown import markdown_table
from avb.reports.results import Result
from avb.reports.summaries import Summary, interval, runs_table, summarize

PAPER_ROWS = FOLDER / "paper" / "rows.csv"
RECOMMENDED = "+presets/recommended"  # suffix of a recipe's name when the preset follows it

KINDS = "kinds/"  # recipes with Table I's settings on other kinds of encoder
# Arguments that follow such a recipe, by task; see docs/encoders.md.
_KIND_CHANGES = {task: f"--task {task}" for task in ("high", "two", "culture")}
_KIND_CHANGES["type"] = "--head_norm none --loss ce --task type"
_SPLITS = {"val": "validation", "test": "test"}
_TABLES = {  # caption, and the columns that distinguish its rows
    "I": ("Extractors: validation, last pooling, CCC loss (TYPE: CE)", ("extractor", "task")),
    "II": ("Pooling: validation, HIGH, CCC loss", ("extractor", "pooling")),
    "III": ("Loss: validation, HIGH, last pooling", ("extractor", "loss")),
    "IV": ("With and without RNN: validation, LARGE-LV60K, last pooling, CCC loss (TYPE: CE)", ("rnn", "task")),
    "V": ("50 epochs with early stopping: last pooling, CCC loss (TYPE: CE)", ("extractor", "task", "split")),
}


def read_paper_rows(path: Path = PAPER_ROWS) -> list[dict[str, str]]:
    """The 48 rows of Tables I-V: table, extractor, pooling, loss, rnn, epochs, task, split, metric, score, recipe.

    Raises:
        AvbError: the file does not exist.
    """
    if not path.is_file():
        raise AvbError(f"{path}: no such file; it comes with the recipes")
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _saw_release(result: Result) -> bool:
    """Whether the run used the paper's corpus: every clip of the release, in training and in the scored split."""
    scored = {} if result.score is None else {result.split: result.num_clips}
    return is_release(result.corpus, {"train": result.train_clips} | scored)


def compare_with_paper(
    rows: list[dict], results: Iterable[Result], changes: str = ""
) -> tuple[list[dict], list[Result]]:
    """The paper's rows next to ours, and the runs of the paper's recipes that do not count as a reproduction.

    Args:
        rows: as `read_paper_rows` returns them.
        results: all runs.
        changes: arguments changed in every recipe, in the form of `Result.changes`, e.g. for another encoder; or a
            recipe of another kind such as `kinds/wavlm`, whose runs replace those of LARGE-LV60K.

    Returns:
        The rows, each with these fields added: paper, ours, delta, low, high, sd, recommended, recommended_delta (in
        percent, None if not measured), num_seeds, note and recommended_note (why it was not measured).
    """
    if changes.startswith(KINDS):
        results = [_in_place_of_lv60k(result, changes) for result in results]
    recipes = {row["recipe"] for row in rows}
    counted: list[Result] = []
    others: list[Result] = []
    for result in results:
        if result.recipe.removesuffix(RECOMMENDED) in recipes:
            (counted if _saw_release(result) and result.changes == changes else others).append(result)
    # The release is one corpus, whatever the name of its folder.
    summary_of: dict[tuple[str, str], Summary] = {}
    for summary in summarize(replace(result, data_dir="") for result in counted):
        key = (summary.recipe, summary.split)  # the split of a failed run is empty
        if summary.mean is not None or key not in summary_of:
            summary_of[key] = summary
    unrun = Summary(recipe="", note="not run")

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


def _in_place_of_lv60k(result: Result, recipe: str) -> Result:
    """Presents a run of a kind's recipe as a change of the paper's recipe; other runs are unchanged."""
    own = result.recipe.removesuffix(RECOMMENDED)
    if own != recipe or result.changes != _KIND_CHANGES.get(result.task):
        return result
    preset = result.recipe.removeprefix(own)
    return replace(result, recipe=f"paper/{result.task}-lv60k{preset}", changes=recipe)


def paper_report(compared: list[dict], others: Iterable[Result], changes: str = "") -> str:
    """Tables I-V as Markdown: paper | ours | difference | interval, "not run" if it was not; then the other runs."""
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
        bounds = interval(row["low"], row["high"])
        ours = [f"{row['ours']:.2f}{spread}", f"{row['delta']:+.2f}", bounds, str(row["num_seeds"])]
    return [*(row[name] for name in names), f"{row['paper']:.2f}", *ours, recommended, row["recipe"]]
