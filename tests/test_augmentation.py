"""Augmented train clips: what each change does, what it is drawn from, and that a real training uses it."""

import re
from dataclasses import fields

import numpy as np
import pytest
from datasets import Dataset

from audio_avb import SAMPLING_RATE
from avb.arguments import DataArguments
from avb.errors import AvbError
from avb.training.augmentation import AugmentedClips
from avb.training.draws import DRAWS, MIXUP, read_augmentations

AUGMENTATIONS = [name for name in DRAWS if name != MIXUP]  # those that need no labels of scores


def tone(seconds: float, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * SAMPLING_RATE)) / SAMPLING_RATE).astype(np.float32)


def rows(*waveforms: np.ndarray) -> Dataset:
    clips = {"id": [f"clip{i}" for i in range(len(waveforms))], "labels": list(range(len(waveforms)))}
    return Dataset.from_dict({**clips, "input_values": waveforms, "num_samples": list(map(len, waveforms))})


def peak_hertz(waveform: np.ndarray) -> float:
    return np.abs(np.fft.rfft(waveform)).argmax() * SAMPLING_RATE / len(waveform)


def draws(name: str, waveform: np.ndarray, epochs: int = 20) -> list[np.ndarray]:
    clips = AugmentedClips(rows(waveform, tone(0.3, 3000)), [name], prob=1.0)
    results = []
    for epoch in range(epochs):
        clips.set_epoch(epoch)
        results.append(clips[0]["input_values"])
    return results


def test_help_names_every_change():
    (field,) = (field for field in fields(DataArguments) if field.name == "augment")
    assert not [name for name in DRAWS if not re.search(rf"\b{name}\b", field.metadata["help"])]


def test_rate_changes_duration_and_pitch_together():
    for changed in draws("rate", tone(1.0)):
        rate = SAMPLING_RATE / len(changed)
        assert 0.84 < rate < 1.16
        assert peak_hertz(changed) == pytest.approx(440 * rate, rel=0.01)


def test_pitch_changes_pitch_and_keeps_the_duration():
    pitches = [peak_hertz(changed) for changed in draws("pitch", tone(1.0)) if len(changed) == SAMPLING_RATE]
    assert len(pitches) == 20
    assert min(pitches) >= 440 * 2 ** (-2.3 / 12) and max(pitches) <= 440 * 2 ** (2.3 / 12)
    assert max(pitches) - min(pitches) > 20


def test_shift_adds_silence_or_drops_the_start():
    lengths = [len(changed) for changed in draws("shift", tone(1.0))]
    assert min(lengths) >= 0.9 * SAMPLING_RATE - 1 and max(lengths) <= 1.2 * SAMPLING_RATE
    assert min(lengths) < SAMPLING_RATE < max(lengths)


@pytest.mark.parametrize(("name", "softest", "loudest"), [("mix", -25, -10), ("noise", -40, -10)])
def test_additions_are_as_far_below_the_clip_as_said(name, softest, loudest):
    clip = tone(0.3)
    for changed in draws(name, clip):
        addition = changed - clip
        level = 10 * np.log10(np.square(addition).mean() / np.square(clip).mean())
        # What `mix` lays under it may be this very clip, which then adds in phase: its level is that of the addition.
        assert softest - 0.2 < level < loudest + 0.2


def test_equalizer_is_a_smooth_filter_of_at_most_6_db():
    impulse = np.zeros(2048, np.float32)
    impulse[1000] = 1.0
    responses = []
    for changed in draws("equalizer", impulse):
        decibels = 20 * np.log10(np.abs(np.fft.rfft(changed)) + 1e-9)[16:]  # from 125 Hz on
        assert len(changed) == 2048 and -6.5 < decibels.min() and decibels.max() < 6.5
        assert np.abs(np.diff(decibels)).max() < 1.5  # of neighbours, 8 Hz apart
        responses.append(decibels)
    assert np.std(responses, axis=0).min() > 1 and np.std(responses, axis=1).min() > 0.3


