"""Each further kind of encoder through the real commands: trained, described, loaded, embedded, exported, cached."""

import json
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import detector_of_noise
from tiny_kinds import STOCK, load

import avb
import train_avb
from avb.collator import BurstCollator
from avb.encoders.kinds import MODELS, trained_class
from avb.export.exporting import export_model
from avb.training.frozen import FrameCollator, encoder_frames
from feature_extraction_avb import VocalBurstFeatureExtractor

KINDS = sorted({stock.kind for stock in STOCK.values()})
RATE = 16_000
SETTINGS = {
    "corpus": "hume_vb", "task": "two", "encoder_layer": 3, "freeze": "feature_encoder", "freeze_layers": 1,
    "layer_lr_decay": 0.5, "use_weighted_layer_sum": True, "pooling": "attention", "rnn_layers": 0, "max_steps": 1,
    "per_device_train_batch_size": 4, "learning_rate": 0.01, "encoder_learning_rate": 0.01, "save_strategy": "no",
    "load_best_model_at_end": False, "disable_tqdm": True, "lr_scheduler_type": "constant", "warmup_steps": 0,
    "optim": "sgd", "max_grad_norm": 0, "weight_decay": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """By kind: a plain checkpoint that the stock class saved."""
    root = tmp_path_factory.mktemp("encoders")
    for kind in KINDS:
        STOCK[kind].build().save_pretrained(root / kind)
    return root


@pytest.fixture(scope="module", params=KINDS)
def run(request, encoders, sample, tmp_path_factory):
    """A kind, and the folder of its run: the lowest layer frozen, rates falling from layer to layer, layers weighed."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    settings = {**SETTINGS, "encoder": encoders / kind, "data_dir": sample, "output_dir": folder / "run"}
    settings["cache_dir"] = encoders / "cache"
    argv = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    assert train_avb.main(argv) == 0
    return kind, folder / "run"


def test_a_step_moves_each_layer_by_its_rate_and_the_frozen_one_not_at_all(run, encoders):
    """By SGD with one rate for all, what two layers move by has the ratio of their gradients; here one has half."""
    kind, folder = run
    model = avb.load(str(folder), "cpu").model
    before = load(encoders / kind, kind, encoder_layer=3).base_model
    assert model.config.use_weighted_layer_sum and len(before.layers_kept) == 3
    moved = []
    for ours, theirs in zip(model.base_model.layers_kept, before.layers_kept, strict=True):
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        moved.append(sum((own - other).abs().sum().item() for own, other in pairs))
    assert moved[0] == 0 and min(moved[1:]) > 0, moved
    assert model.layer_weights.detach().std() > 0


def test_it_is_loaded_embedded_and_found_with(run):
    kind, folder = run
    pipe = avb.load(str(folder), "cpu")
    noise = 0.3 * np.random.default_rng(0).normal(size=3 * RATE).astype(np.float32)
    assert type(pipe.model).__name__ == MODELS[kind][1]
    answer = pipe((noise, RATE))
    assert [entry["label"] for entry in answer] == ["Valence", "Arousal"]
    frames, *_ = avb.embed([(noise, RATE)], str(folder), frames=True)
    mean = avb.embed([(noise, RATE)], str(folder))[0]
    np.testing.assert_allclose(frames.mean(0), mean, atol=1e-5)
    assert frames.shape[1] == 32 and len(frames) > 20

    windows = pipe((noise, RATE), window_seconds=1.0, hop_seconds=0.5)
    assert [(window["start"], window["end"]) for window in windows] == [(0.5 * n, 0.5 * n + 1) for n in range(5)]
    recording = np.concatenate([np.zeros(RATE, np.float32), noise, np.zeros(RATE, np.float32)])
    detector = detector_of_noise()
    found = avb.find((recording, RATE), pipe, detector=detector, threshold=0.5)
    assert list(found.columns) == ["start", "end", "detection", "Valence", "Arousal"] and len(found)
    chunks = (recording[at : at + 1_600] for at in range(0, len(recording), 1_600))
    live = list(pipe.stream(chunks, detector=detector, threshold=0.5))
    assert [event["end"] for event in live] == pytest.approx(found["end"].tolist(), abs=1e-3)
    assert live[0]["scores"][1]["score"] == pytest.approx(found["Arousal"][0], abs=1e-5)


def test_its_card_says_what_it_is_made_of(run):
    kind, folder = run
    card = re.sub(" +", " ", (folder / "README.md").read_text())
    config = json.loads((folder / "config.json").read_text())
    assert f"| kind of encoder | {trained_class(config['model_type']).config_class.kind} |" in card
    assert f"| encoder | {kind} |" in card and "| licence of its weights | unknown |" in card
    assert "| transformer layers that feed the head | 0 to 3, weighted sum |" in card
    assert f"- {kind}-vocal-burst" in card


@pytest.mark.nightly  # each traces, compiles and compares a model; what engines differ in is in tests/test_export.py
@pytest.mark.parametrize(
    ("backend", "precision"),
    [("onnx", "int8"), ("onnx", "fp16"), ("openvino", "fp32")],
    ids="int8 fp16 openvino".split(),
)
def test_it_is_exported_at_every_precision(run, backend, precision, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    _, folder = run
    # Narrow layers lose more by int8 than those of a real encoder.
    differences = export_model(
        folder, tmp_path / "out", backend=backend, precision=precision, tolerance={"int8": 0.05}.get(precision)
    )
    assert len(differences) > 3
    noise = (np.random.default_rng(0).normal(size=RATE), RATE)
    found, expected = (
        {entry["label"]: entry["score"] for entry in avb.load(str(name), "cpu")(noise)}
        for name in (tmp_path / "out", folder)
    )
    assert found == pytest.approx(expected, abs={"int8": 0.05, "fp16": 0.01, "fp32": 1e-4}[precision])


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_frames_keep_all_layers(kind, encoders, waveforms, tmp_path):
    rows = [
        {"id": f"clip{number}", "input_values": clip.numpy(), "num_samples": len(clip), "labels": [0.1 * number] * 3}
        for number, clip in enumerate(waveforms[-4:])
    ]
    split = Dataset.from_list(rows).with_format("numpy", columns=["input_values"], output_all_columns=True)
    model = load(encoders / kind, kind, use_weighted_layer_sum=True, pooling="attention")
    model.freeze_encoder()
    with torch.no_grad():
        model.layer_weights.copy_(torch.tensor([0.3, -0.2, 0.5]))
    extractor = VocalBurstFeatureExtractor()
    frames = encoder_frames(split, model, extractor, cache_dir=tmp_path, dtype="float32")
    assert np.size(frames[0]["encoder_frames"]) % (3 * 32) == 0
    with torch.inference_mode():
        direct = model(**BurstCollator(extractor)(list(split))).logits
        cached = model(**FrameCollator(3 * 32)(list(frames))).logits
    torch.testing.assert_close(cached, direct, rtol=0, atol=2e-5)
    assert direct.std(0).min() > 1e-3
