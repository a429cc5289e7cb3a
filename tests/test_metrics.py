"""Metrics against literal second implementations (plain loops), audmetric and scikit-learn, and at their edges."""

import json
import math

import audmetric
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from transformers import EvalPrediction

from avb import metrics
from avb.metrics import bootstrap
from avb.metrics.further import REGRESSION
from avb.tasks import TASKS, Task

NAN = float("nan")
TWO = TASKS["two"]
TRIO = Task("trio", "classification", ("a", "b", "c"))


def literal_ccc(y_true, y_pred):
    """The formula, clip by clip; clips without a target are skipped."""
    pairs = [(t, p) for t, p in zip(y_true, y_pred, strict=True) if not math.isnan(t)]
    n = len(pairs)
    mean_true = sum(t for t, _ in pairs) / n
    mean_pred = sum(p for _, p in pairs) / n
    var_true = sum((t - mean_true) ** 2 for t, _ in pairs) / n
    var_pred = sum((p - mean_pred) ** 2 for _, p in pairs) / n
    covariance = sum((t - mean_true) * (p - mean_pred) for t, p in pairs) / n
    return 2 * covariance / (var_true + var_pred + (mean_true - mean_pred) ** 2)


def literal_recalls(y_true, y_pred, num_labels):
    found = []
    for label in range(num_labels):
        hits = [p == label for t, p in zip(y_true, y_pred, strict=True) if t == label]
        found.append(sum(hits) / len(hits) if hits else NAN)
    return found


def literal_uar(y_true, y_pred, num_labels):
    defined = [recall for recall in literal_recalls(y_true, y_pred, num_labels) if not math.isnan(recall)]
    return sum(defined) / len(defined)


def regression_data(clips=60, missing=0.2, seed=0):
    rng = np.random.default_rng(seed)
    y_true = rng.random((clips, 2))
    y_pred = 0.6 * y_true + 0.3 * rng.random((clips, 2))
    y_true[rng.random((clips, 2)) < missing] = NAN
    return y_true, y_pred


def class_data(clips=90, num_labels=3, seed=0):
    rng = np.random.default_rng(seed)
    y_true = rng.integers(num_labels, size=clips)
    y_pred = np.where(rng.random(clips) < 0.5, y_true, rng.integers(num_labels, size=clips))
    y_true[rng.random(clips) < 0.1] = -100
    return y_true, y_pred


# ---------------------------------------------------------------------------------------------------- regression


def test_ccc_equals_the_literal_formula_and_audmetric():
    y_true, y_pred = regression_data()
    expected = [literal_ccc(y_true[:, label], y_pred[:, label]) for label in range(2)]
    assert metrics.ccc(y_true, y_pred) == pytest.approx(expected, abs=1e-12)
    by_audmetric = [audmetric.concordance_cc(y_true[:, i], y_pred[:, i], ignore_nan=True) for i in range(2)]
    assert metrics.ccc(y_true, y_pred) == pytest.approx(by_audmetric, abs=1e-12)
    one_label = metrics.ccc(y_true[:, 0], y_pred[:, 0])
    assert isinstance(one_label, float) and one_label == pytest.approx(expected[0], abs=1e-12)


def test_ccc_by_hand():
    # means 1 and 2/3, variances 2/3 and 2/9, covariance 1/3: (2/3) / (2/3 + 2/9 + 1/9)
    assert metrics.ccc([0, 1, 2], [0, 1, 1]) == pytest.approx(2 / 3, abs=1e-15)


def test_ccc_keeps_its_digits_far_from_zero():
    y_true, y_pred = regression_data(missing=0.0)
    assert metrics.ccc(y_true + 1e6, y_pred + 1e6) == pytest.approx(metrics.ccc(y_true, y_pred), abs=1e-8)


