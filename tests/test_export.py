"""An export predicts as the torch model, in every form the model has; one that does not is never written."""

import copy
import io
import json
import sys
from functools import partial

import numpy as np
import pytest
import torch
import warm
from conftest import ENCODER_SHAPES, TINY, require_bf16_of_openvino
from tiny import tiny_model

import avb
from avb.cards.hub_folder import save_hub_folder
from avb.errors import AvbError
from avb.export import command
from avb.export import exporting as export
from avb.export.check import Difference, made_up_bursts
from avb.export.exporting import export_model
from avb.export.graph import ChannelsLastConv
from avb.export.quantization import quantize_products
from avb.export.writing import OPSET
from avb.inference import engines as runtime
from avb.inference.load import load_model
from avb.inference.score import score_waveforms
from feature_extraction_avb import VocalBurstFeatureExtractor
from front_end_avb import floor_divide
from pooling_avb import POOLINGS
from predict_avb import main as predict

pytest.importorskip("onnxruntime")

MULTITASK = {
    "loss": "multitask",
    "task_weighting": "uncertainty",
    "tasks": [{"name": "high", "loss": "ccc", "num_labels": 6}, {"name": "type", "loss": "ce", "num_labels": 4}],
}
AUTHORS = {"masked_group_norm": False, "masked_pooling": False, "waveform_normalization": "batch", "pooling": "max"}
HEADS = {
    **{pooling: {"pooling": pooling} for pooling in POOLINGS},
    "without RNN, ce": {"rnn_layers": 0, "loss": "ce"},
    "mse, batch norm, padding seen": {
        "loss": "mse",
        "head_norm": "batch",
        "pooling": "avg",
        "masked_pooling": False,
        "label_range": (1, 7),
    },
    "older": {
        "pool_before_head": True,
        "head_norm": "batch_clips",
        "rnn_layers": 0,
        "pooling": "maskavg",
        "masked_pooling": False,
    },
    "multitask": {**MULTITASK, "pooling": "attention"},
    "authors": AUTHORS,
}
# Of random weights with a head times ten: processors differ in what they keep in fp32, .039 is the worst seen on three.
BF16_TOLERANCE = 0.06
FAST = [("BASE", "authors"), ("BASE", "last"), ("LARGE-LV60K", "authors"), ("LARGE-LV60K", "last")]


def marks(shape: str, head: str) -> list:
    """A norm of each kind is fast; CI sees each head and each shape, `make nightly` every pair of them."""
    if (shape, head) in FAST:
        return []
    return [pytest.mark.slow if shape == "BASE" or head == "last" else pytest.mark.nightly]


