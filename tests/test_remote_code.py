"""Saved folders read by a process that has never seen this project: the same numbers, by each folder's code alone."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from conftest import TINY, stir

from audio_avb import AudioPreparation, load_audio
from avb.baselines import BASELINES
from avb.cards.hub_folder import hub_files, save_hub_folder
from avb.collator import BurstCollator
from avb.tasks import TASKS, Task
from configuration_avb import Wav2Vec2VocalBurstConfig
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import Wav2Vec2ForVocalBurst

pytestmark = pytest.mark.slow

AUDIO = {"peak_db": -6.0, "trim_top_db": 25.0}
READER = Path(__file__).with_name("remote_code_reader.py")
SAVED_BY_HAND = "saved by hand"  # by save_pretrained of model and feature extractor, as in anyone's own code
WAYS = {"stock pipeline", "AutoModel", "AutoModelForAudioClassification"}
KINDS = [
    (SAVED_BY_HAND, "two"),
    ("wav2vec2", "two"),
    ("wav2vec2", "type"),
    ("wav2vec2", "high"),
    ("emo18", "two"),
    ("log_mel_cnn", "type"),
    ("se_resnet", "type"),
    ("egemaps_mlp", "type"),
]


def tiny_model(task: Task):
    torch.manual_seed(0)
    loss = "ce" if task.kind == "classification" else "ccc"
    config = Wav2Vec2VocalBurstConfig(
        **TINY, num_hidden_layers=1, encoder_layer=1, rnn_hidden_size=16, pooling="avg",
        loss=loss, id2label=task.id2label, label2id=task.label2id,
    )  # fmt: skip
    model = stir(Wav2Vec2ForVocalBurst(config))
    # Not normalised, so that a level which is not set shows in the scores.
    return model, VocalBurstFeatureExtractor(**AUDIO, do_normalize=False)


def built(kind: str, task: Task):
    """A model with weights that answer differently for different clips, and its feature extractor."""
    if kind in ("wav2vec2", SAVED_BY_HAND):
        model, feature_extractor = tiny_model(task)
    else:
        model, feature_extractor = BASELINES[kind](task, preparation=AudioPreparation(**AUDIO))
        stir(model)
        if kind == "se_resnet":
            model.head.weight.data *= 1e-4  # logits of thousands, whose softmax is 0 or 1, would compare nothing
    return model.eval(), feature_extractor


@pytest.fixture(scope="module")
def clips(tone, tmp_path_factory) -> list[Path]:
    """A tone between quiet ends, and a real burst where there are any."""
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / "tone.wav"]
    quiet = 1e-4 * np.random.default_rng(0).standard_normal(8000)
    sf.write(paths[0], np.concatenate([quiet, tone, quiet]), 16_000, subtype="FLOAT")
    if os.environ.get("AVB_EMOGATOR"):
        shard = pq.ParquetFile(Path(os.environ["AVB_EMOGATOR"]) / "validation-1.parquet")
        row = next(shard.iter_batches(batch_size=1, columns=["audio"])).to_pylist()[0]
        paths.append(folder / "burst.mp3")
        paths[1].write_bytes(row["audio"]["bytes"])
    return paths


def scores_as_in_training(model, feature_extractor, paths: list[Path]) -> np.ndarray:
    """(clips, labels): decoded, collated and scored by the parts that training uses, no pipeline among them."""
    waveforms = [load_audio(path, **AUDIO) for path in paths]
    batch = BurstCollator(feature_extractor)([{"input_values": waveform} for waveform in waveforms])
    with torch.inference_mode():
        logits = model(**batch).logits
    return (logits.softmax(-1) if model.config.loss == "ce" else logits).numpy()


def read_elsewhere(names: list[str], paths: list[Path], folder: Path, **environment: str) -> dict[str, dict]:
    """By name, what `remote_code_reader.py` prints, run where nothing but the installed libraries can be imported."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    clean = {"HOME": str(elsewhere), "HF_HOME": str(elsewhere / "hf"), "PATH": os.environ["PATH"]}
    clean |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-I", str(READER), json.dumps(names), *map(str, paths)],
        cwd=elsewhere, env=clean, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(answers: dict, expected: np.ndarray, labels: list[str], ways: frozenset = frozenset({*WAYS, "own pipeline"})):
    modules = answers.pop("modules")
    assert modules and all(module.startswith("transformers_modules.") for module in modules), modules
    assert answers.keys() == ways
    for way, scores in answers.items():
        assert [list(clip) for clip in scores] == [labels] * len(expected) or way == "stock pipeline"
        found = [[clip[label] for label in labels] for clip in scores]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=way)
    assert np.ptp(expected) > 1e-3  # numbers that could differ


@pytest.fixture(scope="module")
def read_folders(clips, tmp_path_factory) -> dict[tuple[str, str], tuple[Path, np.ndarray, dict]]:
    """By kind and task: the folder, its model's scores here, and what one process elsewhere read from all of them."""
    root, saved = tmp_path_factory.mktemp("models"), {}
    for kind, task in KINDS:
        if kind == "egemaps_mlp" and not find_spec("opensmile"):
            continue
        model, feature_extractor = built(kind, TASKS[task])
        folder = root / f"{kind}-{task}"
        if kind == SAVED_BY_HAND:
            model.save_pretrained(folder)
            feature_extractor.save_pretrained(folder)
        else:
            save_hub_folder(model, feature_extractor, folder)
        saved[kind, task] = folder, scores_as_in_training(model, feature_extractor, clips)
    answers = read_elsewhere([str(folder) for folder, _ in saved.values()], clips, root)
    return {key: (folder, expected, answers[str(folder)]) for key, (folder, expected) in saved.items()}


@pytest.mark.parametrize(("kind", "task"), KINDS)
def test_a_folder_is_read_without_the_project(kind, task, read_folders):
    if (kind, task) not in read_folders:
        pytest.skip("the openSMILE baselines are an extra: avb[opensmile]")
    folder, expected, answers = read_folders[kind, task]
    assert {path.name for path in folder.iterdir()} == set(hub_files(folder))
    ways = {"ways": frozenset(WAYS)} if kind == SAVED_BY_HAND else {}
    check(answers, expected, list(TASKS[task].labels), **ways)


def test_a_repository_is_read_from_a_stub_of_the_hub(clips, tmp_path):
    from hub_stub import HubStub

    model, feature_extractor = built("wav2vec2", TASKS["high"])
    folder = save_hub_folder(model, feature_extractor, tmp_path / "model")
    with HubStub() as hub:
        hub.put("org/avb-high", folder)
        environment = {**hub.environment(tmp_path / "home"), "PYTHONPATH": ""}
        answers = read_elsewhere(["org/avb-high"], clips, tmp_path, **environment)["org/avb-high"]
    check(answers, scores_as_in_training(model, feature_extractor, clips), list(TASKS["high"].labels))
