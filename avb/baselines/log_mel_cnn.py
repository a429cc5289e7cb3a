"""A small residual network on log-mel spectrograms: not a challenge baseline, but a common first choice for few clips.

waveform → log-mel spectrogram (64 bands, 20 ms hop) → batch norm of each band → convolution and four residual blocks
(He et al. 2016) → mean and maximum over bands → attention over time → linear.

Unusual:
- A prediction does not depend on the batch: everything after the end of a clip is set to zero before each convolution.
- In training, the model itself applies SpecAugment (Park et al. 2019) and shifts of up to three bands, like dropout.

The waveform has zero mean and unit variance: the feature extractor is a `VocalBurstFeatureExtractor()`.
"""

import torch
from torch import nn

from .baseline import BaselineConfig, require_legal
from .log_mel import SAMPLING_RATE, Convolutions, LogMelModel, Spectrum, memory_format

MAX_BANDS_MASKED, MAX_TIME_MASKED, MAX_BANDS_SHIFTED = 12, 0.2, 3  # the second is a fraction of the clip


class LogMelCNNConfig(BaselineConfig):
    """Configuration of `LogMelCNN`: the fields of `BaselineConfig`, and `width`, the channels of the first block."""

    model_type = "log-mel-cnn"

    width: int = 24

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        require_legal(self, 1 <= self.width <= 1024, "width", "between 1 and 1024")


class Block(Convolutions):
    """Two convolutions over bands and time, with a skip connection."""

    def __init__(self, channels_in: int, channels: int, stride: tuple[int, int]):
        super().__init__(channels_in, channels, stride)
        self.around = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
        self.around_norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, channels, bands, frames), zero after each clip's end; mask (batch, 1, 1, frames), 1 up to there."""
        hidden, shorter = self.convolve(x, mask)
        return (hidden + self.around_norm(self.around(x))).relu() * shorter, shorter


class LogMelCNN(LogMelModel):
    """Input: 16 kHz mono waveforms of any length, padded on the right."""

    config_class = LogMelCNNConfig
    spectrum = Spectrum(fft=512, window=512, hop=320, bands=64, lowest=50.0, highest=SAMPLING_RATE / 2)

    def __init__(self, config: LogMelCNNConfig):
        super().__init__(config)
        self.band_norm = nn.BatchNorm1d(self.spectrum.bands)
        width = config.width
        self.stem = nn.Conv2d(1, width, 5, (2, 1), padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        strides = [(2, 1), (2, 2), (2, 2), (2, 1)]
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.ModuleList(map(Block, widths, widths[1:], strides))
        self.attention = nn.Linear(2 * widths[-1], 1)
        self.dropout = nn.Dropout(0.4)
        self.head = nn.Linear(2 * widths[-1], config.num_labels)
        self.post_init()

    def predict_from_power(self, power: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Power spectra (batch, bins, frames), and the mask (batch, frames) of valid frames → raw outputs."""
        bands = self.band_norm(self.log_mel(power))  # (batch, bands, frames)
        if self.training:
            bands = hide(shift_bands(bands), mask.sum(1))
        mask = mask[:, None, None].to(bands.dtype)
        hidden = (bands[:, None] * mask).contiguous(memory_format=memory_format(self.config.width))
        hidden = self.stem_norm(self.stem(hidden)).relu() * mask
        for block in self.blocks:
            hidden, mask = block(hidden, mask)
        hidden = torch.cat([hidden.mean(2), hidden.amax(2)], 1).transpose(1, 2)  # (batch, frames, channels)
        scores = self.attention(hidden).float().masked_fill(mask[:, 0, 0, :, None] == 0, float("-inf"))
        return self.head(self.dropout((hidden * scores.softmax(1)).sum(1)))  # (batch, num_labels)

    def log_mel(self, power: torch.Tensor) -> torch.Tensor:
        """(batch, bins, frames) → (batch, bands, frames)."""
        return (self.filters.float() @ power).clamp(min=1e-4).log().to(self.head.weight.dtype)


def shift_bands(spectra: torch.Tensor) -> torch.Tensor:
    """Shifts each clip's spectrum (batch, bands, frames) up to three bands up or down; the outer band is repeated."""
    shifts = torch.randint(-MAX_BANDS_SHIFTED, MAX_BANDS_SHIFTED + 1, (len(spectra), 1), device=spectra.device)
    sources = (torch.arange(spectra.shape[1], device=spectra.device) - shifts).clamp(0, spectra.shape[1] - 1)
    return spectra.gather(1, sources[..., None].expand_as(spectra))


def hide(spectra: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Sets a few neighbouring bands and frames of each clip (batch, bands, frames) to zero, the mean."""
    batch, bands, length = spectra.shape
    draws = torch.rand(4, batch, 1, device=spectra.device)

    def span(size: torch.Tensor, widest: torch.Tensor, places: int, width: torch.Tensor, start: torch.Tensor):
        width = width * widest
        start = start * (size - width)
        place = torch.arange(places, device=spectra.device)
        return (place >= start) & (place < start + width)  # (batch, places)

    size = torch.full_like(draws[0], bands)
    hidden_bands = span(size, torch.full_like(size, MAX_BANDS_MASKED), bands, draws[0], draws[1])
    hidden_frames = span(frames[:, None], MAX_TIME_MASKED * frames[:, None], length, draws[2], draws[3])
    return spectra.masked_fill(hidden_bands[..., None] | hidden_frames[:, None], 0.0)
