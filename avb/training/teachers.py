"""Teacher models that score each training batch exactly as the student receives it.

    python train_avb.py RECIPE --data_dir ROOT --teachers runs/teacher emogator-cnn --teacher_weight 0.7

Teachers receive the same augmented audio as the student ("function matching", Beyer et al. 2022, arXiv:2106.05237), but
each with its own preparation: at the level it was trained with, normalised or not, and with its own features, such as a
log-mel spectrogram or openSMILE functionals. So a Whisper model can teach a wav2vec 2.0 model, and that can teach a
small CNN. All models of a run with `--folds` can be the teacher: each clip is scored by the model that was not trained
on its speaker. This matters because a model is overconfident on its own training clips, so its scores for them add
little to the labels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.utils import is_torch_bf16_gpu_available

from audio_avb import SAMPLING_RATE, check_views, set_peak, speed_views
from avb.corpora.folds import assign_folds, fold_numbers
from avb.errors import AvbError
from avb.inference.load import load_model
from avb.run_files import CONFIG, FOLDS_TABLE, fold_path
from avb.tasks import MultiTask, Task
from avb.training.distillation import blend, check_weight
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import VocalBurstModel

FOLDS_COLUMN = "folds"  # of train rows and batches, (teachers,) each


class Teacher:
    """One teacher model, with the conversion of the student's input to its own.

    If both have the same preparation, it reads the student's batch unchanged. Otherwise each clip is set to
    the teacher's peak level and passed through its feature extractor. (A student that normalises has subtracted the
    mean; unless a recording has an offset, this hardly changes it.)

    Args:
        name: a model in torch: a folder, a shipped model or a name on the Hub.
        task: of the student; the teacher must have the same labels.
        heard: the feature extractor of the student.
        device: where it runs.

    Raises:
        AvbError: the model does not exist, its labels differ, or its input cannot be computed from the student's: only
            one of them trims, or the recorded level is needed but lost.
    """

    def __init__(self, name: str, task: Task | MultiTask, heard, device: torch.device):
        self.model, self.own = load_model(name, str(device))
        if isinstance(self.model, VocalBurstModel):
            self.model.to(teaching_dtype(device))
        _check_labels(name, self.model, task)
        way = "have it score the train split (predict_avb.py --split train) and give the table"
        if not isinstance(heard, VocalBurstFeatureExtractor):
            raise AvbError(f"--teachers {name}: this student reads features, which teachers cannot use; {way}")
        if self.own.trim_top_db != heard.trim_top_db:
            raise AvbError(
                f"--teachers {name}: it was trained with trim_top_db {self.own.trim_top_db}, and here that is "
                f"{heard.trim_top_db}: change it, or {way}"
            )
        reads_waveforms = isinstance(self.own, VocalBurstFeatureExtractor)
        normalises = reads_waveforms and self.own.do_normalize
        self.is_like_student = (
            reads_waveforms and normalises == heard.do_normalize and self.own.peak_db == heard.peak_db
        )
        has_level = heard.peak_db is None and not heard.do_normalize
        if self.own.peak_db is None and not (normalises or has_level):
            raise AvbError(
                f"--teachers {name}: it hears clips at the level they were recorded at (peak_db none), which this "
                f"student's are no longer at: add --peak_db none --waveform_normalization none, or {way}"
            )

    def scores(self, inputs: Mapping[str, torch.Tensor], views: int) -> torch.Tensor:
        """(batch, labels) of a batch of the student's `input_values` and `attention_mask`, both (batch, samples).

        With several `views` (`audio_avb.speed_views`), their mean.
        """
        if self.is_like_student and views == 1:
            return self._scores(inputs)
        waveforms = inputs["input_values"].float().cpu().numpy()
        counts = inputs["attention_mask"].sum(1).tolist()
        clips = [waveform[:count] for waveform, count in zip(waveforms, counts, strict=True)]
        if not self.is_like_student and self.own.peak_db is not None:
            clips = [set_peak(clip, self.own.peak_db) for clip in clips]
        by_view = zip(*(speed_views(clip, views) for clip in clips), strict=True)
        return torch.stack([self._scores(self._read(list(view))) for view in by_view]).mean(0)

    def _read(self, clips: list[np.ndarray]) -> Mapping[str, torch.Tensor]:
        settings = {"padding": True, "return_attention_mask": True, "return_tensors": "pt", "prepared": True}
        return self.own(clips, sampling_rate=SAMPLING_RATE, **settings).to(self.model.device)

    def _scores(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """As `scores_from_logits`, for which the host would wait for the device, in every step."""
        inputs = {**inputs, "input_values": inputs["input_values"].to(self.model.dtype)}
        logits = self.model(**inputs).logits.float()
        return logits.softmax(-1) if self.model.config.loss == "ce" else logits


class ModelTeachers:
    """Teacher models that soften the labels of each training batch.

    Args:
        names: models in torch: folders, shipped models or names on the Hub.
        task: of the student, and of each of them.
        feature_extractor: the student's.
        weight: of the teachers' scores in a label, in [0, 1].
        device: on which they run.
        views: of each clip, whose scores are averaged; see `audio_avb.speed_views`.

    Raises:
        AvbError: the weight or the number of views is out of range, or an error of `Teacher`.
    """

    def __init__(
        self,
        names: Sequence[str],
        task: Task | MultiTask,
        feature_extractor,
        weight: float,
        device: torch.device,
        views: int = 1,
    ):
        check_weight(weight)
        check_views(views, "--teacher_views")
        self.weight, self.views = weight, views
        self.teachers = [_load_teachers(name, task, feature_extractor, device) for name in names]

    @torch.no_grad()
    def soften(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Softens the labels (batch, labels) of a batch of waveforms, like `soften` for rows.

        With teachers trained in folds, the batch also has `folds` (batch, teachers), see `with_folds`.
        """
        inputs = {name: values for name, values in batch.items() if name not in ("labels", FOLDS_COLUMN)}
        scores = torch.stack([self._judge(position, inputs, batch) for position in range(len(self.teachers))]).mean(0)
        return blend(batch["labels"], scores, self.weight)

    def _judge(self, position: int, inputs: dict, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        models = self.teachers[position]
        if None in models:
            return models[None].scores(inputs, self.views)
        folds = batch[FOLDS_COLUMN][:, position]
        scores = torch.empty_like(batch["labels"])
        for fold in folds.unique().tolist():
            rows = folds == fold
            scores[rows] = models[fold].scores({name: values[rows] for name, values in inputs.items()}, self.views)
        return scores


def teaching_dtype(device: torch.device) -> torch.dtype:
    """Of a teacher with a speech encoder: bfloat16 on a GPU that has it; scores differ by some thousandths."""
    is_there = device.type == "cuda" and is_torch_bf16_gpu_available()
    return torch.bfloat16 if is_there else torch.float32


def with_folds(train: Dataset, teachers: Sequence[str]) -> Dataset:
    """Adds `folds` to rows: for each teacher, the clip's fold; -1 for a teacher without folds.

    Raises:
        CorpusError: a clip is in none of a run's folds.
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


def _has_folds(name: str) -> bool:
    """Whether it is a cross-validation; one whose folds were deleted is too, so that its final model is not asked
    about clips that it was trained on."""
    return (Path(name) / FOLDS_TABLE).is_file()


def _load_teachers(
    name: str, task: Task | MultiTask, feature_extractor, device: torch.device
) -> dict[int | None, Teacher]:
    """The models of a teacher by fold; a teacher without folds has one model, with the key None.

    Raises:
        AvbError: a fold has no model, or an error of `Teacher`.
    """
    if not _has_folds(name):
        return {None: Teacher(name, task, feature_extractor, device)}
    folders = {fold: fold_path(name, fold) for fold in fold_numbers(Path(name) / FOLDS_TABLE)}
    for fold, folder in folders.items():
        if not (folder / CONFIG).is_file():
            raise AvbError(
                f"--teachers {name}: fold {fold} has no model in {folder}; finish this cross-validation first (its own "
                "command with --resume true)"
            )
    return {fold: Teacher(str(folder), task, feature_extractor, device) for fold, folder in folders.items()}


def _check_labels(name: str, model, task: Task | MultiTask):
    if not isinstance(model, PreTrainedModel):
        raise AvbError(f"--teachers {name}: an export cannot be a teacher; give the original model")
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if labels != list(task.labels):
        raise AvbError(
            f"--teachers {name}: its labels are {', '.join(labels):.200}, not those of task {task.name!r} "
            f"({', '.join(task.labels):.200})"
        )
