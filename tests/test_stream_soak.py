"""Hours of a stream and of recordings: memory and state do not grow, frames are as many as hours have, events go on.

With `pytest -s` it prints, every tenth of the way, what the stream holds and how long a hop takes.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from conftest import ROOT
from tiny import detector_of_noise

from avb.events.detection import LONGEST_SECONDS, EventStream, load_detector
from modeling_events_avb import FRAME_SAMPLES

RATE = 16_000
MOST_GROWTH = 40  # MiB since the first tenth of the way; torch's buffers are full by then
SHORT_HOURS, LONG_HOURS = 0.5, 4  # of two recordings, scored by a process each
MOST_MORE = 60  # MiB at the peak of the process of the longer one; its audio alone would take 790 more


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


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """A folder with `short.flac`, `long.flac` and a detector that finds an event in nearly each of their periods."""
    folder, part = tmp_path_factory.mktemp("recordings"), period()
    for name, hours in (("short", SHORT_HOURS), ("long", LONG_HOURS)):
        with sf.SoundFile(folder / f"{name}.flac", "w", RATE, 1) as file:
            for number in range(round(hours * 360)):
                file.write(part * (0.2 + number % 7 / 10))
    detector = detector_of_noise()
    detector.config.threshold = 0.5
    detector.save_pretrained(folder / "detector")
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """`predict_avb.py` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "predict_avb.py"), "emogator-cnn", *arguments, "--device", "cpu"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def peak_mib(process: subprocess.Popen) -> float:
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    assert process.returncode == 0
    return used.ru_maxrss / 1024


@pytest.mark.nightly
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize(
    "output, more",
    [
        ("events.jsonl", ["--events", "--detector", "detector"]),
        ("windows.jsonl", ["--window_seconds", "2", "--hop_seconds", "1"]),
        ("picture.png", ["--detector", "detector"]),
    ],
)
def test_hours_of_a_recording(recordings, output, more):
    peaks = []
    for name in ("short", "long"):
        peaks.append(peak_mib(start(recordings, f"{name}.flac", "--output", f"{name} {output}", *more)))
        print(f"{name} {output}: {peaks[-1]:.0f} MiB at the peak")
    assert peaks[1] - peaks[0] < MOST_MORE
    if output != "picture.png":
        rows = [json.loads(line) for line in (recordings / f"long {output}").read_text().splitlines()]
        most = LONG_HOURS * 3600
        starts = [row["start"] for row in rows]
        assert starts == sorted(starts) and rows[-1]["end"] <= most and rows[-1]["end"] > most - 11
        assert len(rows) == most - 1 if output.startswith("windows") else len(rows) > most / 20


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_killed_in_a_long_recording_the_command_goes_on(recordings):
    argv = ["short.flac", "long.flac", "--events", "--detector", "detector"]
    peak_mib(start(recordings, *argv, "--output", "whole.csv"))
    partial = recordings / "killed.csv.partial"
    process = start(recordings, *argv, "--output", "killed.csv")
    while not (partial.exists() and b'"id": "long.flac"' in partial.read_bytes()):
        assert process.poll() is None, "it was over before it could be killed"
        time.sleep(0.05)
    process.kill()
    process.communicate()
    process = start(recordings, *argv, "--output", "killed.csv")
    said, _ = process.communicate()
    assert process.returncode == 0 and "1 of 2 recordings are scored already" in said
    assert (recordings / "killed.csv").read_bytes() == (recordings / "whole.csv").read_bytes()
