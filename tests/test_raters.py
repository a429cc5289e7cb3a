"""Tables with a row per rater: what becomes one clip, what training learns from, and how far raters agree."""

import csv
import json

import numpy as np
import pytest
import soundfile as sf

import avb
from avb.corpora import load_bursts
from avb.corpora.conversion import prepare
from avb.corpora.raters import Pooled, with_spreads
from avb.errors import CorpusError
from avb.metrics import ccc, rater_agreement, uar
from avb.run_files import read_metrics
from avb.tasks import Task
from avb.training.distillation import rated_rows

KINDS = Task("kinds", "classification", ("cry", "gasp", "laugh"))
SCORES = Task("two", "regression", ("x", "y"))


def write(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve clips of six speakers; three raters, of whom the third says what he likes."""
    folder = tmp_path_factory.mktemp("rated")
    generator = np.random.default_rng(0)
    kinds, scores = [], []
    for number in range(12):
        sf.write(folder / f"{number}.wav", 0.1 * generator.normal(size=2_000), 16_000)
        split = ("train", "validation", "test")[number // 2 % 3]
        true = KINDS.labels[number % 3]
        for rater in ("anna", "ben", "carl"):
            said = generator.choice(KINDS.labels) if rater == "carl" else true
            kinds.append([f"{number}.wav", f"s{number // 2}", split, rater, said])
            values = generator.random(2).round(3).tolist() if number else ["", 0.5]
            scores.append([f"{number}.wav", f"s{number // 2}", split, rater, *values])
    write(folder / "kinds.csv", ["file", "speaker", "split", "who", "kind"], kinds)
    write(folder / "scores.csv", ["file", "speaker", "split", "who", "x", "y"], scores)
    return folder


def test_a_clip_has_what_most_raters_say_and_the_mean_of_their_scores(folder):
    task, splits = load_bursts("folder", folder / "kinds.csv", rater_column="who")
    assert task.labels == KINDS.labels
    rows = {row["id"]: row for split in splits.values() for row in split}
    assert len(rows) == 12 and all(len(row["ratings"]) == 3 for row in rows.values())
    assert all(rows[f"{number}.wav"]["labels"] == number % 3 for number in range(12))

    task, splits = load_bursts("folder", folder / "scores.csv", rater_column="who")
    assert task.labels == ("x", "y")
    with open(folder / "scores.csv", newline="") as file:
        table = list(csv.DictReader(file))
    for row in (row for split in splits.values() for row in split):
        given = np.array([[float(cell[name] or "nan") for name in "xy"] for cell in table if cell["file"] == row["id"]])
        expected = given.mean(axis=0)
        np.testing.assert_allclose(row["labels"], expected, atol=1e-6)
        np.testing.assert_allclose(np.array(row["ratings"], float), given, atol=1e-6)


def test_training_learns_from_every_rater(folder):
    _, splits = load_bursts("folder", folder / "kinds.csv", rater_column="who")
    for row, shares in zip(splits["train"], rated_rows(KINDS, splits["train"]), strict=True):
        np.testing.assert_allclose(shares, np.bincount(row["ratings"], minlength=3) / 3, atol=1e-6)


def test_agreement_is_each_rating_against_the_others():
    assert rater_agreement(KINDS, [np.array([0, 0, 1]), np.array([2]), np.array([1, 1, -100])]) == pytest.approx(
        uar([0, 0, 1, 1, 1], [0, 0, 0, 1, 1])  # of two others that differ the first class counts
    )
    generator = np.random.default_rng(0)
    ratings = [generator.random((4, 2)) for _ in range(20)]
    one = np.concatenate(ratings)
    others = np.concatenate([(clip.sum(axis=0) - clip) / 3 for clip in ratings])
    assert rater_agreement(SCORES, ratings) == pytest.approx(np.mean(ccc(one, others)))
    assert np.isnan(rater_agreement(KINDS, [np.array([1])]))


@pytest.mark.parametrize("table", ["kinds", "scores"])
def test_a_run_scores_by_the_majority_and_says_how_far_raters_agree(folder, table, tmp_path, capsys):
    run = avb.train(
        folder / f"{table}.csv", rater_column="who", encoder="emogator-small", output_dir=tmp_path / "run", max_steps=1,
        per_device_train_batch_size=2, cache_dir=tmp_path / "cache", use_cpu=True, dataloader_num_workers=0,
    )  # fmt: skip
    scores = read_metrics(tmp_path / "run").splits["test"]
    assert scores["num_clips"] == 4 and -1 <= scores["rater_agreement"] <= 1
    assert "raters agree with each other" in capsys.readouterr().out
    assert run.metrics


def test_the_spread_of_raters_is_a_label_of_its_own(folder, tmp_path):
    options = {"rater_column": "who", "rater_targets": "spread", "label_range": (0.0, 2.0)}
    task, splits = load_bursts("folder", folder / "scores.csv", **options)
    assert task.labels == ("x", "y", "x_spread", "y_spread")
    for row in (row for split in splits.values() for row in split):
        ratings = np.array(row["ratings"], float)
        expected = [*ratings.mean(axis=0), *(2 * ratings.std(axis=0))]
        if row["id"] == "0.wav":
            assert np.isnan([row["labels"][0], row["labels"][2]]).all() and row["labels"][3] == 0  # all gave y a half
        else:
            np.testing.assert_allclose(row["labels"], expected, atol=1e-6)
    # Half say the lowest, half the highest: the whole range, wherever it lies.
    clips = Pooled([0], np.full((1, 1), 4, np.float32), [np.array([[1.0], [7.0]])])
    assert with_spreads(Task("one", "regression", ("x",), (1, 7)), clips)[1].labels.tolist() == [[4, 7]]

    run = avb.train(
        folder / "scores.csv", rater_column="who", rater_targets="spread", encoder="emogator-small", max_steps=1,
        output_dir=tmp_path / "run", per_device_train_batch_size=2, cache_dir=tmp_path / "cache", use_cpu=True,
        dataloader_num_workers=0,
    )  # fmt: skip
    assert [entry["label"] for entry in run.score((np.ones(8_000), 16_000))] == list(task.labels)
    assert read_metrics(tmp_path / "run").splits["test"]["per_label"].keys() == set(task.labels)


def test_what_most_raters_say_may_be_all_that_is_learned(folder, tmp_path):
    """The loss is that of the same clips in a table with one row each, and not that of the raters' shares."""
    rows = [
        [f"{n}.wav", f"s{n // 2}", ("train", "validation", "test")[n // 2 % 3], KINDS.labels[n % 3]] for n in range(12)
    ]
    table = write(folder / "majority.csv", ["file", "speaker", "split", "kind"], rows)
    losses = []
    for name, options in (
        (folder / "kinds.csv", {"rater_column": "who", "rater_targets": "majority"}),
        (table, {}),
        (folder / "kinds.csv", {"rater_column": "who"}),
    ):
        output = tmp_path / str(len(losses))
        avb.train(
            name, **options, encoder="emogator-small", output_dir=output, max_steps=1, use_cpu=True, logging_steps=1,
            per_device_train_batch_size=4, cache_dir=tmp_path / "cache", dataloader_num_workers=0,
            logging_strategy="steps",
        )  # fmt: skip
        history = json.loads((output / "trainer_state.json").read_text())["log_history"]
        losses += [row["loss"] for row in history if "loss" in row]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] != pytest.approx(losses[2], rel=1e-3)


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("scores", {"rater_targets": "spread"}, "needs --rater_column"),
        ("scores", {"rater_targets": "spraed", "rater_column": "who"}, "did you mean 'spread'"),
        ("scores", {"rater_targets": "majority", "rater_column": "who"}, "is for a classification, but this is a reg"),
        ("kinds", {"rater_targets": "spread", "rater_column": "who"}, "is for a regression, but this is a class"),
    ],
)
def test_targets_that_do_not_fit_are_refused(table, options, message, folder):
    options |= {"label_columns": ["kind"] if table == "kinds" else ["x", "y"]}
    with pytest.raises(CorpusError, match=message):
        load_bursts("folder", folder / f"{table}.csv", **options)


