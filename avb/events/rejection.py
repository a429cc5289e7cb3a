"""Rejects sounds that are not vocal bursts: fits `burst` in the calibration.json of an emotion model.

The classifier is a logistic regression on the logarithms of the model's own scores. It is fitted on bursts of half of
EmoGator's validation speakers, on whom no shipped emotion model was trained, and on windows of the recordings of the
training side (`recipes/events/sources.csv`), of noise and of silence. It is evaluated on the other half of the speakers
and on the test side: other speakers, languages and packages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from audio_avb import SAMPLING_RATE, AudioError, load_audio
from avb.corpora import load_bursts
from avb.errors import AvbError
from avb.events.evaluation import negatives
from avb.events.finding import score_stretches
from avb.events.pool import Pool
from avb.events.sources import SIDES
from avb.files import write_text
from avb.inference.calibrated import find_calibration
from avb.inference.scorer import Scorer
from avb.metrics.classification import uar
from avb.models import locate
from calibration_avb import CALIBRATION_FILE, RATES, BurstCheck, Calibration, burst_scores, log_scores

WINDOW_SECONDS, HOP_SECONDS = 2.0, 1.0  # of which false alarms are counted
SILENCE_WINDOWS = 60
CHUNK = 64


def fit_rejection(
    model: str, data_dir: str | Path, pool: str | Path, windows: int = 1200, clips: int = 2700
) -> BurstCheck:
    """Fits a model's rejection, and writes it into the calibration.json of its folder, beside what is there.

    Args:
        model: a folder, or a model that comes with the project.
        data_dir: of EmoGator.
        pool: what `python -m avb.events prepare` wrote.
        windows: of 2 s of recordings without bursts, of each side.
        clips: of bursts.

    Raises:
        AvbError: the model is no folder, or something is missing.
    """
    folder = Path(locate(model))
    if not folder.is_dir():
        raise AvbError(f"{model}: give the model's folder, where {CALIBRATION_FILE} will be written")
    scorer = replace(Scorer.load(str(folder)), calibrated=None)
    labels = [scorer.config.id2label[index] for index in range(scorer.config.num_labels)]
    halves = _bursts(data_dir, clips, labels if scorer.config.loss == "ce" else None)
    features: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for side, (bursts, _) in zip(SIDES, halves, strict=True):
        others = list(_windows(Pool.load(pool, side), windows, seed=SIDES.index(side)))
        scores = [_scored(scorer, part) for part in (bursts, others)]
        features[side] = (log_scores(scores[0]), log_scores(scores[1]))
    check = fit(*features["train"])
    check = replace(check, measured=measure(check, *features["test"], halves[1][1]))
    weights = scorer.model.trained_weights
    found = find_calibration(str(folder), weights) or Calibration(weights, {})
    write_text(folder / CALIBRATION_FILE, replace(found, burst=check).to_json())
    return check


def fit(bursts: np.ndarray, others: np.ndarray) -> BurstCheck:
    """Of `log_scores`, (clips, labels) each; thresholds are quantiles of what the others get."""
    from sklearn.linear_model import LogisticRegression

    x = np.concatenate([bursts, others])
    mean, scale = x.mean(0), x.std(0) + 1e-6
    y = np.r_[np.ones(len(bursts)), np.zeros(len(others))]
    found = LogisticRegression(C=1.0, class_weight="balanced", max_iter=2000).fit((x - mean) / scale, y)
    weights = found.coef_[0] / scale
    check = BurstCheck(tuple(map(float, weights)), float(found.intercept_[0] - weights @ mean))
    alarms = burst_scores(check, others)
    per_window = np.array(RATES) / (3600 / HOP_SECONDS)
    return replace(check, thresholds=tuple(float(value) for value in np.quantile(alarms, 1 - per_window)))


def measure(
    check: BurstCheck, bursts: np.ndarray, others: np.ndarray, true: Sequence[int] | None = None
) -> dict[str, float]:
    """What a check is worth, of `log_scores`, (clips, labels) each.

    Args:
        check: fitted on others.
        bursts: of bursts.
        others: of windows without bursts.
        true: each burst's class; None where the model is of other labels.

    Returns:
        The area under the ROC curve, and at each of `RATES` what is kept of bursts, and the alarms that were counted;
        with classes the unweighted average recall of all bursts, and of those that are kept.
    """
    from sklearn.metrics import roc_auc_score

    kept, alarms = burst_scores(check, bursts), burst_scores(check, others)
    y = np.r_[np.ones(len(kept)), np.zeros(len(alarms))]
    found = {
        "auroc": round(float(roc_auc_score(y, np.r_[kept, alarms])), 4),
        "bursts": len(kept),
        "windows": len(alarms),
    }
    for rate, threshold in zip(RATES, check.thresholds, strict=True):
        found[f"kept_at_{rate}"] = round(float((kept >= threshold).mean()), 4)
        found[f"alarms_at_{rate}"] = round(float((alarms >= threshold).mean() * 3600 / HOP_SECONDS), 1)
    if true is not None:
        classes, heard = np.asarray(true), bursts.argmax(-1)
        found["uar"] = round(uar(classes, heard), 4)
        for rate, threshold in zip(RATES, check.thresholds, strict=True):
            is_kept = kept >= threshold
            if is_kept.any():
                found[f"uar_kept_at_{rate}"] = round(uar(classes[is_kept], heard[is_kept]), 4)
    return found


def _bursts(
    data_dir: str | Path, most: int, labels: list[str] | None
) -> list[tuple[list[np.ndarray], list[int] | None]]:
    """Of each half of the validation speakers, float32 (samples,) each, and each one's place in `labels`, if it has."""
    task, splits = load_bursts("emogator", data_dir, "emotion")
    rows = splits["validation"]
    known = labels is not None and set(labels) == set(task.labels)
    speakers = sorted(set(rows["speaker"][:]))
    chosen = np.random.default_rng(0).permutation(len(rows))[:most]
    waveforms: tuple[list, list] = ([], [])
    classes: tuple[list, list] = ([], [])
    for row in rows.select(np.sort(chosen)):
        half = speakers.index(row["speaker"]) % 2
        try:
            waveforms[half].append(load_audio(row["audio"], peak_db=None))
        except AudioError:  # one burst less
            continue
        classes[half].append(labels.index(task.labels[int(row["labels"])]) if labels and known else 0)
    return [(waveforms[half], classes[half] if known else None) for half in (0, 1)]


def _windows(pool: Pool, most: int, seed: int) -> Iterator[np.ndarray]:
    """Windows of recordings without bursts, every kind alike in number, and of silence."""
    rng, size = np.random.default_rng(seed), round(WINDOW_SECONDS * SAMPLING_RATE)
    by_kind: dict[str, list[np.ndarray]] = {}
    for negative in negatives(pool, 10, most_minutes=6):
        places = np.arange(0, len(negative.waveform) - size, round(HOP_SECONDS * SAMPLING_RATE))
        for start in rng.permutation(places)[:12]:
            by_kind.setdefault(negative.kind, []).append(negative.waveform[start : start + size].copy())
    for windows in by_kind.values():
        for number in rng.permutation(len(windows))[: most // len(by_kind)]:
            yield windows[number]
    for _ in range(SILENCE_WINDOWS):
        yield (rng.standard_normal(size) * 10 ** rng.uniform(-5, -3)).astype(np.float32)


def _scored(scorer: Scorer, waveforms: list[np.ndarray]) -> np.ndarray:
    parts = [score_stretches(scorer, waveforms[at : at + CHUNK]) for at in range(0, len(waveforms), CHUNK)]
    return np.concatenate(parts)
