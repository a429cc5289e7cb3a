"""The folder that goes to the Hub: exactly its files, none of them a pickle; and what is said of another folder."""

import json
import shutil

import pytest
from safetensors.torch import load_file
from tiny import tiny_model

import avb
import train_avb
from avb.baselines import BASELINES
from avb.cards.hub_folder import hub_files, save_hub_folder
from avb.errors import AvbError
from avb.inference.load import load_model
from avb.tasks import TASKS
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import Wav2Vec2ForVocalBurst

SETTINGS = ["config.json", "model.safetensors", "preprocessor_config.json"]
PARTS = (
    "audio",
    "calibration",
    "configuration",
    "containers",
    "decoders",
    "encoder",
    "feature_extraction",
    "front_end",
    "modeling",
    "pipeline",
    "pooling",
    "positions",
    "recording",
)
CODE = [f"{part}_avb.py" for part in PARTS]
MODEL_CODE = (
    "configuration_avb.py",
    "encoder_avb.py",
    "front_end_avb.py",
    "modeling_avb.py",
    "pooling_avb.py",
    "positions_avb.py",
)


@pytest.fixture
def folder(tmp_path):
    return save_hub_folder(tiny_model(TASKS["two"]), VocalBurstFeatureExtractor(trim_top_db=30.0), tmp_path / "m")


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_saved_folder_holds_exactly_the_files_of_the_hub(folder):
    assert hub_files(folder) == [*SETTINGS, *CODE]
    assert names(folder) == {*SETTINGS, *CODE}
    config = json.loads((folder / "config.json").read_text())
    model_class = "modeling_avb.Wav2Vec2ForVocalBurst"
    assert config["auto_map"] == {
        "AutoConfig": "configuration_avb.Wav2Vec2VocalBurstConfig",
        "AutoModel": model_class,
        "AutoModelForAudioClassification": model_class,
    }
    assert config["custom_pipelines"]["vocal-burst-recognition"]["impl"] == "pipeline_avb.VocalBurstPipeline"
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    assert preprocessor["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_avb.VocalBurstFeatureExtractor"}
    assert preprocessor["trim_top_db"] == 30 and preprocessor["peak_db"] is None


def test_the_baselines_take_their_code_along(tmp_path):
    folder = save_hub_folder(*BASELINES["emo18"](TASKS["two"]), tmp_path)
    assert names(folder) == set(hub_files(folder)) == {*SETTINGS, *CODE, "baseline.py", "emo18.py"}


def test_a_pipeline_saves_the_same_files(folder, tmp_path):
    """By the library's own way, which people use who fine-tune with a loop of their own."""
    avb.load(str(folder)).save_pretrained(tmp_path / "again")
    assert names(tmp_path / "again") == set(hub_files(tmp_path / "again")) == set(hub_files(folder))
    model = Wav2Vec2ForVocalBurst.from_pretrained(folder)
    model.config.auto_map = None
    model.save_pretrained(tmp_path / "model")
    assert names(tmp_path / "model") == {*SETTINGS[:2], *MODEL_CODE}
    auto_map = json.loads((tmp_path / "model" / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForAudioClassification"}


def test_what_else_a_run_leaves_stays_at_home(folder):
    (folder / "checkpoint-7").mkdir()
    at_home = ("training_args.bin", "recipe.yaml", "predictions_test.csv", "notes.py", "model.safetensors.tmp", ".env")
    for name in (*at_home, "checkpoint-7/optimizer.pt", "README.md", "metrics.json", "train_set.json"):
        (folder / name).write_text("{}")
    assert hub_files(folder) == ["README.md", "metrics.json", "train_set.json", *SETTINGS, *CODE]


def test_code_of_another_model_in_the_folder_stays_at_home(folder):
    shutil.copy(folder / "modeling_avb.py", folder / "emo18.py")
    assert "emo18.py" not in hub_files(folder)


def test_saving_again_replaces_the_files_and_only_these(folder):
    (folder / "README.md").write_text("a card")
    (folder / "modeling_avb.py").write_text("old code")
    model, feature_extractor = load_model(str(folder), "cpu")
    model.config.auto_map = {"AutoModel": "org/avb-two--modeling_avb.Wav2Vec2ForVocalBurst"}  # as loaded from the Hub
    model.head.bias.data.fill_(7.0)
    feature_extractor.trim_top_db = 20.0
    save_hub_folder(model, feature_extractor, folder)
    assert names(folder) == {"README.md", *hub_files(folder)}
    assert "old code" not in (folder / "modeling_avb.py").read_text()
    assert "--" not in json.loads((folder / "config.json").read_text())["auto_map"]["AutoModel"]
    reloaded, extractor = load_model(str(folder), "cpu")
    assert extractor.trim_top_db == 20 and (reloaded.head.bias == 7).all()
    assert (load_file(folder / "model.safetensors")["head.bias"] == 7).all()


def test_an_interrupted_save_leaves_the_old_model(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model, feature_extractor = load_model(str(folder), "cpu")
    model.head.bias.data.fill_(7.0)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_extractor, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_hub_folder(model, feature_extractor, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_is_no_model_is_refused(folder, tmp_path):
    with pytest.raises(AvbError, match=r"nowhere: no config.json, model.safetensors, preprocessor_config.json; give"):
        hub_files(tmp_path / "nowhere")
    (folder / "audio_avb.py").unlink()
    with pytest.raises(
        AvbError, match=r"audio_avb.py, the code that loads the model, is missing; save the model again"
    ):
        hub_files(folder)
    config = json.loads((folder / "config.json").read_text())
    plain = {key: value for key, value in config.items() if key not in ("auto_map", "custom_pipelines")}
    (folder / "config.json").write_text(json.dumps(plain))
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(AvbError, match="names no code that can load the model"):
        hub_files(folder)


@pytest.mark.slow
def test_training_writes_the_folder(sample, tmp_path):
    output = tmp_path / "run"
    argv = ["recipes/sample.yaml", "--data_dir", str(sample), "--output_dir", str(output), "--max_steps", "1"]
    argv += ["--cache_dir", str(tmp_path / "cache"), "--trim_top_db", "40", "--peak_db", "-6"]
    assert train_avb.main([str(train_avb.ROOT / argv[0]), *argv[1:]]) == 0
    assert set(hub_files(output)) >= {*SETTINGS, *CODE}
    assert not list(output.glob("*.bin")) and not list(output.glob("*.p[tk]*"))
    _, feature_extractor = load_model(str(output), "cpu")
    assert (feature_extractor.trim_top_db, feature_extractor.peak_db) == (40, -6)
    assert load_file(output / "model.safetensors")["head.weight"].isfinite().all()