def test_pearson_equals_numpy_and_ignores_scale_where_ccc_does_not():
    y_true, y_pred = regression_data(missing=0.0)
    expected = [np.corrcoef(y_true[:, i], y_pred[:, i])[0, 1] for i in range(2)]
    assert metrics.pearson(y_true, y_pred) == pytest.approx(expected, abs=1e-12)
    assert metrics.pearson(y_true, 3 * y_pred) == pytest.approx(expected, abs=1e-12)
    assert np.all(metrics.ccc(y_true, 3 * y_pred) < 0.9 * metrics.ccc(y_true, y_pred))


def test_rounding_never_lifts_a_perfect_correlation_above_one():
    rng = np.random.default_rng(0)
    y_true = rng.random((20, 200))  # unclipped, a few of 200 labels come out as 1.0000000000000002
    assert metrics.pearson(y_true, 3 * y_true).max() == 1.0 and metrics.pearson(y_true, -y_true).min() == -1.0


def test_a_missing_target_equals_a_removed_clip():
    y_true, y_pred = regression_data(missing=0.3)
    for label in range(2):
        kept = ~np.isnan(y_true[:, label])
        assert 0 < kept.sum() < len(kept)
        for score in (metrics.ccc, metrics.pearson, metrics.official_ccc):
            alone = score(y_true[kept, label], y_pred[kept, label])
            assert score(y_true, y_pred)[label] == pytest.approx(alone, abs=1e-13)


# .1 and .7 are no binary fractions: their means over 7 clips are inexact, which must not pass for variance.
@pytest.mark.parametrize(
    ("y_true", "y_pred", "ccc", "pearson"),
    [
        ([0.1] * 7, [0.1] * 7, NAN, NAN),
        ([0.1] * 7, [0.7] * 7, 0.0, NAN),
        ([0.1, 0.2, 0.7], [0.1] * 3, 0.0, NAN),
        ([0.7] * 3, [0.1, 0.2, 0.7], 0.0, NAN),
        ([0.1, 0.2, 0.7], [0.1, 0.2, 0.7], 1.0, 1.0),
        ([0.0, 1.0], [1.0, 0.0], -1.0, -1.0),
        ([], [], NAN, NAN),
        ([NAN, NAN], [0.1, 0.2], NAN, NAN),
        ([0.3], [0.4], 0.0, NAN),
        ([0.3], [0.3], NAN, NAN),
        ([0.1, 0.2], [0.1, NAN], NAN, NAN),
    ],
)
def test_regression_edges(y_true, y_pred, ccc, pearson):
    assert metrics.ccc(y_true, y_pred) == pytest.approx(ccc, abs=1e-12, nan_ok=True)
    assert metrics.pearson(y_true, y_pred) == pytest.approx(pearson, abs=1e-12, nan_ok=True)


def test_a_nan_prediction_is_ignored_only_where_there_is_no_target():
    assert metrics.ccc([0.1, 0.2, NAN], [0.1, 0.2, NAN]) == pytest.approx(1.0, abs=1e-12)


def test_official_ccc_mixes_divisors():
    y = np.random.default_rng(0).random(16)
    assert metrics.official_ccc(y, y) == pytest.approx(0.9375, abs=1e-12)
    y_true, y_pred = regression_data(missing=0.0)
    for label in range(2):
        t, p = y_true[:, label], y_pred[:, label]
        covariance = np.mean((t - t.mean()) * (p - p.mean()))
        expected = 2 * covariance / (np.var(t, ddof=1) + np.var(p, ddof=1) + (t.mean() - p.mean()) ** 2)
        assert metrics.official_ccc(y_true, y_pred)[label] == pytest.approx(expected, abs=1e-12)
    assert math.isnan(metrics.official_ccc([0.1], [0.2]))


def test_regression_shapes_are_checked():
    for y_true, y_pred in (([0.1, 0.2], [0.1]), ([[0.1]], [0.1]), ([[[0.1]]], [[[0.1]]])):
        with pytest.raises(ValueError, match="must have one shape"):
            metrics.ccc(y_true, y_pred)


# ------------------------------------------------------------------------------------------------ classification


