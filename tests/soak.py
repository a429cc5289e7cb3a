"""Thousands of predictions by the demo, and the memory it takes: constant, or the demo would not live through a night.

    python tests/soak.py --predictions 50000 --requests 2000

First the demo's own scoring function in this process, with clips of every container and length, long ones cut into
windows, and one file in ten that is no audio; then the real server in a process of its own, asked by the real client.
Prints the memory every tenth of the way, and exits with 1 where it has grown by more than `--growth` MiB since the
first tenth: libraries keep buffers, which are full by then.
"""

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf
from bad_input.checkpoints import save_model
from demo_server import ROOT, serving

import avb
from avb.errors import AudioError


def make_clips(folder: Path) -> list[Path]:
    """Twenty files: four containers, 0.05 to 12 s, several rates; two of them no audio."""
    rng = np.random.default_rng(0)
    paths = []
    for number, seconds in enumerate((0.05, 0.3, 0.7, 1, 1.5, 2, 2.5, 3, 4, 0.2, 0.5, 0.9, 1.2, 1.8, 2.2, 12, 0.6, 8)):
        suffix, rate = ("wav", "flac", "ogg", "mp3")[number % 4], (16_000, 48_000, 44_100)[number % 3]
        paths.append(folder / f"{number}.{suffix}")
        sf.write(paths[-1], rng.uniform(-0.3, 0.3, round(seconds * rate)), rate)
    for name in ("note.wav", "note.mp3"):
        paths.append(folder / name)
        paths[-1].write_text("eggs, bread, milk\n" * 20)
    return paths


def rss(pid: int) -> float:
    """Memory of a process, MiB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch:
    """Prints the memory of a process every tenth of the way; `growth` is what came after the first."""

    def __init__(self, name: str, pid: int, count: int):
        self.name, self.pid, self.step, self.seen = name, pid, max(1, count // 10), []
        self.start = time.time()

    def __call__(self, done: int):
        if done % self.step == 0:
            self.seen.append(rss(self.pid))
            print(f"{self.name}: {done:,} after {time.time() - self.start:.0f} s, {self.seen[-1]:.0f} MiB", flush=True)

    @property
    def growth(self) -> float:
        return self.seen[-1] - self.seen[0]


def predict(folder: Path, count: int) -> Watch:
    """`count` predictions by `answers.score_recording`, in this process."""
    sys.path.append(str(ROOT / "demo"))
    from answers import score_recording

    pipe, clips = avb.load(str(save_model(folder / "model")), device="cpu"), make_clips(folder)
    watch, refused = Watch("predictions", os.getpid(), count), 0
    for done, path in zip(range(1, count + 1), itertools.cycle(clips), strict=False):
        try:
            score_recording(pipe, path, window_seconds=5, max_seconds=60)
        except AudioError:
            refused += 1
        watch(done)
    assert refused in (count // 10, count // 10 + 1, count // 10 - 1), f"{refused} of {count} refused"
    return watch


def request(folder: Path, count: int) -> Watch:
    """`count` uploads and answers of the running app."""
    from gradio_client import Client, handle_file

    clips = make_clips(folder)
    with serving(save_model(folder / "model"), folder) as (address, pid):
        with contextlib.redirect_stdout(None):
            client = Client(address, verbose=False)
        watch = Watch("requests", pid, count)
        for done, path in zip(range(1, count + 1), itertools.cycle(clips), strict=False):
            answer = client.predict(handle_file(path), [], 5, api_name="/score")
            assert answer
            watch(done)
        client.close()
    return watch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=50_000)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--growth", type=float, default=30, help="MiB that are forgiven (30)")
    args = parser.parse_args()
    grown = []
    for run, count in ((predict, args.predictions), (request, args.requests)):
        if count:
            with tempfile.TemporaryDirectory(prefix="avb-soak-") as folder:
                watch = run(Path(folder), count)
            print(
                f"{watch.name}: {count:,}, memory {watch.seen[0]:.0f} → {watch.seen[-1]:.0f} MiB ({watch.growth:+.0f})"
            )
            grown += [watch.name] * (watch.growth > args.growth)
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
