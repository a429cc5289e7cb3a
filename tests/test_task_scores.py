"""The scores of a task with their intervals, against a literal bootstrap and at their edges."""

import json
import math

import numpy as np
import pytest
from literal_metrics import NAN, TRIO, TWO, class_data, literal_ccc, literal_recalls, literal_uar, regression_data

from avb import metrics
from avb.metrics import bootstrap
from avb.tasks import Task


def literal_resamples(num_clips, groups, num_resamples, seed):
    """Clip indices of each resample, drawn as the module draws them and then written out, clip by clip."""
    groups = list(range(num_clips)) if groups is None else list(groups)
    units = list(dict.fromkeys(groups))  # in order of appearance
    rng = np.random.default_rng(seed)
    for _ in range(num_resamples):
        drawn = rng.integers(len(units), size=len(units))
        yield [clip for unit in drawn for clip in range(num_clips) if groups[clip] == units[unit]]


@pytest.mark.parametrize("grouped", [False, True])
def test_regression_intervals_equal_a_literal_bootstrap(grouped):
    y_true, y_pred = regression_data(clips=40)
    y_true[:, 0][np.isnan(y_true).all(axis=1)] = 0.5  # every clip has a label, so that clip numbers stay comparable
    groups = [f"speaker {i % 9}" for i in range(40)] if grouped else None
    found = metrics.evaluate_predictions(TWO, y_true, y_pred, groups, num_resamples=50, seed=3)
    resampled = np.array(
        [
            [literal_ccc(y_true[clips, label], y_pred[clips, label]) for label in range(2)]
            for clips in literal_resamples(40, groups, 50, seed=3)
        ]
    )  # (resamples, labels)
    assert [found["ccc_low"], found["ccc_high"]] == pytest.approx(
        np.percentile(resampled.mean(axis=1), [2.5, 97.5]).tolist(), abs=1e-12
    )
    for index, label in enumerate(TWO.labels):
        scores = found["per_label"][label]
        bounds = np.percentile(resampled[:, index], [2.5, 97.5]).tolist()
        assert [scores["ccc_low"], scores["ccc_high"]] == pytest.approx(bounds, abs=1e-12)
    assert (found["interval_unit"], found["interval_units"]) == (("speaker", 9) if grouped else ("clip", 40))


@pytest.mark.parametrize("grouped", [False, True])
def test_classification_intervals_equal_a_literal_bootstrap(grouped):
    y_true, y_pred = class_data(clips=60)
    y_true[y_true == -100] = 1
    groups = np.arange(60) % 11 if grouped else None
    found = metrics.evaluate_predictions(TRIO, y_true, y_pred, groups, num_resamples=50, seed=3)
    draws = list(literal_resamples(60, groups, 50, seed=3))
    uars = [literal_uar(y_true[clips], y_pred[clips], 3) for clips in draws]
    assert [found["uar_low"], found["uar_high"]] == pytest.approx(np.percentile(uars, [2.5, 97.5]).tolist(), abs=1e-12)
    recalls = np.array([literal_recalls(y_true[clips], y_pred[clips], 3) for clips in draws])
    for index, label in enumerate(TRIO.labels):
        scores = found["per_label"][label]
        bounds = np.percentile(recalls[:, index], [2.5, 97.5]).tolist()
        assert [scores["recall_low"], scores["recall_high"]] == pytest.approx(bounds, abs=1e-12)
        assert scores["recall"] == pytest.approx(literal_recalls(y_true, y_pred, 3)[index])
        assert scores["count"] == list(y_true).count(index)


@pytest.mark.parametrize("grouped", [False, True])
def test_each_resample_has_the_score_of_a_literal_one(grouped):
    groups = [f"speaker {i % 7}" for i in range(40)] if grouped else None
    y_true, y_pred = regression_data(clips=40, missing=0)
    found = metrics.resampled_scores(TWO, y_true, y_pred, groups, num_resamples=20, seed=5)
    expected = [
        np.mean([literal_ccc(y_true[clips, label], y_pred[clips, label]) for label in range(2)])
        for clips in literal_resamples(40, groups, 20, seed=5)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)

    y_true, y_pred = class_data(clips=40)
    y_true[y_true == -100] = 1
    found = metrics.resampled_scores(TRIO, y_true, y_pred, groups, num_resamples=20, seed=5)
    draws = literal_resamples(40, groups, 20, seed=5)
    expected = [np.nanmean(literal_recalls(y_true[clips], y_pred[clips], 3)) for clips in draws]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_chunks_do_not_change_the_resamples(monkeypatch):
    y_true, y_pred = regression_data(clips=50)
    whole = metrics.evaluate_predictions(TWO, y_true, y_pred, num_resamples=30)
    drawn = []
    counted = np.bincount
    monkeypatch.setattr(np, "bincount", lambda *args, **kwargs: drawn.append(1) or counted(*args, **kwargs))
    monkeypatch.setattr(bootstrap, "RESAMPLED_COUNTS_AT_ONCE", 50 * 7)  # 30 resamples as 7 + 7 + 7 + 7 + 2
    in_chunks = metrics.evaluate_predictions(TWO, y_true, y_pred, num_resamples=30)
    assert len(drawn) == 30
    assert [in_chunks[key] for key in ("ccc_low", "ccc_high")] == pytest.approx(
        [whole[key] for key in ("ccc_low", "ccc_high")], abs=1e-12
    )


