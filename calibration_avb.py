"""How reliable a model's scores are, measured on speakers it was not trained on: `calibration.json` in its folder.

Self-contained code for the Hub, which reads the file stored beside the weights; `avb.calibration` fits it. Per task, it
contains

- a temperature, which divides the logits before they become probabilities (Guo et al. 2017, arXiv:1706.04599),
- thresholds of label sets: a set has all labels with a probability of at least 1 - threshold, and contains the true
  label with the stated coverage (least ambiguous sets: Sadinle, Lei & Wasserman 2019, JASA 114(525), 223-234),
- half widths of intervals around regression scores (split conformal prediction: Lei et al. 2018, JASA 113(523),
  1094-1111).

For all tasks together, it contains a classifier that tells bursts from speech, music, noise and silence, and the
fingerprint of the weights it was fitted to: with other weights it is not used. Logits are never changed.
"""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.utils import cached_file

CALIBRATION_FILE = "calibration.json"
RATES = (5, 10, 20, 60, 180, 360)  # false alarms per hour with a threshold
COVERAGES = tuple(round(0.5 + step / 1000, 3) for step in range(500))  # with thresholds: 0.5 to 0.999


@dataclass(frozen=True)
class TaskCalibration:
    """The calibration of one task.

    Attributes:
        temperature: of a classification's logits.
        set_thresholds: of a classification: for each of `COVERAGES`, how far the probability of a label in the set may
            be below 1.
        half_widths: of a regression: for each label, one half width for each of `COVERAGES`.
        measured: measurements on speakers left out of the fit, for information.
    """

    temperature: float = 1.0
    set_thresholds: tuple[float, ...] = ()
    half_widths: dict[str, tuple[float, ...]] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    def label_sets(self, probabilities: np.ndarray, coverage: float) -> np.ndarray:
        """Which labels are in each clip's set: booleans (clips, labels). The most likely label is always in the set.

        Args:
            probabilities: (clips, labels), after the temperature.
            coverage: fraction of clips whose set should contain the true label, 0.5 to 0.999.

        Raises:
            ValueError: the coverage is out of range, or the task has no thresholds.
        """
        threshold = _at(self.set_thresholds, coverage)
        likeliest = probabilities >= probabilities.max(axis=-1, keepdims=True)
        return (1 - probabilities <= threshold) | likeliest

    def intervals(self, labels: Iterable[str], coverage: float) -> np.ndarray:
        """Half widths (labels,) of intervals that contain a clip's true score with the given `coverage`.

        Raises:
            ValueError: the coverage is invalid, or a label has no half widths.
        """
        return np.array([_at(self.half_widths.get(label, ()), coverage) for label in labels])


@dataclass(frozen=True)
class BurstCheck:
    """Whether a clip is a vocal burst: a small network on the logarithms of a model's scores.

    Attributes:
        weights: one per hidden unit; without hidden units, one per label (a logistic regression on `log_scores`).
        bias: added to their sum.
        thresholds: of `burst_scores`, one for each of `RATES`.
        measured: measurements on speakers, languages and packages left out of the fit, for information.
        hidden_weights: for each hidden unit, one weight per label of `log_scores`.
        hidden_biases: one per hidden unit; the units are rectified (ReLU).
    """

    weights: tuple[float, ...]
    bias: float
    thresholds: tuple[float, ...] = ()
    measured: dict[str, Any] = field(default_factory=dict)
    hidden_weights: tuple[tuple[float, ...], ...] = ()
    hidden_biases: tuple[float, ...] = ()

    @property
    def num_labels(self) -> int:
        """The number of labels of the model that it was fitted to."""
        return len(self.hidden_weights[0] if self.hidden_weights else self.weights)

    def threshold(self, false_alarms_per_hour: float) -> float:
        """The `burst_scores` reached by this many 2 s windows (one per second) in an hour without bursts.

        Raises:
            ValueError: the rate is not one of `RATES`.
        """
        if false_alarms_per_hour not in RATES[: len(self.thresholds)]:
            raise ValueError(
                f"false_alarms_per_hour={false_alarms_per_hour:g}: use one of {', '.join(map(str, RATES))}"
            )
        return self.thresholds[RATES.index(int(false_alarms_per_hour))]


