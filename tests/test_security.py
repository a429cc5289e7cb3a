"""What a file from somebody else can do here: nothing but be read, or refused. Each promise on the real thing.

What is promised: weights are safetensors, and no pickle is loaded; YAML is read by the safe loader; no path is followed
out of its folder because a file says so; code of a model's folder runs by explicit choice only; the demo bounds size,
duration and concurrency. docs/bad_input.md has the inputs that try otherwise, one a row.
"""

import ast
import json
import os
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import soundfile as sf
import warm
from bad_input import audio, checkpoints, tables
from conftest import ROOT
from tiny import save_encoder
from transformers import AutoModelForAudioClassification, Wav2Vec2FeatureExtractor

import avb
from avb.corpora import load_bursts
from avb.errors import AvbError, CorpusError
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import Wav2Vec2ForVocalBurst

SOURCES = sorted(
    [
        *ROOT.glob("*.py"),
        *(p for d in ("avb", "demo", "metrics", "benchmarks", "data") for p in (ROOT / d).rglob("*.py")),
    ]
)
# A call by its last names, and why it has no place here. What ruff's rules S301 to S605 in pyproject.toml know is left
# to them: pickle, marshal, shelve, eval, yaml.load, os.system, shell=True.
FORBIDDEN = {
    "torch.load": "unpickles",
    "joblib.load": "unpickles",
    "numpy.load": "may unpickle",
    "np.load": "may unpickle",
    "yaml.unsafe_load": "runs code",
    "yaml.full_load": "is not the safe loader",
    "exec": "runs code",
}
UNPICKLING = ("pickle", "dill", "marshal", "shelve", "joblib")

# Ray's workers get from the process that started them what that has pickled a moment before: no file is involved.
# The reader of encoders catches what torch raises of a foreign pickle, by the name of the exception.
ALLOWED = {"avb/inference/cluster.py": {"import pickle"}, "avb/encoders/checkpoints.py": {"import pickle"}}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def offences(source: str) -> list[str]:
    """The calls of FORBIDDEN in Python source; `shell` and `trust_remote_code` that are not plainly False."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None)
            if module == "joblib" and set(names) <= {"Parallel", "delayed"}:
                continue  # they start processes; `joblib.load` unpickles
            found += [f"import {name}" for name in [*names, module] if name in UNPICKLING]
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            found += [name] if name in FORBIDDEN else []
            for keyword in node.keywords:
                is_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and not is_false:
                    found.append(f"{name}({keyword.arg}=...)")
                if keyword.arg in ("weights_only", "use_safetensors") and is_false:
                    found.append(f"{name}({keyword.arg}=False)")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_unpickles_evaluates_or_starts_a_shell(path):
    assert set(offences(path.read_text(encoding="utf-8"))) <= ALLOWED.get(str(path.relative_to(ROOT)), set())


def test_the_search_finds_what_it_looks_for():
    for call in FORBIDDEN:
        assert offences(f"x = {call}(y)") == [call]
    calls = "f(shell=True)\nM.from_pretrained(n, trust_remote_code=ask)\nf(use_safetensors=False)"
    assert offences(f"import pickle\n{calls}") == [
        "import pickle", "f(shell=...)", "M.from_pretrained(trust_remote_code=...)", "f(use_safetensors=False)",
    ]  # fmt: skip
    assert offences("import joblib") == offences("from joblib import Parallel, load") == ["import joblib"]
    assert not offences("from joblib import Parallel, delayed")
    assert not offences("yaml.safe_load(x)\nsubprocess.run(['git'])\nmodel.eval()\nf(trust_remote_code=False)")


# ---------------------------------------------------------------------------------------------------- models


@pytest.mark.slow
def test_code_of_a_models_folder_runs_by_explicit_choice_only(tmp_path):
    """The project's own ways never run it; Transformers does when it is told to, and only then."""
    folder = checkpoints.save_model(tmp_path / "model")
    checkpoints.evil_code(folder)
    mark = tmp_path / "ran"
    clip = audio.wav("clip.wav")(tmp_path)
    assert avb.load(str(folder), device="cpu")(clip)
    assert not mark.exists()
    config = json.loads((folder / "config.json").read_text())
    for change in ({"model_type": "evil"}, {"model_type": "wav2vec2"}):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(AvbError, match="not a trained vocal-burst model"):
            avb.load(str(folder))
        assert not mark.exists()

    stock = (
        "import sys; from transformers import AutoModelForAudioClassification as Model; "
        "Model.from_pretrained(*sys.argv[1:], {})"
    )
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil"}))
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    for choice, runs in (("trust_remote_code=False", False), ("trust_remote_code=True", True)):
        command = [sys.executable, "-c", stock.format(choice), str(folder)]
        warm.run(command, cwd=tmp_path, env=environment)
        assert mark.exists() == runs, choice


