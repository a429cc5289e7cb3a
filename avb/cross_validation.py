"""Cross-validation: trains one model per fold, and scores each clip with the model that was not trained on it.

    runs/mine/folds.csv                          the fold of each clip; reuse it with `--folds runs/mine/folds.csv`
              folds/0/ ...                       ordinary runs: model, predictions_test.csv of the fold, ...
              predictions_cross_validation.csv   all clips, each scored by the model of its fold
              metrics.json                       the split `cross_validation`: scores of this table, with intervals

The held-out clips have no influence on training: the last epoch is kept or, if the best epoch is requested, the best
one on a tenth of the other folds' clips. An interrupted cross-validation continues in the fold where it stopped;
finished folds are kept.
"""

import copy
import csv
import shutil
from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import IntervalStrategy
from transformers.trainer_utils import SaveStrategy

from avb.arguments import AvbTrainingArguments, DataArguments
from avb.corpora.folds import assign_folds, check_folds, cut_fold, write_folds
from avb.corpora.rows import write_run_splits
from avb.errors import AvbError
from avb.files import make_folder, write_table
from avb.metrics import defined_metric
from avb.run_files import (
    CARD,
    CONFIG,
    CROSS_VALIDATION,
    FOLDS,
    FOLDS_TABLE,
    SPLITS,
    Metrics,
    fold_path,
    predictions_path,
    read_metrics,
    write_metrics,
)
from avb.tasks import MultiTask, Task
from avb.training.checkpoints import clear, discard_all, is_finished, last_checkpoint, starting_point
from avb.training.frozen import number_rows
from avb.training.loading import Clips, load_pool
from avb.training.progress import metric_name
from avb.training.scoring import evaluate_split

HELD_OUT = "test"  # the split of a fold's held-out clips in its run
# Trains one model into `args.output_dir`: arguments, loader of its clips, run id → metrics and epochs.
TrainOne = Callable[[AvbTrainingArguments, Callable[[], Clips], str], tuple[Metrics, float | None]]


def cross_validate(
    data_args: DataArguments,
    args: AvbTrainingArguments,
    given: Container[str],
    note_run: Callable[[Clips, Dataset], str],
    train_one: TrainOne,
) -> tuple[Metrics, list, float | None]:
    """Trains and scores the models of all folds and, with `--final_model`, one model of all clips.

    Args:
        data_args: corpus and folds.
        args: of the run; `output_dir` contains all folds.
        given: the arguments set by a recipe or on the command line.
        note_run: writes the known facts of the run before it starts; returns its id. The folds have `ID.0`, ...
        train_one: trains a model.

    Returns:
        The run's metrics, the unreadable clips, and the epochs of the last model.

    Raises:
        AvbError: the folds do not fit the clips, or an error of `train_one`.
    """
    folds = str(data_args.folds)
    root, is_main = Path(str(args.output_dir)), args.process_index == 0
    _prepare(root, args)
    clips, pool = load_pool(data_args, args, data_args.final_model)
    where = str(data_args.data_dir)
    run_id = note_run(clips, pool)
    pool = number_rows(pool)
    clips = clips._replace(pool=pool)
    fold_of = _assign(root, pool, folds, args, where)
    chooses = _chooses_epoch(args, given)
    numbers = sorted(set(fold_of.tolist()))
    measured: list[Metrics] = []
    epochs = None
    for position, number in enumerate(numbers, start=1):
        folder = fold_path(root, number)
        title = f"fold {number} ({position} of {len(numbers)})"
        if args.resume and is_finished(folder):
            measured.append(read_metrics(folder))
        else:
            splits = cut_fold(pool, fold_of == number, chooses, where)
            if is_main:
                print(f"\n{title}: {len(splits['train'])} clips to train on, {len(splits[HELD_OUT])} held out")
                write_run_splits(make_folder(folder) / SPLITS, splits)
            fold_clips = clips._replace(splits=splits, bad=[])  # noted in the folder of all folds
            own = _fold_arguments(args, folder, chooses)
            metrics, epochs = train_one(own, partial(_same, fold_clips), f"{run_id}.{number}")
            measured.append(metrics)
            if is_main:
                write_metrics(folder, metrics)  # the fold is finished from here on
                if not args.keep_checkpoints:
                    discard_all(folder)
        if is_main:
            print(f"{title}: {_score_of_fold(measured[-1])}", flush=True)

    final = _train_final(data_args, args, clips, pool, chooses, run_id, train_one, where)
    metrics = final[0] if final else replace(measured[-1], train_clips=len(pool), splits={})
    seconds = sum(part.train_seconds or 0 for part in [*measured, *([final[0]] if final else [])])
    if is_main:
        outputs = _pool_predictions(root, numbers, pool, clips.task, metrics.labels)
        scores = evaluate_split(clips.task, pool, outputs) | {"fold_scores": [_fold_score(part) for part in measured]}
        metrics = replace(metrics, splits={CROSS_VALIDATION: scores, **metrics.splits})
    return replace(metrics, run_id=run_id, train_seconds=round(seconds, 1)), clips.bad, final[1] if final else epochs


def check_arguments(data_args: DataArguments, pushes: bool):
    """Checks the arguments before anything is read.

    Args:
        data_args: of the run.
        pushes: whether its model will be pushed to the Hub.

    Raises:
        AvbError: the arguments of folds contradict each other.
    """
    if data_args.folds is None:
        if data_args.final_model:
            raise AvbError("--final_model true needs --folds: without it, there is only one model anyway")
        return
    check_folds(data_args.folds)
    if data_args.fold is not None or data_args.fold_file is not None:
        raise AvbError("--folds trains a model per fold, --fold and --fold_file one of them: use one or the other")
    if pushes and not data_args.final_model:
        raise AvbError("--folds trains a model per fold, none to be pushed: --push_to_hub needs --final_model true")


