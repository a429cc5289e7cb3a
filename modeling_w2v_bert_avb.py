"""Wav2Vec2BertForVocalBurst: w2v-BERT 2.0 (Barrault et al. 2023, arXiv:2312.05187) under the head of `modeling_avb.py`.

Unusual: the stock model reads features; this one reads waveforms and computes them, the numbers of
`SeamlessM4TFeatureExtractor`: 80 log mel energies every 10 ms, each normed over the clip, two frames side by side. A
clip's level plays no part in them.
"""

import torch
from transformers import Wav2Vec2BertConfig
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertModel, Wav2Vec2BertPreTrainedModel

try:  # as remote code from the Hub, or as a module of the installed project
    from .configuration_avb import VocalBurstConfig, require_legal
    from .encoder_avb import WaveformEncoder, relative_positions
    from .front_end_avb import floor_divide, length_mask
    from .modeling_avb import VocalBurstModel
    from .spectrum_avb import HOP, WIDTH, kaldi_filters, power_spectrum
except ImportError:
    from configuration_avb import VocalBurstConfig, require_legal
    from encoder_avb import WaveformEncoder, relative_positions
    from front_end_avb import floor_divide, length_mask
    from modeling_avb import VocalBurstModel
    from spectrum_avb import HOP, WIDTH, kaldi_filters, power_spectrum

STACKED = 2  # spectra per feature vector
FLOOR = 1.192092955078125e-07  # of a mel energy, as in the stock extractor


class Wav2Vec2BertVocalBurstConfig(VocalBurstConfig, Wav2Vec2BertConfig):
    """A w2v-BERT 2.0 encoder under the head; see `VocalBurstConfig`."""

    model_type = "wav2vec2-bert-vocal-burst"
    kind = "w2v-BERT 2.0"
    hears_level = True  # its features are normalised, so the level has no effect
    feat_extract_norm = None  # no convolutions
    receptive_field = WIDTH + HOP * (STACKED - 1)
    samples_per_frame = HOP * STACKED

    def _validate_head(self):
        super()._validate_head()
        require_legal(self, self.feature_projection_input_dim == 160, "feature_projection_input_dim", "160")
        # The rotary embedding caches its last result, which threads that score in parallel would share.
        legal = self.position_embeddings_type != "rotary"
        require_legal(self, legal, "position_embeddings_type", "relative_key, relative or null")


class Wav2Vec2BertVocalBurstEncoder(WaveformEncoder, Wav2Vec2BertModel):
    """w2v-BERT 2.0; checkpoint keys are those of `Wav2Vec2BertModel`."""

    config_class = Wav2Vec2BertVocalBurstConfig
    main_input_name = "input_values"

    def adapt(self, config):
        """Does nothing: the stock layers exclude padding."""

    def freeze_feature_encoder(self):
        """Does nothing: the features have no weights."""

    def extract_features(self, input_values, lengths):
        """(batch, samples) → (batch, frames, 160)."""
        transform, mel = kaldi_filters(input_values.device)
        power = power_spectrum(input_values, transform)  # (batch, frequencies, spectra)
        energies = (mel @ power).clamp(min=FLOOR).log().transpose(1, 2)  # (batch, spectra, 80)
        if lengths is None:
            valid = torch.ones_like(energies[..., :1])
        else:
            valid = length_mask(floor_divide(lengths - WIDTH, HOP) + 1, energies.shape[1])[..., None].float()
        count = valid.sum(1, keepdim=True)  # (batch, 1, 1)
        centred = (energies - (energies * valid).sum(1, keepdim=True) / count) * valid
        deviation = (centred.square().sum(1, keepdim=True) / (count - 1) + 1e-7).sqrt()
        frames = energies.shape[1] // STACKED
        features = (centred / deviation)[:, : frames * STACKED].reshape(-1, frames, STACKED * 80)
        return features.to(self.feature_projection.projection.weight.dtype)

    def count_features(self, samples):
        return floor_divide(floor_divide(samples - WIDTH, HOP) + 1, STACKED)

    def encode_frames(self, hidden_states, mask, **kwargs):
        encoder = self.encoder
        hidden_states = encoder.dropout(hidden_states.masked_fill(~mask[..., None], 0.0))
        positions = None
        if self.config.position_embeddings_type == "relative":
            positions = relative_positions(hidden_states, encoder.embed_positions)
        own = {"relative_position_embeddings": positions, "conv_attention_mask": mask}
        return self.run_layers(hidden_states, mask, **own, **kwargs)


class Wav2Vec2BertForVocalBurst(VocalBurstModel, Wav2Vec2BertPreTrainedModel):
    """Input: 16 kHz mono waveforms from a `VocalBurstFeatureExtractor`, padded on the right."""

    config_class = Wav2Vec2BertVocalBurstConfig
    encoder_class = Wav2Vec2BertVocalBurstEncoder
    main_input_name = "input_values"
    lora_targets = ("linear_q", "linear_v")
