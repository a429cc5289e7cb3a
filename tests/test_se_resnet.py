"""The SE-ResNet's spectra and masks; its independence of the batch is tested beside the other baselines'."""

import librosa
import numpy as np
import pytest
import torch

from avb.arguments import DataArguments, ModelArguments
from avb.baselines import SEResNet, SEResNetConfig
from avb.baselines.baseline import power_spectra
from avb.baselines.se_resnet import BANDS, FLOOR, hide
from avb.errors import AvbError
from avb.tasks import get_task
from avb.training.build import build_model


def spectra(*clips: np.ndarray) -> np.ndarray:
    frames = [len(clip) // 160 + 1 for clip in clips]
    waveforms = np.stack([np.pad(clip, (0, max(map(len, clips)) - len(clip))) for clip in clips])
    mask = torch.arange(max(frames)) < torch.tensor(frames)[:, None]
    model = SEResNet(SEResNetConfig(num_labels=2, width=4))
    return model.log_mel(power_spectra(torch.from_numpy(waveforms), model.window, 512, 160), mask).numpy()


def test_spectra_are_librosas_with_a_floor_and_normalised_over_the_clips_own_frames():
    rng = np.random.default_rng(0)
    fading = (rng.standard_normal(8000) * np.geomspace(1, 1e-5, 8000)).astype(np.float32)  # to below the floor
    long = rng.standard_normal(12_000).astype(np.float32)
    energy = librosa.feature.melspectrogram(
        y=fading, sr=16_000, n_fft=512, win_length=400, hop_length=160, n_mels=80, fmin=50, fmax=7900,
        pad_mode="constant",
    )  # fmt: skip
    expected = np.log(energy.clip(FLOOR * energy.max()))
    assert (energy < FLOOR * energy.max()).any()
    expected = (expected - expected.mean()) / expected.std()
    found = spectra(fading, long)
    np.testing.assert_allclose(found[0, :, :51], expected, atol=2e-3)
    assert not found[0, :, 51:].any() and found[1, :, 51:].any()


def test_the_level_of_a_clip_does_not_matter_and_silence_is_zero():
    clip = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    np.testing.assert_allclose(*spectra(0.1 * clip, 2 * clip), atol=1e-3)
    assert not spectra(np.zeros(8000, np.float32)).any()


def test_what_is_hidden_in_training():
    torch.manual_seed(0)
    frames = torch.tensor([96, 16] * 200)
    hidden = hide(torch.ones(400, BANDS, 96), frames, 1 / 6, 1 / 8) == 0
    bands, times = hidden.all(2).sum(1), hidden.all(1).sum(1)
    assert 15 < bands.max() <= 2 * 14 and 15 < times[0::2].max() <= 2 * 13 and 0 < times[1::2].max() <= 2 * 3
    assert not hidden.all(1)[1::2, 16:].any()  # a mask behind the clip's end would be none
    assert not (hide(torch.ones(4, BANDS, 20), torch.full((4,), 20), 0.0, 0.0) == 0).any()


def test_blocks_are_left_out_in_training_only():
    torch.manual_seed(0)
    fields = {"head_dropout": 0.0, "mask_bands": 0.0, "mask_time": 0.0}
    clip = torch.randn(1, 8000)
    for drop_path, differ in ((0.0, False), (0.9, True)):
        model = SEResNet(SEResNetConfig(num_labels=2, width=4, drop_path=drop_path, **fields))
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.momentum = 0.0
        outputs = {tuple(model.train()(clip).logits[0].tolist()) for _ in range(6)}
        assert (len(outputs) > 1) == differ
        assert torch.equal(model.eval()(clip).logits, model(clip).logits)


def test_width_is_an_argument():
    task = get_task("type")
    model, _ = build_model(ModelArguments(model="se_resnet", width=8), DataArguments(), task, None)
    assert model.config.width == 8 and model.head.in_features == 2 * 64
    with pytest.raises(AvbError, match="--width is for log_mel_cnn and se_resnet"):
        build_model(ModelArguments(model="emo18", width=8), DataArguments(), task, None)
    with pytest.raises(ValueError, match="drop_path"):
        SEResNetConfig(drop_path=1.0)
