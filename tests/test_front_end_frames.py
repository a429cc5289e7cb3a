"""The frames of a frozen front end on disk: scores and losses are those of the front end run in every epoch."""

import logging

import numpy as np
import pytest
import torch
from conftest import GROUP_NORM, LAYER_NORM
from datasets import Dataset, DatasetDict
from tiny import tiny_model

from avb.collator import BurstCollator
from avb.training import frozen
from avb.training.frozen import FrameCollator, fingerprint, frozen_frames, training_inputs
from avb.training.frozen_parts import front_end, frozen_part
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import Wav2Vec2ForVocalBurst

SPEC_AUGMENT = {"mask_time_prob": 0.5, "mask_time_length": 2, "mask_feature_prob": 0.2, "mask_feature_length": 4}


def make_model(**changes) -> Wav2Vec2ForVocalBurst:
    model = tiny_model(**{**LAYER_NORM, "num_hidden_layers": 2, "encoder_layer": 2, "num_labels": 3, **changes})
    model.freeze_feature_encoder()
    return model


@pytest.fixture
def split(waveforms) -> Dataset:
    rows = [
        {"id": f"clip{number}", "input_values": clip.numpy(), "num_samples": len(clip), "labels": [0.1 * number] * 3}
        for number, clip in enumerate(waveforms[1:])
    ]
    return Dataset.from_list(rows).with_format("numpy", columns=["input_values"], output_all_columns=True)


@pytest.mark.parametrize("shape", [LAYER_NORM, GROUP_NORM], ids=["layer_norm", "group_norm"])
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_scores_first_loss_and_gradients_are_those_of_waveforms(shape, autocast, split, tmp_path):
    """In training too: SpecAugment and dropout come after the front end, and draw the same numbers."""
    extractor = VocalBurstFeatureExtractor()
    model = make_model(**shape, **SPEC_AUGMENT, hidden_dropout=0.1)
    splits = DatasetDict(train=split)
    kept, collate = training_inputs(model, extractor, splits, cache_dir=tmp_path, autocast=autocast)
    assert kept["train"].column_names == ["id", "num_samples", "labels", "front_end_frames"]
    batches = [collate(list(kept["train"])), BurstCollator(extractor)(list(split))]
    assert batches[0]["front_end_frames"].dtype == torch.float16
    answers = []
    for batch in batches:
        model.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            scores = model(**batch).logits
        model.train().zero_grad()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**batch).loss
        loss.backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        answers.append((scores, loss.detach(), grads))
    (scores, loss, grads), (direct_scores, direct_loss, direct_grads) = answers
    tolerance = 5e-3 if autocast else 1e-4  # a last digit of bfloat16 that falls otherwise
    torch.testing.assert_close(scores, direct_scores, atol=tolerance, rtol=0)
    torch.testing.assert_close(loss, direct_loss, atol=tolerance, rtol=0)
    assert torch.nn.functional.cosine_similarity(grads, direct_grads, dim=0) > (0.99 if autocast else 0.9999)
    assert direct_scores.std(0).max() > 1e-3  # clips differ


def test_what_the_name_depends_on(split):
    extractor = VocalBurstFeatureExtractor()

    def name(model, rows=split, dtype="float16"):
        return fingerprint(rows, model, extractor, dtype, False, front_end(model))

    reference = name(make_model())
    # Neither transformer nor head is part of it: every model with these convolutions shares the frames.
    other = make_model(encoder_layer=1, pooling="max", rnn_layers=0, num_attention_heads=2)
    other.wav2vec2.feature_extractor.load_state_dict(make_model().wav2vec2.feature_extractor.state_dict())
    assert name(other) == reference
    with torch.no_grad():
        next(other.wav2vec2.feature_extractor.parameters()).view(-1)[0] += 1e-6
    assert name(other) != reference
    assert name(make_model(), rows=split.select(range(3))) != reference
    assert name(make_model(), dtype="float32") != reference


def test_a_stopped_computation_goes_on(split, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "SHARD_CLIPS", 3)
    model = make_model()
    arguments = (split, model, front_end(model), VocalBurstFeatureExtractor())
    whole = frozen_frames(*arguments, cache_dir=tmp_path)["front_end_frames"][:]
    shards = sorted(tmp_path.rglob("*.arrow"))
    assert len(shards) == 3
    shards[1].unlink()
    times = {path: path.stat().st_mtime_ns for path in shards if path.exists()}
    again = frozen_frames(*arguments, cache_dir=tmp_path)["front_end_frames"][:]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({"waveform_normalization": "batch"}, {}, "over the batch"),
        ({**GROUP_NORM, "masked_group_norm": False}, {}, "group norm includes the padding"),
        ({"masked_pooling": False, "pooling": "avg"}, {}, "frames of padding"),
        ({}, {"is_augmented": True}, "train clips are augmented"),
    ],
)
def test_waveforms_stay_where_frames_are_no_constants(changes, settings, reason, split, tmp_path, caplog):
    model, extractor = make_model(**changes), VocalBurstFeatureExtractor()
    with caplog.at_level(logging.INFO):
        splits, collate = training_inputs(model, extractor, DatasetDict(train=split), cache_dir=tmp_path, **settings)
    assert reason in caplog.text and splits["train"] is split and isinstance(collate, BurstCollator)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_no_reason_to_stop(split, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(frozen.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    model, extractor = make_model(), VocalBurstFeatureExtractor()
    splits, collate = training_inputs(model, extractor, DatasetDict(train=split), cache_dir=tmp_path)
    assert splits["train"] is split and "the front end's frames need" in caplog.text


def test_a_front_end_that_is_trained_is_not_kept():
    model = make_model()
    assert frozen_part(model).column == "front_end_frames"
    model.requires_grad_(True)
    assert frozen_part(model) is None
    model.freeze_encoder()
    assert frozen_part(model).column == "encoder_frames"


def test_the_collator_pads_as_with_waveforms(split, tmp_path):
    model, extractor = make_model(), VocalBurstFeatureExtractor()
    rows = frozen_frames(split, model, front_end(model), extractor, cache_dir=tmp_path)
    batch = FrameCollator(16, "front_end_frames")(list(rows))
    _, mask = model.wav2vec2.run_front_end(
        **{k: v for k, v in BurstCollator(extractor)(list(split)).items() if k != "labels"}
    )
    assert torch.equal(batch["frame_mask"], mask)
