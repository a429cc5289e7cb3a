"""Mutated label tables, recipes and audio files, by the thousand: read, or refused by an error that says why.

    python tests/fuzz.py tables 100000
    python tests/fuzz.py audio 20000
    python tests/fuzz.py recipes 20000
    python tests/fuzz.py containers 20000

Each input is a good file changed at a few places, or, of `containers`, cut at one. It is drawn from the seed and its
number alone; anything but an `AvbError` is reported with that number and ends the run with exit code 1, as does half a
recording that is read as a whole one. Printed at the end: how many were read and refused, the memory of the process
after the first twentieth and at the end, and the slowest input. `tests/test_fuzz.py` runs the first hundreds of each.
"""

import argparse
import io
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
from datasets.utils import logging
from recordings import by_av, by_libsndfile

import recording_avb
from audio_avb import load_audio
from avb.corpora import load_bursts
from avb.errors import AvbError
from avb.recipes import read_recipe, recipe_arguments

WARM_UP = 0.05  # of the inputs: libraries load their parts when they are first needed
HEAD = 160  # bytes in which most of an audio file's header lies
CLIPS = [f"c{number}.wav" for number in range(10)]
# What breaks parsers: separators, quotes, ends of lines, byte-order marks, numbers of every kind, paths, YAML's signs.
TOKENS = [
    token.encode("utf-8", "surrogatepass")
    for token in (
        *",;\t\r\n\"'\0 .:-[]{}&*!?|>#%@`", "\r\n", '""', "nan", "inf", "-inf", "1e400", "-0", "0x1", "1_0", "0,5",
        "9" * 400, "x" * 300, "../", "..\\", "/etc/passwd", "c1.wav", "train", "test", "Train", "file", "joy", "split",
        "\ufeff", "é", "\u202e", "\u0661", "\ud800", "&a ", "*a", "<<: ", "!!int ", "!!binary ", "~", "extends: ",
    )
] + [b"\xff\xfe", b"\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]  # fmt: skip


def mutate(content: bytes, draw: random.Random, head: int | None = None) -> bytes:
    """One to eight changes.

    Args:
        content: of a good file.
        draw: decides all.
        head: bytes at the start in which four of five changes are made; None draws from the whole.
    """
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        size = len(content) if head is None or draw.random() < 0.2 else min(head, len(content))
        place = draw.randrange(size + 1)
        length = draw.choice((1, 1, 2, 4, 16, 100))
        match draw.randrange(7):
            case 0 if size:
                content[min(place, size - 1)] = draw.randrange(256)
            case 1 if size:
                content[min(place, size - 1)] ^= 1 << draw.randrange(8)
            case 2:
                content[place:place] = draw.choice(TOKENS)
            case 3:
                del content[place : place + length]
            case 4:
                content[place:place] = content[place : place + length] * draw.choice((1, 1, 3))
            case 5:
                content[place : place + length] = draw.randbytes(length)
            case 6 if draw.random() < 0.2:
                del content[place:]
    return bytes(content)


@dataclass(frozen=True)
class Target:
    """What is fuzzed: good files, and what reads one."""

    seeds: list[tuple[str, bytes]]  # name, content
    read: Callable[[str, bytes], object]
    head: int | None = None
    change: Callable[[bytes, random.Random], bytes] | None = None  # instead of `mutate`


def tables(folder: Path) -> Target:
    """Label tables of ten clips, through the loader of `folder` corpora."""
    for name in CLIPS:
        sf.write(folder / name, np.zeros(16), 16_000)
    rows = [
        (name, f"0.{number}", "ab"[number % 2], "train dev test".split()[number % 3])
        for number, name in enumerate(CLIPS)
    ]
    numbers = "file,joy,fear\n" + "".join(f"{name},{joy},0.5\n" for name, joy, _, _ in rows)
    classes = "path,emotion,split,speaker\r\n" + "".join(f'"{n}",{e},{s},{j}\r\n' for n, j, e, s in rows)
    european = "Datei;file;joy\n" + "".join(f"1;{name};{joy.replace('.', ',')}\n" for name, joy, _, _ in rows)
    parquet = io.BytesIO()
    pq.write_table(pa.table({"file": CLIPS, "joy": [0.5] * 10}), parquet)
    seeds = [
        ("a.csv", numbers.encode()),
        ("b.csv", classes.encode()),
        ("c.csv", european.encode("utf-8-sig")),
        ("d.csv", numbers.encode("utf-16")),
        ("e.tsv", numbers.replace(",", "\t").encode()),
        *[("a.csv", numbers.encode())] * 14,
        ("f.parquet", parquet.getvalue()),
    ]

    def read(name: str, content: bytes):
        path = folder / name
        path.write_bytes(content)
        return load_bursts("folder", path)

    return Target(seeds, read)


def recipes(folder: Path) -> Target:
    """Recipes, through all but the parser of the command line."""
    (folder / "base.yaml").write_text("seed: 1\n")
    content = (
        b"extends: base.yaml\npooling: avg\nlearning_rate: 1e-4\n"
        b"label_columns: [a, 'b', \"c\"]\nrnn: &r {a: 1}\nx: *r\n"
    )
    known = ("pooling", "learning_rate", "label_columns", "rnn", "x", "seed")

    def read(name: str, content: bytes):
        path = folder / name
        path.write_bytes(content)
        return recipe_arguments(read_recipe(path), known)

    return Target([("recipe.yaml", content)], read)


def audio(folder: Path) -> Target:
    """Clips in every container, most changes in the header."""
    tone = 0.5 * np.sin(np.arange(1600) * 0.1)
    seeds = []
    for name in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "W64", "CAF", "RF64"):
        file = io.BytesIO()
        sf.write(file, tone, 16_000, format=name)
        seeds.append((name, file.getvalue()))
    seeds += [(recording.kind, recording.content) for recording in by_av(0.1)]
    return Target(seeds, lambda name, content: load_audio(content, max_seconds=60), HEAD)


