"""Times the peer and ours alternately in one process tree, keeps the ratio of every round, and appends one row.

A side is a `Worker` (a process that sets up once and then repeats a step) or a `Command` (a new process each time).
Unusual:

- The side that goes first alternates between rounds. The result is the median ratio over rounds, with the lowest and
  the highest. So on a machine that other programs use, a slow minute affects both sides, or shows in the spread.
- This process does not import torch, because a child process starts with its parent's peak memory: this way, the peak
  of a child is its own.
"""

import argparse
import csv
import io
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "benchmarks.csv"


class BenchmarkError(Exception):
    """A side failed; the message holds its own words."""


@dataclass
class Row:
    """A row of `results/benchmarks.csv`. Empty cells do not apply.

    Attributes:
        benchmark: name of the script, and of the part of it.
        setting: shape, batch, lengths, and whatever else the numbers depend on.
        peer: what ours is compared with; what exactly it is says `benchmarks/README.md`.
        ours_s: median over rounds, seconds of one unit of work.
        peer_s: the same of the peer.
        ratio: median over rounds of peer_s / ours_s (of memory: ours / peer).
        ratio_low: lowest of a round.
        ratio_high: highest of a round.
        ours_cpu_s: median processor time of one unit, over all threads; on a CPU that others use too it is steadier.
        peer_cpu_s: the same of the peer.
        cpu_ratio: peer_cpu_s / ours_cpu_s.
        peak_mib: highest resident memory of our process, or on a GPU what torch allocated, MiB.
        peer_peak_mib: the same of the peer.
        rounds: number of rounds.
        gflops: floating-point operations of ours, GFLOP a second.
        limit_gflops: of a matrix product on this device, measured in the same run.
        max_difference: between the predictions of both sides.
        device: processor and threads, or GPU.
        load: the machine's load average at the start, in processes; beyond the threads used others were at work.
        commit: of this project; `-dirty` with changes that are not committed.
        versions: of torch, transformers and python.
        date: UTC.
        note: anything a reader must know.
    """

    benchmark: str
    setting: str
    peer: str
    ours_s: float | None = None
    peer_s: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    ours_cpu_s: float | None = None
    peer_cpu_s: float | None = None
    cpu_ratio: float | None = None
    peak_mib: float | None = None
    peer_peak_mib: float | None = None
    rounds: int | None = None
    gflops: float | None = None
    limit_gflops: float | None = None
    max_difference: float | None = None
    device: str = ""
    load: float | None = None
    commit: str = ""
    versions: str = ""
    date: str = ""
    note: str = ""


@dataclass
class Times:
    """What one side took: seconds and processor seconds of each round, peak memory in MiB, the last step's answer."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    value: object = None


class Worker:
    """A process of its own: `setup(**arguments)` once, then the function that it returns as often as asked.

    Several workers set up at the same time: only the first step, or `close`, waits for the setup.
    """

    def __init__(self, setup: Callable[..., Callable[[], object]], **arguments):
        self.times = Times()
        self.is_set_up = False
        self.connection, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process
        self.process = process(target=_serve, args=(theirs, setup, arguments), daemon=True)
        self.process.start()
        theirs.close()

    def wait(self):
        """Returns when the setup is done.

        Raises:
            BenchmarkError: it failed.
        """
        if not self.is_set_up:
            self._answer()
            self.is_set_up = True

    def run(self) -> tuple[float, float]:
        """One step: seconds, and processor seconds."""
        self.wait()
        self.connection.send("run")
        *seconds, self.times.peak_mib, self.times.value = self._answer()
        return tuple(seconds)

    def close(self):
        """Ends the process."""
        self.connection.close()
        self.process.join()

    def _answer(self):
        try:
            error, answer = self.connection.recv()
        except EOFError:
            self.process.join()
            raise BenchmarkError(f"a side died with exit code {self.process.exitcode}: out of memory?") from None
        if error:
            raise BenchmarkError(error)
        return answer


def _serve(connection, setup: Callable, arguments: dict):
    try:
        step = setup(**arguments)
        connection.send((None, None))
        while True:
            connection.recv()
            started, cpu_started = time.perf_counter(), time.process_time()
            value = step()
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
            connection.send((None, (seconds, cpu_seconds, peak_mib(arguments.get("device", "cpu")), value)))
    except (EOFError, BrokenPipeError):  # no more work
        pass
    except Exception:
        connection.send((traceback.format_exc()[-3000:], None))


def peak_mib(device: str) -> float:
    """Highest memory of this process so far, MiB: resident, or on a GPU what torch allocated there."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class Command:
    """A fresh process each time, timed from its start to its exit."""

    def __init__(self, command: Callable[[], Sequence[str]]):
        self.command = command  # called, untimed, before each run: it may also tidy up after the one before
        self.times = Times()

    def run(self) -> tuple[float, float]:
        """One process: seconds, and processor seconds."""
        arguments = self.command()
        with subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT
        ) as child:
            started = time.perf_counter()
            errors = child.stderr.read()  # until it exits
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - started
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise BenchmarkError(f"{' '.join(arguments)} failed with exit code {child.returncode}:\n{errors[-2000:]}")
        self.times.peak_mib = max(self.times.peak_mib, usage.ru_maxrss / 1024)
        return seconds, usage.ru_utime + usage.ru_stime

    def wait(self):
        pass

    def close(self):
        pass


