"""The model a recipe asks for, and the Trainer that fits it.

Unusual: CCC is no sum over clips, so the loss of several devices is computed on the joined batch, and gradient
accumulation, which would average the CCC of parts, is refused.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from audio_avb import SAMPLING_RATE
from avb.arguments import AvbTrainingArguments, DataArguments, ModelArguments
from avb.baselines import BASELINES
from avb.errors import AvbError
from avb.extractors import resolve
from avb.metrics import compute_metrics
from avb.recipes import nearest, read_yaml
from avb.tasks import MultiTask, Task
from configuration_avb import MULTITASK, Wav2Vec2VocalBurstConfig
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import IGNORE_INDEX, Wav2Vec2ForVocalBurst


def build_model(model_args: ModelArguments, data_args: DataArguments, task: Task, train: Dataset):
    """The recipe's model, its parts frozen as asked, and the feature extractor that goes with it.

    Raises:
        AvbError: the encoder cannot be found or read, or settings contradict each other.
        ValueError: an illegal configuration field (see `Wav2Vec2VocalBurstConfig`).
    """
    if model_args.model not in ("wav2vec2", *BASELINES):
        raise AvbError(f"--model {model_args.model!r}; {nearest(model_args.model, ['wav2vec2', *BASELINES])}")
    if isinstance(task, MultiTask) and model_args.model != "wav2vec2":
        raise AvbError(f"--model {model_args.model} learns one task, not {task.name}: give one --task")
    audio_settings = {"peak_db": data_args.peak_db, "trim_top_db": data_args.trim_top_db}
    class_weights = _class_weights(model_args.class_weights, task, train)
    if model_args.model == "wav2vec2":
        return _build_wav2vec2(model_args, audio_settings, task, class_weights)
    return BASELINES[model_args.model](
        task,
        model_args.loss,
        class_weights=class_weights,
        label_smoothing=model_args.label_smoothing,
        ccc_reduction=model_args.ccc_reduction,
        **audio_settings,
    )


def _build_wav2vec2(model_args: ModelArguments, audio_settings: dict, task: Task, class_weights: list[float] | None):
    config_fields = {field.name for field in dataclasses.fields(Wav2Vec2VocalBurstConfig)}
    fields = {key: value for key, value in vars(model_args).items() if key in config_fields and value is not None}
    fields |= {
        **_loss_fields(task, model_args.loss),
        "class_weights": class_weights,
        "id2label": task.id2label,
        "label2id": task.label2id,
        "attn_implementation": model_args.attn_implementation,
    }
    if Path(model_args.encoder).suffix in (".yaml", ".yml"):
        if model_args.freeze != "none":
            raise AvbError(f"--freeze {model_args.freeze} would keep random weights as they are: add --freeze none")
        model = Wav2Vec2ForVocalBurst(Wav2Vec2VocalBurstConfig(**read_yaml(Path(model_args.encoder)) | fields))
        feature_extractor = VocalBurstFeatureExtractor()
    else:
        model, feature_extractor = _load_encoder(resolve(model_args.encoder), fields)
    feature_extractor.do_normalize = model_args.waveform_normalization == "clip"
    feature_extractor.peak_db = audio_settings["peak_db"]
    feature_extractor.trim_top_db = audio_settings["trim_top_db"]
    _freeze(model, model_args.freeze)
    return model, feature_extractor


def _loss_fields(task: Task | MultiTask, loss: str | None) -> dict:
    """The configuration's fields that follow from the task; a loss that is given is that of the scores."""
    if isinstance(task, MultiTask):
        parts = [
            _loss_fields(part, loss if part.kind == "regression" else None)
            | {"name": part.name, "num_labels": part.num_labels}
            for part in task.parts
        ]
        return {"loss": MULTITASK, "tasks": parts}
    loss = loss or ("ce" if task.kind == "classification" else "ccc")
    if (loss == "ce") != (task.kind == "classification"):
        legal = "ce" if task.kind == "classification" else "ccc or mse"
        raise AvbError(f"--loss {loss} does not fit task {task.name!r}, a {task.kind}: use {legal}")
    return {"loss": loss, "label_range": list(task.label_range)}


