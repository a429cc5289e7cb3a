"""A release as the Hub expects it: the page in a Space, exports and benchmark scores pushed along, and what is lacking.

Pushed to the stub of the Hub (hub_stub.py), by the real client in a process.
"""

import json
import sys

import pytest
import warm
import yaml
from finished_run import make_run
from hub_stub import hub  # noqa: F401 (a fixture)
from huggingface_hub import metadata_load, parse_eval_result_entries

from avb.cards import command
from avb.cards.card import write_card
from avb.cards.checking import check_release
from avb.cards.hub_folder import hub_files
from avb.cards.space import link_space
from avb.errors import AvbError
from avb.export.check import made_up_bursts
from avb.export.hub import export_hub
from avb.export.page_folder import PAGE, RUNTIME_FILES
from avb.inference.load import load_model
from avb.run_files import METRICS
from avb.training.checkpoints import clear
from calibration_avb import CALIBRATION_FILE, Calibration


@pytest.fixture
def folder(tmp_path):
    run = make_run(tmp_path / "avb-two")
    write_card(run)
    return run


@pytest.fixture
def scored_on_test(folder):
    """The same run, its validation scores told as those of test."""
    metrics = json.loads((folder / METRICS).read_text())
    metrics["splits"]["test"] = metrics["splits"]["validation"]
    (folder / METRICS).write_text(json.dumps(metrics))
    return folder


def test_a_calibration_of_other_weights_does_not_count(folder):
    def is_met() -> bool:
        (point,) = (point for point in check_release(folder) if point.name == "calibrated probabilities")
        return point.is_met

    path = folder / CALIBRATION_FILE
    path.write_text(Calibration("0" * 16, {}).to_json())
    with pytest.warns(UserWarning, match="fitted to other weights"):
        assert not is_met()
    path.write_text(Calibration(load_model(str(folder), "cpu")[0].trained_weights, {}).to_json())
    assert is_met()
    clear(folder)  # to train again
    assert not path.exists()


@pytest.mark.slow
def test_push_with_a_space_gives_the_model_its_page(folder, hub, tmp_path, monkeypatch):  # noqa: F811
    """The runtime's files stand in for ONNX Runtime Web's, which a browser runs in test_web.py: these are copied."""
    monkeypatch.setattr("avb.export.hub.made_up_bursts", lambda: {"burst": made_up_bursts()["burst 4"]})
    export_hub(folder, folder)
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for name in RUNTIME_FILES:
        (runtime / name).write_bytes(b"\0asm" + name.encode())
    argv = ["push", folder, "org/avb-two", "--yes", "--web_space", "org/hear", "--ort_dir", runtime]
    environment = hub.environment(tmp_path / "home") | {"OMP_NUM_THREADS": "1"}
    done = warm.run([sys.executable, "-m", "avb.cards", *argv], env=environment)
    assert done.returncode == 0, done.stderr
    model, space = hub.repos["org/avb-two"], hub.repos["spaces/org/hear"]
    assert model.private and space.private and len(model.commits) == len(space.commits) == 1
    assert {"onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_quantized.onnx", "onnx/export.json"} <= set(
        model.files
    )
    card = model.files["README.md"].decode()
    assert "(https://huggingface.co/spaces/org/hear)" in card and "## Try it" not in (folder / "README.md").read_text()
    assert "https://huggingface.co/spaces/org/hear/resolve/main/picture.png" in card and "picture.png" in space.files
    served = {path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*.*s") if "node_modules" not in path.parts}
    assert served | {"index.html", "models.json", *(f"ort/{name}" for name in RUNTIME_FILES)} <= set(space.files)
    (shown,) = json.loads(space.files["models.json"])["models"]
    assert shown["link"] == "org/avb-two"
    assert space.files[f"{shown['folder']}/onnx/model.onnx"] == model.files["onnx/model.onnx"]
    (tmp_path / "space.md").write_bytes(space.files["README.md"])
    settings = metadata_load(tmp_path / "space.md")
    assert settings["sdk"] == "static" and settings["models"] == ["org/avb-two"]
    assert settings["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"
    announced = {line.split()[-1] for line in done.stdout.splitlines() if " bytes " in line}
    assert announced == set(model.files) | set(space.files)


def test_the_page_takes_the_place_of_an_older_one_in_a_card():
    card = "# x\n\n## Model\n\nwords\n"
    once = link_space(card, "org/one")
    assert once.index("## Try it") < once.index("## Model") and link_space(card, None) == card
    again = link_space(once, "org/two")
    assert again.count("## Try it") == 1 and "org/one" not in again and again.endswith("\n## Model\n\nwords\n")


def test_an_export_of_other_weights_is_not_pushed(folder):
    (folder / "onnx").mkdir()
    (folder / "onnx" / "export.json").write_text('{"weights_sha256": "of others"}')
    with pytest.raises(AvbError, match="exported from other weights than model.safetensors; export it again"):
        hub_files(folder)


def test_a_benchmarks_file_is_as_the_hub_reads_it(scored_on_test):
    write_card(scored_on_test, benchmark="org/bursts:two", datasets=["org/bursts"])
    (path,) = (scored_on_test / ".eval_results").iterdir()
    assert path.name == "org--bursts--two.yaml" and ".eval_results/org--bursts--two.yaml" in hub_files(scored_on_test)
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    metrics = json.loads((scored_on_test / METRICS).read_text())
    assert (entry.dataset_id, entry.task_id) == ("org/bursts", "two")
    assert entry.value == pytest.approx(metrics["splits"]["test"]["ccc"], abs=1e-4)
    assert metadata_load(scored_on_test / "README.md")["datasets"] == ["org/bursts"]


def test_a_benchmark_needs_a_test_score_and_a_name(folder, scored_on_test):
    with pytest.raises(AvbError, match="give ORG/DATASET:TASK"):
        write_card(scored_on_test, benchmark="bursts")
    with pytest.raises(AvbError, match="--dataset bursts: give ORG/NAME"):
        write_card(scored_on_test, datasets=["bursts"])
    metrics = json.loads((folder / METRICS).read_text())
    del metrics["splits"]["test"]
    (folder / METRICS).write_text(json.dumps(metrics))
    with pytest.raises(AvbError, match="no score"):
        write_card(folder, benchmark="org/bursts:two")


def test_check_says_what_a_release_lacks_and_what_it_must_not_lack(folder, capsys):
    def check():
        code = command.main(["check", str(folder)])
        return code, capsys.readouterr().out.splitlines()

    code, lines = check()
    assert code == 0 and "ok      a card" in lines and not [line for line in lines if line.startswith("MISSING")]
    assert [line for line in lines if line.startswith("lacks   onnx/") and line.endswith(f"{folder} {folder} --hub")]
    assert [line for line in lines if line.startswith("lacks   a score on a test split")]
    assert [
        line
        for line in lines
        if line.startswith("lacks   rejection of sounds that are not bursts: python -m avb.events")
    ]
    metrics = json.loads((folder / METRICS).read_text())
    metrics["splits"]["validation"]["ccc"] += 0.1
    (folder / METRICS).write_text(json.dumps(metrics))
    code, lines = check()
    assert code == 1 and [line for line in lines if line.startswith("MISSING the card's scores match")]
    (folder / "README.md").unlink()
    code, lines = check()
    assert code == 1 and f"MISSING a card: python -m avb.cards write {folder}" in lines
