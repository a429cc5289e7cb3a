"""The networks on log-mel spectrograms, rewritten for inference engines: the same numbers, with a convolution as STFT.

It is made to be traced into ONNX and contains the model's own weights. Unusual:

- A power spectrum is a convolution with windowed cosines and sines. ONNX has an STFT operator, but OpenVINO cannot read
  it for variable lengths and WebGPU cannot run it; a convolution runs everywhere, with the same result up to rounding.
- Lengths are never divided: OpenVINO 2026.4 rounds the quotient of integers, other engines truncate it.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from avb.baselines.log_mel import LogMelModel
from modeling_avb import scores_from_outputs


class SpectralGraph(nn.Module):
    """`forward(input_values, attention_mask)` gives the logits of a `LogMelCNN` or `SEResNet` in evaluation mode."""

    def __init__(self, model: LogMelModel):
        super().__init__()
        fft, self.hop = model.spectrum.fft, model.spectrum.hop
        self.model, self.config = model, model.config
        self.spectrum = ConvolvedSpectrum(model.window.float(), fft, self.hop)

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(batch, samples) waveforms and their mask, 1 for audio → logits (batch, num_labels)."""
        power = self.spectrum(input_values.masked_fill(attention_mask == 0, 0.0))  # (batch, bins, frames)
        starts = self.hop * torch.arange(power.shape[-1])
        mask = starts <= attention_mask.sum(1)[:, None]  # (batch, frames): 1 + samples // hop of each clip
        predict = cast(Callable[[Any, Any], torch.Tensor], self.model.predict_from_power)
        return scores_from_outputs(self.config, predict(power, mask))


class ConvolvedSpectrum(nn.Module):
    """`avb.baselines.baseline.power_spectra` as a convolution."""

    filters: torch.Tensor

    def __init__(self, window: torch.Tensor, fft: int, hop: int):
        super().__init__()
        self.fft, self.hop, self.bins = fft, hop, fft // 2 + 1
        places = torch.arange(self.bins)[:, None] * torch.arange(fft) % fft  # within one period, so that each is exact
        angle = 2 * torch.pi * places.double() / fft
        missing = fft - len(window)
        window = F.pad(window.double(), (missing // 2, missing - missing // 2))
        filters = torch.cat([angle.cos(), angle.sin()]) * window  # (2 × bins, fft)
        self.register_buffer("filters", filters.float()[:, None])

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(batch, samples) → (batch, fft // 2 + 1, 1 + samples // hop)."""
        padded = F.pad(waveforms, (self.fft // 2, self.fft // 2))
        parts = F.conv1d(padded[:, None], self.filters, stride=self.hop).square()  # (batch, 2 × bins, frames)
        return parts[:, : self.bins] + parts[:, self.bins :]
