"""The same training on one device, on several, and cut into micro-batches: gradients, weights, and what is scored."""

from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scaled_run import make_trainer
from trainings import Scaled, difference, scaled_runs
from transformers import TrainerCallback

from avb.errors import AvbError
from avb.training.batches import JoinedBatches

# ---- accumulation ---------------------------------------------------------------------------------------------------


def one_step_gradients(tmp_path, **settings) -> tuple[dict, float]:
    """Gradients and logged loss of the first step; clips of like length, so that padding rounds alike."""
    trainer = make_trainer(tmp_path, max_steps=1, max_grad_norm=0.0, **settings)
    gradients = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    trainer.add_callback(Keep)
    trainer.train()
    return gradients, trainer.state.log_history[0]["loss"]


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("two", {}),
        pytest.param("two", {"ccc_reduction": "sum", "pooling": "attention"}, marks=pytest.mark.slow),
        pytest.param("two", {"loss": "mse"}, marks=pytest.mark.slow),
        pytest.param("type", {"label_smoothing": 0.1}, marks=pytest.mark.slow),
        ("type", {"class_weights": "balanced"}),
        pytest.param("two+type", {}, marks=pytest.mark.slow),
        ("two+type", {"task_weighting": "uncertainty"}),
    ],
)
def test_accumulated_gradient_is_that_of_the_large_batch(task, model, tmp_path):
    """With missing labels, and a last step of 10 clips in micro-batches of 4: as one batch of 10."""
    common = {"task": task, "model": model, "num_clips": 10, "missing": 2, "dataloader_drop_last": False}
    whole, whole_loss = one_step_gradients(tmp_path, per_device_train_batch_size=12, **common)
    parts, loss = one_step_gradients(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=3, **common)
    assert loss == pytest.approx(whole_loss, abs=1e-6)
    assert whole.keys() == parts.keys() and max(gradient.abs().max() for gradient in whole.values()) > 1e-2
    assert difference(whole, parts) < 2e-6
    if model.get("task_weighting") == "uncertainty":
        assert whole["log_variances"].abs().min() > 1e-3


def test_the_mean_of_the_parts_is_another_gradient(tmp_path):
    """What the stock Trainer would do, so that the test above is known to see the difference."""
    common = {"num_clips": 12, "missing": 3, "dataloader_drop_last": False}
    whole, _ = one_step_gradients(tmp_path, per_device_train_batch_size=12, **common)
    batches = list(make_trainer(tmp_path, per_device_train_batch_size=4, **common).get_train_dataloader())
    model = make_trainer(tmp_path, **common).model.train()
    for inputs in batches:
        (model(**inputs).loss / len(batches)).backward()
    stock = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert difference(whole, stock) > 1e-2


def test_both_passes_draw_the_same_random_numbers(tmp_path):
    """Dropout and SpecAugment of the pass that is back-propagated are those of the pass that made the loss.

    Not to the bit: a frozen front end sums in another order where there are no gradients.
    """
    model = {"hidden_dropout": 0.3, "head_dropout": 0.3, "mask_time_prob": 0.3}
    trainer = make_trainer(
        tmp_path, model=model, per_device_train_batch_size=4, gradient_accumulation_steps=3, max_steps=2
    )
    logits = {True: [], False: []}
    trainer.model.register_forward_hook(
        lambda module, inputs, output: logits[torch.is_grad_enabled()].append(output.logits.detach())
    )
    trainer.train()
    assert len(logits[True]) == len(logits[False]) == 6
    torch.testing.assert_close(logits[False], logits[True], rtol=0, atol=1e-5)
    assert (logits[True][0] - logits[True][1]).abs().max() > 1e-3


def test_a_batch_that_is_not_cut_up_runs_once(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=4, max_steps=2)
    runs = []
    trainer.model.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    trainer.train()
    assert runs == [True, True]


@pytest.mark.slow
def test_bfloat16_and_clipping_under_accumulation(tmp_path):
    """bf16 autocast rounds each product, not the loss: weights stay near those of the large batch."""
    fields = {"bf16": True, "max_grad_norm": 0.1, "max_steps": 5, "optim": "sgd"}
    trained = []
    for size, steps in ((12, 1), (4, 3)):
        trainer = make_trainer(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps, **fields)
        trainer.train()
        trained.append({name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()})
        assert all(entry["grad_norm"] > 0.1 for entry in trainer.state.log_history if "grad_norm" in entry)
    assert 0 < difference(*trained) < 1e-5


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"head_norm": "batch"}, "batch norm"),
        ({"waveform_normalization": "batch"}, "waveform_normalization batch"),
        ({"masked_pooling": False, "pooling": "avg"}, "masked_pooling false"),
    ],
)
def test_models_that_depend_on_the_batch_are_refused(model, reason, tmp_path):
    with pytest.raises(AvbError, match=reason):
        make_trainer(tmp_path, model=model, gradient_accumulation_steps=2)
    make_trainer(tmp_path, model=model)


