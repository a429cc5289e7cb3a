"""Tables with `start` and `end`, as audformat writes them: each row is a part of a recording, and a clip of its own.

Its id and its path are `FILE#START-END`, in seconds, which `audio_avb.load_audio` reads by seeking.
"""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from avb.corpora.labels import MISSING_CELLS
from avb.corpora.tables import Table, find_column
from avb.errors import CorpusError

# Names of the two columns that belong together.
PAIRS = (("start", "end"), ("start_time", "end_time"), ("start_seconds", "end_seconds"), ("onset", "offset"))

logger = logging.getLogger(__name__)


def find_segment_columns(table: Table) -> tuple[str, str] | None:
    """The columns of start and end; None where the table has no such two."""
    for pair in PAIRS:
        start, end = (find_column(table, name) for name in pair)
        if start and end:
            return start, end
    return None


def read_segments(table: Table, columns: tuple[str, str] | None) -> list[str]:
    """What each row's path ends in: `#START-END`, `#START-` where the end is missing, "" for a whole file.

    Args:
        table: its cells are seconds, or times such as `0 days 00:00:01.5`.
        columns: of start and end; None where there are none.

    Raises:
        CorpusError: a cell is no time, or an end is not behind its start.
    """
    if columns is None:
        return [""] * len(table.cells)
    starts, ends = (_read_seconds(table, column) for column in columns)
    segments = []
    for position, (start, end) in enumerate(zip(np.nan_to_num(starts), ends, strict=True)):
        if start < 0 or end <= start:
            raise CorpusError(
                f"{table.where(position)}: the segment from {start:g} to {end:g} s is none: {columns[0]!r} must be at "
                f"least 0, and {columns[1]!r} behind it"
            )
        is_open = np.isnan(end)
        segments.append("" if is_open and start == 0 else f"#{_text(start)}-{'' if is_open else _text(end)}")
    return segments


def warn_of_parted_files(files: Sequence[object], segments: Sequence[str], split_of: Sequence[str], where: str):
    """One line where a table's own splits part the segments of a file."""
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


def _text(seconds: float) -> str:
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
            f"{table.where(first)}, column {column!r}: {cells.iloc[first]!r} is no time: give seconds from the file's "
            "start, or 0 days 00:00:01.5"
        )
    return numbers
