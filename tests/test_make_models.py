"""The path from recordings to a shipped model, each of its commands in this process, with one step of each training."""

import json
import os
import re
import shlex
import subprocess
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import typed
from conftest import ROOT

import avb
import train_avb
from avb.cards.checking import check_release
from avb.inference.engines import HUB_FILES
from avb.run_files import read_metrics
from avb.training.queue import output_dir, read_runs

SCRIPT = ROOT / "recipes/emogator/make_models.sh"
FEW = {"audit": ["--max_clips", "12"], "reject": ["--windows", "40", "--clips", "40"]}
TRIAL = ["--max_steps", "1", "--per_device_train_batch_size", "8", "--instances", "1", "--use_cpu", "true"]


@pytest.fixture(scope="module")
def few_speakers(emogator, tmp_path_factory):
    """Shards with four speakers of each split."""
    folder = tmp_path_factory.mktemp("emogator")
    for path in emogator.glob("*.parquet"):
        table = pq.read_table(path)
        kept = pc.is_in(table["speaker"], pa.array(pc.unique(table["speaker"]).to_pylist()[:4]))
        pq.write_table(table.filter(kept), folder / path.name)
    return folder


def commands() -> list[list[str]]:
    """The commands of the script, without those in comments."""
    lines = SCRIPT.read_text().replace('"$data"', "DATA").replace('"$POOL"', "POOL").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.strip().startswith("step python ")]


def write_pool(folder):
    """Noise that comes and goes, and chords, as `python -m avb.events prepare` leaves what is no burst."""
    folder.mkdir()
    time, rng = np.arange(16_000 * 9) / 16_000, np.random.default_rng(0)
    sounds = {
        "speech": rng.normal(0, 0.3, len(time)) * (np.sin(20 * time) > 0),
        "music": sum(np.sin(2 * np.pi * tone * time) for tone in (220, 277, 330)) / 3,
    }
    for side in ("train", "test"):
        pcm = [(wave * 20_000).clip(-32_768, 32_767).astype(np.int16) for wave in sounds.values()]
        np.concatenate(pcm).tofile(folder / f"pool_{side}.pcm")
        rows = [f"{kind},{kind},,{n * len(time)},{(n + 1) * len(time)}" for n, kind in enumerate(sounds)]
        (folder / f"pool_{side}.csv").write_text("\n".join(["kind,group,label,start,stop", *rows]) + "\n")
    return folder


@pytest.mark.slow
def test_the_whole_path_works(few_speakers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    pool = write_pool(tmp_path / "pool")
    queue, *others = commands()
    assert queue[:4] == ["python", "-m", "avb.training.queue", "recipes/emogator/models.txt"]
    for run in read_runs(ROOT / "recipes/emogator/models.txt"):
        assert train_avb.main([*run, "--data_dir", str(few_speakers), *TRIAL, "--cache_dir", "cache"]) == 0
    teacher = read_metrics("runs/emogator/teacher")
    assert teacher.splits["cross_validation"]["num_clips"] == 120
    assert "validation" in teacher.splits  # of the model of all folds
    for words in others:
        argv = [{"DATA": str(few_speakers), "POOL": str(pool)}.get(word, word) for word in words[3:]]
        argv += FEW.get(words[3], [])
        if words[3] == "check":
            assert check_release(argv[1])  # what a good release of a model of one step lacks
            continue
        typed.call([*words[:3], *argv])
    student = tmp_path / "runs/emogator/student"
    calibration = json.loads((student / "calibration.json").read_text())
    assert len(calibration["burst"]["thresholds"]) == 6 and calibration["tasks"]
    assert {path.name for path in (student / "onnx").glob("*.onnx")} == set(HUB_FILES.values())
    card = (student / "README.md").read_text()
    assert "# emogator-small" in card and "cross_validation" not in card
    noise = (np.random.default_rng(0).normal(size=16_000), 16_000)
    for name in ("torch", "onnx"):
        answer = avb.load(str(student), "cpu", engine=name)(noise, coverage=0.9, false_alarms_per_hour=60)
        assert {"label", "score", "in_set", "burst_score", "is_burst"} == answer[0].keys()
    assert (student / "calibration.json").is_file() and (tmp_path / "runs/emogator/audit/audit.md").is_file()
    assert re.search(r"^teachers:", (student / "recipe.yaml").read_text(), flags=re.MULTILINE)


def test_the_list_names_each_run_once_and_teachers_come_first():
    runs = read_runs(ROOT / "recipes/emogator/models.txt")
    folders = [str(output_dir(run)) for run in runs]
    taught = runs[-1]
    teachers = taught[taught.index("--teachers") + 1 : taught.index("--output_dir")]
    assert teachers == folders[:-1] and all("--folds" in run for run in runs[:-1])


def test_a_signal_to_the_script_reaches_its_command(tmp_path):
    """As a scheduler sends it: to the script alone. Its last command may write a checkpoint before the script ends."""
    python = tmp_path / "python"  # stands in for the first command
    python.write_text(
        "#!/usr/bin/env bash\n"
        "trap 'echo written > checkpoint; exit 143' TERM\n"
        'echo "$@" > begun.tmp; mv begun.tmp begun\n'
        "while true; do sleep 0.05; done\n"
    )
    python.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(["bash", str(SCRIPT), "DATA"], cwd=tmp_path, env=os.environ | {"PATH": path}) as script:
        deadline = time.monotonic() + 200
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        script.terminate()
        assert script.wait(200) == 143
    assert (tmp_path / "begun").read_text().split()[:2] == ["-m", "avb.training.queue"]
    assert (tmp_path / "checkpoint").read_text() == "written\n"
