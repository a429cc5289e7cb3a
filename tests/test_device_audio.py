"""Clips that lie on the device: the same audio, changes, training and scores as from the disk, here on a CPU."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from scaled_run import clips, make_trainer
from trainings import EVERY_STEP, NOISY, SYNCHRONISING, Operations, difference, is_same, log, weights

from audio_avb import SAMPLING_RATE
from avb.collator import BurstCollator
from avb.errors import AvbError
from avb.tasks import TASKS
from avb.training import batched_changes, device_audio, draws
from avb.training.augmentation import AugmentedClips, play
from avb.training.batched_changes import BATCHED, apply, fft_size, resample
from avb.training.device_audio import DeviceAudio, DeviceClips, DeviceCollator, place_clips
from avb.training.frozen import FrameCollator
from feature_extraction_avb import VocalBurstFeatureExtractor

CPU = torch.device("cpu")
# The most that a sample may differ by, as a share of its clip's highest: 16 bits, and an FFT of another size.
TOLERANCE = dict.fromkeys(BATCHED, 2e-4) | {"equalizer": 5e-4}
NAMES = list(BATCHED)


def bursts(count: int = 12, longest: float = 0.6) -> Dataset:
    """Decoded clips of 30 ms and more, of all levels: noise without much of the highest octave, one of them silence."""
    rng = np.random.default_rng(0)
    waveforms = []
    for number in range(count):
        noise = rng.standard_normal(int(rng.uniform(0.03, longest) * SAMPLING_RATE) + 15)
        smooth = np.convolve(noise, np.hanning(17) / 8, "valid") * 10 ** rng.uniform(-3, 0) * (number != 5)
        waveforms.append(np.clip(smooth, -1, 1).astype(np.float32))
    rows = {"labels": rng.random((count, 3)).astype(np.float32).tolist(), "num_samples": [*map(len, waveforms)]}
    rows |= {"input_values": waveforms, "id": [str(number) for number in range(count)]}
    return Dataset.from_dict(rows).with_format("numpy", columns=["input_values"], output_all_columns=True)


def heard(
    rows: Dataset, names, epoch: int, by_rows: bool = True, are_whole: bool = True
) -> tuple[list[np.ndarray], torch.Tensor]:
    """Each clip as it is changed on the device, and its labels."""
    augmentation = draws.Augmentation(rows["num_samples"][:], names, prob=0.8, seed=3)
    augmentation.set_epoch(epoch)
    audio = DeviceAudio({"other": rows.select(range(3)), "train": rows}, CPU, normalizes=False)
    train = audio.clips({"train": rows}, augmentation)["train"]
    batch = DeviceCollator()([train[number] for number in range(len(rows))])
    waveforms, samples = apply(batch["audio"], audio.read, by_rows)
    if are_whole:
        assert waveforms.shape == (len(rows), samples.max())
    for waveform, count in zip(waveforms, samples, strict=True):
        assert not waveform[count:].any()
    return [waveform[:count].numpy() for waveform, count in zip(waveforms, samples, strict=True)], batch["labels"]


def read_from_disk(rows: Dataset, names, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
    augmented = AugmentedClips(rows, names, prob=0.8, seed=3)
    augmented.set_epoch(epoch)
    changed = [augmented[number] for number in range(len(rows))]
    return [row["input_values"] for row in changed], np.stack([row["labels"] for row in changed])


def largest_difference(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """As a share of the clip's highest sample; infinite where the lengths differ."""
    if [*map(len, one)] != [*map(len, other)]:
        return np.inf
    pairs = zip(one, other, strict=True)
    return max(np.abs(first - last).max() / max(np.abs(first).max(), 1e-9) for first, last in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_a_change_is_the_same_in_a_batch_as_clip_by_clip(name):
    rows = bursts()
    for epoch in range(2):
        expected, labels = read_from_disk(rows, [name], epoch)
        changed, softened = heard(rows, [name], epoch)
        assert largest_difference(expected, changed) < TOLERANCE[name]
        np.testing.assert_allclose(softened.numpy(), labels, rtol=1e-6)
        if name != "rate":  # of which the form on a GPU is another one
            assert largest_difference(expected, heard(rows, [name], epoch, by_rows=False)[0]) < TOLERANCE[name]


def test_all_changes_together_are_the_same_too():
    rows = bursts()
    assert largest_difference(read_from_disk(rows, NAMES, 1)[0], heard(rows, NAMES, 1)[0]) < 1e-3


@pytest.mark.parametrize(
    ("name", "mutate"),
    [
        ("rate", lambda change: change._replace(rate=change.rate * 1.0005)),
        ("shift", lambda change: change._replace(pause=change.pause - (change.pause > 0))),
        ("mix", lambda change: change._replace(start=change.start + 1)),
        ("mix", lambda change: change._replace(decibels=change.decibels + 0.1)),
        ("noise", lambda change: change._replace(start=change.start + 1)),
        ("equalizer", lambda change: change._replace(decibels=tuple(value + 0.1 for value in change.decibels))),
        ("gain", lambda change: change._replace(decibels=change.decibels + 0.1)),
        ("mixup", lambda change: change._replace(share=change.share * 0.99)),
        ("mixup", lambda change: change._replace(clip=(change.clip + 1) % 12)),
    ],
)
def test_a_draw_that_is_a_little_off_would_be_noticed(name, mutate, monkeypatch):
    rows = bursts()
    expected = read_from_disk(rows, [name], 0)[0]
    pack = batched_changes._VALUES[name]
    monkeypatch.setitem(batched_changes._VALUES, name, lambda change, first: pack(mutate(change), first))
    assert largest_difference(expected, heard(rows, [name], 0, are_whole=False)[0]) > TOLERANCE[name]


def test_the_spectral_resampler_agrees_with_soxr():
    """0.3 % of a clip's level where its highest octave is weak, 1.2 % for white noise: other slopes of the filters."""
    rng = np.random.default_rng(0)
    white = rng.standard_normal(9000).astype(np.float32)
    smooth = np.convolve(white, np.hanning(9) / 4, "same").astype(np.float32)
    for rate in (0.85, 0.93, 1.001, 1.15):
        steps = torch.tensor([round(rate * 3 * 2**32)])
        for clip, tolerance in ((white, 0.012), (smooth, 0.003)):
            expected = play(clip, rate, int(np.ceil(9000 / rate)))
            padded = np.pad(clip, (0, max(len(expected) - 9000, 0)))
            changed = resample(torch.from_numpy(padded)[None], steps)[0, : len(expected)].numpy()
            squares = (changed - expected)[:-1] ** 2  # soxr leaves out the last sample, now and then
            assert np.sqrt(np.mean(squares) / np.mean(expected**2)) < tolerance


def test_on_a_gpu_other_clips_of_a_batch_keep_their_rate():
    rows = bursts()
    augmentation = draws.Augmentation(rows["num_samples"][:], ["rate"], prob=0.8, seed=3)
    unchanged = [number for number in range(len(rows)) if not augmentation.draw(number).changes]
    expected, changed = read_from_disk(rows, ["rate"], 0)[0], heard(rows, ["rate"], 0, by_rows=False)[0]
    assert 0 < len(unchanged) < len(rows)
    for number, (one, other) in enumerate(zip(expected, changed, strict=True)):
        tolerance = 5e-5 if number in unchanged else 0.03
        assert len(one) == len(other) and np.abs(one - other)[:-1].max() <= tolerance * np.abs(one).max()


@pytest.mark.parametrize("normalizes", [False, True])
def test_a_batch_is_that_of_the_disk_up_to_16_bits(normalizes):
    rows = bursts()
    extractor = VocalBurstFeatureExtractor(do_normalize=normalizes)
    expected = BurstCollator(extractor, [4000, 9000, 10_000])([rows[number] for number in (7, 2, 5, 11)])
    audio = DeviceAudio({"train": rows}, CPU, normalizes)
    clips_of_train = DeviceClips(rows, audio.firsts["train"])
    batch = audio.hear(DeviceCollator([4000, 9000, 10_000])([clips_of_train[number] for number in (7, 2, 5, 11)]))
    assert batch.keys() == expected.keys()
    for name in ("attention_mask", "labels"):
        assert torch.equal(batch[name], expected[name]) and batch[name].dtype == expected[name].dtype
    peaks = expected["input_values"].abs().amax(1, keepdim=True)
    assert batch["input_values"].dtype == torch.float32
    assert (batch["input_values"] - expected["input_values"]).abs().le(peaks * 2e-5 + 1e-9).all()


def test_clips_are_read_all_at_once_as_one_by_one():
    audio = DeviceAudio({"train": bursts()}, CPU, normalizes=False)
    clips, starts, samples = torch.tensor([3, 11, 5]), torch.tensor([7, 0, 2]), torch.tensor([100, 480, 9])
    one_by_one = audio.read(clips, starts, samples, 500)
    audio.clip_by_clip = False
    assert torch.equal(audio.read(clips, starts, samples, 500), one_by_one)
    assert one_by_one.any(1).tolist() == [True, True, False]  # the last one is silence


def test_on_a_gpu_a_batch_asks_the_device_for_nothing():
    """Nor is more than a number copied there, once what is constant lies there."""
    rows = bursts()
    augmentation = draws.Augmentation(rows["num_samples"][:], NAMES, prob=0.8, seed=3)
    audio = DeviceAudio({"train": rows}, CPU, normalizes=True)
    train = audio.clips({"train": rows}, augmentation)["train"]
    batch = DeviceCollator()([train[number] for number in range(len(rows))])
    expected, audio.clip_by_clip = audio.hear(batch), False
    audio.hear(batch)
    with Operations() as seen:
        heard_at_once = audio.hear(batch)
    assert {"gather", "_fft_r2c", "index"} <= seen.names and not seen.names & {*SYNCHRONISING, "lift_fresh"}
    assert torch.equal(heard_at_once["attention_mask"], expected["attention_mask"])
    assert (heard_at_once["input_values"] - expected["input_values"]).square().mean() < 1e-3  # another resampler


def test_sizes_of_ffts_are_few_and_large_enough():
    sizes = {fft_size(samples) for samples in range(1, 100_000)}
    assert all(fft_size(samples) >= samples for samples in range(1, 100_000)) and len(sizes) < 70
    assert all(size % 2 == 0 for size in sizes) and fft_size(20_000) <= 1.25 * 20_000


AUGMENTED = {"augment": ["rate", "shift", "mix", "noise", "equalizer:0.3", "gain", "mixup"], "missing": 0}
RUN = {"num_clips": 18, "per_device_train_batch_size": 4, "model": NOISY}
SLOWLY = {"learning_rate": 2e-4, "encoder_learning_rate": 2e-4}  # or Adam makes much of what is next to nothing


def test_a_training_of_20_steps_is_that_from_the_disk(tmp_path):
    """Losses and scores within 1e-3, with dropout and masks of the same random numbers."""
    runs = []
    for choice in ("false", "true"):
        settings = {**RUN, **SLOWLY, **AUGMENTED, "max_steps": 20, "num_scored": 6, "audio_on_device": choice}
        trainer = make_trainer(tmp_path / choice, **settings)
        assert (trainer.audio is None) == (choice == "false")
        start = weights(trainer)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        runs.append((losses, trainer.predict(trainer.eval_dataset).predictions, weights(trainer)))
    (losses, scores, trained), (losses_there, scores_there, _) = runs
    assert len(losses) == 20 and difference(start, trained) > 1e-3
    np.testing.assert_allclose(losses_there, losses, atol=1e-3)
    np.testing.assert_allclose(scores_there, scores, atol=1e-3)


def test_a_run_that_goes_on_in_mid_epoch_ends_in_the_same_bits(tmp_path):
    settings = {**RUN, **AUGMENTED, "max_steps": 7, "audio_on_device": "true", **EVERY_STEP}
    undisturbed = make_trainer(tmp_path, **settings)
    undisturbed.train()
    resumed = make_trainer(tmp_path, **settings)
    resumed.train(str(tmp_path / "checkpoint-5"))  # of epochs of 4 steps
    assert is_same(weights(undisturbed), weights(resumed))
    assert log(undisturbed.state.log_history) == log(resumed.state.log_history)


def test_what_cannot_lie_there_is_refused_in_one_line():
    splits, extractor = {"train": bursts(4)}, VocalBurstFeatureExtractor()
    for collator, names, reason in (
        (BurstCollator(extractor), ["rate", "pitch:0.1"], "--augment pitch is done on a processor"),
        (FrameCollator(8), [], "what was computed of them before"),
    ):
        with pytest.raises(
            AvbError, match=f"--audio_on_device true is not possible: .*{reason}.*. With false, clips come"
        ):
            place_clips(splits, collator, names, 0.5, 0, "true", CPU)
        placed = place_clips(splits, collator, names, 0.5, 0, "auto", torch.device("cuda"))
        assert placed.audio is None and reason in placed.reason
    placed = place_clips(splits, BurstCollator(extractor), ["gain"], 0.5, 0, "auto", CPU)
    assert placed.audio is placed.reason is None and isinstance(placed.train, AugmentedClips)


def test_a_card_without_room_leaves_the_clips_on_the_disk(monkeypatch):
    splits, collator = {"train": clips(6, TASKS["two"])}, BurstCollator(VocalBurstFeatureExtractor())
    size = 2 * sum(splits["train"]["num_samples"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * size, 0))
    placed = place_clips(splits, collator, [], 0.5, 0, "auto", torch.device("cuda"))
    assert placed.audio is None and "more than 40% of the" in placed.reason and placed.train is splits["train"]


def test_clips_lie_on_all_devices_or_on_none(monkeypatch):
    splits, collator = {"train": bursts(4)}, BurstCollator(VocalBurstFeatureExtractor())
    assert place_clips(splits, collator, [], 0.5, 0, "true", CPU).audio is not None
    monkeypatch.setattr(device_audio, "gather_object", lambda reasons: [*reasons, "the other one is full"])
    with pytest.raises(AvbError, match="is not possible: the other one is full"):
        place_clips(splits, collator, [], 0.5, 0, "true", CPU)
