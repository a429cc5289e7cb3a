"""Masked regression of log-mel spectra: librosa's targets, a loss over hidden frames only, a plain checkpoint."""

import json
import subprocess
import sys

import librosa
import numpy as np
import pytest
import torch
from conftest import LAYER_NORM, ROOT, TINY, stir
from transformers import Wav2Vec2Config, Wav2Vec2Model

import pretrain_avb
import train_avb
from avb.pretraining import BurstForPretraining, LogMel
from configuration_avb import receptive_field

SHAPE = {**TINY, **LAYER_NORM, "num_hidden_layers": 2, "mask_time_prob": 0.5, "mask_time_length": 4, "layerdrop": 0.0}


def make_model(**changes) -> BurstForPretraining:
    torch.manual_seed(0)
    return stir(BurstForPretraining(Wav2Vec2Config(**{**SHAPE, **changes}), num_mel_bins=20))


def test_targets_are_librosas(waveforms):
    waveform = waveforms[-1]
    targets = LogMel(400, 320, 20)(waveform[None])[0]  # (frames, bins)
    expected = librosa.feature.melspectrogram(
        y=waveform.numpy(), sr=16_000, n_fft=400, hop_length=320, n_mels=20, center=False
    )
    np.testing.assert_allclose(targets.T, np.log(np.maximum(expected, 1e-5)), atol=1e-4)


@pytest.mark.parametrize(
    ("kernels", "strides"), [((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)), ((20, 8, 4, 4), (10, 4, 4, 2))]
)
def test_a_target_for_each_frame(kernels, strides, waveforms):
    """Whatever the front end, one target a frame: else the loss would compare different moments."""
    model = make_model(conv_kernel=kernels, conv_stride=strides, conv_dim=(16,) * len(kernels)).eval()
    for waveform in waveforms:
        if len(waveform) >= receptive_field(kernels, strides):
            frames = model.wav2vec2(waveform[None]).last_hidden_state.shape[1]
            assert model.log_mel(waveform[None]).shape[1] == frames


def test_standardised_targets_have_unit_moments(waveforms):
    model = make_model()
    batch = {"input_values": waveforms[-1][None], "attention_mask": torch.ones(1, 48_000, dtype=torch.long)}
    model.fit_standardization([batch])
    targets = (model.log_mel(batch["input_values"]) - model.mean) / model.std
    torch.testing.assert_close(targets.mean((0, 1)), torch.zeros(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(targets.std((0, 1)), torch.ones(20), atol=1e-4, rtol=0)


def test_only_hidden_frames_of_audio_count(waveforms):
    model = make_model()
    clips = torch.zeros(2, 48_000)
    clips[0], clips[1, :16_001] = waveforms[-1], waveforms[5]
    mask = torch.arange(48_000) < torch.tensor([[48_000], [16_001]])
    torch.manual_seed(3)
    loss = model(clips, mask.long()).loss
    garbage = clips.masked_fill(~mask, 5.0)  # what the padding holds must not matter to the targets' choice
    torch.manual_seed(3)
    assert model(garbage.where(mask, torch.zeros(())), mask.long()).loss == loss
    loss.backward()
    assert model.wav2vec2.masked_spec_embed.grad.abs().sum() > 0  # frames were hidden
    assert model.predict.weight.grad.abs().sum() > 0


def test_what_a_checkpoint_lacks_is_made_anew(tmp_path):
    """The targets' filters are no weights: from a plain encoder they must not be whatever the memory held."""
    make_model().wav2vec2.save_pretrained(tmp_path)
    again = BurstForPretraining.from_pretrained(tmp_path, num_mel_bins=20)
    fresh = LogMel(400, 320, 20)
    torch.testing.assert_close(again.log_mel.filters, fresh.filters)
    torch.testing.assert_close(again.log_mel.window, fresh.window)
    assert again.std.tolist() == [1.0] * 20 and again.mean.tolist() == [0.0] * 20


@pytest.mark.slow
def test_from_bursts_to_an_encoder_to_a_model(sample, tmp_path, capsys):
    common = ["--corpus", "hume_vb", "--data_dir", str(sample), "--task", "two", "--report_to", "none"]
    encoder = str(ROOT / "recipes" / "encoders" / "tiny.yaml")
    argv = [*common, "--encoder", encoder, "--max_steps", "30", "--learning_rate", "3e-3"]
    command = [sys.executable, "pretrain_avb.py", *argv, "--output_dir", str(tmp_path / "encoder")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    error = json.loads((tmp_path / "encoder" / "metrics.json").read_text())["validation_error"]
    assert 0 < error < 0.75  # predicting the mean of a normal distribution leaves 0.80
    assert Wav2Vec2Model.from_pretrained(tmp_path / "encoder").config.model_type == "wav2vec2"

    assert pretrain_avb.main([*argv, "--output_dir", str(tmp_path / "encoder")]) == 1
    assert "holds an encoder: choose another --output_dir" in capsys.readouterr().err

    argv = [*common, "--encoder", str(tmp_path / "encoder"), "--encoder_layer", "2", "--rnn_hidden_size", "16"]
    assert train_avb.main([*argv, "--max_steps", "2", "--output_dir", str(tmp_path / "run")]) == 0
