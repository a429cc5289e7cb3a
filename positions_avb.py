"""The positional convolution of wav2vec 2.0 and its kin by way of spectra, where they are cheaper; the same numbers.

Self-contained code for the Hub: it needs torch, nothing else. Weights and their names are the stock layer's.

A kernel of 128 frames over clips of about as many is nearly a product of each frame with every other. Between discrete
Fourier transforms it is one small product per frequency and group: a sixth of the operations for 16 clips of 2.2 s
(LARGE). Unusual:

- The transforms are matrix products too. Of so few points they cost little, every device is fast at them, and what they
  make lies as the next product reads it.
- The weight norm scales each tap of the kernel, and so a column of the kernel's transform: no weight is made of it.
- All of it is computed in fp32 at least, in bf16 training too.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

# By what factor the convolution must need more operations. In bf16, CPUs convolve faster, the most with matrix units.
WORTH, WORTH_ON_CPU_IN_BF16, WORTH_WITH_AMX = 2, 3, 6
WIDE = 64  # channels per group: a convolution with narrower groups takes as long
HAVE_FLOAT64 = ("cpu", "cuda", "meta")  # needed for angles; Apple's and some of Intel's GPUs lack it
LONGEST = 1024  # frames; beyond this, the kernels' spectra outweigh everything else


class PositionalConvolution(nn.Module):
    """A grouped convolution along a clip, with weights normalised per tap, and an activation.

    Args:
        stock: the positional embedding of a stock encoder, whose parts are reused.
    """

    conv: Any  # a Conv1d, or an adapter around it
    activation: Any

    def __init__(self, stock: nn.Module):
        super().__init__()
        self.conv, self.activation = stock.conv, stock.activation

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, frames, hidden) → the same shape."""
        return self.activation(convolve(hidden_states, self.conv))


def convolve(hidden_states: torch.Tensor, conv: Any) -> torch.Tensor:
    """(batch, frames, hidden) → the same shape, by a convolution padded by half its kernel, the cheaper way."""
    if not (is_as_it_was(conv, hidden_states.device) and is_worth_it(hidden_states, conv)):
        positions = conv(hidden_states.transpose(1, 2)).transpose(1, 2)
        return positions[:, : hidden_states.shape[1]]
    kernels, scale = conv.weight, None
    if parametrize.is_parametrized(conv, "weight"):
        parts = conv.parametrizations.weight
        scale, kernels = parts.original0, parts.original1
    positions = SpectralConvolution.apply(hidden_states, kernels, scale)
    return positions + conv.bias.to(positions.dtype)


def is_as_it_was(conv: nn.Module, device: torch.device) -> bool:
    """Whether a layer is a plain convolution: no adapter around it, and no weights gathered on each call."""
    hooks = (conv._forward_pre_hooks, conv._forward_hooks)  # DeepSpeed and FSDP gather weights in them
    return isinstance(conv, nn.Conv1d) and not any(hooks) and conv.bias is not None and conv.bias.device == device


