"""Encoders that learn from unlabelled bursts, with one of several objectives.

The encoder is always Transformers' own `Wav2Vec2Model`, at `model.wav2vec2`: a plain wav2vec 2.0 checkpoint is saved,
which `--encoder` and any other code based on Transformers can load.

- `log_mel`: regression of the log-mel spectrogram at masked frames, after TERA (Liu et al. 2021, arXiv:2007.06028).
- `descriptors`: regression of cepstrum, pitch, energy and similar descriptors at masked frames.
- `clusters`: the k-means cluster of the log-mel frames at masked positions, after HuBERT (Hsu et al. 2021,
  arXiv:2106.07447).
- `layer_clusters`: the second iteration of HuBERT: clusters of a layer of the encoder that training continues from.
- `contrastive`: the loss of wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477), with Transformers'
  `Wav2Vec2ForPreTraining`.
"""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining, Wav2Vec2Model, Wav2Vec2PreTrainedModel
from transformers.utils import ModelOutput

from avb.pretraining.targets import Clusters, Descriptors, LogMel
from configuration_avb import receptive_field
from encoder_avb import sample_spans
from front_end_avb import length_mask

NUM_CLUSTERS = 100  # in the first round, as in HuBERT
NUM_LAYER_CLUSTERS = 500  # in the second round


