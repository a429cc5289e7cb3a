"""Steps of so much audio (`--batch_seconds`): the budget, every clip, the same steps on any number of devices; and the
lengths that torch.compile sees."""

import numpy as np
import pytest
import torch
from scaled_run import make_trainer
from trainings import EVERY_STEP, NOISY, difference, is_same, log, weights

from avb.arguments import AvbTrainingArguments
from avb.errors import AvbError
from avb.training.batches import JoinedBatches, length_bands

BUDGET = 320_000  # samples: 20 s


def lengths(num_clips: int, longest: int = 96_000) -> list[int]:
    return np.random.default_rng(0).integers(4800, longest, num_clips).tolist()


def deal(clip_lengths, world_size: int = 1, accumulation: int = 1, epoch: int = 3, drop_last: bool = True) -> list:
    """Each device's micro-batches."""
    samplers = [
        JoinedBatches(
            len(clip_lengths), clip_lengths, "group_by_length", budget=BUDGET, accumulation=accumulation,
            world_size=world_size, rank=rank, drop_last=drop_last,
        )
        for rank in range(world_size)
    ]  # fmt: skip
    for sampler in samplers:
        sampler.set_epoch(epoch)
    dealt = [list(sampler) for sampler in samplers]
    assert all(len(batches) == len(sampler) for batches, sampler in zip(dealt, samplers, strict=True))
    return dealt


def steps(dealt: list, accumulation: int = 1) -> list[list[int]]:
    """The clips of each step, of all devices."""
    starts = range(0, len(dealt[0]), accumulation)
    return [sorted(clip for batches in dealt for b in batches[i : i + accumulation] for clip in b) for i in starts]


def padded(batch: list[int], clip_lengths) -> int:
    return len(batch) * max(clip_lengths[clip] for clip in batch)


@pytest.mark.parametrize("num_clips", [40, 41, 500])
@pytest.mark.parametrize("drop_last", [True, False])
def test_the_budget_is_kept_and_every_clip_comes_once(num_clips, drop_last):
    clip_lengths = lengths(num_clips)
    for world_size, accumulation in ((1, 1), (2, 1), (2, 2), (1, 4)):
        dealt = deal(clip_lengths, world_size, accumulation, drop_last=drop_last)
        assert all(batch and padded(batch, clip_lengths) <= BUDGET for batches in dealt for batch in batches)
        seen = [clip for step in steps(dealt, accumulation) for clip in step]
        assert len(seen) == len(set(seen))
        if not drop_last:
            assert num_clips - len(seen) < world_size  # what no two devices could share


def test_the_steps_are_the_same_however_they_are_cut_up():
    clip_lengths = lengths(500)
    expected = steps(deal(clip_lengths, 1, 4), 4)
    assert steps(deal(clip_lengths, 4, 1), 1) == steps(deal(clip_lengths, 2, 2), 2) == expected
    assert steps(deal(clip_lengths, 2, 2, epoch=4), 2) != expected  # and others in the next epoch


def test_little_is_padding_and_an_epoch_has_always_as_many_steps():
    clip_lengths = lengths(500)
    (dealt,) = deal(clip_lengths, drop_last=False)
    assert sum(padded(batch, clip_lengths) for batch in dealt) < 1.1 * sum(clip_lengths)
    assert max(padded(batch, clip_lengths) for batch in dealt[1:]) <= BUDGET
    assert max(clip_lengths) in [clip_lengths[clip] for clip in dealt[0]] or len(dealt[0]) == 3
    counts = {len(deal(clip_lengths, epoch=epoch)[0]) for epoch in range(5)}
    assert len(counts) == 1


def test_no_clip_is_left_out_of_every_epoch():
    """What a last step cannot take is drawn anew in each epoch."""
    clip_lengths = lengths(100)
    seen = {clip for epoch in range(30) for step in steps(deal(clip_lengths, epoch=epoch)) for clip in step}
    assert seen == set(range(100))


