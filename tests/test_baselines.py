"""The baselines: layers, one interface, saving, batch independence, learning."""

from dataclasses import fields

import librosa
import numpy as np
import pytest
import torch
from conftest import ROOT, stir
from datasets import Dataset, DatasetDict
from tones import RATINGS, TYPE, tone_clips
from torch import nn
from transformers import AutoModelForAudioClassification, Wav2Vec2FeatureExtractor, pipeline

from audio_avb import AudioPreparation
from avb.arguments import AvbTrainingArguments, DataArguments, ModelArguments
from avb.baselines import (
    BASELINES,
    MODELS,
    Emo18,
    Emo18Config,
    LogMelCNN,
    LogMelCNNConfig,
    OpenSmileMLP,
    OpenSmileMLPConfig,
    SEResNet,
    prepare_baseline,
)
from avb.baselines.baseline import power_spectra
from avb.baselines.log_mel_cnn import hide, shift_bands
from avb.baselines.opensmile_mlp import FEATURE_SETS
from avb.collator import BurstCollator
from avb.errors import AvbError
from avb.recipes import read_recipe

OPENSMILE = ("egemaps_mlp", "compare_mlp")
CHALLENGE = (*OPENSMILE, "emo18")
pytestmark = pytest.mark.usefixtures("one_thread")


# ---- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("feature_set", "width"), FEATURE_SETS.items())
def test_mlp_is_the_published_one_layer_by_layer(feature_set, width):
    model = OpenSmileMLP(OpenSmileMLPConfig(feature_set=feature_set, num_labels=10))
    layers = [module for module in model.modules() if not list(module.children())]
    # torch 2.7 does not say that a LayerNorm has a bias.
    assert [str(layer).replace("_affine=True, bias=True", "_affine=True") for layer in layers] == [
        "Standardization()",
        f"Linear(in_features={width}, out_features=128, bias=True)",
        "LayerNorm((128,), eps=1e-05, elementwise_affine=True)",
        "LeakyReLU(negative_slope=0.01)",
        "Linear(in_features=128, out_features=64, bias=True)",
        "LayerNorm((64,), eps=1e-05, elementwise_affine=True)",
        "LeakyReLU(negative_slope=0.01)",
        "Linear(in_features=64, out_features=32, bias=True)",
        "LeakyReLU(negative_slope=0.01)",
        "Linear(in_features=32, out_features=10, bias=True)",
    ]


def test_emo18_is_the_published_one_layer_by_layer():
    model = Emo18(Emo18Config(num_labels=8, loss="ce")).eval()
    layers = [module for module in model.modules() if not list(module.children())]
    expected: list[nn.Module] = []
    for channels_in, channels, kernel, padding, width in ((1, 64, 8, 3, 10), (64, 128, 6, 2, 8), (128, 256, 6, 2, 8)):
        convolution = nn.Conv1d(channels_in, channels, kernel, padding=padding)
        expected += [convolution, nn.BatchNorm1d(channels), nn.LeakyReLU(), nn.MaxPool1d(width)]
    expected += [nn.Flatten(), nn.LSTM(512, 256, num_layers=2, batch_first=True), nn.Linear(256, 8)]
    assert [str(layer) for layer in layers] == [str(layer) for layer in expected]
    assert model.convolutions[:12](torch.randn(3, 1, 1600)).shape == (3, 256, 2)


def test_emo18_against_a_loop_over_frames():
    model = stir(Emo18(Emo18Config(num_labels=3, loss="ce"))).eval()
    clip = torch.randn(4100)
    with torch.inference_mode():
        frames = nn.functional.pad(clip, (0, 700)).split(1600)
        features = torch.stack([model.convolutions(frame[None, None])[0] for frame in frames])
        expected = model.head(model.rnn(features[None])[0][0, -1])
        assert torch.allclose(model(clip[None]).logits[0], expected, atol=1e-5)


@pytest.mark.parametrize("model_class", MODELS.values())
def test_start_is_pytorchs_own(model_class):
    model = model_class(model_class.config_class(num_labels=10))
    layer = next(module for module in model.modules() if isinstance(module, nn.Linear))
    bound = layer.in_features**-0.5
    assert 0.9 * bound < layer.weight.abs().max() <= bound and layer.bias.abs().max() > 0


# ---- one interface ---------------------------------------------------------------------------------------------------


