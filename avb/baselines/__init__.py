"""The A-VB challenge's baselines and two more, as models for the same corpora, tasks, metrics and commands.

    model, feature_extractor = BASELINES["egemaps_mlp"](get_task("high"))
    splits, collator = prepare_baseline(model, feature_extractor, splits)

`BASELINES` says what `--model` may name; `MODELS` finds the class of a saved one by its `model_type`. Importing this
package registers them with Transformers' Auto classes, so that `AutoModelForAudioClassification` and
`AutoFeatureExtractor` load what was saved.
"""

import os
from collections.abc import Callable
from functools import partial

from datasets import DatasetDict
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
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
    "MODELS",
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
    "build_emo18",
    "build_log_mel_cnn",
    "build_opensmile_mlp",
    "build_se_resnet",
    "opensmile_features",
    "prepare_baseline",
]

for _config, _model, _extractor in (
    (OpenSmileMLPConfig, OpenSmileMLP, OpenSmileFeatureExtractor),
    (Emo18Config, Emo18, VocalBurstFeatureExtractor),
    (LogMelCNNConfig, LogMelCNN, VocalBurstFeatureExtractor),
    (SEResNetConfig, SEResNet, VocalBurstFeatureExtractor),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoModelForAudioClassification.register(_config, _model, exist_ok=True)
    AutoFeatureExtractor.register(_config, _extractor, exist_ok=True)

MODELS: dict[str, type[BaselineModel]] = {
    model.config_class.model_type: model for model in (OpenSmileMLP, Emo18, LogMelCNN, SEResNet)
}


def build_opensmile_mlp(
    task: Task,
    loss: str | None = None,
    *,
    feature_set: str,
    preparation: AudioPreparation = AudioPreparation(),
    **fields,
) -> tuple[OpenSmileMLP, OpenSmileFeatureExtractor]:
    """An untrained MLP on openSMILE functionals, and the feature extractor that makes them.

    Args:
        task: what is predicted.
        loss: None is the published baseline's: `mse` for scores, `ce` for classes.
        feature_set: `eGeMAPSv02` or `ComParE_2016`.
        preparation: of the clips.
        fields: other fields of `BaselineConfig`: `class_weights`, `label_smoothing`, `ccc_reduction`.

    Raises:
        AvbError: the loss does not fit the task, or the package opensmile is missing.
        ValueError: an illegal field.
    """
    feature_extractor = OpenSmileFeatureExtractor(feature_set, **_levels(preparation))
    config = OpenSmileMLPConfig(**_task_fields(task, loss), feature_set=feature_set, **fields)
    return OpenSmileMLP(config), feature_extractor


def build_emo18(
    task: Task, loss: str | None = None, *, preparation: AudioPreparation = AudioPreparation(), **fields
) -> tuple[Emo18, VocalBurstFeatureExtractor]:
    """An untrained Emo-18 and the feature extractor that pads its waveforms; see `build_opensmile_mlp`."""
    feature_extractor = VocalBurstFeatureExtractor(**_levels(preparation), do_normalize=False)
    return Emo18(Emo18Config(**_task_fields(task, loss), **fields)), feature_extractor


def build_log_mel_cnn(
    task: Task, loss: str | None = None, *, preparation: AudioPreparation = AudioPreparation(), **fields
) -> tuple[LogMelCNN, VocalBurstFeatureExtractor]:
    """An untrained network on log-mel spectra, and its feature extractor; see `build_opensmile_mlp`."""
    feature_extractor = VocalBurstFeatureExtractor(**_levels(preparation))
    return LogMelCNN(LogMelCNNConfig(**_task_fields(task, loss), **fields)), feature_extractor


def build_se_resnet(
    task: Task, loss: str | None = None, *, preparation: AudioPreparation = AudioPreparation(), **fields
) -> tuple[SEResNet, VocalBurstFeatureExtractor]:
    """An untrained SE-ResNet on log-mel spectra, and its feature extractor; see `build_opensmile_mlp`."""
    feature_extractor = VocalBurstFeatureExtractor(**_levels(preparation))
    return SEResNet(SEResNetConfig(**_task_fields(task, loss), **fields)), feature_extractor


def _levels(preparation: AudioPreparation) -> dict:
    return {"peak_db": preparation.peak_db, "trim_top_db": preparation.trim_top_db}


def _task_fields(task: Task, loss: str | None) -> dict:
    return {
        "loss": task.loss(loss, default="mse"),
        "label_range": list(task.label_range),
        "id2label": task.id2label,
        "label2id": task.label2id,
    }


BASELINES: dict[str, Callable[..., tuple[BaselineModel, object]]] = {
    "egemaps_mlp": partial(build_opensmile_mlp, feature_set="eGeMAPSv02"),
    "compare_mlp": partial(build_opensmile_mlp, feature_set="ComParE_2016"),
    "emo18": build_emo18,
    "log_mel_cnn": build_log_mel_cnn,
    "se_resnet": build_se_resnet,
}
HAVE_WIDTH = ("log_mel_cnn", "se_resnet")  # a field `width` of their configuration


def prepare_baseline(
    model: BaselineModel,
    feature_extractor,
    splits: DatasetDict,
    *,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> tuple[DatasetDict, Callable]:
    """What a baseline needs between decoding and training.

    For openSMILE: the functionals of all splits, and the model's standardisation fitted to those of `train`. The
    others need nothing.

    Args:
        model: the untrained model.
        feature_extractor: that of the model.
        splits: decoded splits, rows with `input_values` waveforms; one of them is `train`.
        num_proc: processes that compute functionals.
        cache_dir: where functionals are kept; see `opensmile_features`.

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
