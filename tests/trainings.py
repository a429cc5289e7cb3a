"""What tests of training share: settings under which every draw counts, comparisons, runs in several processes."""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import scaled_run
import torch
import warm
from conftest import ROOT
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

# Every draw of random numbers counts.
NOISY = {"hidden_dropout": 0.2, "attention_dropout": 0.2, "head_dropout": 0.2, "mask_time_prob": 0.2}
EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
EVERY_STEP |= {"save_total_limit": None, "load_best_model_at_end": True}
SYNCHRONISING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique")  # operations that a host waits for
SCRIPT = str(ROOT / "tests" / "scaled_run.py")


def weights(trainer) -> dict:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def is_same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def log(entries: list[dict]) -> list[dict]:
    """A log without what a clock measured, and without the summary, which is of one call."""
    timed = ("runtime", "per_second", "_time")
    kept = [{key: value for key, value in entry.items() if not key.endswith(timed)} for entry in entries]
    return [entry for entry in kept if "train_loss" not in entry]


class Scaled(NamedTuple):
    """What a training in one or several processes left."""

    weights: dict
    start: dict  # the weights before
    seen: dict  # run.json


def scaled_runs(folder: Path, processes: int, *runs: dict) -> list[Scaled]:
    """Trainings with these settings, one after the other in the same processes: starting them takes longer.

    A single one in single precision needs no process of its own; float64 is the default of a whole process.
    """
    folders = [folder / f"{processes}-{number}" for number in range(len(runs))]
    if processes == 1 and not any(run.get("double") for run in runs):
        for path, run in zip(folders, runs, strict=True):
            scaled_run.run(str(path), dict(run))
        return [_read(path) for path in folders]
    settings = json.dumps({str(path): run for path, run in zip(folders, runs, strict=True)})
    for rank in warm.start_ranks([sys.executable, SCRIPT, settings], processes, dict(os.environ)):
        done = rank.wait()
        assert done.returncode == 0, done.stderr
    return [_read(path) for path in folders]


def _read(folder: Path) -> Scaled:
    return Scaled(
        load_file(folder / "weights.safetensors"),
        load_file(folder / "start.safetensors"),
        json.loads((folder / "run.json").read_text()),
    )


def difference(first: dict, second: dict) -> float:
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


class Operations(TorchDispatchMode):
    """Names of what runs, and of what is copied from lists of the host more than a number."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name != "lift_fresh" or args[0].numel() > 1:
            self.names.add(name)
        return function(*args, **(kwargs or {}))


class Again:
    """Stands in for `CudaCapture`; the capture with the number `fails_at` breaks half-way, as one on a device would."""

    def __init__(self, fails_at: int | None = None):
        self.captures, self.replays, self.fails_at = 0, 0, fails_at

    def warm_up(self, function):
        return function()

    def __call__(self, function):
        self.captures += 1
        if self.captures == self.fails_at:
            torch.rand(7)  # a draw of the host while it was captured
            raise RuntimeError("operation not permitted when stream is capturing")

        def replay():
            self.replays += 1
            function()

        return replay
