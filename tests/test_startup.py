"""What a command imports before it answers: seconds of torch and Transformers only where they are needed."""

import subprocess
import sys

import pytest
from conftest import ROOT

from avb.training import versions as run_versions

HEAVY = {"torch", "transformers", "datasets", "pandas", "librosa", "pyarrow", "huggingface_hub", "scipy", "sklearn"}


def run(script: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--help"], 0, "MODEL"),
        (["emogator-small", "--output", "x.csv"], 2, "give either PATHs or --corpus"),
        (["emogator_small", "x.wav", "--output", "x.csv"], 1, "no such model; did you mean 'emogator-small'?"),
        (["emogator-small", "clips.csv", "--output", "x.csv"], 1, "clips.csv is a table, not audio; give the clips"),
    ],
)
def test_predict_answers_before_it_imports_what_is_heavy(argv, code, message):
    done = run(
        "import sys, predict_avb\n"
        f"try: code = predict_avb.main({argv})\n"
        "except SystemExit as end: code = end.code\n"
        f"print('IMPORTED', sorted({HEAVY} & set(sys.modules)))\n"
        "sys.exit(code)"
    )
    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "IMPORTED []"


# Where peft is installed, Transformers imports it, and a number of models with it, for TrainingArguments.
WITHOUT_PEFT = (
    "import importlib.util as util\n"
    "find_spec = util.find_spec\n"
    "util.find_spec = lambda name, *more: None if name == 'peft' else find_spec(name, *more)\n"
)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train_avb", "pretrain_avb"])
def test_training_answers_before_it_imports_models_and_data_sets(command):
    heavy = {"transformers.modeling_utils", "transformers.trainer", "datasets", "librosa", "modeling_avb", "sklearn"}
    done = run(
        # With peft, an extra, transformers.trainer_utils imports it first of all, and it imports models.
        f"import sys; sys.modules['peft'] = None; import {command}\n"
        f"try: {command}.main(['--poolling', 'avg'])\n"
        f"except SystemExit as end: print('IMPORTED', sorted({heavy} & set(sys.modules)), end.code)"
    )
    assert "unknown argument '--poolling'" in done.stderr, done.stderr
    assert done.stdout == "IMPORTED [] 2\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import transformers.pipelines, avb",
        "import avb; from transformers import Trainer",  # it loads the Auto classes from the midst of its own import
        "import avb, modeling_avb",
        "import avb, pipeline_avb",
    ],
)
def test_classes_are_registered_in_whatever_order_modules_are_imported(imports):
    done = run(
        f"{imports}\n"
        "import transformers as t\n"
        "from transformers.pipelines import PIPELINE_REGISTRY\n"
        "config = t.AutoConfig.for_model('wav2vec2-vocal-burst')\n"
        "print(t.MODEL_MAPPING[type(config)].__name__, t.FEATURE_EXTRACTOR_MAPPING[type(config)].__name__)\n"
        "print(t.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING[type(config)]._auto_class, type(config)._auto_class)\n"
        "print(PIPELINE_REGISTRY.check_task('vocal-burst-recognition')[1]['impl'].__name__)\n"
    )
    assert done.stdout.splitlines() == [
        "Wav2Vec2ForVocalBurst VocalBurstFeatureExtractor",
        "AutoModelForAudioClassification AutoConfig",
        "VocalBurstPipeline",
    ], done.stderr
    assert "already registered" not in done.stderr


def test_a_commit_is_noted_of_its_own_repository_only(tmp_path, monkeypatch):
    """Installed, the command may lie in another project's repository; and git may not be there."""
    site_packages = tmp_path / ".venv"
    (site_packages / "avb" / "training").mkdir(parents=True)
    (site_packages / "avb" / "training" / "versions.py").touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another project"], check=True)
    monkeypatch.setattr(run_versions, "ROOT", site_packages)
    assert run_versions.versions()["commit"] is None
    subprocess.run([*git, "add", "-f", "."], check=True)
    assert len(run_versions.versions()["commit"]) == 40
    monkeypatch.setenv("PATH", "")
    assert run_versions.versions()["commit"] is None
