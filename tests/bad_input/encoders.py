"""Checkpoints to start from, through `--encoder` of training and of pre-training: half, damaged, of another kind."""

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny import save_encoder

from avb.arguments import DataArguments, ModelArguments, PretrainingArguments
from avb.errors import AvbError
from avb.pretraining import build as pretraining
from avb.tasks import TASKS
from avb.training import build as training
from bad_input.case import Case
from bad_input.checkpoints import CONFIG, PREPARATION, WEIGHTS, Change, Evil, content, fields, weights, without

BIN = "pytorch_model.bin"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 377611120\n"


def encoder(*changes: Change) -> Callable[[Path], str]:
    def build(folder: Path) -> str:
        from transformers import Wav2Vec2FeatureExtractor

        path = folder / "encoder"
        save_encoder(path)
        Wav2Vec2FeatureExtractor().save_pretrained(path)
        for change in changes:
            change(path)
        return str(path)

    return build


def to_pickle(write: Callable[[dict, Path], object]) -> Change:
    """The weights as a pickle instead."""

    def change(folder: Path):
        write(load_file(folder / WEIGHTS), folder / BIN)
        (folder / WEIGHTS).unlink()

    return change


def half(file: str) -> Change:
    return lambda folder: (
        (folder / file).write_bytes((folder / file).read_bytes()[: (folder / file).stat().st_size // 2]) and None
    )


def evil(_: dict, path: Path):
    path.write_bytes(pickle.dumps(Evil(path.parent.parent / "ran")))


def renamed(folder: Path):
    save_file({f"model.{key}": value for key, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)


def spectrogram_transformer(folder: Path):
    from transformers import ASTConfig, ASTModel

    config = ASTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_length=32)
    ASTModel(config).save_pretrained(folder)


def observe(case: Case, folder: Path) -> str:
    """The encoder, read by both commands' own functions; in fp32, or one of the two says why not."""
    name = case.build(folder)
    arguments = ModelArguments(encoder=name, encoder_layer=1, rnn_layers=0)
    seen = {
        "train": _observe(lambda: training.build_model(arguments, DataArguments(), TASKS["two"], None)[0]),
        "pretrain": _observe(lambda: pretraining.build_model(PretrainingArguments(encoder=name))),
    }
    if (folder / "ran").exists():
        raise AssertionError("code of a pickle ran")
    train, pretrain = seen.values()
    return train if train == pretrain else f"train: {train}; pretrain: {pretrain}"


def _observe(build: Callable) -> str:
    try:
        model = build()
    except AvbError as error:
        return f"error: {error}"
    kinds = {str(parameter.dtype) for parameter in model.parameters()}
    return "loaded" if kinds == {"torch.float32"} else f"loaded in {kinds}"


CASES = [
    Case("an encoder", encoder(), "loaded"),
    Case("half precision", encoder(weights(lambda w: {k: v.half() for k, v in w.items()})), "loaded"),
    Case("weights as a pickle", encoder(to_pickle(torch.save)), "loaded"),
    Case("no preprocessor_config.json", encoder(without(PREPARATION)), "loaded"),
    Case("a pointer of Git LFS", encoder(content(WEIGHTS, POINTER)), "error: a pointer of Git LFS, not the file"),
    Case("config.json is a pointer too", encoder(content(CONFIG, POINTER)), "error: a pointer of Git LFS"),
    Case("half of the weights", encoder(half(WEIGHTS)), "error: its files are damaged"),
    Case("half of a pickle", encoder(to_pickle(torch.save), half(BIN)), "error: cannot be read"),
    Case(
        "a pickle of a list",
        encoder(to_pickle(lambda w, path: torch.save([1, 2], path))),
        "error: its files are damaged, or are not what they are called",
    ),
    Case("a pickle that runs code", encoder(to_pickle(evil)), "error: its files are damaged, or are not what"),
    Case("no weights", encoder(without(WEIGHTS)), "error: cannot be read (Error no file named model.safetensors"),
    Case("weights with foreign prefixes", encoder(renamed), "error: its file lacks"),
    Case("another width in config.json", encoder(fields(hidden_size=64)), "error: these files do not belong together"),
    Case(
        "another kind of encoder",
        encoder(spectrogram_transformer),
        "error: holds a 'audio-spectrogram-transformer' model",
    ),
    Case("audio at 8 kHz", encoder(fields(PREPARATION, sampling_rate=8000)), "error: wants audio at 8000 Hz"),
    Case("config.json is no JSON", encoder(content(CONFIG, b"{")), "error: is not a valid JSON file"),
    Case("a shipped model's name with a slip", lambda folder: "emogator_small", "error: did you mean 'emogator-small'"),
]
