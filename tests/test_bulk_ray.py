"""Scoring on Ray: two workers on this machine, one of them killed at work."""

import csv
import os
import pickle
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from tiny import save_model

import predict_avb
from avb.inference import cluster
from avb.inference import shards as bulk
from avb.inference.clips import PathClips
from avb.tasks import TASKS

CLIPS = int(os.environ.get("AVB_RAY_CLIPS", "200"))
POISONED = 20  # of them
SHARD_CLIPS = 8
# A cluster of two workers, whatever the machine has; the command finds it connected.
SCRIPT = """
import sys
from avb.inference import cluster
ray = cluster.import_ray()
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=300 * 2**20)
import predict_avb
code = predict_avb.main(sys.argv[1:])
ray.shutdown()
sys.exit(code)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), TASKS["two"])


@pytest.fixture(scope="module")
def clips(request, tmp_path_factory) -> tuple[list[str], list[str]]:
    """Paths of real clips where they are at hand, else of the sample's, and those of them that are poisoned."""
    folder = tmp_path_factory.mktemp("clips")
    if os.environ.get("AVB_EMOGATOR"):
        shards = sorted(request.getfixturevalue("emogator").glob("validation-*.parquet"))
        sources = [row["bytes"] for shard in shards for row in pq.read_table(shard)["audio"].to_pylist()][:CLIPS]
    else:
        sample = request.getfixturevalue("sample")
        found = sorted(sample.rglob("*.wav"))
        sources = [found[number % len(found)].read_bytes() for number in range(CLIPS)]
    poisons = (b"", b"this is no audio", bytes(5000), b"RIFF" + bytes(40))
    paths, poisoned = [], []
    for number, source in enumerate(sources):
        path = folder / f"{number:04d}.audio"
        if number % (CLIPS // POISONED) == 5:
            source = poisons[len(poisoned) % len(poisons)]
            poisoned.append(str(path))
        path.write_bytes(source)
        paths.append(str(path))
    return paths, poisoned


def find_workers(process: subprocess.Popen) -> list[psutil.Process]:
    workers = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "MapWorker" in "".join(child.cmdline()):
                workers.append(child)
        except psutil.NoSuchProcess:  # it has just ended
            pass
    return workers


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_worker_loses_no_clip(model, clips, tmp_path):
    pytest.importorskip("ray.data", reason="ray is not installed: pip install 'avb[scale]'")
    paths, poisoned = clips
    scores = tmp_path / "scores"
    argv = [str(model), "-", "--output", str(scores), "--shard_clips", str(SHARD_CLIPS), "--num_workers", "1"]
    # Ray's workers are nice to others by default; here they may be starved by what runs beside the tests.
    environment = os.environ | {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *argv, "--ray"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    process.stdin.write("\n".join(paths))
    process.stdin.close()
    while process.poll() is None and len(list(scores.glob("part-*"))) < 4:
        time.sleep(0.05)
    workers = find_workers(process)
    assert len(workers) == 2, process.stdout.read()
    workers[0].send_signal(signal.SIGKILL)
    workers[0].wait(200)
    made = len(list(scores.glob("part-*")))
    assert made < CLIPS / SHARD_CLIPS, "all shards were there before a worker was killed"
    printed = process.stdout.read()
    assert process.wait() == predict_avb.EXIT_SKIPPED, printed

    good = [path for path in paths if path not in set(poisoned)]
    table = pd.read_parquet(scores)
    assert list(table["id"]) == good
    with open(tmp_path / "scores.errors.csv", newline="", encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == poisoned
    assert not list(scores.glob(".*"))

    # The same command without Ray writes the same shards.
    (tmp_path / "list").write_text("\n".join(paths))
    alone = [arg.replace(str(scores), str(tmp_path / "alone")) for arg in argv]
    with open(tmp_path / "list", encoding="utf-8") as names, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", names)
        assert predict_avb.main(alone) == predict_avb.EXIT_SKIPPED
    for path in sorted(scores.glob("part-*")):
        expected = pd.read_parquet(tmp_path / "alone" / path.name)
        pd.testing.assert_frame_equal(pd.read_parquet(path), expected, atol=2e-6, rtol=0)


@pytest.fixture
def job(model, clips, tmp_path):
    """A worker, as Ray makes it, and what it is handed for a shard of three clips."""
    worker = cluster.Worker(name=str(model), device="cpu", batch_seconds=64, num_workers=1)
    paths = PathClips(clips[0][:3])
    (shard,) = bulk.plan(tmp_path, paths, worker.scorer.key, 3)
    return worker, shard, {"shard": pickle.dumps((shard, paths))}


def test_a_worker_makes_a_shard(job):
    worker, shard, row = job
    assert worker(row) == {"clips": 3, "error": ""}
    assert bulk.read_note(shard.path).scored == 3


def test_a_shard_that_kills_every_worker_is_given_up(job):
    worker, shard, row = job
    for number in range(cluster.MAX_DEATHS):
        shard.path.with_name(f".{shard.path.name}.{number}").touch()  # what a killed worker leaves behind
    assert worker(row) == {"clips": 0, "error": ""}
    assert bulk.read_note(shard.path) is None


def test_a_workers_error_is_handed_back(job, tmp_path):
    worker, shard, row = job
    shard.path.mkdir()  # cannot be replaced by a file
    answer = worker(row)
    assert answer["clips"] == 0 and "part-00000.parquet: cannot be written" in answer["error"]
