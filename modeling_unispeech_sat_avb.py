"""UniSpeechSatForVocalBurst: UniSpeech-SAT (Chen et al. 2021, arXiv:2110.05752) under the head of `modeling_avb.py`."""

from torch import nn
from transformers import UniSpeechSatConfig
from transformers.models.unispeech_sat.modeling_unispeech_sat import UniSpeechSatModel, UniSpeechSatPreTrainedModel

try:  # as remote code from the Hub, or as a module of the installed project
    from .configuration_avb import VocalBurstConfig
    from .encoder_avb import WaveformEncoder
    from .modeling_avb import VocalBurstModel
except ImportError:
    from configuration_avb import VocalBurstConfig
    from encoder_avb import WaveformEncoder
    from modeling_avb import VocalBurstModel


class UniSpeechSatVocalBurstConfig(VocalBurstConfig, UniSpeechSatConfig):
    """A UniSpeech-SAT encoder under the head; see `VocalBurstConfig`."""

    model_type = "unispeech-sat-vocal-burst"
    kind = "UniSpeech-SAT"


class UniSpeechSatVocalBurstEncoder(WaveformEncoder, UniSpeechSatModel):
    """UniSpeech-SAT; checkpoint keys are those of `UniSpeechSatModel`."""

    config_class = UniSpeechSatVocalBurstConfig

    def adapt(self, config):
        super().adapt(config)
        self.use_spectra()
        if not (config.mask_time_prob > 0 or config.mask_feature_prob > 0):
            del self.masked_spec_embed  # the stock model always has it; a weight without a gradient breaks DDP
        if config.do_stable_layer_norm:
            # Pre-norm encoders normalise again after the last layer; hidden_states[k] does not include that.
            self.encoder.layer_norm = nn.Identity()


class UniSpeechSatForVocalBurst(VocalBurstModel, UniSpeechSatPreTrainedModel):
    """Input: 16 kHz mono waveforms from a `VocalBurstFeatureExtractor`, padded on the right."""

    config_class = UniSpeechSatVocalBurstConfig
    encoder_class = UniSpeechSatVocalBurstEncoder
