"""Rejection of what is no burst: fitted, kept in calibration.json, told in tables and by the pipeline."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from sklearn.metrics import roc_auc_score

import avb
import predict_avb
from avb.events.rejection import fit, measure
from avb.models import FOLDER
from calibration_avb import RATES, Calibration, burst_scores, log_scores, weights_fingerprint
from pipeline_avb import VocalBurstPipeline


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Log scores of 500 bursts, whose first labels are likelier, and of 4,000 others."""
    rng = np.random.default_rng(0)
    shares = [
        rng.dirichlet(np.linspace(3, 1, 30) if is_burst else np.ones(30), 500 if is_burst else 4_000)
        for is_burst in (1, 0)
    ]
    return log_scores(shares[0]), log_scores(shares[1])


def test_a_fit_tells_bursts_and_its_thresholds_name_their_alarms(drawn):
    bursts, others = drawn
    check = fit(bursts, others)
    found = measure(check, bursts, others)
    kept, alarms = burst_scores(check, bursts), burst_scores(check, others)
    assert found["auroc"] == pytest.approx(roc_auc_score([1] * 500 + [0] * 4_000, [*kept, *alarms]), abs=1e-4)
    assert found["auroc"] > 0.9
    for rate in RATES:  # windows of an hour, one per second
        assert (alarms >= check.threshold(rate)).mean() * 3600 == pytest.approx(rate, abs=2)
        assert found[f"kept_at_{rate}"] == pytest.approx((kept >= check.threshold(rate)).mean(), abs=1e-4)
    true = bursts.argmax(-1)
    true[burst_scores(check, bursts) < check.threshold(60)] += 1  # every burst that is not kept is heard wrongly
    with_classes = measure(check, bursts, others, true % 30)
    assert with_classes["uar_kept_at_60"] == 1 > with_classes["uar"] and found.items() < with_classes.items()
    assert found["kept_at_5"] <= found["kept_at_60"] <= found["kept_at_360"]
    with pytest.raises(ValueError, match="false_alarms_per_hour=7: use one of 5, 10, 20"):
        check.threshold(7)


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(FOLDER / "emogator-cnn", folder)
    (folder / "calibration.json").unlink(missing_ok=True)
    model = avb.load(str(folder), "cpu").model
    calibration = Calibration(weights_fingerprint(model.named_parameters()), {}, burst=fit(*drawn))
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
    assert isinstance(avb.load(str(folder), "cpu"), VocalBurstPipeline)
