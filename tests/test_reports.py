"""Results and the tables made of them: rows of real metrics, every row of the paper, seeds, corpora, racing writers."""

import csv
import json
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT

from avb.command_line import parse_arguments
from avb.errors import AvbError
from avb.metrics import evaluate_predictions
from avb.reports.command import main
from avb.reports.paper import compare_with_paper, paper_report, read_paper_rows
from avb.reports.results import Result, failed_run, run_results
from avb.reports.run_table import COLUMNS, append_result, read_results, write_results
from avb.reports.summaries import runs_table, summarize
from avb.run_files import RESULTS, Metrics
from avb.tasks import TASKS

RELEASE = Result(
    recipe="paper/high-lv60k",
    task="high",
    split="validation",
    metric="ccc",
    score=0.6600,
    low=0.6550,
    high=0.6650,
    num_clips=19_396,
    interval_unit="clip",
    seed=1,
    seconds=3600.5,
    epochs=20.0,
    encoder="LARGE-LV60K",
    train_clips=19_990,
    corpus="hume_vb",
    data_dir="release",
    date="2024-01-01T00:00:00+00:00",
)
SAMPLE = replace(RELEASE, num_clips=120, train_clips=400, data_dir="sample", score=0.9, low=0.8, high=0.95)


def compare(*results):
    """The paper's rows by table, recipe and split, and the results that do not count."""
    rows, others = compare_with_paper(read_paper_rows(), results)
    return {(row["table"], row["recipe"], row["split"]): row for row in rows}, others


# --------------------------------------------------------------------------------------------------------- results


def metrics_of_run(task_name: str) -> Metrics:
    """A `metrics.json`, its scores made by the code that scores runs."""
    task = TASKS[task_name]
    generator = np.random.default_rng(0)
    if task.kind == "regression":
        truth = generator.random((40, task.num_labels))
        logits = truth + 0.1 * generator.standard_normal(truth.shape)
    else:
        truth, logits = generator.integers(0, task.num_labels, 40), generator.standard_normal((40, task.num_labels))
    return Metrics(
        task=task.name,
        metric=task.metric,
        labels=list(task.labels),
        run_id="20240131-154502-9f3c1a",
        seed=7,
        train_clips=400,
        train_seconds=12.3,
        splits={
            "validation": evaluate_predictions(task, truth, logits, num_resamples=20),
            "test": {"num_clips": 0, "note": "labels are withheld"},
        },
    )


@pytest.mark.parametrize("task", ["two", "type"])
def test_a_run_becomes_one_row_a_split_and_reads_back(task, tmp_path):
    metrics = metrics_of_run(task)
    rows = run_results(
        "paper/two-base",
        "--max_steps 5",
        metrics,
        encoder="BASE",
        corpus="hume_vb",
        data_dir=tmp_path / "sample",
        epochs=0.12345,
        versions={"commit": "abc", "torch": "2.6", "python": "3.10"},
    )
    validation, test = rows
    assert (validation.split, test.split) == ("validation", "test")
    assert validation.score == metrics.splits["validation"][TASKS[task].metric]
    assert validation.low <= validation.score <= validation.high
    assert (validation.num_clips, validation.interval_unit, validation.seed) == (40, "clip", 7)
    assert (validation.recipe, validation.changes) == ("paper/two-base", "--max_steps 5")
    assert (validation.data_dir, validation.train_clips, validation.epochs) == ("sample", 400, 0.12)
    assert validation.commit == "abc" and json.loads(validation.versions) == {"torch": "2.6", "python": "3.10"}
    assert test.score is None and test.note == "labels are withheld"
    assert validation.run_id == test.run_id == metrics.run_id

    path = tmp_path / "results" / "runs.csv"
    for row in rows:
        append_result(path, row)
    assert read_results(path) == rows
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert str(tmp_path) not in path.read_text(), "no path of this machine"
    assert [file.name for file in path.parent.iterdir()] == ["runs.csv"]


def test_a_failure_is_a_row_too(tmp_path):
    path = tmp_path / "runs.csv"
    failure = failed_run(
        "paper/high-base",
        "",
        'out of memory, "cuda:0"\n at line 3',
        task="high",
        seed=1,
        data_dir="/x/sample",
    )
    append_result(path, failure)
    (row,) = read_results(path)
    assert row == failure
    assert (row.recipe, row.data_dir, row.score) == ("paper/high-base", "sample", None)
    assert row.note == 'failed: out of memory, "cuda:0"'


