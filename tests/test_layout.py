"""Imports go one way: corpus → task → model → metrics → reports. And what the Hub serves stands on its own."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# What each module may import of the project. A folder stands for all that is in it.
LAYERS = {
    "configuration_avb": set(),
    "modeling_avb": {"configuration_avb"},
    "avb/errors": set(),
    "avb/tasks": set(),
    "avb/audio": {"avb/errors"},
    "avb/output": {"avb/errors"},
    "avb/recipes": {"avb/errors"},
    "avb/arguments": {"avb/errors", "avb/recipes"},
    "avb/bootstrap": set(),
    "avb/metrics": {"avb/bootstrap", "avb/tasks"},
    "avb/extractors": {"avb/errors"},
    "avb/corpora": {"avb/tasks", "avb/audio", "avb/errors", "avb/output"},
    "avb/collator": set(),
    "avb/baselines": {
        "avb/audio", "avb/collator", "avb/errors", "avb/output", "avb/tasks", "configuration_avb", "modeling_avb",
    },
    "avb/training": {
        "avb/arguments", "avb/audio", "avb/baselines", "avb/collator", "avb/errors", "avb/extractors", "avb/metrics",
        "avb/recipes", "avb/tasks", "configuration_avb", "modeling_avb",
    },
    "avb/prediction": {
        "avb/audio", "avb/baselines", "avb/collator", "avb/errors", "configuration_avb", "modeling_avb",
    },
    "avb/scoring": {"avb/metrics", "avb/output", "avb/prediction", "avb/tasks", "avb/training"},
    "avb/submission": {"avb/errors", "avb/output", "avb/tasks", "avb/corpora"},
    "avb/results": {"avb/errors", "avb/output"},
    "avb/reports": {"avb/errors", "avb/output", "avb/results", "avb/tasks"},
    "avb/__init__": {"configuration_avb", "modeling_avb"},
}  # fmt: skip
MODULES = sorted(
    [path for path in (ROOT / "avb").rglob("*.py")] + [ROOT / "configuration_avb.py", ROOT / "modeling_avb.py"]
)


def room(module: str) -> str:
    """The layer of a dotted module name: avb.corpora.decode → avb/corpora."""
    parts = module.split(".")
    return "/".join(parts[:2])


def project_imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module == "avb":
                names |= {f"avb.{alias.name}" for alias in node.names}
            else:
                names.add(module)
    return {room(name) for name in names if re.match(r"(avb\.|configuration_avb|modeling_avb)", name)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert own in LAYERS, f"{own} is new: say in LAYERS what it may know"
    unexpected = project_imports(path) - LAYERS[own] - {own}
    assert not unexpected, f"{own} must not import {unexpected}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_fit_in_the_head(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def test_nothing_binary_and_no_recording_is_tracked():
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    assert not [
        name for name in tracked.stdout.splitlines() if re.search(r"\.(wav|mp3|flac|ogg|m4a|bin|pt|pkl)$", name)
    ]


@pytest.mark.slow
def test_model_is_found_by_the_auto_classes_once_avb_is_imported(tmp_path):
    """In a process of its own: registration there is what a user's script does."""
    script = (
        "import avb\n"
        "from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification\n"
        "config = AutoConfig.for_model('wav2vec2-vocal-burst', num_hidden_layers=1, encoder_layer=1, hidden_size=16,\n"
        "    num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7, num_conv_pos_embeddings=8,\n"
        "    num_conv_pos_embedding_groups=2, rnn_hidden_size=8)\n"
        "AutoModel.from_config(config).save_pretrained('model')\n"
        "for auto in (AutoModel, AutoModelForAudioClassification):\n"
        "    print(type(auto.from_pretrained('model')).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["Wav2Vec2ForVocalBurst"] * 2, done.stderr