def test_gain_makes_softer_and_nothing_else():
    for changed in draws("gain", tone(0.1)):
        gain = changed[5] / tone(0.1)[5]
        assert 10 ** (-12 / 20) <= gain <= 1
        np.testing.assert_allclose(changed, tone(0.1) * gain, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 2, 100])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_tiny_and_silent_clips_stay_finite(name, samples):
    for waveform in (np.full(samples, 0.5, np.float32), np.zeros(samples, np.float32)):
        for changed in draws(name, waveform):
            assert len(changed) >= 1 and np.isfinite(changed).all() and changed.dtype == np.float32


def test_what_is_drawn_depends_on_seed_epoch_and_clip_alone():
    split = rows(tone(0.5), tone(0.5), tone(0.4, 700))
    clips = AugmentedClips(split, list(AUGMENTATIONS), seed=1)
    first = [clips[index]["input_values"] for index in range(3)]
    np.random.seed(5)
    again = [clips[index]["input_values"] for index in (2, 0, 1)]
    for one, other in zip(first, [again[1], again[2], again[0]], strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(first[0]) != len(first[1]) or not np.array_equal(first[0], first[1])
    clips.set_epoch(1)
    assert not np.array_equal(clips[0]["input_values"], first[0])
    other_seed = AugmentedClips(split, list(AUGMENTATIONS), seed=2)
    assert not np.array_equal(other_seed[0]["input_values"], first[0])


def test_a_change_may_have_a_probability_of_its_own():
    clips = AugmentedClips(rows(tone(0.1)), ["gain:0.25", "shift"], prob=0.0)
    changed = []
    for epoch in range(200):
        clips.set_epoch(epoch)
        changed.append(not np.array_equal(clips[0]["input_values"], tone(0.1)))
    assert 0.15 < np.mean(changed) < 0.35
    assert read_augmentations(["rate", "mixup:1"], 0.4) == {"rate": 0.4, "mixup": 1.0}


def test_probability_zero_leaves_clips_and_columns_as_they_are():
    split = rows(tone(0.5), tone(0.4))
    clips = AugmentedClips(split, list(AUGMENTATIONS), prob=0.0)
    assert clips["num_samples"][:] == split["num_samples"][:]
    np.testing.assert_array_equal(clips[1]["input_values"], tone(0.4))
    assert {**clips[1], "input_values": None} == {**split[1], "input_values": None}


def test_mixup_mixes_clips_and_labels_in_one_proportion():
    labels = [[1.0, 0.0, 0.2], [0.0, 1.0, float("nan")]]
    split = rows(tone(0.3), 0.1 * tone(0.5, 3000)).remove_columns("labels").add_column("labels", labels)
    clips, seen = AugmentedClips(split, ["mixup"], prob=1.0), []
    for epoch in range(40):
        clips.set_epoch(epoch)
        clip, label = clips[0]["input_values"], np.asarray(clips[0]["labels"])
        assert clip.dtype == label.dtype == np.float32 and len(clip) == 4800
        assert 0.5 <= label[0] <= 1 and label[:2].sum() == pytest.approx(1)
        # At one level: the share of the low tone in the sound is its label's. (With itself a clip stays as it is.)
        own = 2 * np.mean(clip * tone(0.3)) / 0.5**2
        assert own == pytest.approx(label[0], abs=0.02)
        assert label[0] == 1 or np.isnan(label[2])
        seen.append(label[0])
    assert min(seen) < 0.8 and len(set(seen)) > 10


def test_illegal_settings_are_refused():
    split = rows(tone(0.1))
    with pytest.raises(AvbError, match="did you mean 'pitch'"):
        AugmentedClips(split, ["ptich"])
    with pytest.raises(AvbError, match="not a probability"):
        AugmentedClips(split, ["gain"], prob=1.5)
    for wrong in ("gain:", "gain:2", "gain:often", "gain:nan"):
        with pytest.raises(AvbError, match=f"'{wrong}'.* as in gain:0.3"):
            AugmentedClips(split, [wrong])
    with pytest.raises(AvbError, match="'gain' is given twice"):
        AugmentedClips(split, ["gain", "gain:0.3"])
    with pytest.raises(AvbError, match="features"):
        AugmentedClips(split.remove_columns("input_values"), ["gain"])
