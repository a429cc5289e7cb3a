"""Rejection of what is no burst: fitted, kept in calibration.json, told in tables and by the pipeline."""

import json
import shutil
import subprocess
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import ROOT
from sklearn.metrics import roc_auc_score

import avb
import predict_avb
from avb.events import burst_check
from avb.events.burst_check import Sounds, alarm_thresholds, auroc_interval, fit, measure
from avb.models import FOLDER
from calibration_avb import RATES, BurstCheck, Calibration, burst_scores, log_scores, weights_fingerprint
from pipeline_avb import VocalBurstPipeline

LABELS, SPEAKERS = 30, 10


def draw(seed: int, bursts: int = 300, others: int = 900) -> Sounds:
    """Scores as a model gives them: the first labels are likelier in bursts, and of others two kinds differ."""
    rng = np.random.default_rng(seed)
    kinds = np.array(["burst"] * bursts + ["speech", "music"] * (others // 2))
    likely = {"burst": np.linspace(3, 1, LABELS), "speech": np.ones(LABELS), "music": np.full(LABELS, 4.0)}
    scores = np.stack([rng.dirichlet(likely[kind]) for kind in kinds])
    sources = np.array([f"{kind}{rng.integers(SPEAKERS)} x" for kind in kinds])
    return Sounds(log_scores(scores), kinds, sources)


@pytest.fixture(scope="module")
def check() -> BurstCheck:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(burst_check, "NETWORKS", 2)
        patch.setattr(burst_check, "UNITS", 4)
        return fit(draw(0))


def test_a_check_tells_bursts_of_sources_it_was_not_fitted_to(check):
    sounds = draw(1)
    found = measure(check, sounds, resamples=20)
    scores, is_burst = burst_scores(check, sounds.features), sounds.are_bursts
    kinds = {kind: roc_auc_score(is_burst[rows], scores[rows]) for kind, rows in (
        (kind, is_burst | (sounds.kinds == kind)) for kind in ("speech", "music")
    )}  # fmt: skip
    assert {kind: found[f"auroc_{kind}"] for kind in kinds} == pytest.approx(kinds, abs=1e-4)
    assert found["auroc"] == pytest.approx(np.mean(list(kinds.values())), abs=1e-4) and found["auroc"] > 0.9
    assert found["auroc_low"] < found["auroc"] < found["auroc_high"]
    kept = [found[f"kept_at_{rate}"] for rate in RATES]
    assert kept == sorted(kept) and 0.3 < kept[-1] < 1 and found["alarms_at_360"] == pytest.approx(360, abs=150)
    true = sounds.features[is_burst].argmax(-1)
    true[scores[is_burst] < check.threshold(360)] += 1  # every burst that is not kept is heard wrongly
    with_classes = measure(check, sounds, true % LABELS, resamples=20)
    assert with_classes["uar_kept_at_360"] == 1 > with_classes["uar"] and found.items() < with_classes.items()
    with pytest.raises(ValueError, match="false_alarms_per_hour=7: use one of 5, 10, 20"):
        check.threshold(7)


def test_thresholds_name_their_alarms_and_kinds_weigh_alike():
    rng, kinds = np.random.default_rng(0), np.array(["burst"] * 50 + ["music"] * 300 + ["speech"] * 3_600)
    scores = rng.permutation(len(kinds)) / len(kinds)
    weights = Sounds(np.zeros((len(kinds), 1)), kinds, kinds).weights()
    assert weights[:50].sum() == pytest.approx(weights[50:350].sum() * 2) == pytest.approx(weights[350:].sum() * 2)
    thresholds = alarm_thresholds(scores[350:], np.ones(3_600))
    assert [(scores[350:] >= threshold).sum() for threshold in thresholds] == list(RATES)
    for rate, threshold in zip(RATES, alarm_thresholds(scores[50:], weights[50:]), strict=True):
        shares = [(scores[kinds == kind] >= threshold).mean() for kind in ("music", "speech")]
        assert np.mean(shares) * 3600 == pytest.approx(rate, abs=3600 / 300 / 2)  # a window of music is of so many


def test_an_interval_draws_whole_sources():
    sounds = draw(2, 100, 200)
    twice = Sounds(*(np.concatenate([part, part]) for part in (sounds.features, sounds.kinds, sounds.sources)))
    scores = sounds.features[:, 0]
    once = auroc_interval(sounds, scores, 50)
    assert auroc_interval(twice, np.r_[scores, scores], 50) == pytest.approx(once)  # more clips of them teach nothing


def test_a_check_is_the_literal_network_and_a_logistic_regression_is_one_without_hidden_units(check):
    features = draw(3, 4, 4).features
    for row, found in zip(features, burst_scores(check, features), strict=True):
        units = [
            max(0.0, sum(w * x for w, x in zip(weights, row, strict=True)) + bias)
            for weights, bias in zip(check.hidden_weights, check.hidden_biases, strict=True)
        ]
        total = sum(w * unit for w, unit in zip(check.weights, units, strict=True)) + check.bias
        assert found == pytest.approx(1 / (1 + np.exp(-total)))
    plain = BurstCheck(tuple(np.linspace(-1, 1, LABELS)), 0.5)
    assert burst_scores(plain, features) == pytest.approx(1 / (1 + np.exp(-(features @ plain.weights + 0.5))))
    for one in (check, plain):
        with pytest.raises(ValueError, match="burst check has 30 labels, and the model 5"):
            burst_scores(one, features[:, :5])


def test_the_page_scores_as_python(check):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    logits = np.random.default_rng(0).normal(0, 3, (5, LABELS)).astype(np.float32)
    checks = [asdict(check), {"weights": [0.1] * LABELS, "bias": -1.0}]
    code = f"""
    import {{ burstScore }} from {json.dumps((ROOT / "web" / "scores.js").as_uri())};
    const tasks = [{{ isClassifier: true, temperature: 2, start: 0, end: {LABELS} }}];
    const rows = {json.dumps(logits.tolist())}.map((row) => Float32Array.from(row));
    const found = {json.dumps(checks)}.map((check) => rows.map((row) => burstScore(row, tasks, check)));
    console.log(JSON.stringify(found));"""
    done = subprocess.run([node, "--input-type=module", "-e", code], capture_output=True, text=True, check=True)
    shares = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    expected = [burst_scores(one, log_scores(shares)) for one in (check, BurstCheck((0.1,) * LABELS, -1.0))]
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def folder(check, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(FOLDER / "emogator-cnn", folder)
    (folder / "calibration.json").unlink(missing_ok=True)
    model = avb.load(str(folder), "cpu").model
    calibration = Calibration(weights_fingerprint(model.named_parameters()), {}, burst=check)
    assert Calibration.from_json(calibration.to_json()) == calibration
    (folder / "calibration.json").write_text(calibration.to_json())
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("clips")
    for number in range(3):
        sf.write(folder / f"{number}.wav", rng.normal(0, 0.1, 16_000) * np.hanning(16_000) ** number, 16_000)
    return [str(folder / f"{number}.wav") for number in range(3)]


def test_tables_say_what_the_pipeline_says(folder, clips, tmp_path):
    output = tmp_path / "scores.csv"
    assert predict_avb.main([str(folder), *clips, "--output", str(output), "--false_alarms_per_hour", "60"]) == 0
    table = pd.read_csv(output)
    assert list(table.columns)[-2:] == ["burst_score", "is_burst"] and table["is_burst"].dtype == bool
    pipe = avb.load(str(folder), "cpu")
    plain = pipe(clips)
    for answer, before, (_, row) in zip(pipe(clips, false_alarms_per_hour=60), plain, table.iterrows(), strict=True):
        assert [(entry["label"], entry["score"]) for entry in answer] == [(e["label"], e["score"]) for e in before]
        assert answer[0]["burst_score"] == pytest.approx(row["burst_score"], abs=1e-4)
        assert answer[0]["is_burst"] == row["is_burst"] == (row["burst_score"] >= pipe.calibration.burst.threshold(60))
        scores = np.array([entry["score"] for entry in answer])
        assert burst_scores(pipe.calibration.burst, log_scores(scores)) == pytest.approx(row["burst_score"], abs=1e-4)
    assert "burst_score" not in plain[0][0]


def test_what_was_not_fitted_is_refused(folder, clips, tmp_path, capsys):
    argv = [*clips, "--output", str(tmp_path / "scores.csv"), "--false_alarms_per_hour"]
    assert predict_avb.main([str(folder), *argv, "7"]) == 1
    assert "use one of 5, 10, 20, 60, 180, 360" in capsys.readouterr().err
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    content = json.loads((bare / "calibration.json").read_text())
    (bare / "calibration.json").write_text(json.dumps({**content, "burst": None}))
    assert predict_avb.main([str(bare), *argv, "60"]) == 1
    assert "python -m avb.events reject" in capsys.readouterr().err
    with pytest.raises(ValueError, match="with a burst check"):
        avb.load(str(bare), "cpu", false_alarms_per_hour=60)
    (bare / "calibration.json").write_text(json.dumps({**content, "burst": {**content["burst"], "thresholds": [0.5]}}))
    assert predict_avb.main([str(bare), *argv, "60"]) == 1
    assert "calibration.json is damaged" in capsys.readouterr().err
    hidden = [row[:-1] if number else row for number, row in enumerate(content["burst"]["hidden_weights"])]
    damaged = {**content["burst"], "hidden_weights": hidden}
    (bare / "calibration.json").write_text(json.dumps({**content, "burst": damaged}))
    assert predict_avb.main([str(bare), *argv, "60"]) == 1
    assert "calibration.json is damaged" in capsys.readouterr().err
    assert isinstance(avb.load(str(folder), "cpu"), VocalBurstPipeline)
