"""The facts that a card states about a finished run, read from the files of `avb.run_files`, defaults in one place.

Nothing is guessed. If a file is missing, its facts are None, and the card says "unknown".
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from avb.arguments import AvbTrainingArguments, DataArguments, ModelArguments, names_with
from avb.corpora.release import corpus_name, is_release
from avb.encoders.kinds import trained_class
from avb.errors import AvbError
from avb.inference.load import model_class
from avb.recipes import SUFFIXES, read_yaml
from avb.run_files import CONFIG, METRICS, RECIPE, TRAIN_SET, VERSIONS, Metrics, TaskScores, read_facts, read_metrics
from calibration_avb import CALIBRATION_FILE, Calibration
from configuration_avb import MULTITASK, SUFFIX

_DEFAULTS = {
    known.name: known.default
    for arguments in (ModelArguments, DataArguments, AvbTrainingArguments)
    for known in dataclasses.fields(arguments)
}


@dataclass(frozen=True)
class Run:
    """The files of a run's folder.

    Attributes:
        config: contents of config.json.
        metrics: contents of metrics.json; without task and scores if there is no such file.
        recipe: contents of recipe.yaml, without private arguments; other paths are cut to their last part.
        versions: contents of versions.json. `recipe`, `versions` and `train_set` are empty if there is no such file.
        train_set: contents of train_set.json.
        rejection: measured performance of calibration.json in rejecting other sounds; empty if not measured.
        calibration: the calibration itself; None if there is none.
        corpus: hume_vb, emogator, folder, or sample for the synthetic sample; None if unknown.
    """

    config: dict
    metrics: Metrics
    recipe: dict
    versions: dict
    train_set: dict
    corpus: str | None
    rejection: dict = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def has_encoder(self) -> bool:
        """Whether it is the paper's model, with any kind of encoder, and not a baseline."""
        return self.config["model_type"].endswith(SUFFIX)

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.metrics.task or self.recipe.get("task") or "unknown"

    @property
    def kind(self) -> str:
        """regression, classification, or multitask for several tasks."""
        return {"ce": "classification", MULTITASK: "multitask"}.get(self.config["loss"], "regression")

    @property
    def labels(self) -> list[str]:
        """Label names in the order of the model's outputs."""
        return [label for _, label in sorted(self.config["id2label"].items(), key=lambda item: int(item[0]))]

    @property
    def sections(self) -> list[TaskScores]:
        """Scores per split and task; a task without labels on a split is left out."""
        found = [part for split in self.metrics.scored_splits for part in self.metrics.task_scores(split)]
        return [part for part in found if part.is_scored]

    @property
    def withheld(self) -> list[str]:
        """Splits that were predicted but have no labels."""
        return [split for split in self.metrics.splits if not self.metrics.is_scored(split)]

    @property
    def encoder(self) -> str | None:
        """The encoder's name in the recipe; the last part of a path."""
        return self.setting("encoder") if self.has_encoder else None

    @property
    def encoder_kind(self) -> str | None:
        """The kind of encoder, for example `WavLM`; None if there is no encoder."""
        found = trained_class(self.config["model_type"])
        return found.config_class.kind if found else None

    @property
    def encoder_is_random(self) -> bool:
        """Whether the encoder started from random weights: it was built from a YAML file of config fields."""
        return (self.encoder or "").endswith(SUFFIXES)

    @property
    def freeze(self) -> str | None:
        """What was frozen in training: encoder, feature_encoder or none; None if unknown."""
        return self.setting("freeze") if self.has_encoder else None

    @property
    def selects_epoch(self) -> bool:
        """Whether the best epoch on validation was kept."""
        return bool(self.setting("load_best_model_at_end"))

    @property
    def preset(self) -> str | None:
        """authors or recommended if the run has that preset's settings, none for any mixture, None if unknown."""
        if self.freeze is None:
            return None
        masked = [self.config[name] for name in ("masked_pooling", "masked_group_norm")]
        if self.freeze == "encoder" and not any(masked):
            return "authors"
        own = all(masked) and self.config["head_norm"] is None and self.config["waveform_normalization"] == "clip"
        return "recommended" if self.freeze == "feature_encoder" and own else "none"

    @property
    def is_release(self) -> bool:
        """Whether the training set and each scored split contain every clip of the HUME-VB release."""
        scored = {split: scores["num_clips"] for split, scores in self.metrics.scored_splits.items()}
        return is_release(self.corpus, {"train": self.metrics.train_clips} | scored)

    def setting(self, name: str):
        """An argument's value in this run; None if there is no recipe."""
        return self.recipe.get(name, _DEFAULTS[name]) if self.recipe else None


def read_run(folder: str | Path) -> Run:
    """Reads the folder of a run; only config.json is required.

    Raises:
        AvbError: there is no config.json of a vocal-burst model, or a file cannot be read.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise AvbError(f"{folder}: no {CONFIG}; give a folder written by train_avb.py")
    config = read_facts(folder, CONFIG)
    if model_class(config.get("model_type")) is None:
        raise AvbError(
            f"{folder}: a model of type {config.get('model_type')!r}; cards are only for models trained by train_avb.py"
        )
    metrics = read_metrics(folder) if (folder / METRICS).is_file() else Metrics(task="", metric="", labels=[])
    versions, train_set = read_facts(folder, VERSIONS), read_facts(folder, TRAIN_SET)
    recipe = read_yaml(folder / RECIPE) if (folder / RECIPE).is_file() else {}
    # Older runs record their corpus only in recipe.yaml.
    corpus = metrics.corpus or (corpus_name(**_corpus(recipe)) if recipe else None)
    private = set(names_with("private"))
    kept = {
        name: value if name.endswith("_pattern") else _without_folders(value)  # "/([a-z]+)_" is not a path
        for name, value in recipe.items()
        if name not in private
    }
    if Path(str(recipe.get("encoder"))).is_dir():  # runs/encoder looks like a name on the Hub
        kept["encoder"] = Path(recipe["encoder"]).name
    calibration = _calibration(folder)
    rejection = dict(calibration.burst.measured) if calibration and calibration.burst else {}
    return Run(config, metrics, kept, versions, train_set, corpus, rejection, calibration)


def _calibration(folder: Path) -> Calibration | None:
    path = folder / CALIBRATION_FILE
    try:
        return Calibration.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise AvbError(f"{path}: damaged ({error}); fit it again, or delete it") from error


def _corpus(recipe: dict) -> dict:
    return {name: recipe.get(name, _DEFAULTS[name]) for name in ("corpus", "data_dir")}


def _without_folders(value):
    """Cuts a path, also in a list, to its last part; returns anything else unchanged."""
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    is_path = isinstance(value, str) and (Path(value).is_absolute() or value.startswith(("./", "../", "~")))
    return Path(value).name if is_path else value
