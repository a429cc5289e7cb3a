"""Builds the model that a recipe describes; the Trainer that fits it is in `avb.training.trainer`."""

import dataclasses
from pathlib import Path

import numpy as np
from datasets import Dataset

from audio_avb import AudioPreparation
from avb.arguments import DataArguments, ModelArguments
from avb.baselines import BASELINES, HAVE_WIDTH
from avb.encoders.adapters import add_adapters
from avb.encoders.checkpoints import check_attention, load_encoder
from avb.encoders.filterbank import read_encoder, start_filters
from avb.encoders.kinds import encoder_class
from avb.encoders.names import resolve
from avb.errors import AvbError, did_you_mean
from avb.models import names
from avb.recipes import SUFFIXES
from avb.tasks import MultiTask, Task
from configuration_avb import MULTITASK, Wav2Vec2VocalBurstConfig
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import IGNORE_INDEX, VocalBurstModel, Wav2Vec2ForVocalBurst

FREEZABLE = ("none", "feature_encoder", "encoder")


def build_model(model_args: ModelArguments, data_args: DataArguments, task: Task | MultiTask, train: Dataset):
    """Builds the recipe's model, freezes its parts as requested, and returns it with its feature extractor.

    Raises:
        AvbError: the encoder cannot be found or read, or settings contradict each other.
        ValueError: a field of the configuration is invalid (see `Wav2Vec2VocalBurstConfig`).
    """
    check_model(model_args)
    if model_args.width is not None and model_args.model not in HAVE_WIDTH:
        raise AvbError(f"--width is for {' and '.join(HAVE_WIDTH)}; --model {model_args.model} has none: leave it out")
    preparation = data_args.preparation()
    class_weights = _class_weights(model_args.class_weights, task, train)
    if model_args.model == "wav2vec2":
        return _build_wav2vec2(model_args, preparation, task, class_weights)
    if isinstance(task, MultiTask):
        raise AvbError(f"--model {model_args.model} learns one task, not {task.name}: give one --task")
    return BASELINES[model_args.model](
        task,
        model_args.loss,
        class_weights=class_weights,
        label_smoothing=model_args.label_smoothing,
        ccc_reduction=model_args.ccc_reduction,
        preparation=preparation,
        **({} if model_args.width is None else {"width": model_args.width}),
    )


def check_model(model_args: ModelArguments):
    """Checks the model's arguments before the clips are read.

    Raises:
        AvbError: the model is unknown, or does not support an argument.
    """
    models = ("wav2vec2", *BASELINES)
    if model_args.model in names():
        raise AvbError(
            f"--model {model_args.model}: a trained model, and --model names the kind of a new one; start from a "
            "trained encoder with --encoder emogator-small"
        )
    if model_args.model not in models:
        raise AvbError(f"--model {model_args.model!r} is unknown{did_you_mean(model_args.model, models, 'Legal')}")
    if model_args.model == "wav2vec2":
        if model_args.freeze not in FREEZABLE:
            raise AvbError(f"--freeze {model_args.freeze!r} is invalid: it must be one of {', '.join(FREEZABLE)}")
        check_attention(model_args.attn_implementation)


def _build_wav2vec2(
    model_args: ModelArguments, preparation: AudioPreparation, task: Task | MultiTask, class_weights: list[float] | None
):
    config_fields = {field.name for field in dataclasses.fields(Wav2Vec2VocalBurstConfig)}
    fields = {key: value for key, value in vars(model_args).items() if key in config_fields and value is not None}
    fields |= {
        **_loss_fields(task, model_args.loss),
        "class_weights": class_weights,
        "id2label": task.id2label,
        "label2id": task.label2id,
        "attn_implementation": model_args.attn_implementation,
    }
    if Path(model_args.encoder).suffix in SUFFIXES:
        if model_args.freeze != "none":
            raise AvbError(f"--freeze {model_args.freeze} would freeze random weights: add --freeze none")
        if model_args.lora_rank is not None or model_args.freeze_layers:
            raise AvbError("--lora_rank and --freeze_layers would freeze random weights: leave them out")
        encoder_fields, first_filters = read_encoder(model_args.encoder)
        model = Wav2Vec2ForVocalBurst(Wav2Vec2VocalBurstConfig(**encoder_fields | fields))
        start_filters(model.base_model, first_filters)
        feature_extractor = VocalBurstFeatureExtractor()
    else:
        model, feature_extractor = load_encoder(
            encoder_class,
            VocalBurstFeatureExtractor,
            resolve(model_args.encoder),
            **fields,
        )
    if model.config.hears_level and model.config.waveform_normalization == "clip":
        model.config.waveform_normalization = "none"  # as in its pre-training
    feature_extractor.do_normalize = model.config.waveform_normalization == "clip"
    feature_extractor.peak_db = preparation.peak_db
    feature_extractor.trim_top_db = preparation.trim_top_db
    _freeze(model, model_args)
    return model, feature_extractor


def _loss_fields(task: Task | MultiTask, loss: str | None) -> dict:
    """The fields of the configuration that follow from the task; a given loss is used for regression."""
    if isinstance(task, MultiTask):
        parts = [
            _loss_fields(part, loss if part.kind == "regression" else None)
            | {"name": part.name, "num_labels": part.num_labels}
            for part in task.parts
        ]
        return {"loss": MULTITASK, "tasks": parts}
    return {"loss": task.loss(loss), "label_range": list(task.label_range)}


def _freeze(model: VocalBurstModel, model_args: ModelArguments):
    part, count, rank = model_args.freeze, model_args.freeze_layers, model_args.lora_rank
    layers = len(model.base_model.layers_kept)
    if not 0 <= count < layers:
        raise AvbError(f"--freeze_layers {count} is invalid: give 0 to {layers - 1}, or --freeze encoder for all")
    if rank is not None and (count or part == "encoder"):
        raise AvbError("--lora_rank freezes the encoder's own weights: leave out --freeze and --freeze_layers")
    if part == "feature_encoder":
        model.freeze_feature_encoder()
    elif part == "encoder":
        model.freeze_encoder()
    if count:
        model.freeze_layers(count)
    if rank is not None:
        add_adapters(model, rank)


def _class_weights(kind: str | None, task: Task | MultiTask, train: Dataset) -> list[float] | None:
    """`balanced`: clips / (classes × clips of the class), as in scikit-learn."""
    if kind is None:
        return None
    if kind != "balanced" or task.kind != "classification":
        raise AvbError(
            f"--class_weights {kind!r} is invalid: it can only be 'balanced', and needs a classification task"
        )
    labels = np.asarray(train["labels"])
    counts = np.bincount(labels[labels != IGNORE_INDEX], minlength=task.num_labels)
    empty = [label for label, count in zip(task.labels, counts, strict=True) if count == 0]
    if empty:
        raise AvbError(f"--class_weights balanced: no train clip has the class {', '.join(empty)}")
    return (counts.sum() / (task.num_labels * counts)).tolist()