def test_point_scores_of_a_task_are_those_of_the_functions():
    y_true, y_pred = regression_data()
    y_true[4] = NAN
    found = metrics.evaluate_predictions(TWO, y_true, y_pred, num_resamples=20)
    assert found["num_clips"] == found["interval_units"] == int((~np.isnan(y_true)).any(axis=1).sum()) < 60
    assert found["ccc"] == pytest.approx(metrics.ccc(y_true, y_pred).mean(), abs=1e-12)
    assert found["pearson"] == pytest.approx(metrics.pearson(y_true, y_pred).mean(), abs=1e-12)
    assert found["per_label"]["Arousal"]["ccc"] == pytest.approx(metrics.ccc(y_true, y_pred)[1], abs=1e-12)
    assert found["per_label"]["Arousal"]["pearson"] == pytest.approx(metrics.pearson(y_true, y_pred)[1], abs=1e-12)
    y_true, y_pred = class_data()
    found = metrics.evaluate_predictions(TRIO, y_true, y_pred, num_resamples=20)
    assert found["num_clips"] == (y_true != -100).sum() < 90
    assert found["confusion_matrix"] == metrics.confusion_matrix(y_true, y_pred, 3).tolist()
    for name in ("uar", "accuracy", "macro_f1"):
        assert found[name] == pytest.approx(getattr(metrics, name)(y_true, y_pred), abs=1e-12)


def test_results_are_json_and_the_seed_decides_them():
    regression, classes = regression_data(), class_data()
    for task, (y_true, y_pred) in ((TWO, regression), (TRIO, classes)):
        low = f"{task.metric}_low"
        first, again, other = (
            metrics.evaluate_predictions(task, y_true, y_pred, num_resamples=100, seed=seed) for seed in (1, 1, 2)
        )
        assert json.loads(json.dumps(first)) == first == again
        assert first[low] != other[low] and first[task.metric] == other[task.metric]
        assert first[low] < first[task.metric] < first[f"{task.metric}_high"]


def test_logits_and_class_indices_agree():
    y_true, y_pred = class_data()
    logits = 3.0 * np.eye(3)[y_pred] + np.random.default_rng(1).random((len(y_pred), 3))
    by_logits = metrics.evaluate_predictions(TRIO, y_true, logits, num_resamples=20)
    assert by_logits == metrics.evaluate_predictions(TRIO, y_true, y_pred, num_resamples=20)


def test_one_unit_has_a_score_and_no_interval():
    y_true, y_pred = regression_data()
    found = metrics.evaluate_predictions(TWO, y_true, y_pred, groups=["only"] * 60, num_resamples=20)
    assert math.isnan(found["ccc_low"]) and math.isnan(found["ccc_high"]) and found["ccc"] > 0.5
    assert found["interval_units"] == 1
    found = metrics.evaluate_predictions(TRIO, [1], [1], num_resamples=20)
    assert (
        found["uar_present"] == 1.0
        and math.isnan(found["uar_present_low"])
        and math.isnan(found["per_label"]["b"]["recall_high"])
    )


def test_a_resample_of_one_value_is_undefined_however_its_sums_round():
    # One in nine resamples of three speakers is a single speaker: here one value, seven times or more, so 0/0.
    task = Task("many", "regression", tuple(f"label {i}" for i in range(50)))  # the sums of some labels are inexact
    y = np.repeat(np.random.default_rng(0).random((3, 50)), 7, axis=0)
    few = metrics.evaluate_predictions(task, y, y, groups=np.repeat([0, 1, 2], 7), num_resamples=200)
    assert all(math.isnan(scores["ccc_low"]) for scores in few["per_label"].values())
    assert few["ccc"] == pytest.approx(1.0)
    many = metrics.evaluate_predictions(task, y, y, groups=np.arange(21), num_resamples=200)
    assert [many["ccc_low"], many["ccc_high"]] == pytest.approx([1.0, 1.0])


def test_no_clip_gives_nan_everywhere():
    found = metrics.evaluate_predictions(TWO, np.zeros((0, 2)), np.zeros((0, 2)), num_resamples=5)
    assert found["num_clips"] == found["interval_units"] == 0
    assert all(math.isnan(found[key]) for key in ("ccc", "ccc_low", "ccc_high", "pearson"))
    found = metrics.evaluate_predictions(TRIO, [-100], [0], num_resamples=5)
    assert found["num_clips"] == 0 and all(math.isnan(found[key]) for key in ("uar", "uar_low", "accuracy", "macro_f1"))


