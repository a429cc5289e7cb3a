"""The `authors` preset against a literal re-statement of what their code does, step by step; nothing of it is shared.

What is re-stated: raw waveforms; the frozen encoder's layer 12, its dropout on in training at torchaudio's rates; two
LSTM layers over all frames, padding included, or none; a linear layer per frame; with CCC batch norm over labels with
the statistics of all frames; a sigmoid, but for classes; pooling; the sum over labels of 1 - CCC, mean squared error or
cross entropy; AdamW with decay 1 / batch on every parameter; a cosine from the first step to zero.
"""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conftest import ROOT
from datasets import Dataset
from torch import nn
from transformers import TrainerCallback, Wav2Vec2Model

from avb.collator import BurstCollator
from avb.command_line import parse_arguments
from avb.tasks import TASKS
from avb.training import trainer
from avb.training.build import build_model
from avb.training.trainer import BurstTrainer

PAPER = ROOT / "recipes" / "paper"
STEPS, BATCH, UNITS = 10, 6, 24
# torchaudio's bundles: dropout of the projection, of attention weights, of hidden states; inside feed-forward layers 0.
RATES = {"BASE": (0.1, 0.1, 0.1), "LARGE": (0.1, 0.1, 0.0), "LARGE-LV60K": (0.1, 0.1, 0.0), "XLSR53": (0.0, 0.0, 0.0)}
DRAWS = {"BASE": 38, "LARGE": 13, "LARGE-LV60K": 13, "XLSR53": 0}  # per forward pass through 12 layers
CASES = [  # loss, pooling, LSTM layers: each with each other, and all of them with every encoder
    ("BASE", "ccc", "last", 2), ("BASE", "mse", "avg", 0), ("BASE", "ce", "avg", 2),
    ("LARGE", "ccc", "avg", 0), ("LARGE", "mse", "last", 2), ("LARGE", "ce", "last", 0),
    ("LARGE-LV60K", "ccc", "last", 2), ("LARGE-LV60K", "mse", "avg", 2), ("LARGE-LV60K", "ce", "last", 2),
    ("LARGE-LV60K", "ccc", "last", 0), ("XLSR53", "ccc", "avg", 2), ("XLSR53", "mse", "last", 0),
    ("XLSR53", "ce", "avg", 0),
]  # fmt: skip


def clips_of(task) -> Dataset:
    """Decoded clips of mixed length and level, as recorded: an offset, and some far from full scale."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(STEPS * BATCH):
        samples = int(rng.integers(1_600, 6_400))
        clip = (
            0.02
            + rng.uniform(0.05, 0.9) * np.sin(np.arange(samples) * rng.uniform(0.02, 0.4))
            + 0.01 * rng.normal(size=samples)
        )
        labels = rng.random(task.num_labels) if task.kind == "regression" else number % task.num_labels
        rows.append(
            {"id": str(number), "input_values": clip.astype(np.float32), "num_samples": samples, "labels": labels}
        )
    return Dataset.from_list(rows)


class AlignedDropout:
    """Dropout whose n-th mask depends on n alone, so that two systems that draw in the same order draw the same."""

    def __init__(self):
        self.draws = 0

    def __call__(self, x, p=0.5, training=True, inplace=False):
        if not training or p == 0:
            return x
        self.draws += 1
        kept = torch.rand(x.shape, generator=torch.Generator().manual_seed(self.draws)) >= p
        return x * kept / (1 - p)


class Gradients(TrainerCallback):
    """What each step back-propagates."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def our_training(checkpoint, shape, task, loss, pooling, layers, tmp_path, dropout: bool):
    """Ten steps of the recipe by the project's Trainer: losses, gradients, and the head's weights before them."""
    extractor = {"BASE": "base", "LARGE": "large", "LARGE-LV60K": "lv60k", "XLSR53": "xlsr53"}[shape]
    model_args, data_args, args, _ = parse_arguments(
        [
            str(PAPER / f"{task.name}-{extractor}.yaml"), "--encoder", str(checkpoint), "--pooling", pooling,
            "--loss", loss, "--head_norm", "batch" if loss == "ccc" else "none", "--rnn_layers", str(layers),
            "--rnn_hidden_size", str(UNITS),
            "--frozen_encoder_dropout", str(dropout).lower(), "--attn_implementation", "eager",
            "--per_device_train_batch_size", str(BATCH), "--weight_decay", str(1 / BATCH), "--max_steps", str(STEPS),
            "--logging_strategy", "steps", "--logging_steps", "1", "--eval_strategy", "no", "--save_strategy", "no",
            "--load_best_model_at_end", "false", "--train_sampling_strategy", "sequential",
            "--output_dir", str(tmp_path), "--disable_tqdm", "true", "--use_cpu", "true",
        ]
    )  # fmt: skip
    clips = clips_of(task)
    torch.manual_seed(0)
    model, feature_extractor = build_model(model_args, data_args, task, clips)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("wav2vec2.")}
    gradients = Gradients()
    collator = BurstCollator(feature_extractor)
    trainer = BurstTrainer(model, args, task, feature_extractor, collator, train_dataset=clips)
    trainer.add_callback(gradients)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], gradients.steps, start


