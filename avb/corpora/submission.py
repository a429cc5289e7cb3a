"""Writes and checks the CSVs of the A-VB 2022 challenge, one per task.

    python -m avb.corpora.submission A-VB-High_team_1.csv --task high --data_dir RELEASE

Format: `A-VB-High_<team>_<n>.csv` (Two, Culture, Type), a header of `File_ID` and the label columns in the release's
order, then one line per test clip, in any order: `[10119],0.62,...` with scores in [0, 1], or `[10119],Gasp`.

Unusual: `write` checks its file before giving it its final name, so a broken submission never has that name.
"""

import argparse
import csv
import io
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from avb.commands import as_command
from avb.corpora.release import ID_COLUMN, SPLIT_COLUMN, columns_of
from avb.corpora.splits import parse_split
from avb.errors import AvbError, did_you_mean
from avb.files import make_folder, write_table
from avb.tasks import TASKS, Task, get_task

PROBLEMS_SHOWN = 20

_FILE_ID = re.compile(r"\[\d+\]")
_TEAM = re.compile(r"[A-Za-z0-9-]+")
_FILE_NAME = re.compile(rf"A-VB-({'|'.join(name.title() for name in TASKS)})_({_TEAM.pattern})_([1-9]\d*)\.csv")


@dataclass(frozen=True)
class Problem:
    """One problem in a submission.

    Attributes:
        kind: the kind of problem, a word for programs: "header", "range", ...
        message: what is wrong, and how to fix it.
        line: the line, counted from 1 (the header); None for the file as a whole.
    """

    kind: str
    message: str
    line: int | None = None

    def __str__(self):
        return self.message if self.line is None else f"line {self.line}: {self.message}"


def file_name(task: str, team: str, number: int) -> str:
    """The file name that the challenge requires, `A-VB-High_<team>_<number>.csv`.

    Raises:
        AvbError: the team's name has characters other than letters, digits and hyphens, or the number is below 1.
        ValueError: no such task.
    """
    if not _TEAM.fullmatch(team):
        raise AvbError(
            f"team {team!r}: use letters, digits and hyphens only; underscores separate the parts of the file name"
        )
    if number < 1:
        raise AvbError(f"submission number {number}: the first is 1")
    return f"A-VB-{get_task(task).name.title()}_{team}_{number}.csv"


def columns(task: Task) -> list[str]:
    """The header of the task's submission."""
    return [ID_COLUMN, *columns_of(task)]


def write(
    folder: str | Path,
    task: str,
    ids: Sequence[str],
    predictions: ArrayLike,
    team: str,
    number: int,
    expected_ids: Iterable[str] | None = None,
) -> Path:
    """Write a submission, with its rows in the order given.

    Args:
        folder: folder of the file, created if needed; or the path of the file, which must then have the official name.
        task: high, two, culture or type.
        ids: File_IDs as the release spells them, such as `[10119]`.
        predictions: scores (clips, labels) in the task's order; for type, class names (clips,) or scores
            (clips, classes), where the highest score wins.
        team: the team's name.
        number: the number of the team's submission, from 1.
        expected_ids: the File_IDs of the release's Test split; if given, missing and unknown ones are refused.

    Returns:
        The path of the file.

    Raises:
        AvbError: the challenge does not accept the name, shape or content; no file is left behind.
    """
    name, the_task = file_name(task, team, number), get_task(task)
    path = Path(folder)
    if path.suffix.lower() != ".csv":
        path = path / name
    if path.name != name:
        raise AvbError(f"{path}: a submission must be called {name}; give a folder, or that name")
    cells = _cells(the_task, ids, np.asarray(predictions))
    make_folder(path.parent)
    # The leading dot marks an unfinished file. The validator checks the name, so it is given the final one.
    hidden = path.with_name(f".{name}")
    try:
        rows = ({ID_COLUMN: clip_id} | dict(zip(columns(the_task)[1:], row, strict=True)) for clip_id, row in cells)
        write_table(hidden, rows, columns(the_task))
        problems = _check_content(hidden, the_task, expected_ids)
        if problems:
            raise AvbError(f"{name} would be rejected and is not written:\n{_listing(problems)}")
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
    return path


