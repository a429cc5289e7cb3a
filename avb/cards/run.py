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
        config: of config.json.
        metrics: of metrics.json; without a task and scores where there is none.
        recipe: of recipe.yaml, without paths: of those that matter the last part is kept.
        versions: of versions.json; empty where there is none, as the two around it.
        train_set: of train_set.json.
        rejection: how well calibration.json tells bursts from other sounds, as it was measured; empty where it was not.
        corpus: hume_vb, emogator, folder, or sample for the synthetic one; None where it is unknown.
    """

    config: dict
    metrics: Metrics
    recipe: dict
    versions: dict
    train_set: dict
    corpus: str | None
    rejection: dict = field(default_factory=dict)

    @property
    def has_encoder(self) -> bool:
        """Whether it is the paper's model, on whatever kind of encoder, not a baseline."""
        return self.config["model_type"].endswith(SUFFIX)

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.metrics.task or self.recipe.get("task") or "unknown"

    @property
    def kind(self) -> str:
        """regression, classification, or multitask for several of them."""
        return {"ce": "classification", MULTITASK: "multitask"}.get(self.config["loss"], "regression")

    @property
    def labels(self) -> list[str]:
        """Label names in the order of the model's outputs."""
        return [label for _, label in sorted(self.config["id2label"].items(), key=lambda item: int(item[0]))]

    @property
    def sections(self) -> list[TaskScores]:
        """Scores split by split, and of several tasks one by one; a task without labels on a split is left out."""
        found = [part for split in self.metrics.scored_splits for part in self.metrics.task_scores(split)]
        return [part for part in found if part.is_scored]

    @property
    def withheld(self) -> list[str]:
        """Splits that were predicted and have no labels."""
        return [split for split in self.metrics.splits if not self.metrics.is_scored(split)]

    @property
    def encoder(self) -> str | None:
        """As the recipe names it; of a path the last part."""
        return self.setting("encoder") if self.has_encoder else None

    @property
    def encoder_kind(self) -> str | None:
        """`WavLM`, say; None where there is no encoder."""
        found = trained_class(self.config["model_type"])
        return found.config_class.kind if found else None

    @property
    def encoder_is_random(self) -> bool:
        """Whether it started from random weights: it was made of a YAML file of its fields."""
        return (self.encoder or "").endswith(SUFFIXES)

    @property
    def freeze(self) -> str | None:
        """What was frozen in training: encoder, feature_encoder or none; None where it is unknown."""
        return self.setting("freeze") if self.has_encoder else None

    @property
    def selects_epoch(self) -> bool:
        """Whether the epoch that is kept is the best one on validation."""
        return bool(self.setting("load_best_model_at_end"))

    @property
    def preset(self) -> str | None:
        """authors or recommended where the run has that preset's marks, none for any mixture, None where unknown."""
        if self.freeze is None:
            return None
        masked = [self.config[name] for name in ("masked_pooling", "masked_group_norm")]
        if self.freeze == "encoder" and not any(masked):
            return "authors"
        own = all(masked) and self.config["head_norm"] is None and self.config["waveform_normalization"] == "clip"
        return "recommended" if self.freeze == "feature_encoder" and own else "none"

    @property
    def is_release(self) -> bool:
        """Whether it saw every clip of the HUME-VB release, in training and in each split that is scored."""
        scored = {split: scores["num_clips"] for split, scores in self.metrics.scored_splits.items()}
        return is_release(self.corpus, {"train": self.metrics.train_clips} | scored)

    def setting(self, name: str):
        """An argument's value in this run; None where the recipe is not on file."""
        return self.recipe.get(name, _DEFAULTS[name]) if self.recipe else None


def read_run(folder: str | Path) -> Run:
    """Reads the folder of a run, whole or in part: only config.json has to be there.

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
    # Older runs say in recipe.yaml only what they were trained on.
    corpus = metrics.corpus or (corpus_name(**_corpus(recipe)) if recipe else None)
    private = set(names_with("private"))
    kept = {
        name: value if name.endswith("_pattern") else _without_folders(value)  # "/([a-z]+)_" is no path
        for name, value in recipe.items()
        if name not in private
    }
    if Path(str(recipe.get("encoder"))).is_dir():  # runs/encoder looks like a name on the Hub
        kept["encoder"] = Path(recipe["encoder"]).name
    return Run(config, metrics, kept, versions, train_set, corpus, _rejection(folder))


def _rejection(folder: Path) -> dict:
    path = folder / CALIBRATION_FILE
    try:
        burst = Calibration.from_json(path.read_text(encoding="utf-8")).burst if path.is_file() else None
    except ValueError as error:
        raise AvbError(f"{path}: damaged ({error}); fit it again, or delete it") from error
    return dict(burst.measured) if burst else {}


def _corpus(recipe: dict) -> dict:
    return {name: recipe.get(name, _DEFAULTS[name]) for name in ("corpus", "data_dir")}


def _without_folders(value):
    """A path's last part, also in a list; anything else as it is."""
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    is_path = isinstance(value, str) and (Path(value).is_absolute() or value.startswith(("./", "../", "~")))
    return Path(value).name if is_path else value
