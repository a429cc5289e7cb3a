"""The moving average of the weights: what it is, that it is scored and kept, and survives a resumption to the bit."""

import pytest
import torch
from safetensors.torch import load_file
from scaled_run import make_trainer
from transformers import TrainerCallback

from avb.arguments import AvbTrainingArguments
from avb.errors import AvbError
from avb.training.averaging import AVERAGE, copy_state

DECAY = 0.7  # above the warm-up's (1 + step) / (10 + step) until step 20
SHORT = {"num_clips": 16, "missing": 0, "per_device_train_batch_size": 4, "max_steps": 6, "learning_rate": 0.1}
SHORT |= {"model": {"head_dropout": 0.2}, "save_strategy": "steps", "save_steps": 1, "save_total_limit": None}
SCORED = {"eval_strategy": "steps", "eval_steps": 1}


class Recorder(TrainerCallback):
    """The weights before and after each step."""

    def __init__(self):
        self.begins: list[dict] = []
        self.states: list[dict] = []

    def on_step_begin(self, args, state, control, model, **kwargs):
        self.begins.append(copy_state(model))

    def on_step_end(self, args, state, control, model, **kwargs):
        self.states.append(copy_state(model))


def test_what_is_kept_is_the_average_of_what_was_trained(tmp_path):
    trainer = make_trainer(tmp_path, ema_decay=DECAY, **SHORT)
    recorder = Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    average = recorder.states[0]
    for step, state in enumerate(recorder.states[1:], 2):
        decay = min(DECAY, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * state[name] for name in state}
    kept, last = trainer.model.state_dict(), recorder.states[-1]
    for name in kept:
        torch.testing.assert_close(kept[name], average[name])
    assert not torch.equal(kept["head.weight"], last["head.weight"])
    checkpoint = tmp_path / "checkpoint-6"
    assert torch.equal(load_file(checkpoint / AVERAGE)["head.weight"], kept["head.weight"])
    assert torch.equal(load_file(checkpoint / "model.safetensors")["head.weight"], last["head.weight"])


def test_scores_are_those_of_the_average_and_the_best_epochs_is_kept(tmp_path):
    trainer = make_trainer(tmp_path, ema_decay=DECAY, **{**SHORT, **SCORED, "load_best_model_at_end": True})
    recorder = Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    for before, after in zip(
        recorder.states, recorder.begins[1:], strict=False
    ):  # training goes on from its own weights
        assert all(torch.equal(before[name], after[name]) for name in before)
    scores = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    assert len(set(scores.values())) == 6
    best = trainer.state.best_global_step
    assert trainer.evaluate()["eval_loss"] == pytest.approx(scores[best], abs=1e-6)
    for step in (2, 5):
        trainer.model.load_state_dict(load_file(tmp_path / f"checkpoint-{step}" / AVERAGE))
        assert trainer.evaluate()["eval_loss"] == pytest.approx(scores[step], abs=1e-6)
    trained = load_file(tmp_path / "checkpoint-5" / "model.safetensors")
    trainer.model.load_state_dict(trained)
    assert trainer.evaluate()["eval_loss"] != pytest.approx(scores[5], abs=1e-6)


def test_a_resumed_run_ends_with_the_same_average(tmp_path):
    """To the bit, batch norm's statistics included."""
    fields = {**SHORT, **SCORED, "ema_decay": DECAY, "task": "type", "model": {"model": "se_resnet", "width": 4}}
    undisturbed = make_trainer(tmp_path, **fields)
    undisturbed.train()
    resumed = make_trainer(tmp_path, **fields)
    resumed.train(str(tmp_path / "checkpoint-3"))
    for name, tensor in undisturbed.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_mistakes_are_named(tmp_path):
    make_trainer(tmp_path, **{**SHORT, "max_steps": 1}).train()
    trainer = make_trainer(tmp_path, ema_decay=DECAY, **SHORT)
    with pytest.raises(AvbError, match="checkpoint-1 was written without --ema_decay"):
        trainer.train(str(tmp_path / "checkpoint-1"))
    with pytest.raises(AvbError, match="--ema_decay 1 is invalid"):
        AvbTrainingArguments(output_dir=str(tmp_path), ema_decay=1.0)
