"""Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531): training labels mixed with the scores of other models.

Several teachers are averaged. This module uses tables of their scores for the unchanged clips:

    python predict_avb.py runs/teacher --corpus emogator --data_dir ROOT --split train --output teacher.parquet
    python train_avb.py RECIPE --data_dir ROOT --teachers teacher.parquet --teacher_weight 0.7

Teachers that score each clip as the student receives it are in `avb.training.teachers`.
"""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from avb.corpora.tables import read_table
from avb.corpus_arguments import TABLE_SUFFIXES
from avb.errors import AvbError
from avb.tasks import MISSING_CLASS, MultiTask, Task


def soften(train: Dataset, task: Task | MultiTask, teachers: Sequence[str], weight: float) -> Dataset:
    """Replaces labels by (1 - weight) × label + weight × the mean of the teachers' scores.

    Args:
        train: decoded rows with `id` and `labels`.
        task: what the labels mean.
        teachers: tables of predict_avb.py (CSV or Parquet) with a column `id` and one per label. Without tables,
            labels keep their values, but classes become rows of probabilities.
        weight: in [0, 1]; 1 ignores the clips' own labels.

    Returns:
        The rows with `labels` of (labels,) floats: probabilities of the classes, or scores. A missing label of a clip
        is replaced by the teachers'.

    Raises:
        AvbError: there are several tasks, the weight is out of range, or a table is unreadable or incomplete.
    """
    if isinstance(task, MultiTask):
        raise AvbError(f"--teachers and --augment mixup need labels of one task, not of {task.name}: give one --task")
    check_weight(weight)
    labels = rated_rows(task, train) if "ratings" in train.column_names else label_rows(task, train["labels"][:])
    if teachers:
        scores = np.mean([_read_scores(Path(teacher), train["id"][:], task) for teacher in teachers], axis=0)
        labels = blend(torch.from_numpy(labels), torch.from_numpy(scores), weight).numpy()
    columns = [train.remove_columns("labels"), Dataset.from_dict({"labels": labels})]
    return datasets.concatenate_datasets(columns, axis=1).with_format(
        "numpy", columns=["input_values"], output_all_columns=True
    )


def are_models(teachers: Sequence[str]) -> bool:
    """Whether all teachers are models; otherwise all are tables.

    Raises:
        AvbError: there are models and tables.
    """
    tables = [teacher for teacher in teachers if Path(teacher).suffix.lower() in TABLE_SUFFIXES]
    if tables and len(tables) < len(teachers):
        raise AvbError(
            f"--teachers are both models and tables ({tables[0]}): give only models, or let each of them score the "
            "train split (predict_avb.py --split train) and give tables only"
        )
    return bool(teachers) and not tables


def blend(labels: torch.Tensor, scores: torch.Tensor, weight: float) -> torch.Tensor:
    """Blends labels and teachers' scores, (clips, labels) each; a missing label is replaced by the teachers'."""
    return torch.where(labels.isnan(), scores, (1 - weight) * labels + weight * scores)


def check_weight(weight: float):
    if not 0 <= weight <= 1:
        raise AvbError(f"--teacher_weight {weight:g} is out of range: give 0 to 1")


def label_rows(task: Task, labels) -> np.ndarray:
    """Labels as (clips, labels) floats, NaN if missing; a class becomes the probability 1."""
    labels = np.asarray(labels)
    if labels.ndim == 2:
        return labels.astype(np.float32)
    rows = np.eye(task.num_labels, dtype=np.float32)[labels.clip(min=0)]
    rows[labels == MISSING_CLASS] = np.nan
    return rows


def rated_rows(task: Task, train: Dataset) -> np.ndarray:
    """Labels like `label_rows`: for classes, the fraction of raters who chose each; for scores, their mean."""
    if task.kind == "regression":
        return label_rows(task, train["labels"][:])
    one_hot = [label_rows(task, ratings) for ratings in train["ratings"][:]]  # (raters, classes) each
    known = [rows[~np.isnan(rows).any(axis=1)] for rows in one_hot]
    missing = np.full(task.num_labels, np.nan, np.float32)
    return np.stack([rows.mean(axis=0) if len(rows) else missing for rows in known])


def _read_scores(path: Path, ids: Sequence[str], task: Task) -> np.ndarray:
    """(clips, labels) scores of the clips, in their order."""
    table = read_table(path)
    lacking = [column for column in ("id", *task.labels) if column not in table.cells.columns]
    if lacking:
        raise AvbError(
            f"{path}: no column {lacking[0]!r}; --teachers takes what predict_avb.py writes for {task.name!r}"
        )
    cells = table.cells.drop_duplicates("id", keep="last").set_index("id")
    unknown = [clip for clip in ids if clip not in cells.index]
    if unknown:
        raise AvbError(
            f"{path}: no scores of {len(unknown)} of {len(ids)} train clips, such as {unknown[0]!r}; have the teacher "
            "score the train split (predict_avb.py --split train)"
        )
    scores = cells.loc[list(ids), list(task.labels)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    if np.isnan(scores).any():
        raise AvbError(f"{path}: a score of clip {ids[int(np.isnan(scores).any(1).argmax())]!r} is not a number")
    return scores