def _cells(task: Task, ids: Sequence[str], predictions: np.ndarray) -> Iterable[tuple[str, list[str]]]:
    width = task.num_labels
    is_names = task.kind == "classification" and predictions.ndim == 1 and predictions.dtype.kind in "UO"
    is_scores = predictions.dtype.kind in "fiu" and predictions.shape[1:] == (width,)
    if not (is_names or is_scores) or len(predictions) != len(ids):
        names = ", or class names (clips,)" if task.kind == "classification" else ""
        raise AvbError(
            f"predictions of task {task.name!r} must be (clips, {width}) for {len(ids)} ids{names}; got "
            f"{predictions.dtype} of shape {predictions.shape}"
        )
    if is_names:
        return zip(ids, ([str(name)] for name in predictions), strict=True)
    if task.kind == "classification":
        if np.isnan(predictions).any():  # argmax would choose the first NaN
            raise AvbError("predictions contain NaN: score those clips again")
        return zip(ids, ([task.labels[index]] for index in predictions.argmax(1)), strict=True)
    # The shortest digits that restore the same number, without an exponent.
    return zip(
        ids, ([np.format_float_positional(value, trim="0") for value in row] for row in predictions), strict=True
    )


# ------------------------------------------------------------------------------------------------------- validation


def validate(path: str | Path, task: str, expected_ids: Iterable[str] | None = None) -> list[Problem]:
    """All problems in a submission; an empty list if it would be accepted.

    Args:
        path: the CSV.
        task: high, two, culture or type.
        expected_ids: the File_IDs of the release's Test split (`read_test_ids`); None skips this check.

    Raises:
        ValueError: no such task.
    """
    path, the_task = Path(path), get_task(task)
    problems = []
    match = _FILE_NAME.fullmatch(path.name)
    if match is None or match[1] != task.title():
        way_out = f"rename it to A-VB-{task.title()}_<team>_<number>.csv, team without underscores"
        problems.append(Problem("file-name", f"the file is called {path.name!r}: {way_out}"))
    return problems + _check_content(path, the_task, expected_ids)


def _check_content(path: Path, task: Task, expected_ids: Iterable[str] | None) -> list[Problem]:
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        return [Problem("unreadable", f"{path} cannot be read ({error.strerror}): give the path of the CSV")]
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return [Problem("encoding", "not UTF-8 text: save it as plain UTF-8 CSV, not as a spreadsheet", line)]
    if not text.strip():
        return [Problem("empty", "the file is empty: it needs a header and one line per test clip")]
    problems = []
    if text.startswith("\ufeff"):
        text = text[1:]
        problems.append(Problem("byte-order-mark", "it begins with a byte-order mark: save it as UTF-8 without BOM", 1))

    header_line = text.splitlines()[0]
    if "," not in header_line:
        way_out = "save the file with commas"
        if found := [
            name for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")) if sign in header_line
        ]:
            return [*problems, Problem("separator", f"columns are separated by {found[0]}: {way_out}", 1)]
        return [*problems, Problem("separator", f"the header has one column, {header_line!r}: {way_out}", 1)]

    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader)
        problems += _check_header(header, columns(task))
        if len(header) != len(columns(task)):
            return problems  # cells cannot be assigned to columns
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        message = f"not a CSV line ({error}): write cells without quotation marks"
        return [*problems, Problem("csv", message, reader.line_num)]
    return problems + _check_rows(rows, task, expected_ids)


def _check_header(header: list[str], expected: list[str]) -> list[Problem]:
    missing = [name for name in expected if name not in header]
    unknown = [name for name in header if name not in expected]
    problems = []
    for name in unknown:
        near = get_close_matches(name, missing, n=1)
        way_out = f"call it {near[0]!r}" if near else "remove it"
        problems.append(Problem("header", f"column {name!r} is not part of a submission: {way_out}", 1))
        missing = [candidate for candidate in missing if candidate not in near]
    problems += [Problem("header", f"column {name!r} is missing: add it", 1) for name in missing]
    repeated = sorted({name for name in header if header.count(name) > 1 and name in expected})
    problems += [Problem("header", f"column {name!r} appears more than once: keep one", 1) for name in repeated]
    if not problems and header != expected:
        place = next(i for i, (name, right) in enumerate(zip(header, expected, strict=True)) if name != right)
        message = f"column {place + 1} is {header[place]!r} but should be {expected[place]!r}: the order is"
        problems.append(Problem("header-order", f"{message} {', '.join(expected)}", 1))
    return problems


