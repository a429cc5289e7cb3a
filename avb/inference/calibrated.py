"""Applies a model's calibration to its scores: probabilities at the fitted temperature, label sets, intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from avb.errors import AvbError
from avb.models import locate
from calibration_avb import (
    CALIBRATION_FILE,
    COVERAGES,
    Calibration,
    burst_answers,
    calibrated_scores,
    covered,
    read_calibration,
    task_parts,
)


def find_calibration(name: str, weights: str) -> Calibration | None:
    """Finds the calibration of a model; None if it has none.

    Args:
        name: the model, as for `load_model`.
        weights: the `trained_weights` recorded by `load_model`.

    Raises:
        AvbError: the file is damaged.
    """
    try:
        return read_calibration(locate(name), weights)
    except ValueError as error:
        raise AvbError(str(error)) from error


@dataclass(frozen=True)
class Calibrated:
    """Calibrates scores.

    Attributes:
        config: of the model.
        calibration: None does not change scores.
        coverage: of label sets and intervals; None adds neither.
        false_alarms_per_hour: allowed when deciding whether a clip is a burst; None does not decide.
    """

    config: PreTrainedConfig
    calibration: Calibration | None = None
    coverage: float | None = None
    false_alarms_per_hour: float | None = None

    @classmethod
    def of(
        cls, name: str, model: Any, coverage: float | None, false_alarms_per_hour: float | None = None
    ) -> "Calibrated":
        """Reads the calibration in the folder of a loaded model.

        Raises:
            AvbError: `coverage` or `false_alarms_per_hour` is invalid or not calibrated, or the file is damaged.
        """
        if coverage is not None and not COVERAGES[0] <= coverage <= COVERAGES[-1]:
            raise AvbError(f"--coverage {coverage:g}: give a fraction from {COVERAGES[0]:g} to {COVERAGES[-1]:g}")
        calibration = find_calibration(name, model.trained_weights)
        if coverage is not None and calibration is None:
            raise AvbError(
                f"--coverage: {name} has no {CALIBRATION_FILE} for its weights; fit one: python -m avb.calibration "
                f"{name} DATA"
            )
        if false_alarms_per_hour is not None:
            try:
                burst_answers(calibration, np.zeros((0, model.config.num_labels)), false_alarms_per_hour)
            except ValueError as error:
                raise AvbError(f"{name}: {error}") from error
        return cls(model.config, calibration, coverage, false_alarms_per_hour)

    @property
    def key(self) -> str:
        """Its part of the key of scores; empty if it changes nothing."""
        if self.calibration is None:
            return ""
        return f" {self.calibration.to_json()} {self.coverage} {self.false_alarms_per_hour}"

    def scores(self, scores: np.ndarray) -> np.ndarray:
        """(..., labels) of the model → probabilities of classes at the fitted temperature."""
        return calibrated_scores(self.calibration, scores, self.config)

    def columns(self) -> dict[str, type]:
        """The columns after the scores, and their content: text or numbers."""
        found: dict[str, type] = {}
        if self.false_alarms_per_hour is not None:
            found |= {"burst_score": float, "is_burst": bool}
        for name, place, is_class in task_parts(self.config) if self.coverage is not None else ():
            if is_class:
                found |= {_column("label_set", name): str, _column("set_size", name): float}
            else:
                for label in self._labels(place):
                    found |= {f"{label}_low": float, f"{label}_high": float}
        return found

    def burst_row(self, scores: np.ndarray) -> dict[str, Any]:
        """`burst_score` and `is_burst` for the uncalibrated scores (labels,) of a clip, if requested."""
        return burst_answers(self.calibration, scores[None], self.false_alarms_per_hour)[0]

    def row(self, scores: np.ndarray) -> dict[str, Any]:
        """The values of `columns` for one clip's calibrated scores (labels,)."""
        if self.calibration is None or self.coverage is None:
            return {}
        try:
            bounds = covered(self.calibration, scores, self.config, self.coverage)
        except ValueError as error:
            raise AvbError(f"{CALIBRATION_FILE}: {error}; fit it again") from error
        row: dict[str, Any] = {}
        for (name, place, is_class), found in zip(task_parts(self.config), bounds, strict=True):
            labels = self._labels(place)
            if is_class:
                order = np.argsort(-np.asarray(scores[place]), kind="stable")
                inside = [labels[index] for index in order if found[0][index]]
                row |= {_column("label_set", name): "|".join(inside), _column("set_size", name): len(inside)}
                continue
            for label, low, high in zip(labels, *found, strict=True):
                row |= {f"{label}_low": round(float(low), 6), f"{label}_high": round(float(high), 6)}
        return row

    def _labels(self, place: slice) -> list[str]:
        return [self.config.id2label[index] for index in range(place.start, place.stop)]


def _column(name: str, task: str) -> str:
    return f"{name}_{task}" if task else name
