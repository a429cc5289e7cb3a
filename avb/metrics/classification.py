"""Per-class recall, UAR, accuracy, macro F1 and the confusion matrix."""

import numpy as np
from numpy.typing import ArrayLike

from avb.metrics.regression import quiet
from avb.tasks import MISSING_CLASS


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, num_labels: int | None = None) -> np.ndarray:
    """Counts how often class i (row) was predicted as class j (column).

    Args:
        y_true: class indices, (clips,); clips with -100 are left out.
        y_pred: predicted class indices, (clips,).
        num_labels: number of classes; default: one more than the highest index that occurs.

    Returns:
        Integer counts, (num_labels, num_labels).

    Raises:
        ValueError: an array is not (clips,) integers, the lengths differ, or an index is outside 0 .. num_labels - 1.

    >>> confusion_matrix([0, 0, 1, -100], [0, 1, 1, 1])
    array([[1, 1],
           [0, 1]])
    """
    y_true, y_pred, num_labels = class_pairs(y_true, y_pred, num_labels)
    return np.bincount(y_true * num_labels + y_pred, minlength=num_labels**2).reshape(num_labels, num_labels)


@quiet
def recalls(y_true: ArrayLike, y_pred: ArrayLike, num_labels: int | None = None) -> np.ndarray:
    """Recall of each class, (num_labels,): true positives / clips of that class; NaN for a class not in y_true.

    Arguments and errors as in `confusion_matrix`.
    """
    confusion = confusion_matrix(y_true, y_pred, num_labels)
    return np.diagonal(confusion) / confusion.sum(axis=1)


def uar(y_true: ArrayLike, y_pred: ArrayLike, num_labels: int | None = None) -> float:
    """Unweighted average recall: the mean recall over the classes that occur in y_true.

    A class without clips has no recall and is left out of the mean, so chance is 1 / (number of classes that occur).
    NaN if there are no clips. Arguments and errors as in `confusion_matrix`.

    >>> uar([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 1])  # the mean of 3/4 and 1/2
    0.625
    """
    return float(mean_over_defined(recalls(y_true, y_pred, num_labels)))


def wilson_interval(hits: ArrayLike, counts: ArrayLike) -> np.ndarray:
    """95 % interval of a share of independent clips, lower and upper bound (2, ...) (Wilson 1927, JASA 22, 209-212).

    (p + z² / 2n ± z √(p (1 - p) / n + z² / 4n²)) / (1 + z² / n), with p = hits / counts, n = counts, z = 1.96; NaN if
    there are no clips. For 3 hits in 3 clips, the bootstrap interval would be [1, 1].

    >>> wilson_interval(3, 3).round(2).tolist()
    [0.44, 1.0]
    """
    hits, counts = np.asarray(hits, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    n, z = np.where(counts > 0, counts, np.nan), 1.959964
    share = hits / n
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.stack([share + z**2 / (2 * n) - half, share + z**2 / (2 * n) + half]) / (1 + z**2 / n)


@quiet
def accuracy(y_true: ArrayLike, y_pred: ArrayLike, num_labels: int | None = None) -> float:
    """Share of clips whose class is correct; NaN if there are none. Arguments and errors as in `confusion_matrix`."""
    confusion = confusion_matrix(y_true, y_pred, num_labels)
    return float(np.trace(confusion) / confusion.sum())


@quiet
def macro_f1(y_true: ArrayLike, y_pred: ArrayLike, num_labels: int | None = None) -> float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN); arguments and errors as in `confusion_matrix`.

    As in scikit-learn, the mean is over the classes that occur in y_true or y_pred; NaN if there are no clips.
    """
    confusion = confusion_matrix(y_true, y_pred, num_labels)
    return float(mean_over_defined(2 * np.diagonal(confusion) / (confusion.sum(axis=0) + confusion.sum(axis=1))))


@quiet
def mean_over_defined(values: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    return np.where(defined, values, 0.0).sum(axis=-1) / defined.sum(axis=-1)


def expected_calibration_error(y_true: ArrayLike, probabilities: ArrayLike, num_bins: int = 15) -> float:
    """Σ over confidence bins: share of clips · |accuracy - mean confidence| (Guo et al. 2017, arXiv:1706.04599).

    Args:
        y_true: class indices, (clips,); clips with -100 are left out.
        probabilities: (clips, labels).
        num_bins: bins of equal width; bin b contains confidences in ((b - 1) / num_bins, b / num_bins].

    >>> expected_calibration_error([0, 0, 1, 1], [[0.9, 0.1]] * 4)  # half are correct, at a confidence of 0.9
    0.4
    """
    y_true, probabilities = np.asarray(y_true), np.asarray(probabilities, dtype=np.float64)
    kept = y_true != MISSING_CLASS
    confidence = probabilities[kept].max(axis=1)
    is_right = probabilities[kept].argmax(axis=1) == y_true[kept]
    return _calibration_error(_bins(confidence, num_bins), confidence - is_right)


def calibration_error_by_chance(
    probabilities: ArrayLike, num_bins: int = 15, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The `expected_calibration_error` that a perfectly calibrated model would have on as many clips.

    It is above zero, because the accuracy of a bin with few clips deviates from its confidence by chance (consistency
    resampling: Bröcker & Smith 2007, Weather and Forecasting 22(3), 651-661): whether a clip is right is drawn with its
    confidence as the probability.

    Args:
        probabilities: (clips, labels).
        num_bins: see `expected_calibration_error`.
        draws: number of draws.
        seed: of the draws.

    Returns:
        Mean, and the bounds that 95 % of the draws lie between; NaN without clips.
    """
    confidence = np.asarray(probabilities, dtype=np.float64).max(axis=1, initial=0.0)
    if not len(confidence):
        return float("nan"), float("nan"), float("nan")
    rng, places = np.random.default_rng(seed), _bins(confidence, num_bins)
    drawn = [_calibration_error(places, confidence - (rng.random(len(places)) < confidence)) for _ in range(draws)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(np.mean(drawn)), float(low), float(high)


def _bins(confidence: np.ndarray, num_bins: int) -> np.ndarray:
    return np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)


def _calibration_error(places: np.ndarray, excess: np.ndarray) -> float:
    """From each clip's bin, and its confidence minus 1 if it is right, minus 0 otherwise."""
    return float(np.abs(np.bincount(places, excess)).sum() / len(places)) if len(places) else float("nan")


def class_pairs(y_true: ArrayLike, y_pred: ArrayLike, num_labels: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    y_true, y_pred = class_indices("y_true", y_true), class_indices("y_pred", y_pred)
    if len(y_true) != len(y_pred):
        raise ValueError(f"y_true and y_pred must be equally long, got {len(y_true)} and {len(y_pred)} clips")
    present = y_true != MISSING_CLASS
    y_true, y_pred = y_true[present], y_pred[present]
    if num_labels is None:
        num_labels = int(max(y_true.max(initial=-1), y_pred.max(initial=-1))) + 1
    for name, values in (("y_true", y_true), ("y_pred", y_pred)):
        outside = values[(values < 0) | (values >= num_labels)]
        if outside.size:
            raise ValueError(
                f"{name} must contain class indices from 0 to {num_labels - 1}, got {outside[0]} "
                f"({MISSING_CLASS} marks a missing label, in y_true only)"
            )
    return y_true, y_pred, num_labels


def class_indices(name: str, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values)
    # An empty list arrives as float64.
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be integers of shape (clips,), got {values.dtype} of shape {values.shape}")
    return values.astype(np.int64)
