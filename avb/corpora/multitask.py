"""Combines several tasks of one corpus in one set of rows; a label that a task lacks for a clip is NaN."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from avb.corpora.rows import Corpus, add_labels
from avb.corpora.splits import SPLITS
from avb.errors import CorpusError
from avb.tasks import MISSING_CLASS, MultiTask, Task


def join(corpora: Sequence[Corpus]) -> Corpus:
    """Joins the corpora that a loader returned for several tasks, clip by clip.

    Returns:
        The multitask, and rows with float `labels`, as `MultiTask` describes them. Rows follow the order of the first
        task; clips that only later tasks have come last.

    Raises:
        CorpusError: a clip is in different splits for different tasks.
    """
    task = MultiTask(tuple(cast(Task, corpus.task) for corpus in corpora))
    _refuse_two_splits(corpora)
    joined = {}
    for split in SPLITS:
        parts = [corpus.splits[split] if split in corpus.splits else None for corpus in corpora]
        if any(part is not None for part in parts):
            joined[split] = _join_rows(task, parts)
    return Corpus(task, DatasetDict(joined), any(corpus.has_made_splits for corpus in corpora))


def _refuse_two_splits(corpora: Sequence[Corpus]):
    split_of: dict[str, str] = {}
    for corpus in corpora:
        for split, rows in corpus.splits.items():
            for clip_id in rows["id"]:
                if split_of.setdefault(clip_id, split) != split:
                    raise CorpusError(
                        f"clip {clip_id!r} is in split {split_of[clip_id]!r} for one task and in {split!r} for task "
                        f"{corpus.task.name!r}: the tables of the tasks do not belong together"
                    )


def _join_rows(task: MultiTask, parts: Sequence[Dataset | None]) -> Dataset:
    position: dict[str, int] = {}
    rows = []
    for part in parts:
        if part is not None:
            new = [index for index, clip_id in enumerate(part["id"]) if clip_id not in position]
            if new:
                rows.append(part.select(new).remove_columns("labels"))
                position |= {clip_id: len(position) + place for place, clip_id in enumerate(rows[-1]["id"])}
    columns = []
    for part_task, part in zip(task.parts, parts, strict=True):
        width = part_task.num_labels if part_task.kind == "regression" else 1
        labels = np.full((len(position), width), np.nan, np.float32)
        if part is not None:
            own = np.asarray(part["labels"][:], dtype=np.float32).reshape(len(part), width)
            if part_task.kind == "classification":
                own[own == MISSING_CLASS] = np.nan
            labels[[position[clip_id] for clip_id in part["id"]]] = own
        columns.append(labels)
    return add_labels(concatenate_datasets(rows), np.concatenate(columns, axis=1))
