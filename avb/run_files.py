"""The files in a run's folder: their names, and the contents of `metrics.json`.

    runs/high/metrics.json             Metrics: scalars on the first level, scores by split under `splits`
              predictions_SPLIT.csv    scores and labels of each clip
              results.csv              the run's rows for a table of results
              train_set.json           statistics of the training set
              recipe.yaml              all arguments of the run
              versions.json            commit and packages
              bad_clips.csv            clips that could not be read
              splits.csv               the split of each clip
              folds.csv                for a cross-validation: the fold of each clip
              folds/0, folds/1, …      its runs, each in a folder like this one

`metrics.json` is written last: a folder that contains it is a finished run. Unusual: `read_metrics` also reads the
format of older versions, with splits on the first level and no run id. It is the only place that knows this format.
"""

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from avb.errors import AvbError
from avb.files import read_json, write_json, write_text
from avb.tasks import MultiTask, Task

CONFIG = "config.json"
METRICS = "metrics.json"
RESULTS = "results.csv"
TRAIN_SET = "train_set.json"
RECIPE = "recipe.yaml"
VERSIONS = "versions.json"
BAD_CLIPS = "bad_clips.csv"
SPLITS = "splits.csv"
CARD = "README.md"
TRAINER_STATE = "trainer_state.json"  # the Trainer's log
RUN_ID = "run_id.txt"  # written at the first step, so that a resumed run keeps its id
FOLDS = "folds"
FOLDS_TABLE = "folds.csv"
CROSS_VALIDATION = "cross_validation"  # the split of `metrics.json` with the scores over all folds

SCORED_SPLITS = ("validation", "test", CROSS_VALIDATION)

_MULTITASK_METRIC = MultiTask.metric


class TaskScores(NamedTuple):
    """The scores of one task on one split.

    Attributes:
        split: validation, test or cross_validation.
        task: the task, with its own metric.
        scores: the result of `avb.metrics.evaluate_predictions`; without the metric if no clip has a label.
    """

    split: str
    task: Task
    scores: dict[str, Any]

    @property
    def is_scored(self) -> bool:
        """Whether any clip has a label."""
        return self.task.metric in self.scores


@dataclass(frozen=True)
class Metrics:
    """The contents of `metrics.json`.

    Attributes:
        task: name of the task; several are joined by +.
        metric: the score that ranks runs: ccc, uar, or mean_score over several tasks.
        labels: names of the model's outputs, in order.
        run_id: of the run; empty for runs of versions without ids.
        corpus: hume_vb, emogator, folder, or sample for the synthetic one.
        seed: of the run.
        train_clips: clips trained on.
        train_seconds: how long training took.
        encoder_licence: of the initial weights; None if training started from random weights.
        tasks: for several tasks, `{"name", "kind", "labels"}` of each, in the order of the outputs.
        splits: maps a split's name to the result of `avb.metrics.evaluate_predictions`; a split whose labels are
            withheld has a `note` instead.
    """

    task: str
    metric: str
    labels: list[str]
    run_id: str = ""
    corpus: str | None = None
    seed: int | None = None
    train_clips: int | None = None
    train_seconds: float | None = None
    encoder_licence: str | None = None
    tasks: list[dict[str, Any]] = field(default_factory=list)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def parts(self) -> list[Task]:
        """The single task, or the parts of a multitask."""
        if self.metric != _MULTITASK_METRIC:
            return [Task(self.task, "classification" if self.metric == "uar" else "regression", tuple(self.labels))]
        return [Task(part["name"], part["kind"], tuple(part["labels"])) for part in self.tasks]

    def is_scored(self, split: str) -> bool:
        """Whether the split was predicted and its clips have labels."""
        return self.metric in self.splits.get(split, {})

    @property
    def scored_splits(self) -> dict[str, dict[str, Any]]:
        """The scores of each split that has any."""
        return {name: scores for name, scores in self.splits.items() if self.is_scored(name)}

    def task_scores(self, split: str) -> list[TaskScores]:
        """The scores of each task on a split; if its labels are withheld, only the note."""
        scores = self.splits[split]
        return [TaskScores(split, task, scores.get("tasks", {}).get(task.name, scores)) for task in self.parts]


