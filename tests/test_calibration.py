"""Temperatures, label sets and intervals: against crepes and a literal search, and on speakers left out."""

import csv
import json
import shutil

import numpy as np
import pytest
import soundfile as sf
import torch
from crepes import ConformalClassifier
from finished_run import make_run

import avb
import predict_avb
from avb.calibration.command import main
from avb.calibration.fit import calibrate_task, fit_task, fit_temperature, measure, thresholds
from avb.metrics import calibration_error_by_chance, expected_calibration_error
from avb.tasks import Task
from calibration_avb import COVERAGES, Calibration, TaskCalibration, read_calibration, weights_fingerprint
from pipeline_avb import softmax

TASK = Task("kinds", "classification", tuple("abcdef"))
SCORES = Task("two", "regression", ("x", "y"))


def drawn(num_clips=600, num_speakers=30, temperature=2.0, seed=0):
    """Logits of a model that is too sure: the truth is drawn from what they say divided by the temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=3, size=(num_clips, 6))
    probabilities = softmax(logits / temperature)
    labels = np.array([generator.choice(6, p=row) for row in probabilities])
    return logits, labels, [f"s{number % num_speakers}" for number in range(num_clips)]


def test_the_temperature_is_the_likeliest():
    logits, labels, _ = drawn(6_000)
    found = fit_temperature(logits, labels, np.full(6_000, 1 / 6_000))
    grid = np.linspace(0.5, 4, 701)
    losses = [-np.log(softmax(logits / value)[np.arange(6_000), labels]).mean() for value in grid]
    assert found == pytest.approx(grid[np.argmin(losses)], abs=0.006)
    assert found == pytest.approx(2.0, abs=0.1)


def test_label_sets_are_those_of_crepes():
    logits, labels, _ = drawn()
    fitted = fit_task(TASK, logits[:400], labels[:400])
    before, after = (softmax(part / fitted.temperature) for part in (logits[:400], logits[400:]))
    reference = ConformalClassifier().fit(1 - before[np.arange(400), labels[:400]], seed=0)
    for coverage in (0.5, 0.8, 0.9, 0.95, 0.99):
        wanted = reference.predict_set(1 - after, confidence=coverage, smoothing=False)
        likeliest = after == after.max(axis=1, keepdims=True)
        assert np.array_equal(fitted.label_sets(after, coverage), wanted.astype(bool) | likeliest)


def test_too_few_clips_for_a_coverage_take_every_label():
    values = thresholds(np.array([0.1, 0.2, 0.3]), np.full(3, 1 / 3), largest=1.0)
    assert values[COVERAGES.index(0.75)] == 0.3 and values[COVERAGES.index(0.751)] == 1.0
    assert values[COVERAGES.index(0.5)] == 0.2


def test_every_speaker_counts_alike():
    """One speaker with 900 clips that fit well, 90 with a clip each that fits badly."""
    nonconformity = np.concatenate([np.full(900, 0.1), np.full(90, 0.8)])
    speakers = ["many"] * 900 + [f"s{number}" for number in range(90)]
    labels = np.zeros(990, dtype=int)
    logits = np.log(np.stack([1 - nonconformity, nonconformity], axis=1))
    two = Task("two_kinds", "classification", ("a", "b"))
    fitted = fit_task(two, logits, labels, speakers)
    probabilities = softmax(logits / fitted.temperature)
    assert fitted.label_sets(probabilities, 0.5)[-1, 0]  # most speakers are like the last


def test_intervals_hold_scores_as_often_as_asked():
    generator = np.random.default_rng(0)
    truth = generator.random((2_000, 2))
    predicted = truth + generator.normal(scale=(0.05, 0.2), size=truth.shape)
    truth[::7, 1] = np.nan
    fitted = fit_task(SCORES, predicted[:1_000], truth[:1_000])
    half = fitted.intervals(SCORES.labels, 0.9)
    inside = np.abs(predicted[1_000:] - truth[1_000:]) <= half
    assert inside[:, 0].mean() == pytest.approx(0.9, abs=0.03)
    assert inside[~np.isnan(truth[1_000:, 1]), 1].mean() == pytest.approx(0.9, abs=0.03)
    assert half[1] / half[0] == pytest.approx(4, rel=0.15)


def test_what_is_measured_is_of_speakers_left_out():
    logits, labels, speakers = drawn(3_000)
    found = measure(TASK, logits, labels, speakers)
    assert found["measured_coverage"] == pytest.approx(0.9, abs=0.02)
    assert found["ece"] < 0.03 < 0.1 < found["ece_raw"]
    assert 0 < found["ece_chance"] < found["ece_chance_high"] < found["ece_raw"]
    assert found["ece"] < 1.2 * found["ece_chance_high"]
    assert 1 <= found["set_size"] <= 6 and 0 <= found["speakers_below"] <= 1
    # A model that knows each speaker's answer by heart, but for new ones says nothing: seen from inside it looks sure.
    assert measure(TASK, logits[:50], labels[:50], ["s"] * 50) == {}


def test_a_temperature_that_does_not_help_others_is_not_kept():
    outcomes = set()
    for seed in range(4):
        logits, labels, speakers = drawn(600, temperature=1.0, seed=seed)
        found, with_it = calibrate_task(TASK, logits, labels, speakers), measure(TASK, logits, labels, speakers)
        is_worse = with_it["ece"] > with_it["ece_raw"]
        assert (found.temperature == 1) == is_worse
        assert found.measured["ece"] == min(with_it["ece"], with_it["ece_raw"])
        outcomes.add(is_worse)
    assert outcomes == {True, False}


def test_the_calibration_error_of_a_calibrated_model_is_not_zero():
    """Labels drawn from the probabilities themselves give what is stated; one of a kind, clip by clip, in few draws."""
    generator = np.random.default_rng(3)
    probabilities = generator.dirichlet(np.full(6, 0.5), 400)
    mean, low, high = calibration_error_by_chance(probabilities)
    drawn = []
    for _ in range(300):
        labels = np.array([generator.choice(6, p=row) for row in probabilities])
        drawn.append(expected_calibration_error(labels, probabilities))
    assert np.mean(drawn) == pytest.approx(mean, rel=0.05)
    assert 0.9 < np.mean((np.array(drawn) > low) & (np.array(drawn) < high)) < 1
    more = calibration_error_by_chance(np.repeat(probabilities, 9, axis=0))[0]
    assert more == pytest.approx(mean / 3, rel=0.1)  # as the standard error of a mean
    assert np.isnan(calibration_error_by_chance(np.zeros((0, 6)))).all()


def test_the_calibration_error_is_the_literal_one():
    logits, labels, _ = drawn()
    probabilities = softmax(logits)
    total = 0.0
    for number in range(15):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if number / 15 < row.max() <= (number + 1) / 15
        ]
        if inside:
            confidence, right = np.mean(inside, axis=0)
            total += len(inside) / len(labels) * abs(confidence - right)
    assert expected_calibration_error(labels, probabilities) == pytest.approx(total)


def test_the_file_reads_back_and_is_of_these_weights_alone(tmp_path):
    logits, labels, _ = drawn()
    model = torch.nn.Linear(3, 4)
    fingerprint = weights_fingerprint(model.named_parameters())
    assert weights_fingerprint(model.half().named_parameters()) == fingerprint
    calibration = Calibration(fingerprint, {"": fit_task(TASK, logits, labels)}, {"clips": 600})
    (tmp_path / "calibration.json").write_text(calibration.to_json())
    assert read_calibration(tmp_path, fingerprint) == calibration
    with pytest.warns(UserWarning, match="other weights"):
        assert read_calibration(tmp_path, "0" * 16) is None
    (tmp_path / "calibration.json").unlink()
    assert read_calibration(tmp_path, fingerprint) is None


@pytest.mark.parametrize(
    "damage",
    [
        "", "[]", "{}", '{"weights": "a", "tasks": {"": 3}}', '{"weights": "a", "tasks": {"": {"temperature": 0}}}',
        '{"weights": "a", "tasks": {"": {"set_thresholds": [0.5]}}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(damage, tmp_path):
    (tmp_path / "calibration.json").write_text(damage)
    with pytest.raises(ValueError, match="calibration.json is damaged"):
        read_calibration(tmp_path, "a")


@pytest.mark.parametrize("coverage", [0.3, 1.0, float("nan")])
def test_an_illegal_coverage_is_named(coverage):
    task = TaskCalibration(set_thresholds=tuple(COVERAGES))
    with pytest.raises(ValueError, match="coverage=.* is invalid: it must be from 0.5 to 0.999"):
        task.label_sets(np.ones((1, 2)) / 2, coverage)


def test_a_later_version_may_add_to_the_file():
    text = json.loads(Calibration("a", {"": TaskCalibration()}).to_json()) | {"rejection": {"threshold": 0.3}}
    assert Calibration.from_json(json.dumps(text)) == Calibration("a", {"": TaskCalibration()})


# ------------------------------------------------------------------------------------------------------- a saved model


@pytest.fixture(scope="module", params=["classification", "regression"])
def calibrated(request, tmp_path_factory):
    """A tiny run, 110 noises of ten speakers with labels, and the calibration that the command fitted on them."""
    folder = tmp_path_factory.mktemp(request.param)
    task = TASK if request.param == "classification" else SCORES
    run = make_run(folder / "run", task, recipe={})
    generator = np.random.default_rng(0)
    rows = []
    for number in range(110):
        sf.write(folder / f"{number}.wav", 0.1 * generator.normal(size=1_000), 16_000)
        labels = [task.labels[number % 6]] if task is TASK else generator.random(2).round(3).tolist()
        rows.append([f"{number}.wav", f"s{number % 10}", "validation", *labels])
    header = ["file", "speaker", "split", *(["kind"] if task is TASK else task.labels)]
    with open(folder / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    labels = header[3:]
    assert main([str(run), str(folder / "clips.csv"), "--label_columns", *labels]) == 0
    return folder, task


def predict(folder, name, *options):
    output = folder / f"{name}.csv"
    clips = [str(folder / f"{number}.wav") for number in range(12)]
    code = predict_avb.main([str(folder / "run"), *clips, "--output", str(output), "--device", "cpu", *options])
    if code:
        return code
    with open(output, newline="") as file:
        return list(csv.DictReader(file))


def test_tables_have_label_sets_and_intervals(calibrated, capsys):
    folder, task = calibrated
    rows = predict(folder, "covered", "--coverage", "0.9")
    answers = avb.load(str(folder / "run"))([str(folder / f"{number}.wav") for number in range(12)], coverage=0.9)
    for row, answer in zip(rows, answers, strict=True):
        scores = {label: float(row[label]) for label in task.labels}
        assert scores == pytest.approx({entry["label"]: entry["score"] for entry in answer}, abs=2e-5)
        if task is TASK:
            inside = row["label_set"].split("|")
            assert inside[0] == row["prediction"] and len(inside) == float(row["set_size"])
            assert inside == sorted(inside, key=lambda label: -scores[label])
            assert set(inside) == {entry["label"] for entry in answer if entry["in_set"]}
        else:
            for entry in answer:
                low, high = float(row[f"{entry['label']}_low"]), float(row[f"{entry['label']}_high"])
                assert 0 <= low <= entry["score"] <= high <= 1
                assert (entry["low"], entry["high"]) == pytest.approx((low, high), abs=2e-5)


def test_probabilities_follow_the_temperature_and_logits_stay(calibrated):
    folder, task = calibrated
    path = folder / "run" / "calibration.json"
    text = path.read_text()
    fitted = Calibration.from_json(text)
    with_it = predict(folder, "with")
    path.unlink()
    without = predict(folder, "without")
    path.write_text(text)
    if task is SCORES:
        assert with_it == without
        return
    temperature = fitted.tasks[""].temperature
    assert temperature != 1
    for row, raw in zip(with_it, without, strict=True):
        probabilities = np.array([float(raw[label]) for label in task.labels])
        expected = softmax(np.log(probabilities) / temperature)
        np.testing.assert_allclose([float(row[label]) for label in task.labels], expected, atol=1e-5)
        assert row["prediction"] == raw["prediction"]
        assert float(row["confidence"]) == max(float(row[label]) for label in task.labels)


def test_a_table_that_another_calibration_began_is_begun_again(calibrated):
    """A resumed scoring notices another calibration, and another coverage."""
    from avb.inference.scorer import Scorer

    folder, _ = calibrated
    run, path = str(folder / "run"), folder / "run" / "calibration.json"
    text = path.read_text()
    keys = {Scorer.load(run, coverage=coverage).key for coverage in (None, 0.9, 0.95)}
    path.write_text(text.replace('"temperature": ', '"temperature": 1'))
    keys.add(Scorer.load(run).key)
    path.unlink()
    keys.add(Scorer.load(run).key)
    path.write_text(text)
    assert len(keys) == 5


def test_an_export_carries_it(calibrated):
    from avb.export.exporting import export_model

    folder, task = calibrated
    if task is SCORES:
        pytest.skip("one export shows it")
    export_model(folder / "run", folder / "onnx")
    assert (folder / "onnx" / "calibration.json").is_file()
    clip = str(folder / "3.wav")
    torch_answer, answer = (avb.load(str(folder / name))(clip, coverage=0.8) for name in ("run", "onnx"))
    assert [entry["in_set"] for entry in answer] == [entry["in_set"] for entry in torch_answer]
    scores = [[entry["score"] for entry in part] for part in (answer, torch_answer)]
    np.testing.assert_allclose(*scores, atol=1e-4)


def test_without_a_calibration_the_way_to_one_is_named(calibrated, tmp_path, capsys):
    folder, task = calibrated
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "calibration.json").unlink()
    shutil.copyfile(folder / "1.wav", tmp_path / "1.wav")
    argv = [str(tmp_path / "run"), str(tmp_path / "1.wav"), "--output", str(tmp_path / "x.csv"), "--coverage"]
    assert predict_avb.main([*argv, "0.9"]) == 1
    assert "python -m avb.calibration" in capsys.readouterr().err
    assert predict_avb.main([*argv, "0.2"]) == 1
    assert "--coverage 0.2: give a fraction" in capsys.readouterr().err
    with pytest.raises(ValueError, match="coverage needs a calibrated model"):
        avb.load(str(tmp_path / "run"))(str(tmp_path / "1.wav"), coverage=0.9)
    for options, message in (
        (["--split", "train"], "--split train"),
        (["--label_columns", "speaker"], "its labels differ from those"),
    ):
        assert main([str(tmp_path / "run"), str(folder / "clips.csv"), *options]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "calibration.json").exists()
