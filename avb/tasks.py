"""Prediction tasks: the four of the A-VB 2022 challenge, tasks made from label columns, and several tasks at once.

A task is a name, a kind and an ordered tuple of label names; it contains no data. Targets have the same format
everywhere:

- regression: floats of shape (clips, labels), NaN for a missing label, scored by the mean CCC over labels;
- classification: integers of shape (clips,), `MISSING_CLASS` (-100) for a missing label, scored by UAR, the unweighted
  average recall.

    >>> get_task("two").labels
    ('Valence', 'Arousal')
    >>> Task("laughter", "classification", ("no", "yes")).metric
    'uar'

Source: Baird et al. (2022), "The ACII 2022 Affective Vocal Bursts Workshop & Competition", arXiv:2207.03572.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from avb.errors import AvbError, did_you_mean

Kind = Literal["regression", "classification"]
MISSING_CLASS = -100  # ignored by torch's cross entropy


def majority_class(classes: np.ndarray, num_labels: int) -> int:
    """The most frequent of (raters,) class indices; the first of several; `MISSING_CLASS` if there are none."""
    known = classes[classes != MISSING_CLASS]
    return int(np.bincount(known, minlength=num_labels).argmax()) if len(known) else MISSING_CLASS


# The other columns of tables with one column per label: predict_avb.py's, a run's predictions, tables of events.
OWN_COLUMNS = (
    "id", "error", "prediction", "confidence", "burst_score", "is_burst", "label_set", "set_size", "start", "end",
    "detection", "speaker", "group", "country", "fold", "label",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """The names and the order of a model's labels.

    Args:
        name: identifier of the task.
        kind: "regression" (a number per label) or "classification" (one label per clip).
        labels: label names in the order of the model's outputs; a list is stored as a tuple.
        label_range: lowest and highest valid value of a regression label; ignored for a classification.

    Raises:
        ValueError: a field has an invalid value; the message names the field and the valid values.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    label_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        if not _is_name(self.name):
            raise ValueError(f"name must be a non-empty string, got {self.name!r}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {list(get_args(Kind))}, got {self.kind!r}")
        self._validate_labels()
        self._validate_label_range()
        # The dataclass is frozen; YAML and JSON provide lists, which would make it unhashable.
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "label_range", tuple(float(bound) for bound in self.label_range))

    def _validate_labels(self):
        # A string would be accepted as a sequence of one-letter labels.
        if not isinstance(self.labels, (tuple, list)) or not all(_is_name(label) for label in self.labels):
            raise ValueError(f"labels must be a tuple or list of non-empty strings, got {self.labels!r}")
        fewest = 1 if self.kind == "regression" else 2
        if len(self.labels) < fewest:
            raise ValueError(f"labels must hold at least {fewest} for {self.kind}, got {len(self.labels)}")
        repeated = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if repeated:
            raise ValueError(f"labels must be unique, repeated: {repeated}")

    def _validate_label_range(self):
        bounds = self.label_range
        is_pair = isinstance(bounds, (tuple, list)) and len(bounds) == 2
        # Written so that a NaN bound fails too.
        if not is_pair or not all(isinstance(bound, (int, float)) for bound in bounds) or not bounds[0] < bounds[1]:
            raise ValueError(f"label_range must be two numbers (low, high) with low < high, got {bounds!r}")

    @property
    def metric(self) -> str:
        """The key of the score that ranks models: "ccc" for regression, "uar" for classification."""
        return "ccc" if self.kind == "regression" else "uar"

    def loss(self, given: str | None, default: str = "ccc") -> str:
        """The loss for this task: the `given` one, otherwise cross entropy, or the `default` for a regression.

        Raises:
            AvbError: the given loss does not fit the task.
        """
        is_classification = self.kind == "classification"
        loss = given or ("ce" if is_classification else default)
        if (loss == "ce") != is_classification:
            legal = "ce" if is_classification else "ccc or mse"
            raise AvbError(f"--loss {loss} does not fit task {self.name!r}, a {self.kind}: use {legal}")
        return loss

    @property
    def num_labels(self: "Task | MultiTask") -> int:
        """Number of the model's outputs."""
        return len(self.labels)

    @property
    def id2label(self: "Task | MultiTask") -> dict[int, str]:
        """Output index to label name, as a Transformers configuration stores it."""
        return dict(enumerate(self.labels))

    @property
    def label2id(self: "Task | MultiTask") -> dict[str, int]:
        """Label name to output index."""
        return {label: index for index, label in enumerate(self.labels)}


