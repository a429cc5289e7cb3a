"""Frames of a frozen encoder on disk: the training they give is that of the encoder run in every epoch."""

import json
import logging

import numpy as np
import pytest
import torch
from conftest import LAYER_NORM
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from tiny import tiny_model

import train_avb
from avb.collator import BurstCollator
from avb.errors import AvbError
from avb.training import frozen as features
from avb.training.frozen import FrameCollator, encoder_frames, fingerprint, reason_against, training_inputs
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import Wav2Vec2ForVocalBurst

NO_DROPOUT = {f"{part}_dropout": 0.0 for part in ("feat_proj", "attention", "hidden", "activation")}


def make_model(**changes) -> Wav2Vec2ForVocalBurst:
    model = tiny_model(**{**LAYER_NORM, "num_hidden_layers": 2, "encoder_layer": 2, "num_labels": 3, **changes})
    model.freeze_encoder()
    return model


@pytest.fixture
def split(waveforms) -> Dataset:
    rows = [
        {"id": f"clip{number}", "input_values": clip.numpy(), "num_samples": len(clip), "labels": [0.1 * number] * 3}
        for number, clip in enumerate(waveforms[1:])
    ]
    return Dataset.from_list(rows).with_format("numpy", columns=["input_values"], output_all_columns=True)


@pytest.mark.parametrize("changes", [{}, {"pooling": "attention", "head_dropout": 0.3}, {"rnn_layers": 0}])
def test_the_model_gives_the_same_from_frames(split, tmp_path, changes):
    model, extractor = make_model(**changes).train(), VocalBurstFeatureExtractor()
    frames = encoder_frames(split, model, extractor, cache_dir=tmp_path, dtype="float32")
    assert model.training  # left as it was
    torch.manual_seed(1)
    direct = model(**BurstCollator(extractor)(list(split)))
    torch.manual_seed(1)
    cached = model(**FrameCollator(32)(list(frames)))
    torch.testing.assert_close(cached.logits, direct.logits, atol=2e-5, rtol=0)
    torch.testing.assert_close(cached.loss, direct.loss, atol=2e-5, rtol=0)


def test_half_precision_is_close(split, tmp_path):
    model, extractor = make_model().eval(), VocalBurstFeatureExtractor()
    frames = encoder_frames(split, model, extractor, cache_dir=tmp_path)
    direct = model(**BurstCollator(extractor)(list(split))).logits
    torch.testing.assert_close(model(**FrameCollator(32)(list(frames))).logits, direct, atol=1e-3, rtol=0)


def test_a_stopped_computation_goes_on(split, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_CLIPS", 2)
    model, extractor = make_model(), VocalBurstFeatureExtractor()
    whole = encoder_frames(split, model, extractor, cache_dir=tmp_path)["encoder_frames"][:]
    shards = sorted(tmp_path.rglob("*.arrow"))
    assert len(shards) == 4
    shards[2].unlink()
    untouched = {path: path.stat().st_mtime_ns for path in shards if path.exists()}
    again = encoder_frames(split, model, extractor, cache_dir=tmp_path)["encoder_frames"][:]
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_the_name_depends_on(split, monkeypatch):
    extractor = VocalBurstFeatureExtractor()

    def name(model, rows=split, extractor=extractor, dtype="float16", autocast=False):
        return fingerprint(rows, model, extractor, dtype, autocast)

    reference = name(make_model())
    # the head is no part of it
    assert name(make_model(pooling="max", rnn_layers=0, loss="mse", num_labels=7, head_dropout=0.5)) == reference
    other = make_model()
    with torch.no_grad():
        next(other.wav2vec2.parameters()).view(-1)[0] += 1e-6
    assert name(other) != reference
    assert name(make_model(encoder_layer=1)) != reference
    assert name(make_model(num_attention_heads=2)) != reference  # same weights, other numbers
    assert name(make_model(), rows=split.select(range(3))) != reference
    assert name(make_model(), extractor=VocalBurstFeatureExtractor(do_normalize=False)) != reference
    assert name(make_model(), dtype="float32") != reference
    assert name(make_model(), autocast=True) != reference
    in_bf16 = name(make_model(), autocast=True)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")  # TF32, which a CPU does not have
    assert name(make_model()) == reference
    monkeypatch.setattr(Wav2Vec2ForVocalBurst, "device", torch.device("cuda"))
    assert name(make_model()) != reference and name(make_model(), autocast=True) == in_bf16


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"frozen_encoder_dropout": True}, "dropout is on"),
        ({**NO_DROPOUT, "frozen_encoder_dropout": True, "layerdrop": 0.5}, "dropout is on"),
        ({**NO_DROPOUT, "frozen_encoder_dropout": True, "mask_time_prob": 0.3}, "SpecAugment is on"),
        ({**NO_DROPOUT, "frozen_encoder_dropout": True, "mask_feature_prob": 0.3}, "SpecAugment is on"),
        ({"waveform_normalization": "batch"}, "over the batch"),
        ({"feat_extract_norm": "group", "masked_group_norm": False}, "group norm includes the padding"),
        ({"head_norm": "batch"}, "head includes frames of padding"),
        ({"masked_pooling": False, "pooling": "avg"}, "head includes frames of padding"),
    ],
)
def test_frames_that_are_no_constants_are_not_kept(split, tmp_path, changes, reason, caplog):
    model, extractor = make_model(**changes), VocalBurstFeatureExtractor()
    assert reason in reason_against(model)
    with caplog.at_level(logging.WARNING):
        splits, collate = training_inputs(model, extractor, DatasetDict(train=split), cache_dir=tmp_path)
    assert reason in caplog.text and splits["train"] is split and isinstance(collate, BurstCollator)
    assert not list(tmp_path.iterdir())


