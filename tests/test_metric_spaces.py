"""The folders in metrics/ as Spaces: pushed to a stub of the Hub by their README's commands, loaded by name, served."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT
from hub_stub import hub  # noqa: F401 (a fixture)

METRICS = {"ccc": {"ccc": 0.6666666666666665}, "uar": {"uar": 0.8333333333333333}}
FILES = {"README.md", "app.py", "requirements.txt"}

# The page's own example goes through the running server and its client.
PAGE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import app
from gradio_client import Client

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
@pytest.mark.parametrize("name", METRICS)
def test_pushed_by_the_readmes_commands_and_loaded_by_name(name, hub, tmp_path):  # noqa: F811
    environment = hub.environment(tmp_path / "hf_home") | {"PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"}
    readme = (ROOT / "metrics" / name / "README.md").read_text(encoding="utf-8")
    commands = re.search(r"## As a Space\n\n```\n(.*?)```", readme, flags=re.DOTALL)[1].replace("ORG/", "org/")
    assert commands.count("\n") == 2
    for command in map(shlex.split, commands.splitlines()):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
    assert set(hub.repos[f"spaces/org/{name}"].files) == FILES | {f"{name}.py"}
    script = (
        "import evaluate, json\n"
        f"metric = evaluate.load('org/{name}')\n"
        f"values = {[[0.0, 1.0, 1.0], [0.0, 1.0, 2.0]] if name == 'ccc' else [[0, 0, 1, 1], [0, 0, 0, 1]]}\n"
        "print(json.dumps(metric.compute(predictions=values[0], references=values[1])))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == METRICS[name]
    assert ("GET", f"/spaces/org/{name}/resolve/main/{name}.py") in hub.requests


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_page_computes_what_the_readme_prints(name, tmp_path):
    pytest.importorskip("gradio", reason="the page of a metric needs gradio (the extra `demo`)")
    space = tmp_path / "space"  # as on the Hub: a folder of its own, of another name
    shutil.copytree(ROOT / "metrics" / name, space, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
    environment |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", PAGE, str(space)],
        cwd=space,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == METRICS[name]
    assert repr(METRICS[name]) in (space / "README.md").read_text(encoding="utf-8")
