"""Model cards: every number comes from the run's files, and what was not measured is said to be unknown."""

import copy
import dataclasses
import json
import math
import re

import numpy as np
import pytest
import soundfile
import yaml
from conftest import ROOT
from finished_run import RECIPE, make_run
from huggingface_hub import ModelCard

import avb
from avb.cards import command
from avb.cards.card import TEMPLATE, build_card, write_card
from avb.cards.run import read_run
from avb.errors import AvbError
from avb.metrics import evaluate_predictions
from avb.reports.results import run_results
from avb.reports.run_table import append_result
from avb.run_files import new_run_id, read_metrics, write_metrics
from avb.tasks import TASKS, MultiTask

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)*(?:e[+-]\d+)?(?!\w)")
RUNS = {
    "regression": {},
    "forty labels": {"task": TASKS["culture"], "corpus": "hume_vb"},
    "several tasks": {"task": MultiTask((TASKS["two"], TASKS["type"]))},
    "classes": {"task": TASKS["type"], "corpus": "sample", "recipe": {"freeze": "none", "encoder": "/x/tiny.yaml"}},
    "baseline": {"baseline": "emo18", "corpus": "folder", "recipe": {"model": "emo18", "learning_rate": 0.000123}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {name: make_run(tmp_path_factory.mktemp(name) / "avb-run", **kwargs) for name, kwargs in RUNS.items()}


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "avb-two")


def metrics_of(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def leaves(content) -> list:
    """Numbers and strings of a nested structure."""
    if isinstance(content, dict):
        return [leaf for value in content.values() for leaf in leaves(value)]
    if isinstance(content, list):
        return [leaf for value in content for leaf in leaves(value)]
    return [content]


def paths_of(content, *start) -> list[tuple]:
    """Where the floats of a nested structure are."""
    if isinstance(content, dict):
        return [path for key, value in content.items() for path in paths_of(value, *start, key)]
    return [start] if isinstance(content, float) else []


def traced(folder) -> set[str]:
    """How the numbers in a run's files may be written in its card."""
    texts = set()
    for leaf in leaves([json.loads(path.read_text()) for path in folder.glob("*.json")]):
        if isinstance(leaf, str):
            texts |= set(NUMBER.findall(leaf))
        elif leaf is not None and not isinstance(leaf, bool):
            texts |= {str(leaf), f"{round(leaf, 3) + 0.0:.3f}", repr(round(leaf, 4))}
    return texts | set(NUMBER.findall(yaml.safe_dump(yaml.safe_load((folder / "recipe.yaml").read_text()))))


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_every_number_is_in_a_file_of_the_run(runs, name):
    card = str(build_card(read_run(runs[name]), "avb-run"))
    words = set(NUMBER.findall(re.sub(r"{{.*?}}|{%.*?%}", "", TEMPLATE.read_text()))) | {"95"}
    numbers = NUMBER.findall(card)
    assert not set(numbers) - words - traced(runs[name])
    assert len(numbers) > 4 * len(metrics_of(runs[name])["labels"])  # the pattern does find the tables


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_score_that_changes_changes_the_card(runs, name):
    run = read_run(runs[name])
    card = str(build_card(run, "avb-run"))
    paths = [
        path for path in paths_of(run.metrics.splits["validation"]) if not {"confusion_matrix", "chance"} & {*path}
    ]
    assert any("ccc_low" in path or "uar_low" in path for path in paths) and any("per_label" in path for path in paths)
    for path in paths:
        changed = copy.deepcopy(run)
        place = changed.metrics.splits["validation"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] += 1
        assert str(build_card(changed, "avb-run")) != card, path


def test_chance_what_a_split_lacks_and_a_model_that_gives_one_answer_are_said(tmp_path):
    folder = make_run(tmp_path / "avb-type", TASKS["type"], corpus="folder")
    truth, labels = np.arange(40) % 4, TASKS["type"].labels
    metrics = metrics_of(folder)
    scores = evaluate_predictions(TASKS["type"], truth, np.full(40, 2))
    metrics["splits"] = {"cross_validation": scores | {"fold_scores": [0.25, 0.25, 0.25]}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    train_set = json.loads((folder / "train_set.json").read_text())
    (folder / "train_set.json").write_text(json.dumps(train_set | {"speakers": None}))
    card = " ".join(str(build_card(read_run(folder), "avb-type")).split())
    assert "### cross_validation: 40 clips, interval by clip (40)" in card
    assert "| UAR over the classes that occur | 0.250 | " in card and " | 0.250 | | accuracy" in card
    assert f"No cross_validation clip has the class {', '.join(labels[4:])}: the UAR is over the other classes" in card
    assert "**The model predicts Cry for every one of these clips**" in card
    assert "pooled scores of 3 folds" in card and "not these weights" in card
    assert "of unknown speakers: the scored clips may be by the same speakers" in card


def test_undefined_scores_are_shown_and_kept_out_of_the_index(folder):
    metrics = metrics_of(folder)
    metrics["splits"]["validation"] |= {"ccc": math.nan, "ccc_low": math.nan, "ccc_high": math.nan}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    card = build_card(read_run(folder), "x")
    row = next(line for line in str(card).splitlines() if line.startswith("| CCC, mean over labels"))
    assert row.count("undefined") == 2 and "nan" not in str(card).lower()
    assert [result.metric_name for result in card.data.eval_results] == ["pearson"]


def test_a_card_without_results_says_so(folder):
    (folder / "metrics.json").unlink()
    card = build_card(read_run(folder), "x")
    assert "**Not evaluated.**" in str(card) and "| CCC" not in str(card) and "on validation" not in str(card)
    assert card.data.eval_results is None and "model-index" not in str(card) and card.data.metrics is None
    assert "The training time is not recorded" in str(card)


def test_withheld_labels_are_no_score(folder):
    metrics = metrics_of(folder)
    metrics["splits"]["validation"] = metrics["splits"]["test"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    card = str(build_card(read_run(folder), "x"))
    assert (
        "**Not evaluated.**" in card and "Predictions were made for the test split, but its labels are withheld" in card
    )


def test_config_alone_is_enough_and_everything_else_is_unknown(folder):
    for name in ("metrics.json", "train_set.json", "recipe.yaml", "versions.json"):
        (folder / name).unlink()
    card = build_card(read_run(folder), "x")
    for words in (
        "**Not evaluated.**",
        "Corpus: unknown",
        "frozen in training is not recorded",
        "recipe is not recorded",
    ):
        assert words in str(card)
    assert card.data.license == "unknown" and "Preset" not in str(card)


# ---- metadata -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_model_index_round_trip(runs, name):
    path = write_card(runs[name], "avb-run")
    data = ModelCard.load(path).data
    scores = {section.task.name: section.scores for section in read_run(runs[name]).sections}
    assert data.model_name == "avb-run" and data.pipeline_tag == "audio-classification"
    assert data.to_dict()["library_name"] == "transformers" and data.eval_results
    for result in data.eval_results:
        assert result.metric_value == pytest.approx(scores[result.task_name][result.metric_name], abs=5.1e-5)
        assert (result.dataset_type, result.dataset_split) == (RUNS[name].get("corpus", "emogator"), "validation")
    assert {result.task_name for result in data.eval_results} == set(scores) and not list(runs[name].glob("*.tmp"))


def test_base_model_is_named_only_where_it_is_on_the_hub(runs, folder, tmp_path, monkeypatch):
    assert build_card(read_run(folder), "x").data.base_model == "facebook/wav2vec2-base"
    assert build_card(read_run(runs["classes"]), "x").data.base_model is None
    assert "initialised with random weights" in str(build_card(read_run(runs["classes"]), "x"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"encoder": "/home/anna/encoders/mine"}))
    card = build_card(read_run(folder), "x")
    assert card.data.base_model is None and re.search(r"\| encoder +\| mine ", str(card))
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"encoder": "runs/mine"}))
    assert build_card(read_run(folder), "x").data.base_model is None