def make_model(folder, shape: str = "BASE", **settings):
    """A folder of a tiny model whose predictions differ from clip to clip."""
    sizes = {**TINY, **ENCODER_SHAPES[shape], "num_hidden_layers": 2, "encoder_layer": 2, "rnn_hidden_size": 24}
    model = tiny_model(shape=sizes, head_scale=8, **{"num_labels": 10, "rnn_layers": 2, **settings}).eval()
    is_each = model.config.waveform_normalization == "clip"
    save_hub_folder(model, VocalBurstFeatureExtractor(peak_db=-3.0, do_normalize=is_each), folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export_model(trained, folder)
    return folder


def padded_batch(waveforms):
    """(clips, samples) and their mask; the padding is not silent, which no prediction may notice."""
    samples = max(map(len, waveforms))
    inputs, mask = torch.full((len(waveforms), samples), 7.0), torch.zeros(len(waveforms), samples, dtype=torch.long)
    for row, waveform in enumerate(waveforms):
        inputs[row, : len(waveform)] = waveform
        mask[row, : len(waveform)] = 1
    return {"input_values": inputs, "attention_mask": mask}


@pytest.mark.parametrize(
    ("shape", "head"),
    [pytest.param(shape, head, marks=marks(shape, head)) for shape in ENCODER_SHAPES for head in HEADS],
)
def test_export_predicts_as_the_torch_model(tmp_path, waveforms, shape, head):
    folder = make_model(tmp_path / "model", shape, **HEADS[head])
    export_model(folder, tmp_path / "onnx")
    model, _ = load_model(folder)
    exported, _ = load_model(tmp_path / "onnx")
    batches = [[waveform] for waveform in waveforms] + [waveforms, waveforms[::-1][:3]]
    with torch.inference_mode():
        expected = [model(**padded_batch(batch)).logits for batch in batches]
    got = [exported(**padded_batch(batch)).logits for batch in batches]
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(other, one, atol=2e-5, rtol=0)
    assert torch.cat(expected).std(0).max() > 0.02  # what is compared does depend on the clip
    if HEADS[head] is not AUTHORS and HEADS[head].get("masked_pooling", True):
        torch.testing.assert_close(got[len(waveforms)], torch.cat(got[: len(waveforms)]), atol=2e-5, rtol=0)


def test_without_a_mask_all_is_audio(exported, waveforms):
    model, _ = load_model(exported)
    inputs = waveforms[-1][None]
    with_mask = model(inputs, torch.ones(inputs.shape, dtype=torch.long))
    assert torch.equal(model(input_values=inputs).logits, with_mask.logits)


@pytest.mark.parametrize(
    ("kernel", "stride"), [(10, 5), (3, 2), (2, 2), (8, 4), (4, 2), (5, 3), (7, 3), (1, 1), (3, 4)]
)
@pytest.mark.parametrize("channels", [1, 4])
def test_convolution_as_products(kernel, stride, channels):
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(channels, 6, kernel, stride)
    for samples in range(kernel, kernel + 12):
        x = torch.randn(2, channels, samples)
        with torch.inference_mode():
            got = ChannelsLastConv(conv)(x.transpose(1, 2)).transpose(1, 2)
            torch.testing.assert_close(got, conv(x), atol=1e-5, rtol=0)


def test_the_folder_is_complete_and_names_how_it_was_compared(trained, exported):
    files = {path.name for path in exported.iterdir()}
    assert {"model.onnx", "config.json", "preprocessor_config.json", "export.json"} <= files
    assert not {name for name in files if name.endswith((".safetensors", ".bin", ".pt", ".tmp"))}
    assert not list(exported.parent.glob("onnx-*"))
    report = json.loads((exported / "export.json").read_text())
    assert report["precision"] == "fp32" and 0 < report["max_difference"] <= report["tolerance"]
    assert report["versions"]["onnxruntime"] and [row["clip"] for row in report["clips"]] == list(made_up_bursts())
    assert min(row["seconds"] for row in report["clips"]) == 0.025
    config = json.loads((exported / "config.json").read_text())
    assert config["auto_map"] == {"AutoConfig": "configuration_avb.Wav2Vec2VocalBurstConfig"}
    trained_config = json.loads((trained / "config.json").read_text())
    assert config["id2label"] == trained_config["id2label"] and config["loss"] == trained_config["loss"]


def test_load_takes_it_like_any_model(trained, exported, tone):
    expected, got = avb.load(str(trained))(tone), avb.load(str(exported))(tone)
    assert [score["label"] for score in got] == [score["label"] for score in expected]
    np.testing.assert_allclose([s["score"] for s in got], [s["score"] for s in expected], atol=1e-4)
    pipe = avb.load(str(exported), window_seconds=0.3, batch_size=2)
    assert len(pipe(tone)) == 4 and "ExportedModel" in repr(pipe)
    with pytest.raises(
        AvbError, match="cannot be sent to another process: call avb.load in each process, with '.*onnx'"
    ):
        copy.deepcopy(pipe)


def test_predict_command_takes_it(exported, trained, tone, tmp_path):
    import soundfile

    for number, samples in enumerate((16_000, 300, 9_000)):
        soundfile.write(tmp_path / f"{number}.wav", tone[:samples] + 0.01, 16_000)
    tables = []
    for model in (trained, exported):
        table = tmp_path / f"{model.name}.csv"
        assert predict([str(model), *sorted(map(str, tmp_path.glob("*.wav"))), "--output", str(table)]) == 0
        tables.append(np.genfromtxt(table, delimiter=",", skip_header=1)[:, 1:])
    assert tables[0].shape == (3, 10) and tables[0].std(0).max() > 1e-3
    np.testing.assert_allclose(*tables, atol=1e-4)


def test_a_clip_too_long_for_attention_is_skipped_and_counted(exported, tone, tmp_path, monkeypatch):
    import soundfile

    monkeypatch.setattr("avb.inference.score.EXPORT_MAX_SECONDS", 0.9)
    soundfile.write(tmp_path / "long.wav", tone, 16_000)
    soundfile.write(tmp_path / "short.wav", tone[:8_000], 16_000)
    assert predict([str(exported), str(tmp_path), "--output", str(tmp_path / "scores.csv")]) == 3
    assert "long.wav: longer than 0.9 seconds" in (tmp_path / "scores.csv.errors.csv").read_text()
    model, _ = load_model(exported)
    with pytest.raises(AvbError, match="window_seconds"):
        model(torch.zeros(1, int(runtime.MAX_SECONDS * 16_000) + 16_000))


# ---- int8 and bf16 -------------------------------------------------------------------------------------------------


class Product(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(32, 8))

    def forward(self, x):
        return x @ self.weight


def test_the_largest_int8_product_is_right_on_every_cpu(tmp_path):
    """Without VNNI the kernel adds two products in 16 bits."""
    onnxruntime = pytest.importorskip("onnxruntime")
    names = {"input_names": ["x"], "output_names": ["y"]}
    torch.onnx.export(
        Product(), torch.ones(1, 3, 32), tmp_path / "fp32.onnx", dynamo=False, opset_version=OPSET, **names
    )
    assert quantize_products(tmp_path / "fp32.onnx", tmp_path / "int8.onnx") == 1
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((1, 3, 32), np.float32)})[0] == pytest.approx(32, rel=1e-4)


