"""Event F1 against a second, literal implementation, and its edge cases."""

import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from avb.metrics.events import event_scores, false_alarms_per_hour, match_events


def literal_hits(reference, estimated) -> int:
    """As the definition reads: the assignment with most pairs that are within both collars."""
    if not reference or not estimated:
        return 0
    hits = np.zeros((len(reference), len(estimated)))
    for row, (onset, offset) in enumerate(reference):
        for column, (start, end) in enumerate(estimated):
            near_onset = abs(onset - start) <= 0.2
            near_offset = abs(offset - end) <= 0.2 or abs(offset - end) <= 0.5 * (offset - onset)
            hits[row, column] = near_onset and near_offset
    return int(hits[linear_sum_assignment(-hits)].sum())


def drawn(rng, count: int) -> list[tuple[float, float]]:
    starts = rng.uniform(0, 3, count)
    return [
        (float(start), float(start + length)) for start, length in zip(starts, rng.uniform(0.1, 1, count), strict=True)
    ]


def test_scores_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    references = [drawn(rng, int(rng.integers(0, 9))) for _ in range(200)]
    estimates = [drawn(rng, int(rng.integers(0, 9))) for _ in range(200)]
    scores = event_scores(references, estimates)
    hits = sum(literal_hits(one, other) for one, other in zip(references, estimates, strict=True))
    wanted, found = sum(map(len, references)), sum(map(len, estimates))
    assert (scores.hits, scores.references, scores.estimates) == (hits, wanted, found) and hits > 50
    assert scores.precision == pytest.approx(hits / found) and scores.recall == pytest.approx(hits / wanted)
    assert scores.f1 == pytest.approx(2 / (found / hits + wanted / hits))
    low, high = scores.f1_interval
    assert low < scores.f1 < high


def test_a_greedy_matching_would_lose_a_hit():
    reference, estimated = [(0.0, 1.0), (0.15, 1.1)], [(0.17, 1.0), (0.32, 1.1)]
    assert match_events(reference, estimated) == [(0, 0), (1, 1)]


def test_collars():
    assert match_events([(1.0, 1.2)], [(1.19, 1.39)]) == [(0, 0)]  # .2 s at both ends
    assert match_events([(1.0, 1.2)], [(1.21, 1.3)]) == []
    assert match_events([(1.0, 3.0)], [(1.0, 3.99)]) == [(0, 0)]  # half of the reference's length
    assert match_events([(1.0, 3.0)], [(1.0, 4.01)]) == []
    scores = event_scores([[(1.0, 3.0)]], [[(1.1, 2.5)]])
    assert (scores.onset_error, scores.offset_error) == (pytest.approx(0.1), pytest.approx(0.5))
    assert all(map(math.isnan, scores.f1_interval))  # of one recording


def test_what_is_undefined_is_nan():
    nothing = event_scores([[], []], [[], []])
    assert all(map(math.isnan, (nothing.f1, nothing.precision, nothing.recall, nothing.onset_error)))
    missed = event_scores([[(0, 1)], []], [[], []])
    assert missed.f1 == 0 and missed.recall == 0 and math.isnan(missed.precision)


def test_false_alarms_per_hour():
    per_hour, (low, high) = false_alarms_per_hour([3, 0, 1, 0], [1800, 1800, 3600, 3600])
    assert per_hour == pytest.approx(4 / 3) and low < per_hour < high
    assert false_alarms_per_hour([0, 0], [60, 60]) == (0, (0, 0))