def test_no_path_of_the_machine_is_published(folder):
    recipe = RECIPE | {"encoder": "/home/anna/encoders/mine", "output_dir": "/home/anna/runs/x", "hub_model_id": "o/x"}
    recipe |= {"teachers": ["/home/anna/a.csv", "emogator-cnn"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    card = str(build_card(read_run(folder), "x"))
    assert "anna" not in card and "secret" not in card and "/home" not in card and "freeze: encoder" in card
    assert "- a.csv" in card and "- emogator-cnn" in card


# ---- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        ("encoder", "**The encoder is frozen**"),
        ("feature_encoder", "only its convolutions are frozen"),
        ("none", "**Nothing is frozen**"),
        (None, "only its convolutions are frozen"),  # the default of --freeze
    ],
)
def test_what_is_frozen_is_said(folder, freeze, words):
    recipe = {key: value for key, value in RECIPE.items() if key != "freeze"} | ({"freeze": freeze} if freeze else {})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert words in str(build_card(read_run(folder), "x"))


def test_presets(folder):
    def preset(freeze: str, **config) -> str | None:
        run = read_run(folder)
        run.recipe["freeze"] = freeze
        run.config.update(config)
        return run.preset

    assert preset("feature_encoder") == "recommended"
    assert preset("encoder", masked_pooling=False, masked_group_norm=False) == "authors"
    assert preset("encoder") == "none" and preset("feature_encoder", head_norm="batch") == "none"


