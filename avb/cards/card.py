"""Builds model cards from the measurements of a run.

The text is in `model_card.md`, a Jinja template. The numbers come from the run's own files (config.json, metrics.json,
train_set.json, recipe.yaml, versions.json) and, if a table of results is given, from the rows of this run. There is no
other source: the card says "unknown" for anything that was not measured.
"""

import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from avb.cards.evaluations import write_evaluations
from avb.cards.hub_folder import REPO_PLACEHOLDER
from avb.cards.run import Run, read_run
from avb.cards.tables import (
    calibration_table,
    label_table,
    model_table,
    rejection_table,
    score_table,
    seeds_table,
    train_tables,
)
from avb.corpus_arguments import CORPORA, KnownCorpus
from avb.encoders.names import EXTRACTORS
from avb.errors import AvbError
from avb.files import make_folder, write_text
from avb.inference.load import load
from avb.metrics.further import CLASSIFICATION, REGRESSION
from avb.reports.markdown import number
from avb.reports.results import find_row
from avb.reports.run_table import read_results
from avb.run_files import CARD, CROSS_VALIDATION
from pipeline_avb import TASK

TEMPLATE = Path(__file__).with_name("model_card.md")
# The synthetic sample has the layout of HUME-VB but is not one of the named corpora.
KNOWN = CORPORA | {"sample": KnownCorpus("synthetic sample", "", {"license": "apache-2.0"})}
METRIC_TYPES = {"ccc": "ccc", "pearson": "pearsonr", "uar": "uar"} | {
    name: score.hub_type for name, score in (REGRESSION | CLASSIFICATION).items() if score.hub_type
}
EXAMPLE_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


def build_card(
    run: Run,
    name: str,
    results: Sequence[str | Path] = (),
    watts: float | None = None,
    grams_per_kwh: float | None = None,
    widget: Sequence[dict] = (),
    datasets: Sequence[str] = (),
) -> ModelCard:
    """Builds the card of a run.

    Args:
        run: facts about the run.
        name: the model's name.
        results: tables of results; one of them contains the run's rows.
        watts: mean power of the machine during training, as stated by its owner; None if unknown.
        grams_per_kwh: stated carbon intensity of the electricity, g CO₂e per kWh.
        widget: examples in the format of the Hub's metadata: `src`, `example_title`, `output`.
        datasets: Hub names of the training data.

    Raises:
        AvbError: the tables contain no row of this run, or a number is out of range.
    """
    for argument, value in (("watts", watts), ("grams_per_kwh", grams_per_kwh)):
        if value is not None and not 0 < value < math.inf:
            raise AvbError(f"--{argument} {value:g}: it must be positive, or left out")
    if grams_per_kwh is not None and watts is None:
        raise AvbError("--grams_per_kwh needs --watts too: carbon is energy times carbon intensity")
    rows = [row for path in results for row in read_results(path)]
    row = find_row(run.metrics, rows, results) if results else None
    seconds = run.metrics.train_seconds
    kwh = None if watts is None or seconds is None else seconds * watts / 3.6e6
    grams = None if kwh is None or grams_per_kwh is None else kwh * grams_per_kwh
    return ModelCard.from_template(
        card_data(run, name, grams, widget, datasets),
        template_path=str(TEMPLATE),
        name=name,
        repo_id=REPO_PLACEHOLDER,
        pipeline_task=TASK,
        config=run.config,
        task=run.task,
        kind=run.kind,
        labels=run.labels,
        model_table=model_table(run),
        freeze=run.freeze,
        encoder_is_random=run.encoder_is_random,
        preset=run.preset,
        splits=[
            {
                **section.scores,
                "name": f"{section.split}, task {section.task.name}" if run.metrics.tasks else section.split,
                "table": score_table(section.scores),
                "label_table": label_table(section.scores),
                "is_cross_validation": section.split == CROSS_VALIDATION,
                "selected": section.split == "validation" and run.selects_epoch,
            }
            for section in run.sections
        ],
        num_folds=len(run.metrics.splits.get(CROSS_VALIDATION, {}).get("fold_scores", [])),
        means={
            split: number(scores["mean_score"]) + (f", chance {number(scores['chance'])}" if "chance" in scores else "")
            for split, scores in run.metrics.scored_splits.items()
            if run.metrics.tasks
        },
        withheld=run.withheld,
        calibration=run.calibration,
        calibration_table=calibration_table(run.calibration),
        rejection=run.rejection,
        rejection_table=rejection_table(run.rejection),
        seeds_table=seeds_table(row, rows) if row else "",
        corpus=run.corpus,
        known_corpus=KNOWN.get(run.corpus or ""),
        is_release=run.is_release,
        train_clips=run.metrics.train_clips,
        train_set=run.train_set,
        train_tables=train_tables(run.train_set),
        train_seconds=seconds,
        watts=None if watts is None else f"{watts:g}",
        kwh=None if kwh is None else f"{kwh:.3g}",
        grams_per_kwh=None if grams_per_kwh is None else f"{grams_per_kwh:g}",
        grams=None if grams is None else f"{grams:.3g}",
        epochs=row.epochs if row else None,
        seed=run.metrics.seed,
        recipe_name=f"{row.recipe} {row.changes}".strip() if row else None,
        recipe_yaml=yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True).strip() if run.recipe else "",
        versions=", ".join(f"{package} {version}" for package, version in run.versions.items() if version),
    )


