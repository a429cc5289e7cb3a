"""Rows of a corpus: one shape for all, `id`, `audio`, `labels`, and what the corpus knows."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value

from avb.corpora.splits import SPLITS
from avb.errors import CorpusError
from avb.tasks import Task

# Not datasets.Audio: that needs torchcodec even to hold a path. avb.audio.load_audio decodes either field, when asked.
AUDIO_FEATURE = {"bytes": Value("binary"), "path": Value("string")}


class Corpus(NamedTuple):
    """What a loader returns.

    Attributes:
        task: what the rows' `labels` mean.
        splits: of train, validation and test those that exist; rows have `id`, `audio` (bytes and path), `labels`,
            and what the corpus knows (`speaker`, `country`, `category`, ...).
    """

    task: Task
    splits: DatasetDict


def build_splits(
    task: Task,
    ids: Sequence[str],
    paths: Sequence[str | Path],
    labels: np.ndarray,
    split_of: Sequence[str],
    **known: Sequence[str],
) -> DatasetDict:
    """Rows to a `DatasetDict`, in the order given, with the splits that have rows.

    Args:
        task: decides the type of `labels`.
        ids: of the clips.
        paths: of their audio files.
        labels: (clips, labels) float32 or (clips,) int64.
        split_of: each clip's split.
        **known: more string columns, such as `speaker`.
    """
    known_features = {name: Value("string") for name in known}
    features = Features(
        {"id": Value("string"), "audio": AUDIO_FEATURE, "labels": labels_feature(task)} | known_features
    )
    columns = {
        "id": np.asarray(ids, object),
        "audio": np.asarray([{"bytes": None, "path": str(path)} for path in paths], object),
        "labels": labels,
        **{name: np.asarray(values, object) for name, values in known.items()},
    }
    split_of = np.asarray(split_of)
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {name: list(column[split_of == split]) for name, column in columns.items()}, features=features
            )
            for split in SPLITS
            if (split_of == split).any()
        }
    )


def labels_feature(task: Task) -> Value | List:
    """The type of a row's `labels`."""
    return List(Value("float32")) if task.kind == "regression" else Value("int64")


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