def test_an_undefined_score_stays_visible(tmp_path):
    append_result(tmp_path / "runs.csv", replace(SAMPLE, score=float("nan"), low=float("nan"), high=float("nan")))
    (row,) = read_results(tmp_path / "runs.csv")
    assert np.isnan(row.score)
    table = "\n".join(runs_table(summarize([row])))
    assert "nan" in table and "none" in table


def test_no_file_is_no_results_and_a_bad_one_is_named(tmp_path):
    path = tmp_path / "runs.csv"
    assert read_results(path) == []
    append_result(path, RELEASE)
    with open(path, "a") as file:
        file.write("half a line")
    append_result(path, RELEASE)  # is not glued to it
    with pytest.raises(AvbError, match="line 3: .* correct or remove the line"):
        read_results(path)
    text = path.read_text().replace("half a line\n", "")
    path.write_text(text)
    assert read_results(path) == [RELEASE, RELEASE]
    path.write_text(text.replace("3600.5", "an hour"))
    with pytest.raises(AvbError, match="line 2: .*an hour"):
        read_results(path)
    path.write_text("recipe,score\na,1\n")
    with pytest.raises(AvbError, match="no column changes"):
        read_results(path)
    with pytest.raises(AvbError, match="move the file away"):
        append_result(path, RELEASE)
    with pytest.raises(AvbError, match="cannot be written .*the result was: paper"):
        append_result(path / "runs.csv", RELEASE)


def old_table(path, rows) -> str:
    """A table as versions wrote it that gave runs no id; returns its text."""
    write_results(path, rows)
    lines = path.read_text().splitlines()
    text = "".join(line.removesuffix(",run_id" if number == 0 else ",") + "\n" for number, line in enumerate(lines))
    path.write_text(text)
    return text


def test_a_table_of_an_older_version_is_read_and_upgraded_on_its_first_append(tmp_path):
    path = tmp_path / "runs.csv"
    text = old_table(path, [RELEASE, SAMPLE])
    assert "run_id" not in text and read_results(path) == [RELEASE, SAMPLE] and path.read_text() == text
    new = replace(RELEASE, run_id="20240131-154502-9f3c1a")
    append_result(path, new)
    assert read_results(path) == [RELEASE, SAMPLE, new]
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert [file.name for file in tmp_path.iterdir()] == ["runs.csv"]