def card_data(
    run: Run, name: str, grams: float | None = None, widget: Sequence[dict] = (), datasets: Sequence[str] = ()
) -> ModelCardData:
    """The card's metadata: the fields that the Hub searches, and each defined score in `model-index`."""
    dataset = run.corpus or "unknown"
    known = KNOWN.get(dataset)
    evaluations = [
        EvalResult(
            task_type="audio-classification",
            task_name=section.task.name,
            dataset_type=dataset,
            dataset_name=known.title if known else dataset,
            dataset_config=section.task.name,  # without it, model-index would merge the scores of several tasks
            dataset_split=section.split,
            metric_type=metric_type,
            metric_name=metric,
            metric_value=round(section.scores[metric], 4),
        )
        for section in run.sections
        for metric, metric_type in METRIC_TYPES.items()
        if metric in section.scores and not math.isnan(section.scores[metric])
    ]
    optional: dict[str, Any] = {"co2_eq_emissions": None, "widget": list(widget) or None, "base_model": None}
    if grams is not None:
        source = "stated power × training time × stated carbon intensity, not metered"
        optional["co2_eq_emissions"] = {"emissions": float(f"{grams:.3g}"), "source": source}
    encoder = EXTRACTORS.get(run.encoder or "", run.encoder) or ""
    if encoder.count("/") == 1:  # a Hub name; paths of folders were cut to their last part
        optional |= {"base_model": encoder, "base_model_relation": "finetune"}
    if evaluations:
        optional |= {"eval_results": evaluations, "model_name": name}
    return ModelCardData(
        **(known and known.licence or {"license": "unknown"}),
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["audio", "vocal-bursts", "emotion-recognition", run.config["model_type"]],
        datasets=list(datasets) or None,
        metrics=sorted({evaluation.metric_type for evaluation in evaluations}) or None,
        **optional,
    )


def write_card(
    folder: str | Path,
    name: str | None = None,
    results: Sequence[str | Path] = (),
    watts: float | None = None,
    grams_per_kwh: float | None = None,
    examples: Sequence[str | Path] = (),
    datasets: Sequence[str] = (),
    benchmark: str | None = None,
) -> Path:
    """Writes the card of a run to README.md in its folder.

    Args:
        folder: folder written by train_avb.py; config.json is enough for a card, which then says "unknown" elsewhere.
        name: the model's name; None for the folder's name.
        results: see `build_card`.
        watts: see `build_card`.
        grams_per_kwh: see `build_card`.
        examples: clips to show with the model's scores; they are copied into the folder and pushed with it.
        datasets: see `build_card`.
        benchmark: see `avb.cards.evaluations.write_evaluations`.

    Raises:
        AvbError: the folder contains no model, or an example cannot be read; see also `build_card` and
            `write_evaluations`.
    """
    folder = Path(folder)
    run = read_run(folder)
    widget = widget_examples(folder, examples)
    for dataset in datasets:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset):
            raise AvbError(f"--dataset {dataset}: give ORG/NAME of a data set on the Hub")
    if benchmark is not None:
        write_evaluations(folder, run, benchmark)
    card = build_card(run, name or folder.resolve().name, results, watts, grams_per_kwh, widget, datasets)
    write_text(folder / CARD, str(card).rstrip() + "\n")
    return folder / CARD


def widget_examples(folder: Path, clips: Sequence[str | Path]) -> list[dict]:
    """`widget` metadata: the clips with their scores from the folder's model, highest first."""
    if not clips:
        return []
    pipe = load(str(folder), device="cpu")
    examples = []
    for clip in map(Path, clips):
        if clip.suffix.lower() not in EXAMPLE_SUFFIXES:
            raise AvbError(f"--example {clip}: the Hub plays {', '.join(EXAMPLE_SUFFIXES)}")
        scores = pipe(str(clip))  # before the copy, so that an unreadable clip is not copied
        target = make_folder(folder / "examples") / clip.name
        if target.resolve() != clip.resolve():
            shutil.copyfile(clip, target)
        output = [{"label": item["label"], "score": round(item["score"], 4)} for item in scores]
        output.sort(key=lambda item: -item["score"])
        examples.append({"src": f"examples/{clip.name}", "example_title": clip.stem, "output": output})
    return examples
