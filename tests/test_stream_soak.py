"""A stream of hours: memory and state do not grow, frames are as many as hours have, events go on.

With `pytest -s` it prints, every tenth of the way, what the stream holds and how long a hop takes.
"""

import os
import time

import numpy as np
import pytest

from avb.events.detection import LONGEST_SECONDS, EventStream, load_detector
from modeling_events_avb import FRAME_SAMPLES

RATE = 16_000
MOST_GROWTH = 40  # MiB since the first tenth of the way; torch's buffers are full by then


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def period() -> np.ndarray:
    """Ten seconds of noise that begin with a second of a chirp."""
    seconds = np.arange(10 * RATE) / RATE
    chirp = np.sin(2 * np.pi * (500 + 300 * np.sin(9 * seconds)) * seconds) * (seconds < 1)
    return (np.random.default_rng(0).normal(0, 0.002, len(seconds)) + 0.2 * chirp).astype(np.float32)


def run(hours: float, hop_seconds: float, start_hours: int) -> int:
    """Pushes `period` hop by hop through a detector that comes with the project; returns how many events it found."""
    hop, start, audio = round(hop_seconds * RATE), start_hours * 3600 * RATE, period()
    stream, hops = EventStream(load_detector(), 0.5, start), round(hours * 3600 / hop_seconds)
    model = stream.frames.model
    most_held = model.left_samples + model.right_samples + FRAME_SAMPLES + hop  # samples, of the detector's own buffer
    memory, found = [], 0
    begin = cpu = 0.0
    for number in range(hops):
        if number % max(1, hops // 10) == 0:
            took, used = time.perf_counter() - begin, time.process_time() - cpu
            memory.append(resident_mib())
            print(
                f"{number * hop_seconds / 3600:6.2f} h: {memory[-1]:.1f} MiB, {found} events, "
                f"{len(stream._buffer)} + {len(stream.frames._buffer)} samples held, "
                f"{took / max(1, hops // 10) * 1000:.2f} ms per hop ({used / max(1, hops // 10) * 1000:.2f} of CPU)",
                flush=True,
            )
            begin, cpu = time.perf_counter(), time.process_time()
        at = number * hop % len(audio)
        found += len(stream.push(audio[at : at + hop]))
        assert len(stream._buffer) <= (LONGEST_SECONDS + 5) * RATE  # the longest event, and its margins
        assert len(stream.frames._buffer) <= most_held
    print(f"{hours:6.2f} h: {resident_mib():.1f} MiB, {found} events")
    if hours >= 1:  # before, torch's buffers are not full
        assert resident_mib() - memory[1] < MOST_GROWTH
    end = start + hops * hop
    assert 0 <= end // FRAME_SAMPLES - stream.frames.frame <= model.right_samples // FRAME_SAMPLES + 1
    return found


def test_seconds_of_hops():
    run(1 / 600, 0.1, 24)


@pytest.mark.nightly
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("hours, hop_seconds, start_hours", [(1, 0.1, 24), (24, 1.0, 0)])
def test_hours_of_hops(hours, hop_seconds, start_hours):
    run(hours, hop_seconds, start_hours)
