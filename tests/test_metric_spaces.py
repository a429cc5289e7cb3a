"""The folders in metrics/ as Spaces: pushed to a stub of the Hub by their README's commands, loaded by name, served."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import warm
import yaml
from conftest import ROOT
from hub_stub import hub  # noqa: F401 (a fixture)

METRICS = {"ccc": {"ccc": 0.6666666666666665}, "uar": {"uar": 0.8333333333333333}}
FILES = {"README.md", "app.py", "requirements.txt"}

# Each page's own example goes through its running server and a client.
PAGES = """
import importlib, json, os, sys
from gradio_client import Client

for space in sys.argv[1:]:
    os.chdir(space)
    sys.path.insert(0, space)
    sys.modules.pop("app", None)
    app = importlib.import_module("app")
    app.page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    table = {"headers": list(app.EXAMPLE.columns), "data": app.EXAMPLE.values.tolist(), "metadata": None}
    print(json.dumps(Client(app.page.local_url, verbose=False).predict(table, api_name="/compute")))
"""


@pytest.mark.parametrize("name", METRICS)
def test_front_matter_is_that_of_a_space_of_a_metric(name):
    front_matter = (ROOT / "metrics" / name / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    data = yaml.safe_load(front_matter)
    assert data["sdk"] == "gradio" and data["app_file"] == "app.py" and data["tags"] == ["evaluate", "metric"]
    assert (ROOT / "metrics" / name / data["app_file"]).is_file()
    assert {"title", "description", "sdk_version", "emoji", "colorFrom", "colorTo", "pinned"} <= set(data)


@pytest.mark.slow
def test_pushed_by_the_readmes_commands_and_loaded_by_name(hub, tmp_path):  # noqa: F811
    environment = hub.environment(tmp_path / "hf_home") | {"PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"}
    for name in METRICS:
        readme = (ROOT / "metrics" / name / "README.md").read_text(encoding="utf-8")
        commands = re.search(r"## As a Space\n\n```\n(.*?)```", readme, flags=re.DOTALL)[1].replace("ORG/", "org/")
        assert commands.count("\n") == 2
        for command in map(shlex.split, commands.splitlines()):
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
            assert done.returncode == 0, done.stderr
        assert set(hub.repos[f"spaces/org/{name}"].files) == FILES | {f"{name}.py"}
    script = (
        "import evaluate, json\n"
        "for name, values in (('ccc', [[0.0, 1.0, 1.0], [0.0, 1.0, 2.0]]), ('uar', [[0, 0, 1, 1], [0, 0, 0, 1]])):\n"
        "    metric = evaluate.load(f'org/{name}')\n"
        "    print(json.dumps(metric.compute(predictions=values[0], references=values[1])))\n"
    )
    done = warm.run([sys.executable, "-c", script], cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert list(map(json.loads, done.stdout.splitlines())) == list(METRICS.values())
    for name in METRICS:
        assert ("GET", f"/spaces/org/{name}/resolve/main/{name}.py") in hub.requests


@pytest.mark.slow
def test_pages_compute_what_the_readmes_print(tmp_path):
    pytest.importorskip("gradio", reason="the page of a metric needs gradio (the extra `demo`)")
    for name in METRICS:  # as on the Hub: each in a folder of its own, of another name
        shutil.copytree(
            ROOT / "metrics" / name, tmp_path / f"space-{name}", ignore=shutil.ignore_patterns("__pycache__")
        )
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
    environment |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    spaces = [tmp_path / f"space-{name}" for name in METRICS]
    done = warm.run([sys.executable, "-c", PAGES, *spaces], cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    printed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert printed == list(METRICS.values())
    for space, answer in zip(spaces, printed, strict=True):
        assert repr(answer) in (space / "README.md").read_text(encoding="utf-8")
