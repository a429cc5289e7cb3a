"""Models' folders: damaged, mixed up, absurd, or made to run code."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from tiny import save_encoder, tiny_model

from avb.cards.hub_folder import save_hub_folder
from avb.tasks import TASKS
from bad_input.case import Case
from feature_extraction_avb import VocalBurstFeatureExtractor

CONFIG, PREPARATION, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
Change = Callable[[Path], None]


def save_model(folder: Path, task: str = "two") -> Path:
    """A tiny model with random weights, saved as training saves it; three frames a second, for clips of ten minutes."""
    spans = (10, 4, 4, 4, 4, 2, 2)
    model = tiny_model(TASKS[task], is_stirred=False, conv_kernel=spans, conv_stride=spans)
    return save_hub_folder(model, VocalBurstFeatureExtractor(peak_db=-3.0), folder)


def model(*changes: Change) -> Callable[[Path], list[str]]:
    def build(folder: Path) -> list[str]:
        path = save_model(folder / "model")
        for change in changes:
            change(path)
        return [str(path)]

    return build


def fields(file: str = CONFIG, **values) -> Change:
    def change(folder: Path):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))

    return change


def without(file: str) -> Change:
    return lambda folder: (folder / file).unlink()


def content(file: str, new: bytes) -> Change:
    return lambda folder: (folder / file).write_bytes(new) and None


def weights(change: Callable[[dict], dict]) -> Change:
    def change_weights(folder: Path):
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return change_weights


def shorten(folder: Path):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])


class Evil:
    """Writes a file where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def evil_pickle(folder: Path):
    """The weights as a pickle that runs code; the mark it would leave is `ran`, above the folder."""
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(folder.parent / "ran")))


def honest_pickle(folder: Path):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def evil_code(folder: Path):
    """Python files that leave a mark when they are imported, named in every file that may name code."""
    code = f"import pathlib\npathlib.Path({str(folder.parent / 'ran')!r}).touch()\n"
    for name in ("evil", *(path.stem for path in ROOT.glob("*_avb.py"))):
        (folder / f"{name}.py").write_text(code)
    names = ("AutoConfig", "AutoModel", "AutoModelForAudioClassification", "AutoFeatureExtractor")
    auto_map = {name: "evil.Evil" for name in names}
    fields(auto_map=auto_map, custom_pipelines={"audio-classification": {"impl": "evil.Evil", "pt": ["AutoModel"]}})(
        folder
    )
    fields(PREPARATION, auto_map=auto_map)(folder)


def outside_shards(folder: Path):
    """An index that names weights outside the folder."""
    shutil.move(folder / WEIGHTS, folder.parent / "secret.safetensors")
    names = load_file(folder.parent / "secret.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../secret.safetensors")}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def other_labels(folder: Path):
    """The configuration of another task's model, put beside these weights."""
    shutil.copy(save_model(folder.parent / "other", "high") / CONFIG, folder / CONFIG)


def encoder(folder: Path) -> list[str]:
    from transformers import Wav2Vec2FeatureExtractor

    save_encoder(folder / "encoder")
    Wav2Vec2FeatureExtractor().save_pretrained(folder / "encoder")
    return [str(folder / "encoder")]


CASES = [
    Case("a model", model(), "scored"),
    Case("no such folder", lambda folder: [str(folder / "gone")], "error: no such model"),
    Case("an empty folder", lambda folder: [str(folder)], "error: no such model"),
    Case("an encoder without a head", encoder, "error: 'wav2vec2' model, not a trained vocal-burst model"),
    Case("no weights", model(without(WEIGHTS)), "error: there is no model.safetensors"),
    Case("no preprocessor_config.json", model(without(PREPARATION)), "scored"),
    Case(
        "weights that are a pointer of Git LFS",
        model(content(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")),
        "error: a pointer of Git LFS, not the file",
    ),
    Case("0 bytes of weights", model(content(WEIGHTS, b"")), "error: its weights have 0 bytes"),
    Case("weights cut short", model(shorten), "error: SafetensorError"),
    Case("weights that are random bytes", model(content(WEIGHTS, b"\xff" * 50_000)), "error: SafetensorError"),
    Case(
        "weights whose header claims 2^63 bytes",
        model(content(WEIGHTS, b"\0" * 7 + b"\x7f" + b"x" * 50_000)),
        "error: SafetensorError",
    ),
    Case(
        "a tensor is missing",
        model(weights(lambda w: {k: v for k, v in w.items() if k != "head.weight"})),
        "error: lack head.weight",
    ),
    Case(
        "a tensor of another shape",
        model(weights(lambda w: w | {"head.weight": torch.zeros(3, 16)})),
        "error: head.weight is [3, 16]",
    ),
    Case(
        "config.json of another task",
        model(other_labels),
        "error: head.bias is [2] in the weights and [10] by config.json",
    ),
    Case(
        "weights as a pickle", model(honest_pickle), "error: its weights are a pickle, pytorch_model.bin, which is not"
    ),
    Case("weights as a pickle that runs code", model(evil_pickle), "error: its weights are a pickle"),
    Case("code in the folder, named in its configuration", model(evil_code), "scored"),
    Case(
        "... and no feature extractor but it",
        model(evil_code, fields(PREPARATION, feature_extractor_type="Evil")),
        "error: contains custom code",
    ),
    Case("an index of weights outside the folder", model(outside_shards), "error: not a safetensors file next to it"),
    Case("config.json is no JSON", model(content(CONFIG, b"{")), "error: is not a valid JSON file"),
    Case("config.json is a list", model(content(CONFIG, b"[]")), "error: do not fit together"),
    Case("config.json of 100,000 brackets", model(content(CONFIG, b"[" * 100_000)), "error: RecursionError"),
    Case("another model_type", model(fields(model_type=["x"])), "error: not a trained vocal-burst model"),
    Case(
        "a billion layers",
        model(fields(num_hidden_layers=10**9, encoder_layer=10**9)),
        "error: num_hidden_layers=1000000000 is invalid",
    ),
    Case(
        "a thousand layers of width 65,536",
        model(fields(num_hidden_layers=1000, encoder_layer=1000, hidden_size=65_536)),
        "error: parameters, and its weights have",
    ),
    Case(
        "two billion labels",
        model(fields(num_labels=2**31, id2label=None)),
        "error: num_labels=2147483648 is invalid",
    ),
    Case(
        "a trillion units of LSTM",
        model(fields(rnn_hidden_size=10**12)),
        "error: rnn_hidden_size=1000000000000 is invalid",
    ),
    Case("a word for a number", model(fields(rnn_layers="two")), "error: rnn_layers='two' is invalid"),
    Case("a word for a list", model(fields(conv_dim="abc")), "error: conv_dim"),
    Case("width 0", model(fields(hidden_size=0)), "error: do not fit together"),
    Case("an unknown loss", model(fields(loss="mae")), "error: loss='mae' is invalid"),
    Case(
        "an export without its file",
        model(fields(export={"backend": "onnx", "precision": "fp32"})),
        "error: model.onnx",
    ),
    Case("a sampling rate of 0", model(fields(PREPARATION, sampling_rate=0)), "error: sampling_rate=0"),
    Case("a level that is a word", model(fields(PREPARATION, peak_db="loud")), "error: peak_db='loud'"),
    Case("a negative trimming", model(fields(PREPARATION, trim_top_db=-5)), "error: trim_top_db must be positive"),
    Case(
        "another model's feature extractor",
        model(fields(PREPARATION, feature_extractor_type="WhisperFeatureExtractor")),
        "error: that of WhisperFeatureExtractor",
    ),
]
