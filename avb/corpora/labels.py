"""Labels of a table, checked cell by cell.

Every message names the file, the line, the clip's id, the column and the value: one bad cell in a table of 60,000 rows
is otherwise a long search. A missing or withheld label is NaN (regression) or -100 (classification).
"""

import reprlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from avb.corpora.tables import Table
from avb.errors import CorpusError, did_you_mean
from avb.tasks import MISSING_CLASS, TASKS, Task

MISSING_CELLS = ("", "nan", "na", "n/a", "null", "?")

_WITHHELD_CELLS = ("-1", "-1.0", "unknown", "unk", "none", "withheld", "hidden", "nan", "")
_ROUNDING = 1e-6  # share of the label range by which a label may overshoot: float32 written as text
_shortened = reprlib.Repr()  # a page of text in a cell must not hide what is wrong with it
_shortened.maxstring = 60


def read_labels(table: Table, columns: Sequence[str], task: Task, ids: Sequence[str]) -> np.ndarray:
    """The labels of a task, from its columns: `regression_labels`, or `class_labels` of the only one."""
    if task.kind == "regression":
        return regression_labels(table, columns, task, ids)
    return class_labels(table, columns[0], task, ids)


def regression_labels(table: Table, columns: Sequence[str], task: Task, ids: Sequence[str]) -> np.ndarray:
    """Parse and check numeric labels.

    Args:
        table: the label table.
        columns: one a label of the task, in its order.
        task: gives the legal range.
        ids: the clips' names, for messages.

    Returns:
        float32 of shape (clips, labels), NaN where a cell is missing.

    Raises:
        CorpusError: a cell is no number, or outside the task's range.
    """
    low, high = task.label_range
    slack = _ROUNDING * (high - low)
    labels = np.full((len(table.cells), len(columns)), np.nan, np.float32)
    for j, column in enumerate(columns):
        numbers, missing = parse_numbers(table, column)
        unreadable = np.flatnonzero(np.isnan(numbers) & ~missing)
        if len(unreadable):
            raise CorpusError(f"{_cell(table, unreadable, column, ids)} is not a number; leave a missing label empty")
        outside = np.flatnonzero((numbers < low - slack) | (numbers > high + slack))
        if len(outside):
            lowest, highest = np.nanmin(numbers), np.nanmax(numbers)
            raise CorpusError(
                f"{_cell(table, outside, column, ids)} is outside the label range {low:g} to {high:g}; the column "
                f"spans {lowest:g} to {highest:g}{_range_hint(task, lowest, highest)}"
            )
        labels[:, j] = np.clip(numbers, low, high)
    return labels


def blank_withheld(table: Table, columns: Sequence[str], is_test: np.ndarray) -> None:
    """Takes out what stands for a withheld label: -1, Unknown or None in every test row of a column, and in no other.

    Args:
        table: changed in place.
        columns: those that may hold labels.
        is_test: whether a row is a test clip, (rows,).
    """
    for column in columns:
        is_withheld = table.cells[column].str.casefold().isin(_WITHHELD_CELLS).to_numpy()
        if is_test.any() and is_withheld[is_test].all() and not is_withheld[~is_test].any():
            table.cells.loc[is_test, column] = ""


def parse_numbers(table: Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column as float64, NaN where a cell is missing or no number, and which cells are missing, shapes (rows,)."""
    cells = table.cells[column]
    if table.decimal_comma:
        cells = cells.str.replace(",", ".", regex=False)
    missing = cells.str.lower().isin(MISSING_CELLS).to_numpy()
    return pd.to_numeric(cells.mask(missing), errors="coerce").to_numpy(np.float64), missing


def class_labels(table: Table, column: str, task: Task, ids: Sequence[str]) -> np.ndarray:
    """Class names, in any case, to indices: int64 of shape (clips,), -100 where a cell is missing.

    Raises:
        CorpusError: a class that the task does not have.
    """
    index_of = {label.casefold(): i for i, label in enumerate(task.labels)}
    index_of |= {cell: MISSING_CLASS for cell in MISSING_CELLS if cell not in index_of}
    labels = table.cells[column].str.casefold().map(index_of)
    unknown = np.flatnonzero(labels.isna())
    if len(unknown):
        near = did_you_mean(table.cells[column].iloc[unknown[0]], task.labels, "Classes")
        raise CorpusError(f"{_cell(table, unknown, column, ids)} is no class of task {task.name!r}{near}")
    return labels.to_numpy(np.int64)


def _cell(table: Table, positions: np.ndarray, column: str, ids: Sequence[str]) -> str:
    """Where the first of some bad cells is, and how many there are."""
    first = int(positions[0])
    more = f" (and {len(positions) - 1} more)" if len(positions) > 1 else ""
    value = _shortened.repr(table.cells[column].iloc[first])
    return f"{table.where(first)}, clip {ids[first]!r}, column {column!r}: {value}{more}"


def _range_hint(task: Task, lowest: float, highest: float) -> str:
    # The challenge's tasks have a fixed range; only a task made from columns can be told another.
    if task.name in TASKS or not np.isfinite([lowest, highest]).all():
        return "; correct the value"
    low, high = (f"{bound:.15g}" for bound in (np.floor(lowest), np.ceil(highest)))
    hints = []
    if lowest < highest:
        hints = [
            f"if that is the scale, give label_range=({low}, {high}) (--label_range {low} {high})",
            "if the numbers are classes, kind='classification' (--kind)",
        ]
    if lowest == -1:
        hints.append("if -1 stands for a missing label, leave its cell empty")
    hints.append("if this is no label, name the labels in label_columns=[...] (--label_columns)")
    return "; " + "; ".join(hints)
