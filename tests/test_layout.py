"""Imports go one way: corpus → task → model → metrics → reports. And what the Hub serves stands on its own."""

import ast
import doctest
import importlib
import json
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import warm
from conftest import ROOT

from avb.encoders.kinds import MODELS

# What each module may import of the project. A folder stands for all that is in it.
LAYERS = {
    "pooling_avb": set(),
    "configuration_avb": {"pooling_avb"},
    "front_end_avb": set(),
    "configuration_events_avb": set(),
    "modeling_events_avb": {"configuration_events_avb"},
    "encoder_avb": {"front_end_avb", "positions_avb"},
    "modeling_avb": {"configuration_avb", "encoder_avb", "pooling_avb"},
    "positions_avb": set(),
    "spectrum_avb": set(),
    "modeling_conformer_avb": {"configuration_avb", "encoder_avb", "modeling_avb"},
    "modeling_data2vec_avb": {"configuration_avb", "encoder_avb", "modeling_avb", "positions_avb"},
    "modeling_sew_avb": {"configuration_avb", "encoder_avb", "front_end_avb", "modeling_avb"},
    "modeling_unispeech_sat_avb": {"configuration_avb", "encoder_avb", "modeling_avb"},
    "modeling_w2v_bert_avb": {"configuration_avb", "encoder_avb", "front_end_avb", "modeling_avb", "spectrum_avb"},
    "modeling_wavlm_avb": {"configuration_avb", "encoder_avb", "modeling_avb"},
    "modeling_whisper_avb": {"configuration_avb", "encoder_avb", "front_end_avb", "modeling_avb", "spectrum_avb"},
    "containers_avb": set(),
    "decoders_avb": set(),
    "recording_avb": {"containers_avb", "decoders_avb"},
    "audio_avb": {"decoders_avb", "recording_avb"},
    "feature_extraction_avb": {"audio_avb"},
    "calibration_avb": set(),
    "pipeline_avb": {"audio_avb", "calibration_avb"},
    "avb/errors": {"audio_avb"},
    "avb/commands": {"avb/errors"},
    "avb/tasks": {"avb/errors"},
    "avb/files": {"avb/errors"},
    "avb/cache": {"avb/errors"},
    "avb/run_files": {"avb/errors", "avb/files", "avb/tasks"},
    "avb/recipes": {"avb/errors"},
    "avb/corpus_arguments": {"avb/recipes"},
    "avb/arguments": {
        "audio_avb", "avb/corpus_arguments", "avb/encoders", "avb/errors", "avb/recipes", "avb/registration",
        "configuration_avb",
    },
    "avb/command_line": {
        "avb/arguments", "avb/corpus_arguments", "avb/encoders", "avb/errors", "avb/recipes", "avb/registration",
    },
    "avb/models": {"avb/errors"},
    "avb/metrics": {"avb/tasks"},
    "avb/encoders": {
        "audio_avb", "avb/errors", "avb/files", "avb/models", "avb/recipes", "configuration_avb", "modeling_avb",
    },
    "avb/corpora": {
        "audio_avb", "avb/cache", "avb/commands", "avb/corpus_arguments", "avb/errors", "avb/files", "avb/tasks",
    },
    "avb/collator": {"feature_extraction_avb"},
    "avb/baselines": {
        "audio_avb", "avb/cache", "avb/collator", "avb/commands", "avb/errors", "avb/files", "avb/tasks",
        "configuration_avb", "feature_extraction_avb", "modeling_avb",
    },
    "avb/inference": {
        "audio_avb", "avb/baselines", "avb/collator", "avb/corpora", "avb/corpus_arguments", "avb/encoders",
        "avb/errors", "calibration_avb", "avb/files", "avb/models", "avb/recipes", "avb/run_files", "configuration_avb",
        "feature_extraction_avb", "modeling_avb", "pipeline_avb",
    },
    "avb/events": {
        "audio_avb", "avb/commands", "avb/corpora", "avb/encoders", "avb/errors", "avb/files", "avb/inference",
        "avb/metrics", "avb/models", "avb/recipes", "calibration_avb", "configuration_events_avb", "containers_avb",
        "decoders_avb", "modeling_events_avb", "pipeline_avb", "recording_avb",
    },
    "avb/serving": {"audio_avb", "avb/commands", "avb/errors", "avb/events", "avb/models", "decoders_avb"},
    "avb/reports": {
        "audio_avb", "avb/baselines", "avb/command_line", "avb/commands", "avb/corpora", "avb/corpus_arguments",
        "avb/errors", "avb/events", "avb/files", "avb/inference", "avb/metrics", "avb/recipes", "avb/run_files",
        "avb/tasks", "pooling_avb",
    },
    "avb/calibration": {
        "audio_avb", "avb/commands", "avb/corpora", "avb/corpus_arguments", "avb/errors", "avb/files", "avb/inference",
        "avb/metrics", "avb/models", "avb/tasks", "calibration_avb", "pipeline_avb",
    },
    "avb/training": {
        "audio_avb", "avb/arguments", "avb/baselines", "avb/cache", "avb/collator", "avb/commands", "avb/corpora",
        "avb/corpus_arguments", "avb/encoders", "avb/errors", "avb/files", "avb/inference", "avb/metrics", "avb/models",
        "avb/recipes", "avb/run_files", "avb/tasks", "calibration_avb", "configuration_avb",
        "feature_extraction_avb", "front_end_avb", "modeling_avb", "pipeline_avb",
    },
    "avb/pretraining": {
        "audio_avb", "avb/arguments", "avb/collator", "avb/encoders", "avb/errors", "avb/recipes", "avb/training",
        "configuration_avb", "encoder_avb", "front_end_avb", "modeling_avb",
    },
    "avb/export": {
        "audio_avb", "avb/baselines", "avb/collator", "avb/commands", "avb/errors", "avb/events", "avb/files",
        "avb/inference", "avb/models", "calibration_avb", "encoder_avb", "front_end_avb", "modeling_avb",
        "pipeline_avb",
    },
    "avb/cards": {
        "avb/arguments", "avb/commands", "avb/corpora", "avb/corpus_arguments", "avb/encoders", "avb/errors",
        "avb/export", "avb/files", "avb/inference", "avb/metrics", "avb/models", "avb/recipes", "avb/reports",
        "avb/run_files", "calibration_avb", "configuration_avb", "pipeline_avb",
    },
    "avb/cross_validation": {
        "avb/arguments", "avb/corpora", "avb/errors", "avb/files", "avb/metrics", "avb/run_files", "avb/tasks",
        "avb/training",
    },
    "avb/run": {
        "avb/arguments", "avb/cards", "avb/command_line", "avb/corpora", "avb/cross_validation", "avb/encoders",
        "avb/errors", "avb/files", "avb/recipes", "avb/reports", "avb/run_files", "avb/tasks", "avb/training",
    },
    "avb/api": {
        "avb/command_line", "avb/errors", "avb/files", "avb/inference", "avb/recipes", "avb/run", "avb/run_files",
        "pipeline_avb",
    },
    "avb/registration": {
        "avb/encoders", "configuration_avb", "configuration_events_avb", "feature_extraction_avb",
        "modeling_avb", "modeling_events_avb", "pipeline_avb",
    },
    "avb/__init__": {
        "avb/api", "avb/arguments", "avb/errors", "avb/events", "avb/inference", "avb/registration", "avb/reports",
        "avb/training", "pipeline_avb",
    },
}  # fmt: skip
SERVED = [ROOT / f"{name}.py" for name in LAYERS if name.endswith("_avb")]
MODULES = sorted([*(ROOT / "avb").rglob("*.py"), *SERVED])


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
    return {room(name) for name in names if name.startswith("avb.") or ROOT / f"{name}.py" in SERVED}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert own in LAYERS, f"{own} is new: say in LAYERS what it may know"
    unexpected = project_imports(path) - LAYERS[own] - {own}
    assert not unexpected, f"{own} must not import {unexpected}"