def test_classification_equals_literal_loops_scikit_learn_and_audmetric():
    y_true, y_pred = class_data()
    kept = y_true != -100
    t, p = y_true[kept], y_pred[kept]
    assert 0 < kept.sum() < len(kept)
    assert metrics.confusion_matrix(y_true, y_pred, 3).tolist() == sklearn.metrics.confusion_matrix(t, p).tolist()
    assert metrics.recalls(y_true, y_pred, 3) == pytest.approx(literal_recalls(t, p, 3), abs=1e-12)
    assert metrics.uar(y_true, y_pred) == pytest.approx(literal_uar(t, p, 3), abs=1e-12)
    assert metrics.uar(y_true, y_pred) == pytest.approx(audmetric.unweighted_average_recall(t, p), abs=1e-12)
    assert metrics.accuracy(y_true, y_pred) == pytest.approx(sklearn.metrics.accuracy_score(t, p), abs=1e-12)
    by_sklearn = sklearn.metrics.f1_score(t, p, average="macro")
    assert metrics.macro_f1(y_true, y_pred) == pytest.approx(by_sklearn, abs=1e-12)


def test_rows_of_the_confusion_matrix_are_true_classes():
    assert metrics.confusion_matrix([0, 0, 1, -100], [1, 1, 1, 0], 3).tolist() == [[0, 2, 0], [0, 1, 0], [0, 0, 0]]


def test_a_class_that_does_not_occur_is_left_out_of_the_mean():
    y_true, y_pred = [0, 0, 1, 1], [0, 2, 1, 1]
    assert metrics.recalls(y_true, y_pred, 4) == pytest.approx([0.5, 1.0, NAN, NAN], nan_ok=True)
    assert metrics.uar(y_true, y_pred, 4) == metrics.uar(y_true, y_pred) == pytest.approx(0.75)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert sklearn.metrics.balanced_accuracy_score(y_true, y_pred) == pytest.approx(0.75)
    # F1 has a false positive to count for class 2, which therefore belongs to the mean; class 3 does not.
    assert metrics.macro_f1(y_true, y_pred, 4) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metrics.macro_f1(y_true, y_pred, 4) == pytest.approx(
        sklearn.metrics.f1_score(y_true, y_pred, average="macro")
    )


@pytest.mark.parametrize(("y_true", "y_pred"), [([], []), ([-100, -100], [0, 1])])
def test_classification_without_a_clip_is_undefined(y_true, y_pred):
    for score in (metrics.uar, metrics.accuracy, metrics.macro_f1):
        assert math.isnan(score(y_true, y_pred))
    assert np.isnan(metrics.recalls(y_true, y_pred, 3)).tolist() == [True] * 3
    assert metrics.confusion_matrix(y_true, y_pred, 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([0, 1], [0], "equally long, got 2 and 1"),
        ([0, 3], [0, 1], "y_true must contain class indices from 0 to 2, got 3"),
        ([0, 1], [0, -100], "y_pred must contain class indices from 0 to 2, got -100"),
        ([0, 1], [0.0, 1.0], r"y_pred must be integers of shape \(clips,\), got float64"),
        ([[0], [1]], [0, 1], r"y_true must be integers of shape \(clips,\), got int64 of shape \(2, 1\)"),
    ],
)
def test_class_indices_are_checked(y_true, y_pred, message):
    with pytest.raises(ValueError, match=message):
        metrics.uar(y_true, y_pred, 3)


# ------------------------------------------------------------------------------------------- a task's whole score


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


# -------------------------------------------------------------------------------------------------- Trainer's hook


@pytest.mark.parametrize("as_tuple", [False, True])
def test_the_trainer_hook_of_a_regression_task(as_tuple):
    y_true, y_pred = (array.astype(np.float32) for array in regression_data())
    predictions = (y_pred, np.zeros((60, 5, 4))) if as_tuple else y_pred
    found = metrics.compute_metrics(TWO)(EvalPrediction(predictions=predictions, label_ids=y_true))
    expected = [literal_ccc(y_true[:, i].tolist(), y_pred[:, i].tolist()) for i in range(2)]
    further = [name for name, score in REGRESSION.items() if score.each_epoch]
    assert list(found) == ["ccc", "pearson", *further, "ccc_Valence", "ccc_Arousal"]
    assert all(type(value) is float for value in found.values())
    assert [found["ccc_Valence"], found["ccc_Arousal"]] == pytest.approx(expected, abs=1e-10)
    assert found["ccc"] == pytest.approx(sum(expected) / 2, abs=1e-10)
    assert found["pearson"] == pytest.approx(metrics.pearson(y_true, y_pred).mean(), abs=1e-12)