@dataclass(frozen=True)
class Calibration:
    """The calibration of a model.

    Attributes:
        weights: `weights_fingerprint` of the model that it was fitted to.
        tasks: by the name of the task in a multitask; "" for a single task.
        fitted_on: split, number of clips and speakers, for information.
        burst: tells bursts from other sounds; None if it was not fitted.
    """

    weights: str
    tasks: dict[str, TaskCalibration]
    fitted_on: dict[str, Any] = field(default_factory=dict)
    burst: BurstCheck | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """Reads the output of `to_json`; additions of later versions are ignored.

        Raises:
            ValueError: it is not such an output.
        """
        try:
            content = json.loads(text)
            tasks = {}
            for name, part in content["tasks"].items():
                half_widths = {label: tuple(widths) for label, widths in part.get("half_widths", {}).items()}
                temperature = float(part.get("temperature", 1.0))
                thresholds = tuple(map(float, part.get("set_thresholds", ())))
                lengths = {len(thresholds), *map(len, half_widths.values())} - {0}
                if not (math.isfinite(temperature) and temperature > 0) or not lengths <= {len(COVERAGES)}:
                    raise ValueError("a temperature or the number of thresholds is invalid")
                tasks[name] = TaskCalibration(temperature, thresholds, half_widths, part.get("measured", {}))
            burst = content.get("burst") and _burst_check(content["burst"])
            return cls(str(content["weights"]), tasks, content.get("fitted_on", {}), burst)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no calibration ({type(error).__name__}: {error})") from error


def _burst_check(content: dict) -> BurstCheck:
    weights, bias = tuple(map(float, content["weights"])), float(content["bias"])
    thresholds = tuple(map(float, content["thresholds"]))
    hidden = tuple(tuple(map(float, row)) for row in content.get("hidden_weights", ()))
    biases = tuple(map(float, content.get("hidden_biases", ())))
    shapes_agree = len({len(row) for row in hidden}) <= 1 and len(hidden) == len(biases)
    shapes_agree = shapes_agree and len(hidden) in (0, len(weights)) and len(thresholds) in (0, len(RATES))
    numbers = [*weights, bias, *thresholds, *biases, *(value for row in hidden for value in row)]
    if not shapes_agree or not np.isfinite(numbers).all():
        raise ValueError("the weights or thresholds of its burst check are invalid")
    return BurstCheck(weights, bias, thresholds, content.get("measured", {}), hidden, biases)


def log_scores(scores: np.ndarray) -> np.ndarray:
    """(..., labels) uncalibrated scores of the model → the inputs of a `BurstCheck`."""
    return np.log(np.maximum(np.asarray(scores, np.float64), 1e-6))


def burst_scores(check: BurstCheck, logarithms: np.ndarray) -> np.ndarray:
    """(..., labels) `log_scores` → (...): near 1 for a burst, near 0 for speech, music, noise, silence.

    Raises:
        ValueError: the number of labels differs from the fitted one.
    """
    if logarithms.shape[-1] != check.num_labels:
        raise ValueError(f"the burst check has {check.num_labels} labels, and the model {logarithms.shape[-1]}")
    if check.hidden_weights:  # (..., labels) → (..., units)
        logarithms = np.maximum(logarithms @ np.array(check.hidden_weights).T + np.array(check.hidden_biases), 0)
    return 1 / (1 + np.exp(-np.clip(logarithms @ np.array(check.weights) + check.bias, -60, 60)))


def burst_answers(
    calibration: Calibration | None, scores: np.ndarray, false_alarms_per_hour: float | None
) -> list[dict[str, Any]]:
    """`burst_score` and `is_burst` for uncalibrated scores (clips, labels); {} if they are not requested.

    Raises:
        ValueError: the calibration has no burst check, or the rate is invalid.
    """
    if false_alarms_per_hour is None:
        return [{} for _ in scores]
    if calibration is None or calibration.burst is None:
        raise ValueError(
            f"false_alarms_per_hour needs a {CALIBRATION_FILE} with a burst check; fit it with "
            "python -m avb.events reject"
        )
    threshold = calibration.burst.threshold(false_alarms_per_hour)
    found = burst_scores(calibration.burst, log_scores(scores))
    return [{"burst_score": round(float(score), 6), "is_burst": bool(score >= threshold)} for score in found]


