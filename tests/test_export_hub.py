"""The Hub's layout of an export, of every model that ships: each file's scores are torch's; `avb.load` finds them."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import stir

import avb
from avb.baselines import Emo18, Emo18Config, SEResNet, SEResNetConfig
from avb.cards.hub_folder import save_hub_folder
from avb.errors import AvbError
from avb.export import command, hub
from avb.export.check import made_up_bursts
from avb.export.exporting import export_model
from avb.export.hub import export_hub
from avb.inference.engines import HUB_FILES
from avb.inference.prediction import load_model, score_waveforms
from avb.models import FOLDER, names
from feature_extraction_avb import VocalBurstFeatureExtractor

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow
TOLERANCES = {"fp32": 1e-4, "fp16": 0.01, "int8": 0.01}


@pytest.fixture(scope="module", params=names())
def exported(request, tmp_path_factory):
    """A shipped model's name, and the folder of its export."""
    folder = tmp_path_factory.mktemp("hub") / request.param
    export_hub(request.param, folder)
    return request.param, folder


def test_every_shipped_model_exports_and_scores_the_same(exported):
    name, folder = exported
    report = json.loads((folder / "onnx" / "export.json").read_text())
    assert [file["name"] for file in report["files"]] == list(HUB_FILES.values())
    sizes = {file["precision"]: (folder / "onnx" / file["name"]).stat().st_size for file in report["files"]}
    assert sizes["int8"] < sizes["fp16"] < 0.7 * sizes["fp32"]
    bursts = list(made_up_bursts(peak=0.5).values())[4:]
    expected = score_waveforms(*load_model(name, "cpu"), bursts)
    assert expected.max(0).std() > 1e-3  # what is compared is not the same everywhere
    for precision, tolerance in TOLERANCES.items():
        scores = score_waveforms(*load_model(folder, "cpu", engine="onnx", precision=precision), bursts)
        np.testing.assert_allclose(scores, expected, atol=tolerance)


def test_load_takes_torch_where_there_are_safetensors_and_else_what_there_is(exported, tone, tmp_path):
    name, folder = exported
    if name != names()[0]:
        pytest.skip("one model says it")
    both = shutil.copytree(folder, tmp_path / "both")
    for file in ("model.safetensors", "config.json"):
        shutil.copyfile(FOLDER / name / file, both / file)
    kinds = {
        (place, engine): type(avb.load(str(path), engine=engine).model).__name__
        for place, path in {"both": both, "onnx only": folder}.items()
        for engine in (None, "onnx")
    }
    torch_class = type(load_model(name, "cpu")[0]).__name__
    assert kinds.pop(("both", None)) == torch_class and set(kinds.values()) == {"ExportedModel"}
    openvino = pytest.importorskip("openvino") and avb.load(str(folder), engine="openvino")
    expected = [score["score"] for score in avb.load(name, device="cpu")((tone, 16_000))]
    np.testing.assert_allclose([score["score"] for score in openvino((tone, 16_000))], expected, atol=1e-4)
    with pytest.raises(AvbError, match="no onnx/model_fp16.onnx; write it first: python -m avb.export"):
        (both / "onnx" / "model_fp16.onnx").unlink()
        avb.load(str(both), engine="onnx", precision="fp16")
    with pytest.raises(AvbError, match="engine='jax' is not legal"):
        avb.load(str(both), engine="jax")
    with pytest.raises(AvbError, match="precision='fp16' is for engine='onnx'"):
        avb.load(str(both), precision="fp16")


def test_se_resnets_export_alone_and_padded(tmp_path):
    differences = export_model(
        make_se_resnet(tmp_path / "model"), tmp_path / "out"
    )  # on clips from 0.025 s, alone and in a batch
    assert max(difference.largest for difference in differences) < 1e-4


def test_into_a_runs_own_folder_by_the_command_and_what_is_refused(tmp_path, capsys):
    def run(*argv):
        code = command.main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    own = make_se_resnet(tmp_path / "run")
    config = (own / "config.json").read_bytes()
    (own / "onnx").mkdir()
    (own / "onnx" / "notes.txt").write_text("mine")
    assert "exists, and is no export" in run(own, own, "--hub")[1]
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


def test_a_smaller_file_past_the_tolerance_is_left_out_and_said(tmp_path, monkeypatch):
    """At 2e-4 fp32 is well within, and int8 is not."""
    monkeypatch.setattr(hub, "made_up_bursts", lambda: dict(list(made_up_bursts().items())[:3]))
    files = export_hub(make_se_resnet(tmp_path / "run"), tmp_path / "out", tolerance=2e-4)
    assert {file.precision: file.is_left_out for file in files} == {"fp32": False, "fp16": False, "int8": True}
    assert files[2].said.startswith("model_quantized.onnx: left out:")
    assert not (tmp_path / "out" / "onnx" / "model_quantized.onnx").exists()
