"""A command line: recipes by name or file, what was typed, and what is known of each argument."""

import re
import shutil
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints

import pytest
import yaml
from conftest import ROOT
from transformers import TrainingArguments

from avb import recipes
from avb.arguments import AvbTrainingArguments, DataArguments, ModelArguments, PretrainingArguments, names_with
from avb.command_line import make_parser, parse_arguments
from avb.encoders.filterbank import read_encoder
from avb.errors import AvbError, RecipeError
from avb.models import names as shipped_models

# The stock Trainer's arguments on which a result may depend (transformers 5.23).
CHANGE_RESULTS = """
    per_device_train_batch_size per_device_eval_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
    lr_scheduler_kwargs warmup_steps optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2
    adam_epsilon
    gradient_accumulation_steps average_tokens_across_devices max_grad_norm label_smoothing_factor bf16 fp16
    bf16_full_eval fp16_full_eval tf32 activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing
    gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode use_liger_kernel
    liger_kernel_config use_cache neftune_noise_alpha auto_find_batch_size eval_strategy eval_steps eval_delay
    prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object include_for_metrics
    batch_eval_metrics save_strategy save_steps load_best_model_at_end metric_for_best_model greater_is_better
    ignore_data_skip restore_callback_states_from_checkpoint full_determinism data_seed accelerator_config
    parallelism_config dataloader_drop_last dataloader_in_order remove_unused_columns label_names
    train_sampling_strategy length_column_name ddp_broadcast_buffers fsdp fsdp_config deepspeed
""".split()


def test_every_stock_argument_changes_a_result_or_is_marked():
    stock = {field.name for field in fields(TrainingArguments) if field.init}
    marked = set(names_with("changes_result", False))
    assert not marked & set(CHANGE_RESULTS)
    assert stock - marked == stock & set(CHANGE_RESULTS), "new in transformers: mark it in STOCK, or add it here"


def test_a_property_is_of_an_argument_that_there_is():
    known = {f.name for kind in (ModelArguments, PretrainingArguments, DataArguments) for f in fields(kind)}
    known |= {field.name for field in fields(AvbTrainingArguments)} | {"logging_dir"}  # of older transformers
    for name in ("changes_result", "private", "often_typed", "left_alone"):
        found = names_with(name, name != "changes_result")
        assert found and set(found) <= known
    assert "--often_typed" not in make_parser().format_help()


def parse(*argv):
    return parse_arguments([*map(str, argv)])


@pytest.mark.parametrize(
    ("argv", "name", "changes"),
    [
        (["recipes/paper/high-lv60k.yaml", "--data_dir", "/data/x", "--seed=3"], "paper/high-lv60k", ""),
        (["paper/high-lv60k", "--save_total_limit", "2", "--use_cpu"], "paper/high-lv60k", ""),
        (["/home/me/avb/recipes/paper/two-base.yaml"], "paper/two-base", ""),
        (["recipes/sample.yaml"], "sample", ""),
        (["mine.yaml", "--overwrite", "--output_dir", "runs/a"], "mine", ""),
        (["paper/high-lv60k", "presets/recommended.yaml"], "paper/high-lv60k+presets/recommended", ""),
        (["--pooling", "avg", "--data_dir", "x"], "", "--pooling avg"),
        (["mine.yaml", "--pooling=max", "--max-steps", "5", "--pooling", "avg"], "mine", "--max_steps 5 --pooling avg"),
        (
            ["mine.yaml", "--bf16", "false", "--label_columns", "joy", "deep fear"],
            "mine",
            "--bf16 false --label_columns joy 'deep fear'",
        ),
        (["mine.yaml", "--encoder", "/home/me/encoders/small"], "mine", "--encoder small"),
        (["mine.yaml", "--peak_db", "-6"], "mine", "--peak_db -6"),
    ],
)
def test_a_command_is_recipes_and_changes(argv, name, changes, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    for recipe in ("paper/two-base.yaml", "sample.yaml"):
        (tmp_path / "me/avb/recipes" / recipe).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "recipes" / "sample.yaml", tmp_path / "me/avb/recipes" / recipe)
    monkeypatch.chdir(tmp_path)
    argv = [word.replace("/home/me/avb", f"{tmp_path}/me/avb") for word in argv]
    *_, command = parse(*argv)
    assert (command.name, command.changes) == (name, changes)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--encoder", "emogator_small"], "emogator_small: no such model; did you mean 'emogator-small'?"),
        (["--encoder", "LARGE-LV60"], "did you mean 'LARGE-LV60K'?"),
        (["clips.xlsx", "--encoder", "BASE"], "clips.xlsx is not a recipe; to train on these clips, use --data_dir"),
    ],
)
def test_a_near_miss_is_known_before_anything_is_read(argv, message):
    for arguments in (ModelArguments, PretrainingArguments):
        with pytest.raises(AvbError, match=re.escape(message)):
            parse_arguments(argv, arguments, exits=False)


