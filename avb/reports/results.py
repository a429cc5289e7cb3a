"""What runs measured: `results/runs.csv`, one row a run and split, from which every table is made.

A run that fails is a row too, with an empty score and the reason in `note`. A row names its recipe and whatever the
command line changed in it: `paper/high-lv60k` run with `--max_steps 5` is not the paper's row.

Unusual: runs that finish at the same time append to one file without a lock. The file is made, header and all, under a
temporary name and linked into place, which succeeds for one process only; a row is one write to a file opened for
appending. (Local file systems keep such a write whole; NFS does not promise it.)
"""

import csv
import io
import json
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import Field, asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from avb.errors import AvbError
from avb.files import write_table

RUN_TABLE = "results.csv"  # a finished run's own rows, in its folder

# Where a run reads and writes, and how fast: none of it changes what is measured.
_RUN_OPTIONS = {
    "data_dir",
    "output_dir",
    "cache_dir",
    "cache_frames",
    "seed",
    "resume",
    "overwrite",
    "num_decode_workers",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "disable_tqdm",
    "logging_dir",
    "logging_steps",
    "logging_strategy",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "report_to",
    "run_name",
    "results",
}


@dataclass(frozen=True)
class Result:
    """One row: the score of one run on one split, or that there is none.

    Attributes:
        recipe: the recipe's name below `recipes/`, `paper/high-lv60k`; several are joined by `+`.
        changes: what the command line changed in the recipe, as typed, sorted by name; empty for the recipe itself.
        task: name of the task.
        split: validation or test; empty where the run failed.
        metric: ccc, uar, or mean_score over several tasks.
        score: in [-1, 1] or [0, 1]; None where there is none (see `note`), NaN where it is undefined.
        low: lower bound of its 95 % interval.
        high: upper bound.
        num_clips: clips of the split that have a label.
        interval_unit: what the interval resamples, clip or speaker.
        seed: of the run.
        seconds: of training.
        epochs: trained, fewer than planned where training stopped early.
        encoder: as the recipe names it; of a local path the last part.
        train_clips: clips trained on.
        corpus: name of the corpus.
        data_dir: last part of its folder's path.
        commit: of this project.
        versions: JSON of what else the result depends on.
        date: when the row was written, UTC.
        note: why there is no score, or anything a reader must know.
    """

    recipe: str
    changes: str = ""
    task: str = ""
    split: str = ""
    metric: str = ""
    score: float | None = None
    low: float | None = None
    high: float | None = None
    num_clips: int | None = None
    interval_unit: str = ""
    seed: int | None = None
    seconds: float | None = None
    epochs: float | None = None
    encoder: str = ""
    train_clips: int | None = None
    corpus: str = ""
    data_dir: str = ""
    commit: str = ""
    versions: str = ""
    date: str = ""
    note: str = ""


COLUMNS = [field.name for field in fields(Result)]


def split_command(argv: Sequence[str]) -> tuple[str, str]:
    """A command line's recipes and what it changes in them, as `Result.recipe` and `Result.changes`.

    >>> split_command(["recipes/paper/high-lv60k.yaml", "--seed", "1", "--data_dir", "/data", "--max_steps=5"])
    ('paper/high-lv60k', '--max_steps 5')
    """
    names, groups = [], []
    for token in argv:
        if token.startswith("--"):
            name, _, value = token.removeprefix("--").partition("=")
            groups.append([name.replace("-", "_"), *([value] if value else [])])
        elif groups:
            groups[-1].append(_without_folders(token))
        else:
            names.append(_recipe_name(Path(token)))
    last = {
        name: values for name, *values in groups if name not in _RUN_OPTIONS
    }  # a repeated option's last value counts
    changes = " ".join(shlex.join([f"--{name}", *values]) for name, values in sorted(last.items()))
    return "+".join(names), changes


def _recipe_name(path: Path) -> str:
    parts = path.resolve().with_suffix("").parts
    if "recipes" not in parts:
        return parts[-1]
    return "/".join(parts[len(parts) - parts[::-1].index("recipes") :])


def _without_folders(value: str) -> str:
    return Path(value).name if Path(value).is_absolute() else value


