"""The queue of trainings, on commands that take no time; that train_avb.py resumes is tested elsewhere."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from avb.errors import AvbError
from avb.run_files import METRICS
from avb.training import queue

# Stands in for train_avb.py: fails where it is told so, else writes what a run writes last.
SCRIPT = """
import pathlib, sys
run = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
print("arguments", *sys.argv[1:])
if "--fail" in sys.argv:
    sys.exit("no such corpus")
run.mkdir(parents=True)
(run / "metrics.json").write_text('{"metric": "uar", "train_seconds": 2.5, "splits": {"validation": {"uar": 0.31}}}')
"""


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(queue, "ROOT", tmp_path)
    monkeypatch.setattr(queue, "SECONDS", 0.02)
    (tmp_path / "train_avb.py").write_text(SCRIPT)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def lines(state: Path) -> list[str]:
    return [line.split(" ", 2)[2] for line in (state / "log.txt").read_text().splitlines()]


def test_runs_are_read_with_comments_and_known_by_their_folder(tmp_path):
    path = tmp_path / "runs.txt"
    path.write_text("# first\na.yaml --output_dir runs/a  # short\n\nb.yaml --output_dir 'runs/b c' --seed 2\n")
    assert queue.read_runs(path) == [
        ["a.yaml", "--output_dir", "runs/a"],
        ["b.yaml", "--output_dir", "runs/b c", "--seed", "2"],
    ]
    path.write_text("a.yaml\n")
    with pytest.raises(AvbError, match="line 1: no --output_dir"):
        queue.read_runs(path)
    path.write_text("a.yaml --output_dir x\nb.yaml --output_dir x\n")
    with pytest.raises(AvbError, match="line 2: --output_dir x is used by another line"):
        queue.read_runs(path)
    with pytest.raises(AvbError, match="cannot be read"):
        queue.read_runs(tmp_path / "none.txt")


def test_each_result_is_noted_failures_too_and_what_is_finished_is_skipped(state, tmp_path, capsys):
    good, bad, done, taken = (["--output_dir", str(tmp_path / name)] for name in ("good", "bad", "done", "taken"))
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / METRICS).write_text("{}")
    with queue.lock(state / "taken.lock"):  # by another queue
        assert queue.work_off([done, [*bad, "--fail"], taken, good], state, ["--bf16", "true"]) == 2  # bad and taken
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "done: was finished before" and printed[3].startswith("taken: another queue is training it")
    started, failed, started_next, finished = lines(state)
    assert [started, failed, started_next, finished] == [*printed[1:3], *printed[4:]]
    assert started.startswith("bad: starts: ") and started.endswith("--fail --bf16 true --resume true")
    assert failed == f"bad: ended with code 1: no such corpus (all of its output: {state / 'bad.out'})"
    assert started_next.startswith("good: starts: ")
    assert finished == "good: finished: validation uar 0.31, 2.5 s"
    assert "--bf16 true --resume true" in (state / "good.out").read_text()
    assert queue.work_off([done, good], state, []) == 0 and len(lines(state)) == 4


def test_a_training_that_outlives_its_queue_keeps_its_lock(state, tmp_path):
    command = [sys.executable, "-c", "import sys; print('begun', flush=True); sys.stdin.read()"]
    reader, writer = os.pipe()
    stdin, out = os.dup(0), tmp_path / "out"
    os.dup2(reader, 0)  # the command reads it, and ends when it is closed
    try:
        with queue.lock(state / "a.lock") as mine, open(out, "w") as file:
            thread = threading.Thread(target=queue.run, args=(command, file, state / queue.PAUSE, [], mine))
            thread.start()
            deadline = time.monotonic() + 200
            while not out.read_text() and time.monotonic() < deadline:
                time.sleep(0.01)
        with queue.lock(state / "a.lock") as taken:  # the queue has let go of it
            assert taken is None
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        os.close(reader)
        os.close(writer)
    thread.join(200)
    with queue.lock(state / "a.lock") as free:
        assert free is not None


def test_a_pause_stops_the_process_where_it_is(state, tmp_path):
    """As the system sees it: state T, until the file is gone."""
    pause, out, codes = state / queue.PAUSE, tmp_path / "out", []
    pause.touch()
    command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(0.3)"]
    with open(out, "w") as file:
        thread = threading.Thread(target=lambda: codes.append(queue.run(command, file, pause, [])))
        thread.start()
        children = Path(f"/proc/{os.getpid()}/task/{thread.native_id}/children")
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not (
            (child := children.read_text().strip()) and Path(f"/proc/{child}/stat").read_text().split()[2] == "T"
        ):
            time.sleep(0.01)
        assert Path(f"/proc/{child}/stat").read_text().split()[2] == "T"
        pause.unlink()
        thread.join(200)
    assert codes == [0] and out.read_text().strip() == child


def test_sigterm_reaches_the_training_even_in_a_pause(state, tmp_path):
    """It may write a checkpoint before it goes; the next run is not begun."""
    (tmp_path / "train_avb.py").write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(200)\n"
    )
    handler = signal.getsignal(signal.SIGTERM)
    runs = [["--output_dir", str(tmp_path / name)] for name in ("a", "b")]
    assert queue.work_off(runs, state, []) == 143
    assert [line.split(": ")[:2] for line in lines(state)] == [["a", "starts"], ["a", "ended with code 143"]]
    assert signal.getsignal(signal.SIGTERM) == handler
