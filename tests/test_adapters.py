"""Adapters of low rank: on every kind of encoder, in a run and its checkpoints, in a folder without the encoder."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import stir
from safetensors.torch import load_file
from tiny_kinds import STOCK, load
from trainings import is_same

import avb
import train_avb
from avb.arguments import DataArguments, ModelArguments
from avb.encoders.adapters import HEAD, MARK, add_adapters, has_adapters, merge_adapters, save_adapters
from avb.encoders.kinds import all_classes
from avb.errors import AvbError
from avb.inference.load import load_model
from avb.tasks import TASKS
from avb.training.build import build_model
from avb.training.trainer import BurstTrainer
from feature_extraction_avb import VocalBurstFeatureExtractor

pytest.importorskip("peft")
KINDS = sorted({stock.kind for stock in STOCK.values()}, key=lambda kind: (kind != "wavlm", kind))
NARROW = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "conv_dim": (16,) * 7}
NARROW |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 4}
WHISPER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
WHISPER |= {"max_source_positions": 50, "pad_token_id": 0, "vocab_size": 8}


def tiny(model_class):
    config_class = model_class.config_class
    fields = WHISPER if config_class.kind == "Whisper" else {**NARROW, "num_hidden_layers": 2}
    known = {field: value for field, value in fields.items() if field in config_class.__dataclass_fields__}
    if config_class.kind == "SEW":
        known["conv_dim"] = (16,) * 13
    torch.manual_seed(0)
    return stir(model_class(config_class(**known, rnn_layers=0, pooling="avg", num_labels=3))).eval()


@pytest.mark.parametrize("model_class", all_classes(), ids=lambda found: found.config_class.kind)
def test_the_rate_of_a_layer_is_lower_the_lower_it_is(model_class):
    model = tiny(model_class)
    own = SimpleNamespace(model=model, args=SimpleNamespace(layer_lr_decay=0.5, encoder_learning_rate=8.0))
    layers = [{id(parameter) for parameter in layer.parameters()} for layer in model.base_model.layers_kept]
    for name, parameter in model.base_model.named_parameters(prefix=model.base_model_prefix):
        (depth,) = [index + 1 for index, layer in enumerate(layers) if id(parameter) in layer] or [0]
        assert BurstTrainer._encoder_rate(own, name) == {2: 8.0, 1: 4.0, 0: 2.0}[depth], name


@torch.inference_mode()
@pytest.mark.parametrize("model_class", all_classes(), ids=lambda found: found.config_class.kind)
def test_adapters_change_what_a_model_says_and_merging_does_not(model_class):
    """In the stock WavLM they would change nothing: its attention reads weights past the modules."""
    model = tiny(model_class)
    clip = torch.randn(1, 8000)
    base = model(clip).logits
    keys = set(model.state_dict())
    add_adapters(model, 4)
    torch.testing.assert_close(model(clip).logits, base, rtol=0, atol=0)  # as long as they are untrained
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in trained if MARK in name}
    assert len(adapters) == 2 * 2 * 2  # layers, projections, factors
    assert trained.keys() - adapters == {"head.weight", "head.bias"}
    assert sum(trained[name].numel() for name in adapters) == 2 * 2 * 2 * 4 * 32
    for name in adapters:
        trained[name].add_(torch.randn(trained[name].shape))
    unmerged = model(clip).logits
    assert (unmerged - base).abs().max() > 1e-3
    merge_adapters(model)
    assert not has_adapters(model) and set(model.state_dict()) == keys
    torch.testing.assert_close(model(clip).logits, unmerged, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_adapters_holds_no_encoder_and_is_loaded_with_it(kind, tmp_path, monkeypatch):
    """As `--merge_lora false` writes it: on every kind, merged when it is loaded; without peft one line."""
    STOCK[kind].build().save_pretrained(tmp_path / "encoder")
    model = load(tmp_path / "encoder", kind, pooling="attention", use_weighted_layer_sum=True)
    clip = torch.randn(1, 16_000)
    base = model(clip).logits
    add_adapters(model, 4)
    for name, parameter in model.named_parameters():
        if MARK in name:
            parameter.add_(0.3 * torch.randn(parameter.shape))
    unmerged = model(clip).logits
    assert (unmerged - base).abs().max() > 1e-3
    folder = tmp_path / "run"
    save_adapters(model, VocalBurstFeatureExtractor(peak_db=None), str(tmp_path / "encoder"), folder)
    assert {path.name for path in folder.rglob("*.safetensors")} == {"adapter_model.safetensors", HEAD}
    assert not [key for key in load_file(folder / HEAD) if key.startswith(f"{model.base_model_prefix}.")]
    loaded, _ = load_model(str(folder), "cpu")
    assert not has_adapters(loaded)
    torch.testing.assert_close(loaded(clip).logits, unmerged, rtol=0, atol=1e-5)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(AvbError, match=r"need the package peft, which is missing"):
        load_model(str(folder))


@pytest.fixture(
    scope="module", params=["wavlm", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in KINDS[1:])]
)
def encoder(request, tmp_path_factory):
    """A plain checkpoint; of WavLM every day."""
    folder = tmp_path_factory.mktemp(request.param)
    STOCK[request.param].build().save_pretrained(folder)
    return folder


def arguments(sample, encoder, output, *more: str) -> list[str]:
    settings = {
        "data_dir": sample, "task": "two", "encoder": encoder, "output_dir": output, "lora_rank": 4, "rnn_layers": 0,
        "pooling": "avg", "encoder_layer": 2,
        "use_weighted_layer_sum": True, "per_device_train_batch_size": 4, "max_steps": 4, "head_dropout": 0.2,
        "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 3,
        "encoder_learning_rate": 0.01, "learning_rate": 0.01, "disable_tqdm": True, "cache_dir": sample / "cache",
        "num_train_epochs": 1, "keep_checkpoints": True,
    }  # fmt: skip
    if json.loads((encoder / "config.json").read_text())["model_type"] != "whisper":  # whose dropout is its own
        settings["hidden_dropout"] = 0.2
    return [
        "recipes/sample.yaml",
        *(text for key, value in settings.items() for text in (f"--{key}", str(value))),
        *more,
    ]


@pytest.mark.slow
def test_a_run_holds_adapters_in_its_checkpoints_resumes_to_the_bit_and_merges(sample, encoder, tmp_path):
    assert train_avb.main(arguments(sample, encoder, tmp_path / "run")) == 0
    merged = load_file(tmp_path / "run" / "model.safetensors")
    assert not [key for key in merged if MARK in key] and "layer_weights" in merged
    kind = json.loads((encoder / "config.json").read_text())["model_type"]
    base = load(encoder, kind, encoder_layer=2, rnn_layers=0, pooling="avg", use_weighted_layer_sum=True, num_labels=2)
    changed = {key for key, value in base.state_dict().items() if not torch.equal(merged[key], value)}
    changed -= {"layer_weights", "head.weight", "head.bias"}
    assert {key.split(".")[-2] for key in changed} == set(base.lora_targets) and len(changed) == 2 * 2

    kept = load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    assert {key for key in kept if MARK not in key} == {"layer_weights", "head.weight", "head.bias"}
    assert [key for key in kept if MARK in key]
    for name in ("metrics.json", "checkpoint-4"):  # as if it had been stopped behind step 2
        (tmp_path / "run" / name).rename(tmp_path / name)
    assert train_avb.main(arguments(sample, encoder, tmp_path / "run", "--resume", "true")) == 0
    assert is_same(load_file(tmp_path / "run" / "model.safetensors"), merged)


@pytest.mark.slow
def test_a_folder_without_the_encoder_is_loaded_with_peft_and_told_of_without_it(
    sample, encoder, tmp_path, monkeypatch
):
    for name, more in (("merged", ()), ("adapters", ("--merge_lora", "false"))):
        assert train_avb.main(arguments(sample, encoder, tmp_path / name, *more)) == 0
    folder = tmp_path / "adapters"
    assert not (folder / "model.safetensors").exists() and (folder / HEAD).exists()
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        encoder
    )
    noise = np.random.default_rng(0).normal(size=16_000), 16_000
    found, expected = (
        {entry["label"]: entry["score"] for entry in avb.load(str(tmp_path / name))(noise)}
        for name in ("adapters", "merged")
    )
    assert found == pytest.approx(expected, abs=1e-6)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(AvbError, match=r'need the package peft, which is missing: pip install "avb\[adapters\]"'):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": "encoders/small.yaml", "freeze": "none", "lora_rank": 8}, "would freeze random weights"),
        ({"lora_rank": 0}, "--lora_rank 0 is invalid"),
        ({"lora_rank": 8, "freeze": "encoder"}, "leave out --freeze and --freeze_layers"),
        ({"freeze_layers": 3}, "give 0 to 2, or --freeze encoder"),
    ],
)
def test_what_cannot_be_is_told(fields, message, encoder):
    with pytest.raises(AvbError, match=message):
        build_model(ModelArguments(**{"encoder": str(encoder), **fields}), DataArguments(), TASKS["two"], None)