def _prepare(root: Path, args: AvbTrainingArguments):
    """Raises if the folder contains another run; with `--overwrite`, its folds are deleted."""
    make_folder(root)
    starting_point(root, args.resume, args.overwrite)  # raises if it is finished
    if (root / FOLDS).exists() and not (args.resume or args.overwrite):
        raise AvbError(f"{root} contains an unfinished run: --resume true continues, --overwrite true starts over")
    if args.process_index == 0 and args.overwrite:
        clear(root)
        shutil.rmtree(root / FOLDS, ignore_errors=True)
        for name in (FOLDS_TABLE, SPLITS, CONFIG, CARD, *(path.name for path in root.glob("*.safetensors"))):
            (root / name).unlink(missing_ok=True)  # the model of an earlier run belongs to none of these folds


def _assign(root: Path, pool: Dataset, folds: str, args: AvbTrainingArguments, where: str) -> np.ndarray:
    """The fold of each clip; a resumed run keeps the folds that it started with."""
    path = root / FOLDS_TABLE
    if args.resume and path.is_file():
        return assign_folds(pool, str(path), where)
    fold_of = assign_folds(pool, folds, where)
    if args.process_index == 0:
        write_folds(path, pool["id"][:], fold_of)
    return fold_of


def _chooses_epoch(args: AvbTrainingArguments, given: Container[str]) -> bool:
    """Whether the best epoch is requested; the default of runs with validation clips does not count as a request."""
    return args.early_stopping_patience is not None or (
        "load_best_model_at_end" in given and args.load_best_model_at_end
    )


def _fold_arguments(args: AvbTrainingArguments, folder: Path, chooses: bool) -> AvbTrainingArguments:
    own = copy.copy(args)
    own.output_dir = str(folder)
    own.resume = args.resume and last_checkpoint(folder) is not None
    own.overwrite = args.resume and not own.resume  # the existing run was interrupted before its first checkpoint
    if not chooses:
        own.eval_strategy, own.load_best_model_at_end = IntervalStrategy.NO, False
        if own.save_strategy == SaveStrategy.BEST:
            own.save_strategy = SaveStrategy.EPOCH
    return own


def _train_final(
    data_args: DataArguments,
    args: AvbTrainingArguments,
    clips: Clips,
    pool: Dataset,
    chooses: bool,
    run_id: str,
    train_one: TrainOne,
    where: str,
) -> tuple[Metrics, float | None] | None:
    """Trains the model of all clips in the run's folder; if the corpus has splits of its own, with those."""
    if not data_args.final_model:
        return None
    root = Path(str(args.output_dir))
    if args.process_index == 0:
        print(f"\nmodel of all {len(pool)} clips", flush=True)
    if clips.has_made_splits or "validation" not in clips.splits:
        splits = cut_fold(pool, np.zeros(len(pool), bool), chooses, where)
        splits |= {name: split for name, split in clips.splits.items() if name == HELD_OUT}
        own = _fold_arguments(args, root, chooses)
    else:
        splits, own = DatasetDict({**clips.splits, "train": pool}), _fold_arguments(args, root, chooses=True)
    if args.process_index == 0:
        write_run_splits(root / SPLITS, splits)  # so that later commands know these clips
    return train_one(own, partial(_same, clips._replace(splits=splits)), run_id)


def _same(clips: Clips) -> Clips:
    return clips


def _pool_predictions(
    root: Path, numbers: list[int], pool: Dataset, task: Task | MultiTask, labels: list[str]
) -> np.ndarray:
    """Writes the predictions of all folds to one table; returns the outputs (clips, labels) in the pool's order."""
    rows: dict[str, dict] = {}
    for number in numbers:
        with open(predictions_path(fold_path(root, number), HELD_OUT), newline="", encoding="utf-8") as file:
            rows |= {row["id"]: {"id": row.pop("id"), "fold": number, **row} for row in csv.DictReader(file)}
    ids = pool["id"][:]
    missing = [clip_id for clip_id in ids if clip_id not in rows]
    if missing:
        raise AvbError(f"{root}: no fold has scored {missing[0]!r} (and {len(missing) - 1} more): --overwrite true")
    ordered = [rows[clip_id] for clip_id in ids]
    write_table(predictions_path(root, CROSS_VALIDATION), ordered, list(ordered[0]))
    outputs = np.array([[float(row[label]) for label in labels] for row in ordered])
    # Six decimals cannot distinguish nearly equal probabilities: make sure that the predicted class is the highest.
    for part, place in _classifications(task):
        column = f"prediction_{part.name}" if isinstance(task, MultiTask) else "prediction"
        index_of = {label: place.start + index for index, label in enumerate(labels[place])}
        outputs[np.arange(len(ids)), [index_of[row[column]] for row in ordered]] += 1
    return outputs


def _classifications(task: Task | MultiTask) -> list[tuple[Task, slice]]:
    found, start = [], 0
    for part in task.parts if isinstance(task, MultiTask) else (task,):
        if part.kind == "classification":
            found.append((part, slice(start, start + part.num_labels)))
        start += part.num_labels
    return found


def _fold_score(metrics: Metrics) -> float | None:
    scores = metrics.splits[HELD_OUT]
    return scores.get(defined_metric(scores, metrics.metric))


def _score_of_fold(metrics: Metrics) -> str:
    score, scores = _fold_score(metrics), metrics.splits[HELD_OUT]
    if score is None:
        return scores["note"]
    return f"{metric_name(metrics.metric)} {score:.3f} ({scores['num_clips']} clips)"