class MaskedPrediction(Wav2Vec2PreTrainedModel):
    """wav2vec 2.0 with a linear layer that predicts the target of each masked frame.

    Args:
        config: of the encoder; `mask_time_prob` and `mask_time_length` define how much is masked.
        num_mel_bins: number of mel bands in the spectra that targets are made from.
    """

    config_class = Wav2Vec2Config
    accepts_loss_kwargs = False
    target_class = LogMel

    def __init__(self, config: Wav2Vec2Config, num_mel_bins: int = 64):
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        stride = int(np.prod(config.conv_stride))
        self.describe = self.target_class(receptive_field(config.conv_kernel, config.conv_stride), stride, num_mel_bins)
        self.register_buffer("mean", torch.zeros(self.description_size))
        self.register_buffer("std", torch.ones(self.description_size))
        self.make_head()
        self.post_init()

    @property
    def description_size(self) -> int:
        return self.describe.size

    def make_head(self):
        self.predict = nn.Linear(self.config.hidden_size, self.description_size)

    def _init_weights(self, module: nn.Module):
        # A plain encoder's checkpoint contains none of these.
        if module is self:
            nn.init.zeros_(self.mean)
            nn.init.ones_(self.std)
        elif isinstance(module, LogMel):
            module.reset_parameters()
        elif isinstance(module, Clusters):
            nn.init.zeros_(module.centres)
        else:
            super()._init_weights(module)

    @torch.no_grad()
    def fit_targets(self, batches: Iterable[dict]):
        """Computes each feature's mean and standard deviation over the valid frames of some batches."""
        self._fit_standardization(self._collect(batches, self.describe_frames))

    def _collect(self, batches: Iterable[dict], describe) -> torch.Tensor:
        """Features (frames, size) of the batches' valid frames."""
        frames = []
        for batch in batches:
            described = describe(batch["input_values"], batch["attention_mask"])
            frames.append(described[length_mask(self.frame_counts(batch["attention_mask"]), described.shape[1])])
        return torch.cat(frames)

    def _fit_standardization(self, frames: torch.Tensor):
        self.mean.copy_(frames.mean(0))
        self.std.copy_(frames.std(0).clamp(min=1e-5))

    def frame_counts(self, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.wav2vec2._get_feat_extract_output_lengths(attention_mask.sum(-1))

    def describe_frames(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.describe(input_values)

    @torch.no_grad()
    def targets(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Standardised features (batch, frames, size)."""
        return (self.describe_frames(input_values, attention_mask) - self.mean) / self.std

    def loss(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean absolute error over masked frames, in standard deviations."""
        return F.l1_loss(predictions.float(), targets)

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor, return_loss: bool = True
    ) -> ModelOutput:
        """The objective's loss over the valid masked frames of a batch.

        Args:
            input_values: (batch, samples) waveforms at 16 kHz, padded on the right.
            attention_mask: (batch, samples), 1 for audio.
            return_loss: unused; its name tells the Trainer that there is a loss without labels.
        """
        with torch.autocast(input_values.device.type, enabled=False):
            targets = self.targets(input_values, attention_mask)
        counts, config = self.frame_counts(attention_mask), self.config
        hidden = sample_spans(counts, targets.shape[1], config.mask_time_prob, config.mask_time_length)
        outputs = self.wav2vec2(input_values, attention_mask=attention_mask, mask_time_indices=hidden)
        predictions = self.predict(outputs.last_hidden_state)
        loss = self.loss(predictions[hidden], targets[hidden]) if hidden.any() else predictions.sum() * 0
        return ModelOutput(loss=loss)


class DescriptorPrediction(MaskedPrediction):
    """Predicts 26 descriptors of each masked frame."""

    target_class = Descriptors


class ClusterPrediction(MaskedPrediction):
    """Predicts the cluster of a masked frame's standardised log-mel spectrum, with cross entropy."""

    num_clusters = NUM_CLUSTERS

    def make_head(self):
        self.clusters = Clusters(self.num_clusters, self.description_size)
        self.predict = nn.Linear(self.config.hidden_size, self.num_clusters)

    @torch.no_grad()
    def fit_targets(self, batches: Iterable[dict]):
        frames = self._collect(batches, self.describe_frames)
        self._fit_standardization(frames)
        self.clusters.fit((frames - self.mean) / self.std)

    @torch.no_grad()
    def targets(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Cluster indices (batch, frames), int64."""
        return self.clusters(super().targets(input_values, attention_mask))

    def loss(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(predictions.float(), targets)


class LayerClusterPrediction(ClusterPrediction):
    """Predicts clusters of an upper middle layer of the initial encoder; a copy of that encoder is kept."""

    num_clusters = NUM_LAYER_CLUSTERS

    @property
    def description_size(self) -> int:
        return self.config.hidden_size

    def make_head(self):
        super().make_head()
        self.layer = -(-2 * self.config.num_hidden_layers // 3)
        self.teacher: list[Any] = [None]  # in a list, so that it is no submodule: neither trained nor saved

    @torch.no_grad()
    def fit_targets(self, batches: Iterable[dict]):
        self.teacher[0] = copy.deepcopy(self.wav2vec2).eval().requires_grad_(False)
        super().fit_targets(batches)

    def describe_frames(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        teacher = self.teacher[0].to(input_values.device)
        outputs = teacher(input_values, attention_mask=attention_mask, output_hidden_states=True)
        return outputs.hidden_states[self.layer]


class ContrastivePrediction(Wav2Vec2ForPreTraining):
    """wav2vec 2.0's contrastive loss over quantised frames, averaged per frame; draws its own masks and negatives."""

    accepts_loss_kwargs = False

    def __init__(self, config: Wav2Vec2Config, num_mel_bins: int = 64):
        super().__init__(config)

    def fit_targets(self, batches: Iterable[dict]):
        pass  # the quantiser is learned

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor, return_loss: bool = True
    ) -> ModelOutput:
        """See `MaskedPrediction.forward`."""
        counts, config = self.wav2vec2._get_feat_extract_output_lengths(attention_mask.sum(-1)), self.config
        size = int(counts.max())
        hidden = sample_spans(counts, size, config.mask_time_prob, config.mask_time_length)
        if not hidden.any():
            return ModelOutput(loss=sum(parameter.sum() * 0 for parameter in self.parameters()))
        loss = (
            super()
            .forward(
                input_values,
                attention_mask=attention_mask,
                mask_time_indices=hidden,
                sampled_negative_indices=sample_negatives(hidden, config.num_negatives),
            )
            .loss
        )
        return ModelOutput(loss=loss / hidden.sum())


def sample_negatives(hidden: torch.Tensor, number: int) -> torch.Tensor:
    """For each masked frame, `number` other masked frames of its clip, or itself if there are none: indices into the
    flattened batch, (batch, frames, number). Stock `_sample_negative_indices` fails on a clip with one masked frame."""
    batch, size = hidden.shape
    negatives = torch.arange(batch * size, device=hidden.device).view(batch, size, 1).repeat(1, 1, number)
    for row, clip in enumerate(hidden):
        (places,) = clip.nonzero(as_tuple=True)
        if len(places) > 1:
            drawn = torch.randint(len(places) - 1, (len(places), number), device=hidden.device)
            drawn = drawn + (drawn >= torch.arange(len(places), device=hidden.device)[:, None])  # never itself
            negatives[row, places] = places[drawn] + row * size
    return negatives


OBJECTIVES: dict[str, Any] = {
    "log_mel": MaskedPrediction,
    "descriptors": DescriptorPrediction,
    "clusters": ClusterPrediction,
    "layer_clusters": LayerClusterPrediction,
    "contrastive": ContrastivePrediction,
}
