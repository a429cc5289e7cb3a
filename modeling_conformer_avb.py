"""Wav2Vec2ConformerForVocalBurst: wav2vec 2.0 on Conformer blocks (Gulati et al. 2020, arXiv:2005.08100; Wang et al.
2020, arXiv:2010.05171) under the head of `modeling_avb.py`.

Unusual: the stock convolutions reach from the padding into the clip, and their batch norm takes the statistics of the
batch in training. Here the padding is silent in front of each, and the statistics are always those of the pre-training.
"""

from torch import nn
from torch.nn import functional as F
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerConvolutionModule,
    Wav2Vec2ConformerEncoderLayer,
    Wav2Vec2ConformerModel,
    Wav2Vec2ConformerPreTrainedModel,
)

try:  # as remote code from the Hub, or as a module of the installed project
    from .configuration_avb import VocalBurstConfig
    from .encoder_avb import WaveformEncoder, relative_positions, rotary_positions
    from .modeling_avb import VocalBurstModel
except ImportError:
    from configuration_avb import VocalBurstConfig
    from encoder_avb import WaveformEncoder, relative_positions, rotary_positions
    from modeling_avb import VocalBurstModel


class Wav2Vec2ConformerVocalBurstConfig(VocalBurstConfig, Wav2Vec2ConformerConfig):
    """A wav2vec 2.0 Conformer encoder under the head; see `VocalBurstConfig`."""

    model_type = "wav2vec2-conformer-vocal-burst"
    kind = "wav2vec 2.0 Conformer"


class MaskedConvolution(Wav2Vec2ConformerConvolutionModule):
    """The stock convolution of a block, only over a clip's own frames."""

    def forward(self, hidden_states, mask=None):
        hidden_states = self.layer_norm(hidden_states)
        if mask is not None:
            hidden_states = hidden_states.masked_fill(~mask[..., None], 0.0)
        # Neither has a bias, so silence remains silence.
        hidden_states = self.depthwise_conv(self.glu(self.pointwise_conv1(hidden_states.transpose(1, 2))))
        norm = self.batch_norm
        hidden_states = F.batch_norm(
            hidden_states, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
        return self.dropout(self.pointwise_conv2(self.activation(hidden_states))).transpose(1, 2)


class MaskedBlock(Wav2Vec2ConformerEncoderLayer):
    """The stock block; its convolution gets the mask of the clip's frames."""

    def __init__(self, config):
        super().__init__(config)
        self.conv_module = MaskedConvolution(config)

    def forward(self, hidden_states, attention_mask=None, relative_position_embeddings=None, conv_mask=None, **kwargs):
        hidden_states = hidden_states + 0.5 * self.ffn1(self.ffn1_layer_norm(hidden_states))
        attended, _ = self.self_attn(
            hidden_states=self.self_attn_layer_norm(hidden_states),
            attention_mask=attention_mask,
            relative_position_embeddings=relative_position_embeddings,
            **kwargs,
        )
        hidden_states = hidden_states + self.self_attn_dropout(attended)
        hidden_states = hidden_states + self.conv_module(hidden_states, conv_mask)
        hidden_states = hidden_states + 0.5 * self.ffn2(self.ffn2_layer_norm(hidden_states))
        return self.final_layer_norm(hidden_states)


class Wav2Vec2ConformerVocalBurstEncoder(WaveformEncoder, Wav2Vec2ConformerModel):
    """wav2vec 2.0 Conformer; checkpoint keys are those of `Wav2Vec2ConformerModel`."""

    config_class = Wav2Vec2ConformerVocalBurstConfig

    def adapt(self, config):
        super().adapt(config)
        self.encoder.layers = nn.ModuleList(MaskedBlock(config) for _ in range(config.num_hidden_layers))
        self.encoder.pos_conv_embed = nn.Identity()  # the stock model has it, but never calls it
        self.encoder.layer_norm = nn.Identity()  # after the last layer; hidden_states[k] does not include it

    def encode_frames(self, hidden_states, mask, **kwargs):
        encoder = self.encoder
        hidden_states = encoder.dropout(hidden_states.masked_fill(~mask[..., None], 0.0))
        positions = None
        if self.config.position_embeddings_type == "rotary":
            positions = rotary_positions(hidden_states, encoder.embed_positions.inv_freq)
        elif self.config.position_embeddings_type == "relative":
            positions = relative_positions(hidden_states, encoder.embed_positions)
        return self.run_layers(hidden_states, mask, relative_position_embeddings=positions, conv_mask=mask, **kwargs)


class Wav2Vec2ConformerForVocalBurst(VocalBurstModel, Wav2Vec2ConformerPreTrainedModel):
    """Input: 16 kHz mono waveforms from a `VocalBurstFeatureExtractor`, padded on the right."""

    config_class = Wav2Vec2ConformerVocalBurstConfig
    encoder_class = Wav2Vec2ConformerVocalBurstEncoder
    lora_targets = ("linear_q", "linear_v")
    _keys_to_ignore_on_load_unexpected = [
        *VocalBurstModel._keys_to_ignore_on_load_unexpected,
        r"encoder\.pos_conv_embed\.",
    ]
