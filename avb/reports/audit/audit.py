"""An audit: a model on labelled clips as they were recorded, changed one way after another, and group by group."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from avb.corpora.tables import read_table, require_column
from avb.errors import AvbError
from avb.metrics import evaluate_predictions, has_label
from avb.metrics.bootstrap import BY_CLIP, Units
from avb.reports.audit.changes import CHANGES, Change
from avb.reports.audit.verdicts import Finding, judge_change, judge_groups
from avb.reports.markdown import bounds, markdown_table, number
from avb.tasks import Task

Score = Callable[[list[np.ndarray]], np.ndarray]
_CLIPS_AT_ONCE = 256


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        task: the model's task.
        scores: scores of the clips as recorded, see `avb.metrics.evaluate_predictions`.
        findings: one row per change and per group.
    """

    task: Task
    scores: dict
    findings: list[Finding]

    @property
    def failed(self) -> list[str]:
        return [finding.test for finding in self.findings if finding.passed is False]


def audit(
    score: Score,
    task: Task,
    ids: Sequence[str],
    waveforms: Sequence[np.ndarray],
    labels: np.ndarray,
    units: Units = BY_CLIP,
    groups: Mapping[str, Mapping[str, str]] | None = None,
    changes: Mapping[str, Change] = CHANGES,
) -> Audit:
    """Audits the model behind `score`; clips with missing labels are omitted.

    Args:
        score: 16 kHz waveforms as recorded → scores (clips, labels), classes as probabilities.
        task: a single task, with its labels in the order of the scores.
        ids: clip ids; they seed the random changes.
        waveforms: 16 kHz, mono, as recorded.
        labels: (clips,) class indices or (clips, labels) scores.
        units: each clip's speaker, or other unit that the intervals resample.
        groups: for each grouping (sex, country, ...), the group of each speaker.
        changes: see `avb.reports.audit.changes`.

    Raises:
        AvbError: no clip is labelled.
    """
    labels = np.asarray(labels)
    is_labelled = has_label(task, labels) if labels.ndim == 1 else ~np.isnan(labels).any(axis=1)
    kept = np.flatnonzero(is_labelled).tolist()
    if not kept:
        raise AvbError("no clip has its labels: an audit needs a split whose labels are known")
    labels = labels[kept]
    known = None if units.names is None else [units.names[index] for index in kept]

    def predictions(change: Change | None, name: str) -> np.ndarray:
        found = []
        for start in tqdm(range(0, len(kept), _CLIPS_AT_ONCE), desc=name, leave=False, disable=None):
            clips = []
            for index in kept[start : start + _CLIPS_AT_ONCE]:
                waveform = np.asarray(waveforms[index], dtype=np.float32)
                if change is not None:
                    waveform = np.asarray(change(waveform, _generator(ids[index], name)), dtype=np.float32)
                clips.append(waveform)
            found.append(score(clips))
        scores = np.concatenate(found)
        return scores.argmax(axis=1) if task.kind == "classification" else scores.astype(np.float64)

    recorded = predictions(None, "as recorded")
    findings = [
        judge_change(task, name, labels, recorded, predictions(change, name), known) for name, change in changes.items()
    ]
    for name, group_of in (groups or {}).items():
        if known is not None and units.kind == "speaker":
            findings += judge_groups(task, name, labels, recorded, known, dict(group_of))
    return Audit(task, evaluate_predictions(task, labels, recorded, known, unit=units.kind), findings)


def read_groups(path: str | Path) -> dict[str, dict[str, str]]:
    """Reads groups of speakers: a table with a column `speaker` and one column per grouping (sex, age, country, ...).

    Raises:
        CorpusError: the table cannot be read, or has no column `speaker`.
    """
    table = read_table(Path(path))
    speaker = require_column(table, "speaker")
    speakers = list(table.cells[speaker])
    return {
        column: dict(zip(speakers, table.cells[column], strict=True)) for column in table.cells if column != speaker
    }


def markdown(found: Audit) -> str:
    """The audit as a Markdown page."""
    metric, scores = found.task.metric, found.scores
    key = metric if f"{metric}_low" in scores and not np.isnan(scores[metric]) else f"{metric}_present"
    first = (
        f"{metric.upper()} {number(scores[key])} ({bounds(scores[f'{key}_low'], scores[f'{key}_high'])}) on "
        f"{scores['num_clips']} clips of {scores['interval_units']} {scores['interval_unit']}s as they were recorded; "
        f"chance {number(scores['chance'])}."
    )
    verdict = {True: "pass", False: "FAIL", None: "too few"}
    rows = [
        [
            row.test, number(row.score), f"{row.difference:+.3f}",
            "" if np.isnan(row.low) else f"{row.low:+.3f} to {row.high:+.3f}",
            f"{row.threshold:+.3f}" if row.kind == "change" else f"±{row.threshold:.3f}",
            "" if np.isnan(row.unchanged) else f"{100 * row.unchanged:.0f} %", str(row.num_clips), verdict[row.passed],
        ]
        for row in found.findings
    ]  # fmt: skip
    header = ["test", metric.upper(), "difference", "95 % interval", "threshold", "unchanged", "clips", "verdict"]
    return "\n".join([first, "", *markdown_table(header, rows)]) + "\n"


def _generator(clip_id: str, change: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{change}\0{clip_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
