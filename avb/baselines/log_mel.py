"""Shared by the networks on log-mel spectrograms: mel filters, frames per clip, and the convolutions of a block.

Unusual: a prediction does not depend on the batch. Everything after the end of a clip is set to zero before each
convolution, as if the clip were alone. A saved network includes this file for the Hub.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers.audio_utils import mel_filter_bank

from .baseline import BaselineModel, power_spectra

SAMPLING_RATE = 16_000


class Spectrum(NamedTuple):
    """A mel spectrum: FFT, window and hop in samples, the number of bands, the lowest and highest frequency in Hz."""

    fft: int
    window: int
    hop: int
    bands: int
    lowest: float
    highest: float


class LogMelModel(BaselineModel):
    """Input: 16 kHz mono waveforms of any length, padded on the right. Subclasses map power spectra to outputs."""

    spectrum: Spectrum
    filters: torch.Tensor
    window: torch.Tensor

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("filters", torch.empty(self.spectrum.bands, self.spectrum.fft // 2 + 1))
        self.register_buffer("window", torch.empty(self.spectrum.window))

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif module is self:
            fft, window, _, bands, lowest, highest = self.spectrum
            filters = mel_filter_bank(fft // 2 + 1, bands, lowest, highest, SAMPLING_RATE, "slaney", "slaney")
            self.filters.copy_(torch.from_numpy(filters.T))
            self.window.copy_(torch.hann_window(window))

    def predict(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_values)
        frames = attention_mask.sum(1).long() // self.spectrum.hop + 1  # (batch,)
        power = power_spectra(input_values * attention_mask, self.window, self.spectrum.fft, self.spectrum.hop)
        # As wide as the batch: which clip is the longest is known to the device alone.
        mask = torch.arange(power.shape[-1], device=frames.device) < frames[:, None]  # (batch, frames)
        return self.predict_from_power(power, mask)

    def predict_from_power(self, power: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Power spectra (batch, bins, frames), and the mask (batch, frames) of valid frames → raw outputs."""
        raise NotImplementedError


def memory_format(width: int) -> torch.memory_format:
    """Of a network whose narrowest layer has so many channels: channels last, if they fill a vector.

    With fewer than 8, oneDNN 3.12 (torch 2.13) writes out of bounds on CPUs with AVX2 and without AVX-512: training
    an `SEResNet` hung or ended the process.
    """
    return torch.channels_last if width >= 8 else torch.contiguous_format


class Convolutions(nn.Module):
    """The two convolutions over bands and time of a residual block (He et al. 2016); `stride` applies to the first."""

    def __init__(self, channels_in: int, channels: int, stride: int | tuple[int, int]):
        super().__init__()
        self.stride = stride
        self.first = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def convolve(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Applies both to x. Returns the result and the mask of its frames, which may be fewer.

        Args:
            x: (batch, channels, bands, frames), zero after each clip's end.
            mask: (batch, 1, 1, frames), 1 up to each clip's end.
        """
        shorter = mask[..., :: self.stride if isinstance(self.stride, int) else self.stride[1]]
        hidden = self.first_norm(self.first(x)).relu() * shorter
        return self.second_norm(self.second(hidden)), shorter
