"""Estimates, before the first step, how long a training will take, by timing some real steps that change nothing.

Batches of the run are passed forward and backward through the model as in training, with augmentation and teachers;
only the optimiser's part is left out. Where steps become CUDA graphs, replays are timed. Weights are not modified;
gradients, random numbers and the statistics of batch norm are restored, so the result of the run is bit-identical with
and without the estimate.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import IntervalStrategy

from avb.training.batches import JoinedBatches
from avb.training.graphs import FIRST_STEPS, GraphedSteps

SHARE = 0.03  # fraction of the run's steps that may be spent
MOST_STEPS = 5
UNTIMED_STEPS = 2  # the first, which is no measure, and about as much for a batch of validation


def expected_seconds(trainer: Trainer, graphed: GraphedSteps | None = None) -> float | None:
    """How long the remaining steps will take, including validation between epochs.

    Called when training begins: the model is prepared, and a resumed run has the state of its checkpoint.

    Args:
        trainer: of the run.
        graphed: its steps as CUDA graphs, if they become some.

    Returns:
        None if it would take more than 3 % of the run, if one process cannot take steps alone (several devices), if the
        first steps are not representative (torch.compile), or if several sets are evaluated.
    """
    args, left = trainer.args, trainer.state.max_steps - trainer.state.global_step
    repeats = _makes_plans(args.device)
    spent = UNTIMED_STEPS + repeats  # validation is repeated too
    timed = min(MOST_STEPS, (int(SHARE * left) - spent) // (2 if repeats and graphed is None else 1))
    is_alone = args.world_size == 1 and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
    if timed < 1 or not is_alone or args.torch_compile or isinstance(trainer.eval_dataset, dict):
        return None
    with _nothing_happened(trainer):
        steps = _steps(trainer)
        typical = [steps[int((number + 0.5) / timed * len(steps))] for number in range(timed)]
        _time(trainer, _train_step, steps[0])
        seconds = 0.0
        for step in typical:
            if graphed is not None:
                _capture(trainer, graphed, step)
            elif repeats:
                _train_step(trainer, step)
            seconds += _time(trainer, _train_step, step) / timed * left
        if evaluations := _evaluations(trainer, left):
            rows = len(typical[0][0])  # no more than a step has, whatever a batch of evaluation may hold
            clips = len(trainer.eval_dataset)
            spread = [clips * number // rows for number in range(rows)] if rows < clips else list(range(clips))
            if repeats:
                _score(trainer, spread)
            seconds += _time(trainer, _score, spread) * clips / len(spread) * evaluations
    return seconds


def _makes_plans(device: torch.device) -> bool:
    """Whether the first batch of a length takes far longer than the next one, as cuDNN and cuFFT plan for it.

    A run meets most lengths many times: on an H100, 58 epochs of `recipes/emogator/se_resnet-wide.yaml` took 4.5
    minutes, and their first estimate, from steps of new lengths, was 32.
    """
    return device.type != "cpu"


def _steps(trainer: Trainer) -> list[list[list[int]]]:
    """The micro-batches (of rows) of each step of an epoch; with similar lengths, the largest first."""
    sampler, args = trainer._get_train_sampler(trainer.train_dataset), trainer.args
    batches = list(sampler)
    if not isinstance(sampler, JoinedBatches):  # single rows
        size = args.train_batch_size
        batches = [batches[start : start + size] for start in range(0, len(batches), size)]
    size = args.gradient_accumulation_steps
    steps = [batches[start : start + size] for start in range(0, len(batches), size)]
    if args.train_sampling_strategy != "group_by_length":
        return steps
    lengths = np.asarray(trainer.train_dataset[args.length_column_name][:])
    return sorted(steps, key=lambda step: -sum(len(rows) * lengths[rows].max() for rows in step))


def _train_step(trainer: Trainer, step: list[list[int]]):
    loader = DataLoader(trainer.train_dataset, batch_sampler=step, collate_fn=trainer.data_collator)
    batches, count = trainer.get_batch_samples(iter(loader), len(step), trainer.args.device)
    trainer.current_gradient_accumulation_steps = len(batches)  # as the loop over an epoch sets it
    for inputs in batches:
        trainer.training_step(trainer.model_wrapped, inputs, count)


def _capture(trainer: Trainer, graphed: GraphedSteps, step: list[list[int]]):
    """Repeats a step until its shape has a graph, if it gets one.

    What that takes is no loss: the run's own first steps of that shape would take it, and now they are replays.
    """
    for _ in range(FIRST_STEPS + 1):
        _train_step(trainer, step)
        if not graphed.is_on or graphed.is_captured:
            return


def _score(trainer: Trainer, rows: list[int]):
    loader = DataLoader(trainer.eval_dataset, batch_sampler=[rows], collate_fn=trainer.data_collator)
    trainer.model_wrapped.eval()
    trainer.prediction_step(trainer.model_wrapped, next(iter(loader)), prediction_loss_only=False)


def _evaluations(trainer: Trainer, steps: int) -> float:
    """How often the validation clips are scored in this many steps."""
    args, state = trainer.args, trainer.state
    if trainer.eval_dataset is None or args.eval_strategy == IntervalStrategy.NO:
        return 0
    every = (
        state.eval_steps if args.eval_strategy == IntervalStrategy.STEPS else state.max_steps / state.num_train_epochs
    )
    return steps / every


def _time(trainer: Trainer, work: Callable[[Trainer, list], None], rows: list) -> float:
    started = time.perf_counter()
    work(trainer, rows)
    if trainer.args.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


@contextmanager
def _nothing_happened(trainer: Trainer) -> Iterator[None]:
    model: nn.Module = trainer.model_wrapped
    python, numpy, was_training = random.getstate(), np.random.get_state(), model.training
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    device = trainer.args.device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        model.zero_grad()
        model.train(was_training)
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
        random.setstate(python)
        np.random.set_state(numpy)
