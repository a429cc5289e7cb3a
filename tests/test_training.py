"""Training through the real command and the real Trainer: golden losses, what is written, settings and their errors."""

import csv
import json
import os
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
import warm
import yaml
from conftest import ROOT
from datasets import Dataset
from tiny import save_encoder
from transformers import Wav2Vec2FeatureExtractor

import train_avb
from avb.arguments import AvbTrainingArguments, DataArguments, ModelArguments
from avb.collator import BurstCollator
from avb.command_line import parse_arguments
from avb.errors import AvbError
from avb.metrics import best_metric
from avb.tasks import TASKS
from avb.training.build import build_model
from avb.training.trainer import BurstTrainer

SAMPLE_RECIPE = str(ROOT / "recipes" / "sample.yaml")
# Losses of five steps of the command below. In the stock Trainer's order of clips the same code gives those that were
# first checked by hand: 0.9987 0.9858 0.9658 0.9350 0.8958.
GOLDEN_LOSSES = [1.0001, 0.9921, 0.9754, 0.9562, 0.9456]


def run(command, **kwargs):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return warm.run([sys.executable, *command], env=environment, **kwargs)


@pytest.fixture(scope="session")
def five_steps(sample, tmp_path_factory):
    """The folder that five steps of the real command wrote."""
    output_dir = tmp_path_factory.mktemp("runs") / "five"
    steps = [
        "--max_steps",
        "5",
        "--logging_strategy",
        "steps",
        "--logging_steps",
        "1",
        "--warmup_steps",
        "0",
        "--report_to",
        "tensorboard",
    ]
    done = run(["train_avb.py", SAMPLE_RECIPE, "--data_dir", str(sample), "--output_dir", str(output_dir), *steps])
    assert done.returncode == 0, done.stderr
    assert "validation: CCC" in done.stdout and str(output_dir) in done.stdout
    return output_dir


