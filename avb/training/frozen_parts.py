"""Which lower part of a model is not trained, and so gives the same of a clip in every epoch."""

from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import nn

from configuration_avb import HEAD_FIELDS, Wav2Vec2VocalBurstConfig
from modeling_avb import Wav2Vec2ForVocalBurst

# What a front end's frames depend on, beside its weights.
FRONT_END_FIELDS = frozenset(
    ("conv_dim", "conv_kernel", "conv_stride", "conv_bias", "feat_extract_norm", "feat_extract_activation",
     "masked_group_norm", "waveform_normalization")
)  # fmt: skip


class FrozenPart(NamedTuple):
    """The lower part of a model, which gives the same of a clip in every epoch."""

    name: str
    column: str  # of the rows that hold its frames, and the model's argument
    folder: str  # the first word of the name of the folder that they are kept in
    width: int  # values per frame
    weights: nn.Module
    fields: frozenset[str]  # of the configuration, on which the frames depend
    run: Callable[..., tuple[torch.Tensor, torch.Tensor]]  # a batch → (batch, frames, width) and the frames' mask
    is_optional: bool  # a full disk is no reason to stop


def frozen_part(model: Wav2Vec2ForVocalBurst) -> FrozenPart | None:
    """The whole encoder, its convolutional front end, or None: what of the model is not trained."""
    if is_frozen(model.wav2vec2):
        return whole_encoder(model)
    return front_end(model) if is_frozen(model.wav2vec2.feature_extractor) else None


def is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())


def whole_encoder(model: Wav2Vec2ForVocalBurst) -> FrozenPart:
    names = frozenset(field.name for field in fields(Wav2Vec2VocalBurstConfig)) - HEAD_FIELDS

    def run(**inputs):
        outputs, mask = model.encode(**inputs)
        return outputs.last_hidden_state, mask

    width = model.config.hidden_size
    return FrozenPart("encoder", "encoder_frames", "frames", width, model.wav2vec2, names, run, is_optional=False)


def front_end(model: Wav2Vec2ForVocalBurst) -> FrozenPart:
    return FrozenPart(
        "front end",
        "front_end_frames",
        "front-end",
        model.config.conv_dim[-1],
        model.wav2vec2.feature_extractor,
        FRONT_END_FIELDS,
        model.wav2vec2.run_front_end,
        is_optional=True,
    )


def reason_against(model: Wav2Vec2ForVocalBurst, part: FrozenPart | None = None) -> str | None:
    """Why a frozen part has to run in every epoch: its frames are random or depend on the batch; else None.

    Args:
        model: whose part it is.
        part: None is the whole encoder.
    """
    config = model.config
    if config.head_norm == "batch" or config.pools_padding:
        return config.encoder_batch_dependence or "the head sees the frames of the padding (head_norm, or pooling)"
    if part is None or not part.is_optional:
        if config.frozen_encoder_dropout and max(config.encoder_dropout, config.layerdrop) > 0:
            return "its dropout is on (frozen_encoder_dropout)"
        is_masked = config.apply_spec_augment and max(config.mask_time_prob, config.mask_feature_prob) > 0
        if config.frozen_encoder_dropout and is_masked:  # what leaves dropout on leaves SpecAugment on
            return "its SpecAugment is on (frozen_encoder_dropout, with mask_time_prob or mask_feature_prob)"
    return config.encoder_batch_dependence
