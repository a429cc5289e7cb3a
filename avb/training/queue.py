"""Runs a list of trainings one after another, for days, on a machine that has other work to do.

    nice -n 19 python -m avb.training.queue recipes/emogator/queue.txt --state queue -- --data_dir EMOGATOR --bf16 true

The list has one run per line: the arguments of `train_avb.py`, with an `--output_dir`. Arguments after `--` are added
to each run. Finished runs are skipped, and unfinished ones continue from their last checkpoint. So the queue can be
stopped (on SIGTERM, the training first writes a checkpoint) or killed at any time, and restarted with the same command.
Several queues can share a list and a state folder: each takes the first run that no other has taken.

The state folder contains `log.txt`, with a line whenever a run starts, ends or fails, and `RUN.out`, the output of each
run. The lines of `log.txt` are printed too. While the folder contains a file named `PAUSE`, the trainings are suspended
in memory and use no CPU time. The exit code is 0 if all runs of the list are finished, and 143 after SIGTERM.

Results depend on the code: start the queue in a separate clone and leave that clone at one commit.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from avb.commands import SIGTERM_EXIT, as_command, on_sigterm
from avb.errors import AvbError
from avb.files import make_folder, try_lock
from avb.metrics import defined_metric
from avb.run_files import METRICS
from avb.training.checkpoints import is_finished

ROOT = Path(__file__).resolve().parents[2]
PAUSE = "PAUSE"
SECONDS = 2.0  # interval of checking the training and PAUSE


@as_command("queue", resume="the same command continues")
def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    own, common = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(prog="python -m avb.training.queue", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=Path, help="file of one run per line: arguments of train_avb.py; # is a comment")
    parser.add_argument("--state", type=Path, default=Path("queue"), help="folder for logs and the file PAUSE")
    args = parser.parse_args(own)
    return work_off(read_runs(args.runs), make_folder(args.state), common)


def read_runs(path: Path) -> list[list[str]]:
    """The arguments of each run, in order.

    Raises:
        AvbError: the list cannot be read, or a line has no `--output_dir` or that of another line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise AvbError(f"{path}: cannot be read ({error.strerror}); give a file of one run per line") from error
    runs: list[list[str]] = []
    for number, line in enumerate(lines, 1):
        arguments = shlex.split(line, comments=True)
        if not arguments:
            continue
        if "--output_dir" not in arguments[:-1]:
            raise AvbError(f"{path}, line {number}: no --output_dir, which identifies a run: add it")
        if output_dir(arguments) in map(output_dir, runs):
            raise AvbError(
                f"{path}, line {number}: --output_dir {output_dir(arguments)} is used by another line: change it"
            )
        runs.append(arguments)
    return runs


def output_dir(arguments: list[str]) -> Path:
    return Path(arguments[arguments.index("--output_dir") + 1])


def work_off(runs: Sequence[list[str]], state: Path, common: Sequence[str]) -> int:
    """Runs all unfinished runs in order. Returns the number that are not finished afterwards, or 143 after SIGTERM.

    Those have failed, or another queue has taken them.
    """
    unfinished, stopped = 0, []
    with on_sigterm(lambda *_: stopped.append(True)):
        for arguments in runs:
            name = output_dir(arguments).name
            with lock(state / f"{name}.lock") as mine:
                if is_finished(output_dir(arguments)):
                    print(f"{name}: was finished before", flush=True)
                    continue
                if mine is None:
                    print(f"{name}: another queue is training it, or one that was killed left it running", flush=True)
                    unfinished += 1
                    continue
                command = [sys.executable, str(ROOT / "train_avb.py"), *arguments, *common, "--resume", "true"]
                log(state, f"{name}: starts: {shlex.join(command[1:])}")
                with open(state / f"{name}.out", "a", encoding="utf-8") as out:
                    code = run(command, out, state / PAUSE, stopped, mine)
                log(state, f"{name}: {outcome(code, output_dir(arguments), state / f'{name}.out')}")
                if stopped:
                    return SIGTERM_EXIT
                unfinished += code != 0
    return unfinished


def run(command: Sequence[str], out, pause: Path, stopped: Sequence[bool], locked: IO | None = None) -> int:
    """Runs a command, suspended while `pause` exists, ended by SIGTERM once `stopped` is set; returns its code.

    It shares the file `locked`, so that a run stays locked until its training ends, even if the queue is killed.
    """
    shared = [] if locked is None else [locked.fileno()]
    process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, pass_fds=shared)
    is_asleep = False
    try:
        while process.poll() is None:
            if stopped:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                return process.wait()
            if pause.exists() != is_asleep:
                is_asleep = not is_asleep
                process.send_signal(signal.SIGSTOP if is_asleep else signal.SIGCONT)
            time.sleep(SECONDS)
        return process.returncode
    finally:
        if process.poll() is None:
            process.kill()


def outcome(code: int, run_dir: Path, out: Path) -> str:
    """The log line of a run that ended: its scores, or how it failed."""
    if code == 0 and is_finished(run_dir):
        metrics = json.loads((run_dir / METRICS).read_text(encoding="utf-8"))
        names = {name: defined_metric(split, metrics["metric"]) for name, split in metrics["splits"].items()}
        scores = (f"{split} {name} {metrics['splits'][split].get(name)}" for split, name in names.items())
        return f"finished: {', '.join(scores)}, {metrics['train_seconds']} s"
    lines = out.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"ended with code {code}: {lines[-1] if lines else 'it printed nothing'} (all of its output: {out})"


def log(state: Path, text: str):
    print(text, flush=True)
    with open(state / "log.txt", "a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


@contextmanager
def lock(path: Path) -> Iterator[IO | None]:
    """The locked file; None if others have it. The system releases the lock when all processes that share it end."""
    with open(path, "w") as file:
        yield file if try_lock(file) else None


if __name__ == "__main__":
    sys.exit(main())
