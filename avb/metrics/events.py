"""Scores of detected events: F1 with collars, onset and offset errors, false alarms per hour.

An estimated event is a hit if its onset is within the collar of a reference's onset, and its offset is within the
collar or half of the reference's length, whichever is larger. Each event is matched at most once, so that the number of
hits is maximal. These are the event-based metrics of sed_eval (Mesaros, Heittola & Virtanen 2016, "Metrics for
polyphonic sound event detection", Applied Sciences 6(6), 162). Events are (onset, offset) in seconds. Undefined scores
are NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avb.metrics.bootstrap import interval, resampled_sums

COLLAR_SECONDS, OFFSET_SHARE = 0.2, 0.5
RESAMPLES = 1000

Events = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class EventScores:
    """Scores over many recordings; intervals are 95 % bootstrap intervals that resample recordings.

    Attributes:
        f1, precision, recall: from the hits of all recordings together.
        f1_interval: lower and upper bound.
        onset_error, offset_error: mean absolute errors of hits, in seconds.
        hits, references, estimates: numbers of events.
    """

    f1: float
    precision: float
    recall: float
    f1_interval: tuple[float, float]
    onset_error: float
    offset_error: float
    hits: int
    references: int
    estimates: int


def match_events(
    reference: Events,
    estimated: Events,
    collar_seconds: float = COLLAR_SECONDS,
    offset_share: float = OFFSET_SHARE,
) -> list[tuple[int, int]]:
    """Pairs (reference, estimate) of one recording: a matching with the most hits, found by augmenting paths."""

    def is_hit(one: tuple[float, float], other: tuple[float, float]) -> bool:
        allowed = max(collar_seconds, offset_share * (one[1] - one[0]))
        return abs(one[0] - other[0]) <= collar_seconds and abs(one[1] - other[1]) <= allowed

    near = [[number for number, other in enumerate(estimated) if is_hit(one, other)] for one in reference]
    taken: dict[int, int] = {}  # estimate → reference

    def find(number: int, seen: set[int]) -> bool:
        for candidate in near[number]:
            if candidate not in seen:
                seen.add(candidate)
                if candidate not in taken or find(taken[candidate], seen):
                    taken[candidate] = number
                    return True
        return False

    for number in range(len(reference)):
        find(number, set())
    return sorted((one, other) for other, one in taken.items())


def event_scores(
    references: Sequence[Events], estimates: Sequence[Events], seed: int = 0, **collars: float
) -> EventScores:
    """Computes the scores of recordings.

    Args:
        references: reference events of each recording.
        estimates: estimated events of each recording.
        seed: seed of the bootstrap.
        collars: see `match_events`.
    """
    counts, onsets, offsets = [], [], []
    for reference, estimated in zip(references, estimates, strict=True):
        pairs = match_events(reference, estimated, **collars)
        counts.append((len(pairs), len(reference), len(estimated)))
        onsets += [abs(reference[one][0] - estimated[other][0]) for one, other in pairs]
        offsets += [abs(reference[one][1] - estimated[other][1]) for one, other in pairs]
    columns = np.array(counts, np.float64).reshape(-1, 3)  # (recordings, 3): hits, references, estimates
    hits, wanted, found = columns.sum(0)
    sums = resampled_sums(columns, np.arange(len(columns)), RESAMPLES, seed)
    low, high = interval(_share(2 * sums[:, 0], sums[:, 1] + sums[:, 2]))
    return EventScores(
        f1=float(_share(2 * hits, wanted + found)),
        precision=float(_share(hits, found)),
        recall=float(_share(hits, wanted)),
        f1_interval=(float(low), float(high)),
        onset_error=float(np.mean(onsets)) if onsets else float("nan"),
        offset_error=float(np.mean(offsets)) if offsets else float("nan"),
        hits=int(hits),
        references=int(wanted),
        estimates=int(found),
    )


def false_alarms_per_hour(
    alarms: Sequence[int], seconds: Sequence[float], seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """False alarms per hour, and their 95 % bootstrap interval by recording.

    Args:
        alarms: number of events found in each recording, none of which contains an event.
        seconds: length of each recording, in seconds.
        seed: seed of the bootstrap.
    """
    columns = np.stack([np.asarray(alarms, np.float64), np.asarray(seconds, np.float64) / 3600], 1)
    sums = resampled_sums(columns, np.arange(len(columns)), RESAMPLES, seed)
    low, high = interval(_share(sums[:, 0], sums[:, 1]))
    return float(_share(*columns.sum(0))), (float(low), float(high))


def _share(part, whole):
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(whole) > 0, np.divide(part, whole), np.nan)
