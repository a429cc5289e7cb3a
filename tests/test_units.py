"""What intervals draw: speakers, or what the names of files keep together, or clips."""

import numpy as np
from datasets import Dataset

from avb.files import write_table
from avb.metrics import Units, evaluate_predictions, resampling_units
from avb.reports.scored import read_predictions
from avb.run_files import Metrics, describe_tasks, predictions_path, write_metrics
from avb.tasks import Task
from avb.training.scoring import evaluate_split

TASK = Task("kinds", "classification", ("cry", "laugh"))
CLIPS, CUTS = 60, 6  # of a recording


def clips_of_recordings() -> tuple[Dataset, np.ndarray]:
    """Cuts of ten recordings, all of one recording right or all wrong: clips that are anything but independent."""
    recordings = [f"talk{number // CUTS}" for number in range(CLIPS)]
    labels = np.arange(CLIPS) % 2
    is_right = np.array([int(name.removeprefix("talk")) % 3 > 0 for name in recordings])
    rows = {"id": [f"{name}_{cut % CUTS}" for cut, name in enumerate(recordings)], "group": recordings}
    return Dataset.from_dict(rows | {"labels": labels}), np.eye(2)[np.where(is_right, labels, 1 - labels)]


def test_speakers_go_before_groups_and_a_clip_without_one_is_its_own():
    ids = ["a", "b", "c"]
    assert resampling_units(ids, ["x", "", "x"], ["g", "g", "g"]) == Units("speaker", ["x", "b", "x"])
    assert resampling_units(ids, ["", "", ""], ["g", "", "g"]) == Units("group", ["g", "b", "g"])
    assert resampling_units(ids, None, None) == resampling_units(ids, ["", "", ""]) == Units("clip", None)


def test_intervals_draw_whole_groups_where_no_speaker_is_known():
    clips, outputs = clips_of_recordings()
    found = evaluate_split(TASK, clips, outputs)
    assert (found["interval_unit"], found["interval_units"]) == ("group", CLIPS // CUTS)
    by_clip = evaluate_split(TASK, clips.remove_columns("group"), outputs)
    assert by_clip["interval_unit"] == "clip" and by_clip["uar"] == found["uar"]
    assert found["uar_high"] - found["uar_low"] > 2 * (by_clip["uar_high"] - by_clip["uar_low"])
    of_speakers = evaluate_predictions(TASK, clips["labels"][:], outputs, clips["group"][:])
    assert of_speakers == found | {"interval_unit": "speaker"}  # the same draw, of what is called otherwise


def test_a_finished_run_is_analysed_by_its_groups(tmp_path):
    clips, outputs = clips_of_recordings()
    names = {"task": TASK.name, "metric": TASK.metric, "labels": list(TASK.labels), "tasks": describe_tasks(TASK)}
    scores = evaluate_split(TASK, clips, outputs)
    facts = {"run_id": "1", "corpus": "mine", "seed": 0, "train_clips": 1, "train_seconds": 1.0}
    write_metrics(tmp_path, Metrics(**names, **facts, splits={"test": scores}))
    rows = [
        {"id": clip["id"], "group": clip["group"], "cry": given[0], "laugh": given[1]}
        | {"prediction": TASK.labels[int(given.argmax())], "label": TASK.labels[clip["labels"]]}
        for clip, given in zip(clips, outputs, strict=True)
    ]
    write_table(predictions_path(tmp_path, "test"), rows, list(rows[0]))
    (predictions,) = read_predictions(tmp_path, "test")
    assert predictions.evaluate() == scores and predictions.basis() == "test: 60 clips, 10 groups"
