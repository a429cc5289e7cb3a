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
from avb.metrics import expected_calibration_error
from avb.tasks import Task
from calibration_avb import COVERAGES, TaskCalibration
from pipeline_avb import softmax

MEASURED_COVERAGE = 0.9  # for which coverage and size of sets are noted
MEASURED_FOLDS = 5
TEMPERATURES = (0.05, 20.0)


def calibrate_task(
    task: Task, logits: np.ndarray, labels: np.ndarray, speakers: Sequence[str] | None = None
) -> TaskCalibration:
    """`fit_task` with what `measure` finds; a temperature that does not lower the ECE of speakers left out is not kept.

    Arguments as `fit_task`.
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
    """What `calibration.json` holds of a task.

    Args:
        task: one task.
        logits: (clips, labels), of a regression the scores.
        labels: (clips,) class indices, none missing; or (clips, labels) scores, NaN for missing.
        speakers: each clip's; None where not known.
        temperature: of a classification; None is the likeliest.
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
    """The temperature of least negative log-likelihood, `weights` (clips,) summing to one."""

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        top = scaled.max(axis=1)
        log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float(weights @ (log_sum - scaled[np.arange(len(labels)), labels]))

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-6})
    return round(float(np.exp(found.x)), 4)


def thresholds(nonconformity: np.ndarray, weights: np.ndarray, largest: float) -> tuple[float, ...]:
    """For each of `COVERAGES` the value that so large a share of clips, and one more, does not exceed.

    Args:
        nonconformity: (clips,) how little the truth fits the prediction.
        weights: (clips,) positive.
        largest: what stands where the clips are too few for the coverage.
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
    """What `fit_task` is worth on speakers left out of it, fold by fold; arguments as there. Empty for a few speakers.

    Returns:
        "coverage" asked for and "measured_coverage", all clips alike; "speakers_below", the share of speakers whose own
        coverage is more than a tenth too low; of classes "set_size", the mean, and "ece" with and without the
        temperature ("ece_raw"); of scores "interval_width", the mean.
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
    return _rounded(
        found
        | {
            "set_size": float(sizes.mean()),
            "ece": expected_calibration_error(labels, probabilities),
            "ece_raw": expected_calibration_error(labels, softmax(logits)),
        }
    )


def _weights(number: int, speakers: Sequence[str] | None) -> np.ndarray:
    """(clips,): each speaker's share is the same; they sum to one."""
    if speakers is None:
        return np.full(number, 1 / number)
    _, units, counts = np.unique(np.asarray(speakers), return_inverse=True, return_counts=True)
    return 1 / (counts[units] * len(counts))


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) for name, value in values.items()}
