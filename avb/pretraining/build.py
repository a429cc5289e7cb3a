"""Builds the parts of a pre-training: a model of the objective, and the clips and batches that suit it."""

from collections.abc import Sized
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import DataLoader, RandomSampler
from transformers import PrinterCallback, Wav2Vec2Config, Wav2Vec2FeatureExtractor
from transformers.trainer_callback import ProgressCallback

from avb.arguments import PretrainingArguments
from avb.collator import BurstCollator
from avb.encoders.checkpoints import load_encoder
from avb.encoders.filterbank import read_encoder, start_filters
from avb.encoders.names import resolve
from avb.errors import AvbError, did_you_mean
from avb.pretraining.models import OBJECTIVES
from avb.recipes import SUFFIXES
from avb.training.dropout import cheap_dropout
from avb.training.progress import ProgressLines
from avb.training.resumption import CheckpointTrainer
from avb.training.timing import expected_seconds
from configuration_avb import receptive_field

FIRST_BATCHES = 50  # used to standardise targets and to find their clusters

KINDS = ("wav2vec2", "wav2vec2-vocal-burst")  # `model_type`s whose encoder is a Wav2Vec2Model


def build_model(model_args: PretrainingArguments):
    """The encoder of a YAML file, with random weights, or of a checkpoint, with the objective's head.

    Raises:
        AvbError: the objective is unknown, or the encoder cannot be read (see `avb.encoders.checkpoints`).
    """
    if model_args.objective not in OBJECTIVES:
        near = did_you_mean(model_args.objective, OBJECTIVES, "Legal")
        raise AvbError(f"--objective {model_args.objective!r} is unknown{near}")
    model_class = OBJECTIVES[model_args.objective]
    masking: dict[str, Any] = {
        "mask_time_prob": model_args.mask_time_prob,
        "mask_time_length": model_args.mask_time_length,
    }
    if Path(model_args.encoder).suffix in SUFFIXES:
        if model_args.objective == "layer_clusters":
            raise AvbError("--objective layer_clusters needs a trained encoder: --encoder FOLDER")
        fields, first_filters = read_encoder(model_args.encoder)
        model = model_class(Wav2Vec2Config(**fields, **masking, layerdrop=0.0), model_args.num_mel_bins)
        start_filters(model.wav2vec2, first_filters)
        return model
    model, _ = load_encoder(
        lambda kind: model_class if kind in KINDS else None,
        Wav2Vec2FeatureExtractor,
        resolve(model_args.encoder),
        num_mel_bins=model_args.num_mel_bins,
        **masking,
        layerdrop=0.0,
    )
    return model


def long_enough(rows: Dataset, config: Wav2Vec2Config) -> Dataset:
    """The rows whose clips are long enough for one masked span."""
    stride = int(np.prod(config.conv_stride))
    samples = receptive_field(config.conv_kernel, config.conv_stride) + (config.mask_time_length - 1) * stride
    return rows.select(np.flatnonzero(np.asarray(rows["num_samples"]) >= samples))


def check_enough(splits: dict[str, Sized], batch_size: int, drop_last: bool):
    """Checks that each split has enough clips.

    Raises:
        AvbError: no validation clip, or fewer train clips than one batch, which would be dropped.
    """
    if not len(splits["validation"]):
        raise AvbError("no validation clip is as long as a masked span: lower --mask_time_length, or add longer ones")
    fewest = batch_size if drop_last else 1
    if len(splits["train"]) < fewest:
        raise AvbError(
            f"{len(splits['train'])} train clips that are long enough are fewer than one batch of {batch_size}: lower "
            "--per_device_train_batch_size or add --dataloader_drop_last false"
        )


def first_batches(rows, collator: BurstCollator, batch_size: int):
    """Up to `FIRST_BATCHES` random batches of a split."""
    sampler = RandomSampler(rows, num_samples=min(len(rows), FIRST_BATCHES * batch_size))
    return DataLoader(rows, batch_size, sampler=sampler, collate_fn=collator)


class PretrainingTrainer(CheckpointTrainer):
    """As in training: complete checkpoints, SIGTERM, a line per epoch. Evaluation keeps the last, smaller batch, since
    `dataloader_drop_last` is meant for training.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for stock in (ProgressCallback, PrinterCallback):
            self.remove_callback(stock)
        if not self.args.disable_tqdm:
            self.add_callback(ProgressLines("loss", partial(expected_seconds, self)))

    def training_step(self, *args, **kwargs):
        with cheap_dropout(self.args):
            return super().training_step(*args, **kwargs)

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last
