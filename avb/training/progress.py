"""Shows the progress of a training: a line per epoch, and one every half minute while an epoch takes longer than that.

    380 steps in 20 epochs: about 2 min 5 s, including validation
    epoch  3 of 20   loss 0.812   validation UAR 0.412 (best 0.431, epoch 2)   1 min 12 s left

Replaces the stock Trainer's progress bars, which overwrite each other, and its printed dictionaries.
"""

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

SECONDS_BETWEEN_LINES = 30.0
TIMED_STEPS, TIMED_SECONDS = 5, 10.0  # the first steps, except the very first, are used to estimate the duration
SHORT_SECONDS = 10.0  # of a training about whose length nobody asks


class ProgressLines(TrainerCallback):
    """Prints on the main process only.

    Args:
        metric: key of the score that compares epochs, as `compute_metrics` names it: uar_present, ccc, mean_score; or
            loss, of which the lowest is the best.
        expect: estimates the seconds of training before the first step; None if that is not possible yet.
    """

    def __init__(self, metric: str, expect: Callable[[], float | None]):
        self._metric = metric
        self._expect_before = expect
        self._sign = -1 if metric == "loss" else 1
        self._warm: float | None = None  # when the first step was done
        self._is_expected = False
        self._loss: float | None = None
        self._best: tuple[float, float] | None = None  # score, epoch
        self._is_training = False
        self._started = self._printed = 0.0
        self._first_step = self._steps_per_epoch = 0
        self._score: str | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._is_training = True
        self._started = self._printed = time.monotonic()
        self._first_step = state.global_step
        self._steps_per_epoch = max(1, round(state.max_steps / max(state.num_train_epochs, 1)))
        for entry in state.log_history:  # of a run that goes on
            self._note_score(entry)
        self._score = self._warm = None
        seconds = self._expect_before()
        self._is_expected = seconds is not None
        self._started = time.monotonic()  # what was timed is not part of it
        if state.is_world_process_zero:
            epochs = _number(state.num_train_epochs)
            steps = f"{state.max_steps} steps in {epochs} epoch{'s' * (epochs != '1')}"
            goes_on = f", {self._first_step} of them done" if self._first_step else ""
            if seconds is not None:
                said = f": about {duration(seconds)}, including validation"
            else:
                said = "; the first steps show how long it will take"
            print(f"{steps}{goes_on}{said}", flush=True)

    def on_step_end(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        self._expect(state)
        step = (state.global_step - 1) % self._steps_per_epoch + 1
        is_last = step == self._steps_per_epoch  # then the epoch's own line is next
        if time.monotonic() - self._printed > SECONDS_BETWEEN_LINES and not is_last:
            epoch = (state.global_step - 1) // self._steps_per_epoch + 1
            total = _number(state.num_train_epochs)
            self._print(f"epoch {epoch} of {total}: step {step} of {self._steps_per_epoch}", state)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self._loss = logs["loss"]
            if not control.should_evaluate:  # else its score comes in the same line
                self._epoch_line(state)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if self._is_training and metrics:
            self._note_score({"epoch": state.epoch, **metrics})
            self._epoch_line(state)

    def on_train_end(self, args, state, control, **kwargs):
        self._is_training = False  # what is evaluated from now on has lines of its own

    def _expect(self, state):
        """Prints once how long it will take, from the first steps except the very first."""
        now, done = time.monotonic(), state.global_step - self._first_step
        if self._warm is None:
            self._warm = now
        elif not self._is_expected and (done > TIMED_STEPS or now - self._warm > TIMED_SECONDS):
            self._is_expected = True
            steps = state.max_steps - self._first_step
            seconds = (now - self._warm) / (done - 1) * steps
            if seconds > SHORT_SECONDS:
                self._printed = now
                print(f"about {duration(seconds)} for {steps} steps, without validation", flush=True)

    def _note_score(self, entry: dict[str, Any]):
        score = entry.get(f"eval_{self._metric}")
        if score is None:
            return
        if score == score and (self._best is None or self._sign * score > self._sign * self._best[0]):
            self._best = (score, entry["epoch"])
        best = f" (best {self._best[0]:.3f}, epoch {_number(self._best[1])})" if self._best else ""
        self._score = f"validation {metric_name(self._metric)} {score:.3f}{best}"

    def _epoch_line(self, state):
        if not state.is_world_process_zero:
            return
        total = _number(state.num_train_epochs)
        parts = [f"epoch {_number(state.epoch):>{len(total)}} of {total}"]
        parts += [] if self._loss is None else [f"loss {self._loss:.3f}"]
        parts += [] if self._score is None else [self._score]
        self._print("   ".join(parts), state)
        self._is_expected = True  # the line has said it
        self._loss = self._score = None

    def _print(self, line: str, state):
        self._printed = time.monotonic()
        done, left = state.global_step - self._first_step, state.max_steps - state.global_step
        if done > 0 and left > 0:
            line += f"   {duration((self._printed - self._started) / done * left)} left"
        print(line, flush=True)


def metric_name(metric: str) -> str:
    """The printed name of a key of the scores: UAR, CCC, mean score."""
    return {"mean_score": "mean score", "loss": "loss"}.get(metric, metric.removesuffix("_present").upper())


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
