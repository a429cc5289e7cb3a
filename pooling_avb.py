"""Poolings: how the values of a clip's frames become one. A function, and its name in `POOLINGS`, are all of one.

Self-contained code for the Hub. Each is a function of `frames` (batch, frames, labels), the `mask` (batch, frames) of
those that count, and by name `scores` (batch, frames, 1), which only `attention` has, and `lengths` (batch,), the
frames of each clip without padding; it gives (batch, labels). It must survive export to ONNX: where PyTorch makes
floats of integers by itself (`log`, `sqrt`), say `.float()`. `first`, `last`, `max` and `avg` are section III-B's.
"""

from collections.abc import Callable

import torch


def last(frames: torch.Tensor, mask: torch.Tensor, **_) -> torch.Tensor:
    return frames[torch.arange(len(frames), device=frames.device), mask.sum(-1) - 1]


def first(frames: torch.Tensor, mask: torch.Tensor, **_) -> torch.Tensor:
    return frames[:, 0]


def maximum(frames: torch.Tensor, mask: torch.Tensor, **_) -> torch.Tensor:
    return frames.masked_fill(~mask[..., None], float("-inf")).amax(1)


def average(frames: torch.Tensor, mask: torch.Tensor, **_) -> torch.Tensor:
    return (frames * mask[..., None]).sum(1) / mask.sum(-1)[:, None]


def masked_average(frames: torch.Tensor, mask: torch.Tensor, *, lengths: torch.Tensor, **_) -> torch.Tensor:
    """The authors': a sum divided by the frames without padding, whichever it is over."""
    return (frames * mask[..., None]).sum(1) / lengths[:, None]


def attend(frames: torch.Tensor, mask: torch.Tensor, *, scores: torch.Tensor, **_) -> torch.Tensor:
    """Frames weighed by the softmax of their scores."""
    weights = scores.float().masked_fill(~mask[..., None], float("-inf")).softmax(1)
    return (frames * weights).sum(1)


POOLINGS: dict[str, Callable[..., torch.Tensor]] = {
    "last": last,
    "first": first,
    "max": maximum,
    "avg": average,
    "maskavg": masked_average,
    "attention": attend,
}
