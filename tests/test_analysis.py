"""The analysis of runs: its numbers against second implementations, and the report of real runs by the real command."""

import csv
import json
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import warm
from conftest import ROOT
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import top_k_accuracy_score

import train_avb
from avb.errors import AvbError
from avb.metrics import confusion_matrix, evaluate_predictions
from avb.reports import command as reports
from avb.reports.analysis import numbers
from avb.reports.analysis.page import Section, Table, inline_svg, markdown_page, write_report
from avb.reports.run_table import read_results
from avb.reports.scored import Predictions, read_predictions
from avb.reports.summaries import summarize
from avb.run_files import Metrics, describe_tasks, write_metrics
from avb.tasks import TASKS, MultiTask, Task

CLIPS, SPEAKERS = 400, 20
EMOTION = Task("emotion", "classification", ("joy", "fear", "awe", "rage"))
SAMPLE_RECIPE = str(ROOT / "recipes" / "sample.yaml")


def made_up(task: Task, seed: int = 0) -> Predictions:
    """Random predictions that are somewhat right, of speakers of 20 clips each."""
    rng = np.random.default_rng(seed)
    groups = np.array([f"s{clip % SPEAKERS:02d}" for clip in range(CLIPS)])
    seconds = rng.gamma(3, 0.4, CLIPS)
    if task.kind == "regression":
        y_true = rng.random((CLIPS, task.num_labels))
        scores = y_pred = (0.6 * y_true + 0.4 * rng.random(y_true.shape)).round(6)
        y_true[::7, 0] = np.nan
    else:
        y_true = rng.integers(task.num_labels, size=CLIPS)
        logits = rng.normal(size=(CLIPS, task.num_labels)) + 1.5 * np.eye(task.num_labels)[y_true]
        scores = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).round(6)
        y_pred = scores.argmax(1)
    ids = np.array([f"c{clip}" for clip in range(CLIPS)])
    return Predictions(task, "validation", ids, groups, seconds, y_true, y_pred, scores)


@pytest.fixture(scope="module")
def classes() -> Predictions:
    return made_up(EMOTION)


@pytest.fixture(scope="module")
def values() -> Predictions:
    return made_up(TASKS["two"])


