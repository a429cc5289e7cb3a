"""Parquet shards: the format that `python -m avb.corpora.prepare` writes and every corpus can read, memory-mapped.

    train-00000.parquet ... validation-00000.parquet ... test-00000.parquet ...
    tasks.json      what the label columns mean (hume_vb and folder; EmoGator's loader knows its own)
    prepare.json    the settings, and whether prepare has finished

A row contains `id`, `audio` {bytes, path}, one column per label (a number, or a class name) and further columns of the
corpus. One set of shards has all tasks of a release, so the audio is stored once. Labels are read by column name, so
columns may be added to the shards with any Parquet tool.
"""

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
from datasets import Dataset, DatasetDict, Features, load_dataset
from datasets.exceptions import DatasetGenerationError

from avb.corpora.cells import read_labels
from avb.corpora.rows import AUDIO_FEATURE, AUDIO_TYPE, Corpus, add_labels
from avb.corpora.splits import SPLITS
from avb.corpora.tables import Table
from avb.errors import CorpusError, did_you_mean
from avb.files import read_json, write_json
from avb.tasks import Task

TASKS_FILE = "tasks.json"
SETTINGS_FILE = "prepare.json"
PREPARE_AGAIN = "prepare the corpus again"

_NOTE_KEY = b"prepare"  # in a shard's metadata


def is_prepared(root: Path) -> bool:
    """Whether `prepare` wrote the folder, finished or not."""
    return (root / SETTINGS_FILE).is_file() or (root / TASKS_FILE).is_file()


def find_shards(root: Path) -> dict[str, list[Path]]:
    """The shards of each split that has any, sorted by name.

    Raises:
        CorpusError: `prepare` has not finished this folder.
    """
    settings = read_json(root / SETTINGS_FILE, PREPARE_AGAIN, CorpusError) if (root / SETTINGS_FILE).is_file() else {}
    if not isinstance(settings, dict):
        raise CorpusError(f"{root / SETTINGS_FILE}: not written by prepare; prepare the corpus again")
    if not settings.get("finished", True):
        raise CorpusError(f"{root}: prepare was interrupted here; run the same command again to finish")
    found = {split: sorted(root.glob(f"{split}-*.parquet")) for split in SPLITS}
    return {split: paths for split, paths in found.items() if paths}