def random_inputs(model) -> dict:
    width = 88 if isinstance(model, OpenSmileMLP) else 5000
    return {"input_values": torch.randn(6, width, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("model_class", MODELS.values())
def test_regression_stays_in_its_range_and_classes_are_raw(model_class):
    torch.manual_seed(0)  # of random weights some give logits of one sign
    config_class, inputs = model_class.config_class, random_inputs(model_class(model_class.config_class()))
    model = model_class(config_class(num_labels=2, label_range=[1.0, 7.0]))
    for loss in ("mse", "ccc"):
        model.config.loss = loss
        output = model(**inputs, labels=torch.rand(6, 2) * 6 + 1)
        assert output.loss.isfinite() and output.logits.dtype == torch.float32
        assert output.logits.min() >= 1 and output.logits.max() <= 7 and output.logits.mean() > 2
    classifier = model_class(config_class(num_labels=5, loss="ce", class_weights=[1.0, 2.0, 1.0, 1.0, 1.0]))
    output = classifier(**inputs, labels=torch.tensor([0, 1, 2, 3, 4, -100]))
    assert output.logits.shape == (6, 5) and output.logits.min() < 0
    weights = torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0])
    expected = nn.functional.cross_entropy(output.logits[:5], torch.arange(5), weight=weights)
    assert torch.allclose(output.loss, expected)
    assert classifier(**inputs).loss is None


@pytest.mark.parametrize("model_class", MODELS.values())
@pytest.mark.parametrize("task", [TYPE, RATINGS], ids=["class", "regression"])
def test_saved_and_reloaded_is_the_same_model(model_class, task, tmp_path):
    loss = "ce" if task is TYPE else "ccc"
    config = model_class.config_class(
        loss=loss, id2label=task.id2label, label2id=task.label2id, label_range=list(task.label_range)
    )
    model = stir(model_class(config))
    model(**random_inputs(model))  # moves the running statistics
    model.eval().save_pretrained(tmp_path)
    reloaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    assert type(reloaded) is model_class and not reloaded.training
    with torch.inference_mode():
        assert torch.equal(reloaded(**random_inputs(model)).logits, model(**random_inputs(model)).logits)
    kept = ("loss", "label_range", "id2label", "problem_type")
    assert {name: getattr(reloaded.config, name) for name in kept} == {name: getattr(config, name) for name in kept}


@pytest.mark.parametrize("name", BASELINES)
def test_loss_follows_from_the_task(name, request):
    if name in OPENSMILE:
        request.getfixturevalue("opensmile")
    build = BASELINES[name]
    assert build(TYPE)[0].config.loss == "ce" and build(RATINGS)[0].config.loss == "mse"
    model, extract = build(
        RATINGS, "ccc", ccc_reduction="sum", preparation=AudioPreparation(trim_top_db=40.0, peak_db=None)
    )
    config = model.config
    assert (config.loss, config.ccc_reduction) == ("ccc", "sum")
    assert (extract.peak_db, extract.trim_top_db) == (None, 40.0)
    assert list(config.label_range) == [1, 7] and config.id2label == {0: "calm", 1: "tense"}
    with pytest.raises(AvbError, match="use ccc or mse"):
        build(RATINGS, "ce")
    with pytest.raises(AvbError, match="use ce"):
        build(TYPE, "mse")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "mae"}, "one of ccc, mse, ce"),
        ({"label_range": [1.0, 1.0]}, "low < high"),
        ({"class_weights": [1.0, 1.0]}, "classes need loss='ce'"),
        ({"loss": "ce", "num_labels": 3, "class_weights": [1.0, 1.0]}, "3 numbers"),
        ({"label_smoothing": 0.1}, "belongs to loss='ce'"),
        ({"ccc_reduction": "max"}, "one of mean, sum"),
        ({"problem_type": "single_label_classification"}, "'regression'"),
        ({"feature_set": "GeMAPS"}, "eGeMAPSv02, ComParE_2016"),
    ],
)
def test_illegal_configuration_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        OpenSmileMLPConfig(**fields)


def test_stock_pipeline_reads_a_saved_baseline(opensmile, tone, tmp_path):
    model, extract = BASELINES["egemaps_mlp"](RATINGS)
    model.eval().save_pretrained(tmp_path)
    extract.save_pretrained(tmp_path)
    scores = pipeline("audio-classification", model=str(tmp_path))(tone)
    with torch.inference_mode():
        expected = model(**extract(tone, return_tensors="pt")).logits[0]
    assert {score["label"] for score in scores} == {"calm", "tense"}
    assert sorted(score["score"] for score in scores) == pytest.approx(sorted(expected.tolist()), abs=1e-6)


