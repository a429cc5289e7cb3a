"""Reads and writes files. Writing uses a temporary name and then moves the file, so an existing file is complete."""

import contextlib
import csv
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from avb.errors import AvbError

SUFFIXES = (".csv", ".jsonl", ".parquet")
PICTURES = (".png", ".svg")


def check_output(path: str | Path, overwrite: bool = False, suffixes: tuple[str, ...] = SUFFIXES) -> Path:
    """Checks that a table, or a file with other `suffixes`, can be written, and returns its path.

    Raises:
        AvbError: its suffix is unknown, it exists and must not be overwritten, or its folder cannot be written.
    """
    path = Path(path)
    if path.suffix not in suffixes:
        raise AvbError(f"{path}: the suffix says the format, and must be one of {', '.join(suffixes)}")
    if os.path.exists(path) and not overwrite:  # False for a name that is too long, which is said when it is written
        raise AvbError(f"{path} exists: give another name, or --overwrite")
    make_folder(path.parent)
    return path


def make_folder(path: str | os.PathLike) -> Path:
    """Creates the folder if needed, and returns its path.

    Raises:
        AvbError: it cannot be created or written.
    """
    path = Path(path)
    if os.path.exists(path) and not os.path.isdir(path):
        raise AvbError(f"{path} is a file, and a folder is to be written there: choose another name")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AvbError(f"{path}: cannot be made ({error.strerror}): choose another output folder") from error
    if not os.access(path, os.W_OK):
        raise AvbError(f"{path}: no permission to write there: choose another output folder")
    return path


def is_folder(output: str) -> bool:
    """Whether an output is a folder of shards: it is an existing folder, ends with a slash, or has no suffix."""
    return output.endswith(("/", os.sep)) or os.path.isdir(output) or not Path(output).suffix


def is_stream(path: str | os.PathLike) -> bool:
    """Whether this is a device or a pipe, such as /dev/stdout: moving a finished file there would destroy it."""
    return os.path.dirname(os.path.abspath(path)) in ("/dev", "/dev/fd") or (
        os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    )


def files_below(folder: str | os.PathLike) -> Iterator[Path]:
    """The files in a folder and its sub-folders, also behind links; each folder once, by its own name if it has one.

    Raises:
        AvbError: a sub-folder cannot be listed.
    """

    def refuse(error: OSError):
        raise AvbError(
            f"{error.filename}: cannot be listed ({error.strerror}): change its permissions, or give the folders "
            "beside it"
        ) from error

    seen: set[str] = set()
    waiting = deque([os.fspath(folder)])  # links wait until all that needs none was seen
    inside = os.path.join(os.path.realpath(folder), "")
    while waiting:
        for root, folders, files in os.walk(waiting.popleft(), onerror=refuse):
            real = os.path.realpath(root)
            is_around = seen and inside.startswith(os.path.join(real, ""))  # a link to a folder around this one
            if real in seen or is_around:
                folders.clear()
                continue
            seen.add(real)
            yield from (Path(root, name) for name in files)
            paths = (os.path.join(root, name) for name in sorted(folders))
            waiting.extend(path for path in paths if os.path.islink(path))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within the block, no other command has this file, which is created if needed; the system frees it when we die.

    Raises:
        AvbError: another command has it, or it cannot be opened.
    """
    with writing(path):
        file = open(path, "ab")
    with file:
        is_ours = True
        with contextlib.suppress(OSError):  # a file system without locks
            is_ours = try_lock(file)
        if not is_ours:
            raise AvbError(
                f"{path}: another command is writing there: wait until it has finished, or choose another output"
            )
        yield


def try_lock(file: IO) -> bool:
    """Locks an open file; False if others have it. The system frees it when all processes that share it end.

    Raises:
        OSError: the file system has no locks.
    """
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns errors of writing a file into an AvbError that names it."""
    try:
        yield
    except OSError as error:
        raise AvbError(f"{path}: cannot be written ({error.strerror or error}): make room, or move it away") from error


def write_table(path: str | Path, rows: Iterable[dict], columns: list[str]):
    """Writes rows as CSV, JSON lines or Parquet, depending on the suffix, in constant memory.

    Raises:
        AvbError: it cannot be written.
    """
    path = Path(path)
    writer = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}[path.suffix]
    with whole(path) as temporary:
        writer(temporary, rows, columns)


def write_json(path: str | Path, content: dict | list):
    """Writes a JSON file for people to read: indented, in the given order.

    Raises:
        AvbError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, way_out: str, error_type: type[AvbError] = AvbError) -> Any:
    """Reads a JSON file.

    Args:
        path: of the file.
        way_out: what the user can do if it cannot be read; ends the message.
        error_type: the type of the raised error.

    Raises:
        AvbError: it does not exist, cannot be read, or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise error_type(f"{path}: cannot be read as JSON ({reason}); {way_out}") from error


def write_skipped(output: Path, rows: Iterable[dict] | None) -> Path:
    """Writes OUTPUT.errors.csv, the list of what was skipped, in place of an earlier run's.

    Args:
        output: what was written.
        rows: `id` and `error` of each; None or empty if nothing was skipped.

    Returns:
        The path of the list, which does not exist if nothing was skipped.

    Raises:
        AvbError: it cannot be written.
    """
    report = output.with_name(output.name + ".errors.csv")
    with writing(report):
        report.unlink(missing_ok=True)
    if rows:
        write_table(report, rows, ["id", "error"])
    return report


def write_text(path: str | Path, text: str):
    """Writes a text file in UTF-8.

    Raises:
        AvbError: it cannot be written.
    """
    with whole(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary name, whose file replaces `path` at the end.

    Raises:
        AvbError: it cannot be written; nothing is left of it, and an earlier file is kept.
    """
    if is_stream(path):
        raise AvbError(f"{path}: not a file; results are written to files, and not to standard output: give a name")
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        try:
            yield temporary
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _write_csv(path: Path, rows: Iterable[dict], columns: list[str]):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(path: Path, rows: Iterable[dict], columns: list[str]):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({column: row.get(column) for column in columns}, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, rows: Iterable[dict], columns: list[str], group: int = 10_000):
    import pyarrow as pa  # takes a third of a second, which a CSV does not need
    import pyarrow.parquet as pq

    writer = None
    for batch in batches(rows, group):
        table = pa.table({column: [row.get(column) for row in batch] for column in columns})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table.cast(writer.schema))
    if writer is None:
        pq.write_table(pa.table({column: pa.array([], pa.string()) for column in columns}), path)
    else:
        writer.close()


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Yields lists of `size` items in order; the last one may be shorter. Only one list is in memory."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
