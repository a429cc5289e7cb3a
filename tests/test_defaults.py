"""What a training fills in, by encoder, clips and balance; what is given wins, and recipes pin what they rest on."""

import json
from pathlib import Path

import pytest
from conftest import ROOT

from avb.command_line import parse_arguments
from avb.tasks import TASKS, Task
from avb.training.defaults import describe, fill_in, summary

TRIO = Task("trio", "classification", ("a", "b", "c"))
SNAPSHOT = Path(__file__).with_name("paper_recipes.json")
AUTOMATIC = ("encoder_learning_rate", "learning_rate", "num_train_epochs", "per_device_train_batch_size", "pooling")
AUTOMATIC += ("rnn_layers", "class_weights")
OF_CLASSES = ("augment", "label_smoothing", "head_dropout", "weight_decay")  # with a small encoder


def filled(*argv, task=TRIO, labels=(0, 1, 2) * 100, known=None):
    model_args, data_args, args, command = parse_arguments([*argv, "--data_dir", "x"])
    chosen = fill_in(model_args, data_args, args, task, list(labels), command.recipe, known)
    assert data_args.augment == chosen.get("augment")
    return model_args, args, chosen


def test_a_small_encoder_that_comes_with_the_project():
    model_args, args, chosen = filled("--encoder", "emogator-small")
    assert (args.encoder_learning_rate, args.learning_rate, args.num_train_epochs) == (1e-4, 1e-3, 20)
    assert (model_args.pooling, model_args.rnn_layers, model_args.class_weights) == ("attention", 0, None)
    assert chosen.keys() == {*AUTOMATIC, *OF_CLASSES}
    said = summary(chosen, model_args, 300)
    assert said.startswith("chosen for a small encoder and 300 train clips: ") and "learning_rate 0.001" in said
    assert "augment shift mixup" in said


@pytest.mark.parametrize(
    ("argv", "task", "labels", "chosen_too"),
    [
        (("--encoder", "emogator-small"), TASKS["two"], [[0.1, 0.2]] * 90, ()),  # scores: not measured
        (("--encoder", "emogator-small", "--freeze", "encoder"), TRIO, [0, 1, 2] * 30, ()),  # its frames are kept
        (
            ("--encoder", "emogator-small", "--teachers", "t"),
            TRIO,
            [0, 1, 2] * 30,
            set(OF_CLASSES) - {"label_smoothing"},
        ),
        (("--encoder", "encoders/tiny.yaml", "--freeze", "none"), TRIO, [0, 1, 2] * 30, ()),
        (("presets/recommended", "--encoder", "emogator-small"), TRIO, [0, 1, 2] * 30, ()),
        (("--encoder", "emogator-small", "--augment", "none"), TRIO, [0, 1, 2] * 30, set(OF_CLASSES) - {"augment"}),
    ],
)
def test_only_a_small_encoder_is_kept_from_learning_its_clips_by_heart(argv, task, labels, chosen_too):
    *_, chosen = filled(*argv, task=task, labels=labels)
    assert chosen.keys() & set(OF_CLASSES) == set(chosen_too)


def test_a_run_that_began_without_goes_on_without():
    *_, chosen = filled("--encoder", "emogator-small", known={"num_train_epochs": 7})
    assert chosen == {"num_train_epochs": 7}


@pytest.mark.parametrize(("clips", "epochs"), [(30, 60), (100, 60), (300, 20), (1_000, 10), (24_000, 10)])
def test_few_clips_are_heard_more_often(clips, epochs):
    _, args, _ = filled("--encoder", "emogator-small", labels=[0, 1, 2] * (clips // 3) + [0] * (clips % 3))
    assert args.num_train_epochs == epochs


def test_other_encoders(checkpoints):
    large = ("--encoder", "facebook/wav2vec2-large-lv60")
    model_args, args, _ = filled(*large)  # not here: what is wrong with it is said where it is read
    assert (args.encoder_learning_rate, args.learning_rate, args.num_train_epochs) == (1e-5, 1e-4, 20)
    assert (model_args.pooling, model_args.rnn_layers) == ("last", 2)
    kinds = {
        "a small, frozen encoder": ("--encoder", str(checkpoints["BASE"]), "--freeze", "encoder"),
        "a small encoder": ("--encoder", str(checkpoints["BASE"])),  # at tiny width
        "random weights": ("--encoder", "encoders/tiny.yaml", "--freeze", "none"),
        "a baseline": ("--model", "log_mel_cnn"),
    }
    for kind, argv in kinds.items():
        assert describe(filled(*argv)[0]) == kind


def test_what_is_given_wins_and_a_stopped_run_keeps_its_own():
    argv = ("--encoder", "emogator-small", "--learning_rate", "1e-2", "--pooling", "avg")
    model_args, args, chosen = filled(*argv, known={"num_train_epochs": 7, "learning_rate": 5, "rnn_layers": 1})
    assert (args.learning_rate, model_args.pooling) == (1e-2, "avg")
    assert (args.num_train_epochs, model_args.rnn_layers) == (7, 1)
    assert "learning_rate" not in chosen and "pooling" not in chosen


def test_unbalanced_classes_are_weighed_unless_told_otherwise():
    unbalanced = [0] * 60 + [1] * 30 + [2] * 10 + [-100] * 5
    assert filled(labels=unbalanced)[0].class_weights == "balanced"
    assert filled("--class_weights", "none", labels=unbalanced)[0].class_weights is None
    assert filled(labels=[0] * 50 + [1] * 30 + [2] * 10)[0].class_weights is None
    assert filled(labels=[0] * 60 + [1] * 10)[0].class_weights is None  # a class without a clip has no weight
    assert filled(task=TASKS["two"], labels=[[0.1, 0.2]] * 90)[0].class_weights is None


def resolved() -> dict:
    """Every recipe of the paper with all that it pins, as a training would run it."""
    found = {}
    for path in sorted((ROOT / "recipes" / "paper").glob("*.yaml")):
        *_, command = parse_arguments([str(path), "--data_dir", "x", "--output_dir", "x"])
        found[path.stem] = {
            name: command.recipe[name] for name in sorted(command.recipe.keys() - {"data_dir", "output_dir"})
        }
    return found


def test_the_papers_recipes_are_those_of_the_snapshot():
    """To take a change over: PYTHONPATH=.:tests python tests/test_defaults.py"""
    assert resolved() == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_recipes_pin_what_is_automatic():
    for path in sorted((ROOT / "recipes" / "paper").glob("*.yaml")):
        *_, command = parse_arguments([str(path), "--data_dir", "x"])
        wav2vec2 = "emo18" not in path.stem
        pinned = set(AUTOMATIC) - {"encoder_learning_rate"} if wav2vec2 else {"learning_rate", "num_train_epochs"}
        pinned |= {"per_device_train_batch_size", "class_weights", *(OF_CLASSES if wav2vec2 else ())}
        assert pinned <= command.recipe.keys(), path.name
    for name in ("multitask", "sample"):
        *_, command = parse_arguments([name, "--data_dir", "x"])
        assert set(AUTOMATIC) - {"class_weights"} <= command.recipe.keys(), name


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(resolved(), indent=1) + "\n", encoding="utf-8")
