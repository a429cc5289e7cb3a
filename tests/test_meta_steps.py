"""The real training loop on device "meta", whose tensors have no values: what can be proved of a GPU's steps on a CPU.

A question about a value raises there: `item`, `bool`, `nonzero`, a copy to the host. On a GPU it makes the host wait
for the device, and ends the capture of a CUDA graph. A copy from the host does the same, so these are counted: after
the first step, which fills caches, only the batch is copied.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import ROOT
from datasets import Dataset, DatasetDict
from scaled_run import TASKS_BY_NAME, clips
from tiny_kinds import STOCK
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trainings import Again
from transformers import TrainerCallback

from avb.arguments import AvbTrainingArguments
from avb.baselines.features import FeatureCollator
from avb.baselines.opensmile_mlp import OpenSmileMLP
from avb.command_line import parse_arguments
from avb.run import _build
from avb.training.build import build_model
from avb.training.frozen import FrameCollator
from avb.training.graphs import FIRST_STEPS
from avb.training.loading import Clips
from avb.training.teachers import ModelTeachers
from avb.training.trainer import BurstTrainer

META = torch.device("meta")
OFTEN = (  # the others nightly: an operation takes as long on this device as a small one on a CPU
    "conformer, rotary", "w2v-bert", "whisper", "wav2vec2, classes", "log-mel CNN", "front_end_frames",
)  # fmt: skip
SHORT = (  # the tiniest model and the shortest loop, each step as in a run
    "--encoder_layer 1 --rnn_layers 1 --rnn_hidden_size 16 --per_device_train_batch_size 4 --max_steps 20 --optim sgd "
    "--eval_strategy no --save_strategy no --load_best_model_at_end false --logging_strategy no --report_to none "
    "--cache_frames false --logging_nan_inf_filter false"  # the last as chosen for a GPU
).split()
TRAINED = "presets/recommended --audio_on_device true"
MASKED = "--mask_time_prob 0.2 --mask_feature_prob 0.1"
CHANGES = "rate shift mix noise equalizer gain mixup"


class Copies:
    """What is copied from the host to the device, but for the tensors of batches: see the two modes."""

    def __init__(self):
        self.names: list[str] = []
        self.batch: list[torch.Tensor] = []

    def note(self, name: str, values):
        own = [value for value in values if not any(value is tensor for tensor in self.batch)]
        self.names += [name] * bool(own)


class Operations(TorchDispatchMode):
    """Of an operation that joins both sides, what lies on the host is copied, unless it is a number."""

    def __init__(self, copies: Copies):
        super().__init__()
        self.copies = copies

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if kwargs.get("device") == META or any(tensor.device == META for tensor in tensors):
            moves = name in ("_to_copy", "copy_")
            self.copies.note(name, [one for one in tensors if one.device != META and (moves or one.ndim)])
        return function(*args, **kwargs)


class Literals(TorchFunctionMode):
    """Lists and arrays that become tensors on the device, which no operation shows."""

    def __init__(self, copies: Copies):
        super().__init__()
        self.copies = copies

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result, name = function(*args, **(kwargs or {})), function.__name__
        makes = name in ("tensor", "as_tensor", "asarray", "new_tensor") and getattr(result, "device", None) == META
        values = [args[-1]] if makes and not isinstance(args[-1], torch.Tensor) else []
        if name in ("__getitem__", "__setitem__") and args[0].device == META:
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            values = [place for place in places if isinstance(place, list | np.ndarray)]
        self.copies.note(name, values)
        return result


class Done(Exception):
    """Ends a training after some steps, before the loss is read."""


class Steps(TrainerCallback):
    """The copies of each step, from the batch's collation on."""

    def __init__(self, trainer, copies: Copies, last: int):
        self.copies, self.last = copies, last
        self.collate, trainer.data_collator = trainer.data_collator, self
        self.found: list[list[str]] = []

    def __call__(self, rows):
        batch = self.collate(rows)
        parts = [vars(part) if hasattr(part, "integers") else part for part in batch.values()]
        self.copies.batch += [leaf for leaf in tree_leaves(parts) if isinstance(leaf, torch.Tensor)]
        return batch

    def on_step_end(self, args, state, control, **kwargs):
        self.found.append([*self.copies.names])
        self.copies.names.clear()
        if state.global_step == self.last:
            raise Done