@pytest.mark.parametrize(
    ("corpus", "licence", "words"),
    [
        ("hume_vb", "other", "**not the whole release**"),
        ("emogator", "apache-2.0", "Apache-2.0, with attribution"),
        ("sample", "apache-2.0", "No person was recorded"),
        ("folder", "unknown", "the owner's own clips"),
    ],
)
def test_corpus_and_licence(folder, corpus, licence, words):
    (folder / "metrics.json").write_text(json.dumps(metrics_of(folder) | {"corpus": corpus}))
    card = build_card(read_run(folder), "x")
    assert card.data.license == licence and words in str(card)
    assert "Do not use it clinically" in str(card) and "Do not use it for surveillance" in str(card)


def test_the_whole_release_is_told_by_its_clips(folder):
    metrics = metrics_of(folder) | {"corpus": "hume_vb", "train_clips": 19_990}
    metrics["splits"]["validation"]["num_clips"] = 19_396
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "not the whole release" not in str(build_card(read_run(folder), "x"))


def test_synthetic_clips_are_told_from_the_corpus_whose_layout_they_have(folder, sample):
    metrics = {key: value for key, value in metrics_of(folder).items() if key != "corpus"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"corpus": "hume_vb", "data_dir": str(sample)}))
    assert read_run(folder).corpus == "sample"


def test_the_epoch_that_was_selected_on_validation_is_called_so(folder):
    assert "selected by its score on this split" in str(build_card(read_run(folder), "x"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"load_best_model_at_end": False}))
    assert "selected by its score on this split" not in str(build_card(read_run(folder), "x"))


def test_baselines_say_what_they_are(runs, tmp_path):
    card = str(build_card(read_run(runs["baseline"]), "x"))
    assert "Emo-18" in card and "frozen" not in card and "baird2022avb" in card
    pytest.importorskip("opensmile")
    mlp = str(build_card(read_run(make_run(tmp_path / "mlp", baseline="egemaps_mlp")), "x"))
    assert "eGeMAPSv02" in mlp and "licensed for research" in mlp and "pip install opensmile" in mlp


# ---- energy, rows of results, examples ------------------------------------------------------------------------------


def test_energy_is_computed_from_what_is_stated(folder):
    run = read_run(folder)
    assert "Energy and carbon: not measured." in str(build_card(run, "x"))
    card = build_card(run, "x", watts=250, grams_per_kwh=400)
    kwh = 1234.5 * 250 / 3.6e6
    assert f"1234.5 s × 250 W (stated, not metered) = {kwh:.3g} kWh" in str(card)
    assert f"= {kwh * 400:.3g} g CO₂e" in str(card)
    assert card.data.co2_eq_emissions["emissions"] == pytest.approx(kwh * 400, rel=0.01)
    assert "carbon: not measured" in str(build_card(run, "x", watts=250))
    with pytest.raises(AvbError, match="--watts"):
        build_card(run, "x", watts=-1)
    with pytest.raises(AvbError, match="needs --watts"):
        build_card(run, "x", grams_per_kwh=1)


def append_rows(table, folder, command, **changes):
    """The rows of the folder's run; with changes, of another run like it."""
    metrics = read_metrics(folder)
    if changes:
        metrics = dataclasses.replace(metrics, **{"run_id": new_run_id() if metrics.run_id else "", **changes})
    facts = {"encoder": "BASE", "corpus": "emogator", "data_dir": "emogator", "epochs": 7.25, "versions": {}}
    for row in run_results(*command, metrics, **facts):
        append_result(table, row)


