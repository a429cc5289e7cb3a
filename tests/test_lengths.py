"""Few lengths that batches are padded to; and loader workers that live on between epochs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from scaled_run import make_trainer
from trainings import difference, weights

from avb.arguments import AvbTrainingArguments, ModelArguments
from avb.collator import BurstCollator, padded_length
from avb.inference import score
from avb.training import device_defaults
from avb.training.augmentation import AugmentedClips
from avb.training.frozen import FrameCollator
from avb.training.lengths import choose_lengths
from feature_extraction_avb import VocalBurstFeatureExtractor


def padding(samples, lengths) -> float:
    """Share that is added, clip by clip: a second, literal reading."""
    return sum(min(length for length in lengths if length >= clip) - clip for clip in samples) / sum(samples)


@pytest.mark.parametrize("shape", ["bursts", "even", "alike"])
def test_little_is_padding_and_the_lengths_are_few(shape):
    generator = np.random.default_rng(0)
    samples = {
        "bursts": 16_000 * generator.lognormal(0.5, 0.5, 3000),
        "even": generator.uniform(4800, 96_000, 2000),
        "alike": np.full(50, 35_200) + generator.integers(0, 100, 50),
    }[shape].astype(int)
    lengths = choose_lengths(samples)
    assert lengths == sorted(set(lengths)) and lengths[-1] >= max(samples) and all(n % 320 == 0 for n in lengths)
    assert len(lengths) <= {"bursts": 32, "even": 28, "alike": 1}[shape]
    assert padding(samples, lengths) < 0.045  # what whole frames and candidates add comes on top of the 3 %
    assert len(choose_lengths(samples, padding=0.2)) <= len(lengths)
    assert len(choose_lengths(samples, padding=0, limit=5)) <= 5


def test_no_other_set_of_two_pads_less():
    samples = [3200, 3520, 6400, 9600, 9920, 12_800]
    found = padding(samples, choose_lengths(samples, padding=0, limit=2))
    assert found == min(padding(samples, [first, 12_800]) for first in samples)


def test_longer_clips_than_any_of_training_have_few_lengths_too():
    lengths = [3200, 8000]
    assert [padded_length(n, lengths) for n in (1, 3200, 3201, 8000, 8001, 9000, 9001)] == [
        3200, 3200, 8000, 8000, 9000, 9000, 10_000,
    ]  # fmt: skip
    assert padded_length(1234, []) == 1234


def test_collators_pad_to_them():
    rows = [{"input_values": np.ones(n, np.float32)} for n in (500, 900)]
    batch = BurstCollator(VocalBurstFeatureExtractor(), [640, 1280])(rows)
    assert batch["input_values"].shape == (2, 1280) and batch["attention_mask"].sum(-1).tolist() == [500, 900]
    frames = [{"encoder_frames": np.ones(n * 4, np.float32)} for n in (3, 5)]
    batch = FrameCollator(4, lengths=[4, 8])(frames)
    assert batch["encoder_frames"].shape == (2, 8, 4) and batch["frame_mask"].sum(-1).tolist() == [3, 5]
    assert batch["encoder_frames"][0, 3:].abs().sum() == 0


def test_a_training_is_the_same_with_few_lengths(tmp_path):
    """On a CPU they are off; told that it is another device, the trainer pads, and learns the same."""
    fields = {"num_clips": 16, "missing": 0, "longest": 15_000, "per_device_train_batch_size": 4, "max_steps": 2}
    fields |= {"optim": "sgd", "learning_rate": 1e-2, "encoder_learning_rate": 1e-2}
    plain = make_trainer(tmp_path / "plain", **fields)
    assert plain.lengths == []
    few = make_trainer(tmp_path / "few", **fields)
    elsewhere = type("Arguments", (), {"torch_compile": False, "device": torch.device("meta")})
    elsewhere.length_column_name = "num_samples"
    lengths = few._few_lengths(few.model, elsewhere, few.data_collator, few.train_dataset)
    assert lengths == few.data_collator.lengths
    start = weights(few)
    seen = set()
    collate = few.data_collator.__call__
    few.data_collator = lambda rows: [seen.add((batch := collate(rows))["input_values"].shape[1]), batch][1]
    for trainer in (plain, few):
        trainer.train()
    assert seen <= set(lengths)
    assert difference(start, weights(few)) > 1e-4 and difference(weights(plain), weights(few)) < 1e-6


def test_scores_that_depend_on_the_batch_are_not_padded_more(tmp_path):
    trainer = make_trainer(tmp_path, model={"masked_pooling": False, "pooling": "avg"})
    arguments = type("Arguments", (), {"torch_compile": False, "device": torch.device("meta")})
    assert trainer._few_lengths(trainer.model, arguments, trainer.data_collator, trainer.train_dataset) == []


def test_workers_that_live_on_augment_each_epoch_anew():
    rows = Dataset.from_list([{"input_values": np.ones(400, np.float32), "num_samples": 400} for _ in range(4)])
    clips = AugmentedClips(rows.with_format("numpy"), ["noise"], prob=1.0)
    loader = torch.utils.data.DataLoader(
        clips, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=lambda rows: rows
    )
    heard = []
    for epoch in range(2):
        clips.set_epoch(epoch)
        heard.append(np.stack([row["input_values"] for batch in loader for row in batch]))
    assert np.abs(heard[0] - heard[1]).min(1).max() > 0 and not np.array_equal(*heard)
    clips.set_epoch(1)
    np.testing.assert_array_equal(heard[1], np.stack([clips[index]["input_values"] for index in range(4)]))


@pytest.fixture
def on_a_gpu(tmp_path, monkeypatch):
    """Arguments that say cuda, and a torch that says what its card can."""

    def make(bf16=True, tf32=True, **settings):
        monkeypatch.setattr(device_defaults, "is_torch_bf16_gpu_available", lambda: bf16)
        monkeypatch.setattr(device_defaults, "is_torch_tf32_available", lambda: tf32)
        monkeypatch.setattr(device_defaults, "set_tf32", lambda is_on: None)
        args = AvbTrainingArguments(output_dir=str(tmp_path), **settings)
        monkeypatch.setattr(AvbTrainingArguments, "device", property(lambda self: torch.device("cuda")))
        return args

    return make


def test_a_gpu_trains_in_bf16_with_workers_that_live_on(on_a_gpu, monkeypatch):
    monkeypatch.setattr(device_defaults, "loader_workers", lambda world_size: 7)
    args = on_a_gpu()
    assert device_defaults.fill_in(ModelArguments(), args, given={}) == {"bf16": True, "tf32": True}
    assert (args.bf16, args.mixed_precision) == (True, "bf16")
    assert (args.dataloader_num_workers, args.dataloader_persistent_workers) == (7, True)


@pytest.mark.parametrize(
    ("model", "given", "known", "expected"),
    [
        ("wav2vec2", {"bf16": False, "tf32": False}, None, {}),  # the authors' preset
        ("se_resnet", {}, None, {"bf16": False, "tf32": True}),
        ("wav2vec2", {}, {"bf16": False, "learning_rate": 1}, {"bf16": False, "tf32": True}),  # a resumed run's own
        ("wav2vec2", {"fp16": True}, None, {"tf32": True}),
    ],
)
def test_what_is_given_or_was_so_wins(model, given, known, expected, on_a_gpu):
    args = on_a_gpu()
    assert device_defaults.fill_in(ModelArguments(model=model), args, given, known) == expected
    assert not args.bf16 and args.mixed_precision == "no"


def test_an_older_card_has_tf32_or_nothing(on_a_gpu, monkeypatch):
    args = on_a_gpu(bf16=False)
    assert device_defaults.fill_in(ModelArguments(), args, {}) == {"bf16": False, "tf32": True}
    monkeypatch.setattr(device_defaults, "is_torch_tf32_available", lambda: False)
    assert device_defaults.fill_in(ModelArguments(), args, {}) == {"bf16": False}


@pytest.mark.parametrize("before", [None, False, True])
@pytest.mark.parametrize("is_on", [False, True])
def test_tf32_is_that_of_all_kernels_however_torch_is_asked(is_on, before):
    """After Transformers has set it, too, by an interface that reaches only some of them."""
    kernels = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    try:
        if before is not None:
            torch.backends.fp32_precision = "tf32" if before else "ieee"
        device_defaults.set_tf32(is_on)
        assert {one.fp32_precision for one in kernels} <= ({"tf32"} if is_on else {"ieee", "none"})
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == is_on
        assert torch.get_float32_matmul_precision() == ("high" if is_on else "highest")
    finally:  # as torch starts: convolutions and LSTMs only
        device_defaults.set_tf32(False)
        torch.backends.fp32_precision, torch.backends.cudnn.allow_tf32 = "none", True


@pytest.fixture
def on_a_cpu(tmp_path, monkeypatch):
    """Arguments for a CPU that has, or lacks, instructions for products in bfloat16."""

    def make(is_fast: bool):
        monkeypatch.setattr(device_defaults, "has_fast_bf16", lambda: is_fast)
        return AvbTrainingArguments(output_dir=str(tmp_path), use_cpu=True)

    return make


@pytest.mark.parametrize("is_fast", [False, True])
def test_a_cpu_changes_the_precision_only(is_fast, on_a_cpu):
    args = on_a_cpu(is_fast)
    before = dict(vars(args))
    assert device_defaults.fill_in(ModelArguments(), args, {}) == {"bf16": is_fast}
    changed = {"bf16": True, "mixed_precision": "bf16"} if is_fast else {}
    assert vars(args) == before | changed and (args.bf16, before["bf16"]) == (is_fast, False)
    device_defaults.fill_in_evaluation(args, {}, 16_000, None)
    assert args.per_device_eval_batch_size == 16
    said = device_defaults.summary(args, 0)
    precision = "bf16" if is_fast else "fp32"
    assert said == f"on cpu: {precision}, clips loaded in this process, evaluation of 16 clips"
    said = device_defaults.summary(args, 0, audio_bytes=1_030_000_000)
    assert said == f"on cpu: {precision}, all clips in its memory (1,030 MB), evaluation of 16 clips"


@pytest.mark.parametrize(
    ("model", "given", "known", "expected"),
    [
        ("wav2vec2", {"bf16": False}, None, {}),  # the authors' preset
        ("log_mel_cnn", {}, None, {"bf16": False}),
        ("wav2vec2", {}, {"bf16": False}, {"bf16": False}),  # began on another CPU
        ("wav2vec2", {}, {"learning_rate": 1}, {"bf16": False}),  # began before CPUs had it
    ],
)
def test_a_fast_cpu_has_what_is_given_or_was_so(model, given, known, expected, on_a_cpu):
    args = on_a_cpu(True)
    assert device_defaults.fill_in(ModelArguments(model=model), args, given, known) == expected
    assert not args.bf16 and args.mixed_precision == "no"


def test_a_run_in_bf16_goes_on_in_it_on_another_cpu(on_a_cpu):
    args = on_a_cpu(False)
    assert device_defaults.fill_in(ModelArguments(), args, {}, {"bf16": True}) == {"bf16": True}
    assert args.bf16
    assert device_defaults.summary(args, 0).startswith(
        "on cpu: bf16, which this processor has no instructions for, so it is slower than --bf16 false, clips"
    )


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="what the system knows of the CPU is read on Linux")
def test_fast_are_cpus_with_instructions_for_it():
    assert device_defaults.has_fast_bf16() == ("avx512_bf16" in Path("/proc/cpuinfo").read_text().split())


def test_evaluation_batches_fit_into_memory():
    sizes = [
        evaluation for gb in (1, 8, 80) if (evaluation := device_defaults.evaluation_batch_size(160_000, gb << 30))
    ]
    assert sizes == sorted(sizes) and sizes[0] >= 1 and sizes[-1] >= 64
    assert device_defaults.evaluation_batch_size(1600, 80 << 30) == 256


@pytest.mark.parametrize(
    ("device", "processors", "threads"), [("cpu", 32, 2), ("meta", 32, 8), ("meta", 4, 3), ("meta", 1, 2)]
)
def test_as_many_threads_decode_as_keep_the_device_busy(device, processors, threads, monkeypatch):
    monkeypatch.setattr(score.os, "cpu_count", lambda: processors)
    assert score.decode_threads(type("Model", (), {"device": torch.device(device)})) == threads
