"""Every recipe of the paper runs end to end: encoders of the right shape at tiny width, two steps, a score, a row."""

import csv

import pytest
from conftest import ROOT

import train_avb
from avb.reports.command import main as reports_main
from avb.reports.run_table import read_results

with open(ROOT / "recipes" / "paper" / "rows.csv", newline="", encoding="utf-8") as file:
    ROWS = list(csv.DictReader(file))
RECIPES = sorted({row["recipe"] for row in ROWS})


@pytest.fixture(scope="module")
def encoders(checkpoints, tmp_path_factory):
    """A folder of local checkpoints as `AVB_ENCODERS` names one."""
    folder = tmp_path_factory.mktemp("encoders")
    for name, checkpoint in checkpoints.items():
        (folder / name).symlink_to(checkpoint)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results") / "runs.csv"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_runs(recipe, release, encoders, results, tmp_path, monkeypatch):
    monkeypatch.setenv("AVB_ENCODERS", str(encoders))
    path = ROOT / "recipes" / f"{recipe}.yaml"
    assert path.exists()
    argv = [str(path), "--data_dir", str(release), "--output_dir", str(tmp_path), "--results", str(results)]
    argv += [
        "--max_steps",
        "2",
        "--rnn_hidden_size",
        "16",
        "--per_device_train_batch_size",
        "8",
        "--disable_tqdm",
        "true",
    ]
    assert train_avb.main(argv) == 0
    row = [result for result in read_results(results) if result.split == "validation"][-1]
    assert row.score is not None and row.num_clips > 10


@pytest.mark.slow
def test_report_lists_every_row_and_claims_none_of_these_runs(results, tmp_path, capsys):
    """Two steps on a small corpus are nobody's row of the paper: each stays "not run"."""
    reports_main(["paper", "--results", str(results), "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert len([line for line in printed.splitlines() if "not run" in line]) == len(ROWS) == 48
    assert (tmp_path / "paper.md").exists() and (tmp_path / "paper.csv").exists()
