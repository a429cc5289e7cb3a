"""avb.train: a table, a DataFrame and datasets objects; errors are raised, and the process goes on."""

import pickle

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

import avb
from avb.errors import AvbError

FAST = {"encoder": "encoders/tiny.yaml", "freeze": "none", "encoder_layer": 1, "max_steps": 2, "use_cpu": True}
FAST |= {"per_device_train_batch_size": 8, "report_to": "none", "disable_tqdm": True}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(30):
        path = folder / f"{number}.wav"
        sf.write(path, 0.1 * rng.standard_normal(4_000), 16_000)
        rows.append({"file": str(path), "speaker": f"s{number % 6}", "kind": ("laugh", "cry")[number % 2]})
    return pd.DataFrame(rows)


def objects(table: pd.DataFrame) -> DatasetDict:
    """As the Hub's datasets are: audio decoded or as bytes, classes as numbers with names."""
    audio = [sf.read(file, dtype="float32")[0] for file in table["file"]]
    features = Features({
        "audio": {"array": [Value("float32")], "sampling_rate": Value("int64")}, "speaker": Value("string"),
        "kind": ClassLabel(names=["cry", "laugh"]),
    })  # fmt: skip
    rows = Dataset.from_dict(
        {
            "audio": [{"array": array, "sampling_rate": 16_000} for array in audio],
            "speaker": list(table["speaker"]),
            "kind": list(table["kind"]),
        },
        features=features,
    )
    return DatasetDict(train=rows.select(range(20)), validation=rows.select(range(20, 30)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table", "DataFrame", "datasets"])
def test_what_can_be_trained_on(kind, table, tmp_path):
    data = {"table": tmp_path / "clips.csv", "DataFrame": table, "datasets": objects(table)}[kind]
    extra = {"audio_root": "/"} if kind != "datasets" else {}
    table.to_csv(tmp_path / "clips.csv", index=False)
    run = avb.train(data, output_dir=tmp_path / "run", label_columns="kind", **FAST, **extra)
    assert run.metrics.labels == ["cry", "laugh"] and run.metrics.splits["validation"]["num_clips"] > 0
    assert run.output_dir == tmp_path / "run" and (run.output_dir / "README.md").is_file()
    shown = f"validation uar {run.metrics.splits['validation']['uar']:.3f}"
    assert shown in repr(run) and len(repr(run)) < 300  # in a notebook
    answer = run.score(table["file"][0])
    assert [part["label"] for part in answer] == ["cry", "laugh"] and not run.model.training
    again = avb.train(data, output_dir=tmp_path / "run", label_columns="kind", resume=True, **FAST, **extra)
    assert again.metrics.run_id == run.metrics.run_id  # finished: nothing to do


def test_errors_are_raised(table, tmp_path):
    for arguments, message in [
        ({"poolin": "avg"}, "unknown argument 'poolin'.*did you mean 'pooling'"),
        ({"learning_rate": "fast"}, "argument --learning_rate"),
        ({"help": True}, "unknown argument 'help'"),
        ({"list_recipes": True}, "unknown argument 'list_recipes'"),
        ({"encoder": "emogator_small"}, "did you mean 'emogator-small'"),
        ({"recipe": "paper/high-lv60"}, "no such recipe"),
        ({"label_range": (1, 9)}, "clips.csv: no such file or folder"),  # a tuple is a list too
        ({"push_to_hub": True}, "--push_to_hub true needs --hub_model_id"),
    ]:
        with pytest.raises(AvbError, match=message):
            avb.train(tmp_path / "clips.csv", **arguments)
    with pytest.raises(AvbError, match="got list"):
        avb.train([1, 2], output_dir=tmp_path / "run")
    with pytest.raises(AvbError, match="has no column 'audio'"):
        avb.train(Dataset.from_dict({"sound": ["x"]}), output_dir=tmp_path / "run")


@pytest.mark.parametrize("name", ["emogator-small", "emogator-cnn"])
def test_a_model_is_sent_to_another_process_as_it_is(name):
    """By pickle, as `multiprocessing` with spawn does; weights that were changed here are those that arrive."""
    pipe = avb.load(name, "cpu", views=2)
    with torch.no_grad():
        for parameter in pipe.model.parameters():
            parameter.mul_(1.1)
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    again = pickle.loads(pickle.dumps(pipe))  # noqa: S301
    asked = ({}, {"coverage": 0.9}, {"views": 1}, {"window_seconds": 0.5})
    assert [again((noise, 16_000), **one) for one in asked] == [pipe((noise, 16_000), **one) for one in asked]
    assert list(again.events((noise, 16_000))) == list(pipe.events((noise, 16_000)))
    assert again((noise, 16_000), views=1) != avb.load(name, "cpu")((noise, 16_000))
    assert not again.model.training and again.model.dtype == torch.float32
