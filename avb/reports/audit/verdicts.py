"""From predictions to pass or fail: what a change costs, and how far groups of speakers lie apart.

Thresholds come from the data at hand, as those of Derington et al. (2023), arXiv:2312.06270, come from simulations.

- A change fails where the score falls by more than half the width of its own 95 % interval by speaker, that is, by more
  than another draw of speakers would explain, and the interval of the difference (the same resamples) leaves out zero.
- A group fails where its score lies further from that of all others than in 95 % of 1,000 random deals of the speakers
  into groups of these sizes, the furthest group of each deal counting (so that many groups are not more often blamed).

A few clips show gross faults only: what could have been seen is printed as the threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avb.metrics import ccc, resampled_scores, uar
from avb.metrics.bootstrap import interval
from avb.tasks import Task

NUM_DEALS = 1_000
FEWEST_SPEAKERS = 3  # per group, so that a group is more than one or two people


@dataclass(frozen=True)
class Finding:
    """One row of an audit.

    Attributes:
        test: name of the change or group.
        kind: change or group.
        score: the task's metric with the change or in the group.
        difference: that score minus the score of the clips as recorded, or of the other speakers; with its 95 %
            interval (`low`, `high`; NaN for a group).
        threshold: a change fails if its difference is below it, a group if its absolute difference is above it.
        unchanged: share of clips with the same predicted class, or 1 minus the mean change of a score as a share of its
            range; NaN for a group.
        num_clips: number of clips evaluated.
        passed: None if there are too few speakers to tell.
    """

    test: str
    kind: str
    score: float
    difference: float
    low: float
    high: float
    threshold: float
    unchanged: float
    num_clips: int
    passed: bool | None


def score_of(task: Task, y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """The task's metric: the mean CCC over labels, or the UAR over the classes that occur."""
    if task.kind == "regression":
        return float(np.mean(ccc(y_true, y_pred)))
    return uar(y_true, y_pred, task.num_labels)


def judge_change(
    task: Task,
    test: str,
    y_true: np.ndarray,
    recorded: np.ndarray,
    changed: np.ndarray,
    groups: Sequence[str] | None,
) -> Finding:
    """Judges a change of the clips.

    Args:
        task: a single task.
        test: name of the change.
        y_true: (clips,) class indices or (clips, labels) scores, none missing.
        recorded: predictions for the clips as recorded, of the same shape.
        changed: predictions for the changed clips, of the same shape.
        groups: each clip's speaker; None if unknown.
    """
    before = resampled_scores(task, y_true, recorded, groups)
    after = resampled_scores(task, y_true, changed, groups)
    own_low, own_high = interval(before)
    low, high = interval(after - before)
    score = score_of(task, y_true, changed)
    difference = score - score_of(task, y_true, recorded)
    threshold = -(own_high - own_low) / 2
    if task.kind == "regression":
        unchanged = 1 - float(np.abs(changed - recorded).mean()) / (task.label_range[1] - task.label_range[0])
    else:
        unchanged = float((changed == recorded).mean())
    passed = None if np.isnan(threshold) else not (difference < threshold and high < 0)
    return Finding(
        test, "change", score, difference, float(low), float(high), float(threshold), unchanged, len(y_true), passed
    )


def judge_groups(
    task: Task, name: str, y_true: np.ndarray, y_pred: np.ndarray, speakers: Sequence[str], group_of: dict[str, str]
) -> list[Finding]:
    """Judges groups of speakers, such as countries; one row per group.

    Args:
        task: a single task.
        name: name of the grouping, used in the rows.
        y_true: as in `judge_change`.
        y_pred: predictions of the same shape.
        speakers: each clip's speaker.
        group_of: each speaker's group; speakers that it does not contain are omitted.
    """
    names = sorted({speaker for speaker in speakers if group_of.get(speaker)})
    number = {speaker: index for index, speaker in enumerate(names)}
    known = np.array([speaker in number for speaker in speakers])
    if not known.any():
        return []
    y_true, y_pred = y_true[known], y_pred[known]
    speaker = np.array([number[name] for name, is_known in zip(speakers, known, strict=True) if is_known])
    groups = sorted({group_of[name] for name in names})
    dealt = np.array([groups.index(group_of[name]) for name in names])  # (speakers,)
    large = [index for index in range(len(groups)) if FEWEST_SPEAKERS <= (dealt == index).sum() < len(names)]

    def differences(group_of_speaker: np.ndarray) -> np.ndarray:
        found = []
        for index in large:
            inside = group_of_speaker[speaker] == index
            found.append(
                score_of(task, y_true[inside], y_pred[inside]) - score_of(task, y_true[~inside], y_pred[~inside])
            )
        return np.array(found)

    generator = np.random.default_rng(0)
    threshold = np.nan
    if large:
        furthest = [np.abs(differences(generator.permutation(dealt))).max() for _ in range(NUM_DEALS)]
        threshold = float(np.quantile(furthest, 0.95))
    found = dict(zip(large, differences(dealt), strict=True))
    rows = []
    for index, group in enumerate(groups):
        inside = dealt[speaker] == index
        rows.append(
            Finding(
                test=f"{name}: {group}",
                kind="group",
                score=score_of(task, y_true[inside], y_pred[inside]),
                difference=float(found.get(index, np.nan)),
                low=np.nan,
                high=np.nan,
                threshold=threshold,
                unchanged=np.nan,
                num_clips=int(inside.sum()),
                passed=bool(abs(found[index]) <= threshold) if index in found else None,
            )
        )
    return rows