def literal_training(checkpoint, shape, task, loss, pooling, layers, start, dropout: bool):
    """The same in plain PyTorch, from the head's weights `start`: losses and gradients."""
    projection, attention, hidden = RATES[shape]
    encoder = Wav2Vec2Model.from_pretrained(
        checkpoint, feat_proj_dropout=projection, attention_dropout=attention, hidden_dropout=hidden,
        activation_dropout=0.0, layerdrop=0.0, apply_spec_augment=False, num_hidden_layers=12,
        attn_implementation="eager",
    )  # fmt: skip
    if encoder.config.do_stable_layer_norm:
        encoder.encoder.layer_norm = nn.Identity()  # layer 12 as it is, before the norm behind the last layer
    encoder.train(dropout)
    head = nn.ModuleDict()
    if layers:
        head["rnn"] = nn.LSTM(encoder.config.hidden_size, UNITS, num_layers=layers, batch_first=True)
    head["head"] = nn.Linear(UNITS if layers else encoder.config.hidden_size, task.num_labels)
    if loss == "ccc":
        head["head_norm"] = nn.BatchNorm1d(task.num_labels)
    head.load_state_dict(start)
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-4, weight_decay=1 / BATCH)

    clips, losses, gradients = clips_of(task), [], []
    for step in range(STEPS):
        batch = [clips[index] for index in range(step * BATCH, (step + 1) * BATCH)]
        lengths = [len(row["input_values"]) for row in batch]
        audio = torch.zeros(BATCH, max(lengths))
        for index, row in enumerate(batch):
            audio[index, : lengths[index]] = torch.as_tensor(row["input_values"], dtype=torch.float32)
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        with torch.no_grad():
            frames = encoder(audio, attention_mask=mask).last_hidden_state
        valid = [encoder._get_feat_extract_output_lengths(torch.tensor(length)).item() for length in lengths]
        outputs = head["head"](head["rnn"](frames)[0] if layers else frames)
        if loss == "ccc":
            outputs = head["head_norm"](outputs.transpose(1, 2)).transpose(1, 2)
        if loss != "ce":
            outputs = torch.sigmoid(outputs)
        if pooling == "last":
            predictions = torch.stack([outputs[index, valid[index] - 1] for index in range(BATCH)])
        else:
            predictions = outputs.mean(1)  # over padding too
        labels = torch.as_tensor(np.array([row["labels"] for row in batch]))
        if loss == "ce":
            value = nn.functional.cross_entropy(predictions, labels)
        elif loss == "mse":
            value = ((predictions - labels.float()) ** 2).mean()
        else:
            value = 0
            for x, y in zip(predictions.T, labels.float().T, strict=True):
                covariance = ((x - x.mean()) * (y - y.mean())).mean()
                spread = x.var(correction=0) + y.var(correction=0) + (x.mean() - y.mean()) ** 2
                value += 1 - 2 * covariance / (spread + 1e-8)
        for group in optimizer.param_groups:
            group["lr"] = 1e-4 * (1 + math.cos(math.pi * step / STEPS)) / 2
        optimizer.zero_grad()
        value.backward()
        gradients.append({name: p.grad.clone() for name, p in head.named_parameters()})
        optimizer.step()
        losses.append(value.item())
    return losses, gradients


def compare(ours, literal, loss):
    assert ours[0] == pytest.approx(literal[0], abs=1e-5)
    for found, expected in zip(ours[1], literal[1], strict=True):
        assert found.keys() == expected.keys()  # the head alone is trained
        for name, gradient in expected.items():
            if loss == "ccc" and name == "head.bias":
                continue  # a bias before batch norm has no gradient but rounding
            assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def task_of(loss: str):
    return TASKS["type" if loss == "ce" else "two"]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "loss", "pooling", "layers"), CASES)
def test_authors_preset_is_their_code_step_by_step(shape, loss, pooling, layers, checkpoints, tmp_path):
    system = (checkpoints[shape], shape, task_of(loss), loss, pooling, layers)
    losses, gradients, start = our_training(*system, tmp_path, dropout=False)
    compare((losses, gradients), literal_training(*system, start, dropout=False), loss)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "loss"), [("BASE", "ccc"), ("LARGE", "mse"), ("LARGE-LV60K", "ccc"), ("XLSR53", "ccc")]
)
def test_dropout_of_the_frozen_encoder_is_theirs(shape, loss, checkpoints, tmp_path, monkeypatch):
    """As many draws, in the same order, whatever the checkpoint's own rates are; with the same masks the same steps."""
    system = (checkpoints[shape], shape, task_of(loss), loss, "last", 2)
    results = []
    monkeypatch.setattr(trainer, "cheap_dropout", lambda args: nullcontext())  # the masks are drawn here
    for train in (our_training, literal_training):
        dropout = AlignedDropout()
        monkeypatch.setattr(torch.nn.functional, "dropout", dropout)
        if train is our_training:
            losses, gradients, start = train(*system, tmp_path, dropout=True)
        else:
            losses, gradients = train(*system, start, dropout=True)
        assert dropout.draws == STEPS * DRAWS[shape]
        results.append((losses, gradients))
    compare(*results, loss)


def test_the_head_starts_as_torch_has_it(checkpoints, tmp_path):
    """Uniform within 1 / sqrt(units), the biases too."""
    _, _, start = our_training(checkpoints["BASE"], "BASE", TASKS["two"], "mse", "last", 2, tmp_path, dropout=False)
    bound = UNITS**-0.5
    for name, tensor in start.items():
        assert 0.5 * bound < tensor.abs().max() <= bound, name
        assert tensor.numel() < 20 or tensor.std() == pytest.approx(bound / math.sqrt(3), rel=0.2), name
