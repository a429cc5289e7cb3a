"""Dropout on a CPU with a quarter of the random numbers, and attention with dropout in the precision of its input.

torch draws an element's number after the other, on many CPUs by one thread: a sixth of a small encoder's step. Here an
element takes 16 random bits, four elements one number of the same generator, so a resumed run draws what an
uninterrupted one draws. Where attention has dropout, torch's attention on a CPU computes in fp32 whatever it is given;
here it is softmax(Q K^T / sqrt(size) + bias), dropout, and the product with V.

Unusual: no module is changed. While a training step runs, the two functions of `torch.nn.functional` are replaced, so
that every kind of encoder and the baselines have the same dropout, also where a layer is run again in the backward
pass, and nothing of it is saved, exported or evaluated. (A `TorchFunctionMode` is off within `Tensor.backward`, and
costs a tiny model 5 % of its step.) The dropout between LSTM layers is part of torch's LSTM, and stays.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from transformers import TrainingArguments

LEVELS = 2**16  # the rate is a multiple of 1 / LEVELS
TORCH_DROPOUT, TORCH_ATTENTION = F.dropout, F.scaled_dot_product_attention


class CheapDropout:
    """While it is entered, dropout and attention with dropout, of tensors on a CPU, are `drop` and `attend`."""

    def __init__(self):
        self._mask: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def __enter__(self):
        self._before = F.dropout, F.scaled_dot_product_attention
        F.dropout, F.scaled_dot_product_attention = self._dropout, self._attention

    def __exit__(self, *error):
        F.dropout, F.scaled_dot_product_attention = self._before
        self._mask = None

    def _dropout(self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False):
        if not training or inplace or input.device.type != "cpu":
            return TORCH_DROPOUT(input, p, training, inplace)
        return drop(input, p)

    def _attention(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ):
        is_ours = dropout_p > 0 and query.device.type == "cpu" and not (is_causal or enable_gqa)
        bias = self._bias(attn_mask, query.dtype) if is_ours and attn_mask is not None else None
        if not is_ours or (bias is None and attn_mask is not None):
            options = {"scale": scale, "enable_gqa": enable_gqa}
            return TORCH_ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, **options)
        return attend(query, key, value, bias, dropout_p, scale)

    def _bias(self, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
        """What is added to the scores; None if a frame attends to nothing. Kept: most encoders' layers share a mask."""
        if self._mask is None or self._mask[0] is not mask:
            attends = mask if mask.dtype == torch.bool else mask > -math.inf
            bias = None
            if bool(attends.any(-1).all()):
                bias = mask
                if mask.dtype == torch.bool:
                    bias = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -math.inf)
            self._mask = (mask, bias)
        return self._mask[1]


def cheap_dropout(args: TrainingArguments) -> AbstractContextManager[Any]:
    """The context of a training step: `CheapDropout` on a CPU, unless the step is compiled, otherwise nothing."""
    return CheapDropout() if args.device.type == "cpu" and not args.torch_compile else nullcontext()


def drop(x: torch.Tensor, p: float) -> torch.Tensor:
    """x * mask / P(mask = 1): the mean is x to the last digit, because P is what 16 bits give, not 1 - p.

    Args:
        x: of any shape, in floating point, on the CPU.
        p: rate, in [0, 1].
    """
    dropped = round(p * LEVELS)
    if not 0 < dropped < LEVELS:
        return TORCH_DROPOUT(x, float(dropped > 0))
    return (x * keep_mask(x.shape, dropped)).mul_(LEVELS / (LEVELS - dropped))


def keep_mask(shape: torch.Size, dropped: int) -> torch.Tensor:
    """0 with probability `dropped` / `LEVELS`, otherwise 1: int16 of this shape, on the CPU."""
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits are random
    return bits.view(torch.int16)[:count].ge_(dropped - LEVELS // 2).view(shape)


def attend(query, key, value, bias: torch.Tensor | None, p: float, scale: float | None = None) -> torch.Tensor:
    """Attention with dropout of its weights: (batch, heads, frames, size) each → the shape of `query`.

    Args:
        bias: is added to the scores, (batch, 1 or heads, frames, frames); each row has a finite number.
        p: rate of dropout.
        scale: of the scores; None: 1 / sqrt(size).
    """
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return drop(scores.softmax(-1), p) @ value  # scores: (batch, heads, frames, frames)