# ---- networks on waveforms, and the batch ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_class", "fields", "scale"),
    [(Emo18, {}, 10), (LogMelCNN, {"width": 8}, 0.3), (SEResNet, {"width": 8}, 0.1)],
)
def test_a_prediction_does_not_depend_on_the_batch(model_class, fields, scale, waveforms, monkeypatch):
    """In double precision, which is slow but leaves nothing of a difference that is rounding."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    waveforms = [*waveforms[:6], waveforms[6][:9000]]
    torch.manual_seed(0)
    model = stir(model_class(model_class.config_class(num_labels=10, **fields))).double()
    model(torch.randn(4, 8000).double())
    model.eval().head.weight.data *= scale  # so that clips differ by more than the tolerance, and no sigmoid is full
    extract = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    batch = BurstCollator(extract)([{"input_values": waveform.numpy()} for waveform in waveforms])
    batch["input_values"] = batch["input_values"].double()
    longer = {name: nn.functional.pad(values, (0, 5000)) for name, values in batch.items()}
    longer["input_values"] = longer["input_values"].masked_fill(longer["attention_mask"] == 0, 7.0)
    with torch.inference_mode():
        alone = torch.cat([model(waveform[None].double()).logits for waveform in waveforms])
        assert (model(**batch).logits - alone).abs().max() < 1e-12
        assert (model(**longer).logits - alone).abs().max() < 1e-12
    assert alone.std(0).min() > 1e-3


def test_padding_does_not_reach_emo18s_batch_norm():
    torch.manual_seed(0)
    model = Emo18(Emo18Config(num_labels=2))
    clip, mask = torch.randn(2, 1600), torch.ones(2, 1600, dtype=torch.long)
    trained = model.train()(clip).logits
    padded = model(nn.functional.pad(clip, (0, 8000)), nn.functional.pad(mask, (0, 8000))).logits
    assert torch.allclose(trained, padded, atol=1e-6)


def test_log_mel_spectra_are_librosas():
    model = LogMelCNN(LogMelCNNConfig(num_labels=2))
    clip = 0.1 * np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    expected = librosa.feature.melspectrogram(
        y=clip, sr=16_000, n_fft=512, hop_length=320, n_mels=64, fmin=50, pad_mode="constant"
    )
    found = model.log_mel(power_spectra(torch.from_numpy(clip)[None], model.window, 512, 320))[0]
    np.testing.assert_allclose(found.numpy(), np.log(expected.clip(1e-4)), atol=2e-3)


def test_what_the_log_mel_network_hides_in_training():
    """Bands and frames, at most so many, inside the clip; and a shift moves bands without making any up."""
    torch.manual_seed(0)
    spectra, frames = torch.ones(200, 64, 40), torch.tensor([40, 10] * 100)
    hidden = hide(spectra, frames) == 0
    bands, times = hidden.all(2).sum(1), hidden.all(1).sum(1)
    assert 0 < bands.max() <= 13 and 0 < times[0::2].max() <= 9 and times[1::2].max() <= 3
    assert not hidden.all(1)[1::2, 10:].any()
    ramp = torch.arange(64.0)[None, :, None].expand(200, 64, 2)
    moved = shift_bands(ramp) - ramp
    assert moved[:, 3:-3].unique().tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert shift_bands(ramp).min() == 0 and shift_bands(ramp).max() == 63


# ---- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("egemaps_mlp", TYPE),
        ("egemaps_mlp", RATINGS),
        ("emo18", RATINGS),
        ("log_mel_cnn", TYPE),
        ("se_resnet", TYPE),
        pytest.param("emo18", TYPE, marks=pytest.mark.nightly),
        pytest.param("log_mel_cnn", RATINGS, marks=pytest.mark.nightly),
        pytest.param("se_resnet", RATINGS, marks=pytest.mark.nightly),
    ],  # fmt: skip
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_a_small_task_is_learned(name, task, request, tmp_path):
    if name in OPENSMILE:
        request.getfixturevalue("opensmile")
    torch.manual_seed(0)
    clips = tone_clips(8, samples=2000)
    labels = list(range(8)) if task is TYPE else [[1 + 6 * number / 7, 7 - 6 * number / 7] for number in range(8)]
    split = Dataset.from_dict({"input_values": clips, "labels": labels})
    split = split.with_format("numpy", ["input_values"], output_all_columns=True)
    model, extract = BASELINES[name](task)
    splits, collate = prepare_baseline(model, extract, DatasetDict(train=split), cache_dir=tmp_path)
    batch = collate(list(splits["train"]))
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-3 if name == "emo18" else 3e-3)
    losses = []
    for _ in range(40):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    if task is TYPE:
        with torch.inference_mode():
            assert model.eval()(**batch).logits.argmax(-1).tolist() == labels


# ---- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_recipe_names_its_model_and_known_arguments(name):
    recipe = read_recipe(ROOT / "recipes" / "baselines" / f"{name}.yaml")
    assert recipe.pop("model") == name
    if name in CHALLENGE:
        assert recipe["per_device_train_batch_size"] == 8 and recipe["weight_decay"] == 0
    known = {field.name for part in (ModelArguments, DataArguments, AvbTrainingArguments) for field in fields(part)}
    assert recipe.keys() <= known
