"""The Hub's layout of an export: where it is written, and what is refused. The shipped models' are in test_web.py."""

import json

import pytest
import torch
from conftest import stir

from avb.baselines import Emo18, Emo18Config, SEResNet, SEResNetConfig
from avb.cards.hub_folder import save_hub_folder
from avb.export import command, hub
from avb.export.check import made_up_bursts
from avb.export.exporting import export_model
from avb.export.hub import export_hub
from feature_extraction_avb import VocalBurstFeatureExtractor

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow


@pytest.fixture
def few_bursts(monkeypatch):
    """Compared on three clips: what is tested is what is done with the differences."""
    monkeypatch.setattr(hub, "made_up_bursts", lambda: dict(list(made_up_bursts().items())[::4]))


def test_se_resnets_export_alone_and_padded(tmp_path):
    differences = export_model(
        make_se_resnet(tmp_path / "model"), tmp_path / "out"
    )  # on clips from 0.025 s, alone and in a batch
    assert max(difference.largest for difference in differences) < 1e-4


def test_into_a_runs_own_folder_by_the_command_and_what_is_refused(tmp_path, capsys, few_bursts):
    def run(*argv):
        code = command.main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    own = make_se_resnet(tmp_path / "run")
    config = (own / "config.json").read_bytes()
    (own / "onnx").mkdir()
    (own / "onnx" / "notes.txt").write_text("mine")
    assert "exists, and is not an export" in run(own, own, "--hub")[1]
    (own / "onnx" / "export.json").write_text("{}")
    assert run(own, own, "--hub")[1].endswith("onnx exists: give another OUT, or --overwrite\n")
    code, said = run(own, own, "--hub", "--overwrite")
    assert code == 0 and said.count("of torch's") == 3, said
    assert (own / "config.json").read_bytes() == config and not list(own.glob(".onnx-*"))
    assert json.loads((own / "onnx" / "export.json").read_text())["weights_sha256"]
    assert not (own / "onnx" / "notes.txt").exists()
    assert "leave --precision and --backend out" in run(own, tmp_path / "x", "--hub", "--precision", "int8")[1]
    assert "a new folder, or the model's own" in run(own, tmp_path, "--hub")[1]
    assert "more than the tolerance of 0" in run(own, tmp_path / "x", "--hub", "--tolerance", "0")[1]
    save_hub_folder(Emo18(Emo18Config(num_labels=4)), VocalBurstFeatureExtractor(), tmp_path / "emo18")
    assert "this is a Emo18, and only these can be exported" in run(tmp_path / "emo18", tmp_path / "x", "--hub")[1]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "emo18"}


def make_se_resnet(folder):
    torch.manual_seed(0)
    model = stir(SEResNet(SEResNetConfig(num_labels=4, width=4, loss="ce"))).eval()
    save_hub_folder(model, VocalBurstFeatureExtractor(peak_db=-3.0), folder)
    return folder


def test_a_smaller_file_past_the_tolerance_is_left_out_and_said(tmp_path, few_bursts):
    """At 2e-4 fp32 is well within, and int8 is not."""
    files = export_hub(make_se_resnet(tmp_path / "run"), tmp_path / "out", tolerance=2e-4)
    assert {file.precision: file.is_left_out for file in files} == {"fp32": False, "fp16": False, "int8": True}
    assert files[2].said.startswith("model_quantized.onnx: left out:")
    assert not (tmp_path / "out" / "onnx" / "model_quantized.onnx").exists()
