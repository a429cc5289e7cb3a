"""A Trainer that can be stopped at any time and resumed with the same result as an uninterrupted run.

Unusual: a checkpoint is written under a temporary name and moved when it is complete; older ones are deleted only then.
On SIGTERM, which clusters send before they reclaim a machine, the current step is finished, a checkpoint is written and
the process exits. It also restores what the stock Trainer forgets: the loss since the last log entry, the counter of
early stopping, and whether training has ended.
"""

import os
import shutil
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from avb.commands import SIGTERM_EXIT, on_sigterm
from avb.encoders.adapters import has_adapters, trained_state
from avb.encoders.late_peft import import_before_peft
from avb.errors import AvbError
from avb.training.checkpoints import (
    UNFINISHED,
    discard,
    last_checkpoint,
    read_manifest,
    whole_checkpoints,
    write_manifest,
)

import_before_peft("transformers.trainer")
from transformers import EarlyStoppingCallback, Trainer  # noqa: E402
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME  # noqa: E402


class Terminated(SystemExit):
    """SIGTERM arrived during training; raised when a checkpoint is on disk. The exit code is 143, as in a shell."""


class CheckpointTrainer(Trainer):
    """A Trainer whose checkpoints are complete or absent; see the module. All processes must share one `output_dir`."""

    _resumed_from: Path | None = None
    _saving_under: Path | None = None

    @cached_property
    def sigterm(self) -> "SigtermCallback":
        callback = SigtermCallback(self)
        self.add_callback(callback)
        return callback

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """Like the stock method.

        Raises:
            AvbError: a checkpoint cannot be written; the previous one is complete.
            Terminated: SIGTERM arrived.
        """
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self.args.restore_callback_states_from_checkpoint = True  # early stopping's counter
        self.sigterm.listen()
        try:
            output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            self.sigterm.stop_listening()
        if self.sigterm.received:
            if self.is_world_process_zero():
                checkpoint = last_checkpoint(self.args.output_dir)
                way = (
                    f"the same command with --resume true continues from {checkpoint}" if checkpoint else "none is kept"
                )
                print(f"stopped by SIGTERM after step {self.state.global_step}; {way}", flush=True)
            raise Terminated(SIGTERM_EXIT)
        return output

    # ---- saving -----------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial=None) -> str:
        return str(self._saving_under or super()._get_output_dir(trial))

    def _save(self, output_dir=None, state_dict=None):
        if state_dict is None and has_adapters(self.model):
            state_dict = trained_state(self.model)
        super()._save(output_dir, state_dict)
        # A pickle that is never read.
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _issue_warnings_after_load(self, load_result):
        if not has_adapters(self.model):  # whose checkpoints lack the encoder, which is as it was loaded
            super()._issue_warnings_after_load(load_result)

    def _save_checkpoint(self, model, trial):
        run, name = Path(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        unfinished = run / UNFINISHED
        try:
            if self.args.should_save:
                shutil.rmtree(unfinished, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self._saving_under = unfinished
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            best = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
            if best.name == name or best.is_dir():  # the stock method looked, and perhaps found it, in `unfinished`
                self.state.best_model_checkpoint = str(best)
            if self.args.should_save:
                self.state.save_to_json(str(unfinished / name / TRAINER_STATE_NAME))
                logging = {"loss_sum": self._tr_loss.item(), "last_logged_step": self._globalstep_last_logged}
                write_manifest(unfinished / name, **logging)
                discard(run / name)
                os.replace(unfinished / name, run / name)
                shutil.rmtree(unfinished, ignore_errors=True)
        except (OSError, RuntimeError, SafetensorError) as error:
            self._give_up(unfinished, error)
        finally:
            self._saving_under = None
        if self.args.should_save and self.args.save_total_limit:
            self._delete_older(self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _give_up(self, unfinished: Path, error: Exception):
        shutil.rmtree(unfinished, ignore_errors=True)
        previous = last_checkpoint(self.args.output_dir)
        free = shutil.disk_usage(self.args.output_dir).free
        way = f"{previous} is complete: make room, then --resume true continues from it" if previous else "make room"
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise AvbError(
            f"{self.args.output_dir}: the checkpoint of step {self.state.global_step} could not be written ({reason}; "
            f"{free / 1e9:.3f} GB are free); {way}"
        ) from error

    def _delete_older(self, limit: int):
        """Deletes the oldest checkpoints, down to `limit`; keeps the newest and the best one."""
        checkpoints = whole_checkpoints(self.args.output_dir)
        kept = {checkpoints[-1]}
        if self.state.best_model_checkpoint:
            kept.add(Path(self.state.best_model_checkpoint))
        others = [checkpoint for checkpoint in checkpoints if checkpoint not in kept]
        for checkpoint in others[: max(len(checkpoints) - max(limit, len(kept)), 0)]:
            discard(checkpoint)

    def _finalize_training(self, trial, num_train_samples, start_time):
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # the stock Trainer deletes in place
        try:
            output = super()._finalize_training(trial, num_train_samples, start_time)
        finally:
            self.args.save_total_limit = limit
        best = self.state.best_model_checkpoint
        if self.args.should_save and best and limit == 1 and not self.sigterm.received:
            for checkpoint in whole_checkpoints(self.args.output_dir):
                if checkpoint != Path(best):
                    discard(checkpoint)
        return output

    # ---- going on ---------------------------------------------------------------------------------------------------

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial):
        epochs, steps = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        if checkpoint is None:
            return epochs, steps
        best = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
        if best.is_dir():  # perhaps the folder was moved
            self.state.best_model_checkpoint = str(best)
        elif self.args.load_best_model_at_end and self.state.best_global_step:
            raise AvbError(f"{best}, the best checkpoint so far, is missing: train again with --overwrite true")
        has_stopped_early = any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        )
        if has_stopped_early or self.state.global_step >= max_steps:
            return num_train_epochs, 0  # the stock Trainer would go on for a step or until an evaluation
        return epochs, steps

    def restore_logging(self):
        """Restores the loss since the last log entry, as it was when the checkpoint was written."""
        if self._resumed_from is not None:
            manifest = read_manifest(self._resumed_from)
            self._tr_loss += manifest["loss_sum"]
            self._globalstep_last_logged = manifest["last_logged_step"]


class SigtermCallback(TrainerCallback):
    """If any process gets SIGTERM, ends training after the current step, with a checkpoint.

    Transformers' own `enable_jit_checkpoint` saves within a step, where random numbers cannot be repeated, and each
    process does so at a different time.
    """

    def __init__(self, trainer: CheckpointTrainer):
        self.trainer = trainer
        self.received = False
        self._is_flagged = False
        self._save_at_epoch_end = False
        self._listening = ExitStack()

    def listen(self):
        """From now on, SIGTERM ends training, not the process."""
        self.received = self._is_flagged = False
        self._listening.enter_context(on_sigterm(self._flag))

    def stop_listening(self):
        self._listening.close()

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.restore_logging()

    def on_train_end(self, args, state, control, **kwargs):
        self.received = self._any_flagged()
        self.stop_listening()  # a long upload may follow

    def on_step_end(self, args, state, control, **kwargs):
        # Work at the end of an epoch must precede its checkpoint; otherwise it would be missing after a resumption.
        is_epoch_end = float(state.epoch).is_integer() or state.global_step >= state.max_steps
        self._save_at_epoch_end = control.should_save and is_epoch_end
        if self._save_at_epoch_end:
            control.should_save = False
        if not is_epoch_end and self._any_flagged():
            self.received = True
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.received:  # within an epoch: the checkpoint is written
            control.should_log = control.should_evaluate = control.should_save = False
        elif self._any_flagged():
            self.received = control.should_save = control.should_training_stop = True
        elif self._save_at_epoch_end:
            control.should_save = True

    def _flag(self, signum, frame):
        self._is_flagged = True

    def _any_flagged(self) -> bool:
        if self.trainer.args.world_size == 1:
            return self._is_flagged
        flag = torch.tensor([float(self._is_flagged)], device=self.trainer.args.device)
        return bool(self.trainer.accelerator.reduce(flag, "sum").item())
