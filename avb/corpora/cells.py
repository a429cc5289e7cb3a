"""Converts the cells of a table to clips, with checks of each cell: files, segments of files, and labels.

- All files are inside one folder. Names may lack the suffix, or differ in case or Unicode form.
- In a table with `start` and `end`, as written by audformat, each row is a segment of a recording and a clip of its
  own. Its id and its path are `FILE#START-END`, in seconds; `audio_avb.load_audio` reads it by seeking.
- A missing or withheld label is NaN (regression) or -100 (classification).

Each message names the file, the line, the clip's id, the column and the value, because one bad cell in a table of
60,000 rows is hard to find.
"""

import contextlib
import functools
import logging
import ntpath
import os
import re
import reprlib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from audio_avb import AUDIO_SUFFIXES
from avb.corpora.tables import Table, find_column
from avb.errors import CorpusError, did_you_mean
from avb.tasks import MISSING_CLASS, TASKS, Task

MISSING_CELLS = ("", "nan", "na", "n/a", "null", "?")

_WITHHELD_CELLS = ("-1", "-1.0", "unknown", "unk", "none", "withheld", "hidden", "nan", "")
_ROUNDING = 1e-6  # share of the label range by which a label may overshoot: float32 written as text
_NARROW = 0.2  # share of the label range that the scores of a column should take, from the lowest to the highest
_shortened = reprlib.Repr()  # keeps a long cell from filling the error message
_shortened.maxstring = 60
# Pairs of column names for start and end.
PAIRS = (("start", "end"), ("start_time", "end_time"), ("start_seconds", "end_seconds"), ("onset", "offset"))
_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_DATA_ROOT = re.compile(r"^\$?\{?data_root\}?/+", re.IGNORECASE)  # as SpeechBrain's tables write it

logger = logging.getLogger(__name__)


# ------------------------------------------------------------------------------- files


def find_files(table: Table, column: str, audio_root: Path, skip_missing: bool) -> list[Path | None]:
    """The file each cell names, None if it is missing. Links inside the folder are the user's own and are followed."""
    files, missing = [], []
    spellings = functools.cache(_spellings)  # lists each folder once
    names, elsewhere = below_their_folder(table.cells[column])
    for position, name in enumerate(names):
        path = _path_inside(table, position, column, name, audio_root) if name or not skip_missing else None
        file = _file_of_that_name(path) if path else None
        if file is None and path:
            others = spellings(path.parent).get(_fold_name(path.name), [])
            file = others[0] if len(others) == 1 else None
        files.append(file)
        if file is None:
            cell = table.cells[column].iloc[position] or "an empty cell"
            missing.append(f"{table.row_word} {table.cells.index[position]} ({cell})")
    if missing:
        first = ", ".join(missing[:3])
        message = f"{table.path}: {len(missing)} of {len(files)} audio files are not in {audio_root}, such as {first}"
        if elsewhere and len(missing) == len(files):
            message += f"; they are paths of another computer: audio_root takes the place of {elsewhere}"
        elif "$" in first or "{" in first or "~" in first:
            message += "; the only variable replaced in paths is $data_root, by audio_root"
        if not skip_missing:
            skip = "" if len(missing) == len(files) else ", or skip them: skip_missing=True (--skip_missing)"
            raise CorpusError(f"{message}; give audio_root=... (--audio_root){skip}")
        logger.warning("%s; left out", message)
    return files


def below_their_folder(names: Sequence[str]) -> tuple[list[str], str]:
    """Paths of a Windows computer (`C:\\clips\\1.wav`) below the folder that they share, and that folder.

    Other paths are returned as they are, with an empty folder.
    """
    given = [name for name in names if name]
    if not given or not all(_OF_WINDOWS.match(name) for name in given):
        return list(names), ""
    shared = ntpath.commonpath([ntpath.dirname(name) for name in given]) if _share_drive(given) else ""
    if not shared:
        return list(names), ""
    return [ntpath.relpath(name, shared).replace("\\", "/") if name else "" for name in names], shared


