"""Metrics against literal second implementations (plain loops), audmetric and scikit-learn, and at their edges."""

import math

import audmetric
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from literal_metrics import NAN, TRIO, TWO, class_data, literal_ccc, literal_recalls, literal_uar, regression_data
from transformers import EvalPrediction

from avb import metrics
from avb.metrics.further import REGRESSION
from avb.tasks import TASKS

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
