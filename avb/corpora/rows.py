"""Rows of a corpus: one shape for all, `id`, `audio`, `labels`, and what the corpus knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets

from avb.corpora.splits import SPLITS
from avb.errors import CorpusError
from avb.tasks import MultiTask, Task

# Not datasets.Audio: that needs torchcodec even to hold a path. audio_avb.load_audio decodes either field, when asked.
AUDIO_FEATURE = {"bytes": Value("binary"), "path": Value("string")}
AUDIO_TYPE = Features({"audio": AUDIO_FEATURE}).arrow_schema.field("audio").type

KNOWN_GROUPS = ("country",)  # columns that say something about the speaker, where a corpus has them


@dataclass(frozen=True)
class Corpus:
    """What a loader returns; `task, splits = load(...)` is legal too.

    Attributes:
        task: what the rows' `labels` mean.
        splits: of train, validation and test those that exist; rows have `id`, `audio` (bytes and path), `labels`,
            and what the corpus knows (`speaker`, `group`, `country`, `category`, ...).
        has_made_splits: whether the corpus itself has none, and they were made here.
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
    """Rows to a `DatasetDict`, in the order given, with the splits that have rows.

    Args:
        ids: of the clips.
        paths: of their audio files.
        labels: (clips, labels) float32 or (clips,) int64.
        split_of: each clip's split.
        ratings: each clip's, see `avb.corpora.raters.Pooled`; None where the corpus does not know its raters.
        **known: more string columns, such as `speaker`.
    """
    # Columns of Arrow: Dataset.from_dict would encode the 40 labels of 60,000 rows one by one.
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
    """Labels of shape (clips, labels) as lists of float32, NaN kept; of shape (clips,) as int64."""
    if labels.ndim == 1:
        return pa.array(labels, pa.int64())
    ends = np.arange(len(labels) + 1, dtype=np.int32) * labels.shape[1]
    return pa.ListArray.from_arrays(ends, pa.array(labels.ravel(), pa.float32()))


def add_labels(rows: Dataset, labels: np.ndarray) -> Dataset:
    """Rows with `labels`, of shape (clips, labels) float32 or (clips,) int64, as another column."""
    return concatenate_datasets([rows, Dataset(pa.table({"labels": _arrow_labels(labels)}))], axis=1)


def require_split(splits: DatasetDict, name: str) -> Dataset:
    """One split.

    Raises:
        CorpusError: the corpus has no rows for it.
    """
    if name not in splits:
        raise CorpusError(
            f"the corpus has 0 clips in split {name!r}, only in {', '.join(splits) or 'none'}; add rows to it, or "
            "leave out the split column to have splits made"
        )
    return splits[name]