def _check_rows(rows: list[tuple[int, list[str]]], task: Task, expected_ids: Iterable[str] | None) -> list[Problem]:
    names = columns(task)
    expected = None if expected_ids is None else dict.fromkeys(expected_ids)
    check_cell = _check_score if task.kind == "regression" else _check_class
    problems: list[Problem] = []
    line_of_id: dict[str, int] = {}
    for line, row in rows:
        if len(row) != len(names):
            what = "an empty line: remove it" if not any(row) else f"{len(row)} columns instead of {len(names)}"
            if len(row) > len(names):
                what += ": remove the extra ones; write decimals with a point, not a comma"
            elif any(row):
                what += ": a clip needs a value in each column"
            problems.append(Problem("column-count", what, line))
            continue
        clip_id, *cells = row
        if expected is not None and clip_id not in expected and _FILE_ID.fullmatch(clip_id):
            problems.append(Problem("unknown-id", f"{clip_id} is not a clip of the Test split: remove the line", line))
        elif not _FILE_ID.fullmatch(clip_id) and (expected is None or clip_id not in expected):
            problems.append(
                Problem("file-id", f"{clip_id!r} is not a File_ID: write it as in the release, [10119]", line)
            )
        if clip_id in line_of_id:
            message = f"{clip_id} was already in line {line_of_id[clip_id]}: keep one line per clip"
            problems.append(Problem("duplicate", message, line))
        line_of_id.setdefault(clip_id, line)
        for name, cell in zip(names[1:], cells, strict=True):
            if problem := check_cell(name, cell, task, line):
                problems.append(problem)
    if not rows:
        problems.append(Problem("no-rows", "a header but no lines: add one line per test clip"))
    if missing := [clip_id for clip_id in expected or () if clip_id not in line_of_id]:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        message = (
            f"{len(missing)} of {len(expected or ())} clips of the Test split are missing ({shown}): predict them too"
        )
        problems.append(Problem("missing-ids", message))
    return problems


def _check_score(name: str, cell: str, task: Task, line: int) -> Problem | None:
    low, high = task.label_range
    try:
        value = float(cell)
    except ValueError:
        return Problem("not-a-number", f"{name} is {cell!r}, not a number: every score is required", line)
    if math.isnan(value):
        return Problem("nan", f"{name} is NaN: look up the clip's error in the prediction and score it again", line)
    if not low <= value <= high:
        return Problem("range", f"{name} is {cell}, outside [{low:g}, {high:g}]: submit scores, not logits", line)
    return None


def _check_class(name: str, cell: str, task: Task, line: int) -> Problem | None:
    if cell in task.labels:
        return None
    return Problem("class", f"{name} is {cell!r}, not a class{did_you_mean(cell, task.labels, 'Legal')}", line)


def read_test_ids(root: str | Path, task: str) -> list[str]:
    """The File_IDs of the Test split, in the release's order: from its label table, or from prepared shards.

    Raises:
        CorpusError: the table or the shards cannot be read.
        AvbError: there are no test clips.
        ValueError: no such task.
    """
    # Here, because pandas and datasets take a second, which --help and a check without --data_dir do not need.
    import pyarrow.parquet as pq

    from avb.corpora.hume_vb import table_path
    from avb.corpora.shards import find_shards, is_prepared
    from avb.corpora.tables import read_table, require_column

    root, task = Path(root), get_task(task).name
    if is_prepared(root):
        shards = find_shards(root).get("test", [])
        ids = [clip_id for path in shards for clip_id in pq.read_table(path, columns=["id"])["id"].to_pylist()]
    else:
        table = read_table(table_path(root, task))
        ids, splits = (table.cells[require_column(table, name)] for name in (ID_COLUMN, SPLIT_COLUMN))
        ids = [clip_id for clip_id, split in zip(ids, splits, strict=True) if parse_split(split) == "test"]
    if not ids:
        raise AvbError(f"{root}: no clip of the Test split; give the folder of the release")
    return ids


def _listing(problems: list[Problem]) -> str:
    lines = [f"  {problem}" for problem in problems[:PROBLEMS_SHOWN]]
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"  and {len(problems) - PROBLEMS_SHOWN} more")
    return "\n".join(lines)


@as_command("avb.corpora.submission")
def main(argv: list[str] | None = None) -> int:
    """Print the verdict on one file; the exit code is 0 if it would be accepted, otherwise 1."""
    parser = argparse.ArgumentParser(
        prog="avb.corpora.submission", description="Checks a submission to the A-VB 2022 challenge."
    )
    parser.add_argument("file", metavar="FILE", help="CSV to check, A-VB-High_<team>_<n>.csv")
    parser.add_argument("--task", required=True, choices=list(TASKS))
    parser.add_argument("--data_dir", help="folder of the release, to compare File_IDs with its Test split")
    args = parser.parse_args(argv)
    expected_ids = read_test_ids(args.data_dir, args.task) if args.data_dir else None
    problems = validate(args.file, args.task, expected_ids)
    if problems:
        print(f"{args.file}: refused, {len(problems)} problem{'s' * (len(problems) > 1)}\n{_listing(problems)}")
        return 1
    compared = (
        f"{len(expected_ids)} clips of the Test split" if expected_ids else "File_IDs not compared (no --data_dir)"
    )
    print(f"{args.file}: a valid submission; {compared}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
