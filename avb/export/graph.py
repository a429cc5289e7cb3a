"""A `VocalBurstModel` rewritten for inference engines: the same numbers, in fewer and cheaper operations.

It is made to be traced into ONNX and contains the model's own weights. Unusual:

- The convolutional front end runs channels-last, with each convolution as matrix products over reshaped frames. So the
  layer norms of LARGE-LV60K and XLSR53 need no transposes over 3,200 frames per second, and every expensive operation
  is a product that engines can quantise.
- No branch or constant depends on the batch or the clip used for tracing.
- As in the model, the prediction for a clip does not depend on its batch.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from encoder_avb import WaveformEncoder
from front_end_avb import VocalBurstFeatureEncoder, floor_divide, length_mask
from modeling_avb import VocalBurstModel

MASKED = -1e9  # added to attention scores of padding: its exponential is 0, and bf16 can represent it


class InferenceGraph(nn.Module):
    """`forward(input_values, attention_mask)` gives the logits of the model in evaluation mode."""

    def __init__(self, model: VocalBurstModel):
        super().__init__()
        self.model = model
        self.config = model.config
        front_ends = [module for module in model.base_model.children() if isinstance(module, VocalBurstFeatureEncoder)]
        # Empty if the encoder reads a spectrum, whose own steps are traced.
        self.convs = nn.ModuleList(ChannelsLastConv(layer.conv) for end in front_ends for layer in end.conv_layers)
        self.layer_inputs: list[torch.Tensor] = []
        if model.layer_weights is not None:
            for layer in model.base_model.layers_kept:
                layer.register_forward_pre_hook(lambda _, inputs: self.layer_inputs.append(inputs[0]))

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(batch, samples) waveforms and their mask, 1 for audio → logits (batch, num_labels)."""
        encoder, field = self.model.base_model, self.config.receptive_field
        input_values = input_values.masked_fill(attention_mask == 0, 0.0)
        # At least one frame: shorter clips are padded with silence. The end of the slice is a tensor, so that the
        # trace keeps the comparison.
        size = torch._shape_as_tensor(input_values)[1].clamp(min=field)
        input_values = F.pad(input_values, (0, field - 1))[:, :size]
        if self.config.waveform_normalization == "batch":
            centred = input_values - input_values.mean()
            input_values = centred * torch.rsqrt(centred.square().mean() + 1e-5)
        lengths = attention_mask.sum(-1).clamp(min=field)  # (batch,)

        features = self.extract_features(input_values, lengths)  # (batch, frames, channels)
        mask = encoder.feature_mask(lengths, features)
        self.layer_inputs.clear()
        hidden_states = self.encode(encoder.project(features)[0] * mask[..., None], mask)
        if self.model.layer_weights is not None:
            hidden_states = self.model.weigh_layers(torch.cat([*self.layer_inputs, hidden_states], -1))
        hidden_states = encoder.finish(hidden_states, input_values)  # (batch, frames, hidden)
        mask = length_mask(encoder.count_frames(lengths), hidden_states.shape[1])
        if self.model.rnn is not None:
            hidden_states = self.model.rnn(hidden_states)[0]  # (batch, frames, rnn_hidden)
        attention = self.model.attention
        scores = None if attention is None else attention(hidden_states)
        if self.config.pool_before_head:
            return self.model.score_outputs(self.model.head(self.pool(hidden_states, mask, scores)))
        frames = self.model.score_outputs(self.model.head(hidden_states))  # (batch, frames, labels)
        return self.pool(frames, mask, scores)

    def extract_features(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(batch, samples) and the number of valid samples per clip → (batch, frames, channels)."""
        if not len(self.convs):
            return self.model.base_model.extract_features(waveforms, lengths)
        hidden_states = waveforms[..., None]
        layers = self.model.base_model.feature_extractor.conv_layers
        for index, (conv, layer) in enumerate(zip(cast(Iterable[ChannelsLastConv], self.convs), layers, strict=True)):
            hidden_states = conv(hidden_states)
            if self.config.feat_extract_norm == "layer":
                hidden_states = layer.layer_norm(hidden_states)
            elif index == 0:
                valid = length_mask(conv.count_frames(lengths), hidden_states.shape[1])
                if not self.config.masked_group_norm:
                    valid = torch.ones_like(valid)
                hidden_states = group_norm(layer.layer_norm, hidden_states, valid)
            hidden_states = layer.activation(hidden_states)
        return hidden_states

    def encode(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The transformer: (batch, frames, hidden), zero where `mask` is False → the same shape."""
        if type(self.model.base_model).encode_frames is not WaveformEncoder.encode_frames:
            return self.model.base_model.encode_frames(hidden_states, mask)
        encoder = self.model.base_model.encoder
        bias = torch.where(mask, 0.0, MASKED)[:, None, None]  # (batch, 1, 1, frames)
        hidden_states = hidden_states + encoder.pos_conv_embed(hidden_states)
        if not self.config.do_stable_layer_norm:
            hidden_states = encoder.layer_norm(hidden_states)
        for layer in encoder.layers:
            hidden_states = layer(hidden_states, attention_mask=bias)
        return hidden_states

    def pool(self, frames: torch.Tensor, mask: torch.Tensor, scores: torch.Tensor | None) -> torch.Tensor:
        if self.config.pooling == "last":  # the model's indexing by arange(batch) would be traced as a constant
            last = (mask.sum(-1) - 1)[:, None, None].expand(-1, 1, frames.shape[-1])
            return frames.gather(1, last)[:, 0]
        return self.model.pool_frames(frames, mask, scores)


class ChannelsLastConv(nn.Module):
    """A convolution over (batch, frames, channels), equal to `nn.Conv1d` without padding up to the order of its sums.

    The taps of one stride are consecutive in memory, so one product of a view computes them: a kernel of 3 with stride
    2 is a product of frame pairs, plus one of every other frame.
    """

    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        self.kernel, self.stride = conv.kernel_size[0], conv.stride[0]
        taps = conv.weight.detach().permute(2, 1, 0)  # (kernel, channels in, channels out)
        whole = self.kernel // self.stride * self.stride
        self.starts = [*range(0, whole, self.stride), *range(whole, self.kernel)]
        self.widths = [self.stride] * (whole // self.stride) + [1] * (self.kernel - whole)
        # The waveform has one channel: a single product over all taps, which are few.
        self.is_joint = conv.in_channels == 1
        groups = [taps] if self.is_joint else taps.split(self.widths)
        self.weights = nn.ParameterList(group.flatten(0, 1).contiguous() for group in groups)  # (taps * in, out)
        self.bias = conv.bias

    def count_frames(self, samples):
        """Number of frames from this many samples, for a number or a tensor."""
        return floor_divide(samples - self.kernel, self.stride) + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, frames, channels in) → (batch, fewer frames, channels out)."""
        batch, channels, count = x.shape[0], x.shape[2], self.count_frames(x.shape[1])
        views = []
        for start, width in zip(self.starts, self.widths, strict=True):
            if width == self.stride:
                view = x[:, start : start + count * self.stride].reshape(batch, count, width * channels)
            else:
                view = x[:, start : start + (count - 1) * self.stride + 1 : self.stride]
            views.append(view)
        if self.is_joint:
            views = [torch.cat(views, -1)]
        y = views[0] @ self.weights[0]
        for view, weight in zip(views[1:], self.weights[1:], strict=True):
            y = y + view @ weight
        return y if self.bias is None else y + self.bias


def group_norm(norm: nn.GroupNorm, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Group norm, one channel per group, over (batch, frames, channels); moments over frames where `valid` is True."""
    valid = valid[..., None].to(x.dtype)
    count = valid.sum(1, keepdim=True)
    x = x - (x * valid).sum(1, keepdim=True) / count
    variance = (x.square() * valid).sum(1, keepdim=True) / count  # (batch, 1, channels)
    return x * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias
