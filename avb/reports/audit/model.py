"""An audit of a saved model on a split of a corpus."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from audio_avb import AudioPreparation
from avb.corpora.decode import decode_splits
from avb.corpora.rows import KNOWN_GROUPS
from avb.errors import AvbError
from avb.inference.load import load_model
from avb.inference.run_corpus import corpus_of_run
from avb.inference.score import score_waveforms
from avb.metrics import Units, units_of_clips
from avb.reports.audit.audit import Audit, audit, read_groups
from avb.reports.audit.changes import CHANGES, backgrounds
from avb.tasks import MultiTask, Task


def audit_model(
    model: str,
    data_dir: str | Path,
    *,
    corpus: str = "folder",
    task: str | None = None,
    split: str = "test",
    groups: str | Path | None = None,
    background: str | Path | None = None,
    max_clips: int | None = None,
    device: str = "auto",
    cache_dir: str | None = None,
    num_decode_workers: int | None = None,
    strict: bool = False,
    **options: Any,
) -> Audit:
    """Audits any model that `predict_avb.py` accepts as MODEL.

    Args:
        model: a folder, a model included in the project, a name on the Hub, or an export.
        data_dir: the corpus, as in training; for a run's own corpus, the run's splits are used.
        corpus: folder, emogator or hume_vb.
        task: name of the task if the corpus has several.
        split: train, validation or test; only a split that the model was not trained on is informative.
        groups: see `avb.reports.audit.read_groups`; countries given by the corpus are always audited.
        background: see `avb.reports.audit.backgrounds`; None adds no background speech.
        max_clips: maximum number of clips, drawn at random; None uses all.
        device: device that the model runs on.
        cache_dir: folder for decoded clips.
        num_decode_workers: number of decoding processes.
        strict: raise if a clip cannot be read, instead of omitting it.
        **options: options of the corpus's `load` function, such as `label_columns`.

    Raises:
        AvbError: the model, the corpus or a table of groups cannot be read, or the labels differ from the model's.
    """
    changes = CHANGES | (backgrounds(background) if background else {})
    tables = read_groups(groups) if groups else {}
    clips = corpus_of_run(model, corpus, str(data_dir), task, split, options)
    the_task, rows = clips.labelled()
    loaded, feature_extractor = load_model(model, device)
    the_task, order = _task_of_model(model, loaded.config, the_task)
    if max_clips is not None and max_clips < len(rows):
        rows = rows.select(np.sort(np.random.default_rng(0).choice(len(rows), max_clips, replace=False)))
    decoded, _ = decode_splits(
        DatasetDict({split: rows}),
        AudioPreparation(peak_db=None),
        cache_dir=cache_dir,
        num_proc=num_decode_workers,
        strict=strict,
    )
    rows = decoded[split]

    def score(waveforms: list[np.ndarray]) -> np.ndarray:
        prepared = list(map(AudioPreparation.of(feature_extractor).apply, waveforms))
        return score_waveforms(loaded, feature_extractor, prepared)[:, order]

    units = units_of_clips(rows)
    if groups:
        _check_groups(groups, tables, units, data_dir)
    for name in KNOWN_GROUPS:
        if units.kind == "speaker" and units.names and name in rows.column_names:
            tables[name] = dict(zip(units.names, rows[name][:], strict=True))
    labels, waveforms = np.asarray(rows["labels"][:]), rows["input_values"]
    return audit(score, the_task, rows["id"][:], waveforms, labels, units, tables, changes)


def _check_groups(groups: str | Path, tables: Mapping[str, Mapping[str, str]], units: Units, data_dir: str | Path):
    """Raises an AvbError if `--groups` says nothing about the speakers of the clips."""
    if units.kind != "speaker" or not units.names:
        raise AvbError(
            f"--groups {groups}: the speakers of {data_dir} are not known; --speaker_column names their column, "
            "--speaker_pattern reads them from file names"
        )
    named = {speaker for group_of in tables.values() for speaker, group in group_of.items() if group}
    if not named & set(units.names):
        raise AvbError(
            f"--groups {groups}: it has groups of none of the speakers of {data_dir}, such as {units.names[0]!r}; its "
            "column speaker must have the same names"
        )


def _task_of_model(model: str, config, task: Task | MultiTask) -> tuple[Task, list[int]]:
    """The corpus's task, and the indices of the model's outputs for its labels."""
    if isinstance(task, MultiTask) or config.loss == "multitask":
        raise AvbError(f"{model}: an audit is of one task; give a model of one, and --task of the corpus")
    outputs = [config.id2label[index] for index in range(config.num_labels)]
    if set(outputs) != set(task.labels) or (config.loss == "ce") != (task.kind == "classification"):
        unknown = sorted(set(task.labels) ^ set(outputs))
        raise AvbError(
            f"{model}: its labels are not those of the corpus ({', '.join(unknown[:3]) or task.kind}); give the labels "
            "it was trained on (--label_columns)"
        )
    return task, [outputs.index(label) for label in task.labels]
