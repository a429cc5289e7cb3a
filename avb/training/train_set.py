"""What a model is trained on, in numbers: clips, speakers, durations, and how often or how strongly each label occurs.

A card shows them beside the scores: a label that is hardly ever seen is hardly ever heard.
"""

import numpy as np
from datasets import Dataset

from audio_avb import SAMPLING_RATE
from avb.tasks import MISSING_CLASS, MultiTask, Task


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
