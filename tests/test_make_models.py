"""The path from recordings to a shipped model, each of its commands in this process, with one step of each training."""

import re
import shlex

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

import avb.calibration.command
import avb.reports.command
import train_avb
from avb.run_files import read_metrics
from avb.training.queue import output_dir, read_runs

SCRIPT = ROOT / "recipes/emogator/make_models.sh"
MODULES = {"avb.calibration": avb.calibration.command, "avb.reports": avb.reports.command}
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
    lines = SCRIPT.read_text().replace('"$data"', "DATA").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("python ")]


@pytest.mark.slow
def test_the_whole_path_works(few_speakers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    queue, *others = commands()
    assert queue[:4] == ["python", "-m", "avb.training.queue", "recipes/emogator/models.txt"]
    for run in read_runs(ROOT / "recipes/emogator/models.txt"):
        assert train_avb.main([*run, "--data_dir", str(few_speakers), *TRIAL, "--cache_dir", "cache"]) == 0
    teacher = read_metrics("runs/emogator/teacher")
    assert teacher.splits["cross_validation"]["num_clips"] == 120
    for words in others:
        argv = [str(few_speakers) if word == "DATA" else word for word in words[3:]]
        if "audit" in argv:
            argv += ["--max_clips", "12"]
        assert MODULES[words[2]].main(argv) == 0, words
    student = tmp_path / "runs/emogator/student"
    assert (student / "calibration.json").is_file() and (tmp_path / "runs/emogator/audit/audit.md").is_file()
    assert re.search(r"^teachers:", (student / "recipe.yaml").read_text(), flags=re.MULTILINE)


def test_the_list_names_each_run_once_and_teachers_come_first():
    runs = read_runs(ROOT / "recipes/emogator/models.txt")
    folders = [str(output_dir(run)) for run in runs]
    taught = runs[-1]
    teachers = taught[taught.index("--teachers") + 1 : taught.index("--output_dir")]
    assert teachers == folders[:-1] and all("--folds" in run for run in runs[:-1])