@pytest.mark.slow
def test_a_pickle_is_not_loaded_by_any_of_the_ways_in(tmp_path):
    folder = checkpoints.save_model(tmp_path / "model")
    checkpoints.evil_pickle(folder)
    with pytest.raises(AvbError, match="a pickle, pytorch_model.bin, which is not loaded"):
        avb.load(str(folder))
    done = warm.run([sys.executable, "-m", "avb.export", folder, tmp_path / "out"])
    assert done.returncode == 1 and "a pickle" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(Exception):  # noqa: B017  Transformers' own way: it refuses the code, in its words
        AutoModelForAudioClassification.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_an_encoder_that_is_a_pickle_runs_no_code(tmp_path):
    """Published encoders are pickles still; Transformers reads tensors from them, and nothing else."""
    from avb.encoders.checkpoints import load_encoder

    save_encoder(tmp_path / "encoder")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "encoder")
    checkpoints.evil_pickle(tmp_path / "encoder")
    fields = {"encoder_layer": 1, "id2label": {0: "a", 1: "b"}}
    with pytest.raises(AvbError, match="damaged, or are not what they are called"):
        find = lambda kind: Wav2Vec2ForVocalBurst  # noqa: E731
        load_encoder(find, VocalBurstFeatureExtractor, str(tmp_path / "encoder"), **fields)
    assert not (tmp_path / "ran").exists()


def test_weights_are_not_read_outside_the_folder(tmp_path):
    folder = checkpoints.save_model(tmp_path / "model")
    checkpoints.outside_shards(folder)
    with pytest.raises(AvbError, match=r"names '\.\./secret.safetensors', which is not a safetensors file next to it"):
        avb.load(str(folder))
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("../secret", "inside"))
    (tmp_path / "secret.safetensors").rename(folder / "inside.safetensors")
    assert avb.load(str(folder)).model.num_parameters() > 0  # the same index, of a file that lies inside


