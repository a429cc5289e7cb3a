"""Which files of this project a row of a table passes on its way to a number on a card, seen while it does.

    python -m tests.row_path      # in the folder of the project to be looked at

A tiny model is trained on a table of 24 clips, twice. The first run tells the score, and what is predicted for a marked
clip. In the second run, of the same seed, every call of one file of the project by another is looked at: is the row in
its arguments, or in what comes back? A row is known by marks that nothing else has: its id, its length in samples, its
labels, what is predicted for it, and the score. `self` does not count, for it is held and not handed over.

A file hands the row over if it is given the row, or what was made of it, by one file and gives it to another. One that
is given the row and gives it to none (a warning, an interval, a progress line) sees it, and no more.
"""

import contextlib
import csv
import dataclasses
import io
import json
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import soundfile as sf
import torch
import transformers
from datasets import Dataset

SAMPLES = 12_477  # of a marked clip, which is the longest of its split: what holds a batch with it has this shape
LABEL = 0.4321987
NAME = "clip77031"
TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip


def main() -> int:
    given_to, given_by = trace_run(Path.cwd())
    for name in sorted(given_to | given_by):
        print(f"{name:<40} {'hands it over' if name in given_to & given_by else 'sees it'}")
    print(f"{len(given_to & given_by)} files hand it over, {len(given_to | given_by)} see it")
    return 0


def trace_run(root: Path) -> tuple[set[str], set[str]]:
    """The files of the project in `root` that are given the row by another one, and those that give it to another."""
    with tempfile.TemporaryDirectory() as folder:
        return _trace_run(root, Path(folder))


def _trace_run(root: Path, folder: Path) -> tuple[set[str], set[str]]:
    import train_avb

    table, encoder = write_corpus(folder / "corpus"), write_encoder(folder / "encoder")

    def run(name: str) -> Path:
        output, cache = folder / name, folder / f"cache-{name}"
        arguments = {
            "corpus": "folder", "data_dir": table, "encoder": encoder, "output_dir": output, "cache_dir": cache,
            "results": folder / f"{name}.csv", "num_train_epochs": 1, "per_device_train_batch_size": 4,
            "encoder_layer": 1, "rnn_hidden_size": 16, "report_to": "none", "use_cpu": "true", "num_decode_workers": 1,
        }  # fmt: skip
        argv = [part for key, value in arguments.items() for part in (f"--{key}", str(value))]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            assert train_avb.main(argv) == 0, said.getvalue()
        return output

    first = run("first")
    tracer = Tracer(root, {LABEL, *read_scores(first)})
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    try:
        second = run("second")
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert read_scores(second) == read_scores(first)
    return tracer.given_to, tracer.given_by


def write_corpus(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for number in range(24):
        split = "train" if number < 16 else "validation"
        is_marked = number in (3, 19)
        name = f"{NAME}_{number}.wav" if is_marked else f"{number}.wav"
        sf.write(folder / name, rng.uniform(-0.5, 0.5, SAMPLES if is_marked else 4_000 + 321 * number), 16_000)
        labels = (LABEL, LABEL) if is_marked else rng.random(2).round(3)
        rows.append([name, split, f"speaker{number % 5}", *labels])
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "split", "speaker", "valence", "arousal"], *rows])
    return folder / "clips.csv"


def write_encoder(folder: Path) -> Path:
    torch.manual_seed(0)
    transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**TINY)).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def read_scores(run: Path) -> set[float]:
    """The score of the validation split, and what is predicted for its marked clip."""
    metrics = json.loads((run / "metrics.json").read_text())
    splits = metrics.get("splits", metrics)
    predicted = pd.read_csv(run / "predictions_validation.csv")
    row = predicted[predicted.iloc[:, 0].str.contains(NAME)].iloc[0]
    numbers = [value for value in row if isinstance(value, float) and value != LABEL]
    return {splits["validation"][metrics["metric"]], *numbers}


def arguments(frame: FrameType) -> list:
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    names = [name for name in code.co_varnames[:count] if name in frame.f_locals and name not in ("self", "cls")]
    return [frame.f_locals[name] for name in names]


class Tracer:
    """What `sys.setprofile` calls."""

    def __init__(self, root: Path, numbers: set[float]):
        self.root = f"{root.resolve()}/"
        self.numbers = np.array(sorted(numbers))
        self.known: set[tuple] = set()
        self.given_to: set[str] = set()
        self.given_by: set[str] = set()
        self.datasets: dict[int, tuple[Dataset, bool]] = {}

    def __call__(self, frame: FrameType, event: str, returned: Any):
        if event not in ("call", "return") or not self.is_of_project(frame):
            return
        caller = frame.f_back
        while caller is not None and not self.is_of_project(caller):
            caller = caller.f_back
        path, name = self.place(frame)
        other = self.place(caller)[0] if caller else None
        if path == other or (event, path, name, other) in self.known:
            return
        values = [returned] if event == "return" else arguments(frame)
        if any(self.holds(value) for value in values):
            self.known.add((event, path, name, other))
            first, second = (other, path) if event == "call" else (path, other)
            if first:
                self.given_by.add(first)
            if second:
                self.given_to.add(second)

    def is_of_project(self, frame: FrameType) -> bool:
        path = frame.f_code.co_filename
        return path.startswith(self.root) and not path.startswith((f"{self.root}tests/", f"{self.root}.venv/"))

    def place(self, frame: FrameType) -> tuple[str, str]:
        return frame.f_code.co_filename.removeprefix(self.root), frame.f_code.co_qualname

    def holds(self, value: Any, depth: int = 0) -> bool:
        if isinstance(value, (str, Path)):
            return NAME in str(value)
        if isinstance(value, (bool, torch.nn.Module)) or value is None or depth > 4:
            return False
        if isinstance(value, (int, np.integer)):
            return int(value) == SAMPLES
        if isinstance(value, (float, np.floating)):
            return self.near(np.array([value]))
        if isinstance(value, torch.Tensor):
            return SAMPLES in value.shape or (value.is_floating_point() and self.near(value.detach().float().numpy()))
        if isinstance(value, np.ndarray):
            if value.dtype.kind in "OU":
                return self.holds(value.ravel().tolist(), depth + 1)
            return SAMPLES in value.shape or (value.dtype.kind == "f" and self.near(value))
        if isinstance(value, pd.DataFrame):
            return self.holds(value.to_dict("list"), depth + 1)
        if isinstance(value, Dataset):
            if id(value) not in self.datasets:
                small = [name for name in value.column_names if name in ("id", "num_samples", "audio")]
                self.datasets[id(value)] = (
                    value,
                    any(self.holds(cell) for name in small for cell in value.data[name].to_pylist()),
                )
            return self.datasets[id(value)][1]
        if isinstance(value, Mapping):
            return any(self.holds(part, depth + 1) for pair in list(value.items()) for part in pair)
        if isinstance(value, (list, tuple, set, frozenset)):
            return any(self.holds(part, depth + 1) for part in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, (type, transformers.TrainingArguments)):
            return self.holds(vars(value) if hasattr(value, "__dict__") else {}, depth + 1)
        return False

    def near(self, values: np.ndarray) -> bool:
        flat = values.ravel()
        return len(flat) <= 100_000 and bool((np.abs(flat[:, None] - self.numbers) < 1e-6).any())


if __name__ == "__main__":
    sys.exit(main())
