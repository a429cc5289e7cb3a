"""What the report says of a task: each figure, how it was computed, and on how many clips and speakers."""

import math

import numpy as np

from avb.metrics import calibration_error_by_chance, defined_metric
from avb.reports.analysis import figures
from avb.reports.analysis.numbers import (
    MIN_SPEAKER_CLIPS,
    RELIABILITY_BINS,
    RESAMPLES,
    Estimate,
    by_duration,
    by_speaker,
    calibration,
    calibration_error,
    most_confused,
    reliability,
    row_shares,
    top_k,
)
from avb.reports.analysis.page import Section, Table, interval
from avb.reports.markdown import number
from avb.reports.scored import Predictions

MAX_PANELS = 12  # a reader cannot take in 40 labels at once


def task_sections(predictions: Predictions, prefix: str = "") -> list[Section]:
    """All sections of one task.

    Args:
        predictions: the task's labelled clips.
        prefix: prefix of titles and file names if a report covers several tasks.
    """
    scores = predictions.evaluate(RESAMPLES)
    is_regression = predictions.task.kind == "regression"
    sections = (_regression if is_regression else _classification)(predictions, scores)
    sections += [_speakers(predictions, scores), _durations(predictions, scores)]
    if not prefix:
        return sections
    return [
        Section(f"{prefix}: {s.title}", s.text, s.figure and f"{prefix}-{s.figure}", s.draw, s.tables) for s in sections
    ]


# ------------------------------------------------------------------------------------------------- classification


def _classification(predictions: Predictions, scores: dict) -> list[Section]:
    labels, basis, intervals = predictions.task.labels, predictions.basis(), _intervals(predictions)
    confusion = np.array(scores["confusion_matrix"])
    recalls = {label: _estimate(scores["per_label"][label], "recall") for label in labels}
    overall, bins = _estimate(scores, defined_metric(scores, "uar")), reliability(predictions)
    occurring = int((confusion.sum(axis=1) > 0).sum())
    rows = [
        (label, _count(scores["per_label"][label]["count"]), number(recalls[label].value), interval(recalls[label]))
        for label in labels
    ]
    counts = [(label, *map(_count, row)) for label, row in zip(labels, confusion, strict=True)]
    ranks = [(str(k), number(e.value), interval(e), number(chance)) for k, e, chance in top_k(predictions)]
    chance, low, high = calibration_error_by_chance(predictions.scores, RELIABILITY_BINS)
    return [
        Section(
            "Confusion matrix",
            "Rows are true classes, columns predicted ones (the most probable); each row is divided by its number of "
            f"clips. Counts are in the table. {basis}.",
            "confusion",
            (figures.confusion_figure, row_shares(confusion), labels),
            (
                Table(("true", "most often taken for", "clips"), _as_text(most_confused(confusion, labels))),
                Table(("true", *labels), counts, "All counts (rows: true, columns: predicted)"),
            ),
        ),
        Section(
            "Recall by class",
            f"Share of a class's clips that are found. {intervals} The dashed line is their mean, the UAR; chance is "
            f"1 / {occurring}, the classes that occur. The interval of a recall of 0 or 1 is Wilson's, "
            f"by clip. {basis}.",
            "recall",
            (figures.labels_figure, recalls, "recall", overall, 1 / occurring),
            (Table(("class", "clips", "recall", "95 % interval"), rows, "All recalls"),),
        ),
        Section(
            "Reliability",
            f"Expected calibration error {number(calibration_error(bins))}: clips are put into {RELIABILITY_BINS} bins "
            "of equal width by the probability of the predicted class (softmax of the logits), and the distance of "
            "mean probability and share of right clips is averaged over bins, weighed by their clips (Guo et al. "
            f"2017). With as many clips, a perfectly calibrated model has {number(chance)} on average, and from "
            f"{number(low)} to {number(high)} in 95 of 100 cases. Above the diagonal the model is right more often "
            "than it says, below it less often. "
            f"{intervals} {basis}.",
            "reliability",
            (figures.reliability_figure, bins),
            (_bins_table(bins, "share right"),),
        ),
        Section(
            "Among the k most probable",
            f"Share of clips whose class is among the k most probable ones, with 95 % bootstrap intervals by "
            f"{predictions.unit}; chance is k / {len(labels)}. {basis}.",
            tables=(Table(("k", "share", "95 % interval", "chance"), ranks),),
        ),
    ]


# ----------------------------------------------------------------------------------------------------- regression


