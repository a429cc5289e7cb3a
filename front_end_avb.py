"""The convolutional front end of wav2vec 2.0, in which padding has no effect and layer norms need less memory.

Self-contained code for the Hub: it needs only torch and transformers. The weights and their names are those of the
stock model.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2FeatureEncoder,
    Wav2Vec2GroupNormConvLayer,
    Wav2Vec2LayerNormConvLayer,
)


def gathers_weights(module: nn.Module) -> bool:
    """Whether DeepSpeed or FSDP gathers a module's weights when its layers are called, on all processes together."""
    return is_deepspeed_zero3_enabled() or is_fsdp_managed_module(module)


def floor_divide(samples, by: int):
    """Divides a number or tensor and rounds down, like `//`, whose ONNX operation OpenVINO rounds to the nearest."""
    if isinstance(samples, int):
        return samples // by
    return torch.div(samples, by, rounding_mode="floor")


def length_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """(batch,) → (batch, size), True in the first `lengths` places of each row."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm with one channel per group, whose moments are computed over each clip's valid frames.

    The stock layer includes padding, so a clip's features depend on the longest clip in its batch.
    """

    def forward(self, hidden_states: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """`hidden_states` (batch, channels, frames); `lengths` (batch,) valid frames, None if all are valid."""
        if lengths is None:
            return super().forward(hidden_states)
        valid = length_mask(lengths, hidden_states.shape[-1])[:, None]  # (batch, 1, frames)
        x = hidden_states.float()
        count = lengths[:, None, None]
        mean = (x * valid).sum(-1, keepdim=True) / count  # (batch, channels, 1)
        x = x - mean
        variance = (x.square() * valid).sum(-1, keepdim=True) / count
        x = x * torch.rsqrt(variance + self.eps)
        return (x * self.weight[:, None] + self.bias[:, None]).to(hidden_states.dtype)


class MaskedGroupNormConvLayer(Wav2Vec2GroupNormConvLayer):
    """First layer of a group-norm front end (BASE, LARGE)."""

    def __init__(self, config, layer_id=0):
        super().__init__(config, layer_id)
        self.layer_norm = MaskedGroupNorm(self.out_conv_dim, self.out_conv_dim)

    def forward(self, hidden_states, lengths=None):
        hidden_states = self.conv(hidden_states)
        hidden_states = self.layer_norm(hidden_states, lengths)
        return self.activation(hidden_states)


class RowsConvLayer(Wav2Vec2LayerNormConvLayer):
    """A layer of a layer-norm front end (LARGE-LV60K, XLSR53) over rows: one frame per row, channels last.

    Computes the same as the stock layer, up to the order of sums. The stock layer stores channels first, and copies
    3,200 frames per second back and forth for each layer norm. Here, the norm needs no copy, and the convolution is one
    matrix product: the frames of a stride are adjacent in memory, and a kernel covers one such block and the next ones.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(frames, channels in) → (fewer frames, channels out)."""
        kernel, stride, channels = self.conv.kernel_size[0], self.conv.stride[0], self.conv.in_channels
        blocks = hidden_states[: hidden_states.shape[0] // stride * stride].reshape(-1, stride * channels)
        further = (kernel - 1) // stride  # further blocks that a kernel covers
        count = blocks.shape[0] - further
        widths = [min(stride, kernel - index * stride) * channels for index in range(further + 1)]
        taps = [blocks[index : index + count, :width] for index, width in enumerate(widths)]
        weight = self.conv.weight.transpose(1, 2).flatten(1)  # (channels out, kernel * channels in)
        return self.activation(self.layer_norm(_multiply(taps, weight, self.conv.bias)))


def _multiply(taps: list[torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Multiplies parts of taps, (frames, part of the kernel) each, by a weight (channels, kernel): (frames, channels).

    A sum of products avoids the copy that joins the parts. With gradients, it is slower; in bfloat16, each sum would be
    rounded; and for a narrow kernel, joining the parts is faster than reading the sum again.
    """
    first = taps[0]
    is_exact = first.dtype != torch.bfloat16 and not torch.is_autocast_enabled(first.device.type)
    is_traced = torch.jit.is_tracing() or torch.compiler.is_exporting()
    has_gradient = torch.is_grad_enabled() and (first.requires_grad or weight.requires_grad)
    if len(taps) == 1 or not is_exact or is_traced or has_gradient or weight.shape[1] < weight.shape[0]:
        return F.linear(first if len(taps) == 1 else torch.cat(taps, 1), weight, bias)
    weights = weight.split([part.shape[1] for part in taps], 1)
    outputs = F.linear(first, weights[0], bias)
    for part, of_part in zip(taps[1:], weights[1:], strict=True):
        outputs.addmm_(part, of_part.T)
    return outputs


class VocalBurstFeatureEncoder(Wav2Vec2FeatureEncoder):
    """The convolutional front end: samples in, 49.95 frames per second out, unaffected by padding."""

    conv_layers: Any  # an nn.ModuleList, whose layers torch only types as modules

    def __init__(self, config):
        super().__init__(config)
        self.runs_on_rows = config.feat_extract_norm == "layer"
        if self.runs_on_rows:
            with torch.random.fork_rng(devices=[]):  # so that a seed gives the same weights as with the stock layers
                self.conv_layers = nn.ModuleList(RowsConvLayer(config, index) for index in range(len(self.conv_layers)))
            # Silence after the last clip: what its last frame reads, and the remainders of the strides.
            self.tail = config.receptive_field + 2 * math.prod(config.conv_stride)
        self.masked_group_norm = config.feat_extract_norm == "group" and config.masked_group_norm
        if self.masked_group_norm:
            self.conv_layers[0] = MaskedGroupNormConvLayer(config)

    def forward(self, input_values: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """`input_values` (batch, samples), `lengths` (batch,) valid samples → (batch, channels, frames)."""
        if self._is_frozen_in_bfloat16(input_values):
            weights = {name: weight.bfloat16() for name, weight in self.named_parameters()}
            with torch.autocast(input_values.device.type, enabled=False):
                return functional_call(self, weights, (input_values.bfloat16(), lengths))
        if self.runs_on_rows:
            return self._forward_rows(input_values)
        hidden_states = input_values[:, None]
        if self.gradient_checkpointing and self._requires_grad and self.training:
            hidden_states.requires_grad = True  # as reentrant checkpointing needs
        for index, layer in enumerate(self.conv_layers):
            if index == 0 and self.masked_group_norm and lengths is not None:
                frames = floor_divide(lengths - layer.conv.kernel_size[0], layer.conv.stride[0]) + 1
                hidden_states = layer(hidden_states, frames)
            else:
                hidden_states = layer(hidden_states)
        return hidden_states

    def _is_frozen_in_bfloat16(self, input_values: torch.Tensor) -> bool:
        """Whether it can run in bfloat16 throughout: on a GPU, autocast norms in fp32, and casts back and forth."""
        device = input_values.device.type
        if not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) != torch.bfloat16:
            return False
        if gathers_weights(self):
            return False
        return not any(tensor.requires_grad for tensor in (input_values, *self.parameters()))

    def _forward_rows(self, input_values: torch.Tensor) -> torch.Tensor:
        """Joins the batch into one signal; each clip starts at a whole frame, frames across two clips are dropped."""
        batch, samples = input_values.shape
        frames, stride = samples, 1
        for layer in self.conv_layers:
            frames = (frames - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
            stride *= layer.conv.stride[0]
        frames_a_clip = -(-samples // stride)  # the last ones reach into the next clip
        signal = F.pad(input_values, (0, frames_a_clip * stride - samples)).flatten()
        hidden_states = F.pad(signal, (0, self.tail))[:, None]  # (samples of all clips, 1)
        if self.gradient_checkpointing and self._requires_grad and self.training:
            hidden_states.requires_grad = True  # as reentrant checkpointing needs
        for layer in self.conv_layers:
            hidden_states = layer(hidden_states)  # (frames of all clips, channels)
        hidden_states = hidden_states[: batch * frames_a_clip].view(batch, frames_a_clip, -1)
        return hidden_states[:, :frames].transpose(1, 2)
