"""A residual network with squeeze-and-excitation on log-mel spectrograms: the best of twelve networks on EmoGator.

waveform → log-mel spectrogram (80 bands of 50 to 7,900 Hz, 25 ms windows, 10 ms hop), normalised per clip, with the
height of the band as a second channel → two convolutions → four stages of two residual blocks (He et al. 2016) with
squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507) → mean over bands → attention and maximum over time → linear.

Unusual:
- A prediction does not depend on the batch: everything after the end of a clip is set to zero before each convolution,
  and excluded from each mean, maximum and excitation. Clips of similar length share a batch, so little is wasted.
- In training, the model itself applies SpecAugment (Park et al. 2019) and stochastic depth (Huang et al. 2016).
- The level of a clip has no effect: the floor of the logarithm is relative to the loudest band of the clip.
"""

import torch
from torch import nn

from .baseline import BaselineConfig, require_legal
from .log_mel import Convolutions, LogMelModel, Spectrum, memory_format

BANDS = 80
FLOOR = 1e-6  # of the clip's highest band energy: -60 dB
STEM_STRIDES = ((2, 1), (2, 2))  # bands, frames
STAGES, BLOCKS = (1, 2, 4, 8), 2  # widths of the stages, as multiples; blocks per stage
SQUEEZE = 8  # channels per unit in the excitation's bottleneck
MASKS = 2  # number of band masks, and of frame masks


class SEResNetConfig(BaselineConfig):
    """Configuration of `SEResNet`: the fields of `BaselineConfig`, and those of the network.

    Args:
        width: channels of the stem and the first stage.
        drop_path: probability of skipping the last block in training; for other blocks in proportion to their depth.
        head_dropout: dropout before the linear layer.
        mask_bands: widest mask over bands in training, as a fraction of all bands.
        mask_time: longest mask over time in training, as a fraction of the clip.
    """

    model_type = "se-resnet"

    width: int = 24
    drop_path: float = 0.1
    head_dropout: float = 0.3
    mask_bands: float = 1 / 6
    mask_time: float = 1 / 8

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        require_legal(self, 1 <= self.width <= 1024, "width", "between 1 and 1024")
        for name in ("drop_path", "head_dropout", "mask_bands", "mask_time"):
            require_legal(self, 0 <= getattr(self, name) < 1, name, "in [0, 1)")


