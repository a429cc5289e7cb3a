"""Finds the frozen lower part of a model, whose output for a clip is the same in every epoch."""

from collections.abc import Callable
from dataclasses import fields
from math import prod
from typing import NamedTuple

import torch
from torch import nn

from configuration_avb import HEAD_FIELDS
from front_end_avb import VocalBurstFeatureEncoder
from modeling_avb import VocalBurstModel

# What a front end's frames depend on, besides its weights.
FRONT_END_FIELDS = frozenset(
    ("conv_dim", "conv_kernel", "conv_stride", "conv_bias", "feat_extract_norm", "feat_extract_activation",
     "masked_group_norm", "waveform_normalization")
)  # fmt: skip


class FrozenPart(NamedTuple):
    """The lower part of a model, whose output for a clip is the same in every epoch."""

    name: str
    column: str  # the column of its frames, and the model's argument
    folder: str  # first word of the name of their folder
    width: int  # values per frame
    samples_per_frame: int
    weights: nn.Module
    fields: frozenset[str]  # of the configuration, on which the frames depend
    run: Callable[..., tuple[torch.Tensor, torch.Tensor]]  # a batch → (batch, frames, width) and the frames' mask
    is_optional: bool  # a full disk does not stop the run


def frozen_part(model: VocalBurstModel) -> FrozenPart | None:
    """The part of the model that is not trained: the whole encoder, its convolutional front end, or None."""
    if is_frozen(model.base_model):
        return whole_encoder(model)
    ends = [module for module in model.base_model.children() if isinstance(module, VocalBurstFeatureEncoder)]
    return front_end(model) if ends and is_frozen(ends[0]) else None


def is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())


def whole_encoder(model: VocalBurstModel) -> FrozenPart:
    names = frozenset(field.name for field in fields(model.config)) - HEAD_FIELDS

    def run(**inputs):
        outputs, mask = model.encode(**inputs)
        return outputs.last_hidden_state, mask

    config = model.config
    return FrozenPart(
        "encoder",
        "encoder_frames",
        "frames",
        config.hidden_size * (config.num_hidden_layers + 1 if config.use_weighted_layer_sum else 1),
        config.samples_per_frame,
        model.base_model,
        names,
        run,
        is_optional=False,
    )


def front_end(model: VocalBurstModel) -> FrozenPart:
    return FrozenPart(
        "front end",
        "front_end_frames",
        "front-end",
        model.config.conv_dim[-1],
        prod(model.config.conv_stride),
        model.base_model.feature_extractor,
        FRONT_END_FIELDS,
        model.base_model.run_front_end,
        is_optional=True,
    )


def reason_against(model: VocalBurstModel, part: FrozenPart | None = None) -> str | None:
    """Why a frozen part must run in every epoch (its frames are random or depend on the batch); None if it need not.

    Args:
        model: whose part it is.
        part: None is the whole encoder.
    """
    config = model.config
    if config.head_norm == "batch" or config.pools_padding:
        return config.encoder_batch_dependence or "the head includes frames of padding (head_norm, or pooling)"
    if part is None or not part.is_optional:
        if config.frozen_encoder_dropout and max(config.encoder_dropout, config.layerdrop) > 0:
            return "its dropout is on (frozen_encoder_dropout)"
        is_masked = config.apply_spec_augment and max(config.mask_time_prob, config.mask_feature_prob) > 0
        if config.frozen_encoder_dropout and is_masked:  # what leaves dropout on leaves SpecAugment on
            return "its SpecAugment is on (frozen_encoder_dropout, with mask_time_prob or mask_feature_prob)"
    return config.encoder_batch_dependence