@pytest.fixture(autouse=True)
def meta(monkeypatch):
    """It is the device of everything. Autocast, which is off here, does not know it."""
    stock = AvbTrainingArguments.device.fget  # which sets up what the Trainer reads
    monkeypatch.setattr(AvbTrainingArguments, "device", property(lambda args: (stock(args), META)[1]))
    monkeypatch.setattr(Accelerator, "device", property(lambda accelerator: META))
    autocast, is_on = torch.autocast, torch.is_autocast_enabled

    def autocast_elsewhere(kind, *args, **kwargs):
        return nullcontext() if kind == "meta" else autocast(kind, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", autocast_elsewhere)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind != "meta" and is_on(kind))


def parse(folder, settings: str):
    """Recipes, then arguments, which go over those of `SHORT`."""
    recipes, dashes, typed = settings.partition("--")
    argv = [*recipes.split(), *SHORT, "--output_dir", str(folder / "run"), *(dashes + typed).split()]
    return parse_arguments(argv, exits=False)[:3]


def build(folder, settings: str, task: str = "two") -> BurstTrainer:
    """As the command builds it."""
    task = TASKS_BY_NAME[task]
    splits = DatasetDict(train=clips(14, task, missing=2, longest=3200))
    return _build(*parse(folder, settings), Clips(task, splits, []))[0]


def take_steps(trainer, count: int = 2) -> list[list[str]]:
    """Takes some steps and returns the copies of each."""
    copies = Copies()
    steps = Steps(trainer, copies, count)
    trainer.add_callback(steps)
    with pytest.raises(Done), Literals(copies), Operations(copies):
        trainer.train()
    assert all(parameter.device == META for parameter in trainer.model.parameters())
    return steps.found


def each(names):
    marks = {name: [] if name in OFTEN else pytest.mark.nightly for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=mark) for name, mark in marks.items()])


# ---- every kind ------------------------------------------------------------------------------------------------------

KINDS = {
    "conformer": "wav2vec2-conformer",
    "data2vec": "data2vec-audio",
    "sew": "sew",
    "unispeech-sat": "unispeech-sat",
    "w2v-bert": "wav2vec2-bert",
    "wavlm": "wavlm",
    "whisper": "whisper",
}
OTHERS = {  # of the same recipes
    "conformer, rotary": ("conformer", STOCK["wav2vec2-conformer, rotary"]),
    "w2v-bert, relative": (
        "w2v-bert",
        STOCK["wav2vec2-bert"]._replace(
            fields=STOCK["wav2vec2-bert"].fields | {"position_embeddings_type": "relative"}
        ),
    ),
    "wavlm, pre-norm": ("wavlm", STOCK["wavlm, pre-norm"]),
    "unispeech-sat, pre-norm": ("unispeech-sat", STOCK["unispeech-sat, pre-norm"]),
}
ENCODERS = {name: (name, STOCK[stock]) for name, stock in KINDS.items()} | OTHERS


def test_every_recipe_of_a_kind_is_here():
    assert {path.stem for path in (ROOT / "recipes" / "kinds").glob("*.yaml")} == set(KINDS)


@each(ENCODERS)
def test_a_kind_never_waits(name, tmp_path):
    recipe, stock = ENCODERS[name]
    stock.build().save_pretrained(tmp_path / "encoder")
    masks = "" if recipe == "whisper" else MASKED
    trainer = build(tmp_path, f"kinds/{recipe} {TRAINED} {masks} --encoder {tmp_path / 'encoder'}")
    assert not any(take_steps(trainer)[1:])


TINY = f"--encoder {ROOT / 'recipes/encoders/tiny.yaml'} --freeze none"
CASES = {
    "wav2vec2, recommended": (f"{TRAINED} {TINY} {MASKED}", "two"),
    "wav2vec2, authors": (f"presets/authors {TINY} --loss ccc --layerdrop 0.1", "two"),
    "wav2vec2, classes": (
        f"{TRAINED} {TINY} --class_weights balanced --label_smoothing 0.1 --pooling attention --augment {CHANGES} "
        "--augment_prob 1",
        "type",
    ),
    "wav2vec2, accumulation": (f"{TRAINED} {TINY} --gradient_accumulation_steps 2 --layer_lr_decay 0.9", "two"),
    "wav2vec2, layers weighed": (f"{TRAINED} {TINY} --use_weighted_layer_sum true --pooling max --loss mse", "two"),
    "several tasks": (f"multitask --audio_on_device true {TINY} --loss ccc", "two+type"),
    "filterbank": (f"{TRAINED} --encoder {ROOT / 'recipes/encoders/filterbank.yaml'} --freeze none", "type"),
    "log-mel CNN": ("baselines/log_mel_cnn --audio_on_device true --ema_decay 0.99", "type"),
    "SE-ResNet": ("baselines/se_resnet --audio_on_device true --width 8", "two"),
}


