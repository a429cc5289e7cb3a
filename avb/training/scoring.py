"""Scores a trained model on a split: predictions on disk, metrics with intervals, and a summary for the terminal."""

import shlex
from pathlib import Path

import numpy as np
from datasets import Dataset

from audio_avb import SAMPLING_RATE
from avb.files import write_table
from avb.inference.score import score_columns, score_row
from avb.metrics import defined_metric, evaluate_predictions, has_label, rater_agreement, units_of_clips
from avb.run_files import BAD_CLIPS, Metrics, predictions_path
from avb.tasks import MultiTask, Task
from avb.training.trainer import BurstTrainer
from pipeline_avb import scores_from_logits


def score_split(trainer: BurstTrainer, task: Task | MultiTask, name: str, split: Dataset, output_dir: Path) -> dict:
    """Writes `predictions_NAME.csv`; returns the split's metrics, or a note that its labels are withheld.

    `seconds` is the duration of a clip after trimming.
    """
    logits = trainer.predict(split, metric_key_prefix=name).predictions  # (clips, labels), on every process
    labels = np.asarray(split["labels"])
    config = trainer.accelerator.unwrap_model(trainer.model).config
    known = {column: split[column] for column in ("speaker", "group", "country") if column in split.column_names}
    if "seconds" not in config.label2id:
        known["seconds"] = [round(samples / SAMPLING_RATE, 4) for samples in split["num_samples"]]
    if trainer.is_world_process_zero():
        clips = zip(split["id"], scores_from_logits(logits, config), labels, strict=True)
        extras = zip(*known.values(), strict=True) if known else ([] for _ in labels)
        rows = (
            {
                "id": clip,
                **dict(zip(known, extra, strict=True)),
                **score_row(scores, config),
                **_true_labels(task, truth),
            }
            for (clip, scores, truth), extra in zip(clips, extras, strict=True)
        )
        columns = ["id", *known, *score_columns(config), *_true_labels(task, labels[0])]
        write_table(predictions_path(output_dir, name), rows, columns)
    return evaluate_split(task, split, logits)


def evaluate_split(task: Task | MultiTask, split: Dataset, outputs: np.ndarray) -> dict:
    """The entry of a split in `metrics.json`: scores of outputs (clips, labels), or a note that there are no labels."""
    labels = np.asarray(split["labels"][:])
    if not has_label(task, labels).any():
        return {"num_clips": 0, "note": "labels are withheld"}
    units = units_of_clips(split)
    scores = evaluate_predictions(task, labels, outputs, units.names, unit=units.kind)
    if "ratings" in split.column_names and isinstance(task, Task):
        scores["rater_agreement"] = rater_agreement(task, split["ratings"][:])
    return scores


def _true_labels(task: Task | MultiTask, truth) -> dict:
    """The true labels of a clip as columns; empty if missing."""
    if isinstance(task, MultiTask):
        parts = zip(task.parts, task.targets(truth), strict=True)
        by_part = [(part, _true_labels(part, labels)) for part, labels in parts]
        return {
            f"label_{part.name}" if part.kind == "classification" else column: value
            for part, columns in by_part
            for column, value in columns.items()
        }
    if task.kind == "classification":
        return {"label": task.labels[int(truth)] if truth >= 0 else None}
    pairs = zip(task.labels, truth, strict=True)
    return {f"true_{label}": None if np.isnan(value) else round(float(value), 6) for label, value in pairs}


def summary(metrics: Metrics, num_bad_clips: int, output_dir: Path, has_model: bool) -> str:
    """The final lines in the terminal: scores with intervals, where the files are, which commands to run next."""
    lines = [""]
    for name, scores in metrics.scored_splits.items():
        if metrics.tasks:
            mean = f"{scores[metrics.metric]:.3f}, chance {scores['chance']:.3f}"
            lines.append(f"{name}: mean over {len(metrics.tasks)} tasks {mean}")
        for part in metrics.task_scores(name):
            lines += _summarize(f"{name}, {part.task.name}" if metrics.tasks else name, part.task, part.scores)
    if num_bad_clips:
        lines.append(f"{num_bad_clips} clip{'s' * (num_bad_clips != 1)} could not be read: {output_dir / BAD_CLIPS}")
    lines.append(f"{'model, ' * has_model}metrics and predictions: {output_dir}")
    return "\n".join(lines + _next_commands(str(output_dir), has_model))


def _next_commands(folder: str, has_model: bool) -> list[str]:
    """The next commands, as they work in the current folder: the project's own, or any other if it is installed."""
    is_own_folder, folder = Path("predict_avb.py").is_file(), shlex.quote(folder)
    commands = [f"python -m avb.reports analyse {folder}"]
    if has_model:
        predict = "python predict_avb.py" if is_own_folder else "avb-predict"
        commands = [f"{predict} {folder} CLIPS --output scores.csv", *commands]
    if has_model and is_own_folder:
        commands.append(f"python demo/app.py --models {folder}")
    return [f"{'next:' if command is commands[0] else '':<5} {command}" for command in commands]


def _summarize(name: str, task: Task, scores: dict) -> list[str]:
    if task.metric not in scores:
        return [f"{name}: {scores['note']}"]
    metric = defined_metric(scores, task.metric)
    low, high = scores[f"{metric}_low"], scores[f"{metric}_high"]
    width = max(map(len, task.labels))
    bounds = "too few for an interval" if np.isnan(low) else f"95 % interval {low:.3f} to {high:.3f}"
    lines = [
        f"{name}: {task.metric.upper()} {scores[metric]:.3f}, {bounds} by {scores['interval_unit']}, chance "
        f"{scores['chance']:.3f} ({scores['num_clips']} clips)",
        *(f"  {label:<{width}}  {_of_label(scores['per_label'][label], task)}" for label in task.labels),
    ]
    if "rater_agreement" in scores:
        lines.append(f"  raters agree with each other: {task.metric.upper()} {scores['rater_agreement']:.3f}")
    if "missing_classes" in scores:
        missing = ", ".join(scores["missing_classes"])
        lines.append(f"  no {name} clip has the class {missing}: this UAR is over the others, and not comparable")
    if "predicts_only" in scores:
        lines.append(
            f"  the model answers {scores['predicts_only']} for every clip: it has not learned the others "
            "(--class_weights balanced, more epochs or higher rates)"
        )
    return lines


def _of_label(scores: dict, task: Task) -> str:
    if task.kind == "regression":
        return f"{scores['ccc']:.3f}"
    if not scores["count"]:
        return "no clips"
    return f"recall {scores['recall']:.3f} of {scores['count']} clip{'s' * (scores['count'] != 1)}"
