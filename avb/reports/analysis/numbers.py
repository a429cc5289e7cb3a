"""The numbers behind the figures: calibration, top-k, scores by speaker and by duration, learning curves, ablation.

Pure functions, but for the one that reads the Trainer's log. Intervals are 95 % bootstrap intervals over speakers where
they are known, over clips otherwise (see `avb.metrics.bootstrap`). What is undefined is NaN.

Source of the calibration error: Guo et al. (2017), "On Calibration of Modern Neural Networks", ICML, arXiv:1706.04599.
"""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avb.errors import AvbError
from avb.metrics import accuracy, ccc, defined_metric
from avb.metrics.bootstrap import interval, resampled_sums, unit_indices
from avb.reports.scored import Predictions
from avb.run_files import TRAINER_STATE
from pooling_avb import POOLINGS

RELIABILITY_BINS = 15  # equal width, as in Guo et al.
CALIBRATION_BINS = 10  # equal count
MIN_SPEAKER_CLIPS = 10  # with fewer, a speaker's own score says little
RESAMPLES = 1000
_ABLATION = re.compile(rf"emogator/frozen/({'|'.join(POOLINGS)})(-no-rnn|-untrimmed)?")
VARIANTS = {"": "LSTM, trimmed", "-no-rnn": "without RNN, trimmed", "-untrimmed": "LSTM, untrimmed"}


class Estimate(NamedTuple):
    """A score with its 95 % interval."""

    value: float
    low: float
    high: float


class Bin(NamedTuple):
    """Clips with similar predictions: their number, mean prediction and mean true value."""

    count: int  # type: ignore[assignment]  # a field that replaces tuple.count
    predicted: float
    true: Estimate


class Part(NamedTuple):
    """The score of some of the clips."""

    name: str
    count: int  # type: ignore[assignment]  # a field that replaces tuple.count
    score: Estimate


# ---------------------------------------------------------------------------------------------------- calibration


def reliability(predictions: Predictions, num_bins: int = RELIABILITY_BINS) -> list[Bin]:
    """Confidence (probability of the predicted class) and accuracy in bins of equal width; empty bins are omitted.

    Bin b contains the clips whose confidence is in ((b - 1) / num_bins, b / num_bins].
    """
    confidence = np.take_along_axis(predictions.scores, predictions.y_pred[:, None], axis=1)[:, 0]
    places = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    is_right = (predictions.y_true == predictions.y_pred).astype(float)
    return _bins(places, confidence, is_right, predictions.groups)


def calibration(predictions: Predictions, label: int, num_bins: int = CALIBRATION_BINS) -> list[Bin]:
    """Mean prediction and mean label of a regression label in bins of (nearly) equal clip counts, lowest first.

    Equal predictions share a bin, so there are fewer bins if a model predicts few distinct values.
    """
    has_label = ~np.isnan(predictions.y_true[:, label])
    pred, true = predictions.y_pred[has_label, label], predictions.y_true[has_label, label]
    groups = None if predictions.groups is None else predictions.groups[has_label]
    return _bins(_quantile_bins(pred, num_bins), pred, true, groups)


def calibration_error(bins: list[Bin]) -> float:
    """Mean distance between predicted and true, Σ count |true - predicted| / Σ count; NaN if there are no bins.

    For the bins of `reliability`, this is the expected calibration error (ECE).
    """
    count = sum(b.count for b in bins)
    return sum(b.count * abs(b.true.value - b.predicted) for b in bins) / count if count else math.nan


def _quantile_bins(values: np.ndarray, num_bins: int) -> np.ndarray:
    """The bin of each value, (clips,)."""
    edges = np.quantile(values, np.linspace(0, 1, num_bins + 1)[1:-1]) if len(values) else []
    return np.searchsorted(edges, values, side="left")


def _bins(places: np.ndarray, predicted: np.ndarray, true: np.ndarray, groups: np.ndarray | None) -> list[Bin]:
    found, places = np.unique(places, return_inverse=True)
    members = places[:, None] == np.arange(len(found))  # (clips, bins)
    estimates = _means(true, members, groups)
    return [
        Bin(int(members[:, b].sum()), float(predicted[members[:, b]].mean()), estimates[b]) for b in range(len(found))
    ]


def _means(values: np.ndarray, members: np.ndarray, groups: np.ndarray | None) -> list[Estimate]:
    """Mean of `values` (clips,) over each column's clips of `members` (clips, columns), with intervals."""
    units = unit_indices(groups, np.ones(len(values), bool))
    columns = np.concatenate([members, members * values[:, None]], axis=1).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        counts, sums = np.split(columns.sum(axis=0), 2)
        resampled_counts, resampled = np.split(resampled_sums(columns, units, RESAMPLES, seed=0), 2, axis=1)
        low, high = interval(resampled / resampled_counts)
        means = sums / counts
    return [Estimate(*map(float, row)) for row in zip(means, low, high, strict=True)]


# ------------------------------------------------------------------------------------------------------- classes


