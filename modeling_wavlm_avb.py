"""WavLMForVocalBurst: WavLM (Chen et al. 2021, arXiv:2110.13900) under the head of `modeling_avb.py`.

Unusual: the stock attention reads the weights of its projections past their modules, in one function of torch; what
wraps a projection, such as an adapter, would have no effect. Here the projections are called, and the gated position
bias is an additive mask, so that sdpa computes it.
"""

from torch import nn
from transformers import WavLMConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import eager_attention_forward
from transformers.models.wavlm.modeling_wavlm import WavLMAttention, WavLMModel, WavLMPreTrainedModel

try:  # as remote code from the Hub, or as a module of the installed project
    from .configuration_avb import VocalBurstConfig
    from .encoder_avb import WaveformEncoder, layers_to_run, padding_mask
    from .modeling_avb import VocalBurstModel
except ImportError:
    from configuration_avb import VocalBurstConfig
    from encoder_avb import WaveformEncoder, layers_to_run, padding_mask
    from modeling_avb import VocalBurstModel


class WavLMVocalBurstConfig(VocalBurstConfig, WavLMConfig):
    """A WavLM encoder under the head; see `VocalBurstConfig`."""

    model_type = "wavlm-vocal-burst"
    kind = "WavLM"


class GatedAttention(WavLMAttention):
    """The stock attention with its projections, computed by the attention implementation in `config`."""

    is_causal = False

    def __init__(self, config: WavLMVocalBurstConfig, **kwargs):
        super().__init__(config.hidden_size, config.num_attention_heads, config.attention_dropout, **kwargs)
        self.config = config

    def forward(self, hidden_states, attention_mask=None, position_bias=None, index=0, **kwargs):
        """(batch, frames, hidden) → the same shape, the weights if the implementation returns them, and the bias.

        Args:
            attention_mask: in the format of the attention implementation, or None.
            position_bias: (1, heads, frames, frames), of the first layer; all layers share it.
        """
        shape = (*hidden_states.shape[:-1], self.num_heads, self.head_dim)
        states = hidden_states.view(shape).transpose(1, 2)  # (batch, heads, frames, head_dim)
        gates = self.gru_rel_pos_linear(states).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        gate_a, gate_b = gates.chunk(2, -1)  # (batch, heads, frames, 1) each
        gate = gate_a * (gate_b * self.gru_rel_pos_const - 1.0) + 2.0
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (project(hidden_states).view(shape).transpose(1, 2) for project in projections)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
            position_bias=gate * position_bias,
            **kwargs,
        )
        return self.out_proj(output.flatten(-2)), weights, position_bias


class WavLMVocalBurstEncoder(WaveformEncoder, WavLMModel):
    """WavLM; checkpoint keys are those of `WavLMModel`."""

    config_class = WavLMVocalBurstConfig
    _supports_sdpa = True

    def adapt(self, config):
        super().adapt(config)
        self.use_spectra()
        distances = {"num_buckets": config.num_buckets, "max_distance": config.max_bucket_distance}
        for index, layer in enumerate(self.encoder.layers):
            layer.attention = GatedAttention(config, **distances, has_relative_position_bias=index == 0)
        if config.do_stable_layer_norm:
            # Pre-norm encoders normalise again after the last layer; hidden_states[k] does not include that.
            self.encoder.layer_norm = nn.Identity()

    def encode_frames(self, hidden_states, mask, **kwargs):
        encoder = self.encoder
        hidden_states = hidden_states.masked_fill(~mask[..., None], 0.0)
        hidden_states = hidden_states + encoder.pos_conv_embed(hidden_states)
        if not self.config.do_stable_layer_norm:
            hidden_states = encoder.layer_norm(hidden_states)
        hidden_states = encoder.dropout(hidden_states)
        attention_mask = padding_mask(self.config, hidden_states, mask)
        frames = hidden_states.shape[1]
        position_bias = encoder.layers[0].attention.compute_bias(frames, frames)[None]  # (1, heads, frames, frames)
        for layer in layers_to_run(encoder, self.config.layerdrop):
            hidden_states, _ = layer(
                hidden_states, attention_mask=attention_mask, position_bias=position_bias, **kwargs
            )
        return hidden_states


class WavLMForVocalBurst(VocalBurstModel, WavLMPreTrainedModel):
    """Input: 16 kHz mono waveforms from a `VocalBurstFeatureExtractor`, padded on the right."""

    config_class = WavLMVocalBurstConfig
    encoder_class = WavLMVocalBurstEncoder
    _supports_sdpa = True