def test_prepared_shards_keep_the_ratings(folder, tmp_path):
    prepare("folder", folder / "kinds.csv", tmp_path / "shards", rater_column="who")
    _, splits = load_bursts("folder", tmp_path / "shards")
    _, own = load_bursts("folder", folder / "kinds.csv", rater_column="who")
    for name in own:
        assert splits[name]["ratings"][:] == own[name]["ratings"][:]


def test_what_does_not_fit_is_named(folder, tmp_path):
    header = ["file", "speaker", "who", "kind"]
    rows = [[f"{n}.wav", f"s{n}", who, KINDS.labels[n % 3]] for n in range(6) for who in "ab"]
    for damage, message in (
        (rows + [rows[0]], "line 14: rater 'a' rates the clip '0.wav' a second time; the first rating is in line 2"),
        (
            rows + [["0.wav", "s9", "c", "cry"]],
            "line 14, column 'speaker': the clip '0.wav' has 's9' here and 's0' in line 2",
        ),
    ):
        path = write(tmp_path / "clips.csv", header, damage)
        with pytest.raises(CorpusError, match=message.replace("(", r"\(")):
            load_bursts("folder", path, rater_column="who", audio_root=folder)
    with pytest.raises(CorpusError, match="rater_column"):
        load_bursts("folder", path, rater_column="rater", audio_root=folder)
    with pytest.raises(CorpusError, match="the clip"):  # without the option it is a repeated clip, as before
        load_bursts("folder", write(tmp_path / "clips.csv", header, rows), label_columns=["kind"], audio_root=folder)
