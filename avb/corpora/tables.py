"""Reads label tables exactly, and finds columns by name.

Unusual: cells remain strings until a label is parsed, so an id such as `00123` keeps its zeros. A row with too many or
too few fields is an error; it is never padded. Each row keeps its line number, so that messages can name it.
"""

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from avb.errors import CorpusError, did_you_mean, fold

MAX_LINE = 2**20  # characters of a header
MAX_CELLS = 50_000_000  # of a Parquet table, which can claim billions in a kilobyte; HUME-VB's largest has 2.5 million

_SEPARATORS = {".csv": ",;\t", ".tsv": "\t"}


@dataclass(frozen=True)
class Table:
    """A table of strings.

    Attributes:
        path: the file it was read from.
        cells: stripped strings, "" if missing; the index has the line number (CSV, TSV) or row number (Parquet).
        row_word: "line" or "row", for messages.
        decimal_comma: numbers may be written `0,5`: semicolon-separated files of European spreadsheets.
    """

    path: Path
    cells: pd.DataFrame
    row_word: str
    decimal_comma: bool = False

    def where(self, position: int) -> str:
        """The file and line of a row; `position` counts from 0 in `cells`."""
        return f"{self.path}, {self.row_word} {self.cells.index[position]}"


def read_table(path: Path) -> Table:
    """Read a CSV (comma, semicolon or tab, whichever gives the header the most columns), TSV, Parquet or JSONL table.

    Columns without a name (the index that pandas writes) are left out.

    Raises:
        CorpusError: the file cannot be read, is not UTF-8 or UTF-16, has no rows, repeats a column, or has a row
            whose number of fields differs from the header.
    """
    try:
        table = _READERS.get(path.suffix.lower(), _read_csv)(path)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}{_line_not_utf8(path)}: not UTF-8 text; save it as 'CSV UTF-8'") from error
    except (OSError, csv.Error, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise CorpusError(
            f"{path}: cannot be read as a table ({reason}); check the file and its permissions"
        ) from error
    repeated = table.cells.columns[table.cells.columns.duplicated()]
    if len(repeated):
        raise CorpusError(f"{path}: column {repeated[0]!r} appears more than once; rename one of them")
    if table.cells.empty:
        raise CorpusError(f"{path}: the table has a header but no rows; 0 clips")
    return table


def _line_not_utf8(path: Path) -> str:
    """`, line 7`: the first line that cannot be decoded; empty in UTF-16. A reader counts bytes from its last block."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f", line {number}" if number > 1 or not line.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
    return ""


def _read_csv(path: Path) -> Table:
    start = path.open("rb").read(2)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"  # both drop the byte-order mark
    with path.open(newline="", encoding=encoding) as file:
        first_line = file.readline(MAX_LINE)
        if len(first_line) == MAX_LINE:
            raise CorpusError(f"{path}: its first line is longer than {MAX_LINE:,} characters; it is not a label table")
        # The first line of a spreadsheet's file may define the separator: `sep=;`.
        announced = re.fullmatch(r'"?sep=([,;|\t])"?\r?\n?', first_line)
        if announced:
            first_line = file.readline(MAX_LINE)
        separators = announced[1] if announced else _separators(path)
        header_of = {sep: next(csv.reader([first_line], delimiter=sep), []) for sep in separators}
        separator = max(header_of, key=lambda sep: len(header_of[sep]))  # on a tie the first, the comma
        header = [name.strip() for name in header_of[separator]]
        if not any(header):
            raise CorpusError(f"{path}: the file is empty; it needs a header line and one line per clip")
        reader = csv.reader(file, delimiter=separator)
        rows, lines = [], []
        for fields in reader:
            line = reader.line_num + (2 if announced else 1)  # the lines before were read separately
            if not any(field.strip() for field in fields):  # a blank line, or the ",,," of a spreadsheet
                continue
            if len(fields) != len(header):
                raise CorpusError(
                    f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)}; "
                    f"quote fields that contain {separator!r}"
                )
            rows.append([field.strip() for field in fields])
            lines.append(line)
    cells = pd.DataFrame(rows, columns=header, index=lines, dtype=object)
    return Table(path, _drop_unnamed(cells), "line", decimal_comma=separator == ";")


def _separators(path: Path) -> str:
    return _SEPARATORS.get(path.suffix.lower(), _SEPARATORS[".csv"])


def _read_parquet(path: Path) -> Table:
    for field in pq.read_schema(path):
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            raise CorpusError(
                f"{path}: column {field.name!r} holds {field.type}, not text or numbers; audio inside Parquet is read "
                "in the form that `python -m avb.corpora.prepare` writes"
            )
    about = pq.read_metadata(path)
    if about.num_rows * max(1, about.num_columns) > MAX_CELLS:
        raise CorpusError(
            f"{path}: {about.num_rows:,} rows of {about.num_columns} columns exceed the limit of a label table "
            f"({MAX_CELLS:,} cells); remove columns, or split the table"
        )
    columns = pq.read_table(path).to_pydict()
    cells = pd.DataFrame(
        {name: ["" if v is None else str(v).strip() for v in values] for name, values in columns.items()}, dtype=object
    )
    cells.index = range(1, len(cells) + 1)
    return Table(path, _drop_unnamed(cells), "row")


def _read_jsonl(path: Path) -> Table:
    """Read one object of text and numbers per line."""
    rows, lines = [], []
    with path.open(encoding="utf-8-sig") as file:
        for line, content in enumerate(file, 1):
            if not content.strip():
                continue
            try:
                row = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"{path}, line {line}: not JSON ({error}); each line must be an object") from error
            if not isinstance(row, dict):
                raise CorpusError(
                    f'{path}, line {line}: not an object of columns and values, such as {{"file_name": ...}}'
                )
            for name, value in row.items():
                if isinstance(value, (dict, list)):
                    raise CorpusError(
                        f"{path}, line {line}: {name!r} is a {type(value).__name__}, not text or a number"
                    )
            rows.append({name.strip(): "" if value is None else str(value).strip() for name, value in row.items()})
            lines.append(line)
    cells = pd.DataFrame(rows, index=lines, dtype=object).fillna("")
    return Table(path, _drop_unnamed(cells), "line")


def _drop_unnamed(cells: pd.DataFrame) -> pd.DataFrame:
    unnamed = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
    return cells[[name for name in cells.columns if not unnamed.fullmatch(name)]]


_READERS: dict[str, Callable[[Path], Table]] = {".parquet": _read_parquet, ".jsonl": _read_jsonl}


def join_tables(root: Path, tables: dict[str, Path], column_of: Callable[[Table], str], split_column: str) -> Table:
    """Join the tables of the splits' folders into one whose paths are relative to their common folder.

    Args:
        root: the common folder.
        tables: the path of each split's table, by split.
        column_of: returns a table's column of paths.
        split_column: name of the added column with the split.

    Raises:
        CorpusError: a table cannot be read, or the tables' columns differ.
    """
    parts: list[pd.DataFrame] = []
    for split, path in tables.items():
        table = read_table(path)
        cells, column = table.cells.copy(), column_of(table)
        if parts and set(cells.columns) != set(parts[0].columns) - {split_column}:
            others = ", ".join(parts[0].columns.drop(split_column))
            raise CorpusError(f"{path}: its columns are {', '.join(cells.columns)}, those of another split {others}")
        cells[column] = [f"{path.parent.relative_to(root).as_posix()}/{name}" for name in cells[column]]
        cells[split_column] = split
        cells.index = [f"{line} of {path.relative_to(root).as_posix()}" for line in cells.index]
        parts.append(cells)
    return Table(root, pd.concat(parts), "line")


# ---------------------------------------------------------------------------------------------------- finding names


def find_column(table: Table, *names: str) -> str | None:
    """The column with the first of these names that exists, in any case and spacing; None if none does.

    Raises:
        CorpusError: two columns match one name.
    """
    for name in names:
        matches = [column for column in table.cells.columns if column == name or fold(column) == fold(name)]
        if name in matches:
            return name
        if len(matches) > 1:
            raise CorpusError(f"{table.path}: columns {matches} are all spellings of {name!r}; keep one")
        if matches:
            return matches[0]
    return None


def require_column(table: Table, name: str, option: str = "") -> str:
    """As `find_column`, for a column that must exist.

    Args:
        table: the table to search.
        name: the column's name.
        option: the loader's option that gave the name, for the message.

    Raises:
        CorpusError: no such column; the message names the nearest one and lists all.
    """
    column = find_column(table, name)
    if column is None:
        asked = f" ({option})" if option else ""
        near = did_you_mean(name, table.cells.columns, "It has")
        raise CorpusError(f"{table.path}: no column {name!r}{asked}{near}")
    return column


def refuse_duplicates(table: Table, ids: Sequence[str], what: str, key: Callable[[str], str] = str) -> None:
    """Check that no two rows of a table are the same clip.

    Args:
        table: the table, for the message.
        ids: one per row.
        what: what the ids are, for the message.
        key: maps the spellings of one id to the same string.

    Raises:
        CorpusError: two rows are the same clip.
    """
    first_of: dict[str, int] = {}
    repeated = [position for position, name in enumerate(ids) if first_of.setdefault(key(name), position) != position]
    if repeated:
        position, clip_id = repeated[0], ids[repeated[0]]
        first = first_of[key(clip_id)]
        spelled = "" if ids[first] == clip_id else f" as '{ids[first]}'"
        more = f"; so are {len(repeated) - 1} more rows" if len(repeated) > 2 else "; so is 1 more row"
        raise CorpusError(
            f"{table.where(position)}: {what} '{clip_id}' was already in {table.row_word} {table.cells.index[first]}"
            f"{spelled}{more if len(repeated) > 1 else ''}. Keep one row per clip; where the rows are of several "
            "raters, name their column: rater_column=... (--rater_column)"
        )