def top_k(predictions: Predictions, ks: Iterable[int] = (1, 2, 3, 5, 10)) -> list[tuple[int, Estimate, float]]:
    """For each k below the number of classes: share of clips whose class is among the k most probable, and chance."""
    ks = [k for k in ks if k < predictions.task.num_labels]
    scores = predictions.scores.copy()
    np.put_along_axis(scores, predictions.y_pred[:, None], np.inf, axis=1)  # the six decimals in the file cause ties
    order = np.argsort(-scores, axis=1, kind="stable")  # (clips, classes)
    ranks = (order == predictions.y_true[:, None]).argmax(axis=1)  # (clips,)
    clips = np.ones((len(ranks), 1), bool)
    found = [(k, _means((ranks < k).astype(float), clips, predictions.groups)[0]) for k in ks]
    return [(k, estimate, k / predictions.task.num_labels) for k, estimate in found]


def row_shares(confusion: np.ndarray) -> np.ndarray:
    """Normalizes the rows of a confusion matrix of counts to sum to 1; a class without clips gets a row of NaN."""
    with np.errstate(invalid="ignore"):
        return confusion / confusion.sum(axis=1, keepdims=True)


def most_confused(confusion: np.ndarray, labels: tuple[str, ...], number: int = 10) -> list[tuple[str, str, int]]:
    """The most frequent errors: true class, predicted class, number of clips; ties are in the order of the labels."""
    errors = confusion - np.diag(np.diagonal(confusion))
    order = np.argsort(-errors, axis=None, kind="stable")[:number]
    pairs = (np.unravel_index(place, errors.shape) for place in order)
    return [(labels[true], labels[pred], int(errors[true, pred])) for true, pred in pairs if errors[true, pred]]


# ------------------------------------------------------------------------------------------ speakers and durations


def by_speaker(predictions: Predictions, min_clips: int = MIN_SPEAKER_CLIPS) -> list[tuple[str, int, float]]:
    """Speaker, number of clips, and score on that speaker's clips alone, lowest score first.

    The score is accuracy for classification (the recall over all of the speaker's clips), mean CCC over labels for
    regression. Speakers with fewer than `min_clips` clips, or with an undefined score, are omitted.
    """
    if predictions.groups is None:
        return []
    found = []
    for speaker in sorted(set(predictions.groups)):
        part = predictions.select(predictions.groups == speaker)
        score = accuracy if predictions.task.kind == "classification" else ccc
        if len(part) >= min_clips:
            found.append((str(speaker), len(part), float(np.mean(score(part.y_true, part.y_pred)))))
    return sorted((row for row in found if not math.isnan(row[2])), key=lambda row: row[2])


def by_duration(predictions: Predictions, num_parts: int = 4) -> list[Part]:
    """The task's metric in quartiles of duration, shortest first; empty if durations are unknown."""
    if predictions.seconds is None:
        return []
    places, parts = _quantile_bins(predictions.seconds, num_parts), []
    for place in np.unique(places):
        part, seconds = predictions.select(places == place), predictions.seconds[places == place]
        scores = part.evaluate()
        metric = defined_metric(scores, predictions.task.metric)
        name = f"{seconds.min():.2f} to {seconds.max():.2f} s"
        parts.append(Part(name, len(part), Estimate(*(scores[metric + end] for end in ("", "_low", "_high")))))
    return parts


# ------------------------------------------------------------------------------------------------ runs and recipes


class Curve(NamedTuple):
    """What a run's Trainer logged, as (epoch, value) pairs."""

    name: str
    loss: list[tuple[float, float]]
    score: list[tuple[float, float]]


def learning_curve(folder: str | Path, metric: str) -> Curve:
    """Training loss (mean since the previous entry) and validation metric of a run, by epoch.

    Raises:
        AvbError: the log is missing or damaged.
    """
    folder = Path(folder)
    path = folder / TRAINER_STATE
    try:
        log = json.loads(path.read_text(encoding="utf-8"))["log_history"]
        loss = [(float(entry["epoch"]), float(entry["loss"])) for entry in log if "loss" in entry]
        scored = [(entry, entry.get(f"eval_{metric}_present", entry.get(f"eval_{metric}"))) for entry in log]
        score = [(float(entry["epoch"]), float(value)) for entry, value in scored if value is not None]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AvbError(f"{path}: cannot be read; give the folder of a finished run of train_avb.py") from error
    return Curve(folder.resolve().name, loss, score)


def ablation(summaries: Iterable, split: str = "validation") -> tuple[dict[str, dict[str, Estimate]], str]:
    """Scores of the recipes emogator/frozen by pooling × variant (with or without LSTM, trimmed or not).

    Args:
        summaries: from `avb.reports.summaries.summarize`, scores in percent; changed recipes are ignored.
        split: the split they were scored on.

    Returns:
        Variant → pooling → score, and a description of the data behind the scores.
    """
    found: dict[str, dict[str, Estimate]] = {}
    counted = []
    for s in summaries:
        match = _ABLATION.fullmatch(s.recipe)
        if match and not s.changes and s.split == split and s.metric == "uar" and s.mean is not None:
            scores = found.setdefault(VARIANTS[match[2] or ""], {})
            scores[match[1]] = Estimate(s.mean / 100, s.low / 100, s.high / 100)
            counted.append(s)
    ordered = {
        variant: {pooling: found[variant][pooling] for pooling in POOLINGS if pooling in found[variant]}
        for variant in VARIANTS.values()
        if variant in found
    }
    clips, seeds = (
        " to ".join(map(str, sorted({min(values), max(values)}))) if values else "no"
        for values in ([s.num_clips for s in counted], [s.num_seeds for s in counted])
    )
    return ordered, f"{split}: {clips} clips, {seeds} seeds"
