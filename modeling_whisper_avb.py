"""WhisperForVocalBurst: the encoder of Whisper (Radford et al. 2022, arXiv:2212.04356) under the head of
`modeling_avb.py`.

Unusual: the encoder hears windows of 30 s, silent behind the clip, so that a clip costs what 30 s cost. Its frames past
the clip are cut off before the head. A longer clip is read window by window. The log mel spectrum, the numbers of
`WhisperFeatureExtractor`, is computed inside.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperPreTrainedModel

try:  # as remote code from the Hub, or as a module of the installed project
    from .configuration_avb import VocalBurstConfig, require_legal
    from .encoder_avb import WaveformEncoder
    from .front_end_avb import floor_divide
    from .modeling_avb import VocalBurstModel
    from .spectrum_avb import HOP, WIDTH, power_spectrum, whisper_filters
except ImportError:
    from configuration_avb import VocalBurstConfig, require_legal
    from encoder_avb import WaveformEncoder
    from front_end_avb import floor_divide
    from modeling_avb import VocalBurstModel
    from spectrum_avb import HOP, WIDTH, power_spectrum, whisper_filters

STRIDE = 2 * HOP  # samples per frame


class WhisperVocalBurstConfig(VocalBurstConfig, WhisperConfig):
    """Whisper's encoder under the head; see `VocalBurstConfig`. Its decoder is left out."""

    model_type = "whisper-vocal-burst"
    kind = "Whisper"
    attribute_map = {
        **WhisperConfig.attribute_map,
        "intermediate_size": "encoder_ffn_dim",
        "hidden_dropout": "dropout",
        "layerdrop": "encoder_layerdrop",
    }
    is_encoder_decoder: bool = False
    hears_level = True
    feat_extract_norm = None  # its convolutions have no norm
    receptive_field = STRIDE
    samples_per_frame = STRIDE

    def _validate_head(self):
        super()._validate_head()
        for field in ("mask_time_prob", "mask_feature_prob"):
            require_legal(self, getattr(self, field) == 0, field, "0: Whisper's encoder has no SpecAugment here")

    @property
    def encoder_dropout(self) -> float:
        return max(self.dropout, self.attention_dropout, self.activation_dropout)

    @property
    def window(self) -> int:
        """Samples in the encoder's input window (480,000 in every released checkpoint)."""
        return self.max_source_positions * STRIDE


class WhisperVocalBurstEncoder(WaveformEncoder, WhisperEncoder):
    """Whisper's encoder; checkpoint keys are those of `WhisperEncoder`."""

    config_class = WhisperVocalBurstConfig
    main_input_name = "input_values"

    def adapt(self, config):
        self.layer_norm = nn.Identity()  # after the last layer; hidden_states[k] does not include it

    @property
    def layers_kept(self):
        return self.layers

    def freeze_feature_encoder(self):
        self.conv1.requires_grad_(False)
        self.conv2.requires_grad_(False)

    def forward(self, input_values, attention_mask=None, **kwargs):
        outputs = super().forward(input_values, attention_mask, **kwargs)
        outputs.last_hidden_state = self.finish(outputs.last_hidden_state, input_values)
        if outputs.hidden_states is not None:
            outputs.hidden_states = tuple(self.finish(states, input_values) for states in outputs.hidden_states)
        return outputs

    def extract_features(self, input_values, lengths):
        """(batch, samples) → (batch × windows, positions, hidden)."""
        size = self.config.window
        windows = (input_values.shape[1] + size - 1) // size
        waveforms = F.pad(input_values, (0, size - 1))[:, : windows * size].reshape(-1, size)
        transform, mel = whisper_filters(self.config.num_mel_bins, input_values.device)
        # Centred frames without the last one, as in the stock extractor.
        centred = F.pad(waveforms[:, None], (WIDTH // 2, WIDTH // 2), mode="reflect")[:, 0]
        power = power_spectrum(centred, transform)[..., :-1]
        decades = (mel @ power).clamp(min=1e-10).log10()  # (batch × windows, bins, spectra)
        decades = torch.maximum(decades, decades.amax((1, 2), keepdim=True) - 8.0)
        features = ((decades + 4.0) / 4.0).to(self.conv1.weight.dtype)
        hidden_states = F.gelu(self.conv2(F.gelu(self.conv1(features)))).transpose(1, 2)
        return hidden_states + self.embed_positions.weight

    def project(self, features):
        return F.dropout(features, p=self.dropout, training=self.training), features

    def feature_mask(self, lengths, features):
        return features.new_ones(features.shape[:2], dtype=torch.bool)  # the encoder attends to silence too

    def _mask_hidden_states(self, hidden_states, mask_time_indices=None, attention_mask=None):
        return hidden_states

    def encode_frames(self, hidden_states, mask, **kwargs):
        for layer in self.layers:
            if not (self.training and self.layerdrop > 0 and torch.rand([]) < self.layerdrop):
                hidden_states = layer(hidden_states, None, **kwargs)
        return hidden_states

    def count_frames(self, samples):
        return floor_divide(samples + STRIDE - 1, STRIDE)

    def finish(self, hidden_states, input_values):
        """(batch × windows, positions, hidden) → (batch, frames, hidden), only frames of the waveforms."""
        frames = hidden_states.reshape(input_values.shape[0], -1, hidden_states.shape[-1])
        return frames[:, : self.count_frames(input_values.shape[1])]


class WhisperForVocalBurst(VocalBurstModel, WhisperPreTrainedModel):
    """Input: 16 kHz mono waveforms from a `VocalBurstFeatureExtractor`, padded on the right."""

    config_class = WhisperVocalBurstConfig
    encoder_class = WhisperVocalBurstEncoder
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    _keys_to_ignore_on_load_unexpected = [
        r"^(model\.)?decoder\.",
        r"^(encoder\.)?layers\.\d+\.",
        r"^(encoder\.)?layer_norm\.",
        r"^proj_out",
        r"^(projector|classifier|layer_weights)",
    ]

    @classmethod
    def from_pretrained(cls, *args, key_mapping: dict[str, str] | None = None, **kwargs):
        """Like that of Transformers; reads the encoder of any Whisper model."""
        mapping = {r"^model\.encoder\.": "encoder.", **(key_mapping or {})}
        return super().from_pretrained(*args, key_mapping=mapping, **kwargs)
