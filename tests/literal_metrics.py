"""Metrics written out as plain loops, and data to compare them on."""

import math

import numpy as np

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