# ---- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["group_by_length", "random", "sequential"])
@pytest.mark.parametrize("num_clips", [1, 2, 5, 11, 24, 25, 47, 48])
@pytest.mark.parametrize("drop_last", [True, False])
def test_steps_hold_the_same_clips_on_any_number_of_devices(strategy, num_clips, drop_last):
    lengths = np.random.default_rng(0).integers(100, 900, num_clips).tolist()

    def steps(world_size, accumulation, epoch=3):
        common = {"accumulation": accumulation, "world_size": world_size, "drop_last": drop_last}
        samplers = [
            JoinedBatches(
                num_clips, lengths, strategy, batch_size=12 // (world_size * accumulation), rank=rank, **common
            )
            for rank in range(world_size)
        ]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        dealt = [list(sampler) for sampler in samplers]
        assert all(len(batches) == len(sampler) for batches, sampler in zip(dealt, samplers, strict=True))
        assert len({len(batches) for batches in dealt}) == 1  # else some device waits for ever
        assert all(batch for batches in dealt for batch in batches)
        sizes = range(0, len(dealt[0]), accumulation)
        return [sorted(clip for batches in dealt for b in batches[i : i + accumulation] for clip in b) for i in sizes]

    expected = steps(1, 1)
    seen = [clip for step in expected for clip in step]
    assert len(seen) == len(set(seen)) == (num_clips // 12 * 12 if drop_last else num_clips)
    for world_size, accumulation in ((1, 4), (2, 1), (3, 1), (2, 3), (3, 4)):
        dealt = steps(world_size, accumulation)
        left_out = set(seen) - {clip for step in dealt for clip in step}
        assert len(left_out) < world_size and dealt == [s for s in (sorted(set(s) - left_out) for s in expected) if s]
    if strategy != "sequential" and num_clips >= 24:
        assert steps(1, 1, epoch=4) != expected == steps(1, 1)


# ---- several devices ------------------------------------------------------------------------------------------------


# The trainings of several tests are run by the same processes: starting those takes longer than ten steps.
ORDER_STEPS = 2  # an epoch of 48 clips: each device has half of every step, in batches of 12


def runs_to_compare(processes: int) -> dict[str, list[dict]]:
    """Six steps, three an epoch, the last of 5 clips: 2 + 3, or 2 + 2 + 1."""
    common = {"num_clips": 29, "missing": 5, "max_steps": 6, "dataloader_drop_last": False}
    models = {"two": {}, "type": {}, "two+type": {"task_weighting": "uncertainty"}}
    return {
        f"{12 // (processes * accumulation)} x {accumulation}": [
            {
                "task": task, "model": model, "per_device_train_batch_size": 12 // (processes * accumulation),
                "gradient_accumulation_steps": accumulation, **common,
            }
            for task, model in models.items()
        ]
        for accumulation in ((1, 2) if processes == 2 else (1,))
    }  # fmt: skip


def runs_to_score(processes: int) -> list[dict]:
    """2 or 21 clips: the last batch of evaluation is filled up on several devices."""
    common = {"num_clips": 21, "missing": 0, "max_steps": 1, "per_device_eval_batch_size": 4}
    common |= {"learning_rate": 0.0, "encoder_learning_rate": 0.0, "dataloader_drop_last": False}
    return [{"num_scored": count, "per_device_train_batch_size": 6 // processes, **common} for count in (2, 21)]


def run_with_dropout(processes: int) -> list[dict]:
    """Three epochs; dropout draws more numbers on the device with the longer clips."""
    settings = {"model": {"hidden_dropout": 0.2, "mask_time_prob": 0.3}, "num_clips": 48, "missing": 0}
    settings |= {"learning_rate": 0.0, "encoder_learning_rate": 0.0, "weight_decay": 0.0, "optim": "sgd"}
    settings |= {"per_device_train_batch_size": 12, "max_steps": 3 * ORDER_STEPS, "log_ids": True}
    return [settings] if processes == 2 else []


def run_by_seconds(processes: int) -> list[dict]:
    """Steps of so many seconds; one process cuts them in two, as the two processes do."""
    settings = {"num_clips": 40, "missing": 4, "batch_seconds": 1.2, "max_steps": 8, "dataloader_drop_last": False}
    return [] if processes == 3 else [settings | {"gradient_accumulation_steps": 2 // processes}]


class InDouble(NamedTuple):
    """What float64 trainings on so many devices left."""

    compared: dict[str, list[Scaled]]
    scored: list[Scaled]
    by_seconds: list[Scaled]
    with_dropout: list[Scaled]


@pytest.fixture(scope="module")
def in_double(tmp_path_factory) -> dict[int, InDouble]:
    done = {}
    for processes in (1, 2, 3):
        compared, scored = runs_to_compare(processes), runs_to_score(processes)
        by_seconds = run_by_seconds(processes)
        settings = [*chain(*compared.values()), *scored, *by_seconds, *run_with_dropout(processes)]
        runs = iter(
            scaled_runs(tmp_path_factory.mktemp("double"), processes, *({**s, "double": True} for s in settings))
        )
        done[processes] = InDouble(
            {name: list(islice(runs, len(group))) for name, group in compared.items()},
            list(islice(runs, len(scored))),
            list(islice(runs, len(by_seconds))),
            list(runs),
        )
    return done


@pytest.mark.slow
def test_two_and_three_processes_train_as_one(in_double):
    (one,) = in_double[1].compared.values()
    for run in one:
        assert difference(run.weights, run.start) > 3e-3 and len(run.seen["losses"]) == 6
    assert [list(in_double[processes].compared) for processes in (2, 3)] == [["6 x 1", "3 x 2"], ["4 x 1"]]
    for processes in (2, 3):
        for runs in in_double[processes].compared.values():
            for expected, run in zip(one, runs, strict=True):
                assert difference(expected.weights, run.weights) < 1e-11
                assert run.seen["losses"] == pytest.approx(expected.seen["losses"], abs=1e-12)


@pytest.mark.slow
def test_two_processes_train_as_one_on_batches_by_seconds(in_double):
    (one,), (two,) = (in_double[processes].by_seconds for processes in (1, 2))
    assert difference(one.weights, one.start) > 1e-3 and difference(one.weights, two.weights) < 1e-11
    assert two.seen["losses"] == pytest.approx(one.seen["losses"], abs=1e-12)


@pytest.mark.slow
def test_single_precision_differs_by_rounding_only(tmp_path):
    """Plain gradient descent: Adam divides rounding errors by themselves where a gradient is zero (key biases)."""
    common = {"optim": "sgd", "learning_rate": 1e-2, "encoder_learning_rate": 1e-2, "num_clips": 53}
    common |= {"max_steps": 10, "dataloader_drop_last": False}

    def train(processes: int, *accumulations: int) -> tuple[list[Scaled], list[Scaled]]:
        """From the disk, and changed from the device, of which each has all clips."""
        sizes = [(number, 12 // (processes * number)) for number in accumulations]
        runs = [{"gradient_accumulation_steps": n, "per_device_train_batch_size": size} for n, size in sizes]
        there = {"audio_on_device": "true", "augment": ["rate", "shift", "noise", "mixup"], "missing": 2}
        done = scaled_runs(tmp_path, processes, *(common | more | run for more in ({}, there) for run in runs))
        return done[: len(runs)], done[len(runs) :]

    for (one, *cut_up), two in zip(train(1, 1, 2, 4), train(2, 1), strict=True):
        assert difference(one.weights, one.start) > 2e-3
        for run in (*cut_up, *two):
            assert difference(one.weights, run.weights) <= 1e-6


@pytest.mark.slow
def test_processes_draw_one_order_although_their_random_numbers_differ(in_double):
    """With the stock sampler the next epoch would then differ."""
    ((_, _, seen),) = in_double[2].with_dropout
    for epoch in range(3):
        steps = slice(ORDER_STEPS * epoch, ORDER_STEPS * (epoch + 1))
        clips = [clip for rank in seen["ids"] for step in rank[steps] for clip in step]
        assert sorted(clips) == list(range(48))


@pytest.mark.slow
def test_every_clip_is_scored_once(in_double):
    """What a batch is filled up with is not scored."""
    one = [run.seen for run in in_double[1].scored]
    for processes in (2, 3):
        scored = [run.seen for run in in_double[processes].scored]
        for count, expected, seen in zip((2, 21), one, scored, strict=True):
            assert seen["num_scored"] == count and seen["labels"] == expected["labels"]
            assert np.abs(np.array(seen["predictions"]) - np.array(expected["predictions"])).max() < 1e-12
            metrics = {k: value for k, value in expected["metrics"].items() if "runtime" not in k and "time" not in k}
            assert metrics.keys() >= {"test_loss", "test_ccc"}
            for key, value in metrics.items():
                assert seen["metrics"][key] == pytest.approx(value, abs=1e-12), key
