"""The Markdown tables of a model card."""

from collections.abc import Iterable

from avb.cards.run import Run
from avb.metrics.further import CLASSIFICATION, REGRESSION
from avb.reports.markdown import bounds, markdown_table, number
from avb.reports.results import Result
from avb.reports.summaries import summarize
from calibration_avb import Calibration

# Scores of a split: the key in metrics.json, and its name on the card.
_SCORES = {
    "ccc": "CCC, mean over labels",
    "pearson": "Pearson's r, mean over labels",
    **{name: score.title for name, score in REGRESSION.items()},
    "uar": "UAR",
    "uar_present": "UAR over the classes that occur",
    **{name: score.title for name, score in CLASSIFICATION.items()},
    "rater_agreement": "agreement of one rater with the others, by the first score above",
}
_HAVE_CHANCE = ("ccc", "uar", "uar_present")
_LABEL_SCORES = {"ccc": "CCC", "recall": "recall", "pearson": "Pearson's r", "count": "clips"}


def model_table(run: Run) -> str:
    """The parts of the model."""
    config = run.config
    rows = [("model type", f"`{config['model_type']}`")]
    if run.has_encoder:
        lstm = (
            f"{config['rnn_layers']} layer{'s' * (config['rnn_layers'] != 1)} of {config['rnn_hidden_size']} units"
            if config["rnn_layers"]
            else "none"
        )
        last = config["encoder_layer"]
        is_weighed = config.get("use_weighted_layer_sum", False)  # missing in folders of older versions
        rank = run.setting("lora_rank")
        rows += [
            ("kind of encoder", run.encoder_kind or "unknown"),
            ("encoder", run.encoder or "not recorded"),
            *([("licence of its weights", run.metrics.encoder_licence)] if run.metrics.encoder_licence else []),
            ("transformer layers that feed the head", f"0 to {last}, weighted sum")
            if is_weighed
            else ("transformer layer that feeds the head", str(last)),
            *([("trained part of the encoder", f"adapters of rank {rank} (LoRA)")] if rank else []),
            ("LSTM", lstm),
            ("pooling", config["pooling"]),
        ]
    rows.append(("loss", config["loss"]))
    return "\n".join(markdown_table(("part", "value"), rows))


def score_table(scores: dict) -> str:
    """The scores of one split, with intervals where available, and the chance level."""
    keys = [key for key in _SCORES if key in scores]
    header = ["score", "value", "95 % interval"]
    rows = [[_SCORES[key], *_score_and_interval(scores, key)] for key in keys]
    if "chance" in scores:  # missing in metrics.json of older versions
        header.append("chance")
        for key, row in zip(keys, rows, strict=True):
            row.append(number(scores["chance"]) if key in _HAVE_CHANCE else "")
    return "\n".join(markdown_table(header, rows))


# What `avb.calibration.fit.measure` reports beside the coverage.
_CALIBRATION = {
    "set_size": "labels in a set",
    "interval_width": "width of an interval",
    "speakers_below": "speakers more than 0.1 below",
    "ece": "ECE",
    "ece_chance": "ECE of a calibrated model",
    "ece_chance_high": "97.5 % of its draws below",
    "ece_raw": "ECE at temperature 1",
}


def calibration_table(calibration: Calibration | None) -> str:
    """Coverage, set size and calibration error on speakers left out of the fit, per task; empty if not measured."""
    tasks = {name: task.measured for name, task in (calibration.tasks if calibration else {}).items() if task.measured}
    keys = [key for key in _CALIBRATION if any(key in measured for measured in tasks.values())]
    if not tasks:
        return ""
    header = ["coverage, requested", "measured", *(_CALIBRATION[key] for key in keys)]
    rows = []
    for name, measured in tasks.items():
        cells = [number(measured[key]) if key in measured else "" for key in ("measured_coverage", *keys)]
        rows.append([*([name] if "" not in tasks else []), f"{measured['coverage']:g}", *cells])
    return "\n".join(markdown_table([*(["task"] if "" not in tasks else []), *header], rows))


def rejection_table(measured: dict) -> str:
    """Bursts kept and false alarms at each operating point of the rejection; empty if nothing was measured."""
    rates = [int(key.removeprefix("kept_at_")) for key in measured if key.startswith("kept_at_")]
    if not rates:
        return ""
    header = ["false alarms per hour, requested", "measured", "bursts kept"]
    rows = [[str(rate), f"{measured[f'alarms_at_{rate}']:g}", number(measured[f"kept_at_{rate}"])] for rate in rates]
    if "uar" in measured:
        header.append(f"UAR of bursts kept (of all: {number(measured['uar'])})")
        for rate, row in zip(rates, rows, strict=True):
            row.append(number(measured.get(f"uar_kept_at_{rate}", float("nan"))))
    return "\n".join(markdown_table(header, rows))


def label_table(scores: dict) -> str:
    """The scores of one split, per label."""
    per_label = scores["per_label"]
    keys = [key for key in _LABEL_SCORES if key in next(iter(per_label.values()))]
    header, rows = ["label"], []
    for key in keys:
        header += [_LABEL_SCORES[key], *(["95 % interval"] if _has_interval(per_label, key) else [])]
    for label, values in per_label.items():
        row = [label]
        for key in keys:
            value, interval = _score_and_interval(values, key)
            row += [value, *([interval] if _has_interval(per_label, key) else [])]
        rows.append(row)
    return "\n".join(markdown_table(header, rows))


def train_tables(train_set: dict) -> dict[str, str]:
    """Maps each task to a table of its training clips per label; see `avb.training.start.describe_clips`."""
    return {task: _train_table(labels) for task, labels in train_set.get("tasks", {}).items()}


def _train_table(labels: dict[str, dict]) -> str:
    columns = {"clips": "training clips", "mean": "mean", "standard_deviation": "standard deviation"}
    keys = [key for key in columns if all(key in values for values in labels.values())]
    counts = {values["clips"] for values in labels.values()}
    if keys == ["clips"] and len(counts) == 1:
        return f"Training clips per label: {counts.pop()}."
    rows = [(label, *(number(values[key]) for key in keys)) for label, values in labels.items()]
    return "\n".join(markdown_table(("label", *(columns[key] for key in keys)), rows))


def seeds_table(row: Result, rows: Iterable[Result]) -> str:
    """All seeds of the row's recipe, on the same clips and with the same changes; empty if there is only one seed."""
    names = ("recipe", "changes", "corpus", "data_dir", "train_clips", "task", "metric")
    alike = [other for other in rows if all(getattr(other, name) == getattr(row, name) for name in names)]
    cells = [
        # Summaries are in percent.
        (
            s.split,
            s.metric,
            *(number(x / 100) for x in (s.mean, s.minimum, s.maximum) if x is not None),
            str(s.num_seeds),
        )
        for s in summarize(alike)
        if s.num_seeds > 1
    ]
    return "\n".join(markdown_table(("split", "score", "mean", "lowest", "highest", "seeds"), cells)) if cells else ""


def _has_interval(per_label: dict, key: str) -> bool:
    return any(f"{key}_low" in values for values in per_label.values())


def _score_and_interval(scores: dict, key: str) -> tuple[str, str]:
    low, high = scores.get(f"{key}_low"), scores.get(f"{key}_high")
    return number(scores[key]), "" if low is None or high is None else bounds(low, high)