def test_a_bad_line_of_an_older_table_stays_one_bad_line(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(old_table(path, [RELEASE]) + "half a line")
    append_result(path, RELEASE)
    with pytest.raises(AvbError, match="line 3: not 22 cells"):
        read_results(path)
    path.write_text(path.read_text().replace("half a line\n", ""))
    assert read_results(path) == [RELEASE, RELEASE]


def test_an_upgrade_that_was_cut_off_is_named(tmp_path, monkeypatch):
    path, left = tmp_path / "runs.csv", tmp_path / ".runs.csv.upgrade.tmp"
    text = old_table(path, [RELEASE])
    left.touch()
    monkeypatch.setattr("avb.reports.run_table._UPGRADE_SECONDS", 0.1)
    with pytest.raises(AvbError, match=r"delete .*\.runs\.csv\.upgrade\.tmp"):
        append_result(path, RELEASE)
    assert path.read_text() == text
    left.unlink()
    append_result(path, RELEASE)
    assert read_results(path) == [RELEASE, RELEASE]


def append_many(path, writer: int, barrier):
    barrier.wait()  # all find that there is no file yet, or an old one
    for seed in range(200):
        append_result(path, replace(RELEASE, recipe=f"writer/{writer}", seed=seed, note="x" * (seed * 10)))


@pytest.mark.slow
@pytest.mark.parametrize("is_old", [False, True], ids=["no table", "an older table"])
def test_processes_that_finish_together_lose_nothing(is_old, tmp_path):
    context = multiprocessing.get_context("fork")  # a spawned process would import torch first
    path, barrier = tmp_path / "runs.csv", context.Barrier(2)
    if is_old:
        old_table(path, [RELEASE] * 20_000)  # enough that both find it old
    writers = [context.Process(target=append_many, args=(path, number, barrier)) for number in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(280)
        assert writer.exitcode == 0
    results = read_results(path)
    for number in range(2):
        assert [r.seed for r in results if r.recipe == f"writer/{number}"] == list(range(200))
    assert path.read_text().count("recipe,changes") == 1


# ---------------------------------------------------------------------------------------------------- paper report


def test_all_48_rows_are_printed_and_written(tmp_path, capsys):
    assert main(["paper", "--results", str(tmp_path / "none.csv"), "--output", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "has no results yet" in captured.err
    assert captured.out.startswith("# The paper's tables") and "0 of 48 rows" in captured.out
    assert [line[:9] for line in captured.out.splitlines() if line.startswith("## Table")] == [
        f"## Table {number}"[:9] for number in ("I", "II", "III", "IV", "V")
    ]
    rows = [line for line in captured.out.splitlines() if line.startswith("|") and "paper/" in line]
    assert len(rows) == 48 and all("| not run |" in line.replace("  ", "") for line in rows)
    assert (tmp_path / "out" / "paper.md").read_text(encoding="utf-8") == captured.out
    with open(tmp_path / "out" / "paper.csv", newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 48
    assert {(row["ours"], row["note"]) for row in written} == {("", "not run")}
    for row, original in zip(written, read_paper_rows(), strict=True):
        assert float(row["paper"]) == float(original["score"])
        assert f"| {original['score']} " in captured.out


def test_delta_and_every_table_a_run_is_in(tmp_path, capsys):
    rows, others = compare(RELEASE)
    for table in ("I", "II", "III", "IV"):
        row = rows[table, "paper/high-lv60k", "val"]
        assert (row["paper"], row["ours"], row["num_seeds"], row["note"]) == (65.41, 66.0, 1, "")
        assert row["delta"] == pytest.approx(0.59)
        assert (row["low"], row["high"], row["sd"]) == (65.5, 66.5, None)
    assert sum(row["ours"] is not None for row in rows.values()) == 4
    assert others == []

    append_result(tmp_path / "runs.csv", RELEASE)
    assert main(["paper", "--results", str(tmp_path / "runs.csv"), "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "4 of 48 rows" in out
    (line,) = [line for line in out.splitlines() if "no-rnn" not in line and "| yes | high " in " ".join(line.split())]
    assert " ".join(line.split()) == (
        "| yes | high | 65.41 | 66.00 | +0.59 | 65.50 to 66.50 | 1 | not run | paper/high-lv60k |"
    )


def test_several_seeds_are_averaged_and_the_last_run_of_a_seed_counts():
    runs = [
        replace(RELEASE, seed=1, score=0.1),  # run again below
        replace(RELEASE, seed=2, score=0.64, low=0.63, high=0.65, data_dir="release-on-another-disk"),
        replace(RELEASE, seed=3, score=0.68, low=0.67, high=0.69),
        replace(RELEASE, seed=1),
        failed_run("paper/high-lv60k", "", "power cut", corpus="hume_vb", train_clips=19_990, seed=4),
    ]
    rows, others = compare(*runs)
    row = rows["III", "paper/high-lv60k", "val"]
    assert row["num_seeds"] == 3 and others == []
    assert row["ours"] == pytest.approx(66.0) and row["sd"] == pytest.approx(2.0)
    assert (row["low"], row["high"]) == pytest.approx((65.166667, 66.833333))


def test_recommended_stands_beside_the_authors():
    rows, _ = compare(RELEASE, replace(RELEASE, recipe="paper/high-lv60k+presets/recommended", score=0.70))
    row = rows["I", "paper/high-lv60k", "val"]
    assert row["ours"] == 66.0 and row["recommended"] == pytest.approx(70.0)
    assert row["recommended_delta"] == pytest.approx(4.59)
    assert "70.00 (+4.59)" in paper_report(list(rows.values()), [])


@pytest.mark.parametrize(
    "result",
    [
        SAMPLE,
        replace(RELEASE, train_clips=19_989),
        replace(RELEASE, num_clips=19_000),
        replace(RELEASE, changes="--max_steps 5"),
        replace(RELEASE, corpus="folder"),
        replace(RELEASE, recipe="paper/high-lv60k+presets/recommended", changes="--seed 1 --pooling avg"),
        failed_run("paper/high-lv60k", "", "no such folder", corpus="hume_vb"),
    ],
    ids=[
        "sample",
        "a train clip missing",
        "part of validation",
        "changed",
        "other corpus",
        "changed preset",
        "failure",
    ],
)
def test_what_is_not_the_papers_run_is_listed_apart(result):
    rows, others = compare(result)
    assert all(row["ours"] is None and row["note"] == "not run" for row in rows.values())
    assert others == [result]
    report = paper_report(list(rows.values()), others)
    apart = report.split("## Other runs of these recipes")[1]
    assert result.recipe in apart and result.changes in apart and result.note in apart


def test_tables_of_another_encoder(tmp_path, capsys):
    """The rows are the runs with these changes, in whatever order they are typed; the paper's own are listed apart."""
    other = replace(RELEASE, recipe="paper/high-lv60k-avg", changes="--encoder xls-r --encoder_layer 9", score=0.5)
    preset = replace(other, recipe="paper/high-lv60k-avg+presets/recommended", score=0.6)
    for result in (RELEASE, other, preset):
        append_result(tmp_path / "runs.csv", result)
    argv = ["paper", "--results", str(tmp_path / "runs.csv"), "--changes"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main([*argv, "--encoder_layer=9 --encoder /data/xls-r --seed 3"]) == 0
    out = capsys.readouterr().out
    assert "Ours are the recipes changed by `--encoder xls-r --encoder_layer 9`." in out and "1 of 48 rows" in out
    (line,) = [line for line in out.splitlines() if "| paper/high-lv60k-avg " in line]
    assert "| avg | 61.49 | 50.00 | -11.49 |" in " ".join(line.split()) and "60.00 (-1.49)" in line
    assert "66.00" in out.split("## Other runs")[1]
    assert not (tmp_path / "results").exists()  # where the paper's own tables are

    for typed, said in (("paper/high.yaml", "such as"), ("--seed 3", "such as"), ("--encoder 'x", "No closing")):
        assert main([*argv, typed]) == 1
        error = capsys.readouterr().err
        assert said in error and error.startswith(f"avb.reports: error: --changes {typed}: ")


def test_runs_on_another_kind_of_encoder_stand_where_those_of_the_large_one_do(tmp_path, capsys):
    """Named as training names them, with what docs/encoders.md says to type behind each recipe."""
    path, task_of = tmp_path / "runs.csv", {}
    recipes = sorted(f"kinds/{path.stem}" for path in (ROOT / "recipes" / "kinds").glob("*.yaml"))
    typed = {task: ["--task", task] for task in ("high", "two", "culture")}
    typed["type"] = ["--task", "type", "--loss", "ce", "--head_norm", "none"]
    for number, (recipe, preset) in enumerate(
        [(name, []) for name in recipes] + [(recipes[0], ["presets/recommended"])]
    ):
        for task in typed if recipe == recipes[0] else ("high",):
            command = parse_arguments([recipe, *preset, *typed[task], "--data_dir", "x", "--output_dir", "y"])[3]
            run = replace(RELEASE, recipe=command.name, changes=command.changes, task=task, metric=TASKS[task].metric)
            append_result(path, replace(run, score=0.4 + number / 100))
            task_of.setdefault(recipe, set()).add(task)
    append_result(path, replace(RELEASE, recipe=recipes[0], changes="--max_steps 5 --task high", score=0.1))
    for number, recipe in enumerate(recipes):
        compared, _ = compare_with_paper(read_paper_rows(), read_results(path), recipe)
        ours = [row for row in compared if row["ours"] is not None]
        assert {(row["extractor"], row["task"]) for row in ours} == {("LARGE-LV60K", task) for task in task_of[recipe]}
        assert [row["ours"] for row in ours] == pytest.approx([40 + number] * len(ours))
        if recipe == recipes[0]:
            assert [row["recommended"] for row in ours] == pytest.approx([40 + len(recipes)] * len(ours))
    assert main(["paper", "--results", str(path), "--changes", recipes[0]]) == 0
    assert f"Ours are the recipes changed by `{recipes[0]}`." in capsys.readouterr().out


def test_runs_of_other_recipes_are_no_matter_of_the_paper():
    rows, others = compare(replace(RELEASE, recipe="emogator/small"))
    assert others == [] and all(row["ours"] is None for row in rows.values())


def test_why_there_is_no_score_is_said():
    test_split = replace(
        RELEASE,
        recipe="paper/high-lv60k-50-epochs",
        split="test",
        score=None,
        low=None,
        high=None,
        num_clips=0,
        note="labels are withheld",
    )
    failure = failed_run("paper/two-base", "", "out of memory", corpus="hume_vb", train_clips=19_990)
    rows, others = compare(test_split, failure)
    assert rows["V", "paper/high-lv60k-50-epochs", "test"]["note"] == "labels are withheld"
    assert rows["V", "paper/high-lv60k-50-epochs", "val"]["note"] == "not run"
    assert rows["I", "paper/two-base", "val"]["note"] == "failed: out of memory"
    assert others == []
    assert "| failed: out of memory |" in paper_report(list(rows.values()), [])


# ------------------------------------------------------------------------------------------------- runs added later


def test_finished_runs_are_added_once(tmp_path, capsys):
    table, runs = tmp_path / "runs.csv", [tmp_path / "one", tmp_path / "two"]
    rows = [replace(SAMPLE, seed=1), replace(SAMPLE, seed=2, score=float("nan"), note="undefined")]
    for run, row in zip(runs, rows, strict=True):
        run.mkdir()
        write_results(run / RESULTS, [row, replace(row, split="test")])
    argv = ["add", *map(str, runs), str(runs[0]), "--results", str(table)]  # one of them is named twice
    append_result(table, rows[0])
    assert main(argv) == 0 and capsys.readouterr().out == f"{table}: 3 rows added, 3 were already there\n"
    assert main(argv) == 0 and capsys.readouterr().out == f"{table}: 0 rows added, 6 were already there\n"
    assert [(row.seed, row.split) for row in read_results(table)] == [
        (1, "validation"), (1, "test"), (2, "validation"), (2, "test"),
    ]  # fmt: skip


def test_runs_alike_in_all_but_their_id_are_two(tmp_path, capsys):
    """And a row whose note was edited in the table is still that run's."""
    table, run = tmp_path / "runs.csv", tmp_path / "run"
    run.mkdir()
    append_result(table, replace(SAMPLE, run_id="one", note="see the log"))
    append_result(table, replace(SAMPLE, run_id="two"))
    write_results(run / RESULTS, [replace(SAMPLE, run_id="one"), replace(SAMPLE, run_id="three")])
    assert main(["add", str(run), "--results", str(table)]) == 0
    assert capsys.readouterr().out == f"{table}: 1 rows added, 1 were already there\n"


def test_nothing_is_added_where_one_folder_is_no_finished_run(tmp_path, capsys):
    table, run = tmp_path / "runs.csv", tmp_path / "one"
    run.mkdir()
    write_results(run / RESULTS, [SAMPLE])
    assert main(["add", str(run), str(tmp_path / "two"), "--results", str(table)]) == 1
    assert f"{tmp_path / 'two'}: no results.csv; give the folder of a finished run" in capsys.readouterr().err
    assert not table.exists()


# ----------------------------------------------------------------------------------------------------- runs report


def test_runs_are_grouped_by_recipe_and_split(tmp_path, capsys):
    emogator = replace(
        SAMPLE, recipe="emogator/avg", corpus="emogator", data_dir="emogator", task="emotion", metric="uar"
    )
    path = tmp_path / "runs.csv"
    for seed, score in ((1, 0.20), (2, 0.22), (3, 0.24)):
        append_result(path, replace(emogator, seed=seed, score=score, low=score - 0.02, high=score + 0.02))
    append_result(path, replace(emogator, split="test", score=0.3))
    append_result(path, replace(emogator, changes="--pooling last", score=0.25))
    append_result(path, failed_run("emogator/max", "", "diverged | stopped", corpus="emogator"))
    assert main(["runs", "--results", str(path)]) == 0
    out = capsys.readouterr().out
    header, _, *lines = [" ".join(line.split()) for line in out.splitlines()]
    assert header.startswith("| recipe | corpus | train clips | task | split | metric | mean ± sd | 95 % interval |")
    assert len(lines) == 4
    scores = "22.00 ± 2.00 | 20.00 to 24.00 | 20.00 | 24.00"
    assert lines[0] == f"| emogator/avg | emogator | 400 | emotion | validation | uar | {scores} | 3 |"
    assert lines[2].startswith("| emogator/avg --pooling last |") and lines[2].endswith("| 1 |")
    assert "| failed: diverged \\| stopped |" in lines[3] and lines[3].endswith("| 0 |")
    assert [file.name for file in tmp_path.iterdir()] == ["runs.csv"], "files only if asked for"

    assert main(["runs", "--results", str(path), "--output", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "runs.csv", newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    assert float(first["mean"]) == pytest.approx(22) and float(first["sd"]) == pytest.approx(2)
    assert first["num_seeds"] == "3"


def test_a_broken_table_is_one_line_and_exit_code_1(tmp_path, capsys):
    (tmp_path / "runs.csv").write_text("a,b\n")
    assert main(["runs", "--results", str(tmp_path / "runs.csv")]) == 1
    assert capsys.readouterr().err.startswith("avb.reports: error: ")


def test_without_the_recipes_the_paper_cannot_be_reported(tmp_path):
    with pytest.raises(AvbError, match="comes with the recipes"):
        read_paper_rows(tmp_path / "rows.csv")
