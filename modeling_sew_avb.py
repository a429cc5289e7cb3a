"""SEWForVocalBurst: squeezed wav2vec (Wu et al. 2021, arXiv:2109.06870) under the head of `modeling_avb.py`.

Unusual: the head reads the squeezed frames, half as many, as they are before the stock model's upsampling. Where a
padded clip has a frame left over from its pairs, the stock model counts it in; here it is left out, as it is for the
clip alone.
"""

from torch import nn
from transformers import SEWConfig
from transformers.models.sew.modeling_sew import SEWModel, SEWPreTrainedModel

try:  # as remote code from the Hub, or as a module of the installed project
    from .configuration_avb import VocalBurstConfig
    from .encoder_avb import WaveformEncoder
    from .front_end_avb import floor_divide, length_mask
    from .modeling_avb import VocalBurstModel
except ImportError:
    from configuration_avb import VocalBurstConfig
    from encoder_avb import WaveformEncoder
    from front_end_avb import floor_divide, length_mask
    from modeling_avb import VocalBurstModel


class SEWVocalBurstConfig(VocalBurstConfig, SEWConfig):
    """A SEW encoder under the head; see `VocalBurstConfig`."""

    model_type = "sew-vocal-burst"
    kind = "SEW"

    @property
    def receptive_field(self) -> int:
        """Samples in the frames that are squeezed into one."""
        return super().receptive_field + (self.squeeze_factor - 1) * super().samples_per_frame

    @property
    def samples_per_frame(self) -> int:
        return super().samples_per_frame * self.squeeze_factor


class SEWVocalBurstEncoder(WaveformEncoder, SEWModel):
    """SEW; checkpoint keys are those of `SEWModel`."""

    config_class = SEWVocalBurstConfig

    def adapt(self, config):
        super().adapt(config)
        self.encoder.upsample = nn.Identity()

    def project(self, features):
        features = self.layer_norm(features)
        hidden_states = self.feature_projection(features) if self.project_features else features
        return self.feature_dropout(hidden_states), features

    def count_frames(self, samples):
        return floor_divide(self.count_features(samples), self.config.squeeze_factor)

    def output_mask(self, mask):
        factor = self.config.squeeze_factor
        return length_mask(floor_divide(mask.sum(-1), factor), mask.shape[1] // factor)

    def encode_frames(self, hidden_states, mask, **kwargs):
        """(batch, features, hidden) and their mask → (batch, frames, hidden), squeezed."""
        encoder = self.encoder
        hidden_states = hidden_states.masked_fill(~mask[..., None], 0.0).transpose(1, 2)
        squeezed = encoder.pool(hidden_states)  # (batch, hidden, frames)
        frames = squeezed.shape[-1]
        squeezed = squeezed + encoder.pos_conv_embed(hidden_states)[..., :frames]
        mask = self.output_mask(mask)
        hidden_states = encoder.dropout(encoder.layer_norm(squeezed.transpose(1, 2)))
        return self.run_layers(hidden_states, mask, **kwargs)


class SEWForVocalBurst(VocalBurstModel, SEWPreTrainedModel):
    """Input: 16 kHz mono waveforms from a `VocalBurstFeatureExtractor`, padded on the right."""

    config_class = SEWVocalBurstConfig
    encoder_class = SEWVocalBurstEncoder
    _keys_to_ignore_on_load_unexpected = [*VocalBurstModel._keys_to_ignore_on_load_unexpected, r"encoder\.upsample\."]