def _load_encoder(name: str, fields: dict):
    try:
        # fp32 whatever the checkpoint is stored in: half-precision weights cannot take a step of 1e-5.
        model = Wav2Vec2ForVocalBurst.from_pretrained(name, dtype=torch.float32, ignore_mismatched_sizes=True, **fields)
        feature_extractor = VocalBurstFeatureExtractor.from_pretrained(name)
    except OSError as error:
        raise AvbError(
            f"--encoder {name}: no such folder, and it could not be read from the Hub ({error}). Give a folder with "
            "config.json, model.safetensors and preprocessor_config.json, a Hub name, or a YAML file of encoder fields"
        ) from error
    if feature_extractor.sampling_rate != SAMPLING_RATE:
        raise AvbError(f"--encoder {name} wants audio at {feature_extractor.sampling_rate} Hz, not {SAMPLING_RATE} Hz")
    feature_extractor.return_attention_mask = True
    return model, feature_extractor


def _freeze(model: Wav2Vec2ForVocalBurst, part: str):
    freezers: dict[str, Callable] = {
        "none": lambda: None,
        "feature_encoder": model.freeze_feature_encoder,
        "encoder": model.freeze_encoder,
    }
    if part not in freezers:
        raise AvbError(f"--freeze {part!r} is not legal: it must be one of {', '.join(freezers)}")
    freezers[part]()


def _class_weights(kind: str | None, task: Task, train: Dataset) -> list[float] | None:
    """`balanced`: clips / (classes × clips of the class), as in scikit-learn."""
    if kind is None:
        return None
    if kind != "balanced" or task.kind != "classification":
        raise AvbError(f"--class_weights {kind!r} is not legal: only 'balanced', and only for a classification task")
    labels = np.asarray(train["labels"])
    counts = np.bincount(labels[labels != IGNORE_INDEX], minlength=task.num_labels)
    empty = [label for label, count in zip(task.labels, counts, strict=True) if count == 0]
    if empty:
        raise AvbError(f"--class_weights balanced: no train clip has the class {', '.join(empty)}")
    return (counts.sum() / (task.num_labels * counts)).tolist()


class BurstTrainer(Trainer):
    """The Trainer with an exact CCC on several devices, a learning rate for the encoder, and predictions in order."""

    def __init__(self, model, args: AvbTrainingArguments, task: Task, feature_extractor, data_collator, **kwargs):
        if args.gradient_accumulation_steps > 1 and model.config.loss in ("ccc", MULTITASK):
            raise AvbError(
                f"--gradient_accumulation_steps {args.gradient_accumulation_steps} with loss {model.config.loss} would "
                "average the CCC of parts, which is another loss: raise --per_device_train_batch_size (with "
                "--gradient_checkpointing true if memory is short) or use --loss mse"
            )
        args.metric_for_best_model = f"eval_{task.metric}"
        args.greater_is_better = True
        callbacks = []
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            processing_class=feature_extractor,
            compute_metrics=compute_metrics(task),
            callbacks=callbacks,
            **kwargs,
        )

    def _get_eval_sampler(self, eval_dataset):
        # The stock sampler of group_by_length shuffles evaluation too: predictions would not be the rows' own.
        return SequentialSampler(eval_dataset)

    def _get_dataloader(self, *args, is_training=False, **kwargs):
        # The stock Trainer drops the last clips of evaluation along with those of training.
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.args.world_size == 1 or not model.training:
            return super().compute_loss(model, inputs, return_outputs)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits = torch.cat(torch.distributed.nn.functional.all_gather(outputs.logits))
        loss = self.accelerator.unwrap_model(model).compute_loss(logits, self.accelerator.gather(labels))
        return (loss, outputs) if return_outputs else loss

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        # A pickle that nothing reads.
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(self.parameter_groups(), **options)
        return self.optimizer

    def parameter_groups(self) -> list[dict]:
        """Encoder and head, each with and without weight decay (none on biases and norms, or `decay_biases`)."""
        names = [name for name, _ in self.model.named_parameters()]
        decayed = set(names if self.args.decay_biases else self.get_decay_parameter_names(self.model))
        rates = {"encoder": self.args.encoder_learning_rate, "head": self.args.learning_rate}
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                part = "encoder" if name.startswith("wav2vec2.") else "head"
                groups.setdefault((part, name in decayed), []).append(parameter)
        return [
            {"params": params, "lr": rates[part], "weight_decay": self.args.weight_decay if decay else 0.0}
            for (part, decay), params in groups.items()
        ]