def _share_drive(names: Sequence[str]) -> bool:
    return len({ntpath.splitdrive(name)[0].casefold() for name in names}) == 1


def _path_inside(table: Table, position: int, column: str, name: str, audio_root: Path) -> Path:
    """The path a cell names; it must be inside the folder."""
    if not name:
        raise CorpusError(f"{table.where(position)}, column {column!r}: no path; remove the row or fill it in")
    relative = Path(_DATA_ROOT.sub("", name.replace("\\", "/")))
    path = audio_root / relative
    if ".." in relative.parts or not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(audio_root)):
        raise CorpusError(
            f"{table.where(position)}, column {column!r}: {name!r} is outside {audio_root}; give the folder that "
            "contains all clips as audio_root=... (--audio_root), and paths without '..'"
        )
    return path


def _file_of_that_name(path: Path) -> Path | None:
    suffixes = ("",) if path.suffix.lower() in AUDIO_SUFFIXES else ("", *AUDIO_SUFFIXES)
    # os.path.isfile, not Path.is_file: it returns False for a name that is too long, and raises no error.
    return next((Path(file) for suffix in suffixes if os.path.isfile(file := f"{path}{suffix}")), None)


def _spellings(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder by name, with and without an audio suffix, in any spelling.

    Spellings differ between systems: "Rec 1" in the table and "REC 1.WAV" on disk, "é" as one character or two.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    with contextlib.suppress(OSError, ValueError):  # no such folder, or not a valid folder name
        for file in filter(Path.is_file, folder.iterdir()):
            found[_fold_name(file.name)].append(file)
            if file.suffix.lower() in AUDIO_SUFFIXES:
                found[_fold_name(file.stem)].append(file)
    return found


def _fold_name(name: str) -> str:
    """Normalises a file name: ignores case and the Unicode form of accents."""
    return unicodedata.normalize("NFC", name).casefold()


# ------------------------------------------------------------------------------- segments of files


def find_segment_columns(table: Table) -> tuple[str, str] | None:
    """The start and end columns; None if the table does not have both."""
    for pair in PAIRS:
        start, end = (find_column(table, name) for name in pair)
        if start and end:
            return start, end
    return None


def read_segments(table: Table, columns: tuple[str, str] | None) -> list[str]:
    """The suffix of each row's path: `#START-END`, `#START-` if the end is missing, "" for a whole file.

    Args:
        table: its cells contain seconds, or times such as `0 days 00:00:01.5`.
        columns: the start and end columns; None if there are none.

    Raises:
        CorpusError: a cell is not a time, or an end is not after its start.
    """
    if columns is None:
        return [""] * len(table.cells)
    starts, ends = (_read_seconds(table, column) for column in columns)
    segments = []
    for position, (start, end) in enumerate(zip(np.nan_to_num(starts), ends, strict=True)):
        if start < 0 or end <= start:
            raise CorpusError(
                f"{table.where(position)}: the segment from {start:g} to {end:g} s is not valid: {columns[0]!r} must "
                f"be at least 0, and {columns[1]!r} greater"
            )
        is_open = np.isnan(end)
        segments.append(
            "" if is_open and start == 0 else f"#{_seconds_text(start)}-{'' if is_open else _seconds_text(end)}"
        )
    return segments


def warn_of_parted_files(files: Sequence[object], segments: Sequence[str], split_of: Sequence[str], where: str):
    """Logs a warning if the table's own splits separate segments of one file."""
    parts: dict[object, set[str]] = {}
    for file, segment, split in zip(files, segments, split_of, strict=True):
        if segment:
            parts.setdefault(file, set()).add(split)
    parted = [file for file, splits in parts.items() if len(splits) > 1]
    if parted:
        logger.warning(
            "%s: the segments of %d files are in more than one split, such as those of %s: a model is tested on "
            "recordings it was trained on; without a split column splits are made that keep them together",
            where,
            len(parted),
            parted[0],
        )


def _seconds_text(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def _read_seconds(table: Table, column: str) -> np.ndarray:
    """float64 of shape (rows,), NaN where a cell is missing."""
    cells = table.cells[column]
    if table.decimal_comma:
        cells = cells.str.replace(",", ".", regex=False)
    missing = cells.str.lower().isin((*MISSING_CELLS, "nat", "none", "inf")).to_numpy()
    numbers = pd.to_numeric(cells.mask(missing), errors="coerce").to_numpy(np.float64)
    rest = np.isnan(numbers) & ~missing
    if rest.any():
        times = pd.to_timedelta(cells.where(rest), errors="coerce").dt.total_seconds().to_numpy(np.float64)
        numbers = np.where(rest, times, numbers)
    unreadable = np.flatnonzero((np.isnan(numbers) | np.isinf(numbers)) & ~missing)
    if len(unreadable):
        first = int(unreadable[0])
        raise CorpusError(
            f"{table.where(first)}, column {column!r}: {cells.iloc[first]!r} is not a time: give seconds from the "
            "start of the file, or 0 days 00:00:01.5"
        )
    return numbers


# ------------------------------------------------------------------------------- labels


def read_labels(table: Table, columns: Sequence[str], task: Task, ids: Sequence[str]) -> np.ndarray:
    """The labels of a task, from its columns: `regression_labels`, or `class_labels` of its only column."""
    if task.kind == "regression":
        return regression_labels(table, columns, task, ids)
    return class_labels(table, columns[0], task, ids)


def regression_labels(table: Table, columns: Sequence[str], task: Task, ids: Sequence[str]) -> np.ndarray:
    """Parse and check numeric labels.

    Args:
        table: the label table.
        columns: one per label of the task, in the task's order.
        task: defines the valid range.
        ids: the clips' names, for messages.

    Returns:
        float32 of shape (clips, labels), NaN where a cell is missing.

    Raises:
        CorpusError: a cell is not a number, or is outside the task's range.
    """
    low, high = task.label_range
    slack = _ROUNDING * (high - low)
    labels = np.full((len(table.cells), len(columns)), np.nan, np.float32)
    for j, column in enumerate(columns):
        numbers, missing = parse_numbers(table, column)
        unreadable = np.flatnonzero(np.isnan(numbers) & ~missing)
        if len(unreadable):
            raise CorpusError(
                f"{_cell(table, unreadable, column, ids)} is not a number; leave a missing label's cell empty"
            )
        outside = np.flatnonzero((numbers < low - slack) | (numbers > high + slack))
        if len(outside):
            lowest, highest = np.nanmin(numbers), np.nanmax(numbers)
            others = [parse_numbers(table, other)[0] for other in columns if other != column]
            spans = [f"{np.nanmin(of):g} to {np.nanmax(of):g}" for of in others if not np.isnan(of).all()]
            has_range = task.name not in TASKS and np.isfinite(highest - lowest) and lowest < highest
            is_told = spans and has_range
            also = f" (the other label columns {', '.join(spans[:3])}{', …' * (len(spans) > 3)})" if is_told else ""
            raise CorpusError(
                f"{_cell(table, outside, column, ids)} is outside the label range {low:g} to {high:g}; the column "
                f"spans {lowest:g} to {highest:g}{also}{_range_hint(task, lowest, highest)}"
            )
        labels[:, j] = np.clip(numbers, low, high)
    return labels


def warn_of_scales(table: Table, columns: Sequence[str], task: Task) -> None:
    """Logs a warning if scores take a small part of the label range: outputs are scaled to all of it, alike."""
    low, high = task.label_range
    if (low, high) == (0, 1):  # not given
        return
    scores = {column: parse_numbers(table, column)[0] for column in columns}
    spans = {column: (np.nanmin(numbers), np.nanmax(numbers)) for column, numbers in scores.items()}
    narrow = [f"{name} spans {a:g} to {b:g}" for name, (a, b) in spans.items() if 0 < b - a < _NARROW * (high - low)]
    if narrow:
        logger.warning(
            "%s: the label range is %g to %g, but %s: such a column is hardly learned. --label_range is the scale "
            "of all label columns: convert them to one scale, or train a model for each scale",
            table.path,
            low,
            high,
            ", ".join(narrow),
        )


def blank_withheld(table: Table, columns: Sequence[str], is_test: np.ndarray) -> None:
    """Removes placeholders of withheld labels: -1, Unknown or None in every test row of a column, and in no other row.

    Args:
        table: changed in place.
        columns: those that may contain labels.
        is_test: whether each row is a test clip, (rows,).
    """
    for column in columns:
        is_withheld = table.cells[column].str.casefold().isin(_WITHHELD_CELLS).to_numpy()
        if is_test.any() and is_withheld[is_test].all() and not is_withheld[~is_test].any():
            table.cells.loc[is_test, column] = ""


def parse_numbers(table: Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column as float64, NaN where a cell is missing or not a number, and which cells are missing; shapes (rows,)."""
    cells = table.cells[column]
    if table.decimal_comma:
        cells = cells.str.replace(",", ".", regex=False)
    missing = cells.str.lower().isin(MISSING_CELLS).to_numpy()
    return pd.to_numeric(cells.mask(missing), errors="coerce").to_numpy(np.float64), missing


def is_numeric(table: Table, column: str) -> bool:
    """Whether most cells are numbers; a stray word among them is left for the label check to report."""
    numbers, missing = parse_numbers(table, column)
    return bool((~np.isnan(numbers)).sum() > (np.isnan(numbers) & ~missing).sum())


def class_labels(table: Table, column: str, task: Task, ids: Sequence[str]) -> np.ndarray:
    """Convert class names, in any case, to indices: int64 of shape (clips,), -100 where a cell is missing.

    Raises:
        CorpusError: a class that the task does not have.
    """
    index_of = {label.casefold(): i for i, label in enumerate(task.labels)}
    index_of |= {cell: MISSING_CLASS for cell in MISSING_CELLS if cell not in index_of}
    labels = table.cells[column].str.casefold().map(index_of)
    unknown = np.flatnonzero(labels.isna())
    if len(unknown):
        near = did_you_mean(table.cells[column].iloc[unknown[0]], task.labels, "Classes")
        raise CorpusError(f"{_cell(table, unknown, column, ids)} is not a class of task {task.name!r}{near}")
    return labels.to_numpy(np.int64)


def _cell(table: Table, positions: np.ndarray, column: str, ids: Sequence[str]) -> str:
    """Describes the first invalid cell, and how many there are."""
    first = int(positions[0])
    more = f" (and {len(positions) - 1} more)" if len(positions) > 1 else ""
    value = _shortened.repr(table.cells[column].iloc[first])
    return f"{table.where(first)}, clip {ids[first]!r}, column {column!r}: {value}{more}"


def _range_hint(task: Task, lowest: float, highest: float) -> str:
    # The challenge's tasks have a fixed range; only a task made from columns accepts another one.
    if task.name in TASKS or not np.isfinite([lowest, highest]).all():
        return "; correct the value"
    low, high = (f"{bound:.15g}" for bound in (np.floor(lowest), np.ceil(highest)))
    hints = []
    if lowest < highest:
        hints = [
            f"if that is the scale, use label_range=({low}, {high}) (--label_range {low} {high})",
            "if the numbers are classes, use kind='classification' (--kind)",
        ]
    if lowest == -1:
        hints.append("if -1 means a missing label, leave its cell empty")
    hints.append("if this is not a label, list the labels in label_columns=[...] (--label_columns)")
    return "; " + "; ".join(hints)