def _regression(predictions: Predictions, scores: dict) -> list[Section]:
    labels, basis, intervals = predictions.task.labels, predictions.basis(), _intervals(predictions)
    cccs = {label: _estimate(scores["per_label"][label], "ccc") for label in labels}
    bins_of = [calibration(predictions, index) for index in range(len(labels))]
    shown, which, half = range(len(labels)), "", MAX_PANELS // 2
    if len(labels) > MAX_PANELS:
        order = sorted(shown, key=lambda index: -np.nan_to_num(cccs[labels[index]].value, nan=-2))
        shown = [*order[:half], *order[-half:]]
        which = f"Shown are the {half} labels with the highest and the {half} with the lowest CCC. "
    panels = []
    for index in shown:
        has_label = ~np.isnan(predictions.y_true[:, index])
        pred, true = predictions.y_pred[has_label, index], predictions.y_true[has_label, index]
        if len(true):
            panels.append((labels[index], pred, true, bins_of[index]))
    rows = []
    for label, bins in zip(labels, bins_of, strict=True):
        pearson, error = scores["per_label"][label]["pearson"], calibration_error(bins)
        rows.append((label, number(cccs[label].value), interval(cccs[label]), number(pearson), number(error)))
    header = ("label", "CCC", "95 % interval", "Pearson's r", "calibration error")
    return [
        Section(
            "CCC by label",
            f"Concordance correlation coefficient of each label. {intervals} The dashed line is their mean. {basis}.",
            "ccc",
            (figures.labels_figure, cccs, "CCC", _estimate(scores, "ccc"), None),
            (Table(header, rows, "All labels"),),
        ),
        Section(
            "Predictions and labels",
            "Blue: how many clips have which prediction and label (logarithmic). Red: mean label in ten bins of equal "
            f"count of clips, by prediction; on the diagonal a prediction is right on average. {which}The calibration "
            "error in the table above is the distance of the red dots from it, averaged over clips. "
            f"{intervals} {basis}.",
            "calibration",
            (figures.calibration_figure, panels),
        ),
    ]


# ------------------------------------------------------------------------------------------ speakers and durations


def _speakers(predictions: Predictions, scores: dict) -> Section:
    title, found = "By speaker", by_speaker(predictions)
    if predictions.groups is None or predictions.unit != "speaker":
        return Section(title, "The corpus does not say who is heard.")
    if not found:
        return Section(title, f"No speaker has {MIN_SPEAKER_CLIPS} clips and a defined score. {predictions.basis()}.")
    values = np.array([score for _, _, score in found])
    num_speakers, left_out = len(found), len(set(predictions.groups)) - len(found)
    if predictions.task.kind == "classification":
        name, overall = "accuracy", scores["accuracy"]
        # The spread that remains if speakers do not differ at all, because each has few clips.
        spread = math.sqrt(np.mean([overall * (1 - overall) / count for _, count, _ in found]))
        what = (
            "Accuracy over a speaker's own clips, which is the recall over all of them; UAR by speaker would rest on "
            f"single clips a class. Were all speakers equally easy, and their clips independent, a standard deviation "
            f"of {number(spread)} would be expected from their few clips alone. "
        )
    else:
        name, overall = "CCC", scores["ccc"]
        what = (
            "Mean CCC over labels on a speaker's own clips; it can be below that of all clips for every speaker, "
            "because differences between speakers are no part of it. "
        )
    if left_out:
        what += f"Left out: {left_out} speakers of fewer than {MIN_SPEAKER_CLIPS} clips or without a defined score. "
    low, middle, high = np.percentile(values, (25, 50, 75))
    row = (num_speakers, values.mean(), values.std(ddof=1) if num_speakers > 1 else math.nan, values[0])
    row = [*row, low, middle, high, values[-1]]
    header = ("speakers", "mean", "sd", "lowest", "25 %", "median", "75 %", "highest")
    each = [(speaker, str(count), number(score)) for speaker, count, score in found]
    return Section(
        title,
        f"{what}{predictions.basis()}.",
        "speakers",
        (figures.speakers_figure, values.tolist(), name, overall),
        (
            Table(header, [(str(row[0]), *map(number, row[1:]))]),
            Table(("speaker", "clips", name), each, "Each speaker"),
        ),
    )


def _durations(predictions: Predictions, scores: dict) -> Section:
    title, metric, parts = "By duration", predictions.task.metric, by_duration(predictions)
    if not parts:
        return Section(title, "The predictions have no column seconds; a run of this version writes it.")
    classes = " UAR is the mean over the classes that occur in a quarter." if metric == "uar" else ""
    rows = [(part.name, str(part.count), number(part.score.value), interval(part.score)) for part in parts]
    return Section(
        title,
        f"{metric.upper()} of the clips in each quarter of durations, as the model heard them (after trimming)."
        f"{classes} {_intervals(predictions)} {predictions.basis()}.",
        "durations",
        (figures.durations_figure, parts, metric.upper(), scores[metric]),
        (Table(("duration", "clips", metric.upper(), "95 % interval"), rows),),
    )


# ----------------------------------------------------------------------------------------------------------- words


def _intervals(predictions: Predictions) -> str:
    return f"Bars: 95 % bootstrap intervals, {RESAMPLES} resamples by {predictions.unit}."


def _estimate(scores: dict, name: str) -> Estimate:
    return Estimate(scores[name], scores[f"{name}_low"], scores[f"{name}_high"])


def _bins_table(bins, true: str) -> Table:
    rows = [(str(b.count), number(b.predicted), number(b.true.value), interval(b.true)) for b in bins]
    return Table(("clips", "mean probability", true, "95 % interval"), rows, "All bins")


def _as_text(rows) -> list[tuple[str, ...]]:
    return [tuple(map(str, row)) for row in rows]


def _count(value) -> str:
    return str(int(value))
