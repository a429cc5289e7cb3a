"""What a run says of its train clips, against counting them one by one."""

import json
import re
import statistics

import numpy as np
import pytest
from conftest import ROOT
from datasets import Dataset
from finished_run import make_run, random_clips

from avb.cards.card import build_card
from avb.cards.run import read_run
from avb.cards.tables import calibration_table, rejection_table
from avb.models import FOLDER
from avb.run_files import TRAIN_SET
from avb.tasks import MISSING_CLASS, TASKS, MultiTask
from avb.training.start import describe_clips
from calibration_avb import Calibration, TaskCalibration

SECONDS = [0.5, 1.0, 2.0, 4.5]


def clips_of(labels, speakers=None) -> Dataset:
    columns = {"labels": labels, "num_samples": [round(16_000 * seconds) for seconds in SECONDS]}
    return Dataset.from_dict(columns if speakers is None else columns | {"speaker": speakers})


def test_classes_are_counted():
    described = describe_clips(TASKS["type"], clips_of([2, 0, MISSING_CLASS, 2], ["anna", "ben", "anna", None]))
    counts = {label: values["clips"] for label, values in described["tasks"]["type"].items()}
    assert counts == dict.fromkeys(TASKS["type"].labels, 0) | {"Cry": 2, "Gasp": 1}
    assert (described["clips"], described["speakers"], described["hours"]) == (4, 2, round(8 / 3600, 3))
    assert described["seconds"] == {"lowest": 0.5, "median": 1.5, "highest": 4.5}


def test_ratings_have_mean_and_spread_over_the_clips_that_have_them():
    valence, arousal = [0.1, 0.25, 0.4, np.nan], [np.nan] * 4
    labels = describe_clips(TASKS["two"], clips_of(list(zip(valence, arousal, strict=True))))["tasks"]["two"]
    known = valence[:3]
    assert labels["Valence"] == {
        "clips": 3,
        "mean": pytest.approx(statistics.mean(known)),
        "standard_deviation": pytest.approx(statistics.pstdev(known), abs=5e-4),
    }
    assert labels["Arousal"]["clips"] == 0 and np.isnan(labels["Arousal"]["mean"])


@pytest.mark.parametrize("speakers", [None, [None] * 4, [""] * 4])
def test_no_speaker_is_invented(speakers):
    assert describe_clips(TASKS["type"], clips_of([0, 1, 2, 3], speakers))["speakers"] is None


def test_several_tasks_are_described_as_each_alone():
    task = MultiTask((TASKS["two"], TASKS["type"]))
    clips = random_clips(task, seed=3)
    rows = np.asarray(clips["labels"][:])
    alone = {
        "two": clips.remove_columns("labels").add_column("labels", rows[:, :2].tolist()),
        "type": clips.remove_columns("labels").add_column("labels", rows[:, 2].astype(int)),
    }
    described = describe_clips(task, clips)["tasks"]
    assert described == {name: describe_clips(TASKS[name], part)["tasks"][name] for name, part in alone.items()}


def test_the_card_shows_it_and_an_older_run_has_none(tmp_path):
    folder = make_run(tmp_path / "run", MultiTask((TASKS["two"], TASKS["type"])))
    card = str(build_card(read_run(folder), "x"))
    train_set = json.loads((folder / TRAIN_SET).read_text())
    assert f"Clips trained on: 230, of {train_set['speakers']} speakers, {train_set['hours']} hours" in card
    laughs = train_set["tasks"]["type"]["Laugh"]["clips"]
    assert re.search(rf"\| Laugh +\| {laughs} ", card) and "Task type:" in card and "| standard deviation" in card

    (folder / TRAIN_SET).unlink()
    card = str(build_card(read_run(folder), "x"))
    assert "Clips trained on: 230.\n" in card and "training clips" not in card


@pytest.mark.parametrize("model", ["emogator-small", "emogator-cnn"])
def test_the_cards_of_the_shipped_models_say_what_their_rejection_is_worth(model):
    rejection = read_run(FOLDER / model).rejection
    for card in ((ROOT / "model_cards" / f"{model}.md").read_text(), str(build_card(read_run(FOLDER / model), model))):
        assert (
            rejection_table(rejection) in card and f"{rejection['auroc']:.3f} on {rejection['bursts']} bursts" in card
        )
    assert rejection["uar_kept_at_60"] >= rejection["uar"]


@pytest.mark.parametrize("model", ["emogator-small", "emogator-cnn"])
def test_the_cards_of_the_shipped_models_say_how_sure_they_are(model):
    run = read_run(FOLDER / model)
    measured = run.calibration.tasks[""].measured
    table = calibration_table(run.calibration)
    assert f"| 0.9 | {measured['measured_coverage']:.3f} | {measured['set_size']:.3f} |" in re.sub(" +", " ", table)
    assert f"{measured['ece']:.3f}" in table
    for card in ((ROOT / "model_cards" / f"{model}.md").read_text(), str(build_card(run, model))):
        assert table in card and "fitted on 2700 clips of 30 speakers (validation)" in card


def test_a_calibration_of_several_tasks_has_a_row_per_task():
    measured = {"coverage": 0.9, "measured_coverage": 0.91}
    scores = TaskCalibration(measured=measured | {"interval_width": 0.5})
    classes = TaskCalibration(measured=measured | {"set_size": 3.2, "ece": 0.03})
    rows = calibration_table(Calibration("", {"two": scores, "type": classes, "high": TaskCalibration()})).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == ["task", "coverage, requested", "measured", "labels in a set", "width of an interval", "ECE"]
    assert cells[2:] == [["two", "0.9", "0.910", "", "0.500", ""], ["type", "0.9", "0.910", "3.200", "", "0.030"]]
    assert calibration_table(None) == calibration_table(Calibration("", {"": TaskCalibration()})) == ""


@pytest.mark.parametrize("model", ["emogator-small", "emogator-cnn"])
def test_the_cards_of_the_shipped_models_have_it(model):
    card = (ROOT / "model_cards" / f"{model}.md").read_text()
    assert "Clips trained on: 24030, of 267 speakers, " in card and "Training clips per label: 801.\n" in card