def set_up(setup: Callable[..., Callable[[], object]], **arguments):
    """Runs the setup in a process of its own, to the end: it makes what the sides read."""
    worker = Worker(setup, **arguments)
    try:
        worker.wait()
    finally:
        worker.close()


def alternate(*sides: Worker | Command, rounds: int, warmup: int = 1) -> list[Times]:
    """The sides (ours, and its peer if there is one) by turns, `warmup` untimed rounds first; closed at the end."""
    try:
        for side in sides:
            side.wait()  # no side works while another one is being set up
        for number in range(warmup + rounds):
            for side in sides if number % 2 else reversed(sides):
                seconds, cpu_seconds = side.run()
                if number >= warmup:
                    side.times.seconds.append(seconds)
                    side.times.cpu_seconds.append(cpu_seconds)
    finally:
        for side in sides:
            side.close()
    return [side.times for side in sides]


def compared(row: Row, ours: Times, peer: Times | None = None) -> Row:
    """The row with both sides' times and memory, and the ratio's median and spread; without a peer, with ours."""
    row.ours_s, row.ours_cpu_s = statistics.median(ours.seconds), statistics.median(ours.cpu_seconds)
    row.peak_mib, row.rounds = ours.peak_mib, len(ours.seconds)
    if peer is None:
        return row
    ratios = [theirs / own for own, theirs in zip(ours.seconds, peer.seconds, strict=True)]
    row.peer_s, row.peer_cpu_s = statistics.median(peer.seconds), statistics.median(peer.cpu_seconds)
    row.ratio, row.ratio_low, row.ratio_high = statistics.median(ratios), min(ratios), max(ratios)
    row.cpu_ratio = row.peer_cpu_s / row.ours_cpu_s
    row.peer_peak_mib = peer.peak_mib
    return row


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of both sides (default: 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads a side (default: all)")
    parser.add_argument(
        "--results", default=str(RESULTS), help="table that gets a row (default: results/benchmarks.csv)"
    )
    parser.add_argument("--note", default="", help="what a reader of the row must know")
    return parser


def prepare(args: argparse.Namespace) -> Row:
    """Settles the children's threads, and gives the row's part that is known before the measurement."""
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # a side that waits must not slow down the one that works
    os.environ["HF_HUB_OFFLINE"] = "1"
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    commit = subprocess.run(described, capture_output=True, text=True)
    packages = [f"{name} {version(name)}" for name in ("torch", "transformers")]
    return Row(
        benchmark="",
        setting="",
        peer="",
        device=f"{_processor()}, {args.threads} threads",
        load=os.getloadavg()[0],
        commit=commit.stdout.strip(),
        versions=", ".join([*packages, f"python {platform.python_version()}"]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        note=args.note,
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def append(path: str | Path, row: Row):
    """Prints the row, and adds it to the table, which is made if need be.

    Raises:
        BenchmarkError: the table has other columns.
    """
    print(describe(row), flush=True)
    path, columns = Path(path), [field.name for field in fields(Row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        header = file.readline()
        if header and header != _csv_line(columns):
            raise BenchmarkError(f"{path}: not the columns of this version: move the file away, or give --results")
        cells = [f"{cell:.5g}" if isinstance(cell, float) else cell for cell in asdict(row).values()]
        file.write(("" if header else _csv_line(columns)) + _csv_line(cells))


def _csv_line(cells: Sequence) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def describe(row: Row) -> str:
    """The row for the terminal."""
    lines = [f"{row.benchmark}: {row.setting}"]
    sides = {
        "ours": (row.ours_s, row.ours_cpu_s, row.peak_mib),
        "peer": (row.peer_s, row.peer_cpu_s, row.peer_peak_mib),
    }
    for name, (seconds, cpu_seconds, memory) in sides.items():
        if seconds is not None:
            lines.append(f"  {name} {seconds:9.4g} s, of processors {cpu_seconds:9.4g} s, {memory:8,.0f} MiB")
    if row.peer:
        lines.append(f"       {row.peer}")
    if row.ratio is not None:
        spread = f"{row.ratio_low:.3g} to {row.ratio_high:.3g} in {row.rounds} rounds"
        lines.append(f"  ratio {row.ratio:.3g} ({spread}), of processor time {row.cpu_ratio:.3g}")
    if row.gflops and row.limit_gflops:
        share = 100 * row.gflops / row.limit_gflops
        lines.append(f"  {row.gflops:,.0f} GFLOP/s, {share:.0f} % of a matrix product's {row.limit_gflops:,.0f}")
    if row.max_difference is not None:
        lines.append(f"  predictions differ by {row.max_difference:.2g} at most")
    lines.append(f"  {row.device}; load {row.load:.1f}{'; ' + row.note if row.note else ''}")
    return "\n".join(lines)