def run_results(
    argv: Sequence[str],
    metrics: dict,
    *,
    encoder: str,
    corpus: str,
    data_dir: str | Path,
    epochs: float | None,
    versions: dict,
) -> list[Result]:
    """The rows of a finished run, one a split, and one more for each of several tasks.

    Args:
        argv: the arguments that `train_avb.py` was called with.
        metrics: what it writes to `metrics.json`.
        encoder: the recipe's encoder.
        corpus: name of the corpus.
        data_dir: its folder.
        epochs: epochs trained.
        versions: what it writes to `versions.json`.
    """
    recipe, changes = split_command(argv)
    versions = dict(versions)
    common = {
        "recipe": recipe,
        "changes": changes,
        "task": metrics["task"],
        "metric": metrics["metric"],
        "seed": metrics["seed"],
        "seconds": metrics["train_seconds"],
        "epochs": None if epochs is None else round(epochs, 2),
        "encoder": _encoder_name(encoder),
        "train_clips": metrics["train_clips"],
        "corpus": corpus,
        "data_dir": Path(data_dir).resolve().name,
        "commit": versions.pop("commit", None) or "",
        "versions": json.dumps(versions, sort_keys=True),
        "date": _now(),
    }
    rows = []
    for split, scores in metrics.items():
        if isinstance(scores, dict):
            rows.append(Result(**common, split=split, **_score_columns(metrics["metric"], scores)))
            for task, part in scores.get("tasks", {}).items():
                metric = "ccc" if "ccc" in part else "uar"
                rows.append(
                    Result(**common | {"task": task, "metric": metric}, split=split, **_score_columns(metric, part))
                )
    return rows


def _score_columns(metric: str, scores: dict) -> dict:
    return {
        "score": scores.get(metric),
        "low": scores.get(f"{metric}_low"),
        "high": scores.get(f"{metric}_high"),
        "num_clips": scores["num_clips"],
        "interval_unit": scores.get("interval_unit", ""),
        "note": scores.get("note", ""),
    }


def failed_run(argv: Sequence[str], reason: str, **known) -> Result:
    """The row of a run that failed.

    Args:
        argv: the arguments that `train_avb.py` was called with.
        reason: why; of several lines the first is kept.
        **known: what is known of the run, fields of `Result` (task, seed, encoder, corpus, data_dir, ...).
    """
    recipe, changes = split_command(argv)
    if known.get("data_dir"):
        known["data_dir"] = Path(known["data_dir"]).resolve().name
    if known.get("encoder"):
        known["encoder"] = _encoder_name(known["encoder"])
    known = {name: value for name, value in known.items() if value is not None}
    reason = (reason.strip().splitlines() or ["no reason given"])[0]
    return Result(recipe=recipe, changes=changes, date=_now(), note=f"failed: {reason}", **known)


def _encoder_name(encoder: str) -> str:
    return Path(encoder).name if Path(encoder).exists() else encoder


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def check_table(path: str | Path):
    """Makes the table if need be. Called before a training, it saves hours that would end in an error.

    Raises:
        AvbError: the file has other columns, or cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_table(path)
        with open(path, "ab+") as file:  # for appending: it can be written
            file.seek(0)
            header = file.readline().decode("utf-8", "replace").strip()
    except OSError as error:
        raise AvbError(f"{path}: cannot be written ({error.strerror}); give another --results") from error
    if header != ",".join(COLUMNS):
        raise AvbError(f"{path}: not the columns of this version: move the file away. Columns: {', '.join(COLUMNS)}")


def append_result(path: str | Path, result: Result):
    """Adds a row to the table, which is made if need be.

    Raises:
        AvbError: see `check_table`; or the disk is full.
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
        # A line that was cut off (a full disk) stays one bad line, and takes no other with it.
        line = row if whole else f"\n{row}"
        with open(path, "ab", buffering=0) as file:
            file.write(line.encode("utf-8"))
    except OSError as error:
        raise AvbError(f"{path}: cannot be written ({error.strerror}); the result was: {row}") from error


def write_results(path: str | Path, rows: Iterable[Result]):
    """A table of these rows alone, in place of what the file held."""
    write_table(path, map(asdict, rows), COLUMNS)


def add_runs(path: str | Path, folders: Iterable[str | Path]) -> tuple[int, int]:
    """Adds to a table the rows of finished runs that it lacks; returns how many it got, and how many it had.

    Raises:
        AvbError: a folder holds no table of its run, and nothing is added then; or see `append_result`.
    """
    rows = []
    for folder in folders:
        own = read_results(Path(folder) / RUN_TABLE)
        if not own:
            raise AvbError(f"{folder}: no {RUN_TABLE}; give the folder of a run that train_avb.py has finished")
        rows += own
    known = {repr(row) for row in read_results(path)}  # as text, in which NaN is equal to itself
    new = {repr(row): row for row in rows if repr(row) not in known}
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
    """All rows, in the order they were written; an empty list where there is no file yet.

    Raises:
        AvbError: a column is missing, or a cell is not what its column holds; the message names the line.
    """
    path = Path(path)
    if not path.exists():
        return []
    results = []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise AvbError(f"{path}: no column {', '.join(missing)}; a table of results has {', '.join(COLUMNS)}")
        for row in reader:
            try:
                if None in row or None in row.values():
                    raise ValueError(f"not {len(reader.fieldnames or ())} cells")
                results.append(Result(**{field.name: _read_cell(field, row[field.name]) for field in fields(Result)}))
            except ValueError as error:
                raise AvbError(f"{path}, line {reader.line_num}: {error}; correct or remove the line") from error
    return results


def _read_cell(field: Field, text: str):
    number = _NUMBERS.get(field.type)
    if number is None:
        return text
    return number(text) if text else None
