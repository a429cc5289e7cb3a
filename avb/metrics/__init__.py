"""Scores of vocal-burst predictions: CCC and Pearson correlation for regression, UAR for classification.

Pure functions over arrays, in float64, with population moments (divisor n). Unusual:

- An undefined score is NaN, and so is a mean over labels that contains it.
- A missing target (NaN, or -100 for a class) is ignored. A NaN *prediction* is not ignored: it makes the score NaN.
- `evaluate_predictions` adds bootstrap intervals. If speakers are known, whole speakers are resampled, because clips of
  one speaker are not independent. No clip is copied: sums are computed once per unit, and a resample is a vector of
  counts times these sums.

Sources: Lin (1989), "A concordance correlation coefficient to evaluate reproducibility", Biometrics 45(1), 255-268;
Baird et al. (2022), arXiv:2207.03572 (the challenge scores by CCC and UAR); Field & Welsh (2007), "Bootstrapping
clustered data", JRSS B 69(3), 369-390 (resampling whole clusters).
"""

from avb.metrics.agreement import rater_agreement
from avb.metrics.bootstrap import Units, resampling_units, units_of_clips
from avb.metrics.classification import (
    accuracy,
    calibration_error_by_chance,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    recalls,
    uar,
    wilson_interval,
)
from avb.metrics.evaluation import (
    best_metric,
    compute_metrics,
    defined_metric,
    evaluate_predictions,
    has_label,
    resampled_scores,
)
from avb.metrics.regression import ccc, official_ccc, pearson

__all__ = [
    "Units",
    "accuracy",
    "best_metric",
    "ccc",
    "compute_metrics",
    "confusion_matrix",
    "defined_metric",
    "evaluate_predictions",
    "calibration_error_by_chance",
    "expected_calibration_error",
    "has_label",
    "macro_f1",
    "official_ccc",
    "pearson",
    "rater_agreement",
    "recalls",
    "resampled_scores",
    "resampling_units",
    "uar",
    "units_of_clips",
    "wilson_interval",
]
