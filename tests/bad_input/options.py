"""Devices, and options of other machines, that are not there: one line with the way out, wherever they are given."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

import avb
from avb.arguments import DataArguments, ModelArguments, PretrainingArguments
from avb.command_line import parse_arguments
from avb.tasks import TASKS
from avb.training.build import build_model
from bad_input.case import Case

NOISE = (np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 16_000)


def load(device) -> Callable[[Path], Callable]:
    return lambda folder: lambda: avb.load("emogator-cnn", device=device)


def embed(device) -> Callable[[Path], Callable]:
    return lambda folder: lambda: avb.embed([NOISE], device=device)


def train(**arguments) -> Callable[[Path], Callable]:
    return lambda folder: lambda: avb.train(folder / "none.csv", output_dir=str(folder / "run"), **arguments)


def pretrain(*argv: str) -> Callable[[Path], Callable]:
    return lambda folder: lambda: parse_arguments(list(argv), PretrainingArguments, exits=False)


def attention(name: str) -> Callable[[Path], Callable]:
    arguments = ModelArguments(attn_implementation=name)
    return lambda folder: lambda: build_model(arguments, DataArguments(), TASKS["two"], None)


CASES = [
    Case("avb.load, device cpu", load("cpu"), "done"),
    Case("avb.load, device mps", load("mps"), "error: torch finds no mps device"),
    Case("avb.load, device xpu", load("xpu"), "error: torch finds no xpu device"),
    Case("avb.load, device gpu", load("gpu"), "error: did you mean 'cuda'?"),
    Case("avb.load, device cuda:999", load("cuda:999"), "error: device 'cuda:999' (--device) does not exist here"),
    Case("avb.load, GPU number 999", load(999), "error: device 'cuda:999' (--device) does not exist here"),
    Case("avb.load, device nonsense", load("nonsense"), "error: Legal: auto, cpu, cuda, mps, xpu"),
    Case("avb.load, device meta", load("meta"), "error: Legal: auto, cpu, cuda, mps, xpu"),
    Case("avb.embed, device gpu", embed("gpu"), "error: did you mean 'cuda'?"),
    Case("avb.embed, no device", embed(""), "error: Legal: auto, cpu, cuda, mps, xpu"),
    Case("avb.train, device mps", train(device="mps"), "error: --use_cpu true uses none, CUDA_VISIBLE_DEVICES=1"),
    Case("pretrain_avb.py, --device gpu", pretrain("--device", "gpu"), "error: --use_cpu true uses none"),
    Case("flash_attention_2", attention("flash_attention_2"), "error: leave it at sdpa"),
    Case("flex_attention", attention("flex_attention"), "error: is unknown"),
    Case("avb.train, flash_attention_2", train(attn_implementation="flash_attention_2"), "error: leave it at sdpa"),
    Case("--deepspeed of a file that is not there", train(deepspeed="none.json"), "error: --deepspeed"),
    Case("--ddp_backend x", pretrain("--ddp_backend", "x"), "error: if it is left out, the device's own is used"),
    Case("--audio_on_device often", train(audio_on_device="often"), "error: it must be auto, true or false"),
    Case(
        "--audio_on_device true, with a change that is not done there",
        train(audio_on_device="true", augment=["rate", "pitch"]),
        "error: With false, clips come from the disk",
    ),
    Case("--optim of a package that is missing", train(optim="lomo"), "error: or leave it out"),
    Case("--optim that is unknown", train(optim="adamx"), "error: invalid choice"),
    Case("--report_to of a package that is missing", train(report_to="neptune"), "error: or leave it out"),
    Case("--report_to that is unknown", train(report_to="paper"), "error: or leave it out"),
    Case("a batch of no clip", train(per_device_train_batch_size=0), "error: 1 or more"),
    Case("an evaluation batch of no clip", train(per_device_eval_batch_size=0), "error: 1 or more"),
    Case("a step of no batch", pretrain("--gradient_accumulation_steps", "0"), "error: 1 or more"),
    Case("-1 epochs", pretrain("--num_train_epochs", "-1"), "error: trains nothing: it must be more than 0"),
    Case("0 epochs", train(num_train_epochs=0), "error: trains nothing: it must be more than 0"),
    Case("0 steps", train(max_steps=0), "error: or -1 for --num_train_epochs"),
    Case(
        "pretrain_avb.py, --attn_implementation sdpa",
        pretrain("--attn_implementation", "sdpa"),
        "error: only train_avb.py has it",
    ),
]
