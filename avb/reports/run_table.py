"""The table of results, `results/runs.csv`: one row per run and split, the source of every table and figure.

Unusual: runs that finish at the same time append to one file without a lock. The file is created, including the header,
under a temporary name and linked into place, which succeeds for only one process; a row is a single write to a file
opened for appending. (Local file systems keep such a write intact; NFS does not guarantee it.) A table of an older
version is upgraded on its first append.
"""

import csv
import io
import os
import time
from collections.abc import Iterable
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import Any

from avb.errors import AvbError
from avb.files import write_table
from avb.reports.results import Result
from avb.run_files import RESULTS

COLUMNS = [field.name for field in fields(Result)]
_OLD_COLUMNS = COLUMNS[:-1]  # columns of tables written before runs had ids
_UPGRADE_SECONDS = 30.0  # a table with a million rows takes five seconds


def check_table(path: str | Path):
    """Creates the table if it does not exist. Call it before training, so that an error does not waste hours.

    Raises:
        AvbError: the file has other columns, or cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_table(path)
        with open(path, "ab"):  # checks that it can be written
            pass
        if _header(path) == _OLD_COLUMNS:
            _upgrade_table(path)
        header = _header(path)
    except OSError as error:
        raise AvbError(f"{path}: cannot be written ({error.strerror}); give another --results") from error
    if header != COLUMNS:
        raise AvbError(f"{path}: not the columns of this version: move the file away. Columns: {', '.join(COLUMNS)}")


def _header(path: Path) -> list[str]:
    with open(path, "rb") as file:
        return file.readline().decode("utf-8", "replace").strip().split(",")


def _upgrade_table(path: Path):
    """Adds the columns of this version to a table of an older one; each row gets an empty cell at the end.

    The temporary file also serves as a lock: one process upgrades, others wait until the file has been moved.
    """
    temporary = path.with_name(f".{path.name}.upgrade.tmp")
    deadline = time.monotonic() + _UPGRADE_SECONDS
    while True:
        try:
            file = open(temporary, "x", newline="", encoding="utf-8")
            break
        except FileExistsError:
            if _header(path) == COLUMNS:
                return
            if time.monotonic() > deadline:
                raise AvbError(f"{path}: an upgrade of it was interrupted; delete {temporary} and try again") from None
            time.sleep(0.05)
    is_moved = False
    try:
        with file:
            if _header(path) != _OLD_COLUMNS:  # another process has upgraded it in the meantime
                return
            with open(path, newline="", encoding="utf-8") as old:
                lines = csv.reader(old)
                next(lines)
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(COLUMNS)
                writer.writerows([*cells, ""] if len(cells) == len(_OLD_COLUMNS) else cells for cells in lines)
        os.replace(temporary, path)
        is_moved = True
    finally:
        if not is_moved:  # otherwise the name may already belong to another process
            temporary.unlink()


def append_result(path: str | Path, result: Result):
    """Appends a row to the table, which is created if it does not exist.

    Raises:
        AvbError: as in `check_table`, or the disk is full.
    """
    path = Path(path)
    row = _csv_line(asdict(result).values())
    try:
        check_table(path)
    except AvbError as error:
        raise AvbError(f"{error}; the result was: {row}") from error
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            whole = file.read(1) == b"\n"
        # A truncated line (full disk) remains a single bad line and does not spoil the next one.
        line = row if whole else f"\n{row}"
        with open(path, "ab", buffering=0) as file:
            file.write(line.encode("utf-8"))
    except OSError as error:
        raise AvbError(f"{path}: cannot be written ({error.strerror}); the result was: {row}") from error


def write_results(path: str | Path, rows: Iterable[Result]):
    """Writes a table that contains only these rows, replacing the file."""
    write_table(path, map(asdict, rows), COLUMNS)


def add_runs(path: str | Path, folders: Iterable[str | Path]) -> tuple[int, int]:
    """Adds missing rows of finished runs to a table; returns how many were added and how many it already had.

    Raises:
        AvbError: a folder contains no table of its run (nothing is added then), or as in `append_result`.
    """
    rows = []
    for folder in folders:
        own = read_results(Path(folder) / RESULTS)
        if not own:
            raise AvbError(f"{folder}: no {RESULTS}; give the folder of a finished run of train_avb.py")
        rows += own
    known = {row.key for row in read_results(path)}
    new = {row.key: row for row in rows if row.key not in known}
    for row in new.values():
        append_result(path, row)
    return len(new), len(rows) - len(new)


def _make_table(path: Path):
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(_csv_line(COLUMNS).encode("utf-8"))
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another run was faster
    finally:
        temporary.unlink()


def _csv_line(cells: Iterable) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


_NUMBERS: dict[Any, type] = {float | None: float, int | None: int}


def read_results(path: str | Path) -> list[Result]:
    """All rows, in the order in which they were written; an empty list if there is no file yet.

    Raises:
        AvbError: a column is missing, or a cell is invalid for its column; the message gives the line number.
    """
    path = Path(path)
    if not path.exists():
        return []
    results = []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in _OLD_COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise AvbError(f"{path}: no column {', '.join(missing)}; a table of results has {', '.join(COLUMNS)}")
        for row in reader:
            try:
                if None in row or None in row.values():
                    raise ValueError(f"not {len(reader.fieldnames or ())} cells")
                cells = {field.name: _read_cell(field, row.get(field.name, "")) for field in fields(Result)}
                results.append(Result(**cells))
            except ValueError as error:
                raise AvbError(f"{path}, line {reader.line_num}: {error}; correct or remove the line") from error
    return results


def _read_cell(field: Field, text: str):
    number = _NUMBERS.get(field.type)
    if number is None:
        return text
    return number(text) if text else None