def test_no_module_imports_itself_by_way_of_others():
    """Imports at the top of a module, module by module: a circle within a package would pass the test above."""
    imports = {module_name(path): top_imports(path) for path in MODULES}
    graph = {name: {imported for imported in found if imported in imports} for name, found in imports.items()}
    assert graph["avb.reports.paper"] >= {"avb.reports.results", "avb.corpora.release"}  # it does find them
    tuple(TopologicalSorter(graph).static_order())  # raises a CycleError, which names the circle


def test_the_top_of_the_package_fits_in_the_head():
    assert len(list((ROOT / "avb").glob("*.py"))) <= 16


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top_imports(path: Path) -> set[str]:
    """What is imported when the module is; names of modules, and of what is taken from one."""
    names: set[str] = set()
    statements = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while statements:
        node = statements.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            taken = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if is_module(name) else node.module for name in taken} - {None}
        elif isinstance(node, ast.Try):
            statements += [*node.body, *(statement for handler in node.handlers for statement in handler.body)]
        elif isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
            statements += [*node.body, *node.orelse]
    return names


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_imports_a_test_module(path):
    """One test's change would break another file: what several share is in tests/tiny.py and its like."""
    imported = {
        name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for name in imported_modules(node)
    }
    assert not {name for name in imported if name.startswith("test_")}


