"""Labels softened by teachers' tables: the numbers, what is refused, and the real commands from teacher to student."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from datasets import Dataset

import train_avb
from avb.distillation import label_rows, soften
from avb.errors import AvbError
from avb.tasks import MultiTask, Task

MOOD = Task("mood", "classification", ("calm", "glad", "sad"))
RATINGS = Task("ratings", "regression", ("valence", "arousal"))


def split(labels: list) -> Dataset:
    clips = {"id": [f"c{clip}" for clip in range(len(labels))], "labels": labels}
    waveforms = {"input_values": [[0.1] * 10] * len(labels), "num_samples": [10] * len(labels)}
    rows = Dataset.from_dict(clips | waveforms)
    return rows.with_format("numpy", columns=["input_values"], output_all_columns=True)


def teacher(path, task: Task, scores: dict[str, list]):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *task.labels, "prediction"])
        writer.writerows([clip, *row, "?"] for clip, row in scores.items())
    return str(path)


def test_labels_are_weighed_with_the_mean_of_the_teachers(tmp_path):
    one = teacher(tmp_path / "a.csv", MOOD, {"c1": [0.2, 0.8, 0], "c0": [0.5, 0.25, 0.25], "x": [0, 0, 1]})
    two = teacher(tmp_path / "b.csv", MOOD, {"c0": [0.1, 0.65, 0.25], "c1": [0, 1, 0]})
    softened = soften(split([2, -100]), MOOD, [one, two], 0.4)
    np.testing.assert_allclose(softened["labels"][:], [[0.12, 0.18, 0.7], [0.1, 0.9, 0]], atol=1e-6)
    assert softened["id"][:] == ["c0", "c1"] and softened["num_samples"][:] == [10, 10]
    assert isinstance(softened[0]["input_values"], np.ndarray)


def test_scores_are_weighed_likewise_and_missing_ones_are_the_teachers(tmp_path):
    table = teacher(tmp_path / "a.csv", RATINGS, {"c0": [0.5, 0.25], "c1": [0.25, 0.75]})
    softened = soften(split([[1.0, float("nan")], [0.75, 0.75]]), RATINGS, [table], 0.5)
    np.testing.assert_allclose(softened["labels"][:], [[0.75, 0.25], [0.5, 0.75]])


def test_without_teachers_classes_become_probabilities():
    softened = soften(split([1, -100]), MOOD, [], 0.5)
    np.testing.assert_array_equal(softened["labels"][:], [[0, 1, 0], [np.nan] * 3])
    np.testing.assert_array_equal(label_rows(MOOD, [0, 2]), [[1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("scores", "weight", "message"),
    [
        ({"c0": [1, 0, 0]}, 0.5, "no scores of 1 of 2 train clips, such as 'c1'"),
        ({"c0": [1, 0, 0], "c1": ["", 0, 1]}, 0.5, "a score of clip 'c1' is no number"),
        ({"c0": [1, 0, 0], "c1": [1, 0, 0]}, 1.5, "--teacher_weight 1.5 is out of range"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(scores, weight, message, tmp_path):
    with pytest.raises(AvbError, match=message):
        soften(split([0, 1]), MOOD, [teacher(tmp_path / "a.csv", MOOD, scores)], weight)


def test_other_labels_and_other_tasks_are_refused(tmp_path):
    table = teacher(tmp_path / "a.csv", RATINGS, {"c0": [0, 0], "c1": [0, 0]})
    with pytest.raises(AvbError, match=r"a\.csv: no column 'calm'"):
        soften(split([0, 1]), MOOD, [table], 0.5)
    with pytest.raises(AvbError, match="one task, not of mood\\+ratings"):
        soften(split([0, 1]), MultiTask((MOOD, RATINGS)), [table], 0.5)


@pytest.mark.slow
def test_from_teacher_to_student_by_the_real_commands(sample, tmp_path, capsys):
    """A baseline teaches a wav2vec 2.0 student, with mixup; the student's loss is that of softened labels."""
    corpus = ["--corpus", "hume_vb", "--data_dir", str(sample), "--task", "type"]
    common = [*corpus, "--save_strategy", "no", "--load_best_model_at_end", "false", "--report_to", "none"]
    teacher_argv = ["--model", "log_mel_cnn", "--max_steps", "3", "--output_dir", str(tmp_path / "teacher")]
    assert train_avb.main([*common, *teacher_argv]) == 0
    table = tmp_path / "says.csv"
    command = [sys.executable, "predict_avb.py", str(tmp_path / "teacher"), *corpus, "--split", "train"]
    subprocess.run([*command, "--output", str(table)], cwd=ROOT, check=True, capture_output=True)
    student_argv = ["--encoder", "recipes/encoders/tiny.yaml", "--freeze", "none", "--encoder_layer", "1"]
    student_argv += ["--rnn_layers", "0", "--augment", "mixup", "--max_steps", "2", "--logging_steps", "1"]
    student_argv += ["--teachers", str(table), "--teacher_weight", "0.5", "--logging_strategy", "steps"]
    assert train_avb.main([*common, *student_argv, "--output_dir", str(tmp_path / "student")]) == 0
    losses = [
        row["loss"]
        for row in json.loads((tmp_path / "student" / "trainer_state.json").read_text())["log_history"]
        if "loss" in row
    ]
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)
    assert "uar" in json.loads((tmp_path / "student" / "metrics.json").read_text())["validation"]
    capsys.readouterr()
    assert (
        train_avb.main([*common, *student_argv, "--teachers", "nowhere.csv", "--output_dir", str(tmp_path / "s")]) == 1
    )
    assert "nowhere.csv: cannot be read as a table" in capsys.readouterr().err
