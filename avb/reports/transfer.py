"""Measures how useful a model's frames are on other corpora, compared with openSMILE functionals.

    python -m avb.reports transfer MODEL TABLE [TABLE ...] [--folds 5] [--output FOLDER]

Nothing is fine-tuned: the mean of each clip's frames is the input of a linear model (`avb.reports.probe`), trained and
scored with speaker-independent folds. The same is done with eGeMAPS and ComParE, on the same clips and folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from audio_avb import SAMPLING_RATE, AudioPreparation
from avb.baselines import opensmile_features
from avb.baselines.opensmile_mlp import FEATURE_SETS, OpenSmileFeatureExtractor
from avb.corpora import load_bursts
from avb.corpora.decode import decode_splits
from avb.corpora.splits import strata_of, stratified_folds
from avb.errors import AvbError
from avb.inference.embedding import embed_with, load_for_frames
from avb.metrics import Units, defined_metric, evaluate_predictions, has_label, resampled_scores, units_of_clips
from avb.metrics.bootstrap import interval
from avb.reports.markdown import bounds, markdown_table, number
from avb.reports.probe import cross_validated_predictions
from avb.tasks import MultiTask, Task


@dataclass(frozen=True)
class Transfer:
    """The score of one representation on one corpus, on the pooled clips of the held-out folds.

    `difference` is relative to the model's frames on the same clips, with a 95 % interval from the same resamples of
    speakers; NaN in the model's own row.
    """

    table: str
    representation: str
    dimensions: int
    metric: str
    score: float
    low: float
    high: float
    chance: float
    difference: float
    difference_low: float
    difference_high: float
    num_clips: int
    unit: str
    num_units: int
    num_folds: int
    num_bad_clips: int


@dataclass(frozen=True)
class _Labelled:
    """The labelled clips of a corpus from all splits; waveforms at 16 kHz as recorded."""

    table: str
    task: Task
    clips: Dataset
    labels: np.ndarray
    units: Units
    num_bad_clips: int


def transfer(
    model: str,
    tables: Sequence[str | Path],
    *,
    feature_sets: Sequence[str] = tuple(FEATURE_SETS),
    num_folds: int = 5,
    layer: int | None = None,
    device: str = "auto",
    corpus: str = "folder",
    task: str | None = None,
    cache_dir: str | None = None,
    num_decode_workers: int | None = None,
    strict: bool = False,
    **options: Any,
) -> list[Transfer]:
    """Scores a linear model on a model's mean frames and on openSMILE's functionals, for each corpus.

    All labelled clips of a corpus are used, whatever their split: new folds of speakers (of clips if no speaker is
    known) are created, with each class spread evenly over them.

    Args:
        model: a model that `avb.load` accepts, with a wav2vec 2.0 encoder.
        tables: corpora, each given as in `--data_dir`.
        feature_sets: openSMILE feature sets to compare with: eGeMAPSv02, ComParE_2016, or none.
        num_folds: number of outer folds; the linear model's regularisation is chosen on three inner folds.
        layer: see `avb.embed`.
        device: device that the encoder runs on.
        corpus: folder, emogator or hume_vb; applies to all tables.
        task: name of the task if a corpus has several.
        cache_dir: folder for decoded clips and openSMILE's features.
        num_decode_workers: number of processes for decoding and for openSMILE's features.
        strict: raise if a clip cannot be read, instead of omitting it.
        **options: options of the corpus's `load` function, such as `label_columns`.

    Returns:
        For each table, the model's row, then one row per feature set.

    Raises:
        AvbError: a table cannot be read, has fewer speakers than folds, or several tasks; the model has no encoder; or
            the package opensmile is missing.
    """
    smiles = [OpenSmileFeatureExtractor(name) for name in feature_sets]  # fails early if the package is missing
    encoder = load_for_frames(model, layer, device)  # likewise if there is no such encoder or layer
    rows: list[Transfer] = []
    for table in tables:
        loaded = load_bursts(corpus, table, task, **options)
        splits, bad = decode_splits(
            loaded.splits,
            AudioPreparation(peak_db=None),
            cache_dir=cache_dir,
            num_proc=num_decode_workers,
            strict=strict,
        )
        labelled = _labelled(str(table), loaded.task, concatenate_datasets(list(splits.values())), len(bad))
        features = {model: _mean_frames(encoder, labelled.clips, layer)}
        for smile in smiles:
            computed = opensmile_features(labelled.clips, smile, num_proc=num_decode_workers, cache_dir=cache_dir)
            features[smile.feature_set] = np.stack(computed["input_values"][:])
        rows += _compare(labelled, features, num_folds)
    return rows


def _labelled(table: str, task: Task | MultiTask, clips: Dataset, num_bad_clips: int) -> _Labelled:
    if isinstance(task, MultiTask):
        raise AvbError(
            f"{table}: task {task.name} is several at once; give one of {', '.join(p.name for p in task.parts)}"
        )
    labels = np.asarray(clips["labels"][:])
    kept = has_label(task, labels) if labels.ndim == 1 else ~np.isnan(labels).any(axis=1)
    clips = clips.select(np.flatnonzero(kept))
    return _Labelled(table, task, clips, labels[kept], units_of_clips(clips), num_bad_clips)


def _mean_frames(encoder: tuple[Any, Any], clips: Dataset, layer: int | None) -> np.ndarray:
    waveforms = ((np.asarray(row["input_values"]), SAMPLING_RATE) for row in clips)
    return np.asarray(embed_with(*encoder, waveforms, layer=layer, max_seconds=np.inf))


def _compare(corpus: _Labelled, features: dict[str, np.ndarray], num_folds: int) -> list[Transfer]:
    groups = corpus.units.names
    units = groups if groups is not None else corpus.clips["id"][:]
    folds = stratified_folds(units, strata_of(corpus.labels), num_folds, corpus.table)
    rows: list[Transfer] = []
    first = None
    for name, values in features.items():
        predicted = cross_validated_predictions(corpus.task, values, corpus.labels, units, folds)
        scores = evaluate_predictions(corpus.task, corpus.labels, predicted, groups, unit=corpus.units.kind)
        resampled = resampled_scores(corpus.task, corpus.labels, predicted, groups)
        metric = defined_metric(scores, corpus.task.metric)
        row = Transfer(
            table=corpus.table,
            representation=name,
            dimensions=values.shape[1],
            metric=corpus.task.metric,
            score=scores[metric],
            low=scores[f"{metric}_low"],
            high=scores[f"{metric}_high"],
            chance=scores["chance"],
            difference=np.nan if first is None else scores[metric] - rows[0].score,
            difference_low=np.nan,
            difference_high=np.nan,
            num_clips=scores["num_clips"],
            unit=scores["interval_unit"],
            num_units=scores["interval_units"],
            num_folds=num_folds,
            num_bad_clips=corpus.num_bad_clips,
        )
        if first is None:
            first = resampled
        else:
            low, high = interval(resampled - first)
            row = replace(row, difference_low=float(low), difference_high=float(high))
        rows.append(row)
    return rows


def markdown(rows: Sequence[Transfer]) -> str:
    """The rows as a table, followed by one line per corpus."""
    cells = [
        [
            row.table,
            row.representation,
            str(row.dimensions),
            f"{row.metric.upper()} {number(row.score)} ({bounds(row.low, row.high)})",
            number(row.chance),
            "" if np.isnan(row.difference)
            else f"{row.difference:+.3f} ({row.difference_low:+.3f} to {row.difference_high:+.3f})",
        ]
        for row in rows
    ]  # fmt: skip
    header = ["corpus", "features", "number", "held-out score (95 % interval)", "chance", "against the model"]
    basis = {row.table: row for row in rows}.values()
    notes = [
        f"{row.table}: {row.num_clips} clips, {row.num_units} {row.unit}s, {row.num_folds} folds"
        + (f"; {row.num_bad_clips} clips could not be read and were left out" if row.num_bad_clips else "")
        for row in basis
    ]
    return "\n".join([*markdown_table(header, cells), "", *notes]) + "\n"