def task_parts(config) -> list[tuple[str, slice, bool]]:
    """Name ("" for a single task), outputs and whether it is a classification, for each task of a configuration."""
    if config.loss != "multitask":
        return [("", slice(0, config.num_labels), config.loss == "ce")]
    parts = zip(config.tasks, config.task_slices, strict=True)
    return [(task["name"], place, task["loss"] == "ce") for task, place in parts]


def calibrated_scores(calibration: Calibration | None, scores: np.ndarray, config) -> np.ndarray:
    """(..., labels) probabilities at temperature 1 → at the fitted one; scores of a regression are not changed."""
    if calibration is None:
        return scores
    scores = np.array(scores, dtype=np.float64)
    for name, place, is_class in task_parts(config):
        task = calibration.tasks.get(name)
        if is_class and task is not None and task.temperature != 1:
            # p^(1/T), normalised: the softmax of logits / T.
            powers = np.maximum(scores[..., place], 1e-30) ** (1 / task.temperature)
            scores[..., place] = powers / powers.sum(axis=-1, keepdims=True)
    return scores


def covered(calibration: Calibration, scores: np.ndarray, config, coverage: float) -> list[tuple[np.ndarray, ...]]:
    """For one clip's calibrated scores (labels,), by task: whether each class is in the set (labels,), or the lower and
    upper bounds (labels,) of the scores.

    Raises:
        ValueError: the coverage is invalid, or nothing was fitted for a task.
    """
    found: list[tuple[np.ndarray, ...]] = []
    for name, place, is_class in task_parts(config):
        task, values = calibration.tasks.get(name, TaskCalibration()), np.asarray(scores[place])
        if is_class:
            found.append((task.label_sets(values, coverage),))
        else:
            labels = [config.id2label[index].removeprefix(f"{name}/") for index in range(place.start, place.stop)]
            half, (low, high) = task.intervals(labels, coverage), config.label_range
            found.append((np.maximum(values - half, low), np.minimum(values + half, high)))
    return found


def weights_fingerprint(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    """A fingerprint of a model's `named_parameters()`: 16 hexadecimal digits, the same in half and single precision.

    It is a hash of a sample of each parameter, rounded to half precision.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters, key=lambda pair: pair[0]):
        digest.update(name.encode() + parameter.detach().flatten()[:16].half().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def read_calibration(folder: str | os.PathLike, weights: str, **hub_arguments) -> Calibration | None:
    """Reads the calibration in a model's folder or Hub repository; None if there is none for these weights.

    Args:
        folder: the folder or repository.
        weights: `weights_fingerprint` of the model.
        **hub_arguments: `revision`, `token`, ..., as `transformers.utils.cached_file` takes them.

    Raises:
        ValueError: the file is damaged.
    """
    path = cached_file(
        folder, CALIBRATION_FILE, _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False, _raise_exceptions_for_gated_repo=False, **hub_arguments,
    )  # fmt: skip
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        calibration = Calibration.from_json(text)
    except ValueError as error:
        raise ValueError(f"{folder}: {CALIBRATION_FILE} is damaged ({error}); fit it again, or delete it") from error
    if calibration.weights != weights:
        warnings.warn(f"{folder}: {CALIBRATION_FILE} was fitted to other weights, and is not used", stacklevel=2)
        return None
    return calibration


def _at(values: tuple[float, ...], coverage: float) -> float:
    """The entry of the smallest of `COVERAGES` that is at least the requested one."""
    if not values:
        raise ValueError("nothing was fitted for this")
    if not COVERAGES[0] <= coverage <= COVERAGES[-1]:
        raise ValueError(f"coverage={coverage!r} is invalid: it must be from {COVERAGES[0]:g} to {COVERAGES[-1]:g}")
    return values[math.ceil(round((coverage - COVERAGES[0]) * 1000, 6))]