class Excitation(nn.Module):
    """Scales each channel by a gate computed from the means of all channels."""

    def __init__(self, channels: int):
        super().__init__()
        bottleneck = max(channels // SQUEEZE, 4)
        self.squeeze = nn.Linear(channels, bottleneck)
        self.excite = nn.Linear(bottleneck, channels)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x (batch, channels, bands, frames), mask (batch, 1, 1, frames)."""
        frames = mask.sum(-1).flatten(1)  # (batch, 1)
        mean = (x.mean(2) * mask[:, 0]).sum(-1) / frames  # (batch, channels)
        return x * self.excite(self.squeeze(mean).relu()).sigmoid()[..., None, None]


class Block(Convolutions):
    """Two convolutions over bands and time, and squeeze and excitation, with a skip connection."""

    def __init__(self, channels_in: int, channels: int, stride: int, drop_path: float):
        super().__init__(channels_in, channels, stride)
        self.drop_path = drop_path
        self.excitation = Excitation(channels)
        self.around: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels:
            self.around = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, channels, bands, frames), zero after each clip's end; mask (batch, 1, 1, frames), 1 up to there."""
        hidden, shorter = self.convolve(x, mask)
        hidden = self.excitation(hidden, shorter)
        if self.training and self.drop_path:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop_path
            hidden = hidden * (kept / (1 - self.drop_path)).to(hidden.dtype)
        return (hidden + self.around(x)).relu() * shorter, shorter


class SEResNet(LogMelModel):
    """Input: 16 kHz mono waveforms of any length, padded on the right."""

    config_class = SEResNetConfig
    spectrum = Spectrum(fft=512, window=400, hop=160, bands=BANDS, lowest=50.0, highest=7900.0)

    def __init__(self, config: SEResNetConfig):
        super().__init__(config)
        width = config.width
        self.stem = nn.ModuleList(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
            for channels, stride in zip((2, width), STEM_STRIDES, strict=True)
        )
        self.stem_norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])
        widths = [width * multiple for multiple in STAGES for _ in range(BLOCKS)]
        strides = [2 if stage and not block else 1 for stage in range(len(STAGES)) for block in range(BLOCKS)]
        rates = [config.drop_path * depth / (len(widths) - 1) for depth in range(len(widths))]
        self.blocks = nn.ModuleList(map(Block, [width, *widths], widths, strides, rates))
        self.attention = nn.Linear(widths[-1], 1)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(2 * widths[-1], config.num_labels)
        self.post_init()

    def predict_from_power(self, power: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Power spectra (batch, bins, frames), and the mask (batch, frames) of valid frames → raw outputs."""
        bands = self.log_mel(power, mask)  # (batch, bands, frames)
        if self.training:
            bands = hide(bands, mask.sum(1), self.config.mask_bands, self.config.mask_time)
        mask = mask[:, None, None].to(bands.dtype)  # (batch, 1, 1, frames)
        heights = torch.linspace(-1, 1, BANDS, device=bands.device, dtype=bands.dtype)
        hidden = torch.stack([bands, heights[:, None].expand_as(bands)], 1) * mask  # (batch, 2, bands, frames)
        hidden = hidden.contiguous(memory_format=memory_format(self.config.width))
        for convolution, norm, (_, stride) in zip(self.stem, self.stem_norms, STEM_STRIDES, strict=True):
            mask = mask[..., ::stride]
            hidden = norm(convolution(hidden)).relu() * mask
        for block in self.blocks:
            hidden, mask = block(hidden, mask)
        hidden = hidden.mean(2).transpose(1, 2)  # (batch, frames, channels), non-negative, zero after the end
        scores = self.attention(hidden).float().masked_fill(mask[:, 0, 0, :, None] == 0, float("-inf"))
        pooled = torch.cat([(hidden * scores.softmax(1)).sum(1), hidden.amax(1)], 1)  # (batch, 2 × channels)
        return self.head(self.dropout(pooled))  # (batch, num_labels)

    def log_mel(self, power: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Log-mel spectra with zero mean and unit variance per clip.

        Args:
            power: (batch, bins, frames) of waveforms that are zero after each clip's end.
            mask: (batch, frames), true up to each clip's end.

        Returns:
            (batch, bands, frames), zero after each clip's end. A silent clip is zero throughout.
        """
        with torch.autocast(power.device.type, enabled=False):  # powers span 120 dB: too much for 8 bits
            energy = self.filters.float() @ power.float()  # (batch, bands, frames)
            inside = mask[:, None].to(energy.dtype)
            energy = energy * inside
            # The second floor only matters for silence, whose logarithm would be infinite.
            floor = (FLOOR * energy.amax((1, 2), keepdim=True)).clamp(min=1e-12)
            bands = (energy / floor).clamp(min=1).log() * inside  # 0 to 13.8
            count = BANDS * inside.sum((1, 2), keepdim=True)
            bands = (bands - bands.sum((1, 2), keepdim=True) / count) * inside
            deviation = (bands.square().sum((1, 2), keepdim=True) / count).sqrt()
            return (bands / deviation.clamp(min=1e-3)).to(self.head.weight.dtype)


def hide(spectra: torch.Tensor, frames: torch.Tensor, mask_bands: float, mask_time: float) -> torch.Tensor:
    """Sets `MASKS` random spans of bands and of frames of each clip to zero, the mean.

    Args:
        spectra: (batch, bands, frames).
        frames: (batch,), number of frames of each clip.
        mask_bands: widest span, as a fraction of the bands.
        mask_time: longest span, as a fraction of the clip's frames.
    """
    batch, bands, length = spectra.shape
    draws = torch.rand(4, batch, MASKS, device=spectra.device)
    own_frames = frames[:, None].expand(-1, MASKS)

    def spans(sizes: torch.Tensor, widest: float, places: int, width: torch.Tensor, start: torch.Tensor):
        width = (width * widest * sizes)[..., None]
        start = (start[..., None] * (sizes[..., None] - width)).floor()
        place = torch.arange(places, device=spectra.device)
        return ((place >= start) & (place < start + width.round())).any(1)  # (batch, places)

    hidden_bands = spans(torch.full_like(draws[0], bands), mask_bands, bands, draws[0], draws[1])
    hidden_frames = spans(own_frames, mask_time, length, draws[2], draws[3])
    return spectra.masked_fill(hidden_bands[..., None] | hidden_frames[:, None], 0.0)
