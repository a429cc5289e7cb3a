"""Masked regression of log-mel spectra: librosa's targets, a loss over hidden frames only, a plain checkpoint."""

import json
import sys

import librosa
import numpy as np
import pytest
import torch
import warm
from conftest import LAYER_NORM, ROOT, TINY, stir
from transformers import Wav2Vec2Config, Wav2Vec2Model

import pretrain_avb
import train_avb
from avb.pretraining.models import (
    OBJECTIVES,
    ClusterPrediction,
    LayerClusterPrediction,
    MaskedPrediction,
    sample_negatives,
)
from avb.pretraining.targets import Descriptors, LogMel
from configuration_avb import receptive_field

SHAPE = {**TINY, **LAYER_NORM, "num_hidden_layers": 2, "mask_time_prob": 0.5, "mask_time_length": 4, "layerdrop": 0.0}


def make_model(model_class=MaskedPrediction, **changes) -> MaskedPrediction:
    torch.manual_seed(0)
    return stir(model_class(Wav2Vec2Config(**{**SHAPE, **changes}), num_mel_bins=20))


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
            assert model.describe(waveform[None]).shape[1] == frames


def test_standardised_targets_have_unit_moments(waveforms):
    model = make_model()
    batch = {"input_values": waveforms[-1][None], "attention_mask": torch.ones(1, 48_000, dtype=torch.long)}
    model.fit_targets([batch])
    targets = (model.describe(batch["input_values"]) - model.mean) / model.std
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
    again = MaskedPrediction.from_pretrained(tmp_path, num_mel_bins=20)
    fresh = LogMel(400, 320, 20)
    torch.testing.assert_close(again.describe.filters, fresh.filters)
    torch.testing.assert_close(again.describe.window, fresh.window)
    assert again.std.tolist() == [1.0] * 20 and again.mean.tolist() == [0.0] * 20


@pytest.mark.slow
def test_from_bursts_to_an_encoder_to_a_model(sample, tmp_path, capsys):
    common = ["--corpus", "hume_vb", "--data_dir", str(sample), "--task", "two", "--report_to", "none"]
    encoder = str(ROOT / "recipes" / "encoders" / "tiny.yaml")
    argv = [*common, "--encoder", encoder, "--max_steps", "30", "--learning_rate", "3e-3"]
    argv += ["--per_device_train_batch_size", "8"]
    command = [sys.executable, "pretrain_avb.py", *argv, "--output_dir", str(tmp_path / "encoder")]
    done = warm.run(command)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert (
        "corpus " in said
        and "speakers: none are known, so intervals go by clip\n" in said
        and "million weights are trained, on cpu" in said
    )
    assert "objective log_mel" in said and "learning rates: all 0.003" in said and "validation loss" in said
    assert not list((tmp_path / "encoder").glob("checkpoint*"))
    assert pretrain_avb.main([*argv, "--output_dir", str(tmp_path / "encoder"), "--resume", "true"]) == 0
    assert "contains a finished encoder: nothing to resume" in capsys.readouterr().out
    error = json.loads((tmp_path / "encoder" / "metrics.json").read_text())["validation_loss"]
    assert 0 < error < 0.75  # predicting the mean of a normal distribution leaves 0.80
    assert Wav2Vec2Model.from_pretrained(tmp_path / "encoder").config.model_type == "wav2vec2"

    argv = [*common, "--encoder", str(tmp_path / "encoder"), "--max_steps", "2", "--num_mel_bins", "20"]
    argv += ["--per_device_eval_batch_size", "999"]  # more than there are: no clip of the evaluation is dropped
    argv += ["--per_device_train_batch_size", "4"]
    for objective in OBJECTIVES:
        output_dir = str(tmp_path / objective)
        assert pretrain_avb.main([*argv, "--objective", objective, "--output_dir", output_dir]) == 0
        assert json.loads((tmp_path / objective / "metrics.json").read_text())["objective"] == objective
    assert pretrain_avb.main([*argv, "--objective", "cluster", "--output_dir", str(tmp_path / "new")]) == 1
    assert "did you mean 'clusters'" in capsys.readouterr().err

    few = ["--output_dir", str(tmp_path / "few"), "--per_device_train_batch_size", "999"]
    assert pretrain_avb.main([*argv, *few]) == 1
    assert "fewer than one batch of 999: lower --per_device_train_batch_size" in capsys.readouterr().err

    assert pretrain_avb.main([*argv, "--output_dir", str(tmp_path / "encoder")]) == 1
    assert "contains an encoder: choose another --output_dir" in capsys.readouterr().err

    argv = [*common, "--encoder", str(tmp_path / "encoder"), "--encoder_layer", "2", "--rnn_hidden_size", "16"]
    assert train_avb.main([*argv, "--max_steps", "2", "--output_dir", str(tmp_path / "run")]) == 0


