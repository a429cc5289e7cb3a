"""A run's folder: `metrics.json` of this version and of older ones, and the run's id."""

import json
import re

import pytest
from conftest import ROOT
from finished_run import make_run, random_scores

from avb.errors import AvbError
from avb.run_files import (
    METRICS,
    Metrics,
    describe_tasks,
    fold_path,
    new_run_id,
    read_metrics,
    start_run,
    trained_folders,
    write_metrics,
)
from avb.tasks import TASKS, MultiTask

WITHHELD = {"num_clips": 0, "note": "labels are withheld"}
SEVERAL = MultiTask((TASKS["high"], TASKS["two"], TASKS["type"]))


def metrics_of(task, **facts) -> Metrics:
    splits = {"validation": random_scores(task, seed=0), "test": WITHHELD}
    names = {"task": task.name, "metric": task.metric, "labels": list(task.labels), "tasks": describe_tasks(task)}
    return Metrics(**names, splits=splits, corpus="hume_vb", seed=0, train_clips=230, train_seconds=12.0, **facts)


@pytest.mark.parametrize("task", [TASKS["two"], TASKS["type"], SEVERAL], ids=lambda task: task.name)
def test_what_is_written_is_read(task, tmp_path):
    metrics = metrics_of(task, run_id=new_run_id())
    write_metrics(tmp_path, metrics)
    assert read_metrics(tmp_path) == metrics
    content = json.loads((tmp_path / METRICS).read_text())
    assert {name for name, value in content.items() if isinstance(value, dict)} == {"splits"}
    assert metrics.parts == list(getattr(task, "parts", [task]))
    assert metrics.is_scored("validation") and not metrics.is_scored("test") and not metrics.is_scored("train")
    for part in metrics.task_scores("validation"):
        of_part = metrics.splits["validation"]
        assert part.scores == (of_part["tasks"][part.task.name] if metrics.tasks else of_part)
    assert [part.is_scored for part in metrics.task_scores("test")] == [False] * len(metrics.parts)


@pytest.mark.parametrize("task", [TASKS["two"], TASKS["type"], SEVERAL], ids=lambda task: task.name)
def test_metrics_of_older_versions_are_read(task, tmp_path):
    """Splits on the first level, no id, and what the tasks are in config.json alone."""
    folder = make_run(tmp_path / "run", task)
    new = read_metrics(folder)
    content = json.loads((folder / METRICS).read_text())
    old = {name: value for name, value in content.items() if name not in ("run_id", "tasks", "splits")}
    (folder / METRICS).write_text(json.dumps(old | content["splits"]))
    upgraded = read_metrics(folder)
    assert vars(upgraded) == vars(new) | {"run_id": ""}
    if task is SEVERAL:
        (folder / "config.json").unlink()
        with pytest.raises(AvbError, match="config.json: cannot be read"):
            read_metrics(folder)


@pytest.mark.parametrize("name", ["emogator-small", "emogator-cnn"])
def test_metrics_of_the_shipped_models_are_read(name):
    metrics = read_metrics(ROOT / "avb" / "models" / name)
    assert set(metrics.scored_splits) == {"validation"} and metrics.train_clips == 24_030


@pytest.mark.parametrize("content", ['{"task": "x", "metric": "ccc", "labels": ["a"], "splits": [1]}', "[]", "{}", "{"])
def test_what_no_run_wrote_is_named(content, tmp_path):
    (tmp_path / METRICS).write_text(content)
    with pytest.raises(AvbError, match="metrics.json: .*give the folder of a finished run"):
        read_metrics(tmp_path)


def test_a_resumed_run_keeps_its_id_and_another_one_gets_its_own(tmp_path):
    ids = [new_run_id() for _ in range(100)]
    assert len(set(ids)) == 100 and all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run_id) for run_id in ids)
    assert start_run(tmp_path, False, ids[0]) == ids[0]
    assert start_run(tmp_path, True, ids[1]) == ids[0]
    assert start_run(tmp_path, False, ids[2]) == ids[2]
    assert start_run(tmp_path, True, ids[3]) == ids[2]


def test_the_logs_of_a_cross_validation_are_those_of_its_folds(tmp_path):
    assert trained_folders(tmp_path) == [tmp_path]
    for fold in (10, 2):
        fold_path(tmp_path, fold).mkdir(parents=True)
    assert trained_folders(tmp_path) == [fold_path(tmp_path, 2), fold_path(tmp_path, 10)]
    (tmp_path / "trainer_state.json").touch()  # of the model of all clips
    assert trained_folders(tmp_path) == [tmp_path]
