"""The baselines of the A-VB challenge and two more, as models for the same corpora, tasks, metrics and commands.

    model, feature_extractor = BASELINES["egemaps_mlp"](get_task("high"))
    splits, collator = prepare_baseline(model, feature_extractor, splits)

`BASELINES` has the names that `--model` accepts, and is the only place where a baseline is entered; `MODELS` maps a
saved model's `model_type` to its class. Importing this package registers them with Transformers' Auto classes, so that
`AutoModelForAudioClassification` and `AutoFeatureExtractor` load saved baselines.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import DatasetDict
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    SequenceFeatureExtractor,
)

from audio_avb import AudioPreparation
from avb.baselines.baseline import BaselineConfig, BaselineModel
from avb.baselines.emo18 import Emo18, Emo18Config
from avb.baselines.features import FeatureCollator, opensmile_features
from avb.baselines.log_mel_cnn import LogMelCNN, LogMelCNNConfig
from avb.baselines.opensmile_mlp import OpenSmileFeatureExtractor, OpenSmileMLP, OpenSmileMLPConfig
from avb.baselines.se_resnet import SEResNet, SEResNetConfig
from avb.collator import BurstCollator
from avb.tasks import Task
from feature_extraction_avb import VocalBurstFeatureExtractor

__all__ = [
    "BASELINES",
    "HAVE_WIDTH",
    "MODELS",
    "Baseline",
    "BaselineConfig",
    "BaselineModel",
    "Emo18",
    "Emo18Config",
    "FeatureCollator",
    "LogMelCNN",
    "LogMelCNNConfig",
    "OpenSmileFeatureExtractor",
    "OpenSmileMLP",
    "OpenSmileMLPConfig",
    "SEResNet",
    "SEResNetConfig",
    "opensmile_features",
    "prepare_baseline",
]


@dataclass(frozen=True)
class Baseline:
    """The parts that `--model NAME` builds a baseline from.

    Attributes:
        model: its class.
        extractor: class of its feature extractor.
        extractor_fields: fields of the feature extractor, besides the preparation of clips.
        config_fields: fields of the model's configuration, besides those of the task and of the recipe.
    """

    model: type[BaselineModel]
    extractor: type[SequenceFeatureExtractor] = VocalBurstFeatureExtractor
    extractor_fields: Mapping[str, Any] = field(default_factory=dict)
    config_fields: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self, task: Task, loss: str | None = None, *, preparation: AudioPreparation = AudioPreparation(), **fields
    ) -> tuple[BaselineModel, SequenceFeatureExtractor]:
        """Builds an untrained model, and the feature extractor that makes its input.

        Args:
            task: what is predicted.
            loss: None uses the loss of the published baselines: `mse` for scores, `ce` for classes.
            preparation: of the clips.
            fields: other fields of the configuration: `class_weights`, `label_smoothing`, `ccc_reduction`, `width`.

        Raises:
            AvbError: the loss does not fit the task, or the package opensmile is missing.
            ValueError: a field is invalid.
        """
        levels = {"peak_db": preparation.peak_db, "trim_top_db": preparation.trim_top_db}
        feature_extractor = self.extractor(**levels, **self.extractor_fields)
        config = self.model.config_class(**_task_fields(task, loss), **self.config_fields, **fields)
        return self.model(config), feature_extractor


def _opensmile(feature_set: str) -> Baseline:
    own = {"feature_set": feature_set}
    return Baseline(OpenSmileMLP, OpenSmileFeatureExtractor, own, own)


def _task_fields(task: Task, loss: str | None) -> dict:
    return {
        "loss": task.loss(loss, default="mse"),
        "label_range": list(task.label_range),
        "id2label": task.id2label,
        "label2id": task.label2id,
    }


BASELINES = {
    "egemaps_mlp": _opensmile("eGeMAPSv02"),
    "compare_mlp": _opensmile("ComParE_2016"),
    "emo18": Baseline(Emo18, extractor_fields={"do_normalize": False}),
    "log_mel_cnn": Baseline(LogMelCNN),
    "se_resnet": Baseline(SEResNet),
}
MODELS = {known.model.config_class.model_type: known.model for known in BASELINES.values()}
HAVE_WIDTH = tuple(name for name, known in BASELINES.items() if hasattr(known.model.config_class, "width"))

for _known in BASELINES.values():
    _config = _known.model.config_class
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _known.model, exist_ok=True)
    AutoModelForAudioClassification.register(_config, _known.model, exist_ok=True)
    AutoFeatureExtractor.register(_config, _known.extractor, exist_ok=True)


def prepare_baseline(
    model: BaselineModel,
    feature_extractor,
    splits: DatasetDict,
    *,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> tuple[DatasetDict, Callable]:
    """Prepares the data of a baseline between decoding and training.

    For openSMILE: computes the functionals of all splits, and fits the model's standardisation to those of `train`.
    Other baselines need nothing.

    Args:
        model: the untrained model.
        feature_extractor: the model's.
        splits: decoded splits, rows with `input_values` waveforms; one of them is `train`.
        num_proc: number of processes that compute functionals.
        cache_dir: where functionals are stored; see `opensmile_features`.

    Returns:
        The splits to train and score on, and the collator that makes batches of their rows.
    """
    if not isinstance(model, OpenSmileMLP):
        return splits, BurstCollator(feature_extractor)
    splits = DatasetDict(
        {
            name: opensmile_features(split, feature_extractor, num_proc=num_proc, cache_dir=cache_dir)
            for name, split in splits.items()
        }
    )
    model.fit_standardization(splits["train"]["input_values"][:])
    return splits, FeatureCollator()
