"""Recipes: every one parses, every row of the paper is made by the recipe it names, and mistakes are named."""

import csv
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from avb.arguments import ModelArguments, PretrainingArguments
from avb.command_line import parse_arguments
from avb.encoders.names import EXTRACTORS, resolve
from avb.errors import AvbError, RecipeError
from avb.recipes import read_recipe
from avb.tasks import TASKS

RECIPES = ROOT / "recipes"
PAPER = sorted((RECIPES / "paper").glob("*.yaml"))
RECOMMENDED = RECIPES / "presets" / "recommended.yaml"

with open(RECIPES / "paper" / "rows.csv", newline="", encoding="utf-8") as file:
    ROWS = list(csv.DictReader(file))
RUNS = {row["recipe"]: row for row in ROWS}


def parse(*argv, model_arguments=ModelArguments):
    """All arguments as one dict."""
    argv = [*map(str, argv), "--data_dir", "no-such-folder", "--output_dir", "unused"]
    *parts, _ = parse_arguments(argv, model_arguments)
    return {field.name: getattr(part, field.name) for part in parts for field in fields(part)}


def test_48_rows_and_one_recipe_for_each_distinct_run():
    assert len(ROWS) == 48
    assert [sum(row["table"] == table for row in ROWS) for table in ("I", "II", "III", "IV", "V")] == [20, 8, 4, 8, 8]
    settings = ("extractor", "pooling", "loss", "rnn", "epochs", "task")
    assert len({tuple(row[name] for name in settings) for row in ROWS}) == len(RUNS) == 36
    assert sorted(RUNS) == sorted(f"paper/{path.stem}" for path in PAPER)


@pytest.mark.parametrize("recipe", sorted(RUNS))
def test_recipe_is_what_its_rows_say(recipe):
    args = parse(RECIPES / f"{recipe}.yaml")
    for row in (row for row in ROWS if row["recipe"] == recipe):
        assert args["task"] == row["task"]
        assert TASKS[row["task"]].metric == row["metric"]
        if row["extractor"] == "End2You":
            assert (args["model"], args["loss"]) == ("emo18", None)  # the loss follows from the task
            continue
        assert args["encoder"] == row["extractor"]
        assert args["pooling"] == row["pooling"]
        assert args["loss"] == row["loss"]
        assert args["rnn_layers"] == {"yes": 2, "no": 0}[row["rnn"]]
        assert args["num_train_epochs"] == int(row["epochs"])
    assert args["corpus"] == "hume_vb"


@pytest.mark.parametrize("recipe", sorted(recipe for recipe in RUNS if "emo18" not in recipe))
def test_paper_recipes_are_the_authors_system(recipe):
    args = parse(RECIPES / f"{recipe}.yaml")
    rates = {"BASE": (0.1, 0.1, 0.1), "LARGE": (0.1, 0.1, 0), "LARGE-LV60K": (0.1, 0.1, 0), "XLSR53": (0, 0, 0)}
    projection, attention, hidden = rates[args["encoder"]]
    expected = {
        "encoder_layer": 12,
        "rnn_hidden_size": 512,
        "per_device_train_batch_size": 16,
        "freeze": "encoder",
        "frozen_encoder_dropout": True,
        "feat_proj_dropout": projection,
        "attention_dropout": attention,
        "hidden_dropout": hidden,
        "activation_dropout": 0,
        "layerdrop": 0,
        "peak_db": None,
        "trim_top_db": None,
        "head_init": "torch",
        "pool_before_head": False,
        "ce_sigmoid": False,
        "best_on_tie": "last",
        "early_stopping_patience": None,
        "load_best_model_at_end": True,
        "learning_rate": 1e-4,
        "weight_decay": 0.0625,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "max_grad_norm": 0,
        "head_norm": "batch" if args["loss"] == "ccc" else None,
        "ccc_reduction": "sum",
        "masked_pooling": False,
        "masked_group_norm": False,
        "waveform_normalization": "none",
        "dataloader_drop_last": False,
        "train_sampling_strategy": "random",
        "head_dropout": 0,
    }
    assert {name: args[name] for name in expected} == expected


def test_recommended_after_a_recipe_undoes_all_of_the_authors_switches():
    switches = set(read_recipe(RECIPES / "presets" / "authors.yaml"))
    for part in (RECIPES / "paper" / "parts").glob("*.yaml"):
        setting = set(yaml.safe_load((part.parent / "setting.yaml").read_text()))
        if part.stem not in ("emo18", "50-epochs", "setting"):
            switches |= set(yaml.safe_load(part.read_text())) - setting - {"encoder", "extends"}
    assert switches <= set(yaml.safe_load(RECOMMENDED.read_text()))
    for recipe in sorted(path.stem for path in PAPER if "emo18" not in path.stem):
        args = parse(RECIPES / "paper" / f"{recipe}.yaml", RECOMMENDED)
        row = RUNS[f"paper/{recipe}"]
        own = ("--task", row["task"], "--encoder", row["extractor"], "--loss", row["loss"], "--corpus", "hume_vb")
        own += ("--encoder_layer", "12")  # which the default is for encoders of 12 layers and more
        own += ("--pooling", row["pooling"], "--rnn_layers", {"yes": "2", "no": "0"}[row["rnn"]])
        epochs = ("--num_train_epochs", "50") if row["epochs"] == "50" else ()
        assert args == parse(*own, *epochs), "the defaults are the recommended preset"


