"""Poolings combine the values of a clip's frames into one. To add one, write a function and enter it in `POOLINGS`.

Self-contained code for the Hub. A pooling is a function of `frames` (batch, frames, labels), the `mask` (batch, frames)
of the frames to include, and, as keywords, `scores` (batch, frames, 1), only given for `attention`, and `lengths`
(batch,), the number of frames of each clip without padding. It returns (batch, labels). It must be exportable to ONNX:
where PyTorch implicitly converts integers to floats (`log`, `sqrt`), write `.float()`. `first`, `last`, `max` and `avg`
are those of section III-B.
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
    """As in the authors' code: divides by the number of valid frames, even if the sum includes padding."""
    return (frames * mask[..., None]).sum(1) / lengths[:, None]


def attend(frames: torch.Tensor, mask: torch.Tensor, *, scores: torch.Tensor, **_) -> torch.Tensor:
    """Mean over frames, weighted by the softmax of their scores."""
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