def test_ctrl_c_is_one_line(monkeypatch, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain_avb, "pretrain", interrupted)
    assert pretrain_avb.main(["--output_dir", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "pretrain_avb.py: stopped; --resume true continues from the last checkpoint\n"


# ---- the other objectives -------------------------------------------------------------------------------------------


def batch_of(waveforms, lengths=(48_000, 30_000)) -> dict[str, torch.Tensor]:
    clips, mask = torch.zeros(len(lengths), 48_000), torch.zeros(len(lengths), 48_000, dtype=torch.long)
    for row, length in enumerate(lengths):
        clips[row, :length], mask[row, :length] = waveforms[-1][:length].roll(row * 999), 1
    return {"input_values": clips, "attention_mask": mask}


def describe(waveform: np.ndarray) -> np.ndarray:
    return Descriptors(690, 320, 64)(torch.from_numpy(waveform)[None])[0].numpy()  # (frames, 26)


def test_cepstrum_is_librosas(waveforms):
    waveform = waveforms[-1].numpy()
    mel = librosa.feature.melspectrogram(y=waveform, sr=16_000, n_fft=690, hop_length=320, n_mels=64, center=False)
    expected = librosa.feature.mfcc(S=np.log(np.maximum(mel, 1e-5)), n_mfcc=20, norm="ortho")
    np.testing.assert_allclose(describe(waveform)[:, :20].T, expected, atol=1e-3)


@pytest.mark.parametrize("hertz", [90.0, 220.0, 700.0])
def test_pitch_of_a_voice_like_tone(hertz):
    time = np.arange(16_000) / 16_000
    tone = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 8)).astype(np.float32)
    periodicity, pitch = describe(tone)[:, 24:].T
    assert periodicity.min() > 0.9
    np.testing.assert_allclose(np.exp(pitch), hertz, rtol=0.06)


def test_noise_has_no_pitch_and_a_centroid_in_the_middle():
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    described = describe(noise)
    assert described[:, 25].mean() < 1.0  # most frames: 0, unvoiced
    assert described[:, 21].mean() == pytest.approx(4.0, abs=0.2)  # kHz, of a flat spectrum up to 8


def test_clusters_are_the_nearest_centres(waveforms):
    model = make_model(ClusterPrediction)
    batch = batch_of(waveforms)
    model.fit_targets([batch] * 3)
    frames = (model.describe(batch["input_values"]) - model.mean) / model.std
    ids = model.targets(**batch)
    for row, frame in ((0, 0), (0, 77), (1, 40)):
        distances = [(frames[row, frame] - centre).square().sum().item() for centre in model.clusters.centres]
        assert ids[row, frame] == int(np.argmin(distances))
    assert len(ids.unique()) > 20


def test_layer_clusters_keep_the_encoder_they_began_with(waveforms, monkeypatch):
    monkeypatch.setattr(LayerClusterPrediction, "num_clusters", 8)
    model = make_model(LayerClusterPrediction).train()
    batch = batch_of(waveforms)
    model.fit_targets([batch])
    before = model.targets(**batch)
    assert len(before.unique()) > 1
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    model(**batch).loss.backward()
    optimizer.step()
    assert torch.equal(model.targets(**batch), before)
    assert not any("teacher" in name for name in model.state_dict())


def test_negatives_are_other_hidden_frames_of_the_same_clip():
    hidden = torch.zeros(3, 10, dtype=torch.bool)
    hidden[0, [1, 4, 5]], hidden[1, 7] = True, True
    negatives = sample_negatives(hidden, 50)
    assert set(negatives[0, 4].tolist()) == {1, 5}
    assert set(negatives[1, 7].tolist()) == {17}  # its only hidden frame: the stock loss leaves equals out


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_and_ignores_the_padding(objective, waveforms, monkeypatch):
    monkeypatch.setattr(LayerClusterPrediction, "num_clusters", 8)
    model = make_model(
        OBJECTIVES[objective], num_negatives=10, num_codevectors_per_group=8, hidden_dropout=0.0, attention_dropout=0.0
    )
    batch = batch_of(waveforms)
    model.fit_targets([batch])
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        torch.manual_seed(0)  # the same frames are hidden: the loss must fall
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]

    model.eval()
    longer = {name: torch.nn.functional.pad(values, (0, 16_000)) for name, values in batch.items()}
    cut = {name: values[1:, :30_000] for name, values in batch.items()}
    if objective == "contrastive":  # has no targets but its own frames
        return
    alone = model.targets(**cut)[0]
    padded = model.targets(**{name: values[1:] for name, values in longer.items()})[0, : len(alone)]
    torch.testing.assert_close(alone, padded, atol=1e-4, rtol=1e-4)
