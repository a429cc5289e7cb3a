"""Emo-18 of End2You, A-VB's end-to-end baseline: convolutions on 0.1 s frames of the waveform, then an LSTM.

Sources: Tzirakis, Zhang & Schuller (2018), "End-to-End Speech Emotion Recognition Using Deep Neural Networks", ICASSP;
Tzirakis, Zafeiriou & Schuller (2018), "End2You", arXiv:1802.01115; Baird et al. (2022), arXiv:2207.03572.

A frame has 1,600 samples, and frames do not overlap. As in End2You's code, convolutions are padded by (kernel - 1) // 2
and pools move by their width, so the lengths are
1,600 → conv 1,599 → pool 159 → conv 158 → pool 19 → conv 18 → pool 2, times 256 channels: 512 values per frame.

Unusual, and different from End2You:
- The last, partial frame is padded with zeros. End2You drops it, and therefore every clip shorter than 0.1 s.
- Padding frames have no effect. They are excluded from the statistics of batch norm, unlike in End2You, and the output
  is read at the last frame of each clip. So a prediction does not depend on the batch.
- A regression ends in a sigmoid scaled to the label range, as in all models here; End2You's output is unbounded.

The waveform has its peak level set, but is neither centred nor scaled by its variance: the feature extractor is a
`VocalBurstFeatureExtractor(do_normalize=False)`. The first batch norm does the scaling.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .baseline import BaselineConfig, BaselineModel

FRAME_SAMPLES = 1_600  # 0.1 s at 16 kHz
FRAME_FEATURES = 512  # 2 steps × 256 channels


class Emo18Config(BaselineConfig):
    """Configuration of `Emo18`: the fields of `BaselineConfig`."""

    model_type = "emo18"


class Emo18(BaselineModel):
    """Input: 16 kHz mono waveforms of any length, padded on the right."""

    config_class = Emo18Config

    def __init__(self, config: Emo18Config):
        super().__init__(config)
        self.convolutions = nn.Sequential(
            nn.Conv1d(1, 64, 8, padding=3), nn.BatchNorm1d(64), nn.LeakyReLU(), nn.MaxPool1d(10),
            nn.Conv1d(64, 128, 6, padding=2), nn.BatchNorm1d(128), nn.LeakyReLU(), nn.MaxPool1d(8),
            nn.Conv1d(128, 256, 6, padding=2), nn.BatchNorm1d(256), nn.LeakyReLU(), nn.MaxPool1d(8),
            nn.Flatten(),
        )  # fmt: skip
        self.rnn = nn.LSTM(FRAME_FEATURES, 256, num_layers=2, batch_first=True)
        self.head = nn.Linear(256, config.num_labels)
        self.post_init()

    def predict(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        samples = input_values.shape[1]
        if attention_mask is None:
            lengths = torch.full((len(input_values),), samples, device=input_values.device)
        else:
            lengths = attention_mask.sum(1).clamp(min=1)  # (batch,)
            input_values = input_values.masked_fill(attention_mask == 0, 0.0)
        frames = F.pad(input_values, (0, -samples % FRAME_SAMPLES))
        frames = frames.unflatten(1, (-1, FRAME_SAMPLES))  # (batch, frames, 1600)
        num_frames = (lengths + FRAME_SAMPLES - 1) // FRAME_SAMPLES
        valid = torch.arange(frames.shape[1], device=frames.device) < num_frames[:, None]  # (batch, frames)

        features = self.convolutions(frames[valid][:, None])  # (valid frames, 512)
        sequences = features.new_zeros(*valid.shape, FRAME_FEATURES)
        sequences[valid] = features
        # The LSTM only runs forwards, so padding on the right never affects a valid frame.
        hidden_states = self.rnn(sequences)[0]  # (batch, frames, 256)
        last = hidden_states[torch.arange(len(hidden_states), device=hidden_states.device), num_frames - 1]
        return self.head(last)  # (batch, num_labels)