@pytest.mark.parametrize("has_id", [True, False], ids=["id", "older"])
def test_seeds_of_the_same_recipe_are_summarised(folder, tmp_path, has_id):
    table, command = tmp_path / "runs.csv", ("emogator/attention", "")
    if not has_id:
        write_metrics(folder, dataclasses.replace(read_metrics(folder), run_id=""))
    append_rows(table, folder, command)
    card = str(build_card(read_run(folder), "x", [table]))
    assert "Epochs: 7.25" in card and "Recipe: `emogator/attention`" in card and "other seeds" not in card
    scores = read_metrics(folder).splits["validation"]
    others = [scores["ccc"] + 0.1, scores["ccc"] - 0.04]
    for seed, ccc in enumerate(others, start=5):
        append_rows(table, folder, command, seed=seed, splits={"validation": scores | {"ccc": ccc}})
    append_rows(
        table,
        folder,
        ("emogator/attention", "--learning_rate 1"),
        seed=9,
        splits={"validation": scores | {"ccc": 0.999}},
    )
    card = str(build_card(read_run(folder), "x", [table]))
    cells = [cell.strip() for cell in next(line for line in card.splitlines() if "| 3 " in line).split("|")[1:-1]]
    mean = (scores["ccc"] + sum(others)) / 3
    expected = [f"{value:.3f}" for value in (mean, min(others), max(others))]
    assert cells == ["validation", "ccc", *expected, "3"]


def test_an_undefined_score_has_its_row_too(folder, tmp_path):
    metrics = metrics_of(folder)
    metrics["splits"]["validation"]["ccc"] = math.nan
    (folder / "metrics.json").write_text(json.dumps(metrics))
    append_rows(tmp_path / "runs.csv", folder, ("x", ""))
    assert "Epochs: 7.25" in str(build_card(read_run(folder), "x", [tmp_path / "runs.csv"]))


def test_rows_of_another_run_are_refused(folder, tmp_path):
    append_rows(tmp_path / "runs.csv", folder, ("x", ""), seed=77)
    with pytest.raises(AvbError, match="no row of this run"):
        build_card(read_run(folder), "x", [tmp_path / "runs.csv"])


def test_examples_are_scored_by_the_model(folder, tone, tmp_path):
    soundfile.write(tmp_path / "laugh.wav", tone, 16_000)
    path = write_card(folder, examples=[tmp_path / "laugh.wav"])
    widget = ModelCard.load(path).data.widget
    assert [example["src"] for example in widget] == ["examples/laugh.wav"]
    assert (folder / "examples" / "laugh.wav").read_bytes() == (tmp_path / "laugh.wav").read_bytes()
    expected = {item["label"]: item["score"] for item in avb.load(str(folder), "cpu")(str(tmp_path / "laugh.wav"))}
    assert {item["label"]: item["score"] for item in widget[0]["output"]} == pytest.approx(expected, abs=1e-4)
    scores = [item["score"] for item in widget[0]["output"]]
    assert scores == sorted(scores, reverse=True)


def test_no_example_is_invented(folder):
    assert "widget" not in str(build_card(read_run(folder), "x"))


def test_an_example_that_cannot_be_read_is_refused(folder, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "clip.m4a").write_bytes(b"x")
    for name in ("text.wav", "clip.m4a"):
        with pytest.raises(AvbError, match=name):
            write_card(folder, examples=[tmp_path / name])
    assert not (folder / "README.md").exists() and not (folder / "examples").exists()


# ---- the command ----------------------------------------------------------------------------------------------------


def test_command_writes_the_card(folder, capsys):
    assert command.main(["write", str(folder), "--name", "avb-emotion"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "README.md")
    assert "# avb-emotion" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (None, None, "no config.json"),
        ("config.json", '{"model_type": "bert"}', "a model of type 'bert'"),
        ("metrics.json", "{", "metrics.json: cannot be read"),
        ("versions.json", "[]", "versions.json: not what train_avb.py writes"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(folder, tmp_path, capsys, name, content, words):
    if name:
        (folder / name).write_text(content)
    assert command.main(["write", str(folder if name else tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("avb.cards: error: ") and words in printed and printed.count("\n") == 1


def test_template_is_where_the_readme_of_model_cards_says():
    assert (ROOT / "model_cards" / "template.md").resolve() == TEMPLATE
