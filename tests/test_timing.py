"""Steps are timed before the first one, and the run ends in the same bits as without."""

import re

import numpy as np
import pytest
import torch
from scaled_run import make_trainer
from torch import nn
from trainings import NOISY, Again, is_same, log, weights
from transformers import Trainer

from avb.training import timing

SHORT = {"num_clips": 14, "per_device_train_batch_size": 4, "max_steps": 7, "eval_strategy": "epoch", "model": NOISY}


class Normed(nn.Module):
    """A layer with batch norm before it, whose statistics every step moves."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(layer.in_features), layer

    def forward(self, x):
        return self.layer(self.norm(x.flatten(0, -2)).view_as(x))


def trained(folder, resume=None, capture=None, **settings):
    trainer = make_trainer(folder, **{**SHORT, **settings})
    if settings.get("gradient_accumulation_steps", 1) == 1:
        trainer.model.head = Normed(trainer.model.head)
    if capture is not None:
        trainer.data_collator.lengths = [6400]
        trainer.graphed = trainer.graph_steps(capture)
    trainer.train(resume)
    return trainer


@pytest.mark.parametrize(
    "settings",
    [
        {"save_strategy": "steps", "save_steps": 4, "save_total_limit": None},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "train_sampling_strategy": "random"},
    ],
)
def test_a_run_ends_in_the_same_bits_with_and_without(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "SHARE", 1.0)  # of a run of seven steps
    without = trained(tmp_path / "without", **settings)
    assert capsys.readouterr().out == ""
    timed = [trained(tmp_path / "with", disable_tqdm=False, **settings)]
    if "save_steps" in settings:
        timed.append(trained(tmp_path / "with", str(tmp_path / "with/checkpoint-4"), disable_tqdm=False, **settings))
    said = re.findall(r"^\d.* steps in .*: about \d+ s, including validation$", capsys.readouterr().out, re.M)
    assert len(said) == len(timed)
    for trainer in timed:
        assert is_same(weights(without), weights(trainer))
        assert log(without.state.log_history) == log(trainer.state.log_history)


@pytest.mark.parametrize(("plans", "replays"), [(False, 5), (True, 4)])  # 4: validation is repeated, steps are not
def test_where_steps_are_graphs_replays_are_timed_and_the_run_ends_in_the_same_bits(
    plans, replays, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(timing, "SHARE", 1.0)
    monkeypatch.setattr(timing, "_makes_plans", lambda device: plans)
    without = trained(tmp_path / "without", capture=Again())
    capture, timed, time = Again(), [], timing._time

    def note(trainer, work, rows):
        before = (capture.captures, capture.replays)
        seconds = time(trainer, work, rows)
        timed.append((work.__name__, capture.captures - before[0], capture.replays - before[1]))
        return seconds

    monkeypatch.setattr(timing, "_time", note)
    trainer = trained(tmp_path / "with", capture=capture, disable_tqdm=False)
    assert timed == [("_train_step", 0, 0), *[("_train_step", 0, 1)] * replays, ("_score", 0, 0)]
    assert is_same(weights(without), weights(trainer))
    assert log(without.state.log_history) == log(trainer.state.log_history)
    assert "about" in capsys.readouterr().out


def test_where_a_capture_fails_eager_steps_are_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "SHARE", 1.0)
    trainer = trained(tmp_path, capture=Again(fails_at=1), disable_tqdm=False)
    assert trainer.state.global_step == 7 and not trainer.graphed.is_on


def test_where_a_new_length_costs_a_plan_each_batch_is_run_before_it_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "SHARE", 1.0)
    monkeypatch.setattr(timing, "_makes_plans", lambda device: True)
    trainer, steps, work = make_trainer(tmp_path, **SHORT), [], {}
    trainer.train()
    trainer.state.global_step = 0
    for name in ("_train_step", "_score"):
        work[name] = getattr(timing, name)

        def note(trainer, rows, name=name):
            steps.append((name, rows))
            work[name](trainer, rows)

        monkeypatch.setattr(timing, name, note)
    assert timing.expected_seconds(trainer) > 0
    first, *others = steps
    assert first[0] == "_train_step" and others[::2] == others[1::2]
    # 1 + 2 × 2 steps and two of validation, of seven
    assert [name for name, _ in others[::2]] == ["_train_step"] * 2 + ["_score"]


def test_every_draw_and_every_gradient_is_put_back(tmp_path, monkeypatch):
    """What the comparison of whole runs would not tell, since a run seeds or clears some of it itself."""
    monkeypatch.setattr(timing, "SHARE", 1.0)
    trainer = make_trainer(tmp_path, **SHORT)
    trainer.train()
    trainer.state.global_step = 0
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), weights(trainer)
    assert timing.expected_seconds(trainer) > 0
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), weights(trainer)
    assert torch.equal(before[0], after[0]) and before[1] == after[1] and is_same(before[2], after[2])
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_operations_are_counted_as_the_stock_trainer_counts_them(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, **SHORT)
    inputs = next(iter(trainer.get_train_dataloader()))
    expected = Trainer.floating_point_ops(trainer, inputs)
    assert trainer.floating_point_ops(inputs) == expected > 0
    assert trainer.floating_point_ops({"front_end_frames": torch.zeros(1)}) == 0
    monkeypatch.setattr(trainer.model, "num_parameters", None)  # the weights are counted once
    assert trainer.floating_point_ops(inputs) == expected


def test_it_costs_at_most_three_per_cent_of_the_steps(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, **{**SHORT, "max_steps": 1})
    trainer.train()
    trainer.state.global_step, trainer.state.max_steps = 0, 99
    assert timing.expected_seconds(trainer) is None
    steps, step = [], trainer.training_step
    monkeypatch.setattr(trainer, "training_step", lambda *args: [steps.append(1), step(*args)][1])
    for total, taken in ((100, 2), (1000, 6)):
        trainer.state.max_steps = total
        steps.clear()
        assert timing.expected_seconds(trainer) > 0 and len(steps) == taken
