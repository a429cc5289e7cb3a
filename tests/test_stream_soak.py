"""A stream of hours: memory does not grow, frames are as many as hours have, events go on."""

import os

import numpy as np
import pytest

from avb.events.detection import EventStream, load_detector
from modeling_events_avb import FRAME_SAMPLES

RATE = 16_000
MOST_GROWTH = 40  # MiB since the first tenth of the way; torch's buffers are full by then


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run(hours: float, hop_seconds: float, start_hours: int):
    """Noise with a chirp every ten seconds, hop by hop, on a detector that comes with the project."""
    hop, start = round(hop_seconds * RATE), start_hours * 3600 * RATE
    rng = np.random.default_rng(0)
    time = np.arange(10 * RATE) / RATE
    minute = rng.normal(0, 0.002, len(time)) + 0.2 * np.sin(2 * np.pi * (500 + 300 * np.sin(9 * time)) * time) * (
        time < 1
    )
    minute = minute.astype(np.float32)
    stream, hops = EventStream(load_detector(), 0.5, start), round(hours * 3600 / hop_seconds)
    after_a_tenth, found = 0.0, 0
    for number in range(hops):
        at = number * hop % len(minute)
        found += len(stream.push(minute[at : at + hop]))
        assert len(stream._buffer) <= 35 * RATE  # the longest event, and its margins
        if number == hops // 10:
            after_a_tenth = resident_mib()
    if hours >= 1:  # before, torch's buffers are not full
        assert resident_mib() - after_a_tenth < MOST_GROWTH
    end = start + hops * hop
    assert 0 <= end // FRAME_SAMPLES - stream.frames.frame <= stream.frames.model.right_samples // FRAME_SAMPLES + 1
    return found


def test_seconds_of_hops():
    run(1 / 600, 0.1, 24)


@pytest.mark.nightly
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("hours, hop_seconds, start_hours", [(1, 0.1, 24), (24, 1.0, 0)])
def test_hours_of_hops(hours, hop_seconds, start_hours):
    run(hours, hop_seconds, start_hours)
