"""Benchmarks: each runs end to end at toy size and leaves a whole row, by `make nightly`; in CI, what they share.
What they measure is not tested: no test knows how fast a machine is."""

import csv
import importlib
import itertools
import math
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent  # not of conftest: processes import this module, and would import torch


@pytest.fixture(autouse=True)
def folder_of_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "HF_HUB_OFFLINE"):  # what a benchmark sets for its children
        monkeypatch.setenv(name, os.environ.get(name, ""))


def run(name: str, tmp_path, *arguments: str, rounds: int = 1) -> list[dict]:
    """The rows that a benchmark appended."""
    results = tmp_path / "benchmarks.csv"
    main = importlib.import_module(name).main
    common = ["--threads", "1", "--rounds", str(rounds), "--results", str(results), "--note", "toy"]
    assert main([*arguments, *common]) == 0
    rows = read(results)
    assert all("toy" in row["note"] and row["rounds"] == str(rounds) for row in rows)
    return rows


def read(results: Path) -> list[dict]:
    with open(results, newline="") as file:
        return list(csv.DictReader(file))


def check_whole(row: dict):
    for column in ("benchmark", "setting", "peer", "device", "commit", "versions", "date"):
        assert row[column], column
    for column in ("ours_s", "peer_s", "ratio", "ours_cpu_s", "peer_cpu_s", "cpu_ratio", "peak_mib", "peer_peak_mib"):
        assert math.isfinite(float(row[column])) and float(row[column]) > 0, column
    assert float(row["ratio_low"]) <= float(row["ratio"]) <= float(row["ratio_high"])


def test_the_readme_has_the_table_of_results(capsys):
    assert importlib.import_module("table").main() == 0
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out in text, "python benchmarks/table.py, and put it under Measured"


@pytest.mark.nightly
@pytest.mark.parametrize("ours", ["fp32", "onnx-fp32"])
def test_latency_cpu(tmp_path, ours):
    """The model that is cut and the stock one that is not, with the same weights, predict the same."""
    if ours.startswith("onnx"):
        pytest.importorskip("onnxruntime", reason="the extra onnx")
    (row,) = run("latency_cpu", tmp_path, "--seconds", "0.5", "--ours", ours, rounds=2)
    check_whole(row)
    assert float(row["max_difference"]) < 1e-4
    low, high = map(float, row["note"].removeprefix("scores spread over ").partition(";")[0].split(" to "))
    assert high - low > 0.3  # models that say the same of every clip would agree whatever they were


@pytest.mark.nightly
def test_score_folder(tmp_path):
    (row,) = run("score_folder", tmp_path, "--clips", "5", "--longest", "1", "--ours", "torch-bf16")
    check_whole(row)


@pytest.mark.nightly
def test_score_folder_memory(tmp_path):
    (row,) = run("score_folder", tmp_path, "--clips", "20", "--longest", "0.5", "--memory")
    check_whole(row)
    assert row["benchmark"] == "score_folder_memory"
    assert float(row["ratio"]) == pytest.approx(float(row["peak_mib"]) / float(row["peer_peak_mib"]), rel=1e-3)


@pytest.mark.nightly
def test_data_pipeline(tmp_path):
    rows = run("data_pipeline", tmp_path, "--clips", "3")
    assert [row["benchmark"] for row in rows] == ["data_pipeline_first_epoch", "data_pipeline_later_epoch"]
    for row in rows:
        check_whole(row)


