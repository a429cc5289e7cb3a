"""Detects vocal bursts in a recording: one probability per 40 ms, by a network small enough to run during a call.

    model = AutoModelForAudioFrameClassification.from_pretrained("org/emogator-events", trust_remote_code=True)
    model(waveforms).logits.sigmoid()  # (batch, frames, 1)

waveform → log-mel spectrogram (64 bands, 10 ms hop) → batch norm of each band → three convolutions that reduce the
frame rate to a quarter → residual blocks of dilated convolutions over time → linear.

Self-contained code for the Hub: it needs torch, transformers and `configuration_events_avb.py` beside it. Unusual:

- A frame depends on a bounded part of the recording, `left_samples` before it and `right_samples` after it: blocks with
  long dilations only look back. So overlapping parts give the same result as the whole recording.
- The audio has its recorded level; the network was trained to depend on it only little.
- Everything after the end of a clip is set to zero before each convolution, so a frame does not depend on the batch.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_outputs import TokenClassifierOutput

try:  # as remote code from the Hub, or as a module of the installed project
    from .configuration_events_avb import BurstEventsConfig
except ImportError:
    from configuration_events_avb import BurstEventsConfig

SAMPLING_RATE = 16_000
WINDOW, HOP, BANDS = 512, 160, 64
LOG_FLOOR = 1e-8
STRIDES = ((2, 2), (2, 2), (2, 1))  # of the stem's convolutions, over bands and over time
FRAME_SAMPLES = 4 * HOP  # from one frame of the output to the next, 40 ms


def reach(dilation: int) -> tuple[int, int]:
    """How many frames before and after one a block depends on; a negative dilation looks back only."""
    return (-2 * dilation, 0) if dilation < 0 else (dilation, dilation)


class DilatedBlock(nn.Module):
    """A dilated convolution over three frames, with a skip connection."""

    def __init__(self, channels: int, dilation: int, dropout: float):
        super().__init__()
        self.padding = reach(dilation)
        self.convolution = nn.Conv1d(channels, channels, 3, dilation=abs(dilation), bias=False)
        self.norm = nn.BatchNorm1d(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, channels, frames), zero after each clip's end."""
        return x + self.dropout(self.norm(self.convolution(F.pad(x, self.padding))).relu())