@pytest.mark.slow
def test_golden_losses(five_steps):
    state = json.loads((five_steps / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses == pytest.approx(GOLDEN_LOSSES, abs=2e-3)


@pytest.mark.slow
def test_everything_a_run_promises_is_written(five_steps):
    names = {path.name for path in five_steps.iterdir()}
    assert names >= {
        "config.json", "model.safetensors", "preprocessor_config.json", "metrics.json", "recipe.yaml", "versions.json",
        "predictions_validation.csv", "predictions_test.csv", "train_set.json", "splits.csv",
    }  # fmt: skip
    assert not [name for name in names if name.endswith((".tmp", ".bin", ".pt")) or name == "bad_clips.csv"]
    assert not [name for name in names if name.startswith("checkpoint")]  # they are for a run that goes on
    metrics = json.loads((five_steps / "metrics.json").read_text())
    assert metrics["task"] == "high" and metrics["splits"]["validation"]["num_clips"] > 10
    assert metrics["splits"]["test"] == {"num_clips": 0, "note": "labels are withheld"}
    assert json.loads((five_steps / "versions.json").read_text())["torch"] == torch.__version__
    recipe = yaml.safe_load((five_steps / "recipe.yaml").read_text())
    assert recipe["task"] == "high" and recipe["max_steps"] == 5 and recipe["pooling"] == "attention"
    config = json.loads((five_steps / "config.json").read_text())
    assert list(config["id2label"].values()) == list(TASKS["high"].labels)


@pytest.mark.slow
def test_metrics_are_those_of_the_written_predictions(five_steps):
    with open(five_steps / "predictions_validation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = json.loads((five_steps / "metrics.json").read_text())["splits"]["validation"]
    assert len(rows) == scores["num_clips"]
    x = np.array([float(row["Awe"]) for row in rows])
    y = np.array([float(row["true_Awe"]) for row in rows])
    ccc = 2 * np.mean((x - x.mean()) * (y - y.mean())) / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert scores["per_label"]["Awe"]["ccc"] == pytest.approx(ccc, abs=1e-4)


@pytest.mark.slow
def test_finished_run_is_not_overwritten_by_accident(five_steps, sample, capsys):
    assert train_avb.main([SAMPLE_RECIPE, "--data_dir", str(sample), "--output_dir", str(five_steps)]) == 1
    assert "contains a finished model" in capsys.readouterr().err


# ---- arguments ------------------------------------------------------------------------------------------------------


def test_recipe_then_command_line(tmp_path):
    (tmp_path / "base.yaml").write_text("learning_rate: 1e-3\npooling: max\ntask: high\nencoder: tiny.yaml\n")
    (tmp_path / "child.yaml").write_text("extends: base.yaml\npooling: avg\ntask: null\ninstances: [1, 2]\n")
    model_args, data_args, training_args, command = parse_arguments(
        [str(tmp_path / "child.yaml"), "--seed", "7", "--pooling=first"]
    )
    assert training_args.learning_rate == 1e-3 and training_args.seed == 7
    assert model_args.pooling == "first" and data_args.task is None and data_args.instances == [1, 2]
    assert model_args.encoder == str(tmp_path / "tiny.yaml")
    assert training_args.output_dir == "runs/child"
    assert command.recipe["pooling"] == "first" and command.recipe["seed"] == 7
    assert "num_train_epochs" not in command.recipe
    assert (command.name, command.changes) == ("child", "--pooling first")


def test_later_recipes_win(tmp_path):
    (tmp_path / "a.yaml").write_text("pooling: max\nloss: mse\n")
    (tmp_path / "b.yaml").write_text("pooling: avg\nloss: null\n")
    model_args, _, training_args, _ = parse_arguments([str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")])
    assert (model_args.pooling, model_args.loss, training_args.output_dir) == ("avg", None, "runs/a-b")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--poolin", "avg"], "unknown argument '--poolin'; did you mean 'pooling'?"),
        (["--seed", "many"], "argument --seed: invalid int value: 'many'"),
        (["nowhere.yaml"], "Looked for: that file in"),
        (["paper/hihg-lv60k"], "did you mean 'paper/high-lv60k'?"),
        (["RECIPE", "--task", "high"], "unknown argument 'learning_rat' in the recipe; did you mean 'learning_rate'?"),
        (["--eval_strategy", "often"], "often is not a valid IntervalStrategy"),
        (["--save_strategy", "steps"], "--eval_strategy epoch and --save_strategy steps must be the same"),
        (["--seed", "1", "RECIPE"], "wrong.yaml'; if it is a recipe, put it before the arguments"),
    ],
)
def test_wrong_arguments_end_in_one_line(argv, message, tmp_path, capsys):
    (tmp_path / "wrong.yaml").write_text("learning_rat: 1e-3\n")
    argv = [str(tmp_path / "wrong.yaml") if item == "RECIPE" else item for item in argv]
    with pytest.raises(SystemExit) as stop:
        parse_arguments(argv)
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and message in printed and printed.count("\n") == 1


def test_help_has_our_arguments_before_the_stock_ones(capsys):
    with pytest.raises(SystemExit, match="0"):
        train_avb.main(["--help"])
    printed = capsys.readouterr().out
    groups = [printed.index(f"\n{title}:\n") for title in ("model", "data", "training", "stock Trainer")]
    assert groups == sorted(groups)
    ours, stock = printed[: groups[-1]], printed[groups[-1] :]
    assert all(f"  --{field.name} " in ours for kind in (ModelArguments, DataArguments) for field in fields(kind))
    assert (
        "  --batch_seconds X" in ours
        and "  --early_stopping_patience" in ours
        and "  --max_steps N" in ours
        and "  --adam_beta1 X" in stock
    )
    assert "--no_" not in printed and "--max-steps" not in printed and "(default: None)" not in printed


# ---- model and trainer ----------------------------------------------------------------------------------------------


def rows(num_clips: int, task=TASKS["two"], missing: int = 0) -> Dataset:
    """Decoded clips of mixed length, as `decode_splits` gives them: tones whose pitch is the label."""
    generator = np.random.default_rng(0)
    clips = []
    for number in range(num_clips):
        value, samples = generator.random(2), int(generator.integers(1600, 8000))
        tone = np.sin(np.arange(samples) * (0.02 + 0.3 * value[0])) * np.linspace(1, value[1], samples)
        labels = value if task.kind == "regression" else number % task.num_labels
        if number < missing:
            labels = np.full(2, np.nan)
        clips.append(
            {"id": f"[{number}]", "input_values": tone.astype(np.float32), "num_samples": samples, "labels": labels}
        )
    return Dataset.from_list(clips)


def arguments(tmp_path, **fields) -> AvbTrainingArguments:
    fields = {"max_steps": 3, "per_device_train_batch_size": 8, "disable_tqdm": True, "use_cpu": True, **fields}
    return AvbTrainingArguments(output_dir=str(tmp_path), **fields)


def model_arguments(**fields) -> ModelArguments:
    tiny = {
        "encoder": str(ROOT / "recipes/encoders/tiny.yaml"),
        "freeze": "none",
        "encoder_layer": 1,
        "rnn_hidden_size": 16,
    }
    return ModelArguments(**{**tiny, **fields})


def trainer(tmp_path, num_clips=32, task=TASKS["two"], model_fields=None, **fields) -> BurstTrainer:
    torch.manual_seed(0)
    data = rows(num_clips, task)
    model, feature_extractor = build_model(model_arguments(**(model_fields or {})), DataArguments(), task, data)
    args = arguments(tmp_path, **fields)
    collator = BurstCollator(feature_extractor)
    return BurstTrainer(model, args, task, feature_extractor, collator, train_dataset=data, eval_dataset=data)


def test_evaluation_sees_every_clip_once_and_in_order(tmp_path):
    """Length-grouped sampling and drop_last are for training; the stock Trainer applies both to evaluation."""
    fitted = trainer(tmp_path, num_clips=21, per_device_eval_batch_size=8)
    output = fitted.predict(fitted.eval_dataset)
    assert np.array_equal(output.label_ids, np.asarray(fitted.eval_dataset["labels"], dtype=np.float32))
    assert len(list(fitted.get_train_dataloader())) == 2
    alone = fitted.predict(fitted.eval_dataset.select([4])).predictions
    assert np.abs(output.predictions[4] - alone[0]).max() < 1e-5


def test_learning_rates_and_decay_by_group(tmp_path):
    fitted = trainer(tmp_path, learning_rate=1e-2, encoder_learning_rate=1e-3)
    groups = fitted.create_optimizer().param_groups
    rates = {}
    for group in groups:
        for parameter in group["params"]:
            rates[id(parameter)] = (group["lr"], group["weight_decay"])
    for name, parameter in fitted.model.named_parameters():
        rate = 1e-3 if name.startswith("wav2vec2.") else 1e-2
        plain = parameter.ndim == 1 or "bias" in name
        assert rates[id(parameter)] == (rate, 0.0 if plain else 0.0625), name


def test_frozen_parts_are_not_optimised_and_do_not_move(checkpoints, tmp_path):
    data = rows(16)
    fields = {"encoder": str(checkpoints["LARGE-LV60K"]), "freeze": "encoder", "encoder_layer": 2}
    model, feature_extractor = build_model(model_arguments(**fields), DataArguments(), TASKS["two"], data)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fitted = BurstTrainer(
        model, arguments(tmp_path, eval_strategy="no", load_best_model_at_end=False), TASKS["two"], feature_extractor,
        BurstCollator(feature_extractor), train_dataset=data,
    )  # fmt: skip
    fitted.train()
    moved = {
        name.split(".")[0] for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)
    }
    assert moved == {"rnn", "head"}
    assert sum(len(group["params"]) for group in fitted.optimizer.param_groups) == 10


def test_best_epoch_is_kept_and_early_stopping_stops(tmp_path):
    """At this rate the score falls after a good start: the model at the end is the best one, not the last."""
    fitted = trainer(
        tmp_path, max_steps=-1, num_train_epochs=12, learning_rate=0.3, encoder_learning_rate=0.3,
        early_stopping_patience=2, warmup_steps=0, lr_scheduler_type="constant",
    )  # fmt: skip
    fitted.train()
    scores = [entry["eval_ccc"] for entry in fitted.state.log_history if "eval_ccc" in entry]
    assert len(scores) < 12 and len(scores) == int(np.argmax(scores)) + 3
    assert fitted.evaluate()["eval_ccc"] == pytest.approx(max(scores), abs=1e-4)


@pytest.mark.parametrize(("best_on_tie", "epoch"), [("first", 1), ("last", 3)])
def test_the_best_of_equal_epochs(tmp_path, best_on_tie, epoch):
    """Nothing is learned at a rate of zero: all epochs score alike."""
    fitted = trainer(
        tmp_path, max_steps=-1, num_train_epochs=3, learning_rate=0.0, encoder_learning_rate=0.0,
        best_on_tie=best_on_tie,
    )  # fmt: skip
    fitted.train()
    scores = {entry["eval_ccc"] for entry in fitted.state.log_history if "eval_ccc" in entry}
    assert len(scores) == 1
    assert fitted.state.best_global_step * 3 == fitted.state.max_steps * epoch
    assert fitted.state.best_model_checkpoint.endswith(f"-{fitted.state.best_global_step}")


def test_missing_labels_train(tmp_path):
    fitted = trainer(tmp_path, model_fields={"loss": "ccc"})
    fitted.train_dataset = rows(32, missing=9)
    fitted.train()
    assert all(parameter.isfinite().all() for parameter in fitted.model.parameters())


def test_balanced_class_weights_are_scikit_learns(tmp_path):
    from sklearn.utils.class_weight import compute_class_weight

    data = rows(30, TASKS["type"])
    model, _ = build_model(model_arguments(class_weights="balanced"), DataArguments(), TASKS["type"], data)
    expected = compute_class_weight("balanced", classes=np.arange(8), y=np.asarray(data["labels"]))
    assert model.config.class_weights == pytest.approx(expected.tolist())
    assert model.config.loss == "ce" and model.config.num_labels == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "ce"}, "--loss ce does not fit task 'two'"),
        ({"freeze": "encoder"}, "add --freeze none"),
        ({"freeze": "everything", "encoder": "CHECKPOINT"}, "one of none, feature_encoder, encoder"),
        ({"encoder": "nowhere/at-all"}, "--encoder nowhere/at-all: no such folder"),
        ({"encoder": "nowhere/at-all"}, "emogator-small comes with the project and needs no network"),
        ({"model": "emogator-cnn"}, "--model emogator-cnn: a trained model"),
        ({"class_weights": "balanced"}, "it can only be 'balanced', and needs a classification task"),
        ({"pooling": "mean"}, "pooling='mean'"),
        ({"encoder_layer": 9}, "encoder_layer=9"),
    ],
)
def test_settings_that_contradict_each_other(fields, message, checkpoints):
    if fields.get("encoder") == "CHECKPOINT":
        fields = {**fields, "encoder": str(checkpoints["BASE"])}
    with pytest.raises(ValueError, match=".*") as error:
        build_model(model_arguments(**fields), DataArguments(), TASKS["two"], rows(4))
    assert message in str(error.value)