def test_a_clip_beyond_the_budget_is_a_batch_of_its_own():
    clip_lengths = [400_000, 500_000, *lengths(20)]
    (dealt,) = deal(clip_lengths, drop_last=False)
    assert [0] in dealt and [1] in dealt
    assert [band.batch_size for band in length_bands(clip_lengths, BUDGET, 1)][0] == 1


# ---- training -------------------------------------------------------------------------------------------------------

CLIPS = {"num_clips": 40, "missing": 4, "batch_seconds": 1.2}  # clips of 0.1 to 0.4 s


def test_the_schedule_knows_the_number_of_steps(tmp_path):
    trainer = make_trainer(tmp_path, **CLIPS, num_train_epochs=3)
    expected = len(trainer.get_train_dataloader())
    trainer.train()
    assert trainer.state.max_steps == trainer.state.global_step == 3 * expected > 9
    assert [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry][-1] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_is_the_undisturbed_one(accumulation, tmp_path):
    settings = {**CLIPS, "max_steps": 9, "model": NOISY, "gradient_accumulation_steps": accumulation, **EVERY_STEP}
    undisturbed = make_trainer(tmp_path, **settings)
    undisturbed.train()
    for step in (2, 5):
        resumed = make_trainer(tmp_path, **settings)
        resumed.train(str(tmp_path / f"checkpoint-{step}"))
        assert is_same(weights(undisturbed), weights(resumed)), step
        assert log(undisturbed.state.log_history) == log(resumed.state.log_history), step


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_seconds": 0}, "must be positive"),
        ({"batch_seconds": 8, "train_sampling_strategy": "random"}, "groups clips of similar length"),
    ],
)
def test_illegal_settings_are_refused(settings, message, tmp_path):
    with pytest.raises(AvbError, match=message):
        AvbTrainingArguments(output_dir=str(tmp_path), **settings)


def test_fewer_clips_than_a_step_are_refused(tmp_path):
    trainer = make_trainer(tmp_path, num_clips=3, batch_seconds=60)
    with pytest.raises(AvbError, match="3 train clips are fewer than one step takes: lower --batch_seconds"):
        trainer.train()


# ---- torch.compile --------------------------------------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_compiled_is_eager_and_compiled_for_few_lengths(tmp_path):
    """Clips of 0.1 to 0.9 s, of 64 different lengths, are padded to a few, and compiled for these."""
    fields = {"num_clips": 64, "missing": 0, "longest": 15_000, "per_device_train_batch_size": 4, "max_steps": 8}
    fields |= {"optim": "sgd", "learning_rate": 1e-2, "encoder_learning_rate": 1e-2}
    eager = make_trainer(tmp_path / "eager", **fields)
    start = weights(eager)
    eager.train()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = make_trainer(tmp_path / "compiled", torch_compile=True, **fields)
    take_step, steps_taken = compiled.training_step, []

    def training_step(model, inputs, *args):
        loss = take_step(model, inputs, *args)
        steps_taken.append((inputs["input_values"].shape[1], torch._dynamo.utils.counters["stats"]["unique_graphs"]))
        return loss

    compiled.training_step = training_step
    compiled.train()
    sizes = [size for size, _ in steps_taken]
    assert set(sizes) <= set(compiled.lengths) and len(sizes) == 8
    graphs = [0, *(count for _, count in steps_taken)]
    for number, size in enumerate(sizes):
        if size in sizes[:number]:
            assert graphs[number + 1] == graphs[number], f"compiled anew in step {number}"
    assert graphs[-1] > 0
    assert difference(weights(eager), start) > 1e-3
    assert difference(weights(eager), weights(compiled)) < 1e-5


def test_compiling_pads_more_and_is_refused_where_that_matters(tmp_path):
    with pytest.raises(AvbError, match="masked_pooling false.*--torch_compile pads more"):
        make_trainer(tmp_path, torch_compile=True, model={"masked_pooling": False, "pooling": "avg"})