@each(CASES)
def test_a_model_never_waits(name, tmp_path):
    settings, task = CASES[name]
    trainer = build(tmp_path, settings, task)
    trainer.data_collator.lengths = [4800]  # one, as filters are copied once per size
    assert not any(take_steps(trainer)[1:])


@each(("encoder_frames", "front_end_frames"))
def test_stored_frames_never_wait(name, tmp_path):
    trainer = build(tmp_path, f"presets/recommended {TINY}")
    width = {"encoder_frames": 96, "front_end_frames": 64}[name]
    rows = [{name: np.zeros((9 + row, width), np.float16).ravel(), "labels": [0.5, 0.5]} for row in range(12)]
    trainer.train_dataset = Dataset.from_list([row | {"num_samples": 320} for row in rows])
    trainer.data_collator = FrameCollator(width, name)
    assert not any(take_steps(trainer)[1:])


def test_functionals_never_wait(tmp_path):
    task = TASKS_BY_NAME["two"]
    args = parse(tmp_path, "")[2]
    rows = [{"input_values": np.zeros(88), "labels": [0.5, 0.5], "num_samples": 320 + row} for row in range(12)]
    model = OpenSmileMLP(OpenSmileMLP.config_class(num_labels=2)).to(META)
    trainer = BurstTrainer(model, args, task, None, FeatureCollator(), train_dataset=Dataset.from_list(rows))
    assert not any(take_steps(trainer)[1:])


@pytest.mark.nightly
def test_a_teacher_that_hears_what_the_student_hears_never_waits(tmp_path):
    settings, task, folder = f"{TRAINED} {TINY} --augment shift", TASKS_BY_NAME["two"], tmp_path / "teacher"
    model, extractor = build_model(*parse(tmp_path, settings)[:2], task, None)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    trainer = build(tmp_path, settings)
    trainer.teachers = ModelTeachers([str(folder)], task, extractor, 0.5, torch.device("cpu"))
    trainer.teachers.teachers[0][None].model.to(META)
    assert not any(take_steps(trainer)[1:])


def test_steps_as_graphs_copy_nothing_either(tmp_path):
    trainer = build(tmp_path, f"{TRAINED} {TINY} {MASKED} --rnn_layers 0")
    trainer.data_collator.lengths = [4800]
    trainer.graphed = trainer.graph_steps(capture := Again())
    assert not any(take_steps(trainer, FIRST_STEPS + 2)[1:])
    assert capture.captures == 1 and capture.replays == 2


# ---- what is noticed -------------------------------------------------------------------------------------------------

ASKS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "rows of a mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "to the host": lambda x: x.cpu(),
    "a slice by a tensor": lambda x: x[: x.argmax()],
    "equal": lambda x: torch.equal(x, x),
}
COPIES = {
    "a list": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "a number": lambda x: torch.tensor(1.0, device=x.device),
    "an array": lambda x: torch.as_tensor(np.ones(3), device=x.device),
    "positions": lambda x: torch.arange(3).to(x),
    "places in a list": lambda x: x[[0, 2]],
    "places on the host": lambda x: x[torch.tensor([0, 2])],
    "rows of the host": lambda x: x.copy_(torch.ones(3)),
}


@pytest.mark.parametrize("name", ASKS)
def test_a_question_is_noticed(name):
    with pytest.raises((RuntimeError, NotImplementedError)):
        ASKS[name](torch.ones(3, device=META))


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_noticed_and_other_steps_are_none(name):
    copies, x = Copies(), torch.ones(3, device=META)
    with Literals(copies), Operations(copies):
        x[1:] = 2 * x[:2].masked_fill(x[:2] > 0, 0.0) + torch.tensor(1.0)
        torch.where(x > 0, x, 1.0).sum(), torch.full_like(x, 3.0), x[torch.arange(2, device=META)]
        assert not copies.names
        COPIES[name](x)
    assert copies.names


def test_the_batch_itself_is_no_copy():
    copies, batch = Copies(), torch.ones(3)
    copies.batch.append(batch)
    with Literals(copies), Operations(copies):
        batch.to(META)
        assert not copies.names
        batch.clone().to(META)
    assert copies.names == ["_to_copy"]
