"""Scores in shards: a folder of Parquet files, for more clips than one table or one machine can handle.

    part-00000.parquet ...   `id` and scores of a fixed number of clips, in order; bad clips are in the file's metadata
    _finished.json           written last: how many clips were scored and skipped
    ../FOLDER.errors.csv     the skipped clips; also written last

The name and content of a shard depend only on the list of clips, not on the worker. If work is repeated, because a
worker died or the command was run again, a file is replaced by an identical one. A shard is written under a hidden name
and then moved, so an existing shard is complete; its metadata identify the model and the clips (its key). Programs that
read a folder of Parquet files ignore names that begin with a dot or an underscore.
"""

import json
import os
import platform
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from avb.errors import AvbError
from avb.files import make_folder, write_json, write_skipped
from avb.inference.clips import Clips, scores_key
from avb.inference.scorer import Scorer, is_unreadable

FINISHED_FILE = "_finished.json"
_NOTE_KEY = b"avb"  # in a shard's metadata
_NAMES = "part-*.parquet"


@dataclass(frozen=True)
class Shard:
    """One file of scores, for the clips from number `start` up to `stop`."""

    path: Path
    key: str
    start: int
    stop: int


class Note(NamedTuple):
    """The metadata of a finished shard; `errors` are pairs of id and message."""

    key: str
    scored: int
    errors: list[list[str]]


def check_folder(output: str) -> Path:
    """Creates the folder if needed, and returns its absolute path.

    Raises:
        AvbError: it cannot be created or written, or has other files, which readers of the folder could not parse.
    """
    folder = make_folder(os.path.abspath(output))
    others = [
        path.name for path in sorted(folder.iterdir()) if not (path.name.startswith((".", "_")) or path.match(_NAMES))
    ]
    if others:
        raise AvbError(f"{output}: contains other files, such as {others[0]}: use a separate folder for the scores")
    return folder


def plan(folder: Path, clips: Clips, model: str, shard_clips: int) -> list[Shard]:
    """Divides a list of clips into shards.

    Args:
        folder: to write them to.
        clips: to score.
        model: the model's key.
        shard_clips: clips per shard, at most.
    """
    ids, total = clips.ids(), clips.count()
    shards = []
    for number, start in enumerate(range(0, total, shard_clips)):
        key = scores_key(model, islice(ids, shard_clips))
        shards.append(Shard(folder / f"part-{number:05d}.parquet", key, start, min(start + shard_clips, total)))
    return shards


def find_unfinished(folder: Path, shards: list[Shard], overwrite: bool) -> list[Shard]:
    """Finds the shards that are not finished, and removes partial files of an interrupted run.

    Args:
        folder: of the shards.
        shards: of this run.
        overwrite: remove shards of another model or other clips.

    Raises:
        AvbError: there are such shards, and `overwrite` is False.
    """
    _remove_attempts(folder)
    planned = {shard.path: shard.key for shard in shards}
    notes = {path: read_note(path) for path in sorted(folder.glob(_NAMES))}
    others = [path for path, note in notes.items() if path not in planned or note and note.key != planned[path]]
    if others and not overwrite:
        raise AvbError(
            f"{others[0]} is of another model, other clips or another --shard_clips: give another folder, or "
            "--overwrite"
        )
    for path in others:
        path.unlink()
    unfinished = [shard for shard in shards if shard.path in others or not notes.get(shard.path)]
    if unfinished:
        (folder / FINISHED_FILE).unlink(missing_ok=True)
    return unfinished


def score_shard(scorer: Scorer, shard: Shard, clips: Clips, progress: Callable[[], object] = lambda: None):
    """Scores the clips of one shard and writes it.

    Args:
        scorer: the model.
        shard: to compute.
        clips: of this shard.
        progress: called after each clip.

    Raises:
        AvbError: the model or the clips differ from those for which the shard was planned, or it cannot be written.
    """
    if scores_key(scorer.key, clips.ids()) != shard.key:
        raise AvbError(
            f"{shard.path}: on {platform.node()} the model or the list of clips is not the one the run began with; "
            "every machine must see the same files"
        )
    # Two workers may compute the same shard, if one was believed dead: each writes to its own file name.
    temporary = shard.path.with_name(f".{shard.path.name}.{uuid.uuid4().hex}")
    try:
        temporary.touch()  # remains if the process dies: see find_attempts
        pq.write_table(_score(scorer, shard.key, clips, progress), temporary)
        os.replace(temporary, shard.path)
    except OSError as error:
        raise AvbError(
            f"{shard.path}: cannot be written ({error.strerror or error}); the same command continues from here"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _score(scorer: Scorer, key: str, clips: Clips, progress: Callable[[], object]) -> pa.Table:
    """The scores of a shard's clips; the metadata have its key and the unreadable clips."""
    rows, errors = [], []
    for row in scorer.rows(clips):
        if is_unreadable(row):
            errors.append([row["id"], row["error"]])
        else:
            rows.append(row)
        progress()
    note = {_NOTE_KEY: json.dumps({"key": key, "errors": errors}).encode()}
    return pa.Table.from_pylist(rows, schema=_schema(scorer).with_metadata(note))


def find_attempts(path: Path) -> list[Path]:
    """The temporary files of workers that started this shard, and died or are still running."""
    return list(path.parent.glob(f".{path.name}.*"))


def _remove_attempts(folder: Path):
    for path in folder.glob(f".{_NAMES}.*"):
        path.unlink(missing_ok=True)


def _schema(scorer: Scorer) -> pa.Schema:
    """The same for all shards, even if all clips of a shard are unreadable."""
    arrow = {str: pa.string(), float: pa.float64()}
    return pa.schema([("id", pa.string()), *((name, arrow[kind]) for name, kind in scorer.columns.items())])


def read_note(path: Path) -> Note | None:
    """Reads a shard's metadata; None if it is missing or damaged, and must be computed again."""
    try:
        footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return None
    note = json.loads((footer.metadata or {}).get(_NOTE_KEY, '{"key": "of another program", "errors": []}'))
    return Note(note["key"], footer.num_rows, note["errors"])


def finish(folder: Path, shards: list[Shard]) -> int:
    """Checks that all shards exist, and writes the report of bad clips and `_finished.json`.

    Returns:
        How many clips were skipped.

    Raises:
        AvbError: shards are missing.
    """
    notes = [read_note(shard.path) for shard in shards]
    lost = [shard for shard, note in zip(shards, notes, strict=True) if note is None or note.key != shard.key]
    if lost:
        raise AvbError(
            f"{folder}: {len(lost)} of {len(shards)} shards are missing, such as {lost[0].path.name} (clips "
            f"{lost[0].start} to {lost[0].stop - 1}): their workers died each time; the same command tries them again"
        )
    _remove_attempts(folder)
    found = [note for note in notes if note is not None]
    skipped = sum(len(note.errors) for note in found)
    scored = sum(note.scored for note in found)
    report = write_skipped(folder, _bad_rows(found) if skipped else None)
    write_json(folder / FINISHED_FILE, {"shards": len(shards), "scored": scored, "skipped": skipped})
    print(f"{scored} clip{'s' * (scored != 1)} scored; shards in {folder}: {len(shards)}")
    if skipped:
        print(f"{skipped} clip{'s' * (skipped != 1)} skipped: {report}", file=sys.stderr)
    return skipped


def _bad_rows(notes: list[Note]) -> Iterator[dict]:
    for note in notes:
        yield from ({"id": clip_id, "error": error} for clip_id, error in note.errors)