def imported_modules(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return {node.module or ""} if isinstance(node, ast.ImportFrom) else set()


@pytest.mark.parametrize("path", sorted((ROOT / "avb" / "baselines").glob("*.py")), ids=lambda path: path.stem)
def test_a_baseline_taken_along_to_the_hub_imports_nothing_of_avb(path):
    stays_here = path.name in ("__init__.py", "features.py")
    assert (project_imports(path) <= {path.stem for path in SERVED}) != stays_here


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_fit_in_the_head(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize(
    "name", ["avb.command_line", "avb.metrics.classification", "avb.metrics.regression", "avb.recipes", "avb.tasks"]
)
def test_what_a_docstring_shows_is_what_comes_out(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted and not outcome.failed


def test_the_page_of_the_architecture_names_what_is_there():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    said = set(re.findall(r"`([^`\n]+)`", page.partition("## To change something")[2]))
    said = {name for name in said if not re.search("NAME|KIND|SPLIT", name)}
    files = {name for name in said if re.fullmatch(r"[\w./-]+(\.(py|md|csv|txt|yaml)|/)", name)}
    places = ["", "web", *{path.parent.relative_to(ROOT) for path in MODULES}]
    lost = {name for name in files if not any((ROOT / place / name).exists() for place in places)}
    assert len(files) > 60 and not lost
    identifiers = {name.rpartition(".")[2] for name in said if re.fullmatch(r"[A-Za-z_]+", name)} - {"evaluate"}
    sources = "\n".join(path.read_text(encoding="utf-8") for path in [*MODULES, *ROOT.glob("*_avb.py")])
    lost = {name for name in identifiers if not re.search(rf"\b{name}\b", sources)}
    assert len(identifiers) > 30 and not lost


def test_what_is_imported_is_declared():
    """A package that only comes along with another one is gone the day that one does without it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = sum(project["optional-dependencies"].values(), project["dependencies"])
    declared = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in requirements}
    distributions = packages_distributions()
    own = {path.stem for path in ROOT.glob("*.py")} | {"avb", "data", "markupsafe"}  # the last is jinja2's own
    for path in [*MODULES, *ROOT.glob("*_avb.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
        for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - own:
            comes_from = {distribution.lower() for distribution in distributions[name]}
            assert comes_from & declared, f"{path}: {name} of {comes_from} is in no list of pyproject.toml"


def test_nothing_binary_and_no_recording_is_tracked():
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    assert not [
        name for name in tracked.stdout.splitlines() if re.search(r"\.(wav|mp3|flac|ogg|m4a|bin|pt|pkl)$", name)
    ]


@pytest.mark.slow
def test_model_is_found_by_the_auto_classes_once_avb_is_imported(tmp_path):
    """In a process of its own: registration there is what a user's script does. AutoConfig finds each kind alone."""
    types = [f"{kind}-vocal-burst" for kind in MODELS if kind != "hubert"]
    for model_type in types:
        (tmp_path / model_type).mkdir()
        (tmp_path / model_type / "config.json").write_text(json.dumps({"model_type": model_type}))
    script = (
        "import avb\n"
        "from transformers import AutoConfig\n"
        f"for name in {types}:\n"
        "    print(AutoConfig.from_pretrained(name).model_type)\n"
        "from transformers import AutoModel, AutoModelForAudioClassification\n"
        "config = AutoConfig.for_model('wav2vec2-vocal-burst', num_hidden_layers=1, encoder_layer=1, hidden_size=16,\n"
        "    num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7, num_conv_pos_embeddings=8,\n"
        "    num_conv_pos_embedding_groups=2, rnn_hidden_size=8)\n"
        "AutoModel.from_config(config).save_pretrained('model')\n"
        "for auto in (AutoModel, AutoModelForAudioClassification):\n"
        "    print(type(auto.from_pretrained('model')).__name__)\n"
    )
    done = warm.run([sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout.split() == [*types, *["Wav2Vec2ForVocalBurst"] * 2], done.stderr


@pytest.mark.slow
def test_the_core_needs_no_package_of_an_extra():
    """What the demo, training, tests bring along must not be missed by who only predicts."""
    extras = (
        "httpx",
        "gradio",
        "accelerate",
        "tensorboard",
        "evaluate",
        "audmetric",
        "opensmile",
        "onnx",
        "onnxruntime",
        "matplotlib",
        "ray",
    )
    blocked = "import sys; sys.modules.update(dict.fromkeys(" + repr(extras) + "))"
    code = f"{blocked}; import avb, pipeline_avb, predict_avb; print(avb.load.__name__)"
    done = warm.run([sys.executable, "-c", code])
    assert done.returncode == 0 and done.stdout == "load\n", done.stderr


@pytest.mark.nightly
def test_a_row_of_a_table_does_not_pass_ever_more_files_to_become_a_number():
    """31 hand it over. Before a new one is let in: is there a file that does nothing but hand it on?"""
    done = subprocess.run([sys.executable, "-m", "tests.row_path"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) <= 31, done.stdout
