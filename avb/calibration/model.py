"""Fits `calibration.json` of a saved model on a split of a corpus that the model was not trained on."""

from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from audio_avb import AudioError
from avb.calibration.fit import calibrate_task
from avb.errors import AvbError
from avb.files import write_text
from avb.inference.calibrated import find_calibration
from avb.inference.engines import ExportedModel
from avb.inference.load import load_model
from avb.inference.run_corpus import corpus_of_run
from avb.inference.score import score_clips
from avb.metrics import has_label, units_of_clips
from avb.models import locate
from avb.tasks import MultiTask, Task
from calibration_avb import CALIBRATION_FILE, Calibration, TaskCalibration, weights_fingerprint

FEWEST_CLIPS = 100  # with fewer, the threshold for 90 % depends on fewer than about ten clips


def calibrate(
    model: str,
    data_dir: str | Path,
    *,
    corpus: str = "folder",
    task: str | None = None,
    split: str = "validation",
    device: str = "auto",
    num_decode_workers: int = 2,
    strict: bool = False,
    **options: Any,
) -> Calibration:
    """Fits a model's calibration and writes it into its folder.

    Args:
        model: a folder written by train_avb.py, or a model shipped with the project.
        data_dir: the corpus, as in training; on a run's own corpus, the run's splits are used.
        corpus: folder, emogator or hume_vb.
        task: the task, if the corpus has several.
        split: a split with speakers that the model was not trained on; train is refused.
        device: the model's device.
        num_decode_workers: number of threads that decode audio.
        strict: raise an error for an unreadable clip instead of leaving it out.
        **options: options of the corpus's `load` function, such as `label_columns`.

    Raises:
        AvbError: the model or the corpus cannot be read, the model is not a folder, its labels differ from those of the
            corpus, or fewer than 100 clips have labels.
    """
    folder = Path(locate(model))
    if not folder.is_dir():
        raise AvbError(f"{model}: give the model's folder, where {CALIBRATION_FILE} will be written")
    if split == "train":
        raise AvbError("--split train: a calibration on training clips says nothing about other clips; use validation")
    clips = corpus_of_run(model, corpus, str(data_dir), task, split, options)
    the_task, rows = clips.labelled()
    loaded, feature_extractor = load_model(model, device)
    if isinstance(loaded, ExportedModel):
        raise AvbError(f"{model}: this is an export; calibrate the original model and export it again")
    order = _outputs(model, loaded.config, the_task)

    scores, kept = [], []
    found = score_clips(loaded, feature_extractor, clips.clips(), num_workers=num_decode_workers)
    for position, (_, clip_scores) in enumerate(tqdm(found, total=len(rows), desc=split, unit="clip", disable=None)):
        if not isinstance(clip_scores, AudioError):
            scores.append(clip_scores[order])
            kept.append(position)
        elif strict:
            raise clip_scores
    rows = rows.select(kept)
    units = units_of_clips(rows)
    num_speakers = len(set(units.names)) if units.names and units.kind == "speaker" else None
    tasks = {}
    for name, part, labels, outputs in _parts(the_task, np.asarray(rows["labels"][:]), np.array(scores, np.float64)):
        tasks[name] = _calibrate_task(str(data_dir), part, labels, outputs, units.names)
    known = find_calibration(str(folder), weights_fingerprint(loaded.named_parameters()))
    calibration = Calibration(
        burst=known.burst if known else None,  # fitted on recordings, see avb.events.rejection
        weights=weights_fingerprint(loaded.named_parameters()),
        tasks=tasks,
        fitted_on={"split": split, "clips": len(rows), "speakers": num_speakers},
    )
    write_text(folder / CALIBRATION_FILE, calibration.to_json())
    return calibration


def _calibrate_task(where: str, task: Task, labels: np.ndarray, scores: np.ndarray, speakers) -> TaskCalibration:
    labelled = has_label(task, labels)
    if labelled.sum() < FEWEST_CLIPS:
        raise AvbError(
            f"{where}: {labelled.sum()} clips have labels of {task.name}, but a calibration needs {FEWEST_CLIPS}; "
            "use a larger split (--split)"
        )
    # The logarithm of a probability is the logit minus a constant that is the same for all labels.
    logits = np.log(np.maximum(scores, 1e-12)) if task.kind == "classification" else scores
    known = None if speakers is None else [name for name, has in zip(speakers, labelled, strict=True) if has]
    return calibrate_task(task, logits[labelled], labels[labelled], known)


def _parts(task: Task | MultiTask, labels: np.ndarray, scores: np.ndarray):
    """For each part: its name in the file, task, labels and scores."""
    if not isinstance(task, MultiTask):
        return [("", task, labels, scores)]
    names = [part.name for part in task.parts]
    return list(zip(names, task.parts, task.targets(labels), task.outputs(scores), strict=True))


def _outputs(model: str, config, task: Task | MultiTask) -> list[int]:
    """Indices of the model's outputs, in the order of the corpus's labels."""
    outputs = [config.id2label[index] for index in range(config.num_labels)]
    if sorted(outputs) != sorted(task.labels) or (isinstance(task, MultiTask) and outputs != list(task.labels)):
        unknown = sorted(set(task.labels) ^ set(outputs))
        raise AvbError(
            f"{model}: its labels differ from those of the corpus, such as {unknown[0] if unknown else outputs[0]!r}; "
            "give the labels it was trained on (--label_columns, --task)"
        )
    return [outputs.index(label) for label in task.labels]
