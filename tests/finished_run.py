"""Folders as `train_avb.py` leaves them, made without training: a tiny model, and metrics of made-up predictions.

All that is measured is measured by the project's own functions; only the predictions are random.
"""

from pathlib import Path

import numpy as np
import torch
import yaml
from conftest import ENCODER_SHAPES, TINY
from datasets import Dataset
from tiny import LOSSES, tiny_model

from avb.baselines import BASELINES
from avb.cards.hub_folder import save_hub_folder
from avb.files import write_json
from avb.metrics import evaluate_predictions
from avb.run_files import RECIPE as RECIPE_FILE
from avb.run_files import TRAIN_SET, VERSIONS, Metrics, describe_tasks, write_metrics
from avb.tasks import TASKS, MultiTask, Task
from avb.training.start import describe_clips
from feature_extraction_avb import VocalBurstFeatureExtractor

RECIPE = {"corpus": "emogator", "data_dir": "/home/anna/secret/emogator", "encoder": "BASE", "freeze": "encoder"}
# What a run leaves beside its model, and what must never leave the machine.
STAY_AT_HOME = ("checkpoint-7/optimizer.pt", "checkpoint-7/model.safetensors", "training_args.bin", "notes.txt")


def make_run(
    folder: Path,
    task: Task | MultiTask = TASKS["two"],
    recipe: dict = RECIPE,
    corpus: str = "emogator",
    baseline: str | None = None,
    seed: int = 0,
) -> Path:
    """A finished run: validation is scored, by speaker, and the labels of test are withheld."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    if baseline:
        model, feature_extractor = BASELINES[baseline](task)
    else:
        parts = task.parts if isinstance(task, MultiTask) else ()
        tasks = [{"name": part.name, "loss": LOSSES[part.kind], "num_labels": part.num_labels} for part in parts]
        shape = {**TINY, **ENCODER_SHAPES["BASE"], "num_hidden_layers": 2, "encoder_layer": 2, "rnn_hidden_size": 8}
        model = tiny_model(task, shape, seed=seed, tasks=tasks or None)
        feature_extractor = VocalBurstFeatureExtractor(peak_db=-3.0)
    save_hub_folder(model, feature_extractor, folder)
    metrics = Metrics(
        task=task.name,
        metric=task.metric,
        labels=list(task.labels),
        run_id=f"20240131-154502-{seed:06x}",
        corpus=corpus,
        seed=seed,
        train_clips=230,
        train_seconds=1234.5,
        tasks=describe_tasks(task),
        splits={"validation": random_scores(task, seed), "test": {"num_clips": 0, "note": "labels are withheld"}},
    )
    write_metrics(folder, metrics)
    write_json(folder / TRAIN_SET, describe_clips(task, random_clips(task, seed)))
    write_json(folder / VERSIONS, {"commit": "0123abc", "python": "3.11.7", "torch": "2.13.0+cpu"})
    (folder / RECIPE_FILE).write_text(yaml.safe_dump(recipe, sort_keys=False))
    for name in STAY_AT_HOME:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\x80\x04 not for the Hub")
    return folder


def random_scores(task: Task | MultiTask, seed: int) -> dict:
    """What `metrics.json` has of a split of 230 clips of 9 speakers."""
    rng = np.random.default_rng(seed)
    speakers = rng.integers(9, size=230).tolist()
    y_true, y_pred = random_predictions(task, rng)
    return evaluate_predictions(task, y_true, y_pred, speakers)


def random_clips(task: Task | MultiTask, seed: int) -> Dataset:
    """Train clips of 9 speakers, 0.1 to 4 s long."""
    rng = np.random.default_rng(seed)
    labels, _ = random_predictions(task, rng)
    num_samples = rng.integers(1_600, 64_000, size=len(labels))
    speakers = [f"s{number}" for number in rng.integers(9, size=len(labels))]
    return Dataset.from_dict({"labels": labels, "num_samples": num_samples, "speaker": speakers})


def random_predictions(task: Task | MultiTask, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(task, MultiTask):
        columns = []
        for part in task.parts:
            true, pred = random_predictions(part, rng)
            if part.kind == "classification":  # a column with the class, and logits
                true, pred = true[:, None].astype(float), np.eye(part.num_labels)[pred]
            columns.append((true, pred))
        return tuple(np.concatenate(arrays, axis=1) for arrays in zip(*columns, strict=True))
    if task.kind == "classification":
        y_true, y_pred = rng.integers(task.num_labels, size=230), rng.integers(task.num_labels, size=230)
        y_pred[::3] = y_true[::3]
    else:
        y_true = rng.random((230, task.num_labels))
        y_pred = 0.5 * y_true + 0.5 * rng.random((230, task.num_labels))
    return y_true, y_pred
