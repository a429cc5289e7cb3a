"""Converts a corpus to Parquet shards: the work of `python -m avb.corpora.prepare`, which says what they are."""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets
from tqdm.auto import tqdm

from audio_avb import AudioPreparation
from avb.corpora import emogator, hume_vb, load_bursts, shards
from avb.corpora.decode import BadClip, decode_clips, fingerprint
from avb.corpora.release import CLASS_COLUMN
from avb.corpora.rows import Corpus
from avb.errors import CorpusError
from avb.files import write_json
from avb.tasks import MISSING_CLASS, Task

BAD_CLIPS_FILE = "bad_clips.csv"


def prepare(
    corpus: str,
    root: str | Path,
    out: str | Path,
    preparation: AudioPreparation = AudioPreparation(),
    *,
    tasks: Sequence[str] | None = None,
    num_workers: int | None = None,
    shard_rows: int = 8000,
    strict: bool = False,
    **options,
) -> list[BadClip]:
    """Write the shards of a corpus.

    Args:
        corpus: hume_vb, emogator or folder.
        root: folder of the corpus.
        out: folder to write; new, or left by an interrupted run with the same settings.
        preparation: how the clips are prepared.
        tasks: tasks whose labels are written; None means all tasks of hume_vb, or the task of a folder's columns.
        num_workers: number of decoding processes; None means one.
        shard_rows: maximum number of clips per shard.
        strict: raise at the first clip that cannot be decoded.
        **options: passed to the corpus's `load` function.

    Returns:
        The clips that were left out.

    Raises:
        AudioError: `strict`, and a clip cannot be decoded.
        CorpusError: the corpus does not load, no clip of a split can be decoded, or `out` contains something else.
    """
    root, out = Path(root), Path(out)
    if shard_rows < 1:
        raise CorpusError(f"shard_rows must be positive, got {shard_rows}")
    splits, columns_of = _label_columns(corpus, root, tasks, options)
    inputs = {split: [fingerprint(rows, preparation), _fingerprint_labels(rows)] for split, rows in splits.items()}
    _start(out, {"corpus": corpus, **asdict(preparation), "shard_rows": shard_rows, "inputs": inputs})

    bad_clips, counts = [], {}
    for split, rows in splits.items():
        counts[split] = 0
        progress = tqdm(desc=split, total=len(rows), unit="clip", disable=None)
        for number, start in enumerate(range(0, len(rows), shard_rows)):
            path = out / f"{split}-{number:05d}.parquet"
            shard = rows.select(range(start, min(start + shard_rows, len(rows))))
            if not path.exists():
                note: dict[str, list[BadClip]] = {BAD_CLIPS_FILE: []}
                clips = decode_clips(shard, preparation, num_proc=num_workers, strict=strict)
                clips = _without_bad(clips, split, shard, note[BAD_CLIPS_FILE], progress)
                shards.write_shard(path, shard, clips, preparation.sampling_rate, note)
            num_rows, note = shards.read_note(path)
            counts[split] += num_rows
            bad_clips += [BadClip(*fields) for fields in note[BAD_CLIPS_FILE]]
            progress.update(start + len(shard) - progress.n)  # also counts finished shards, which are skipped
        progress.close()
        if not counts[split]:
            reason = bad_clips[-1].reason
            raise CorpusError(f"split {split!r}: none of its {len(rows)} clips can be decoded; the last: {reason}")

    if corpus == "emogator":
        norms = Path(options.get("norms", root / emogator.NORMS_FILE))
        if norms.is_file():
            shutil.copyfile(norms, out / emogator.NORMS_FILE)
    else:
        shards.write_tasks(out, columns_of)
    if bad_clips:
        with open(out / BAD_CLIPS_FILE, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([BadClip._fields, *bad_clips])
    _finish(out)
    print(f"{out}: " + ", ".join(f"{split} {count:,}" for split, count in counts.items()) + " clips")
    return bad_clips


def _without_bad(
    clips: Iterator[tuple[np.ndarray, str | None]], split: str, rows: Dataset, bad_clips: list[BadClip], progress: tqdm
) -> Iterator[np.ndarray | None]:
    """The waveforms, None for a bad clip, which is added to `bad_clips`."""
    for position, (waveform, error) in enumerate(clips):
        progress.update()
        if error is not None:
            row = rows[position]
            bad_clips.append(BadClip(split, row["id"], row["audio"]["path"] or "", error))
        yield waveform if error is None else None


# ---------------------------------------------------------------------------------------------------- labels


def _label_columns(
    corpus: str, root: Path, tasks: Sequence[str] | None, options: dict
) -> tuple[DatasetDict, dict[str, tuple[Task, list[str]]]]:
    """The corpus with one column per label, and the tasks these columns belong to."""
    if shards.is_prepared(root):
        raise CorpusError(f"{root}: these are already prepared shards; give the original corpus")
    if corpus == "hume_vb":
        tasks = tasks or hume_vb.tasks_in(root) or ["high"]  # if there is no table, the loader reports what is missing
    names: Sequence[str | None] = tasks or [None]
    corpora = [load_bursts(corpus, root, name, **options) for name in names]
    splits, columns_of = corpora[0].splits.remove_columns("labels"), {}
    if corpus == "emogator":  # its columns `speaker`, `category`, `instance` are enough
        return splits, {}
    for loaded in corpora:
        task = cast(Task, loaded.task)
        columns = list(task.labels) if task.kind == "regression" else [_class_column(corpus, task)]
        columns_of[task.name] = (task, columns)
        splits = _add_labels(splits, loaded, columns)
    return splits, columns_of


def _class_column(corpus: str, task: Task) -> str:
    return CLASS_COLUMN if corpus == "hume_vb" else f"{task.name}_class"


def _add_labels(splits: DatasetDict, loaded: Corpus, columns: list[str]) -> DatasetDict:
    """Add a corpus's labels to rows of the same clips; the other task's table may list them in another order."""
    for split, rows in splits.items():
        ids = rows["id"][:]
        other_ids = loaded.splits[split]["id"][:] if split in loaded.splits else []
        position_of = {clip_id: position for position, clip_id in enumerate(other_ids)}
        if set(ids) != set(position_of):
            differing = sorted(set(ids) ^ set(position_of))
            raise CorpusError(
                f"the label tables disagree: {len(differing)} clips of split {split!r}, such as {differing[0]!r}, are "
                f"not in that split for task {loaded.task.name!r}; correct the tables"
            )
        order = [position_of[clip_id] for clip_id in ids]
        labels = loaded.splits[split].with_format("numpy", columns=["labels"])["labels"][:][order]
        taken = sorted(set(columns) & {*rows.column_names, "duration"})
        if taken:
            raise CorpusError(f"the label {taken[0]!r} has the same name as another column of the shards; rename it")
        if loaded.task.kind == "regression":
            cells, feature = dict(zip(columns, labels.T, strict=True)), Value("float32")
        else:
            names = [None if i == MISSING_CLASS else loaded.task.labels[i] for i in labels]
            cells, feature = {columns[0]: names}, Value("string")
        added = Dataset.from_dict(cells, features=Features(dict.fromkeys(columns, feature)))
        splits[split] = concatenate_datasets([rows, added], axis=1)
    return splits


def _fingerprint_labels(rows: Dataset) -> str:
    columns = json.dumps(rows.remove_columns("audio").to_dict(), sort_keys=True)
    return hashlib.sha256(columns.encode()).hexdigest()[:32]


# ---------------------------------------------------------------------------------------------------- the folder


def _start(out: Path, settings: dict) -> None:
    """Create the folder, or check that its contents were made with the same settings."""
    out.mkdir(parents=True, exist_ok=True)
    settings_file = out / shards.SETTINGS_FILE
    if settings_file.is_file():
        before = json.loads(settings_file.read_text(encoding="utf-8"))
        differing = [name for name, value in settings.items() if before.get(name) != value]
        if differing:
            raise CorpusError(
                f"{out}: contains shards made with other settings ({', '.join(differing)}); give another folder, or "
                "empty this one"
            )
    elif any(out.iterdir()):
        raise CorpusError(f"{out}: not empty, and not written by prepare; use another folder, or empty this one")
    write_json(settings_file, settings | {"finished": False})


def _finish(out: Path) -> None:
    settings = json.loads((out / shards.SETTINGS_FILE).read_text(encoding="utf-8"))
    write_json(out / shards.SETTINGS_FILE, settings | {"finished": True})