def test_emo18_trains_as_the_baseline_paper_says():
    args = parse(RECIPES / "paper" / "two-emo18.yaml")
    expected = {
        "learning_rate": 1e-4,
        "weight_decay": 0,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 8,
        "num_train_epochs": 30,
        "early_stopping_patience": None,
    }
    assert {name: args[name] for name in expected} == expected


@pytest.mark.parametrize(
    "path",
    sorted(
        path for path in RECIPES.rglob("*.yaml") if path.parent.name not in ("accelerate", "events")
    ),  # of other commands
    ids=lambda path: str(path.relative_to(RECIPES)),
)
def test_every_recipe_reads_and_states_no_data_of_ones_own(path):
    if path.parent.name == "encoders":
        return
    parse(path, model_arguments=PretrainingArguments if path.parent.name == "pretraining" else ModelArguments)
    if path.name != "sample.yaml":
        assert "data_dir" not in read_recipe(path)


def test_a_row_states_only_what_makes_it():
    for path in PAPER:
        own = yaml.safe_load(path.read_text(encoding="utf-8"))
        parents = own.pop("extends")
        inherited = {}
        for parent in [parents] if isinstance(parents, str) else parents:
            inherited |= read_recipe(path.parent / parent)
        # `null` takes a key out; anything else must differ from what is inherited.
        assert all(inherited.get(key) != value for key, value in own.items()), path.name


def write(folder: Path, **recipes) -> list[Path]:
    paths = []
    for name, text in recipes.items():
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def test_extends_composes_in_order(tmp_path):
    a, b, c = write(
        tmp_path,
        a="seed: 1\npooling: avg\nhead_norm: batch\n",
        b="seed: 2\nencoder: small.yaml\nhead_norm: null\n",
        c="extends: [a.yaml, b.yaml]\nloss: mse\n",
    )
    args = parse(c)
    assert (args["seed"], args["pooling"], args["loss"], args["head_norm"]) == (2, "avg", "mse", None)
    assert args["encoder"] == str(tmp_path / "small.yaml")
    assert parse(b, a)["seed"] == 1 and parse(a, b)["head_norm"] is None  # several on the command line do the same
    assert parse(c, "--seed", "3", "--pooling", "max")["pooling"] == "max"


def error(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as stop:
        parse_arguments([*map(str, argv)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_circles_are_refused(tmp_path, capsys):
    a, b, itself = write(tmp_path, a="extends: b.yaml\n", b="extends: a.yaml\n", itself="extends: itself.yaml\n")
    assert "a.yaml → b.yaml → a.yaml" in error(capsys, a)
    with pytest.raises(RecipeError, match="extends itself"):
        read_recipe(itself)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("poolling: avg", "did you mean 'pooling'?"),
        ("learning_rat: 1e-4", "did you mean 'learning_rate'?"),
        ("extends: nowhere.yaml", "nowhere.yaml: cannot be read"),
        ("- pooling\n- avg", "not a list"),
        ("just words", "not a str"),
        ("rnn_layers: two", "rnn_layers"),
    ],
)
def test_mistakes_are_named(text, words, tmp_path, capsys):
    (path,) = write(tmp_path, mistake=text)
    assert words in error(capsys, path)


def test_broken_yaml_names_file_and_line(tmp_path):
    (path,) = write(tmp_path, broken="pooling: [avg\nloss: mse\n")
    with pytest.raises(RecipeError, match=r"broken.yaml: not a YAML file[\s\S]*line 2"):
        read_recipe(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a YAML file"):
        read_recipe(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path)


# ------------------------------------------------------------------------------------------------------ extractors


def test_extractors_resolve_to_the_hub_or_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("AVB_ENCODERS", raising=False)
    assert resolve("XLSR53") == "facebook/wav2vec2-large-xlsr-53"
    assert set(EXTRACTORS) == {row["extractor"] for row in ROWS} - {"End2You"}
    for other in ("org/encoder", "some/folder", "encoders/tiny.yaml"):
        assert resolve(other, tmp_path) == other

    monkeypatch.setenv("AVB_ENCODERS", str(tmp_path))
    assert resolve("LARGE") == "facebook/wav2vec2-large"  # not downloaded
    (tmp_path / "wav2vec2-large").mkdir()
    assert resolve("LARGE") == str(tmp_path / "wav2vec2-large")
    (tmp_path / "LARGE").mkdir()
    assert resolve("LARGE") == str(tmp_path / "LARGE")
    (tmp_path / "other" / "LARGE").mkdir(parents=True)
    assert resolve("LARGE", tmp_path / "other") == str(tmp_path / "other" / "LARGE")
    with pytest.raises(AvbError, match="no such folder of encoders"):
        resolve("LARGE", tmp_path / "nowhere")