def describe_tasks(task: Task | MultiTask) -> list[dict[str, Any]]:
    """The value of `Metrics.tasks` for a run of this task."""
    parts = task.parts if isinstance(task, MultiTask) else ()
    return [{"name": part.name, "kind": part.kind, "labels": list(part.labels)} for part in parts]


def write_metrics(folder: str | Path, metrics: Metrics):
    """Writes `metrics.json`, which marks the run as finished.

    Raises:
        AvbError: the file cannot be written.
    """
    content = {name: value for name, value in vars(metrics).items() if value not in (None, "", [])}
    write_json(Path(folder) / METRICS, content)


def read_metrics(folder: str | Path) -> Metrics:
    """Reads `metrics.json` of a finished run, of this version or an older one.

    Raises:
        AvbError: there is none, or train_avb.py did not write it.
    """
    path = Path(folder) / METRICS
    content = read_json(path, "give the folder of a finished run")
    if not isinstance(content, dict) or not {"task", "metric", "labels"} <= content.keys():
        raise AvbError(f"{path}: not what train_avb.py writes; give the folder of a finished run")
    if "splits" not in content:
        content = _upgrade(Path(folder), content)
    splits = content["splits"]
    if not isinstance(splits, dict) or not all(isinstance(scores, dict) for scores in splits.values()):
        raise AvbError(f"{path}: its splits are not what train_avb.py writes; give the folder of a finished run")
    return Metrics(**{name: content[name] for name in Metrics.__dataclass_fields__ if name in content})


def _upgrade(folder: Path, content: dict) -> dict:
    """Converts the old format without `splits`: these were among the scalars, and the tasks only in `config.json`."""
    splits = {name: value for name, value in content.items() if isinstance(value, dict)}
    upgraded = {name: value for name, value in content.items() if name not in splits} | {"splits": splits}
    if content["metric"] == _MULTITASK_METRIC:
        config = read_json(folder / CONFIG, "give the folder of a finished run")
        upgraded["tasks"], start = [], 0
        for part in config["tasks"]:
            name, end = part["name"], start + part["num_labels"]
            kind = "classification" if part["loss"] == "ce" else "regression"
            labels = [label.removeprefix(f"{name}/") for label in content["labels"][start:end]]
            upgraded["tasks"].append({"name": name, "kind": kind, "labels": labels})
            start = end
    return upgraded


def read_facts(folder: str | Path, name: str) -> dict[str, Any]:
    """Reads a JSON file of a run: its versions, training set or configuration; empty if there is none.

    Raises:
        AvbError: train_avb.py did not write it.
    """
    path = Path(folder) / name
    if not path.is_file():
        return {}
    content = read_json(path, "train again, or move the file away")
    if not isinstance(content, dict):
        raise AvbError(f"{path}: not what train_avb.py writes; train again, or move the file away")
    return content


def predictions_path(folder: str | Path, split: str) -> Path:
    """The path of `predictions_SPLIT.csv`."""
    return Path(folder) / f"predictions_{split}.csv"


def fold_path(folder: str | Path, fold: int) -> Path:
    """The folder of a fold's run; folds are counted from 0."""
    return Path(folder) / FOLDS / str(fold)


def trained_folders(folder: str | Path) -> list[Path]:
    """The folders of a run that contain a Trainer's log: its own, or those of its folds."""
    own = Path(folder)
    if (own / TRAINER_STATE).is_file() or not (own / FOLDS).is_dir():
        return [own]
    return sorted((path for path in (own / FOLDS).iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def new_run_id() -> str:
    """Makes an id of the time in UTC and three random bytes: `20240131-154502-9f3c1a`."""
    return f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def start_run(folder: str | Path, is_resumed: bool, run_id: str) -> str:
    """Writes a run's id to its folder; a resumed run keeps its id.

    Raises:
        AvbError: the file cannot be written or read.
    """
    path = Path(folder) / RUN_ID
    try:
        if is_resumed and path.is_file():
            return path.read_text(encoding="utf-8").strip() or run_id
    except (OSError, ValueError) as error:
        raise AvbError(f"{path}: cannot be read ({error}); delete it, and the run gets a new id") from error
    write_text(path, run_id + "\n")
    return run_id
