"""Encoders that start from a mel filterbank: what their first filters hear, which files are refused, and training."""

import json

import librosa
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from transformers import Wav2Vec2Config, Wav2Vec2Model

import pretrain_avb
import train_avb
from avb.encoders.filterbank import HIGHEST, LOWEST, mel_gabor_filters, read_encoder, start_filters
from avb.errors import AvbError

ENCODER = ROOT / "recipes" / "encoders" / "filterbank.yaml"
FREQUENCIES = librosa.mel_frequencies(64, fmin=LOWEST, fmax=HIGHEST)
SAMPLES = np.arange(400) / 16_000


def rectified(frequency: float, phase: float) -> np.ndarray:
    """(bands,): the sum of each band's rectified outputs for a sinusoid."""
    outputs = mel_gabor_filters(256, 400) @ np.cos(2 * np.pi * frequency * SAMPLES + phase)
    return np.maximum(outputs, 0).reshape(64, 4).sum(1)


@pytest.mark.parametrize("band", [2, 10, 30, 50, 63])
def test_a_band_hears_its_own_frequency_whatever_the_phase(band):
    responses = np.array([rectified(FREQUENCIES[band], phase) for phase in np.linspace(0, 2 * np.pi, 17)])
    assert (responses.argmax(1) == band).all()
    assert responses[:, band].min() > 0.65 * responses[:, band].max()  # |cos| + |sin| is within 1 and √2
    far = np.abs(np.arange(64) - band) > 4
    assert responses.mean(0)[far].max() < 0.05 * responses.mean(0)[band]


def test_the_first_convolution_starts_as_these_filters_and_no_other_does():
    fields, first_filters = read_encoder(ENCODER)
    assert first_filters == "mel" and "first_filters" not in fields
    torch.manual_seed(0)
    encoder = Wav2Vec2Model(Wav2Vec2Config(**fields))
    others = [layer.conv.weight.clone() for layer in encoder.feature_extractor.conv_layers[1:]]
    start_filters(encoder, first_filters)
    layers = encoder.feature_extractor.conv_layers
    np.testing.assert_array_equal(layers[0].conv.weight[:, 0].detach(), mel_gabor_filters(256, 400))
    assert all(torch.equal(layer.conv.weight, other) for layer, other in zip(layers[1:], others, strict=True))
    before = layers[0].conv.weight.clone()
    start_filters(encoder, None)
    assert torch.equal(layers[0].conv.weight, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_filters": "sinc"}, "first_filters 'sinc' is invalid: it must be 'mel', or be left out"),
        ({"conv_dim": [254, 256, 256, 256]}, "conv_dim to begin with a multiple of 4"),
        ({"feat_extract_norm": "group"}, "needs feat_extract_norm layer"),
        ({"conv_bias": True}, "conv_bias false"),
    ],
)
def test_a_file_that_asks_for_other_filters_is_refused(change, message, tmp_path):
    path = tmp_path / "encoder.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(ENCODER.read_text()) | change))
    with pytest.raises(AvbError, match=message):
        read_encoder(path)


@pytest.mark.slow
def test_such_an_encoder_is_pre_trained_and_fine_tuned_by_the_real_commands(sample, tmp_path):
    corpus = ["--corpus", "hume_vb", "--data_dir", str(sample), "--task", "type"]
    common = [*corpus, "--max_steps", "2", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    encoder = tmp_path / "encoder"
    assert pretrain_avb.main([*common, "--encoder", str(ENCODER), "--output_dir", str(encoder)]) == 0
    weight = Wav2Vec2Model.from_pretrained(encoder).feature_extractor.conv_layers[0].conv.weight[:, 0].detach()
    np.testing.assert_allclose(weight, mel_gabor_filters(256, 400), atol=0.01)
    assert "first_filters" not in json.loads((encoder / "config.json").read_text())  # any program reads it
    student = ["--encoder_layer", "4", "--rnn_layers", "0", "--freeze", "none", "--output_dir", str(tmp_path / "run")]
    assert train_avb.main([*common, "--encoder", str(encoder), *student]) == 0
    assert "uar" in json.loads((tmp_path / "run" / "metrics.json").read_text())["splits"]["validation"]
