"""Chooses the values of arguments that are not given: learning rates, epochs, batch size, pooling, RNN, class weights.

The plain defaults of the arguments are those of the recommended preset. For training, values that are not given depend
on the encoder, on which parts of it are frozen, and on the number of training clips; `docs/training.md` describes the
measurements behind them. Given values always win. The chosen values are written to the run's recipe, which a resumed
run reads.
"""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from avb.arguments import AvbTrainingArguments, DataArguments, ModelArguments
from avb.arguments.chosen import AGAINST_LEARNING_BY_HEART, BATCH_SIZE, UNBALANCED
from avb.encoders.names import reading_hub, resolve
from avb.errors import AvbError
from avb.recipes import SUFFIXES
from avb.tasks import MISSING_CLASS, MultiTask, Task

SMALL_HIDDEN_SIZE = 512  # width of a small encoder, like the shipped ones; the paper's have 768 and 1,024
CLIPS_OF_A_RUN = 6_000  # clips that a small encoder should process over all epochs: 20 epochs of 300 clips

FROZEN = "a small, frozen encoder"
# Small: measured. Large: the published rates (1e-5, head 1e-4), not measured here, with the paper's pooling, RNN and
# epochs. A baseline's recipe has its own.
_FITTING: dict[str, dict[str, Any]] = {
    "a small encoder": {
        "encoder_learning_rate": 1e-4, "learning_rate": 1e-3, "pooling": "attention", "rnn_layers": 0,
    },
    FROZEN: {
        "encoder_learning_rate": 3e-4, "learning_rate": 3e-3, "pooling": "attention", "rnn_layers": 0,
        "num_train_epochs": 60,
    },
    "random weights": {
        "encoder_learning_rate": 1e-3, "learning_rate": 1e-3, "pooling": "attention", "rnn_layers": 0,
    },
    "a large pre-trained encoder": {
        "encoder_learning_rate": 1e-5, "learning_rate": 1e-4, "pooling": "last", "rnn_layers": 2,
        "num_train_epochs": 20,
    },
    "a baseline": {
        "encoder_learning_rate": 1e-4, "learning_rate": 1e-4, "pooling": "last", "rnn_layers": 2,
        "num_train_epochs": 20,
    },
}  # fmt: skip
# The arguments that may be chosen here.
CHOSEN = {"num_train_epochs", "per_device_train_batch_size", "class_weights", *AGAINST_LEARNING_BY_HEART}.union(
    *_FITTING.values()
)


def fill_in(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: AvbTrainingArguments,
    task: Task | MultiTask,
    labels: Sequence,
    given: Container[str],
    known: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Sets arguments that were not given, after the corpus is read and before the model is built.

    Args:
        model_args: changed in place.
        data_args: changed in place.
        args: changed in place.
        task: what is learned.
        labels: of the train clips, (clips,) class indices or (clips, labels) scores.
        given: names of the arguments set by a recipe or on the command line.
        known: values of the resumed run, which win over what would be chosen now.

    Returns:
        The values that were set, to be written to the recipe.
    """
    kind = describe(model_args)
    fitting = {"num_train_epochs": _epochs(len(labels)), "per_device_train_batch_size": BATCH_SIZE, **_FITTING[kind]}
    fitting["class_weights"] = _class_weights(model_args, task, labels)
    if kind == "a small encoder" and task.kind == "classification" and model_args.loss in (None, "ce"):
        fitting |= AGAINST_LEARNING_BY_HEART
        if data_args.teachers:
            fitting.pop("label_smoothing")  # teachers provide soft labels themselves
    if known:  # a resumed run does not get values that it started without
        fitting = {name: known[name] for name in fitting if name in known}
    chosen = {name: value for name, value in fitting.items() if name not in given}
    for name, value in chosen.items():
        owner = next(held for held in (model_args, data_args, args) if name in vars(held))
        setattr(owner, name, value)
    return chosen


def describe(model_args: ModelArguments) -> str:
    """The description of the row of the table above that applies."""
    if model_args.model != "wav2vec2":
        return "a baseline"
    if Path(model_args.encoder).suffix in SUFFIXES:
        return "random weights"
    if _hidden_size(model_args.encoder) > SMALL_HIDDEN_SIZE:
        return "a large pre-trained encoder"
    return FROZEN if model_args.freeze == "encoder" else "a small encoder"


def summary(chosen: dict[str, Any], model_args: ModelArguments, clips: int, steps: int = -1) -> str:
    """A line with the chosen values that matter, and the reason; empty if everything was given.

    Args:
        chosen: as `fill_in` returns it.
        model_args: of the run.
        clips: to train on.
        steps: `--max_steps`, which takes the place of the epochs if it is positive.
    """
    kind = describe(model_args)
    unused = {"encoder_learning_rate"} if kind == FROZEN else set()
    unused |= {"num_train_epochs"} if steps > 0 else set()
    unused |= {"class_weights"} if chosen.get("class_weights") is None else set()
    values = ", ".join(f"{name} {_said(value)}" for name, value in chosen.items() if name not in unused)
    return f"chosen for {kind} and {clips:,} train clips: {values}" if values else ""


def _said(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _hidden_size(encoder: str) -> float:
    try:
        name = resolve(encoder)
        with reading_hub(name):
            config, _ = PreTrainedConfig.get_config_dict(name)
        return float(config.get("hidden_size", config.get("d_model", 768)))  # the latter is Whisper's name
    except (OSError, ValueError, AvbError):  # an error is reported when it is read
        return np.inf


def _epochs(clips: int) -> int:
    return int(np.clip(-(-CLIPS_OF_A_RUN // max(clips, 1)), 10, 60))


def _class_weights(model_args: ModelArguments, task: Task | MultiTask, labels: Sequence) -> str | None:
    if task.kind != "classification":
        return None
    labels = np.asarray(labels)
    counts = np.bincount(labels[labels != MISSING_CLASS], minlength=task.num_labels)
    return "balanced" if counts.min() > 0 and counts.max() > UNBALANCED * counts.min() else None