def test_dropout_of_rate_0_is_no_reason_against():
    """As in XLSR53 under the authors' preset, with mse or ce and `last`."""
    assert reason_against(make_model(**NO_DROPOUT, frozen_encoder_dropout=True, waveform_normalization="none")) is None


def test_group_norm_encoders_are_cached_too():
    assert reason_against(make_model(feat_extract_norm="group", do_stable_layer_norm=False, conv_bias=False)) is None


def test_an_encoder_that_is_trained_runs_in_every_epoch(split, tmp_path):
    model = make_model()
    model.requires_grad_(True)
    splits, _ = training_inputs(model, VocalBurstFeatureExtractor(), DatasetDict(train=split), cache_dir=tmp_path)
    assert splits["train"] is split


def test_a_full_disk_is_found_before_hours_of_work(split, tmp_path, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(AvbError, match="GB are free: give another --cache_dir, or --cache_frames false"):
        encoder_frames(split, make_model(), VocalBurstFeatureExtractor(), cache_dir=tmp_path)


def test_values_beyond_half_precision_are_refused(split, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.wav2vec2.encoder.layers[-1].feed_forward.output_dense.bias += 1e6
    with pytest.raises(AvbError, match="clip 'clip0' do not fit into float16: use --frames_dtype float32"):
        encoder_frames(split, model, VocalBurstFeatureExtractor(), cache_dir=tmp_path)


@pytest.mark.slow
def test_training_from_frames_is_training_from_audio(checkpoints, sample, tmp_path):
    """The same seed, three epochs: metrics to 1e-4, and a model that reads audio."""
    command = [
        "--corpus", "hume_vb", "--task", "high", "--data_dir", str(sample), "--cache_dir", str(tmp_path / "cache"),
        "--encoder", str(checkpoints["LARGE-LV60K"]), "--freeze", "encoder", "--encoder_layer", "2",
        "--pooling", "last", "--rnn_layers", "2", "--rnn_hidden_size", "16",
        "--head_dropout", "0.1", "--num_train_epochs", "3", "--learning_rate", "1e-2", "--bf16", "false",
        "--save_strategy", "no", "--load_best_model_at_end", "false", "--report_to", "none",
    ]  # fmt: skip
    runs = {}
    for cache in ("true", "false"):
        output_dir = tmp_path / cache
        assert train_avb.main([*command, "--output_dir", str(output_dir), "--cache_frames", cache]) == 0
        runs[cache] = json.loads((output_dir / "metrics.json").read_text())["splits"]["validation"]
    assert list((tmp_path / "cache").glob("frames-*/*.arrow"))
    assert runs["true"]["ccc"] == pytest.approx(runs["false"]["ccc"], abs=1e-4)
    states = [load_file(tmp_path / cache / "model.safetensors") for cache in runs]
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], atol=1e-3, rtol=0, msg=key)