def containers(folder: Path) -> Target:
    """Clips in everything that libsndfile and PyAV write, cut at one place: read whole, or named.

    Where a header's length (44 bytes) or 1 % lack, a container states no length, or Ogg stops at the end of a page, a
    line must say so.
    """
    recordings = [*by_libsndfile(0.3), *by_av(0.3)]
    samples = {recording.kind: len(load_audio(recording.content)) for recording in recordings}

    def read(kind: str, content: bytes):
        recording_avb._said.clear()
        lost = 1 - len(load_audio(content)) / samples[kind]
        if lost > 0.01 and not recording_avb._said:
            raise AssertionError(f"{lost:.0%} are missing, and nothing was said")

    def cut(content: bytes, draw: random.Random) -> bytes:
        return content if draw.random() < 0.1 else content[: draw.randrange(len(content))]

    return Target([(recording.kind, recording.content) for recording in recordings], read, change=cut)


TARGETS = {"tables": tables, "recipes": recipes, "audio": audio, "containers": containers}


@dataclass
class Outcome:
    read: int = 0
    refused: int = 0
    uncaught: list[str] = None
    slowest: float = 0.0
    warm_rss: float = 0.0
    rss: float = 0.0


def fuzz(name: str, count: int, seed: int = 0, first: int = 0, report: Callable[[str], None] | None = None) -> Outcome:
    """Runs the inputs `first` to `first + count`."""
    logging.disable_progress_bar()
    outcome = Outcome(uncaught=[])
    with tempfile.TemporaryDirectory(prefix="avb-fuzz-") as folder:
        target = TARGETS[name](Path(folder))
        for number in range(first, first + count):
            draw = random.Random(f"{name} {seed} {number}")
            file, content = draw.choice(target.seeds)
            content = target.change(content, draw) if target.change else mutate(content, draw, target.head)
            start = time.perf_counter()
            try:
                target.read(file, content)
                outcome.read += 1
            except AvbError as error:
                outcome.refused += 1
                if not str(error).strip() or "\n" in str(error):
                    outcome.uncaught.append(f"{number}: not one line: {error!r:.300}")
            except Exception as error:  # what this is looking for
                outcome.uncaught.append(f"{number}: {file}: {error!r:.300}")
            outcome.slowest = max(outcome.slowest, time.perf_counter() - start)
            done = number - first + 1
            if done == max(1, round(WARM_UP * count)):
                outcome.warm_rss = rss()
            if report and done % max(1, count // 20) == 0:
                report(f"{name}: {done:,} of {count:,}, {len(outcome.uncaught)} uncaught, {rss():.0f} MiB")
    outcome.rss = rss()
    return outcome


def rss() -> float:
    """Memory of this process, MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to see one again")
    args = parser.parse_args()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)  # mpg123 comments on every damaged frame
    start = time.time()
    outcome = fuzz(args.target, args.count, args.seed, args.first, lambda line: print(line, flush=True))
    for line in outcome.uncaught:
        print(f"uncaught: {line}")
    print(
        f"{args.target}: {args.count:,} inputs in {time.time() - start:.0f} s: {outcome.read:,} read, "
        f"{outcome.refused:,} refused, {len(outcome.uncaught)} uncaught; memory {outcome.warm_rss:.0f} MiB after "
        f"{WARM_UP:.0%}, {outcome.rss:.0f} MiB at the end; slowest {outcome.slowest:.2f} s"
    )
    return 1 if outcome.uncaught else 0


if __name__ == "__main__":
    sys.exit(main())