def is_worth_it(hidden_states: torch.Tensor, conv: nn.Conv1d) -> bool:
    """Whether spectra are cheaper than a convolution of (batch, frames, hidden)."""
    if torch.jit.is_tracing() or torch.compiler.is_exporting():  # other engines have their own convolutions
        return False
    batch, frames, hidden = hidden_states.shape
    if frames > LONGEST or hidden_states.device.type not in HAVE_FLOAT64:
        return False
    taps, width = conv.kernel_size[0], hidden // conv.groups
    convolved = 2 * batch * frames * hidden * max(width, WIDE) * taps
    frequencies = _points(frames, taps) // 2 + 1
    transformed = 4 * frequencies * hidden * (2 * batch * frames + width * taps)
    multiplied = 8 * frequencies * hidden * batch * width
    on_cpu = hidden_states.device.type == "cpu"
    in_bf16 = on_cpu and (hidden_states.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"))
    worth = WORTH
    if in_bf16:
        worth = WORTH_WITH_AMX if has_matrix_units() else WORTH_ON_CPU_IN_BF16
    return convolved > worth * (transformed + multiplied)


@torch.compiler.assume_constant_result  # torch.compile cannot look into it
def has_matrix_units() -> bool:
    """Whether this CPU has AMX."""
    return torch.cpu._is_amx_tile_supported()


class SpectralConvolution(torch.autograd.Function):
    """`conv1d` of (batch, frames, hidden) padded by half a kernel, its first `frames` outputs, without a bias.

    `kernels` (hidden, hidden / groups, taps) are scaled to norm `scale` (1, 1, taps) per tap; not if that is None.
    """

    @staticmethod
    def forward(ctx, hidden_states, kernels, scale):
        device = hidden_states.device.type
        with torch.autocast(device, enabled=False):
            inputs = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
            rows = kernels.to(inputs.dtype).flatten(0, 1)  # (hidden × width, taps)
            to_frequencies, of_kernels, to_frames = _transforms(inputs, kernels.shape[2])
            norm = gain = None
            if scale is not None:
                norm = rows.square().sum(0).sqrt()
                gain = scale.flatten() / norm  # (taps,)
                of_kernels = of_kernels * gain
            spectra = to_frequencies @ inputs  # (batch, 2 × frequencies, hidden)
            filters = of_kernels @ rows.T  # (2 × frequencies, hidden × width)
            x, w = _by_group(spectra, kernels), _by_group(filters, kernels)
            outputs = to_frames @ _joined(_multiply(x, w.transpose(2, 3)), spectra.shape)
        ctx.save_for_backward(spectra, filters, kernels, norm, gain)
        return outputs.to(hidden_states.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        spectra, filters, kernels, norm, gain = ctx.saved_tensors
        of_inputs = of_weights = of_scale = None
        with torch.autocast(gradient.device.type, enabled=False):
            outputs = gradient.to(spectra.dtype)
            to_frequencies, of_kernels, to_frames = _transforms(outputs, kernels.shape[2])
            x, w = _by_group(spectra, kernels), _by_group(filters, kernels)
            y = _by_group(to_frames.T @ outputs, kernels)
            if ctx.needs_input_grad[0]:
                of_spectra = _joined(_multiply(y, w, conjugate=True), spectra.shape)
                of_inputs = (to_frequencies.T @ of_spectra).to(gradient.dtype)
            if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
                of_filters = _multiply(y.transpose(2, 3), x, conjugate=True).view_as(filters)
                of_rows = of_filters.T @ of_kernels  # (hidden × width, taps), before their gain
                if gain is not None:
                    rows = kernels.to(of_rows.dtype).flatten(0, 1)
                    along = (of_rows * rows).sum(0)  # (taps,)
                    of_scale = (along / norm).to(kernels.dtype)[None, None]
                    of_rows.addcmul_(rows, -along / norm.square()).mul_(gain)
                of_weights = of_rows.view_as(kernels).to(kernels.dtype)
        return of_inputs, of_weights, of_scale


def _points(frames: int, taps: int) -> int:
    """Length of a transform that is long enough: wrap-around only affects outputs that are cut off."""
    return max(frames + taps // 2, taps)


def _transforms(inputs: torch.Tensor, taps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Real and imaginary parts of discrete Fourier transforms as matrices, on the device of the inputs.

    Returns:
        (2 × frequencies, frames) for the inputs, (2 × frequencies, taps) for the kernels, reversed around their middle,
        and (frames, 2 × frequencies) for the inverse.
    """
    frames, device = inputs.shape[1], inputs.device
    points = _points(frames, taps)
    frequencies = points // 2 + 1
    angles = torch.arange(points, dtype=torch.float64, device=device) * (-2 * math.pi / points)
    table = torch.stack([angles.cos(), angles.sin()]).to(inputs.dtype)  # one period
    frequency, place = (torch.arange(count, device=device) for count in (frequencies, max(frames, taps)))
    of_inputs = frequency[:, None] * place[:frames] % points
    of_kernels = frequency[:, None] * (taps // 2 - place[:taps]) % points
    shares = torch.full((frequencies,), 2 / points, dtype=inputs.dtype, device=device)
    shares[:: points if points % 2 else points // 2] = 1 / points  # these have no mirror image
    to_frequencies = table[:, of_inputs]  # (2, frequencies, frames)
    to_frames = (to_frequencies * shares[:, None]).flatten(0, 1).T
    return to_frequencies.flatten(0, 1), table[:, of_kernels].flatten(0, 1), to_frames


def _by_group(spectra: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Views of spectra with one matrix per frequency and group: real parts, then imaginary parts.

    (batch, 2 × frequencies, hidden) → (2, frequencies × groups, batch, width); for kernels,
    (2 × frequencies, hidden × width) → (2, frequencies × groups, width out, width in).
    """
    width = kernels.shape[1]
    if spectra.ndim == 2:
        return spectra.view(2, -1, width, width)
    return spectra.view(len(spectra), 2, -1, width).permute(1, 2, 0, 3)


def _joined(products: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """(2, frequencies × groups, batch, width) → `shape`, (batch, 2 × frequencies, hidden); a small copy."""
    return products.permute(2, 0, 1, 3).reshape(shape)


def _multiply(first: torch.Tensor, second: torch.Tensor, conjugate: bool = False) -> torch.Tensor:
    """Products of complex matrices, (2, products, rows, …) each; with `conjugate`, by the conjugates of the second."""
    sign = -1 if conjugate else 1
    out = first.new_empty(2, first.shape[1], first.shape[2], second.shape[3])
    for part, own, other, alpha in ((out[0], first[0], first[1], -sign), (out[1], first[1], first[0], sign)):
        torch.bmm(own, second[0], out=part)
        part.baddbmm_(other, second[1], alpha=alpha)
    return out