def test_the_trainer_hook_of_a_classification_task():
    y_true, y_pred = class_data()
    logits = 3.0 * np.eye(3)[y_pred]
    found = metrics.compute_metrics(TRIO)(EvalPrediction(predictions=(logits, None), label_ids=y_true))
    assert all(type(value) is float for value in found.values())
    expected = {name: getattr(metrics, name)(y_true, y_pred) for name in ("uar", "accuracy", "macro_f1")}
    expected["uar_present"] = expected["uar"]
    assert expected.items() <= found.items()


def test_a_class_without_a_clip_is_named_and_epochs_are_compared_by_the_others():
    y_true, y_pred = [0, 0, 1, 1] * 20, [0, 1, 1, 1] * 20
    found = metrics.evaluate_predictions(TRIO, y_true, y_pred)
    assert found["missing_classes"] == ["c"] and found["chance"] == 0.5
    assert math.isnan(found["uar"]) and math.isnan(found["uar_low"]) and math.isnan(found["uar_high"])
    assert found["uar_present"] == 0.75 and found["uar_present_low"] < 0.75 < found["uar_present_high"]
    assert metrics.best_metric(TRIO) == "uar_present"
    logits = 3.0 * np.eye(3)[y_pred]
    point = metrics.compute_metrics(TRIO)(EvalPrediction(predictions=logits, label_ids=np.array(y_true)))
    assert point["uar_present"] == 0.75 and math.isnan(point["uar"])


def test_chance_and_a_model_that_has_one_answer():
    y_true = [0] * 50 + [1] * 6 + [2] * 4
    found = metrics.evaluate_predictions(TRIO, y_true, [0] * 60)
    assert found["uar"] == found["chance"] == pytest.approx(1 / 3) and found["predicts_only"] == TRIO.labels[0]
    assert "predicts_only" not in metrics.evaluate_predictions(TRIO, y_true, [0] * 59 + [1])
    assert metrics.evaluate_predictions(TASKS["two"], *regression_data(missing=0.0))["chance"] == 0.0


def test_a_recall_of_one_or_zero_has_an_interval():
    y_true, y_pred = [0] * 30 + [1] * 30 + [2] * 30, [0] * 30 + [1] * 15 + [2] * 15 + [0] * 30
    found = metrics.evaluate_predictions(TRIO, y_true, y_pred)["per_label"]
    all_right, none_right = scipy.stats.binomtest(30, 30), scipy.stats.binomtest(0, 30)
    for label, test in ((TRIO.labels[0], all_right), (TRIO.labels[2], none_right)):
        expected = test.proportion_ci(method="wilson")
        assert [found[label]["recall_low"], found[label]["recall_high"]] == pytest.approx([*expected], abs=1e-6)
    hits, counts = np.array([0, 3, 7]), np.array([5, 9, 7])
    literal = [scipy.stats.binomtest(*pair).proportion_ci(method="wilson") for pair in zip(hits, counts, strict=True)]
    assert metrics.wilson_interval(hits, counts).T == pytest.approx(np.array(literal), abs=1e-6)
    assert np.isnan(metrics.wilson_interval(0, 0)).all()


def test_the_trainer_hook_names_a_wrong_shape():
    with pytest.raises(ValueError, match=r"y_pred of task 'two' must be \(clips, 2\), got \(4, 3\)"):
        metrics.compute_metrics(TWO)(EvalPrediction(predictions=np.zeros((4, 3)), label_ids=np.zeros((4, 2))))