def test_group_norm_checkpoint_gets_a_mask(checkpoints, tmp_path):
    assert not Wav2Vec2FeatureExtractor.from_pretrained(checkpoints["BASE"]).return_attention_mask
    data = rows(4)
    _, feature_extractor = build_model(
        model_arguments(encoder=str(checkpoints["BASE"]), freeze="feature_encoder"), DataArguments(), TASKS["two"], data
    )
    feature_extractor.save_pretrained(tmp_path)
    assert Wav2Vec2FeatureExtractor.from_pretrained(tmp_path).return_attention_mask


def test_too_few_clips_for_a_batch(sample, tmp_path, capsys):
    argv = [SAMPLE_RECIPE, "--data_dir", str(sample), "--output_dir", str(tmp_path), "--max_train_clips", "5"]
    assert train_avb.main(argv) == 1
    assert "5 train clips are fewer than one batch of 16" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_finished_when_its_rows_are_written(sample, tmp_path, capsys):
    """Stopped between the two it goes on from its checkpoint: `reports add` finds rows in whatever is finished."""
    argv = [SAMPLE_RECIPE, "--data_dir", str(sample), "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1"]
    (tmp_path / "run" / "results.csv").mkdir(parents=True)
    assert train_avb.main(argv) == 1
    assert "results.csv" in (said := capsys.readouterr().err) and "The model is trained and saved" in said
    assert not (tmp_path / "run" / "metrics.json").exists()
    (tmp_path / "run" / "results.csv").rmdir()
    assert train_avb.main([*argv, "--resume", "true"]) == 0
    assert (tmp_path / "run" / "metrics.json").is_file() and (tmp_path / "run" / "results.csv").is_file()


