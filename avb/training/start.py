"""Describes a training before its first step: clips and speakers, classes, and how each part of the model is trained.

A run prints this, and stores the statistics of its training set in `train_set.json`. A card shows them beside the
scores: a label with few training clips is rarely predicted.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import TrainingArguments

from audio_avb import SAMPLING_RATE
from avb.metrics import has_label
from avb.tasks import MISSING_CLASS, MultiTask, Task

WIDTH = 110  # columns of a terminal
FEW_CLIPS = 5  # of a class: with fewer clips, each changes its recall by a quarter or more


def corpus_lines(data_dir: str, splits: Mapping[str, Dataset], has_made_splits: bool = False) -> list[str]:
    """Lines with the clips of each split, hours, and speakers, or that none are known.

    Args:
        data_dir: location of the corpus.
        splits: decoded rows with `num_samples`, and `speaker` if speakers are known.
        has_made_splits: whether the splits were made here.
    """
    clips = ", ".join(f"{name} {len(split):,}" for name, split in splits.items())
    hours = sum(int(np.sum(split["num_samples"][:])) for split in splits.values()) / SAMPLING_RATE / 3600
    lines = [
        f"corpus {Path(data_dir).resolve().name}: {clips} clips, {hours:.2f} hours{_made(splits, has_made_splits)}"
    ]
    speakers = {name: _speakers(split) for name, split in splits.items()}
    if not any(speakers.values()):
        unit = "group" if any("group" in split.column_names for split in splits.values()) else "clip"
        return [*lines, f"speakers: none are known, so intervals go by {unit}"]
    unknown = sum(not speaker for split in splits.values() for speaker in _column(split, "speaker"))
    rest = f"; {_clips(unknown)} without a speaker" if unknown else ""
    lines.append("speakers: " + ", ".join(f"{name} {len(found):,}" for name, found in speakers.items()) + rest)
    shared = speakers.get("train", set()) & set().union(*(speakers[name] for name in speakers if name != "train"))
    if shared:
        lines.append(
            f"  {len(shared)} of the train speakers are in another split too, such as {sorted(shared)[0]}: scores of "
            "new people will be lower"
        )
    return lines


def class_lines(task: Task | MultiTask, splits: Mapping[str, Dataset]) -> list[str]:
    """Lines with the clips of each class and split, and missing classes; empty without classes."""
    lines = []
    for part, counts in _counts(task, splits):
        names = " / ".join(counts)
        cells = ", ".join(
            f"{label} " + " / ".join(str(found[index]) for found in counts.values())
            for index, label in enumerate(part.labels)
        )
        of_task = f" of {part.name}" if isinstance(task, MultiTask) else ""
        lines += wrapped(f"classes{of_task} ({names}): {cells}")
    return lines + unlabelled_lines(task, splits) + lacking_lines(task, splits) + _few_lines(task, splits)


def lacking_lines(task: Task | MultiTask, splits: Mapping[str, Dataset]) -> list[str]:
    """A line per split that lacks a class; a split without any labels is skipped, because they are withheld."""
    lines = []
    for part, counts in _counts(task, splits):
        for name, found in counts.items():
            lacking = [label for label, count in zip(part.labels, found, strict=True) if not count]
            if lacking and sum(found):
                what = "it cannot be learned" if name == "train" else "its UAR will exclude it"
                lines.append(f"  {name} has no clip of {', '.join(lacking)}: {what}")
    return lines


def wrapped(line: str) -> list[str]:
    """Wraps a line with a list after commas."""
    unbroken = ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in line.split(", "))
    lines = textwrap.wrap(unbroken, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [part.replace("\N{NO-BREAK SPACE}", " ") for part in lines]


def model_lines(model: nn.Module, source: str, args: TrainingArguments, rates: Mapping[str, float]) -> list[str]:
    """Lines about what is trained, on which device, at which learning rates.

    Args:
        model: as it will be trained.
        source: description of the initial weights.
        args: of the run.
        rates: learning rates by part of the model.
    """
    sizes = [parameter.numel() for parameter in model.parameters()]
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    devices = f"{args.world_size} × {args.device.type}" if args.world_size > 1 else args.device.type
    rated = ", ".join(f"{part} {rate:g}" for part, rate in rates.items())
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    return [
        f"model: {source}; {_number(trained)} of {_number(sum(sizes))} weights are trained, on {devices}",
        f"learning rates: {rated}, {schedule}; {args.train_batch_size} clips per step and device",
    ]


def _few_lines(task: Task | MultiTask, splits: Mapping[str, Dataset]) -> list[str]:
    """Lists classes with only a few clips in the last scored split, if folds could be used instead."""
    lines = []
    for part, counts in _counts(task, splits):
        name, found = list(counts.items())[-1]
        few = [label for label, count in zip(part.labels, found, strict=True) if 0 < count < FEW_CLIPS]
        if few and "train" in counts and name != "train":
            which = ", ".join(few) if len(few) < part.num_labels else "each class"
            lines += wrapped(
                f"  {name} has fewer than {FEW_CLIPS} clips of {which}: --folds 5 scores every clip instead"
            )
    return lines


def _number(weights: int) -> str:
    return f"{weights:,}" if weights < 1e5 else f"{weights / 1e6:.2f} million"


def _made(splits: Mapping[str, Dataset], has_made_splits: bool) -> str:
    if not has_made_splits:
        return ""
    total = sum(map(len, splits.values()))
    shares = " / ".join(f"{100 * len(split) / total:.0f}" for split in splits.values())
    return f"; the splits were made here ({shares} %)"


def _speakers(split: Dataset) -> set[str]:
    return set(_column(split, "speaker")) - {None, ""}


def _column(split: Dataset, name: str) -> list:
    return split[name][:] if name in split.column_names else []


def _clips(count: int) -> str:
    return f"{count:,} clip{'s' * (count != 1)}"


def unlabelled_lines(task: Task | MultiTask, splits: Mapping[str, Dataset]) -> list[str]:
    """A line with the clips that have no label, unless a whole split has none, because they are withheld."""
    known = {name: has_label(task, np.asarray(split["labels"][:])) for name, split in splits.items()}
    found = {name: int((~labelled).sum()) for name, labelled in known.items() if labelled.any() and not labelled.all()}
    counts = ", ".join(f"{name} {count:,}" for name, count in found.items())
    return [f"  clips without a label, which are neither learned nor scored: {counts}"] if found else []


def bad_clip_lines(reasons: Sequence[str]) -> list[str]:
    """A line with the number of clips that cannot be read, and why the first cannot; empty if there are none."""
    return [f"  {_clips(len(reasons))} cannot be read, such as {reasons[0]}"] if reasons else []


def _counts(task: Task | MultiTask, splits: Mapping[str, Dataset]) -> list[tuple[Task, dict[str, list[int]]]]:
    """Each classification with the clips of its classes by split."""
    parts = task.parts if isinstance(task, MultiTask) else (task,)
    found: list[tuple[Task, dict[str, list[int]]]] = [(part, {}) for part in parts]
    for name, split in splits.items():
        labels = np.asarray(split["labels"][:])
        targets = task.targets(labels) if isinstance(task, MultiTask) else [labels]
        for (part, counts), of_part in zip(found, targets, strict=True):
            if part.kind == "classification":
                known = of_part[of_part != MISSING_CLASS]
                counts[name] = np.bincount(known, minlength=part.num_labels).tolist()
    return [(part, counts) for part, counts in found if part.kind == "classification"]


def describe_clips(task: Task | MultiTask, clips: Dataset) -> dict:
    """Counts clips and describes their labels.

    Args:
        task: what the column `labels` means.
        clips: rows with `labels` and `num_samples` at 16 kHz, and `speaker` where speakers are known.

    Returns:
        `clips`; `speakers` (None where no clip has one); `hours` in all and `seconds` of a clip (lowest, median,
        highest), as the model hears them, after trimming; `tasks`: task name to label name to `clips`, those of a class
        or those that have the label, and for a regression `mean` and `standard_deviation` over them.
    """
    seconds = np.asarray(clips["num_samples"][:]) / SAMPLING_RATE
    speakers = set(clips["speaker"][:] if "speaker" in clips.column_names else ()) - {None, ""}
    labels = np.asarray(clips["labels"][:])
    parts = zip(task.parts, task.targets(labels), strict=True) if isinstance(task, MultiTask) else [(task, labels)]
    return {
        "clips": len(clips),
        "speakers": len(speakers) or None,
        "hours": round(float(seconds.sum()) / 3600, 3),
        "seconds": {
            name: round(float(value), 3)
            for name, value in zip(("lowest", "median", "highest"), np.quantile(seconds, (0, 0.5, 1)), strict=True)
        },
        "tasks": {part.name: _describe_labels(part, targets) for part, targets in parts},
    }


def _describe_labels(task: Task, targets: np.ndarray) -> dict[str, dict]:
    if task.kind == "classification":
        counts = np.bincount(targets[targets != MISSING_CLASS], minlength=task.num_labels)
        return {label: {"clips": int(count)} for label, count in zip(task.labels, counts, strict=True)}
    described = {}
    for label, values in zip(task.labels, targets.T, strict=True):
        known = values[~np.isnan(values)].astype(np.float64)
        mean, deviation = (known.mean(), known.std()) if len(known) else (np.nan, np.nan)
        described[label] = {
            "clips": len(known),
            "mean": round(float(mean), 3),
            "standard_deviation": round(float(deviation), 3),
        }
    return described
