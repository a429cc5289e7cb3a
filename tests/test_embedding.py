"""avb.embed: means and frames of any layer, alone as among others, and a clip that cannot be read by its number."""

import doctest
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

import avb
from audio_avb import AudioError
from avb.errors import AvbError
from avb.inference import embedding
from avb.inference.load import load_model


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    return [(rng.normal(size=samples).astype(np.float32), 16_000) for samples in (400, 8_000, 23_456, 16_000)]


def test_docstring():
    outcome = doctest.testmod(embedding)
    assert outcome.attempted and not outcome.failed


@pytest.mark.parametrize("layer", [None, 0, 2])
def test_a_mean_is_that_of_the_clips_own_frames_whatever_is_beside_it(clips, layer):
    together = avb.embed(clips, layer=layer)
    assert together.shape == (4, 256) and together.dtype == np.float32
    frames = avb.embed(clips, layer=layer, frames=True)
    assert [len(part) for part in frames] == sorted(len(part) for part in frames[:3]) + [len(frames[3])]
    for index, clip in enumerate(clips):
        alone = avb.embed([clip], layer=layer)
        np.testing.assert_allclose(alone[0], together[index], atol=2e-5)
        np.testing.assert_allclose(frames[index].mean(0), together[index], atol=2e-5)


def test_the_last_layer_is_what_the_head_reads(clips):
    model, feature_extractor = load_model("emogator-small", "cpu")
    (frames,) = avb.embed(clips[1:2], frames=True, device="cpu")
    inputs = feature_extractor(clips[1][0], sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).logits
        mask = torch.ones(1, len(frames), dtype=torch.bool)
        found = model(encoder_frames=torch.from_numpy(frames)[None], frame_mask=mask).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_files_one_clip_and_none(tmp_path, clips):
    sf.write(tmp_path / "clip.wav", clips[2][0], 16_000, subtype="FLOAT")
    path = str(tmp_path / "clip.wav")
    expected = avb.embed([clips[2]])
    content, stereo = Path(path).read_bytes(), np.stack([clips[2][0] * 1.5, clips[2][0] * 0.5])
    one = (path, Path(path), content, io.BytesIO(content), clips[2], (stereo, 16_000))
    for source in (*one, [path], (clip for clip in [path])):
        np.testing.assert_allclose(avb.embed(source), expected, atol=2e-5)
    with open(path, "rb") as file, pytest.warns(UserWarning, match="array given without a sampling rate"):
        np.testing.assert_allclose(avb.embed([file, clips[2][0]]), np.repeat(expected, 2, 0), atol=2e-5)
    assert avb.embed([]).shape == (0, 256)


def test_what_is_said(tmp_path, clips):
    (tmp_path / "bad.wav").write_text("no audio")
    with pytest.raises(AudioError, match=r"clip 1: .*bad\.wav: not audio but text"):
        avb.embed([clips[0], tmp_path / "bad.wav"])
    with pytest.raises(AvbError, match="keeps layers 1 to 4, and 0 is the input of the first"):
        avb.embed(clips, layer=9)
    with pytest.raises(AvbError, match="emogator-cnn: it has no wav2vec 2.0 encoder"):
        avb.embed(clips, model="emogator-cnn")
