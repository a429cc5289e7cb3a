"""Pre-training without labels: spans of frames are hidden, and wav2vec 2.0 predicts their log-mel spectra.

The encoder is Transformers' own `Wav2Vec2Model`, so what is saved is a plain wav2vec 2.0 checkpoint that `--encoder`
and any other user of Transformers can load. A frame of the target is made of the very samples that the frame of the
convolutional front end hears: window = its receptive field, hop = its stride.

Regression of a masked spectrum, after TERA (Liu et al. 2021, arXiv:2007.06028), needs neither quantiser nor negatives,
which matters where batches are small and there is no GPU.
"""

import librosa
import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional as F
from transformers import Wav2Vec2Config, Wav2Vec2Model, Wav2Vec2PreTrainedModel
from transformers.utils import ModelOutput

from audio_avb import SAMPLING_RATE
from configuration_avb import receptive_field
from modeling_avb import length_mask, sample_spans


class LogMel(nn.Module):
    """Log-mel spectra of a wav2vec 2.0 front end's frames: (batch, samples) → (batch, frames, bins)."""

    def __init__(self, receptive_field: int, stride: int, num_mel_bins: int):
        super().__init__()
        self.receptive_field, self.stride = receptive_field, stride
        self.register_buffer("filters", torch.empty(num_mel_bins, receptive_field // 2 + 1))
        self.register_buffer("window", torch.empty(receptive_field))
        self.reset_parameters()

    def reset_parameters(self):
        bins = len(self.filters)
        filters = librosa.filters.mel(sr=SAMPLING_RATE, n_fft=self.receptive_field, n_mels=bins)
        with torch.no_grad():
            self.filters.copy_(torch.from_numpy(filters))
            self.window.copy_(torch.hann_window(self.receptive_field))

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(
            waveforms, self.receptive_field, self.stride, window=self.window, center=False, return_complex=True
        )
        power = spectrum.abs().square()  # (batch, frequencies, frames)
        return (self.filters @ power).clamp(min=1e-5).log().transpose(1, 2)


class BurstForPretraining(Wav2Vec2PreTrainedModel):
    """wav2vec 2.0 with a linear layer that predicts the hidden frames' standardised log-mel spectrum."""

    config_class = Wav2Vec2Config
    accepts_loss_kwargs = False

    def __init__(self, config: Wav2Vec2Config, num_mel_bins: int = 64):
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.predict = nn.Linear(config.hidden_size, num_mel_bins)
        stride = int(np.prod(config.conv_stride))
        self.log_mel = LogMel(receptive_field(config.conv_kernel, config.conv_stride), stride, num_mel_bins)
        self.register_buffer("mean", torch.zeros(num_mel_bins))
        self.register_buffer("std", torch.ones(num_mel_bins))
        self.post_init()

    def _init_weights(self, module: nn.Module):
        # A plain encoder's checkpoint holds none of these.
        if module is self:
            nn.init.zeros_(self.mean)
            nn.init.ones_(self.std)
        elif isinstance(module, LogMel):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    @torch.no_grad()
    def fit_standardization(self, batches):
        """Mean and standard deviation of each band over the valid frames of some batches of the collator."""
        frames = []
        for batch in batches:
            targets = self.log_mel(batch["input_values"])
            lengths = self.wav2vec2._get_feat_extract_output_lengths(batch["attention_mask"].sum(-1))
            frames.append(targets[length_mask(lengths, targets.shape[1])])
        frames = torch.cat(frames)
        self.mean.copy_(frames.mean(0))
        self.std.copy_(frames.std(0))

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor, return_loss: bool = True
    ) -> ModelOutput:
        """Mean absolute error over the hidden valid frames of a batch, in standard deviations.

        Args:
            input_values: (batch, samples) waveforms at 16 kHz, padded on the right.
            attention_mask: (batch, samples), 1 for audio.
            return_loss: unused; its name tells the Trainer that there is a loss without labels.
        """
        targets = (self.log_mel(input_values) - self.mean) / self.std  # (batch, frames, bins)
        lengths = self.wav2vec2._get_feat_extract_output_lengths(attention_mask.sum(-1))
        hidden = sample_spans(lengths, targets.shape[1], self.config.mask_time_prob, self.config.mask_time_length)
        outputs = self.wav2vec2(input_values, attention_mask=attention_mask, mask_time_indices=hidden)
        predictions = self.predict(outputs.last_hidden_state)
        loss = F.l1_loss(predictions[hidden], targets[hidden]) if hidden.any() else predictions.sum() * 0
        return ModelOutput(loss=loss)


def long_enough(rows: Dataset, config: Wav2Vec2Config) -> Dataset:
    """The rows whose clips hold at least one span to hide."""
    stride = int(np.prod(config.conv_stride))
    samples = receptive_field(config.conv_kernel, config.conv_stride) + (config.mask_time_length - 1) * stride
    return rows.select(np.flatnonzero(np.asarray(rows["num_samples"]) >= samples))
