"""Fits temperature, label sets and intervals of one task, and measures them on speakers left out of the fit.

All speakers have equal weight, whatever their number of clips. Thresholds are those of split conformal prediction: the
⌈(n + 1) · coverage⌉-th smallest non-conformity of n clips, which is exact for clips exchangeable with those of the fit.
Clips of new speakers are exchangeable only approximately, so the coverage measured on held-out speakers is stored too.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from avb.corpora.splits import strata_of, stratified_folds
from avb.metrics import calibration_error_by_chance, expected_calibration_error
from avb.tasks import Task
from calibration_avb import COVERAGES, TaskCalibration
from pipeline_avb import softmax

MEASURED_COVERAGE = 0.9  # the requested coverage at which `measure` reports
MEASURED_FOLDS = 5
TEMPERATURES = (0.05, 20.0)


def calibrate_task(
    task: Task, logits: np.ndarray, labels: np.ndarray, speakers: Sequence[str] | None = None
) -> TaskCalibration:
    """Runs `fit_task` and `measure`; a temperature that raises the ECE on held-out speakers is replaced by 1.

    Arguments as in `fit_task`.
    """
    fitted, found = fit_task(task, logits, labels, speakers), measure(task, logits, labels, speakers)
    if found.get("ece", 0.0) > found.get("ece_raw", np.inf):
        fitted = fit_task(task, logits, labels, speakers, temperature=1.0)
        found = measure(task, logits, labels, speakers, temperature=1.0)
    return replace(fitted, measured=found)


def fit_task(
    task: Task,
    logits: np.ndarray,
    labels: np.ndarray,
    speakers: Sequence[str] | None = None,
    temperature: float | None = None,
) -> TaskCalibration:
    """Fits the entry of a task in `calibration.json`.

    Args:
        task: one task.
        logits: (clips, labels); scores for regression.
        labels: (clips,) class indices, none missing; or (clips, labels) scores, NaN for missing.
        speakers: the speaker of each clip; None if unknown.
        temperature: for classification; None fits it by maximum likelihood.
    """
    weights = _weights(len(labels), speakers)
    if task.kind == "regression":
        residuals = np.abs(logits - labels)  # (clips, labels)
        span = task.label_range[1] - task.label_range[0]
        widths = {}
        for index, label in enumerate(task.labels):
            known = ~np.isnan(residuals[:, index])
            widths[label] = thresholds(residuals[known, index], weights[known], largest=span)
        return TaskCalibration(half_widths=widths)
    temperature = temperature or fit_temperature(logits, labels, weights)
    probabilities = softmax(logits / temperature)
    nonconformity = 1 - probabilities[np.arange(len(labels)), labels]
    return TaskCalibration(temperature, thresholds(nonconformity, weights, largest=1.0))


def fit_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """The temperature with the lowest negative log-likelihood; `weights` (clips,) sum to one."""

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        top = scaled.max(axis=1)
        log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float(weights @ (log_sum - scaled[np.arange(len(labels)), labels]))

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-6})
    return round(float(np.exp(found.x)), 4)


def thresholds(nonconformity: np.ndarray, weights: np.ndarray, largest: float) -> tuple[float, ...]:
    """Conformal thresholds for `COVERAGES`: the smallest value that at least this share of the clips does not exceed.

    The share counts one additional clip, which is always above the threshold.

    Args:
        nonconformity: (clips,) how badly the prediction fits the target.
        weights: (clips,) positive.
        largest: the threshold if there are too few clips for the coverage.
    """
    order = np.argsort(nonconformity, kind="stable")
    number = len(order)
    shares = np.cumsum(weights[order]) / weights.sum() * number / (number + 1) if number else np.zeros(0)
    places = np.searchsorted(shares, np.array(COVERAGES) - 1e-12)
    values = np.append(nonconformity[order], largest)
    return tuple(round(float(value), 5) for value in np.ceil(values[places] * 1e5) / 1e5)


def measure(
    task: Task,
    logits: np.ndarray,
    labels: np.ndarray,
    speakers: Sequence[str] | None,
    temperature: float | None = None,
) -> dict[str, Any]:
    """Evaluates `fit_task` by cross-validation over speakers; arguments as there. Empty if there are too few speakers.

    Returns:
        "coverage", as requested, and "measured_coverage", over all clips with equal weight; "speakers_below", the share
        of speakers whose own coverage is more than 0.1 below the requested one. Classification: "set_size" (mean), and
        the expected calibration error with the temperature ("ece"), without it ("ece_raw"), and of a perfectly
        calibrated model: the mean ("ece_chance") and what it exceeds in 1 of 40 draws ("ece_chance_high"). Regression:
        "interval_width" (mean).
    """
    units = [str(index) for index in range(len(labels))] if speakers is None else list(speakers)
    if len(set(units)) < 2 * MEASURED_FOLDS:
        return {}
    folds = np.array(stratified_folds(units, strata_of(labels), MEASURED_FOLDS, task.name))
    probabilities = np.zeros_like(logits)
    covered = np.zeros(labels.shape, dtype=float)
    sizes = np.zeros(labels.shape, dtype=float)
    for fold in range(MEASURED_FOLDS):
        inside = folds == fold
        others = [unit for unit, is_inside in zip(units, inside, strict=True) if not is_inside]
        fitted = fit_task(task, logits[~inside], labels[~inside], others, temperature)
        if task.kind == "regression":
            half = fitted.intervals(task.labels, MEASURED_COVERAGE)
            covered[inside] = np.abs(logits[inside] - labels[inside]) <= half
            low, high = (np.clip(logits[inside] + sign * half, *task.label_range) for sign in (-1, 1))
            sizes[inside] = high - low
            continue
        probabilities[inside] = softmax(logits[inside] / fitted.temperature)
        sets = fitted.label_sets(probabilities[inside], MEASURED_COVERAGE)
        covered[inside] = sets[np.arange(inside.sum()), labels[inside]]
        sizes[inside] = sets.sum(axis=1)
    known = ~np.isnan(labels.astype(float))
    covered[~known] = np.nan
    per_clip = covered if covered.ndim == 1 else np.nanmean(covered, axis=1)
    by_unit = [np.nanmean(per_clip[np.array(units) == unit]) for unit in dict.fromkeys(units)]
    found: dict[str, Any] = {"coverage": MEASURED_COVERAGE, "measured_coverage": float(np.nanmean(covered))}
    if speakers is not None:
        found["speakers_below"] = float(np.mean(np.array(by_unit) < MEASURED_COVERAGE - 0.1))
    if task.kind == "regression":
        return _rounded(found | {"interval_width": float(sizes.mean())})
    chance, _, high = calibration_error_by_chance(probabilities)
    return _rounded(
        found
        | {
            "set_size": float(sizes.mean()),
            "ece_chance": chance,
            "ece_chance_high": high,
            "ece": expected_calibration_error(labels, probabilities),
            "ece_raw": expected_calibration_error(labels, softmax(logits)),
        }
    )


def _weights(number: int, speakers: Sequence[str] | None) -> np.ndarray:
    """Weights (clips,) that sum to one and give each speaker the same total."""
    if speakers is None:
        return np.full(number, 1 / number)
    _, units, counts = np.unique(np.asarray(speakers), return_inverse=True, return_counts=True)
    return 1 / (counts[units] * len(counts))


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) for name, value in values.items()}
