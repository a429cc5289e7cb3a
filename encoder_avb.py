"""A speech encoder of Transformers as the head reads it: waveforms in, cut to a layer, padding without influence.

Self-contained code for the Hub: it needs torch, transformers, `front_end_avb.py` and `positions_avb.py`. A kind
mixes `WaveformEncoder` in before its stock model, whose weights it has under their own names.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import Wav2Vec2BaseModelOutput
from transformers.utils.output_capturing import capture_outputs

try:  # as remote code from the Hub, or as a module of the installed project
    from .front_end_avb import VocalBurstFeatureEncoder, gathers_weights, length_mask
    from .positions_avb import PositionalConvolution
except ImportError:
    from front_end_avb import VocalBurstFeatureEncoder, gathers_weights, length_mask
    from positions_avb import PositionalConvolution


class WaveformEncoder(PreTrainedModel):
    """An encoder up to layer `config.encoder_layer`; its last hidden state is that layer's output, with no final norm.

    Its architecture is that of wav2vec 2.0: convolutions, a projection, layers. Other kinds override what differs.
    """

    def __init__(self, config):
        super().__init__(config)
        self.adapt(config)
        self.post_init()

    def adapt(self, config):
        """Changes the modules that the stock model has built."""
        self.feature_extractor = VocalBurstFeatureEncoder(config)

    def use_spectra(self):
        """Lets the positional convolution (as in wav2vec 2.0) use spectra where they are cheaper."""
        self.encoder.pos_conv_embed = PositionalConvolution(self.encoder.pos_conv_embed)

    @property
    def layers_kept(self) -> nn.ModuleList:
        """The transformer's layers, up to the one that the head reads."""
        return self.encoder.layers

    def freeze_feature_encoder(self):
        """Freezes the convolutional front end."""
        self.feature_extractor._freeze_parameters()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values=None,
        attention_mask=None,
        mask_time_indices=None,
        front_end_frames=None,
        frame_mask=None,
        **kwargs,
    ):
        """(batch, samples) → `last_hidden_state` (batch, frames, hidden).

        Args:
            input_values: (batch, samples) waveforms at 16 kHz, padded on the right.
            attention_mask: (batch, samples), 1 for audio and 0 for padding; None if there is no padding.
            mask_time_indices: (batch, frames) True for frames to replace by the mask embedding.
            front_end_frames: (batch, frames, channels) output of `run_front_end`, instead of the waveforms.
            frame_mask: (batch, frames) mask of `front_end_frames`.
        """
        if front_end_frames is None:
            front_end_frames, frame_mask = self.run_front_end(input_values, attention_mask)
        else:
            front_end_frames = front_end_frames.to(self.dtype)  # they may be stored in half precision
        hidden_states, features = self.project(front_end_frames)
        hidden_states = self._mask_hidden_states(hidden_states, mask_time_indices, frame_mask)
        hidden_states = self.encode_frames(hidden_states, frame_mask, **kwargs)
        return Wav2Vec2BaseModelOutput(last_hidden_state=hidden_states, extract_features=features)

    def run_front_end(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None):
        """Only the convolutions: (batch, samples) → their frames (batch, frames, channels), and the frames' mask."""
        input_values, lengths = self.prepare(input_values, attention_mask)
        if self.config.waveform_normalization == "batch":
            input_values = F.layer_norm(input_values, input_values.shape)
        frames = self.extract_features(input_values, lengths)
        return frames, self.feature_mask(lengths, frames)

    def prepare(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None):
        """Waveforms long enough for a frame, with silence as padding, and their lengths (batch,) in samples."""
        shortage = self.config.receptive_field - input_values.shape[1]
        if shortage > 0:
            input_values = F.pad(input_values, (0, shortage))
        if attention_mask is None:
            return input_values, None
        lengths = attention_mask.sum(-1)
        # Padding is replaced by silence, whatever it contains: a clip shorter than one frame reads into it.
        input_values = input_values.masked_fill(~length_mask(lengths, input_values.shape[1]), 0.0)
        return input_values, lengths.clamp(min=self.config.receptive_field)

    def extract_features(self, input_values: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """(batch, samples) → (batch, frames, channels)."""
        return self.feature_extractor(input_values, lengths).transpose(1, 2)

    def project(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, frames, channels) → (batch, frames, hidden), and the normalised features used for it."""
        return self.feature_projection(features)

    def encode_frames(self, hidden_states: torch.Tensor, mask: torch.Tensor, **kwargs) -> torch.Tensor:
        """The transformer: (batch, frames, hidden) and their mask → the output of the last layer kept, same shape."""
        encoder = self.encoder
        hidden_states = hidden_states.masked_fill(~mask[..., None], 0.0)
        hidden_states = hidden_states + encoder.pos_conv_embed(hidden_states)
        if not self.config.do_stable_layer_norm:
            hidden_states = encoder.layer_norm(hidden_states)
        return self.run_layers(encoder.dropout(hidden_states), mask, **kwargs)

    def run_layers(self, hidden_states: torch.Tensor, mask: torch.Tensor, **kwargs) -> torch.Tensor:
        """Only the transformer's layers, each with these keywords: (batch, frames, hidden) → the same shape."""
        attention_mask = padding_mask(self.config, hidden_states, mask)
        for layer in layers_to_run(self.encoder, self.config.layerdrop):
            hidden_states = layer(hidden_states, attention_mask=attention_mask, **kwargs)
        return hidden_states

    def finish(self, hidden_states: torch.Tensor, input_values: torch.Tensor) -> torch.Tensor:
        """A layer's output in the form that the head reads, (batch, frames, hidden)."""
        return hidden_states

    def count_features(self, samples):
        """Number of frames that `extract_features` makes from this many samples, a number or a tensor."""
        return self._get_feat_extract_output_lengths(samples)

    def count_frames(self, samples):
        """Number of frames that the head gets for this many samples, a number or a tensor."""
        return self.count_features(samples)

    def feature_mask(self, lengths: torch.Tensor | None, features: torch.Tensor) -> torch.Tensor:
        """(batch, frames) True where features contain audio. `lengths` (batch,) in samples, None without padding."""
        if lengths is None:
            return features.new_ones(features.shape[:2], dtype=torch.bool)
        return length_mask(self.count_features(lengths), features.shape[1])

    def frame_mask(self, lengths: torch.Tensor | None, frames: torch.Tensor) -> torch.Tensor:
        """Like `feature_mask`, for the frames that the head gets."""
        if lengths is None:
            return frames.new_ones(frames.shape[:2], dtype=torch.bool)
        lengths = lengths.clamp(min=self.config.receptive_field)
        return length_mask(self.count_frames(lengths), frames.shape[1])

    def output_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """Converts the mask of the front end's frames to that of the frames that the head gets."""
        return mask

    def _mask_hidden_states(self, hidden_states, mask_time_indices=None, attention_mask=None):
        """SpecAugment as in the stock model, but drawn on the device and never larger than the clip.

        Each frame starts a masked span with probability `mask_time_prob / mask_time_length`, so that about
        `mask_time_prob` of the frames are masked. A clip shorter than a span is not masked; the stock code would raise.
        """
        config = self.config
        if not (self.training and config.apply_spec_augment):
            return hidden_states
        if config.mask_time_prob > 0 and mask_time_indices is None:
            mask_time_indices = sample_spans(
                attention_mask.sum(-1), hidden_states.shape[1], config.mask_time_prob, config.mask_time_length
            )
        if mask_time_indices is not None:
            masked = self.masked_spec_embed.to(hidden_states.dtype)
            hidden_states = torch.where(mask_time_indices[..., None], masked, hidden_states)
        if config.mask_feature_prob > 0:
            size = hidden_states.new_full((len(hidden_states),), config.hidden_size, dtype=torch.long)
            spans = sample_spans(size, config.hidden_size, config.mask_feature_prob, config.mask_feature_length)
            hidden_states = hidden_states.masked_fill(spans[:, None], 0.0)
        return hidden_states


def padding_mask(config, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
    """The mask (batch, frames) in the format of the attention implementation, of (batch, frames, hidden).

    Attention needs none where nothing is padded, but to know that, a host would wait for its device in every step.
    """
    is_on_host = hidden_states.device.type == "cpu"
    return create_bidirectional_mask(config, hidden_states, attention_mask=mask, allow_is_bidirectional_skip=is_on_host)


def relative_positions(hidden_states: torch.Tensor, table: nn.Module) -> torch.Tensor:
    """A stock module's relative positions (1, 2 × frames - 1, hidden), for (batch, frames, hidden).

    The module keeps its table as its last input asked for it, so one in half precision would round those of all later.
    """
    precise = torch.promote_types(hidden_states.dtype, torch.float32)
    return table(hidden_states[:1].to(precise)).to(hidden_states.dtype)


def rotary_positions(hidden_states: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Cosines and sines (2, frames, 1, 1, 2 × frequencies) of rotary positions, for (batch, frames, hidden).

    The stock module copies them from the host, and caches them for one length, which threads would share.
    """
    places = torch.arange(hidden_states.shape[1], device=hidden_states.device).to(frequencies.dtype)
    angles = (places[:, None] * frequencies).repeat(1, 2)[:, None, None]
    return torch.stack([angles.cos(), angles.sin()]).to(hidden_states.dtype)


def layers_to_run(encoder: nn.Module, layerdrop: float) -> Iterator[nn.Module]:
    """A transformer's layers, except those that layer drop skips in training, as in the stock encoders."""
    keeps_all = gathers_weights(encoder)  # processes must run the same layers
    for layer in encoder.layers:  # type: ignore[union-attr]
        is_dropped = encoder.training and layerdrop > 0 and torch.rand([]) < layerdrop
        if keeps_all or not is_dropped:
            yield layer


def sample_spans(lengths: torch.Tensor, size: int, prob: float, span: int) -> torch.Tensor:
    """Random spans of `span` places, which cover about `prob` of each row's first `lengths` places: (batch, size)."""
    fits = length_mask(lengths - span + 1, size)
    starts = (torch.rand(fits.shape, device=lengths.device) < prob / span) & fits
    padded = F.pad(starts.float()[:, None], (span - 1, 0))
    return F.max_pool1d(padded, span, stride=1)[:, 0].bool()