def read_shards(files: dict[str, list[Path]], required: tuple[str, ...], cache_dir: str | None = None) -> DatasetDict:
    """Memory-map shards with datasets, which copies them once to its Arrow cache.

    Args:
        files: the shards of each split.
        required: columns that must exist besides `audio`.
        cache_dir: of datasets; None is its default.

    Raises:
        CorpusError: a shard is not a Parquet file, lacks a column, or has other columns than the first shard.
    """
    schemas = {path: _read_schema(path) for paths in files.values() for path in paths}
    first_path, first = next(iter(schemas.items()))
    for path, schema in schemas.items():
        for name in ("audio", *required):
            if name not in schema.names:
                raise CorpusError(f"{path}: no column {name!r}{did_you_mean(name, schema.names, 'It has')}")
        if not schema.equals(first):
            raise CorpusError(f"{path}: its columns or their types differ from those of {first_path.name}; remove it")
    # Set here, not read from the file: its metadata may declare an Audio feature, which needs torchcodec even to load.
    features = Features.from_arrow_schema(first.remove_metadata())
    if not isinstance(features["audio"], dict) or set(features["audio"]) != set(AUDIO_FEATURE):
        raise CorpusError(
            f"{first_path}: column 'audio' is not {{bytes, path}} but {features['audio']}; prepare it again"
        )
    features["audio"] = AUDIO_FEATURE
    try:
        splits = load_dataset(
            "parquet",
            data_files={split: [str(path) for path in paths] for split, paths in files.items()},
            features=features,
            cache_dir=cache_dir,
        )
    except (DatasetGenerationError, pa.ArrowException, OSError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise CorpusError(f"{first_path.parent}: the shards cannot be read ({reason}); prepare them again") from error
    for split, rows in splits.items():
        _refuse_paths(first_path.parent, split, rows)
    return splits


def _refuse_paths(root: Path, split: str, rows: Dataset):
    """Raises if audio is only a path: a shard contains its audio, and a path could name any file on this computer."""
    before = 0
    for chunk in rows.data.column("audio").chunks:
        content = chunk.field("bytes")
        if chunk.null_count or content.null_count:
            row = before + int(np.argmin(content.is_valid())) + 1
            raise CorpusError(
                f"{root}, split {split!r}, row {row}: its audio has no bytes, only a path, which is not followed; "
                "prepare the corpus again"
            )
        before += len(chunk)


def load_prepared(root: Path, task: str | None, cache_dir: str | None = None) -> Corpus:
    """Load shards whose `tasks.json` defines the label columns.

    Args:
        root: the folder.
        task: name of one of its tasks; None if it has only one.
        cache_dir: of datasets; None is its default.

    Raises:
        CorpusError: the task is missing or unknown, there are no shards, or the shards are invalid.
    """
    files = find_shards(root)
    if not files:
        raise CorpusError(f"{root}: no shards (train-*.parquet, ...) next to {TASKS_FILE}; prepare the corpus again")
    if not (root / TASKS_FILE).is_file():
        raise CorpusError(
            f"{root}: no {TASKS_FILE}; if these shards were prepared from EmoGator, load them as 'emogator'"
        )
    tasks = read_tasks(root)
    if task is None and len(tasks) == 1:
        task = next(iter(tasks))
    if task not in tasks:
        if task is None:
            raise CorpusError(f"{root}: give a task. Tasks here: {', '.join(tasks)}")
        raise CorpusError(f"{root}: no task {task!r}{did_you_mean(task, tasks, 'Tasks here')}")
    the_task, columns = tasks[task]
    splits = read_shards(files, ("id", *columns), cache_dir)
    for split, rows in splits.items():
        frame = rows.select_columns(["id", *columns]).to_pandas().astype(object)
        cells = frame[columns].where(frame[columns].notna(), "").astype(str)
        table = Table(root / f"{split}-*.parquet", cells.set_index(np.arange(1, len(cells) + 1)), "row")
        labels = read_labels(table, columns, the_task, frame["id"])
        every_label = [name for _, names in tasks.values() for name in names]
        rows = rows.remove_columns([name for name in rows.column_names if name in every_label])
        splits[split] = add_labels(rows, labels)
    return Corpus(the_task, splits)


def read_tasks(root: Path) -> dict[str, tuple[Task, list[str]]]:
    """The tasks of prepared shards and the columns of their labels.

    Raises:
        CorpusError: the file is damaged.
    """
    tasks = {}
    try:
        for entry in read_json(root / TASKS_FILE, PREPARE_AGAIN, CorpusError):
            columns = [str(name) for name in entry.pop("columns")]
            tasks[entry["name"]] = (Task(**entry), columns)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(
            f"{root / TASKS_FILE}: not written by prepare ({error or type(error).__name__}); prepare the corpus again"
        ) from error
    return tasks


def write_tasks(root: Path, tasks: dict[str, tuple[Task, list[str]]]) -> None:
    """Write the file that `read_tasks` reads."""
    entries = [
        {"name": t.name, "kind": t.kind, "labels": t.labels, "label_range": t.label_range, "columns": columns}
        for t, columns in tasks.values()
    ]
    write_json(root / TASKS_FILE, entries)


def write_shard(path: Path, rows: Dataset, clips: Iterable[np.ndarray | None], sampling_rate: int, note: dict) -> None:
    """Write one shard under a temporary name, then move it to `path`.

    Args:
        path: the shard's path.
        rows: contain `id`, `audio` and any other columns to store.
        clips: each row's waveform, float32 of shape (samples,), or None to leave the row out.
        sampling_rate: of the waveforms, in Hz.
        note: stored in the shard's metadata after all clips have been read; see `read_note`.
    """
    kept, audio, seconds = [], [], []
    for position, (source, waveform) in enumerate(zip(rows["audio"], clips, strict=True)):
        if waveform is not None:
            name = Path(source["path"] or rows["id"][position]).stem
            kept.append(position)
            audio.append({"bytes": encode_flac(waveform, sampling_rate), "path": f"{name}.flac"})
            seconds.append(len(waveform) / sampling_rate)
    others = rows.remove_columns([name for name in ("audio", "duration") if name in rows.column_names])
    table = others.select(kept).with_format("arrow")[:]
    table = table.add_column(1, "audio", pa.array(audio, AUDIO_TYPE))
    table = table.append_column("duration", pa.array(seconds, pa.float32()))
    temporary = path.with_name(f"{path.name}.tmp")
    metadata = {_NOTE_KEY: json.dumps(note, ensure_ascii=False).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), temporary, row_group_size=500)
    os.replace(temporary, path)


def read_note(path: Path) -> tuple[int, dict]:
    """The number of rows in a shard, and the note that `write_shard` stored in it."""
    shard = pq.read_metadata(path)
    return shard.num_rows, json.loads(shard.metadata[_NOTE_KEY])


def encode_flac(waveform: np.ndarray, sampling_rate: int) -> bytes:
    """Encode as FLAC, mono, 16 bit; a clip above full scale is scaled down, not clipped.

    Args:
        waveform: float32 of shape (samples,).
        sampling_rate: in Hz.
    """
    full_scale = 32767 / 32768  # the highest 16-bit sample
    peak = np.abs(waveform).max(initial=0.0)
    if peak > full_scale:
        waveform = waveform * (full_scale / peak)
    file = io.BytesIO()
    sf.write(file, waveform, sampling_rate, "PCM_16", format="FLAC")
    return file.getvalue()


def _read_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path).remove_metadata()
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise CorpusError(f"{path}: not a Parquet file, or truncated ({reason}); copy or prepare it again") from error
