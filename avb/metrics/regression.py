"""CCC and Pearson correlation per label, and the sums over clips from which both are computed.

A bootstrap resamples these sums (`clip_terms`); `evaluation` converts the resampled totals back to moments.
"""

import numpy as np
from numpy.typing import ArrayLike

# 0/0 is an undefined score: it is NaN by design and gives no warning.
quiet = np.errstate(divide="ignore", invalid="ignore")


def ccc(y_true: ArrayLike, y_pred: ArrayLike) -> float | np.ndarray:
    """Concordance correlation coefficient (Lin, 1989), per label.

    CCC = 2 s_xy / (s_x² + s_y² + (x̄ - ȳ)²), population moments. In [-1, 1]; 0 for a constant prediction; NaN if there
    are no pairs, or if targets and predictions are the same constant (0/0).

    Args:
        y_true: targets, (clips,) or (clips, labels); a NaN target is left out of its label.
        y_pred: predictions of the same shape.

    Returns:
        A float for (clips,), an array (labels,) for (clips, labels).

    Raises:
        ValueError: the shapes differ, or are neither (clips,) nor (clips, labels).

    >>> ccc([0.0, 1.0, 2.0], [0.0, 1.0, 1.0])
    0.6666666666666666
    >>> ccc([[0.0, 0.5], [1.0, 0.5], [float("nan"), 0.5]], [[0.0, 0.5], [1.0, 0.5], [7.0, 0.5]])
    array([ 1., nan])
    """
    return _scalar_or_array(ccc_of_moments(moments_of_totals(*_total_terms(y_true, y_pred))))


def pearson(y_true: ArrayLike, y_pred: ArrayLike) -> float | np.ndarray:
    """Pearson correlation s_xy / (s_x s_y); shapes, missing targets and errors as in `ccc`.

    NaN if targets or predictions are constant.

    >>> round(pearson([0.0, 1.0, 2.0], [0.0, 10.0, 10.0]), 4)
    0.866
    """
    return _scalar_or_array(pearson_of_moments(moments_of_totals(*_total_terms(y_true, y_pred))))


@quiet
def official_ccc(y_true: ArrayLike, y_pred: ArrayLike) -> float | np.ndarray:
    """The challenge's own CCC, only for comparison with published numbers; shapes and errors as in `ccc`.

    Its baseline code divides the variances by n - 1 and the covariance by n, so a perfect prediction scores below 1:
    official_ccc(y, y) = (n - 1) / n, .9375 at n = 16. For 1000 clips or more, it differs from `ccc` by less than .001.
    """
    offset, totals = _total_terms(y_true, y_pred)
    difference, var_true, var_pred, covariance = moments_of_totals(offset, totals)
    count = totals[0]
    sample = count / (count - 1)
    return _scalar_or_array(ccc_of_moments((difference, var_true * sample, var_pred * sample, covariance)))


@quiet
def ccc_of_moments(moments: tuple[np.ndarray, ...]) -> np.ndarray:
    difference, var_true, var_pred, covariance = moments
    return 2 * covariance / (var_true + var_pred + difference**2)


@quiet
def pearson_of_moments(moments: tuple[np.ndarray, ...]) -> np.ndarray:
    _, var_true, var_pred, covariance = moments
    return np.clip(covariance / (np.sqrt(var_true) * np.sqrt(var_pred)), -1.0, 1.0)


@quiet
def clip_terms(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Each clip's terms in the sums from which the moments are computed.

    Returns:
        offset: mean target - mean prediction, (labels,), or () for arrays of shape (clips,).
        terms: (6, clips, labels) or (6, clips): presence, t, p, t², p², tp. t and p are centred per label (so that
            one-pass variances lose no digits), and all six are 0 where the target is missing.
    """
    y_true, y_pred = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    if y_true.shape != y_pred.shape or y_true.ndim not in (1, 2):
        raise ValueError(
            f"y_true and y_pred must have one shape, (clips,) or (clips, labels), got {y_true.shape} and {y_pred.shape}"
        )
    present = ~np.isnan(y_true)
    count = present.sum(axis=0)

    def centre(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Subtract the lowest value first: a constant then becomes exactly 0, which `values - mean` does not guarantee.
        lowest = np.min(values, axis=0, where=present, initial=np.inf)
        above = np.where(present, values - lowest, 0.0)
        mean = above.sum(axis=0) / count
        return lowest + mean, np.where(present, above - mean, 0.0)

    mean_true, true = centre(y_true)
    mean_pred, pred = centre(y_pred)
    return mean_true - mean_pred, np.stack([present, true, pred, true * true, pred * pred, true * pred])


def _total_terms(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    offset, terms = clip_terms(y_true, y_pred)
    return offset, terms.sum(axis=1)  # (6, clips, labels) -> (6, labels)


@quiet
def moments_of_totals(offset: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Difference of means, variance of targets, variance of predictions, covariance.

    Args:
        offset: as `clip_terms` returns it.
        totals: (6, ..., labels), sums of the terms over clips.
    """
    count, true, pred, true_true, pred_pred, true_pred = totals
    mean_true, mean_pred = true / count, pred / count
    var_true = _variance(true_true / count, mean_true)
    var_pred = _variance(pred_pred / count, mean_pred)
    covariance = np.where((var_true == 0) | (var_pred == 0), 0.0, true_pred / count - mean_true * mean_pred)
    return offset + mean_true - mean_pred, var_true, var_pred, covariance


def _variance(mean_square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    # A resample may contain only copies of one value; the difference is then rounding error, not variance.
    variance = mean_square - mean**2
    return np.where(variance <= 1e-12 * mean_square, 0.0, variance)


def _scalar_or_array(score: np.ndarray) -> float | np.ndarray:
    return score if score.ndim else float(score)
