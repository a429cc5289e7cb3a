"""The `evaluate` modules in metrics/, loaded from the project's root without a network, agree with avb.metrics.

They are loaded in one process of their own: `evaluate` reads its offline switch and its cache folder when imported.
"""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import warm

from avb import metrics

ROOT = Path(__file__).resolve().parent.parent
NAN = float("nan")

pytestmark = pytest.mark.slow  # a process of its own, that imports evaluate

# Each job: module, config_name or None, predictions, references.
CALLER = """
import json
import sys
import evaluate

modules = {
    (name, config_name): evaluate.load(f"./metrics/{name}", config_name=config_name)
    for name in ("ccc", "uar")
    for config_name in (None, "multilabel")
}
results = []
for name, config_name, predictions, references in json.load(sys.stdin):
    try:
        results.append(modules[name, config_name].compute(predictions=predictions, references=references))
    except ValueError as error:
        results.append({"error": str(error)})
json.dump(results, sys.stdout)
"""


def jobs():
    rng = np.random.default_rng(0)
    y_true = rng.random((30, 3))
    y_pred = 0.5 * y_true + 0.5 * rng.random((30, 3))
    y_true[rng.random((30, 3)) < 0.2] = NAN
    # Class 3 occurs in no reference, -100 is missing.
    classes_true, classes_pred = rng.integers(3, size=(40, 2)), rng.integers(4, size=(40, 2))
    classes_true[::7] = -100
    return {
        "ccc": ("ccc", None, y_pred[:, 0].tolist(), y_true[:, 0].tolist()),
        "ccc multilabel": ("ccc", "multilabel", y_pred.tolist(), y_true.tolist()),
        "ccc nan prediction": ("ccc", None, [0.1, NAN, 0.3], [0.1, 0.2, 0.3]),
        "ccc constant": ("ccc", None, [0.5, 0.5, 0.5], [0.1, 0.2, 0.3]),
        "ccc undefined": ("ccc", None, [0.5, 0.5], [0.5, 0.5]),
        "ccc shapes": ("ccc", "multilabel", [[0.1, 0.2], [0.3, 0.4]], [[0.1], [0.2]]),
        "ccc readme": ("ccc", None, [0.0, 1.0, 1.0], [0.0, 1.0, 2.0]),
        "ccc readme multilabel": (
            "ccc",
            "multilabel",
            [[0.0, 1.0], [1.0, 2.0], [1.0, 3.0]],
            [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]],
        ),
        "uar": ("uar", None, classes_pred[:, 0].tolist(), classes_true[:, 0].tolist()),
        "uar multilabel": ("uar", "multilabel", classes_pred.tolist(), classes_true.tolist()),
        "uar undefined": ("uar", None, [0, 1], [-100, -100]),
        "uar readme": ("uar", None, [0, 0, 1, 1], [0, 0, 0, 1]),
        "uar readme multilabel": ("uar", "multilabel", [[0, 1], [1, 1]], [[0, 0], [1, 1]]),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path_factory.mktemp("hf_home")),
        # A connection would go to a port where nothing listens, and fail.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    for inherited in ("HF_MODULES_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE"):
        environment.pop(inherited, None)
    finished = warm.run([sys.executable, "-c", CALLER], input=json.dumps(list(jobs().values())), env=environment)
    assert finished.returncode == 0, finished.stderr
    return dict(zip(jobs(), json.loads(finished.stdout), strict=True))


def test_ccc_equals_avb(results):
    _, _, y_pred, y_true = jobs()["ccc"]
    assert results["ccc"] == {"ccc": pytest.approx(metrics.ccc(y_true, y_pred), abs=1e-12)}
    _, _, y_pred, y_true = jobs()["ccc multilabel"]
    expected = metrics.ccc(y_true, y_pred)
    assert results["ccc multilabel"]["per_label"] == pytest.approx(expected.tolist(), abs=1e-12)
    assert results["ccc multilabel"]["ccc"] == pytest.approx(expected.mean(), abs=1e-12)


def test_ccc_edges(results):
    assert np.isnan(results["ccc nan prediction"]["ccc"])
    assert results["ccc constant"]["ccc"] == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(results["ccc undefined"]["ccc"])
    assert results["ccc shapes"] == {"error": "predictions are (2, 2), references (2, 1): give equal shapes"}


def test_uar_equals_avb(results):
    _, _, y_pred, y_true = jobs()["uar"]
    assert 3 in y_pred and 3 not in y_true and -100 in y_true
    assert results["uar"] == {"uar": pytest.approx(metrics.uar(y_true, y_pred), abs=1e-12)}
    _, _, y_pred, y_true = (np.array(value) for value in jobs()["uar multilabel"])
    expected = [metrics.uar(y_true[:, i], y_pred[:, i]) for i in range(2)]
    assert results["uar multilabel"]["per_label"] == pytest.approx(expected, abs=1e-12)
    assert results["uar multilabel"]["uar"] == pytest.approx(sum(expected) / 2, abs=1e-12)
    assert np.isnan(results["uar undefined"]["uar"])


@pytest.mark.parametrize("name", ["ccc", "uar"])
def test_readme_and_docstring_print_what_the_modules_return(results, name):
    printed = [repr(results[f"{name} readme"]), repr(results[f"{name} readme multilabel"])]
    readme = (ROOT / "metrics" / name / "README.md").read_text(encoding="utf-8")
    module = (ROOT / "metrics" / name / f"{name}.py").read_text(encoding="utf-8")
    assert re.findall(r"^# (\{.*\})$", readme, flags=re.MULTILINE) == printed
    assert re.findall(r"^    (\{'.*\})$", module, flags=re.MULTILINE) == printed
