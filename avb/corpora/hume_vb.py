"""HUME-VB, the corpus of the A-VB 2022 challenge, in the layout of its release:

    root/audio/wav/NNNNN.wav
    root/labels/{high,two,culture,type}_info.csv    File_ID ([NNNNN]), Split (Train, Val, Test), the label columns

The order of the release is kept. `id` is the File_ID as spelled in the table, so that a submission can print it.
Labels of the test split are withheld: cells that are empty, or in all rows -1, Unknown or None, are read as missing.
Label columns are found by name. A folder written by `python -m avb.corpora.prepare hume_vb` is loaded in the same way.

Sources: Baird et al. (2022), arXiv:2207.03572 (challenge); Cowen et al. (2022), doi:10.5281/zenodo.6320973 (corpus,
licensed on request).
"""

import logging
import os
from pathlib import Path

import numpy as np

from audio_avb import AUDIO_SUFFIXES
from avb.corpora import shards
from avb.corpora.cells import blank_withheld, read_labels
from avb.corpora.release import ID_COLUMN, SPLIT_COLUMN, columns_of
from avb.corpora.rows import Corpus, build_splits
from avb.corpora.splits import parse_split
from avb.corpora.tables import Table, find_column, read_table, refuse_duplicates, require_column
from avb.errors import CorpusError, did_you_mean
from avb.tasks import TASKS, get_task

logger = logging.getLogger(__name__)


def load(
    root: str | Path,
    task: str | None = None,
    *,
    audio_dir: str = "audio/wav",
    skip_missing: bool = False,
    cache_dir: str | None = None,
) -> Corpus:
    """Load the release, or a folder prepared from it, for one task.

    Args:
        root: folder that contains `audio` and `labels`, or the shards that `prepare` wrote.
        task: high, two, culture or type.
        audio_dir: folder of the clips in root; the 48 kHz and the processed version may both be there.
        skip_missing: leave out clips whose audio file is missing (a warning counts them) instead of raising.
        cache_dir: where datasets puts its copy of the shards; ignored for a release.

    Returns:
        Task and splits; rows have `id`, `audio`, `labels`, and `speaker` and `country` where the table has them.

    Raises:
        CorpusError: files, columns, ids, splits or labels are invalid; the message gives details.
        ValueError: no such task.
    """
    root = Path(root)
    if task is None:
        raise CorpusError(f"the corpus hume_vb needs a task: {', '.join(TASKS)}")
    if shards.is_prepared(root):
        return shards.load_prepared(root, task, cache_dir)
    the_task = get_task(task)
    table = read_table(_find_labels(root, task))
    id_column, split_column = require_column(table, ID_COLUMN), require_column(table, SPLIT_COLUMN)
    label_columns = [require_column(table, name) for name in columns_of(the_task)]  # header errors first

    ids = list(table.cells[id_column])
    refuse_duplicates(table, ids, ID_COLUMN, key=_file_key)
    split_of = [_split_of_row(table, position, text) for position, text in enumerate(table.cells[split_column])]
    files = _find_audio(root / audio_dir, table, id_column, skip_missing)
    blank_withheld(table, label_columns, np.array(split_of) == "test")
    labels = read_labels(table, label_columns, the_task, ids)
    known = {
        "speaker": find_column(table, "Speaker", "Speaker_ID", "Subject", "Subject_ID"),
        "country": find_column(table, "Country"),
    }
    known = {name: list(table.cells[column]) for name, column in known.items() if column}

    kept = [position for position, file in enumerate(files) if file]
    for split in sorted(set(split_of) - {split_of[position] for position in kept}):
        raise CorpusError(f"{table.path}: 0 clips in split {split!r}: none of its files is in {root / audio_dir}")
    return Corpus(
        the_task,
        build_splits(
            [ids[i] for i in kept],
            [file for file in files if file],
            labels[kept],
            [split_of[i] for i in kept],
            **{name: [values[i] for i in kept] for name, values in known.items()},
        ),
    )


def tasks_in(root: str | Path) -> list[str]:
    """The tasks whose label table exists, in the challenge's order."""
    return [name for name in TASKS if table_path(root, name).is_file()]


def table_path(root: str | Path, task: str) -> Path:
    """The path of a task's label table in a release."""
    return Path(root) / "labels" / f"{task}_info.csv"


def _find_labels(root: Path, task: str) -> Path:
    if not root.is_dir():
        raise CorpusError(f"{root}: no such folder; give the folder that contains audio/ and labels/")
    path = table_path(root, task)
    if path.is_file():
        return path
    folder = path.parent if path.parent.is_dir() else root
    there = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    misspelled = [name for name in there if name not in [table_path(root, other).name for other in TASKS]]
    near, shown = did_you_mean(path.name, misspelled), ", ".join(there[:10]) or "nothing"
    raise CorpusError(f"{path}: no such label file{near} {folder} contains: {shown}")


def _split_of_row(table: Table, position: int, text: str) -> str:
    split = parse_split(text)
    if split is None:
        raise CorpusError(f"{table.where(position)}, column 'Split': {text!r} is not a split; valid: Train, Val, Test")
    return split


def _find_audio(folder: Path, table: Table, id_column: str, skip_missing: bool) -> list[Path | None]:
    """Each row's audio file; None if it is missing and `skip_missing` is set.

    Names are looked up among the files of the folder, so an id can never lead out of it.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; the release has its clips there (option audio_dir)")
    file_of: dict[str, Path] = {}
    for file in (folder / name for name in sorted(os.listdir(folder))):
        if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith("."):
            other = file_of.setdefault(_file_key(file.stem), file)
            if other != file:
                raise CorpusError(f"{folder}: {other.name} and {file.name} have the same File_ID; remove one")
    files, missing = [], []
    for position, clip_id in enumerate(table.cells[id_column]):
        name = _bare(clip_id)
        if not name or "/" in name or "\\" in name or ".." in name:
            raise CorpusError(
                f"{table.where(position)}, column {id_column!r}: {clip_id!r} is not a File_ID; ids look like [10119] "
                "and name a file, never a path"
            )
        files.append(file_of.get(_file_key(clip_id)))
        if files[-1] is None:
            missing.append(clip_id)
    if missing:
        first = ", ".join(missing[:3])
        message = (
            f"{table.path}: {len(missing)} of {len(files)} File_IDs have no audio file in {folder}, such as {first}"
        )
        if not skip_missing:
            raise CorpusError(f"{message}; copy the files there, or skip the clips with skip_missing=True")
        logger.warning("%s; left out", message)
    return files


def _file_key(clip_id: str) -> str:
    """The same key for all spellings of a clip: `[00119]`, `['00119']`, ` 119 `, `00119.wav`, `119.0`, stem `119`."""
    name = _bare(clip_id)
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in AUDIO_SUFFIXES or (suffix == ".0" and stem.isdigit()):  # a spreadsheet's number
        name = stem
    return name.lstrip("0") or "0" if name.isdigit() else name


def _bare(clip_id: str) -> str:
    return clip_id.strip("[]'\" ")
