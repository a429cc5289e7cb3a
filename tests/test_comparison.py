"""Comparing systems: paired resamples, means over seeds, and runs that do not belong together."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from avb.errors import AvbError
from avb.metrics import evaluate_predictions, resampled_scores
from avb.reports.command import main
from avb.reports.comparison import compare
from avb.tasks import Task

TASK = Task("emotion", "classification", ("joy", "fear", "awe"))


def write_run(folder: Path, y_true, y_pred, ids=None, speakers=True) -> Path:
    folder.mkdir()
    scores = {"uar": evaluate_predictions(TASK, y_true, y_pred)["uar"], "num_clips": len(y_true)}
    metrics = {"task": TASK.name, "metric": "uar", "labels": TASK.labels, "validation": scores}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with open(folder / "predictions_validation.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *(["speaker"] if speakers else []), *TASK.labels, "prediction", "label"])
        for place, (true, pred) in enumerate(zip(y_true, y_pred, strict=True)):
            clip = ids[place] if ids else f"clip{place}"
            scores = [float(label == pred) for label in range(len(TASK.labels))]
            speaker = [f"s{place % 20}"] if speakers else []
            writer.writerow([clip, *speaker, *scores, TASK.labels[pred], TASK.labels[true]])
    return folder


@pytest.fixture
def classes():
    return np.random.default_rng(0).integers(0, 3, 300)


def noisy(classes, share, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(classes)) < share, rng.integers(0, 3, len(classes)), classes)


def test_the_difference_is_that_of_the_scores(tmp_path, classes):
    predictions = [noisy(classes, share, seed) for seed, share in enumerate((0.2, 0.2, 0.6))]
    runs = [write_run(tmp_path / str(number), classes, pred) for number, pred in enumerate(predictions)]
    [found] = compare(runs[:2], runs[2:])
    uars = [evaluate_predictions(TASK, classes, pred)["uar"] for pred in predictions]
    assert found.score == pytest.approx(np.mean(uars[:2])) and found.other == pytest.approx(uars[2])
    assert found.difference == pytest.approx(np.mean(uars[:2]) - uars[2])
    assert 0 < found.low < found.difference < found.high and found.unit == "speaker" and found.num_clips == 300
    [swapped] = compare(runs[2:], runs[:2])
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_a_system_does_not_differ_from_itself(tmp_path, classes):
    run = write_run(tmp_path / "a", classes, noisy(classes, 0.5, 1), speakers=False)
    [found] = compare([run], [run])
    assert (found.difference, found.low, found.high, found.unit) == (0, 0, 0, "clip")


def test_resampled_scores_are_those_of_the_interval(classes):
    pred, speakers = noisy(classes, 0.5, 1), [f"s{place % 20}" for place in range(300)]
    scores = evaluate_predictions(TASK, classes, pred, speakers)
    resampled = resampled_scores(TASK, classes, pred, speakers)
    assert np.percentile(resampled, [2.5, 97.5]).tolist() == pytest.approx([scores["uar_low"], scores["uar_high"]])

    task, rng = Task("two", "regression", ("Valence", "Arousal")), np.random.default_rng(0)
    true = rng.random((300, 2))
    scores = evaluate_predictions(task, true, true + rng.normal(size=(300, 2)), speakers)
    rng = np.random.default_rng(0)
    assert (rng.random((300, 2)) == true).all()
    resampled = resampled_scores(task, true, true + rng.normal(size=(300, 2)), speakers)
    assert np.percentile(resampled, [2.5, 97.5]).tolist() == pytest.approx([scores["ccc_low"], scores["ccc_high"]])


def test_runs_that_do_not_belong_together(tmp_path, classes, capsys):
    a = write_run(tmp_path / "a", classes, classes)
    b = write_run(tmp_path / "b", classes, classes, ids=[f"other{place}" for place in range(300)])
    with pytest.raises(
        AvbError, match="b: its validation clips or labels are not those of .*a; compare runs of one table"
    ):
        compare([a], [b])
    assert main(["compare", str(a), "--against", str(tmp_path / "none")]) == 1
    assert "give the folder of a finished run" in capsys.readouterr().err


def test_what_is_printed(tmp_path, classes, capsys):
    a, b = (write_run(tmp_path / str(seed), classes, noisy(classes, 0.4, seed)) for seed in (1, 2))
    assert main(["compare", str(a), "--against", str(b)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("UAR 0.") and "95 % interval" in printed and "by speaker (300 clips)" in printed
