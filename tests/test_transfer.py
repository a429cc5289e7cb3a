"""Linear models on fixed features: held-out speakers stay held out, and the command compares a model with openSMILE."""

import csv

import numpy as np
import pytest
import soundfile as sf
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from avb.corpora.splits import stratified_folds
from avb.metrics import ccc, uar
from avb.reports import probe
from avb.reports.command import main
from avb.reports.transfer import transfer
from avb.tasks import Task

TASK = Task("kinds", "classification", ("low", "high", "noise"))


def classes(num_clips=120, num_speakers=12, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, num_clips)
    speakers = [f"s{number}" for number in generator.integers(0, num_speakers, num_clips)]
    features = generator.normal(size=(num_clips, 5)) + 3 * np.eye(3, 5)[labels]
    return features * [1, 100, 1, 1, 0.01], labels, speakers


def test_classes_and_scores_are_predicted_for_speakers_never_heard():
    features, labels, speakers = classes()
    folds = stratified_folds(speakers, labels.tolist(), 4, "here")
    predicted = probe.cross_validated_predictions(TASK, features, labels, speakers, folds)
    assert uar(labels, predicted) > 0.9

    task = Task("two", "regression", ("a", "b"))
    scores = np.stack([features[:, 0], features[:, 1] - features[:, 0]], axis=1).astype(np.float32)
    predicted = probe.cross_validated_predictions(task, features, scores, speakers, folds)
    assert np.mean(ccc(scores, predicted)) > 0.99


def test_what_only_tells_speakers_apart_is_worth_nothing():
    """Each speaker has one class, and features say who speaks: folds of clips would score 1."""
    generator = np.random.default_rng(0)
    speaker = np.repeat(np.arange(24), 10)
    labels = np.tile([0, 1, 2], 8)[speaker]
    features = np.eye(24)[speaker] + generator.normal(scale=0.01, size=(240, 24))
    folds = stratified_folds(list(map(str, speaker)), labels.tolist(), 4, "here")
    predicted = probe.cross_validated_predictions(TASK, features, labels, list(map(str, speaker)), folds)
    assert uar(labels, predicted) < 0.5


def test_more_features_than_clips_give_what_all_of_them_would(monkeypatch):
    monkeypatch.setattr(probe, "STRENGTHS", (0.01,))
    features, labels, speakers = classes()
    wide = np.random.default_rng(1).normal(size=(5, 400))
    features = features @ wide
    found = probe.fit(TASK, features, labels, np.asarray(speakers)).predict_proba(features)
    standardised = StandardScaler().fit_transform(features)
    head = LogisticRegression(C=0.01, class_weight="balanced", max_iter=5_000, tol=1e-8).fit(standardised, labels)
    np.testing.assert_allclose(found, head.predict_proba(standardised), atol=1e-3)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """36 tones and noises of six speakers, three kinds; a broken file, and a row without a label."""
    folder = tmp_path_factory.mktemp("kinds")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(36):
        kind = TASK.labels[number % 3]
        pitch = {"low": 150, "high": 600}.get(kind, 0) * generator.uniform(0.9, 1.1)
        time = np.arange(8_000) / 16_000
        clip = np.sin(2 * np.pi * pitch * time) if pitch else generator.normal(size=8_000)
        sf.write(folder / f"{number}.wav", 0.1 * clip, 16_000)
        rows.append([f"{number}.wav", f"s{number // 6}", kind])
    (folder / "broken.wav").write_bytes(b"RIFF")
    rows.append(["broken.wav", "s0", "low"])
    with open(folder / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "speaker", "kind"], *rows])
    return folder / "clips.csv"


@pytest.mark.slow
def test_the_command_sets_a_model_beside_opensmile(table, tmp_path, capsys):
    options = ["--label_columns", "kind", "--folds", "3", "--cache_dir", str(tmp_path / "cache")]
    argv = ["transfer", "emogator-small", str(table), "--feature_sets", "eGeMAPSv02", *options]
    assert main([*argv, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "36 clips, 6 speakers, 3 folds; 1 clips could not be read" in printed
    with open(tmp_path / "out/transfer.csv", newline="") as file:
        model, opensmile = csv.DictReader(file)
    assert (model["representation"], model["dimensions"]) == ("emogator-small", "256")
    assert (opensmile["representation"], opensmile["dimensions"]) == ("eGeMAPSv02", "88")
    for row in (model, opensmile):
        assert float(row["low"]) <= float(row["score"]) <= float(row["high"])
        assert float(row["score"]) > 0.8 and float(row["chance"]) == pytest.approx(1 / 3)
    difference = float(opensmile["score"]) - float(model["score"])
    assert float(opensmile["difference"]) == pytest.approx(difference)
    assert (tmp_path / "out/transfer.md").read_text() == printed


def test_what_does_not_fit_is_said(table, tmp_path, capsys):
    options = ["--label_columns", "kind", "--cache_dir", str(tmp_path / "cache"), "--feature_sets"]
    assert main(["transfer", "emogator-small", str(table), "--folds", "7", *options]) == 1
    assert "7 folds of 6 speakers" in capsys.readouterr().err
    assert main(["transfer", "emogator-cnn", str(tmp_path / "none.csv"), *options]) == 1  # before anything is decoded
    assert "no wav2vec 2.0 encoder" in capsys.readouterr().err
    assert main(["transfer", "emogator-small", str(tmp_path / "none.csv"), *options]) == 1
    assert "none.csv" in capsys.readouterr().err


def test_it_is_the_same_in_python(table, tmp_path):
    (row,) = transfer(
        "emogator-small", [table], feature_sets=(), num_folds=3, label_columns=["kind"], cache_dir=tmp_path
    )
    assert row.num_units == 6 and row.num_bad_clips == 1 and np.isnan(row.difference)