@pytest.mark.nightly
def test_import_time(tmp_path):
    rows = run("import_time", tmp_path, "--warmup", "0")
    assert [row["setting"].split(",")[0] for row in rows] == ["avb.load", "predict_avb.py"]
    for row in rows:
        check_whole(row)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_every_gpu_row_runs_on_a_cpu_at_toy_size(tmp_path):
    """With it train_step.py, train_command.py and frozen_epochs.py, which nothing else here runs."""
    results = tmp_path / "benchmarks.csv"
    sizes = {"DEVICE": "cpu", "SHAPE": "TOY", "BATCH": "2", "LARGE_BATCH": "4", "EPOCHS": "1", "CLIPS": "32"}
    sizes["SMALL_CLIPS"] = "24"
    environment = {**os.environ, **sizes, "ROUNDS": "2", "LIMIT": "600", "TOTAL": "0", "RESULTS": str(results)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([ROOT / "benchmarks" / "gpu.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read(results)
    names = ["train_step"] * 3 + ["train_command"] + ["small_models"] * 2
    names += ["train_step", "score_folder", "frozen_epochs"]
    assert [row["benchmark"] for row in rows] == names
    steps = [row for row in rows if row["benchmark"] == "train_step"]
    assert all(float(row["gflops"]) > 0 and float(row["limit_gflops"]) > 0 for row in steps)
    for row in (*steps[:2], rows[3], *rows[7:]):
        check_whole(row)
    for row in (*steps[2:], *rows[4:6]):
        assert row["peer"] == row["ratio"] == row["peer_s"] == "" and float(row["ours_s"]) > 0
    assert "batch 2 " in steps[0]["setting"] and "front end kept" in steps[1]["setting"]
    assert "% of a matrix product's" in done.stdout and "| train_command |" in done.stdout


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("total", ["0", "1"])
def test_the_cpu_rows_at_toy_size_and_cut_off(total, tmp_path):
    """Cut off after a second it leaves no row, says what it left out, and fails."""
    results = tmp_path / "benchmarks.csv"
    results.write_text((ROOT / "results" / "benchmarks.csv").read_text().partition("\n")[0] + "\n")
    environment = {**os.environ, "SHAPE": "TOY", "BATCH": "2", "EPOCHS": "1", "CLIPS": "16", "TOTAL": total}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / "benchmarks" / "cpu.sh"], env={**environment, "RESULTS": str(results)}, capture_output=True, text=True
    )
    names = [row["benchmark"] for row in read(results)]
    if total == "1":
        assert done.returncode == 1 and names == [] and "no time left for: import_time.py" in done.stderr
        return
    assert done.returncode == 0, done.stderr[-3000:]
    pipeline = ["data_pipeline_first_epoch", "data_pipeline_later_epoch"]
    assert (
        names == ["train_step"] * 2 + ["latency_cpu", "train_command", "score_folder"] + ["import_time"] * 2 + pipeline
    )


def test_who_goes_first_changes(tmp_path):
    harness = importlib.import_module("harness")
    log = tmp_path / "log"
    ours, peer = (
        harness.Command(
            lambda letter=letter: [sys.executable, "-S", "-c", f"open({str(log)!r}, 'a').write({letter!r})"]
        )
        for letter in "op"
    )
    times = harness.alternate(ours, peer, rounds=2)
    assert log.read_text() == "po" + "op" + "po"
    assert [len(side.seconds) for side in times] == [2, 2]  # the warm-up is no round
    row = harness.compared(harness.Row("name", "setting", "peer"), *times)
    ratios = [theirs / own for own, theirs in zip(times[0].seconds, times[1].seconds, strict=True)]
    assert (row.ratio_low, row.ratio_high) == (min(ratios), max(ratios))


def test_an_epoch_is_timed_from_the_second_on():
    small = importlib.import_module("small_models")
    says = "import time; time.sleep({}); print('epoch 1 of 3   loss 1', flush=True); print('epoch 2 of 3: step 1 of 9')"
    ends = "; print('epoch 2 of 3   loss 1'); print('epoch 3 of 3   loss 1')"
    side = small.Epochs(lambda: [sys.executable, "-S", "-c", says.format(1) + ends])
    started = time.perf_counter()
    seconds, cpu = side.run()
    assert 0 < 2 * seconds < time.perf_counter() - started - 1  # the second before the first line is no part of them
    assert cpu >= 0 and side.times.peak_mib > 0
    broken = small.Epochs(lambda: [sys.executable, "-S", "-c", says.format(0) + "; raise SystemExit('no card')"])
    with pytest.raises(small.BenchmarkError, match="exit code 1 after 1 epochs:\nno card"):
        broken.run()


def test_the_plain_script_changes_clips_and_labels_as_a_training_needs_them():
    torch = importlib.import_module("torch")
    small = importlib.import_module("small_models")
    torch.manual_seed(0)
    samples, counts = torch.randint(-9000, 9000, (4, 8000), dtype=torch.int16), torch.tensor([8000, 4000, 2000, 6000])
    samples *= torch.arange(8000) < counts[:, None]
    waveforms, mask, labels = small.change(samples, counts, torch.eye(4))
    assert waveforms.shape == mask.shape == (4, 8000) and not waveforms[mask == 0].any()
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    for waveform, own in zip(waveforms, mask, strict=True):
        assert abs(waveform[own == 1].mean()) < 1e-3 and waveform[own == 1].std() == pytest.approx(1, abs=0.01)
    assert (mask.sum(1) - counts).abs().max() < 0.2 * 8000 + 3200


def test_a_command_that_fails_says_so():
    harness = importlib.import_module("harness")
    side = harness.Command(lambda: [sys.executable, "-S", "-c", "import sys; sys.exit('no such clip')"])
    with pytest.raises(harness.BenchmarkError, match="failed with exit code 1:\nno such clip"):
        harness.alternate(side, rounds=1)


def set_up(reason: str):
    if reason == "dies":
        os._exit(3)
    if reason:
        raise ValueError(reason)
    steps = itertools.count(1)
    return lambda: sum(number**2 for number in range(300_000)) * next(steps)


@pytest.mark.slow
def test_workers_are_timed_by_turns_and_what_fails_says_so(tmp_path):
    harness = importlib.import_module("harness")
    times = harness.alternate(harness.Worker(set_up, reason=""), harness.Worker(set_up, reason=""), rounds=2)
    harness.append(tmp_path / "rows.csv", harness.compared(harness.Row("name", "setting", "peer", load=0.0), *times))
    (row,) = read(tmp_path / "rows.csv")
    assert row["rounds"] == "2" and float(row["ours_s"]) > 0 and float(row["peer_cpu_s"]) > 0
    assert float(row["ratio_low"]) <= float(row["ratio"]) <= float(row["ratio_high"])
    assert times[0].value == 3 * sum(number**2 for number in range(300_000))  # of the last step; one is a warm-up
    assert 1 < times[0].peak_mib < 1000
    for reason, message in (("dies", "exit code 3"), ("no encoder", "ValueError: no encoder")):
        with pytest.raises(harness.BenchmarkError, match=message):
            harness.set_up(set_up, reason=reason)


def test_rows_are_appended_below_one_header(tmp_path, capsys):
    harness = importlib.import_module("harness")
    path = tmp_path / "results" / "benchmarks.csv"
    for setting in ("a, b", 'say "c"'):
        harness.append(path, harness.Row("name", setting, "peer", ours_s=1 / 3, ours_cpu_s=0.5, peak_mib=1.0, load=0.0))
    rows = read(path)
    assert [row["setting"] for row in rows] == ["a, b", 'say "c"'] and rows[0]["ours_s"] == "0.33333"
    assert list(rows[0]) == [field.name for field in fields(harness.Row)]
    path.write_text("other,columns\n")
    with pytest.raises(harness.BenchmarkError, match="not the columns of this version: move the file away"):
        harness.append(path, harness.Row("name", "setting", "peer", load=0.0))


def test_the_committed_rows_are_whole():
    harness = importlib.import_module("harness")
    rows = read(ROOT / "results" / "benchmarks.csv")
    assert rows and list(rows[0]) == [field.name for field in fields(harness.Row)]
    for row in rows:
        assert None not in row.values() and row["commit"] and row["ours_s"]
        if row["ratio"]:
            assert float(row["ratio_low"]) <= float(row["ratio"]) <= float(row["ratio_high"])
