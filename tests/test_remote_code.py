"""Saved folders read by a process that has never seen this project: the same numbers, by each folder's code alone."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
import warm
from conftest import ROOT, stir
from hub_stub import HubStub
from tiny import tiny_model
from tiny_kinds import STOCK

from audio_avb import AudioPreparation, load_audio
from avb.baselines import BASELINES
from avb.cards.hub_folder import hub_files, save_hub_folder
from avb.collator import BurstCollator
from avb.inference.load import load_model
from avb.tasks import TASKS, Task
from feature_extraction_avb import VocalBurstFeatureExtractor

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

# A user's own code, without `import avb`: plain checkpoints become models, which are pushed.
OWN_CODE = """
import sys
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import Wav2Vec2ForVocalBurst
from modeling_wavlm_avb import WavLMForVocalBurst

labels = {0: "Valence", 1: "Arousal"}
for model_class, checkpoint in zip((Wav2Vec2ForVocalBurst, WavLMForVocalBurst), sys.argv[1:], strict=True):
    model = model_class.from_pretrained(checkpoint, encoder_layer=2, rnn_hidden_size=16, id2label=labels)
    model.head.weight.data *= 100
    name = "org/own-" + model.config.model_type
    model.push_to_hub(name)
    VocalBurstFeatureExtractor(peak_db=-6.0, trim_top_db=25.0, do_normalize=False).push_to_hub(name)
"""


def built(kind: str, task: Task):
    """A model with weights that answer differently for different clips, and its feature extractor."""
    if kind in ("wav2vec2", SAVED_BY_HAND):
        model = tiny_model(task, pooling="avg")
        # Not normalised, so that a level which is not set shows in the scores.
        feature_extractor = VocalBurstFeatureExtractor(**AUDIO, do_normalize=False)
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
    done = warm.run([sys.executable, "-I", READER, json.dumps(names), *paths], cwd=elsewhere, env=clean)
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
def read_here_and_there(clips, checkpoints, tmp_path_factory) -> dict:
    """By kind and task, or a repository's name: a folder, its model's scores here, and what a process elsewhere read.

    One process reads all folders, and the repositories of a stub of the Hub.
    """
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
    with HubStub() as hub:
        pushed_by_own_code(hub, checkpoints["LARGE-LV60K"], root)
        for name, repo in hub.repos.items():
            folder = root / name
            folder.mkdir(parents=True)
            for path, content in repo.files.items():
                (folder / path).write_bytes(content)
            saved[name] = folder, scores_as_in_training(*load_model(str(folder), "cpu"), clips)
        folder, expected = saved["wav2vec2", "high"]
        hub.put("org/avb-high", folder)
        saved["org/avb-high"] = folder, expected
        names = {key: key if key in hub.repos else str(folder) for key, (folder, _) in saved.items()}
        environment = {**hub.environment(root / "home"), "PYTHONPATH": ""}
        answers = read_elsewhere(list(names.values()), clips, root, **environment)
    return {key: (*saved[key], answers[name]) for key, name in names.items()}


def pushed_by_own_code(hub: HubStub, checkpoint: Path, folder: Path):
    STOCK["wavlm"].build().save_pretrained(folder / "wavlm")
    environment = {**hub.environment(folder / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OWN_CODE, checkpoint, folder / "wavlm"]
    done = warm.run(command, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("kind", "task"), KINDS)
def test_a_folder_is_read_without_the_project(kind, task, read_here_and_there):
    if (kind, task) not in read_here_and_there:
        pytest.skip("the openSMILE baselines are an extra: avb[opensmile]")
    folder, expected, answers = read_here_and_there[kind, task]
    assert {path.name for path in folder.iterdir()} == set(hub_files(folder))
    ways = {"ways": frozenset(WAYS)} if kind == SAVED_BY_HAND else {}
    check(answers, expected, list(TASKS[task].labels), **ways)


@pytest.mark.parametrize("name", ["org/own-wav2vec2-vocal-burst", "org/own-wavlm-vocal-burst", "org/avb-high"])
def test_a_repository_is_read_from_a_stub_of_the_hub(name, read_here_and_there):
    """`org/own-*` were pushed by `push_to_hub` of model and feature extractor."""
    _, expected, answers = read_here_and_there[name]
    if name == "org/avb-high":
        check(answers, expected, list(TASKS["high"].labels))
    else:
        check(answers, expected, ["Valence", "Arousal"], frozenset(WAYS))
