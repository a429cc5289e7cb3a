"""Data2VecAudioForVocalBurst: data2vec (Baevski et al. 2022, arXiv:2202.03555) under the head of `modeling_avb.py`.

Unusual: the positions come from convolutions one upon the other, each with a norm behind it. The stock ones make
something of the padding, which the next one carries into the clip; here the padding is silent in front of each.
"""

from transformers import Data2VecAudioConfig
from transformers.models.data2vec.modeling_data2vec_audio import Data2VecAudioModel, Data2VecAudioPreTrainedModel

try:  # as remote code from the Hub, or as a module of the installed project
    from .configuration_avb import VocalBurstConfig
    from .encoder_avb import WaveformEncoder
    from .modeling_avb import VocalBurstModel
    from .positions_avb import convolve
except ImportError:
    from configuration_avb import VocalBurstConfig
    from encoder_avb import WaveformEncoder
    from modeling_avb import VocalBurstModel
    from positions_avb import convolve


class Data2VecAudioVocalBurstConfig(VocalBurstConfig, Data2VecAudioConfig):
    """A data2vec encoder under the head; see `VocalBurstConfig`."""

    model_type = "data2vec-audio-vocal-burst"
    kind = "data2vec (audio)"
    feat_extract_norm = "layer"  # as in the stock model, whose configuration does not state it
    apply_spec_augment = True


class Data2VecAudioVocalBurstEncoder(WaveformEncoder, Data2VecAudioModel):
    """data2vec; checkpoint keys are those of `Data2VecAudioModel`."""

    config_class = Data2VecAudioVocalBurstConfig

    def encode_frames(self, hidden_states, mask, **kwargs):
        encoder, padding = self.encoder, ~mask[..., None]
        hidden_states = hidden_states.masked_fill(padding, 0.0)
        positions = hidden_states
        for layer in encoder.pos_conv_embed.layers:
            positions = layer.activation(layer.layer_norm(convolve(positions, layer.conv))).masked_fill(padding, 0.0)
        hidden_states = encoder.dropout(encoder.layer_norm(hidden_states + positions))
        return self.run_layers(hidden_states, mask, **kwargs)


class Data2VecAudioForVocalBurst(VocalBurstModel, Data2VecAudioPreTrainedModel):
    """Input: 16 kHz mono waveforms from a `VocalBurstFeatureExtractor`, padded on the right."""

    config_class = Data2VecAudioVocalBurstConfig
    encoder_class = Data2VecAudioVocalBurstEncoder
