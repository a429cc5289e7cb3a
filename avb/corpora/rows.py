"""Rows of a corpus, in one format for all: `id`, `audio`, `labels`, and further columns of the corpus.

Also reads and writes `splits.csv`, the split of each clip in a run, so that later commands do not test on a clip that
was used for training. Splits that are made depend on the whole table: a new row, or another column of speakers, moves
clips between them.
"""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets

from avb.corpora.splits import SPLITS
from avb.errors import CorpusError
from avb.files import write_table
from avb.tasks import MultiTask, Task

# Not datasets.Audio: it needs torchcodec even to store a path. audio_avb.load_audio decodes either field on demand.
AUDIO_FEATURE = {"bytes": Value("binary"), "path": Value("string")}
AUDIO_TYPE = Features({"audio": AUDIO_FEATURE}).arrow_schema.field("audio").type

KNOWN_GROUPS = ("country",)  # columns that describe the speaker, if a corpus has them
RUN_SPLITS_COLUMNS = ["id", "split"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """What a loader returns; `task, splits = load(...)` works too.

    Attributes:
        task: defines the meaning of the rows' `labels`.
        splits: those of train, validation and test that exist; rows have `id`, `audio` (bytes and path), `labels`,
            and other columns of the corpus (`speaker`, `group`, `country`, `category`, ...).
        has_made_splits: whether the splits were made here because the corpus has none.
    """

    task: Task | MultiTask
    splits: DatasetDict
    has_made_splits: bool = False

    def __iter__(self):
        return iter((self.task, self.splits))


def build_splits(
    ids: Sequence[str],
    paths: Sequence[str | Path],
    labels: np.ndarray,
    split_of: Sequence[str],
    ratings: Sequence[np.ndarray] | None = None,
    **known: Sequence[str],
) -> DatasetDict:
    """Build a `DatasetDict` from rows, in the order given, with the splits that have rows.

    Args:
        ids: the clips' ids.
        paths: paths of the clips' audio files.
        labels: (clips, labels) float32 or (clips,) int64.
        split_of: each clip's split.
        ratings: each clip's ratings, see `avb.corpora.raters.Pooled`; None if the corpus has no raters.
        **known: further string columns, such as `speaker`.
    """
    # Uses Arrow columns, because Dataset.from_dict would encode the 40 labels of 60,000 rows one by one.
    paths = pa.array([str(path) for path in paths], pa.string())
    columns = {
        "id": pa.array(ids, pa.string()),
        "audio": pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], fields=list(AUDIO_TYPE)),
        "labels": _arrow_labels(labels),
        **{name: pa.array(values, pa.string()) for name, values in known.items()},
    }
    if ratings is not None:
        columns["ratings"] = pa.array([clip.tolist() for clip in ratings])
    table, split_of = pa.table(columns), np.asarray(split_of)
    return DatasetDict(
        {split: Dataset(table.take(np.flatnonzero(split_of == split))) for split in SPLITS if (split_of == split).any()}
    )


def _arrow_labels(labels: np.ndarray) -> pa.Array:
    """Labels of shape (clips, labels) as lists of float32, with NaN kept; those of shape (clips,) as int64."""
    if labels.ndim == 1:
        return pa.array(labels, pa.int64())
    ends = np.arange(len(labels) + 1, dtype=np.int32) * labels.shape[1]
    return pa.ListArray.from_arrays(ends, pa.array(labels.ravel(), pa.float32()))


def add_labels(rows: Dataset, labels: np.ndarray) -> Dataset:
    """Adds a column `labels` to the rows, float32 of shape (clips, labels) or int64 of shape (clips,)."""
    return concatenate_datasets([rows, Dataset(pa.table({"labels": _arrow_labels(labels)}))], axis=1)


def require_split(splits: DatasetDict, name: str) -> Dataset:
    """Return one split.

    Raises:
        CorpusError: the corpus has no rows for it.
    """
    if name not in splits:
        raise CorpusError(
            f"the corpus has 0 clips in split {name!r}, only in {', '.join(splits) or 'none'}; add rows to it, or "
            "leave out the split column to have splits made"
        )
    return splits[name]


def write_run_splits(path: str | Path, splits: DatasetDict):
    """Writes the split of each clip, in the order of the splits' rows."""
    rows = ({"id": clip_id, "split": name} for name, split in splits.items() for clip_id in split["id"][:])
    write_table(Path(path), rows, RUN_SPLITS_COLUMNS)


def read_run_splits(path: str | Path) -> dict[str, list[str]]:
    """The ids of each split, in the order of its rows.

    Raises:
        CorpusError: the file does not have the format of `write_run_splits`.
    """
    splits: dict[str, list[str]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, strict=True):
                splits.setdefault(row["split"], []).append(row["id"])
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise CorpusError(f"{path}: not written by a run ({error}); train again, or delete it") from error
    return splits


def as_in_run(splits: DatasetDict, path: str | Path, where: str, is_same: bool) -> DatasetDict:
    """Arrange the clips in the splits of a run.

    Args:
        splits: the corpus's splits, with a column `id`.
        path: the run's `splits.csv`.
        where: the corpus, for errors.
        is_same: whether it is the run's own table. If another table has other clips, its splits stay as they are.

    Raises:
        CorpusError: it is the run's table, but its clips have changed.
    """
    wanted = read_run_splits(path)
    if wanted == {name: split["id"][:] for name, split in splits.items()}:
        return splits
    joined = concatenate_datasets(list(splits.values()))
    positions = {clip_id: position for position, clip_id in enumerate(joined["id"][:])}
    known = {clip_id for ids in wanted.values() for clip_id in ids}
    new, gone = sorted(positions.keys() - known), sorted(known - positions.keys())
    if not new and not gone:
        return DatasetDict({name: joined.select([positions[i] for i in ids]) for name, ids in wanted.items()})
    differing = ", ".join(
        f"{len(ids)} {what}, such as {ids[0]!r}" for ids, what in ((new, "new"), (gone, "gone")) if ids
    )
    if is_same:
        raise CorpusError(
            f"{where}: its clips have changed since the model was trained ({differing}; {path}), so a test "
            "clip may have been a train clip; restore the table, or use a table with a column of splits "
            "(--split_column)"
        )
    if len(new) < len(positions):
        logger.warning("%s: it shares clips with the table of the model's training; some may be training clips", where)
    return splits
