"""Each further kind of encoder, from tiny random checkpoints that the stock class saved: layers, batches, files."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from tiny_kinds import STOCK, load, stock_layers

from avb.cards.hub_folder import hub_files, save_hub_folder
from avb.collator import BurstCollator
from avb.encoders.kinds import MODELS
from avb.inference.load import load_model
from feature_extraction_avb import VocalBurstFeatureExtractor
from pooling_avb import POOLINGS

KINDS = sorted({stock.kind for stock in STOCK.values()})


def test_every_kind_is_tested():
    assert {*KINDS, "wav2vec2", "hubert"} == set(MODELS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """By name: a plain checkpoint, with a feature extractor as wav2vec 2.0 has it."""
    root = tmp_path_factory.mktemp("plain")
    for name, stock in STOCK.items():
        stock.build().save_pretrained(root / name)
    return {name: root / name for name in STOCK}


@pytest.fixture(params=STOCK)
def name(request) -> str:
    return request.param


@torch.inference_mode()
def test_a_layer_is_that_of_the_stock_model(name, folders, waveforms):
    clip = waveforms[-3][None]
    # The stock extractor of w2v-BERT's features computes in fp64.
    close = {"rtol": 0, "atol": 1e-4 if STOCK[name].kind == "wav2vec2-bert" else 2e-5}
    expected = stock_layers(STOCK[name], clip)
    for layer in (1, 2):
        model = load(folders[name], STOCK[name].kind, encoder_layer=layer)
        outputs, mask = model.encode(clip, output_hidden_states=True)
        assert mask.all() and len(outputs.hidden_states) == layer + 1
        for found, wanted in zip(outputs.hidden_states, expected[: layer + 1], strict=True):
            torch.testing.assert_close(found, wanted, **close)
        torch.testing.assert_close(outputs.last_hidden_state, expected[layer], **close)


@torch.inference_mode()
@pytest.mark.parametrize("is_weighed", [False, True])
def test_a_clip_scores_the_same_alone_and_in_a_batch(name, is_weighed, folders, waveforms):
    model = load(folders[name], STOCK[name].kind, pooling="attention", use_weighted_layer_sum=is_weighed)
    for model.config.pooling in ("avg",) if is_weighed else POOLINGS:
        alone = torch.cat([model(clip[None]).logits for clip in waveforms])
        lengths = torch.tensor([len(clip) for clip in waveforms])
        padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True, padding_value=3.0)
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        together = model(padded, attention_mask=mask).logits
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
        assert alone.std(0).min() > 1e-3  # scores that could differ


@torch.inference_mode()
def test_sdpa_computes_what_eager_does(name, folders, waveforms):
    padded = torch.nn.utils.rnn.pad_sequence(waveforms[-2:], batch_first=True)
    mask = torch.ones(2, padded.shape[1], dtype=torch.long)
    mask[0, len(waveforms[-2]) :] = 0
    scores = []
    for attention in ("sdpa", "eager"):
        model = load(folders[name], STOCK[name].kind, attn_implementation=attention)
        assert model.base_model.config._attn_implementation == attention
        scores.append(model(padded, attention_mask=mask).logits)
    torch.testing.assert_close(*scores, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["wav2vec2-conformer", "wav2vec2-bert"])
def test_relative_positions_are_exact_again_after_half_precision(kind, tmp_path, waveforms):
    stock = STOCK[kind]._replace(fields=STOCK[kind].fields | {"position_embeddings_type": "relative"})
    stock.build().save_pretrained(tmp_path)
    model, clip = load(tmp_path, kind), waveforms[-3][None]
    before = model(clip).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(model(clip).logits, before)
    assert torch.equal(model(clip).logits, before)


def test_every_weight_learns(name, folders, waveforms):
    model = load(folders[name], STOCK[name].kind, use_weighted_layer_sum=True, pooling="avg").train()
    padded = torch.nn.utils.rnn.pad_sequence(waveforms[-2:], batch_first=True)
    model(padded, labels=torch.rand(2, 3)).loss.backward()
    still = [key for key, parameter in model.named_parameters() if parameter.grad is None and parameter.requires_grad]
    assert not still
    model.zero_grad()
    model.freeze_layers(1)
    model(padded, labels=torch.rand(2, 3)).loss.backward()
    learns = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert not [key for key in learns if "layers.0." in key or "conv" in key and "layers.1." not in key]
    assert [key for key in learns if "layers.1." in key]


# ---- files ---------------------------------------------------------------------------------------------------------

READER = """
import json, sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification
answers = {}
for folder in json.loads(sys.argv[1]):
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert type(config).__module__.startswith("transformers_modules."), type(config)
    for auto in (AutoModel, AutoModelForAudioClassification)[: 1 if answers else 2]:
        model = auto.from_pretrained(folder, trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules."), type(model)
    with torch.inference_mode():
        answers[folder] = model(torch.load(sys.argv[2])).logits.tolist()
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_a_saved_folder_is_read_without_this_project_by_its_own_kinds_code(folders, waveforms, tmp_path):
    expected, clip = {}, waveforms[-1][None]
    for kind in KINDS:
        model = load(folders[kind], kind, pooling="attention", use_weighted_layer_sum=True)
        folder = save_hub_folder(model, VocalBurstFeatureExtractor(peak_db=None), tmp_path / kind)
        modules = {path.name for path in folder.glob("modeling_*.py")}
        assert modules == {"modeling_avb.py", f"{MODELS[kind][0]}.py"}
        assert {path.name for path in folder.iterdir()} == set(hub_files(folder))
        assert json.loads((folder / "config.json").read_text())["auto_map"]["AutoModel"].startswith(MODELS[kind][0])
        with torch.inference_mode():
            expected[str(folder)] = model(clip).logits.tolist()
    torch.save(clip, tmp_path / "clip.pt")
    (tmp_path / "elsewhere").mkdir()
    environment = {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "PATH": os.environ["PATH"],
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    ours = ["avb", "modeling_avb", "configuration_avb", "encoder_avb", "pooling_avb", "positions_avb"]
    hidden = f"import sys; sys.modules.update(dict.fromkeys({ours}))"
    command = [sys.executable, "-I", "-c", f"{hidden}\n{READER}", json.dumps(list(expected)), tmp_path / "clip.pt"]
    done = warm.run(command, cwd=tmp_path / "elsewhere", env=environment)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for folder, logits in expected.items():
        np.testing.assert_allclose(answers[folder], logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_is_loaded_and_exported(kind, folders, waveforms, tmp_path):
    pytest.importorskip("onnxruntime")
    from avb.export.writing import write_graph
    from avb.inference.engines import open_engine

    model = load(folders[kind], kind, pooling="last", use_weighted_layer_sum=True)
    feature_extractor = VocalBurstFeatureExtractor(peak_db=None)
    save_hub_folder(model, feature_extractor, tmp_path / "model")
    loaded, feature_extractor = load_model(str(tmp_path / "model"), "cpu")
    batch = BurstCollator(feature_extractor)([{"input_values": clip.numpy()} for clip in waveforms[-3:]])
    with torch.inference_mode():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=0, atol=0)
    write_graph(loaded, tmp_path / "model.onnx", "fp32")
    run = open_engine(tmp_path / "model.onnx", "onnx", "fp32")
    with torch.inference_mode():
        for clips in (waveforms[-3:], waveforms[:1], waveforms[2:6]):
            batch = BurstCollator(feature_extractor)([{"input_values": clip.numpy()} for clip in clips])
            found = run(batch["input_values"].numpy(), batch["attention_mask"].long().numpy())
            np.testing.assert_allclose(found, loaded(**batch).logits, rtol=0, atol=2e-5)