def write_run(folder: Path, *parts: Predictions) -> Path:
    """A run's folder in the layout of train_avb.py, without the training; real ones are tested further down."""
    folder.mkdir()
    is_single = len(parts) == 1
    first = parts[0]
    task = first.task if is_single else MultiTask(tuple(part.task for part in parts))
    by_task = {part.task.name: evaluate_predictions(part.task, part.y_true, part.scores, part.groups) for part in parts}
    scores = by_task[first.task.name] if is_single else {"mean_score": 0.5, "num_clips": CLIPS, "tasks": by_task}
    splits = {"validation": scores, "test": {"num_clips": 0, "note": "labels are withheld"}}
    facts = {"train_clips": 9, "seed": 1, "tasks": describe_tasks(task), "splits": splits}
    write_metrics(folder, Metrics(task=task.name, metric=task.metric, labels=list(task.labels), **facts))
    log = [{"epoch": 1.0, "loss": 0.9}, {"epoch": 1.0, f"eval_{task.metric}": 0.2}, {"epoch": 2.0, "loss": 0.5}]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    rows = []
    for clip in range(CLIPS):
        row = {"id": f"c{clip}", "speaker": first.groups[clip], "seconds": first.seconds[clip]}
        for part in parts:
            suffix = "" if is_single else f"_{part.task.name}"
            row |= dict(zip(part.task.labels, part.scores[clip], strict=True))
            if part.task.kind == "classification":
                row[f"prediction{suffix}"] = part.task.labels[part.y_pred[clip]]
                row[f"label{suffix}"] = part.task.labels[part.y_true[clip]]
            else:
                true = ["" if np.isnan(value) else value for value in part.y_true[clip]]
                row |= dict(zip([f"true_{label}" for label in part.task.labels], true, strict=True))
        rows.append(row)
    with open(folder / "predictions_validation.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "predictions_test.csv").write_text((folder / "predictions_validation.csv").read_text())
    return folder


# --------------------------------------------------------------------------------------------------------- numbers


def test_expected_calibration_error_is_that_of_its_definition(classes):
    """Bin by bin, clip by clip; and the bins are those of scikit-learn."""
    error, count = 0.0, 0
    for b in range(15):
        inside = []
        for probabilities, true in zip(classes.scores, classes.y_true, strict=True):
            confidence = max(probabilities)
            if b / 15 < confidence <= (b + 1) / 15:
                inside.append((confidence, probabilities.argmax() == true))
        if inside:
            confidence, right = np.mean(inside, axis=0)
            error += len(inside) / CLIPS * abs(confidence - right)
            count += 1
    bins = numbers.reliability(classes)
    assert numbers.calibration_error(bins) == pytest.approx(error) and error > 0.01
    assert len(bins) == count > 5 and sum(b.count for b in bins) == CLIPS
    right = classes.y_true == classes.y_pred
    shares, confidences = calibration_curve(right, classes.scores.max(1), n_bins=15)
    assert [b.true.value for b in bins] == pytest.approx(shares.tolist())
    assert [b.predicted for b in bins] == pytest.approx(confidences.tolist())
    assert all(b.true.low <= b.true.value <= b.true.high for b in bins if not np.isnan(b.true.low))


def test_a_calibrated_model_has_no_error_and_a_boastful_one_has():
    scores = np.tile([0.7, 0.1, 0.1, 0.1], (10, 1))
    for right, error in ((7, 0.0), (2, 0.5)):
        y_true = np.array([0] * right + [1] * (10 - right))
        found = Predictions(EMOTION, "test", np.arange(10), None, None, y_true, np.zeros(10, int), scores)
        assert numbers.calibration_error(numbers.reliability(found)) == pytest.approx(error)
    assert np.isnan(numbers.calibration_error([]))


def test_intervals_of_bins_resample_whole_speakers():
    """Speakers that are all right or all wrong: the interval is wide, though each bin holds hundreds of clips."""
    by_speaker = np.repeat(np.arange(8), 100)
    right = by_speaker % 2
    scores = np.tile([0.6, 0.2, 0.1, 0.1], (800, 1))
    y_true = np.where(right == 1, 0, 2)
    made = {"ids": np.arange(800), "seconds": None, "y_true": y_true, "y_pred": np.zeros(800, int), "scores": scores}
    (by_clip,) = numbers.reliability(Predictions(EMOTION, "test", groups=None, **made))
    (grouped,) = numbers.reliability(Predictions(EMOTION, "test", groups=by_speaker, **made))
    assert by_clip.true.value == grouped.true.value == 0.5
    assert by_clip.true.high - by_clip.true.low < 0.1 and grouped.true.high - grouped.true.low > 0.5


def test_top_k_is_that_of_scikit_learn(classes):
    found = numbers.top_k(classes)
    assert [k for k, *_ in found] == [1, 2, 3]  # of four classes, more says nothing
    for k, estimate, chance in found:
        assert estimate.value == pytest.approx(top_k_accuracy_score(classes.y_true, classes.scores, k=k))
        assert estimate.low < estimate.value < estimate.high and chance == k / 4
    assert found[0][1].value == np.mean(classes.y_true == classes.y_pred)


def test_the_confusion_matrix_in_shares(classes):
    confusion = confusion_matrix(classes.y_true, classes.y_pred, 4)
    expected = sklearn_confusion(classes.y_true, classes.y_pred, normalize="true")
    assert numbers.row_shares(confusion) == pytest.approx(expected)
    assert np.isnan(numbers.row_shares(np.diag([1, 0]))[1]).all()
    errors = [(confusion[i, j], EMOTION.labels[i], EMOTION.labels[j]) for i in range(4) for j in range(4) if i != j]
    found = numbers.most_confused(confusion, EMOTION.labels, 3)
    assert [count for *_, count in found] == sorted((count for count, *_ in errors), reverse=True)[:3]
    assert all((count, true, pred) in errors for true, pred, count in found)
    assert numbers.most_confused(np.eye(4, dtype=int), EMOTION.labels) == []


def test_calibration_of_a_regression_is_in_bins_of_equal_count(values):
    present = ~np.isnan(values.y_true[:, 0])
    pred, true = values.y_pred[present, 0], values.y_true[present, 0]
    bins = numbers.calibration(values, 0)
    parts = np.array_split(np.argsort(pred), 10)
    assert sum(b.count for b in bins) == present.sum() and max(b.count for b in bins) <= 1 + len(pred) / 10
    assert [b.predicted for b in bins] == pytest.approx([pred[part].mean() for part in parts], abs=0.01)
    assert [b.true.value for b in bins] == pytest.approx([true[part].mean() for part in parts], abs=0.05)
    constant = replace(values, y_pred=np.full((CLIPS, 2), 0.5))
    assert [b.count for b in numbers.calibration(constant, 1)] == [CLIPS]


def test_scores_by_speaker(classes, values):
    found = numbers.by_speaker(classes)
    assert len(found) == SPEAKERS and found == sorted(found, key=lambda row: row[2])
    for speaker, count, score in found:
        mask = classes.groups == speaker
        assert count == 20 == mask.sum() and score == np.mean(classes.y_true[mask] == classes.y_pred[mask])
    assert numbers.by_speaker(classes, min_clips=21) == []

    for speaker, _, score in numbers.by_speaker(values):
        mask = values.groups == speaker
        cccs = []
        for label in range(2):
            t, p = values.y_true[mask, label], values.y_pred[mask, label]
            t, p = t[t == t], p[t == t]
            cccs.append(2 * np.mean((t - t.mean()) * (p - p.mean())) / (t.var() + p.var() + (t.mean() - p.mean()) ** 2))
        assert score == pytest.approx(np.mean(cccs))


def test_scores_by_duration_are_of_quarters(values):
    parts = numbers.by_duration(values)
    assert [part.count for part in parts] == [100] * 4
    order = np.argsort(values.seconds)
    for part, clips in zip(parts, np.array_split(order, 4), strict=True):
        scores = evaluate_predictions(values.task, values.y_true[clips], values.y_pred[clips])
        assert part.score.value == pytest.approx(scores["ccc"]) and part.score.low < part.score.value < part.score.high
        assert part.name == f"{values.seconds[clips].min():.2f} to {values.seconds[clips].max():.2f} s"


def test_the_ablation_is_of_the_unchanged_recipes():
    results = read_results(ROOT / "results" / "runs.csv")
    variants, basis = numbers.ablation(summarize(results))
    assert [len(scores) for scores in variants.values()] == [5, 5, 5] and basis == "validation: 900 clips, 3 seeds"
    rows = [row for row in results if row.recipe == "emogator/frozen/avg-no-rnn"]
    estimate = variants["without RNN, trimmed"]["avg"]
    assert estimate.value == pytest.approx(np.mean([row.score for row in rows]))
    assert estimate.high == pytest.approx(np.mean([row.high for row in rows]))
    changed = [row for row in results if row.changes or not row.recipe.startswith("emogator/frozen")]
    assert len(changed) > 3 and numbers.ablation(summarize(changed)) == ({}, "validation: no clips, no seeds")


# ---------------------------------------------------------------------------------------------------------- the page


class Ids(HTMLParser):
    """The ids of a page, and what it loads or links to."""

    def __init__(self, page: str):
        super().__init__()
        self.ids, self.links = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [value for name, value in attributes.items() if name in ("src", "href", "xlink:href")]
        self.links += [
            f"#{name}" for value in attributes.values() for name in re.findall(r"url\(#(.*?)\)", value or "")
        ]


def pictures(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.svg")}


def assert_whole_report(folder: Path, expected: set[str]):
    """Every figure twice, a page that holds all of it, and nothing else."""
    markdown, page = ((folder / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    assert pictures(folder) == expected == set(re.findall(r"!\[.*?\]\((.*?)\.png\)", markdown))
    files = {f"{name}.{suffix}" for name in expected for suffix in ("svg", "png")} | {"report.md", "report.html"}
    assert {path.name for path in folder.iterdir()} == files
    found = Ids(page)
    assert page.count("<svg") == len(expected) and len(found.ids) == len(set(found.ids))
    assert found.links and all(link.startswith("#") and link[1:] in found.ids for link in found.links)


CLASS_FIGURES = {"confusion", "recall", "reliability", "speakers", "durations", "curves"}
VALUE_FIGURES = {"ccc", "calibration", "speakers", "durations", "curves"}


def test_a_classification_is_reported(classes, tmp_path, capsys):
    run, other = write_run(tmp_path / "a", classes), write_run(tmp_path / "b", made_up(EMOTION, seed=1))
    results = ROOT / "results" / "runs.csv"
    assert reports.main(["analyse", str(run), str(other), "--results", str(results)]) == 0
    assert capsys.readouterr().out == f"{run / 'analysis' / 'report.md'}\n"
    assert_whole_report(run / "analysis", CLASS_FIGURES | {"ablation"})
    text = (run / "analysis" / "report.md").read_text()
    scores = json.loads((run / "metrics.json").read_text())["splits"]["validation"]
    joy = scores["per_label"]["joy"]
    assert re.search(rf"{joy['recall']:.3f} +\| {joy['recall_low']:.3f} to {joy['recall_high']:.3f}", text)
    assert f"Expected calibration error {numbers.calibration_error(numbers.reliability(classes)):.3f}" in text
    counts = [cell.strip() for cell in re.search(r"^\| joy +\|( +\d+ +\|.*)$", text, re.MULTILINE)[1].split("|")]
    assert [int(cell) for cell in counts if cell] == scores["confusion_matrix"][0]
    # Each picture is followed by what it rests on, those of several runs and of the table of results in their own way.
    notes = [text.split(f"]({name}.png)")[1].split("\n\n")[1] for name in sorted(CLASS_FIGURES - {"curves"})]
    assert all(note.endswith("validation: 400 clips, 20 speakers.") for note in notes)
    assert "From the Trainer's log of 2 runs." in text and "validation: 900 clips, 3 seeds." in text
    assert re.search(r"^\| b +\| 1 ", text, re.MULTILINE)


@pytest.mark.slow
def test_a_regression_is_reported_in_the_same_bytes(values, tmp_path):
    run = write_run(tmp_path / "run", values)
    for name in ("first", "second"):
        assert reports.main(["analyse", str(run), "--output", str(tmp_path / name)]) == 0
    assert_whole_report(tmp_path / "first", VALUE_FIGURES)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name
    text = (tmp_path / "first" / "report.md").read_text()
    for label, scores in json.loads((run / "metrics.json").read_text())["splits"]["validation"]["per_label"].items():
        assert re.search(rf"^\| {label} +\| {scores['ccc']:.3f} \| {scores['ccc_low']:.3f} to ", text, re.MULTILINE)


@pytest.mark.slow
def test_several_tasks_are_reported_one_by_one(values, classes, tmp_path):
    run = write_run(tmp_path / "run", values, classes)
    assert [len(found) for found in read_predictions(run, "validation")] == [CLIPS, CLIPS]
    assert reports.main(["analyse", str(run)]) == 0
    expected = {f"two-{name}" for name in VALUE_FIGURES} | {f"emotion-{name}" for name in CLASS_FIGURES}
    assert_whole_report(run / "analysis", expected - {"two-curves", "emotion-curves"} | {"curves"})


@pytest.mark.slow
def test_what_is_not_known_is_said(classes, tmp_path):
    """A run of a corpus without speakers, from before durations were written, none of whose clips is of class rage."""
    kept = classes.select(classes.y_true != 3)
    run = write_run(tmp_path / "run", classes)
    rows = list(csv.DictReader(open(run / "predictions_validation.csv", newline="")))
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["splits"]["validation"] = evaluate_predictions(EMOTION, kept.y_true, kept.scores)
    (run / "metrics.json").write_text(json.dumps(metrics))
    with open(run / "predictions_validation.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["id", *EMOTION.labels, "prediction", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row | {"label": "" if row["label"] == "rage" else row["label"]} for row in rows)
    assert reports.main(["analyse", str(run)]) == 0
    assert_whole_report(run / "analysis", CLASS_FIGURES - {"speakers", "durations"})
    text = (run / "analysis" / "report.md").read_text()
    assert "The corpus does not say who is heard." in text and "no column seconds" in text
    assert f"validation: {len(kept)} clips, speakers not known." in text and "resamples by clip" in text
    assert re.search(r"^\| rage +\| 0 +\| undefined +\| undefined", text, re.MULTILINE)


@pytest.mark.slow
def test_other_files_in_the_folder_stay(values, tmp_path):
    run = write_run(tmp_path / "run", values)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert reports.main(["analyse", str(run), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_label_is_text_and_no_markup(tmp_path):
    table = Table(("a<b>", "c|d"), [("<script>", "x & y")])
    write_report("<i>", [Section("A & B", "1 < 2", tables=(table,))], tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;" in page and "<script>" not in page and "<i>" not in page and "x &amp; y" in page
    assert "<script>" not in markdown_page("t", [Section("s", "t", tables=(table,))])


def test_ids_of_a_picture_become_its_own(tmp_path):
    svg = '<?xml version="1.0"?>\n<svg id="a"><use xlink:href="#g"/><g clip-path="url(#p)" id="g"/></svg>\n'
    (tmp_path / "x.svg").write_text(svg)
    expected = '<svg id="f-a"><use xlink:href="#f-g"/><g clip-path="url(#f-p)" id="f-g"/></svg>'
    assert inline_svg(tmp_path / "x.svg", "f") == expected


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", None, "metrics.json: cannot be read .*; give the folder of a finished run"),
        ("metrics.json", "{", "metrics.json: cannot be read as JSON"),
        ("metrics.json", "{}", "metrics.json: not what train_avb.py writes"),
        ("predictions_validation.csv", None, "predictions_validation.csv: cannot be read .* scored validation"),
        ("predictions_validation.csv", "id,joy\n1,2\n", "predictions_validation.csv: no column 'fear'"),
        ("trainer_state.json", None, "trainer_state.json: cannot be read; give the folder of a finished run"),
        ("trainer_state.json", "[]", "trainer_state.json: cannot be read"),
    ],
)
def test_a_missing_or_damaged_file_is_one_line(name, content, message, classes, tmp_path, capsys):
    run = write_run(tmp_path / "run", classes)
    (run / name).unlink() if content is None else (run / name).write_text(content)
    assert reports.main(["analyse", str(run)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"avb.reports: error: .*{message}", line)
    assert not (run / "analysis").exists()


def test_withheld_labels_and_other_runs_files(classes, values, tmp_path, capsys):
    run, other = write_run(tmp_path / "run", classes), write_run(tmp_path / "other", made_up(EMOTION, seed=1))
    assert reports.main(["analyse", str(run), "--split", "test"]) == 1
    assert "no clip of test has a label; give --split of one that was scored" in capsys.readouterr().err
    assert reports.main(["analyse", str(run), str(write_run(tmp_path / "two", values))]) == 1
    assert "two: scored by ccc, but" in capsys.readouterr().err
    assert reports.main(["analyse", str(run), "--results", str(tmp_path / "none.csv")]) == 1
    assert "none.csv: no such file" in capsys.readouterr().err
    shutil.copy(other / "predictions_validation.csv", run)
    with pytest.raises(AvbError, match="files of two runs"):
        read_predictions(run, "validation")
    path = other / "predictions_validation.csv"
    path.write_text(path.read_text().replace(",joy\n", ",bliss\n"))
    with pytest.raises(AvbError, match="'bliss' is not a class of the run"):
        read_predictions(other, "validation")


@pytest.mark.slow
def test_without_matplotlib_the_way_out_is_named(classes, tmp_path):
    run = write_run(tmp_path / "run", classes)
    code = "import sys, runpy; sys.modules['matplotlib'] = None; runpy.run_module('avb.reports', run_name='__main__')"
    done = warm.run([sys.executable, "-c", code, "analyse", run])
    assert done.returncode == 1 and 'pip install "avb[report]"' in done.stderr and "Traceback" not in done.stderr


# --------------------------------------------------------------------------------------------------------- real runs


@pytest.mark.slow
@pytest.mark.parametrize(("task", "figures"), [("two", VALUE_FIGURES), ("type", CLASS_FIGURES), ("two+type", None)])
def test_real_runs_are_reported(task, figures, sample, tmp_path):
    """What train_avb.py leaves is what the command reads, durations included; speakers as the corpus has them."""
    run = tmp_path / "run"
    argv = [SAMPLE_RECIPE, "--data_dir", str(sample), "--task", task, "--max_steps", "4", "--eval_strategy", "steps"]
    argv += ["--eval_steps", "2", "--save_steps", "2", "--save_strategy", "steps", "--logging_strategy", "steps"]
    argv += ["--logging_steps", "1"]
    assert train_avb.main([*argv, "--output_dir", str(run)]) == 0
    with open(run / "predictions_validation.csv", newline="") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    assert all(0.05 < value < 3 for value in seconds) and len(set(seconds)) > 5
    assert reports.main(["analyse", str(run)]) == 0
    if figures is None:
        figures = {f"two-{name}" for name in VALUE_FIGURES} | {f"type-{name}" for name in CLASS_FIGURES}
        figures = {name for name in figures if not name.endswith("curves")} | {"curves"}
    assert_whole_report(run / "analysis", {name for name in figures if not name.endswith("speakers")})
    curve = numbers.learning_curve(run, json.loads((run / "metrics.json").read_text())["metric"])
    assert len(curve.loss) == 4 and len(curve.score) == 2


@pytest.mark.slow
def test_speakers_of_a_run_on_ones_own_clips_are_reported(tmp_path):
    from data.make_sample import make_sample

    root = make_sample(tmp_path / "sample", clips=288)  # 12 a speaker
    with open(root / "labels" / "speakers.csv", newline="") as file:
        rows = [(row["File_ID"].strip("[]"), row["Subject_ID"]) for row in csv.DictReader(file)]
    lines = [f"audio/wav/{clip}.wav,{speaker},{('low', 'high')[int(clip) % 2]}" for clip, speaker in rows]
    (root / "clips.csv").write_text("\n".join(["file,speaker,pitch", *lines]) + "\n")
    run = tmp_path / "run"
    argv = ["--data_dir", str(root / "clips.csv"), "--corpus", "folder", "--model", "emo18", "--max_steps", "2"]
    assert train_avb.main([*argv, "--output_dir", str(run)]) == 0
    assert reports.main(["analyse", str(run), "--split", "test"]) == 0
    assert_whole_report(run / "analysis", CLASS_FIGURES)
    (predictions,) = read_predictions(run, "test")
    found = numbers.by_speaker(predictions)
    assert len(found) > 1 and all(count == 12 for _, count, _ in found)
    accuracy = json.loads((run / "metrics.json").read_text())["splits"]["test"]["accuracy"]
    assert np.mean([score for *_, score in found]) == pytest.approx(accuracy)