def test_one_undefined_label_makes_the_mean_undefined_and_no_other_label():
    y_true, y_pred = regression_data(missing=0.0)
    y_true[:, 1] = NAN
    found = metrics.evaluate_predictions(TWO, y_true, y_pred, num_resamples=20)
    assert math.isnan(found["ccc"]) and math.isnan(found["ccc_low"])
    assert found["per_label"]["Valence"]["ccc_low"] > 0.4 and math.isnan(found["per_label"]["Arousal"]["ccc"])


def test_a_nan_prediction_shows_in_score_and_interval():
    y_true, y_pred = regression_data(missing=0.0)
    y_pred[7, 1] = NAN
    found = metrics.evaluate_predictions(TWO, y_true, y_pred, num_resamples=20)
    assert all(math.isnan(found["per_label"]["Arousal"][key]) for key in ("ccc", "ccc_low", "ccc_high", "pearson"))
    assert found["per_label"]["Valence"]["ccc_low"] > 0.4


def test_a_class_too_rare_to_be_drawn_has_no_interval_and_a_rare_one_has():
    # Of n units that hold a class, a resample misses all with probability about exp(-n): 37 % for one, .2 % for six.
    y_true = [0] * 60 + [1] * 6 + [2]
    y_pred = [0] * 50 + [1] * 10 + [1, 1, 1, 0, 0, 0] + [2]
    found = metrics.evaluate_predictions(TRIO, y_true, y_pred)["per_label"]
    assert found["c"]["recall"] == 1.0 and math.isnan(found["c"]["recall_low"])
    assert 0.0 <= found["b"]["recall_low"] < 0.5 < found["b"]["recall_high"] <= 1.0


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # t standard normal, p = .8 t + .6 e: variances 1 and 1, covariance .8, equal means: CCC is .8.
    rng = np.random.default_rng(0)
    task = Task("many", "regression", tuple(f"label {i}" for i in range(300)))  # 300 independent experiments at once
    y_true = rng.normal(size=(100, 300))
    y_pred = 0.8 * y_true + 0.6 * rng.normal(size=(100, 300))
    labels = metrics.evaluate_predictions(task, y_true, y_pred, num_resamples=400)["per_label"].values()
    covered = np.mean([scores["ccc_low"] <= 0.8 <= scores["ccc_high"] for scores in labels])
    # 95 % nominal; the standard error of 300 experiments is 1.3 %, and percentile intervals of 100 clips run short.
    assert 0.90 <= covered <= 0.985


def test_speakers_widen_the_interval_where_their_clips_hang_together_and_only_there():
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(30), 20)
    y_true = rng.normal(size=(600, 2))
    noise = np.stack([rng.normal(size=30)[speakers], rng.normal(size=600)], axis=1)  # label 0: one offset a speaker
    y_pred = y_true + noise
    by_clip, by_speaker = (
        metrics.evaluate_predictions(TWO, y_true, y_pred, groups)["per_label"] for groups in (None, speakers)
    )
    ratio = {
        label: (by_speaker[label]["ccc_high"] - by_speaker[label]["ccc_low"])
        / (by_clip[label]["ccc_high"] - by_clip[label]["ccc_low"])
        for label in TWO.labels
    }
    assert ratio["Valence"] > 1.5 and 0.6 < ratio["Arousal"] < 1.4


@pytest.mark.parametrize(
    ("task", "y_true", "y_pred", "options", "message"),
    [
        (TWO, [[0.1, 0.2]], [[0.1]], {}, r"y_pred of task 'two' must be \(clips, 2\), got \(1, 1\)"),
        (TWO, [0.1, 0.2], [[0.1, 0.2]], {}, r"y_true of task 'two' must be \(clips, 2\), got \(2,\)"),
        (TWO, [[0.1, 0.2]], [[0.1, 0.2]] * 2, {}, "equally long, got 1 and 2 clips"),
        (TRIO, [0], [[0.1, 0.2]], {}, r"logits of task 'trio' must be \(clips, 3\), got \(1, 2\)"),
        (TRIO, [0, 1], [[0.1, 0.2, 0.3], [0.0, NAN, 0.0]], {}, "NaN logits in 1 of 2 clips"),
        (TRIO, [0, 1], [0], {}, "equally long, got 2 and 1 clips"),
        (TRIO, [0, 3], [0, 1], {}, "y_true must contain class indices from 0 to 2, got 3"),
        (TRIO, [0, 1], [0, 1], {"groups": ["a"]}, "groups must have one entry per clip, got 1 for 2 clips"),
        (TRIO, [0, 1], [0, 1], {"groups": ["a", None]}, "groups must not contain None or NaN"),
        (TRIO, [0, 1], [0, 1], {"groups": [1.0, NAN]}, "groups must not contain None or NaN"),
        (TRIO, [0, 1], [0, 1], {"num_resamples": 0}, "num_resamples must be at least 1, got 0"),
    ],
)
def test_arguments_are_checked(task, y_true, y_pred, options, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate_predictions(task, y_true, y_pred, **options)
