"""What a training prints at its end."""

from pathlib import Path

import pytest
from conftest import ROOT
from finished_run import random_scores

from avb.run_files import Metrics, describe_tasks
from avb.tasks import TASKS
from avb.training.scoring import summary


def metrics_of(task) -> Metrics:
    names = {"task": task.name, "metric": task.metric, "labels": list(task.labels), "tasks": describe_tasks(task)}
    facts = {"run_id": "1", "corpus": "mine", "seed": 0, "train_clips": 1, "train_seconds": 1.0}
    return Metrics(**names, **facts, splits={"test": random_scores(task, seed=0)})


@pytest.mark.parametrize("task", ["type", "two"])
def test_scores_have_their_names_and_the_next_commands_fit_the_folder(task, monkeypatch, tmp_path):
    metrics = metrics_of(TASKS[task])
    monkeypatch.chdir(ROOT)
    lines = summary(metrics, 0, Path("my runs"), has_model=True).splitlines()
    own = {label: scores for label, scores in metrics.splits["test"]["per_label"].items()}
    for line, (label, scores) in zip(lines[2:], own.items(), strict=False):
        told = f"{scores['ccc']:.3f}" if task == "two" else f"recall {scores['recall']:.3f} of {scores['count']} clips"
        assert line.split(None, len(label.split()))[-1] == told
    assert lines[-4:] == [
        "model, metrics and predictions: my runs",
        "next: python predict_avb.py 'my runs' CLIPS --output scores.csv",
        "      python -m avb.reports analyse 'my runs'",
        "      python demo/app.py --models 'my runs'",
    ]
    monkeypatch.chdir(tmp_path)
    assert summary(metrics, 0, Path("run"), has_model=True).splitlines()[-2:] == [
        "next: avb-predict run CLIPS --output scores.csv",
        "      python -m avb.reports analyse run",
    ]
    assert summary(metrics, 0, Path("run"), has_model=False).splitlines()[-2:] == [
        "metrics and predictions: run",
        "next: python -m avb.reports analyse run",
    ]