def test_an_export_reads_no_weights_outside_its_folder(tmp_path):
    """ONNX can keep tensors in other files, named in model.onnx."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from avb.inference.engines import open_engine

    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))
    (tmp_path / "model").mkdir()
    tensor = onnx.TensorProto(
        name="w", data_type=onnx.TensorProto.FLOAT, dims=[4], data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in {"location": "../secret", "offset": "0", "length": "16"}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    output = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4])
    graph = onnx.helper.make_graph([], "g", [], [output], [tensor])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    (tmp_path / "model" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(AvbError, match="cannot be read"):
        open_engine(tmp_path / "model" / "model.onnx", "onnx", "fp32")


# ---------------------------------------------------------------------------------------------------- corpora


def test_what_a_table_may_name(tmp_path):
    """Its own folder, or the one its user gives; a File_ID never names a path. Written down in docs/bad_input.md."""
    (_, path, _), _ = tables.outside(tmp_path)
    with pytest.raises(CorpusError, match="is outside"):
        load_bursts("folder", path)
    text = path.read_text().replace("../outside.wav", "outside.wav")
    path.write_text(text.replace("c0.wav", str(tmp_path / "inner" / "c0.wav")))
    with pytest.raises(CorpusError, match="are not in"):
        load_bursts("folder", path)
    (tmp_path / "outside.wav").rename(tmp_path / "inner" / "outside.wav")
    assert sum(load_bursts("folder", path).splits.num_rows.values()) == 10


def test_a_prepared_corpus_names_its_shards_itself(tmp_path):
    """Ids and paths of a table become rows of Parquet, never names of files: nothing is written outside `out`."""
    from avb.corpora.conversion import prepare

    (tmp_path / "in").mkdir()
    path = tables.clips(tmp_path / "in") / "clips.csv"
    rows = [(name, f"../../escape-{number}", joy) for number, (name, joy, _) in enumerate(tables.ROWS)]
    path.write_text(tables.text(rows, ("file", "id", "joy")))
    before = {*tmp_path.rglob("*")}
    prepare("folder", path, tmp_path / "out")
    written = {*tmp_path.rglob("*")} - before
    assert written and all(new.is_relative_to(tmp_path / "out") for new in written)
    assert not any("escape" in new.name for new in written)


# ---------------------------------------------------------------------------------------------------- the demo


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    from demo_server import serving

    folder = tmp_path_factory.mktemp("demo")
    with serving(checkpoints.save_model(folder / "model"), folder) as (address, _):
        yield address


@pytest.fixture(scope="module")
def client(server):
    from gradio_client import Client

    client = Client(server, verbose=False)
    yield client
    client.close()


@pytest.mark.slow
def test_the_demo_scores_what_is_uploaded(client, tmp_path):
    from gradio_client import handle_file

    answer = client.predict(handle_file(audio.wav("clip.wav")(tmp_path)), ["model"], 5, api_name="/score")
    assert "Valence" in answer[0]


@pytest.mark.slow
def test_the_demo_bounds_duration_and_size(client, tmp_path):
    import app
    from gradio_client import handle_file

    long = audio.zeros(app.MAX_SECONDS + 1, 8_000, "long.flac")(tmp_path)
    assert (
        f"longer than {app.MAX_SECONDS:g} seconds"
        in client.predict(handle_file(long), ["model"], 5, api_name="/score")[0]
    )
    large = tmp_path / "large.wav"
    sf.write(large, audio.noise(60), 192_000)  # 960,000 samples ...
    large.write_bytes(large.read_bytes() + bytes(21 * 2**20))  # ... and more bytes than are taken
    with pytest.raises(Exception, match=r"(?i)size|413|large"):
        client.predict(handle_file(large), ["model"], 5, api_name="/score")
    many = [handle_file(audio.wav(f"{n}.wav", audio.tone(0.05))(tmp_path)) for n in range(app.MAX_FILES + 1)]
    assert "are too many" in client.predict(many, "model", 5, api_name="/score_files")[0]


@pytest.mark.slow
@pytest.mark.parametrize("window", [0.0001, -1, 1e9, "x"])
def test_a_window_outside_the_slider_is_refused(client, tmp_path, window):
    """By the address of the API, too: a window of 0.1 ms would make a million of them."""
    from gradio_client import handle_file

    with pytest.raises(Exception):  # noqa: B017  the client's error, whichever it is
        client.predict(handle_file(audio.wav("clip.wav")(tmp_path)), ["model"], window, api_name="/score")


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "README.md"), "../../etc/passwd"])
def test_the_demo_reads_only_what_was_uploaded(server, path):
    """Asked by hand: the client would upload the file."""
    call = f"{server}/gradio_api/call/score"
    data = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, ["model"], 5]}).encode()
    with urlopen(Request(call, data, {"Content-Type": "application/json"}), timeout=200) as response:
        event = json.load(response)["event_id"]
    with urlopen(f"{call}/{event}", timeout=200) as response:
        answer = response.read().decode()
    assert answer.startswith("event: error") and "no audio" not in answer and "root" not in answer


@pytest.mark.slow
def test_the_demo_serves_none_of_the_machines_files(server):
    for path in ("/etc/passwd", str(ROOT / "pyproject.toml")):
        for route in ("gradio_api/file=", "file="):
            with pytest.raises(HTTPError) as refused:
                urlopen(f"{server}/{route}{path}", timeout=200)
            assert refused.value.code in (403, 404)


@pytest.mark.slow
def test_the_demo_bounds_concurrency_and_waiting(tmp_path):
    """Read from the app that is built, not from its constants."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    import app

    blocks = app.build({"model": None}, tmp_path)
    scoring = [function for function in blocks.fns.values() if function.api_name in ("score", "score_files")]
    assert len(scoring) == 2 and {function.concurrency_id for function in scoring} == {"models"}
    assert blocks._queue.default_concurrency_limit == app.CONCURRENCY == 1
    assert blocks._queue.max_size == app.QUEUE <= 100