# Group norm sums over time, in another order in another batch: that may tip a value over to the next integer.
@pytest.mark.slow
@pytest.mark.parametrize(("shape", "moved"), [("BASE", 6e-3), ("LARGE-LV60K", 1e-6)])
def test_int8_is_close_and_smaller_and_does_not_depend_on_the_batch(tmp_path, waveforms, shape, moved):
    pytest.importorskip("onnx")
    wide = {"hidden_size": 128, "intermediate_size": 256, "conv_dim": (64,) * 7}
    folder = make_model(tmp_path / "model", shape, **wide)
    for precision in ("fp32", "int8"):
        export_model(folder, tmp_path / precision, precision=precision, tolerance=0.05)
    report = json.loads((tmp_path / "int8" / "export.json").read_text())
    assert 1e-4 < report["max_difference"] <= 0.05
    sizes = [(tmp_path / precision / "model.onnx").stat().st_size for precision in ("fp32", "int8")]
    assert sizes[1] < 0.7 * sizes[0]
    model, _ = load_model(tmp_path / "int8")
    alone = torch.cat([model(**padded_batch([waveform])).logits for waveform in waveforms])
    torch.testing.assert_close(model(**padded_batch(waveforms)).logits, alone, atol=moved, rtol=0)


@pytest.mark.slow  # it compiles for every length
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_predicts_as_the_torch_model(tmp_path, waveforms, precision):
    pytest.importorskip("openvino")
    if precision == "bf16":
        require_bf16_of_openvino()
    folder = make_model(tmp_path / "model", "LARGE-LV60K", num_conv_pos_embeddings=32)
    export_model(folder, tmp_path / "out", backend="openvino", precision=precision, tolerance=BF16_TOLERANCE)
    (model, _), (exported, _) = load_model(folder), load_model(tmp_path / "out")
    inputs = padded_batch(waveforms)
    with torch.inference_mode():
        expected = model(**inputs).logits
    torch.testing.assert_close(
        exported(**inputs).logits, expected, atol={"fp32": 2e-5, "bf16": BF16_TOLERANCE}[precision], rtol=0
    )


