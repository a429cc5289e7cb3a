"""Train labels softened by what other models say of the same clips: knowledge distillation (Hinton et al. 2015,
arXiv:1503.02531). Several teachers are averaged.

    python train_avb.py RECIPE --data_dir ROOT --teachers runs/teacher emogator-cnn --teacher_weight 0.7

Teachers are models, which hear each clip just as the student does, its random changes included ("function matching",
Beyer et al. 2022, arXiv:2106.05237); or, for those of another input, tables of their scores of the clips as recorded:

    python predict_avb.py runs/teacher --corpus emogator --data_dir ROOT --split train --output teacher.parquet
    python train_avb.py RECIPE --data_dir ROOT --teachers teacher.parquet --teacher_weight 0.7

A run with `--folds` teaches by all of its models: each clip is judged by the one that never heard its speaker. What a
model says of clips that it was trained on is too sure, and tells a student little that the labels do not.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from avb.corpora.folds import assign_folds
from avb.corpora.tables import read_table
from avb.corpus_arguments import TABLE_SUFFIXES
from avb.errors import AvbError
from avb.inference.load import load_model
from avb.run_files import FOLDS, FOLDS_TABLE
from avb.tasks import MISSING_CLASS, MultiTask, Task
from feature_extraction_avb import VocalBurstFeatureExtractor

FOLDS_COLUMN = "folds"  # of train rows and batches, (teachers,) each
# Of a feature extractor: what a waveform is made of it for a model.
_WAVEFORM_SETTINGS = ("sampling_rate", "do_normalize", "peak_db", "trim_top_db")


def soften(train: Dataset, task: Task | MultiTask, teachers: Sequence[str], weight: float) -> Dataset:
    """Rows whose labels are (1 - weight) × their own + weight × the mean of the teachers' scores.

    Args:
        train: decoded rows with `id` and `labels`.
        task: what the labels mean.
        teachers: tables of predict_avb.py (CSV or Parquet): a column `id` and one a label. With none the labels are as
            they were, but those of classes are rows of probabilities.
        weight: in [0, 1]; 1 leaves the clips' own labels out.

    Returns:
        The rows with `labels` of (labels,) floats: probabilities of the classes, or scores. Where a clip lacks a label,
        it is the teachers'.

    Raises:
        AvbError: several tasks, a weight out of range, or a table that cannot be read, or lacks a label or a clip.
    """
    if isinstance(task, MultiTask):
        raise AvbError(f"--teachers and --augment mixup need labels of one task, not of {task.name}: give one --task")
    _check_weight(weight)
    labels = rated_rows(task, train) if "ratings" in train.column_names else label_rows(task, train["labels"][:])
    if teachers:
        scores = np.mean([_read_scores(Path(teacher), train["id"][:], task) for teacher in teachers], axis=0)
        labels = _blend(torch.from_numpy(labels), torch.from_numpy(scores), weight).numpy()
    columns = [train.remove_columns("labels"), Dataset.from_dict({"labels": labels})]
    return datasets.concatenate_datasets(columns, axis=1).with_format(
        "numpy", columns=["input_values"], output_all_columns=True
    )


class ModelTeachers:
    """Models that say what the labels of each train batch are.

    Args:
        names: models in torch: folders, shipped models or names on the Hub.
        task: of the student, and of each of them.
        feature_extractor: the student's; theirs must make the same waveforms of a clip.
        weight: of the teachers in a label, in [0, 1].
        device: where they run.

    Raises:
        AvbError: a weight out of range, no such model, or one of other labels or another input.
    """

    def __init__(
        self, names: Sequence[str], task: Task | MultiTask, feature_extractor, weight: float, device: torch.device
    ):
        _check_weight(weight)
        self.weight = weight
        self.teachers = [_load_fold_teachers(name, task, feature_extractor, device) for name in names]

    @torch.no_grad()
    def soften(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The labels (batch, labels) of a batch of waveforms that has `labels`, as `soften` makes them of rows.

        With teachers of folds it has `folds` (batch, teachers) too, see `with_folds`.
        """
        inputs = {name: values for name, values in batch.items() if name not in ("labels", FOLDS_COLUMN)}
        scores = torch.stack([self._judge(position, inputs, batch) for position in range(len(self.teachers))]).mean(0)
        return _blend(batch["labels"], scores, self.weight)

    def _judge(self, position: int, inputs: dict, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        models = self.teachers[position]
        if None in models:
            return _scores(models[None], inputs)
        folds = batch[FOLDS_COLUMN][:, position]
        scores = torch.empty_like(batch["labels"])
        for fold in folds.unique().tolist():
            rows = folds == fold
            scores[rows] = _scores(models[fold], {name: values[rows] for name, values in inputs.items()})
        return scores


def with_folds(train: Dataset, teachers: Sequence[str]) -> Dataset:
    """Rows with `folds`: for each teacher the fold of the clip, -1 of one that is no run with folds.

    Raises:
        CorpusError: a clip is in no fold of such a run.
    """
    if not any(map(_has_folds, teachers)):
        return train
    columns = [
        assign_folds(train, str(Path(teacher) / FOLDS_TABLE), teacher)
        if _has_folds(teacher)
        else np.full(len(train), -1)
        for teacher in teachers
    ]
    return datasets.concatenate_datasets(
        [train, Dataset.from_dict({FOLDS_COLUMN: np.stack(columns, axis=1).tolist()})], axis=1
    ).with_format("numpy", columns=["input_values"], output_all_columns=True)


def are_models(teachers: Sequence[str]) -> bool:
    """Whether all of them are models; else all are tables.

    Raises:
        AvbError: there are both.
    """
    tables = [teacher for teacher in teachers if Path(teacher).suffix.lower() in TABLE_SUFFIXES]
    if tables and len(tables) < len(teachers):
        raise AvbError(
            f"--teachers are models and tables ({tables[0]}): give models only, or have each of them score the train "
            "split (predict_avb.py --split train) and give tables only"
        )
    return bool(teachers) and not tables


def _has_folds(name: str) -> bool:
    return (Path(name) / FOLDS_TABLE).is_file() and (Path(name) / FOLDS).is_dir()


def _load_fold_teachers(
    name: str, task: Task | MultiTask, feature_extractor, device: torch.device
) -> dict[int | None, PreTrainedModel]:
    """The model of each fold of a run; of any other teacher one, under None."""
    if not _has_folds(name):
        return {None: _load_teacher(name, task, feature_extractor, device)}
    folders = {int(path.name): path for path in (Path(name) / FOLDS).iterdir() if path.name.isdecimal()}
    return {fold: _load_teacher(str(path), task, feature_extractor, device) for fold, path in sorted(folders.items())}


def _load_teacher(name: str, task: Task | MultiTask, feature_extractor, device: torch.device) -> PreTrainedModel:
    model, own = load_model(name, str(device))
    if not isinstance(model, PreTrainedModel):
        raise AvbError(f"--teachers {name}: an export cannot teach; give the model that it was made of")
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if labels != list(task.labels):
        raise AvbError(
            f"--teachers {name}: its labels are {', '.join(labels):.200}, not those of task {task.name!r} "
            f"({', '.join(task.labels):.200})"
        )
    if not (isinstance(own, VocalBurstFeatureExtractor) and isinstance(feature_extractor, VocalBurstFeatureExtractor)):
        raise AvbError(
            f"--teachers {name}: teacher and student do not hear the same input; have it score the train split "
            "(predict_avb.py --split train) and give the table"
        )
    for setting in _WAVEFORM_SETTINGS:
        if (theirs := getattr(own, setting)) != (ours := getattr(feature_extractor, setting)):
            raise AvbError(
                f"--teachers {name}: it was trained with {setting} {theirs}, and here that is {ours}: change it, or "
                "have the teacher score the train split (predict_avb.py --split train) and give the table"
            )
    return model


def _scores(model: PreTrainedModel, inputs: dict) -> torch.Tensor:
    logits = model(**inputs).logits.float()
    return logits.softmax(-1) if model.config.loss == "ce" else logits


def _blend(labels: torch.Tensor, scores: torch.Tensor, weight: float) -> torch.Tensor:
    """(clips, labels) each; where a label is missing, it is the teachers'."""
    return torch.where(labels.isnan(), scores, (1 - weight) * labels + weight * scores)


def _check_weight(weight: float):
    if not 0 <= weight <= 1:
        raise AvbError(f"--teacher_weight {weight:g} is out of range: give 0 to 1")


def label_rows(task: Task, labels) -> np.ndarray:
    """Labels as (clips, labels) floats, NaN where missing; of a class, the probability 1."""
    labels = np.asarray(labels)
    if labels.ndim == 2:
        return labels.astype(np.float32)
    rows = np.eye(task.num_labels, dtype=np.float32)[labels.clip(min=0)]
    rows[labels == MISSING_CLASS] = np.nan
    return rows


def rated_rows(task: Task, train: Dataset) -> np.ndarray:
    """Labels as `label_rows`: of a class, the share of its raters who chose it; of a score their mean, as it is."""
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
        raise AvbError(f"{path}: a score of clip {ids[int(np.isnan(scores).any(1).argmax())]!r} is no number")
    return scores