class BurstEventsModel(PreTrainedModel):
    """Input: 16 kHz mono waveforms of any length, padded on the right."""

    config_class = BurstEventsConfig
    main_input_name = "input_values"
    filters: torch.Tensor
    window: torch.Tensor

    def __init__(self, config: BurstEventsConfig):
        super().__init__(config)
        self.register_buffer("filters", torch.empty(BANDS, WINDOW // 2 + 1))
        self.register_buffer("window", torch.empty(WINDOW))
        self.band_norm = nn.BatchNorm1d(BANDS)
        widths = (1, 16, 32, 48)
        self.stem = nn.ModuleList(
            nn.Conv2d(below, width, 3, stride, padding=1, bias=False)
            for below, width, stride in zip(widths, widths[1:], STRIDES, strict=False)
        )
        self.stem_norms = nn.ModuleList(map(nn.BatchNorm2d, widths[1:]))
        self.projection = nn.Conv1d(widths[-1] * BANDS // 8, config.channels, 1)
        self.blocks = nn.ModuleList(
            DilatedBlock(config.channels, dilation, config.dropout) for dilation in config.dilations
        )
        self.classifier = nn.Linear(config.channels, 1)
        self.post_init()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif module is self:
            bank = mel_filter_bank(WINDOW // 2 + 1, BANDS, 60.0, SAMPLING_RATE / 2, SAMPLING_RATE, "slaney", "slaney")
            self.filters.copy_(torch.from_numpy(bank.T))
            self.window.copy_(torch.hann_window(WINDOW))

    @property
    def left_frames(self) -> int:
        """Number of frames before a frame in the receptive field of the blocks."""
        return sum(reach(dilation)[0] for dilation in self.config.dilations)

    @property
    def right_frames(self) -> int:
        """Number of frames after a frame in the receptive field of the blocks."""
        return sum(reach(dilation)[1] for dilation in self.config.dilations)

    @property
    def left_samples(self) -> int:
        """Samples before a frame's middle that the frame depends on, rounded up to whole frames."""
        return self.left_frames * FRAME_SAMPLES + self.stem_samples

    @property
    def right_samples(self) -> int:
        """Samples after a frame's middle that the frame depends on: the latency of a stream."""
        return self.right_frames * FRAME_SAMPLES + self.stem_samples

    @property
    def stem_samples(self) -> int:
        """Samples on each side of a frame's middle that its `frame_features` depend on, rounded up to whole frames."""
        spectra = 1 + 2 + 4  # of 10 ms, on each side: of three convolutions at steps of 10, 20 and 40 ms
        return math.ceil((spectra * HOP + WINDOW // 2) / FRAME_SAMPLES) * FRAME_SAMPLES

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput:
        """Logits, (batch, frames, 1); frame t is centred on sample t * `FRAME_SAMPLES`.

        Args:
            input_values: (batch, samples).
            attention_mask: (batch, samples), 1 for audio and 0 for padding; None if there is no padding.
            labels: (batch, frames) 0 or 1, -100 for frames to ignore; the loss is binary cross-entropy.
            return_dict: accepted for compatibility; the result is always an output object.
        """
        lengths = None
        if attention_mask is not None:
            lengths, input_values = attention_mask.sum(1), input_values * attention_mask
        logits = self.classify(self.frame_features(input_values, lengths), lengths)
        return TokenClassifierOutput(loss=None if labels is None else frame_loss(logits, labels), logits=logits)

    def frame_features(self, waveforms: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """The input of the blocks: (batch, samples) → (batch, channels, frames); see `stem_samples` for the context.

        Args:
            waveforms: zero after each clip's end.
            lengths: (batch,) of the clips in samples; None if none is padded.
        """
        hidden = self.band_norm(self.log_mel(waveforms))[:, None]  # (batch, 1, bands, spectra)
        hop = HOP
        hidden = _silence(hidden, lengths, hop)
        for convolution, norm, (_, stride) in zip(self.stem, self.stem_norms, STRIDES, strict=True):
            hop *= stride
            hidden = _silence(norm(convolution(hidden)).relu(), lengths, hop)  # (batch, channels, bands, frames)
        return _silence(self.projection(hidden.flatten(1, 2)).relu(), lengths, hop)

    def classify(self, features: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """`frame_features` (batch, channels, frames) → logits (batch, frames, 1)."""
        for block in self.blocks:
            features = _silence(block(features), lengths, FRAME_SAMPLES)
        return self.classifier(features.transpose(1, 2))

    def log_mel(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(batch, samples) → (batch, bands, 1 + samples // HOP), each window centred, silence around the clip."""
        padded = F.pad(waveforms.float(), (WINDOW // 2, WINDOW // 2))
        window = self.window.float()
        if torch.jit.is_tracing():  # an exported graph has no complex numbers: the transform as a convolution
            angle = torch.outer(torch.arange(WINDOW // 2 + 1), torch.arange(WINDOW)) % WINDOW * (2 * math.pi / WINDOW)
            waves = torch.cat([angle.cos(), angle.sin()]) * window  # (2 * bins, WINDOW)
            parts = F.conv1d(padded[:, None], waves[:, None], stride=HOP).square()
            power = parts[:, : WINDOW // 2 + 1] + parts[:, WINDOW // 2 + 1 :]
        else:
            spectrum = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()
        return (self.filters.float() @ power + LOG_FLOOR).log().to(self.classifier.weight.dtype)


def _silence(hidden: torch.Tensor, lengths: torch.Tensor | None, hop: int) -> torch.Tensor:
    """(batch, ..., frames) with zeros in frames whose middle is after the clip's end, so that they affect no frame."""
    if lengths is None:
        return hidden
    places = torch.arange(hidden.shape[-1], device=hidden.device) * hop
    inside = places <= lengths.view(-1, *[1] * (hidden.dim() - 1))
    return hidden * inside


def frame_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy over the frames whose label is not -100; logits (batch, frames, 1)."""
    counts = labels >= 0
    return F.binary_cross_entropy_with_logits(logits[..., 0][counts].float(), labels[counts].float())