class Halves(torch.nn.Module):
    def forward(self, mask):
        return floor_divide(mask.sum(1) - 1, 2)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_lengths_are_rounded_down_by_every_engine(engine, tmp_path):
    """As by `//`, whose integer division OpenVINO 2026.4 rounds to the nearest: frames of padding would be heard."""
    pytest.importorskip(engine)
    path = tmp_path / "halves.onnx"
    axes = {"mask": {0: "batch", 1: "samples"}}
    torch.onnx.export(
        Halves(), torch.ones(2, 50, dtype=torch.long), path, dynamo=False, input_names=["mask"], dynamic_axes=axes
    )
    if engine == "openvino":
        run = pytest.importorskip("openvino").Core().compile_model(path, "CPU")
    else:
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        run = partial(session.run, None)
    mask = np.tril(np.ones((40, 40), np.int64))
    np.testing.assert_array_equal(run({"mask": mask})[0], np.arange(40) // 2)


# ---- refused -------------------------------------------------------------------------------------------------------


def test_an_export_that_differs_is_refused_and_leaves_nothing(trained, tmp_path, monkeypatch):
    """The weights that are written are not those that are compared with: one value of the head is off."""
    write_graph = export.write_graph

    def write_tampered(model, path, precision):
        tampered, _ = load_model(trained)
        with torch.no_grad():
            tampered.head.bias[3] += 0.5
        write_graph(tampered, path, precision)

    monkeypatch.setattr(export, "write_graph", write_tampered)
    with pytest.raises(AvbError, match=r"differs by 0\.\d+ .* burst \d+ \(.*tolerance of 0.0001; nothing is written"):
        export_model(trained, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_not_a_number_is_refused():
    differences = [Difference("a.wav", 1.0, 1e-7, 1e-7), Difference("b.wav", 1.0, 1e-7, float("nan"))]
    with pytest.raises(AvbError, match=r"nan from the torch model on b\.wav"):
        export.refuse_difference("model", differences, "onnx", "fp32", 0.01)


def test_command_says_in_one_line_what_is_wrong(trained, exported, tmp_path, capsys):
    def error(*argv):
        assert command.main([str(argument) for argument in argv]) == 1
        message = capsys.readouterr().err
        assert message.startswith("avb.export: error: ") and message.count("\n") == 1
        return message

    assert "more than the tolerance of 0;" in error(trained, tmp_path / "out", "--tolerance", "0")
    assert "precision 'bf16' with backend 'onnx' is not supported" in error(
        trained, tmp_path / "out", "--precision", "bf16"
    )
    assert "exists: give another name, or --overwrite" in error(trained, exported)
    assert "is not an exported model" in error(trained, trained, "--overwrite")
    assert "no such model" in error(tmp_path / "none", tmp_path / "out")
    assert "this is a ExportedModel" in error(exported, tmp_path / "out")
    assert "no audio files found" in error(trained, tmp_path / "out", "--clips", trained)
    assert "no such file" in error(trained, tmp_path / "out", "--clips", tmp_path / "none.wav")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_overwrite_replaces_an_export(trained, tmp_path):
    export_model(trained, tmp_path / "out")
    (tmp_path / "out" / "model.onnx").write_bytes(b"old")
    export_model(trained, tmp_path / "out", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    load_model(tmp_path / "out")


def test_damaged_file_is_named(exported, tmp_path):
    for path in exported.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if path.suffix == ".onnx" else content)
    with pytest.raises(AvbError, match=r"model\.onnx: cannot be read .*export the model again"):
        load_model(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(AvbError, match="no such model"):
        load_model(tmp_path)


@pytest.mark.parametrize("record", [None, "onnx", {"backend": "onnx"}, {"backend": "pickle", "precision": "fp32"}])
def test_a_damaged_record_of_the_export_is_refused(exported, tmp_path, record):
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((exported / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "export": record}))
    with pytest.raises(AvbError, match="export the model again|is not supported"):
        load_model(tmp_path)


def test_a_precision_the_engine_does_not_have_is_refused(tmp_path):
    with pytest.raises(
        AvbError, match=r"precision 'int8' with backend 'openvino' is not supported; use one of fp32 with onnx"
    ):
        export_model(tmp_path, tmp_path / "out", backend="openvino", precision="int8")


def test_another_device_is_refused(exported):
    with pytest.raises(AvbError, match="does not exist here|runs on the CPU"):
        load_model(exported, device="cuda")


@pytest.mark.slow
def test_missing_engine_is_one_line_that_names_the_extra(exported, tmp_path):
    """In a process that cannot find onnxruntime."""
    script = (
        "import sys\n"
        "sys.modules['onnxruntime'] = None\n"  # what an import of a package that is not there meets
        "import predict_avb\n"
        "sys.exit(predict_avb.main(sys.argv[1:]))\n"
    )
    argv = [str(exported), str(tmp_path / "clip.wav"), "--output", str(tmp_path / "scores.csv")]
    done = warm.run([sys.executable, "-c", script, *argv])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith('is missing: pip install "avb[onnx]"'), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_command_in_a_process_on_real_clips(trained, tmp_path, emogator):
    import pyarrow.parquet as pq

    rows = pq.read_table(emogator / "validation-1.parquet", columns=["audio"]).slice(0, 10)["audio"].to_pylist()
    clips = tmp_path / "clips"
    clips.mkdir()
    for number, row in enumerate(rows):
        (clips / f"{number}.mp3").write_bytes(row["bytes"])
    argv = [str(trained), str(tmp_path / "out"), "--precision", "int8", "--tolerance", "0.05", "--clips", str(clips)]
    done = warm.run([sys.executable, "-m", "avb.export", *argv])
    assert done.returncode == 0 and not done.stderr, done.stderr
    table = io.StringIO(done.stdout).readlines()
    assert (
        sum(line.startswith(str(clips)) for line in table) == 10 and "largest difference of a score: 0.0" in done.stdout
    )
    (model, extractor), (exported, _) = load_model(trained), load_model(tmp_path / "out")
    bursts = list(export.read_clips(sorted(clips.iterdir()), extractor).values())
    expected, got = score_waveforms(model, extractor, bursts), score_waveforms(exported, extractor, bursts)
    assert 0 < np.abs(expected - got).max() <= 0.05
