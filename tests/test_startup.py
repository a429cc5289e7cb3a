"""What a command imports before it answers: seconds of torch and Transformers only where they are needed."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import warm
from conftest import ROOT

import avb
from avb.encoders.late_peft import import_before_peft
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


def test_the_help_of_the_other_commands_needs_nothing_heavy():
    names = ["reports", "cards", "export", "export.page", "calibration", "events", "serving.listen", "training.queue"]
    names += ["corpora.prepare", "corpora.submission"]
    done = run(
        "import runpy, sys\n"
        f"for name in {names}:\n"
        "    sys.argv = [name, '--help']\n"
        "    try: runpy.run_module(f'avb.{name}', run_name='__main__')\n"
        "    except SystemExit as end: assert not end.code, name\n"
        f"print('IMPORTED', sorted({HEAVY} & set(sys.modules)))\n"
    )
    assert done.stdout.count("usage: ") == len(names), done.stderr
    assert done.stdout.splitlines()[-1] == "IMPORTED []"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train_avb", "pretrain_avb"])
def test_training_answers_before_it_imports_models_and_data_sets(command):
    heavy = {
        "transformers.modeling_utils", "transformers.trainer", "peft", "datasets", "librosa", "modeling_avb", "sklearn"
    }  # fmt: skip
    done = run(
        f"import sys, {command}\n"
        f"try: {command}.main(['--poolling', 'avg'])\n"
        f"except SystemExit as end: print('IMPORTED', sorted({heavy} & set(sys.modules)), end.code)"
    )
    assert "unknown argument '--poolling'" in done.stderr, done.stderr
    assert done.stdout == "IMPORTED [] 2\n"


@pytest.fixture
def without_peft(tmp_path, monkeypatch):
    """No module of peft is loaded, and a folder is on the path for modules that import it."""
    if find_spec("peft") is None:
        pytest.skip("peft is an extra")
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("peft", "asks", "asks_more")]:
        del sys.modules[name]


def test_a_stand_in_of_a_class_of_peft_answers_as_the_class(without_peft):
    (without_peft / "asks.py").write_text("from peft import PeftMixedModel, PeftModel\n")
    asks = import_before_peft("asks")
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert "peft" not in sys.modules
    assert not isinstance(model, (asks.PeftModel, asks.PeftMixedModel)) and not issubclass(type(model), asks.PeftModel)
    assert "peft" not in sys.modules

    import peft

    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["0"]))
    assert isinstance(adapted, asks.PeftModel) and issubclass(type(adapted), asks.PeftModel)
    assert not isinstance(adapted, asks.PeftMixedModel) and not isinstance(model, asks.PeftModel)
    assert asks.PeftModel.from_pretrained == peft.PeftModel.from_pretrained
    assert import_before_peft("json").dumps  # with peft loaded, as any other


@pytest.mark.parametrize("asked", ["from peft import LoraConfig", "import peft.tuners"])
def test_what_takes_more_of_peft_gets_peft(asked, without_peft):
    """So that another version of Transformers, which does, costs seconds and no more."""
    (without_peft / "asks_more.py").write_text(f"from peft import PeftModel\n{asked}\nimport peft as whole\n")
    asks = import_before_peft("asks_more")
    assert asks.whole is sys.modules["peft"] and asks.whole.LoraConfig(r=3).r == 3


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
    script = (
        f"{imports}\n"
        "import transformers as t\n"
        "from transformers.pipelines import PIPELINE_REGISTRY\n"
        "config = t.AutoConfig.for_model('wav2vec2-vocal-burst')\n"
        "print(t.MODEL_MAPPING[type(config)].__name__, t.FEATURE_EXTRACTOR_MAPPING[type(config)].__name__)\n"
        "print(t.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING[type(config)]._auto_class, type(config)._auto_class)\n"
        "print(PIPELINE_REGISTRY.check_task('vocal-burst-recognition')[1]['impl'].__name__)\n"
    )
    done = warm.run([sys.executable, "-c", script])
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


def test_errors_are_caught_by_their_name_in_the_package():
    with pytest.raises(avb.AvbError, match="no such model"):
        avb.load("emogator-smal", device="cpu")
    assert issubclass(avb.AudioError, avb.AvbError)
