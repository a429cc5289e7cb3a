"""A Trainer that scores and saves an exponential moving average of the weights (Polyak & Juditsky 1992).

Unusual: each checkpoint contains the average, in its own file beside the weights that training continues from, so a
resumed run ends with exactly the same average. In the first steps the decay is (1 + step) / (10 + step) if that is less
than `ema_decay`; otherwise the random initial weights would have an effect for hundreds of steps. The statistics of
batch norm are averaged too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from avb.errors import AvbError
from avb.training.resumption import CheckpointTrainer

AVERAGE = "average.safetensors"  # in a checkpoint

State = dict[str, torch.Tensor]


class AveragingTrainer(CheckpointTrainer):
    """The Trainer with `ema_decay`; without it, nothing here has an effect.

    In training evaluation has the averaged weights; at its end the model has them too, the best epoch's where
    `load_best_model_at_end` asks for them.
    """

    average: State | None = None

    def keep_average(self):
        """Called before training if `ema_decay` is given."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise AvbError("--ema_decay does not work with FSDP or DeepSpeed, which divide the weights")
        self.add_callback(AverageCallback(self))

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        self.average = None  # made at the first step, or read from the checkpoint
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """In training the model has them meanwhile, where there are any."""
        if not self.is_in_train or self.average is None:
            yield
            return
        model = self._averaged_model()
        trained = copy_state(model)
        model.load_state_dict(self.average)
        try:
            yield
        finally:
            model.load_state_dict(trained)

    def update_average(self):
        """Moves the average towards the weights after each step."""
        step, state = self.state.global_step, self._averaged_model().state_dict()
        if self.average is None:
            self.average = copy_state(self._averaged_model())
            return
        decay = min(self.args.ema_decay, (1 + step) / (10 + step))
        floating = [name for name, tensor in state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in floating], [state[name].detach() for name in floating], 1 - decay
        )
        for name in state.keys() - set(floating):  # counters
            self.average[name].copy_(state[name])

    def _averaged_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is not None and self.args.should_save:
            save_file(self.average, Path(output_dir) / AVERAGE)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.args.ema_decay is not None:
            self.average = self._read_average(checkpoint)

    def _load_best_model(self):
        super()._load_best_model()
        if self.args.ema_decay is not None:
            self.average = self._read_average(self.state.best_model_checkpoint)

    def _finalize_training(self, trial, num_train_samples, start_time):
        output = super()._finalize_training(trial, num_train_samples, start_time)
        if self.average is not None:
            self._averaged_model().load_state_dict(self.average)
        return output

    def _read_average(self, checkpoint: str) -> State:
        path = Path(checkpoint) / AVERAGE
        if not path.exists():
            raise AvbError(f"{checkpoint} was written without --ema_decay: leave it out, or --overwrite true")
        return load_file(path, device=str(self.args.device))


class AverageCallback(TrainerCallback):
    """Tells the trainer that a step has ended."""

    def __init__(self, trainer: AveragingTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.update_average()


def copy_state(model: nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