@dataclass(frozen=True)
class MultiTask:
    """Several tasks of one model. Its outputs and its targets (as floats) are those of its parts, concatenated.

    Targets have shape (clips, columns): the labels of a regression part, one column with the class index of a
    classification part; NaN is missing everywhere. Scored by the mean over its parts' metrics.

    Args:
        parts: at least two tasks of different names.

    Raises:
        ValueError: there are fewer, or two have the same name.
    """

    parts: tuple[Task, ...]

    kind = "multitask"
    metric = "mean_score"

    def __post_init__(self):
        names = [part.name for part in self.parts]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"a multitask needs at least two different tasks, got {names}")

    @property
    def name(self) -> str:
        """The names of the parts, joined: "high+two"."""
        return "+".join(part.name for part in self.parts)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all parts; a label of two parts is prefixed with the name of the part."""
        names = [label for part in self.parts for label in part.labels]
        return tuple(
            f"{part.name}/{label}" if names.count(label) > 1 else label for part in self.parts for label in part.labels
        )

    num_labels = Task.num_labels
    id2label = Task.id2label
    label2id = Task.label2id

    def outputs(self, outputs: np.ndarray) -> list[np.ndarray]:
        """Each part's columns of (clips, num_labels) outputs.

        The Hub's modules do not know `Task`; `Wav2Vec2VocalBurstConfig.task_slices` gives them the same information.
        """
        return np.split(outputs, np.cumsum([part.num_labels for part in self.parts])[:-1], axis=-1)

    def targets(self, targets: np.ndarray) -> list[np.ndarray]:
        """Splits the targets (clips, columns), floats, into those of each part, in the part's own format."""
        widths = [part.num_labels if part.kind == "regression" else 1 for part in self.parts]
        columns = np.split(targets, np.cumsum(widths)[:-1], axis=-1)
        return [
            column if part.kind == "regression" else np.nan_to_num(column[..., 0], nan=MISSING_CLASS).astype(np.int64)
            for part, column in zip(self.parts, columns, strict=True)
        ]


def refuse_own_columns(task: Task | MultiTask):
    """Refuses labels whose column would be mistaken for another one.

    Raises:
        AvbError: a label has the name of a column of this project's own tables.
    """
    parts = task.parts if isinstance(task, MultiTask) else (task,)
    numbers = [label for part in parts if part.kind == "regression" for label in part.labels]
    own = {*OWN_COLUMNS, *(name for label in numbers for name in (f"{label}_low", f"{label}_high", f"true_{label}"))}
    if len(parts) > 1:
        own |= {f"{column}_{part.name}" for part in parts for column in ("prediction", "confidence", "label")}
    taken = [label for label in task.labels if label in own]
    if taken:
        what = "the column" if taken[0] in numbers else "the class in the table, or its folder,"
        raise AvbError(
            f"task {task.name!r}: a label cannot be called {taken[0]!r}, which is a column of this project's own "
            f"tables (they have {', '.join(OWN_COLUMNS)}, LABEL_low, LABEL_high, ...); rename {what} to "
            f"{taken[0] + '_label'!r}, say"
        )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


_EMOTIONS = (
    "Awe",
    "Excitement",
    "Amusement",
    "Awkwardness",
    "Fear",
    "Horror",
    "Distress",
    "Triumph",
    "Sadness",
    "Surprise",
)
_COUNTRIES = ("China", "United States", "South Africa", "Venezuela")

# The release puts the four Surprise columns last, after the other nine emotions of every country.
_CULTURE_LABELS = tuple(f"{country}_{emotion}" for country in _COUNTRIES for emotion in _EMOTIONS[:-1]) + tuple(
    f"{country}_Surprise" for country in _COUNTRIES
)

TASKS: dict[str, Task] = {
    "high": Task("high", "regression", _EMOTIONS),
    "two": Task("two", "regression", ("Valence", "Arousal")),
    "culture": Task("culture", "regression", _CULTURE_LABELS),
    "type": Task("type", "classification", ("Gasp", "Laugh", "Cry", "Scream", "Grunt", "Groan", "Pant", "Other")),
}


def get_task(name: str) -> Task:
    """Returns the challenge's task of that name.

    Raises:
        AvbError: no such task; the message names the most similar one and all others.
    """
    if name not in TASKS:
        raise AvbError(f"unknown task {name!r}{did_you_mean(name, TASKS, 'Tasks')}")
    return TASKS[name]


def task_of_config(config) -> Task | MultiTask:
    """The task of a model, from its configuration. This does not contain the name of a single task, so it is "task"."""
    labels = [config.id2label[index] for index in range(config.num_labels)]
    label_range = tuple(config.label_range)
    if not getattr(config, "tasks", None):
        return Task("task", "classification" if config.loss == "ce" else "regression", tuple(labels), label_range)
    parts, start = [], 0
    for part in config.tasks:
        own = labels[start : start + part["num_labels"]]
        start += part["num_labels"]
        kind: Kind = "classification" if part["loss"] == "ce" else "regression"
        names = tuple(label.removeprefix(f"{part['name']}/") for label in own)
        parts.append(Task(part["name"], kind, names, label_range))
    return MultiTask(tuple(parts))