# ---- several devices ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_through_the_command_are_one_run(sample, tmp_path):
    """They share the work, and one of them writes: every clip once, one row a split."""
    argv = ["train_avb.py", SAMPLE_RECIPE, "--data_dir", str(sample), "--output_dir", str(tmp_path / "run")]
    argv += ["--max_steps", "2", "--per_device_train_batch_size", "8", "--results", str(tmp_path / "runs.csv")]
    done = [rank.wait() for rank in warm.start_ranks([sys.executable, *argv], 2, dict(os.environ))]
    assert [rank.returncode for rank in done] == [0, 0], [rank.stderr for rank in done]
    assert sum(rank.stdout.count("model, metrics and predictions") for rank in done) == 1
    with open(tmp_path / "runs.csv", newline="") as file:
        assert [row["split"] for row in csv.DictReader(file)] == ["validation", "test"]
    assert (tmp_path / "run" / "results.csv").read_text() == (tmp_path / "runs.csv").read_text()
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["epoch"] == 0.5  # two steps of 2 x 8 clips of 64
    with open(tmp_path / "run" / "predictions_validation.csv", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(ids) == len(set(ids)) == metrics["splits"]["validation"]["num_clips"]


# ---- real audio -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("task_name", ["emotion", "two"])
def test_64_real_clips_are_overfitted(task_name, emogator, tmp_path):
    """Every gradient flows: a small model learns 64 real bursts by heart, by cross entropy and by CCC."""
    from audio_avb import AudioPreparation
    from avb.corpora import load_bursts
    from avb.corpora.decode import decode_splits

    corpus = load_bursts("emogator", emogator, task_name, instances=[1])
    clips = corpus.splits["validation"].shuffle(seed=0).select(range(192))
    data = decode_splits({"train": clips}, AudioPreparation(trim_top_db=30), cache_dir=tmp_path)[0]["train"]
    data = data.select(np.argsort(data["num_samples"][:], kind="stable")[:64])  # the shortest: a third of the work
    torch.manual_seed(0)
    fields = {"encoder_layer": 2, "rnn_layers": 1, "rnn_hidden_size": 96, "pooling": "attention"}
    model, feature_extractor = build_model(model_arguments(**fields), DataArguments(), corpus.task, data)
    args = arguments(
        tmp_path, max_steps=100, learning_rate=2e-3, encoder_learning_rate=2e-3, per_device_train_batch_size=16,
        weight_decay=0.0, eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    collator = BurstCollator(feature_extractor)
    fitted = BurstTrainer(model, args, corpus.task, feature_extractor, collator, train_dataset=data, eval_dataset=data)
    fitted.train()
    assert fitted.evaluate()[f"eval_{best_metric(corpus.task)}"] >= 0.95


def test_a_stock_argument_without_effect_is_refused(tmp_path):
    with pytest.raises(AvbError, match="has no effect here: use --label_smoothing"):
        AvbTrainingArguments(output_dir=str(tmp_path), label_smoothing_factor=0.1)


def test_a_table_of_results_that_cannot_take_a_row_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "runs.csv").write_text("name,score\nmine,0.5\n")
    argv = ["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "run"), "--results", str(tmp_path / "runs.csv")]
    assert train_avb.main(argv) == 1
    assert "runs.csv: not the columns of this version: move the file away" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_hubert_checkpoint_is_an_encoder_to_train_from(tmp_path):
    """Its layers are wav2vec 2.0's, under a prefix of its own."""
    hubert = save_encoder(tmp_path, "Hubert")
    model, _ = build_model(model_arguments(encoder=str(tmp_path), encoder_layer=1), DataArguments(), TASKS["two"], None)
    for name, tensor in hubert.encoder.layers[0].state_dict().items():
        assert torch.equal(model.wav2vec2.encoder.layers[0].state_dict()[name], tensor), name