def test_a_recipe_by_name_is_that_of_its_file(tmp_path, monkeypatch):
    *by_file, command = parse(ROOT / "recipes" / "paper" / "high-lv60k.yaml", "--seed", "3")
    monkeypatch.chdir(tmp_path)
    for name in ("paper/high-lv60k", "paper/high-lv60k.yaml", "recipes/paper/high-lv60k.yaml"):
        *by_name, same = parse(name, "--seed", "3")
        # as text: optimizers' and schedules' settings are equal by identity only
        assert list(map(str, by_name)) == list(map(str, by_file)) and same == command
    assert command.recipe["output_dir"] == "runs/high-lv60k"

    (tmp_path / "paper").mkdir()  # a file wins over a name, a folder does not
    assert parse("paper/high-lv60k")[-1].recipe["task"] == "high"
    (tmp_path / "paper" / "high-lv60k").write_text("seed: 77\n")
    assert parse("paper/high-lv60k")[2].seed == 77


@pytest.mark.parametrize("name", ["trim_top_db", "peak_db", "head_norm", "early_stopping_patience"])
@pytest.mark.parametrize("text", ["none", "None"])
def test_none_turns_an_argument_off(name, text, tmp_path):
    """Typed or in a recipe; what is written beside the model says so too, and is read back as off."""
    (tmp_path / "off.yaml").write_text(f"{name}: {text}\n")
    for argv in ((f"--{name}", text), (f"--{name}={text}",), (tmp_path / "off.yaml",)):
        *parts, command = parse(*argv)
        (value,) = (getattr(part, name) for part in parts if hasattr(part, name))
        assert value is None and command.recipe[name] == "none", argv
    (tmp_path / "written.yaml").write_text(yaml.safe_dump(command.recipe))
    assert parse(tmp_path / "written.yaml")[-1].recipe == command.recipe


def test_every_argument_that_may_be_none_can_be_turned_off():
    off = {
        field.name: kind
        for kind in (ModelArguments, DataArguments)
        for field in fields(kind)
        if NoneType in get_args(get_type_hints(kind)[field.name])
    }
    assert len(off) > 20
    for name, kind in off.items():
        (part,) = (part for part in parse(f"--{name}", "none")[:2] if isinstance(part, kind))
        assert getattr(part, name) is None, name


def test_none_is_no_value_of_an_argument_that_is_never_off(capsys):
    with pytest.raises(SystemExit):
        parse("--rnn_layers", "none")
    assert "rnn_layers" in capsys.readouterr().err
    assert parse("--report_to", "none")[2].report_to == []  # a value of the stock Trainer's own


def test_null_is_not_given():
    """The recipe's value goes, and the default comes; a value typed later counts, one typed earlier does not."""
    model_args, data_args, _, command = parse("paper/high-lv60k", "--peak_db", "null", "--head-norm=null")
    assert (data_args.peak_db, model_args.head_norm) == (-3.0, None)
    assert not {"peak_db", "head_norm"} & set(command.recipe)
    assert command.changes == "--head_norm null --peak_db null"
    assert parse("paper/high-lv60k", "--peak_db", "-6", "--peak_db", "null")[1].peak_db == -3.0
    assert parse("paper/high-lv60k", "--peak_db", "null", "--peak_db", "-6")[1].peak_db == -6
    assert parse("--label_columns", "null", "joy")[1].label_columns == ["null", "joy"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("paper/hihg-lv60k", "did you mean 'paper/high-lv60k'?"),
        ("recipes/emogator/emogator-smal.yaml", "did you mean 'emogator/emogator-small'?"),
        ("../paper/high-lv60k", "did you mean"),
    ],
)
def test_an_unknown_recipe_says_where_it_was_looked_for(name, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as error:
        recipes.find_recipe(name)
    assert all(words in str(error.value) for words in (name, near, str(tmp_path), str(recipes.FOLDER)))


def test_encoders_of_the_recipes_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (default,) = (field.default for field in fields(PretrainingArguments) if field.name == "encoder")
    assert read_encoder(default)[0]["num_hidden_layers"] == 6
    encoder = parse("emogator/small")[0].encoder
    assert Path(encoder).is_absolute() and read_encoder(encoder) == read_encoder("encoders/small.yaml")


def test_list_recipes(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--list_recipes")
    printed = capsys.readouterr().out.split()
    assert stop.value.code == 0 and printed == recipes.names()
    assert {"sample", "paper/high-lv60k", "emogator/frozen/last"} <= set(printed)
    assert not any(name.startswith(("accelerate/", "encoders/", "paper/parts/")) for name in printed)


@pytest.mark.parametrize("model", sorted(shipped_models()))
def test_a_recipe_named_as_a_shipped_model_makes_that_kind(model):
    arguments = parse(f"emogator/{model}")[0]
    head = (ROOT / "recipes" / "emogator" / f"{model}.yaml").read_text().splitlines()[0]
    assert head.startswith(f"# The recipe of {model}:")
    assert (arguments.model == "log_mel_cnn") == (model == "emogator-cnn")
