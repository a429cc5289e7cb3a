"""avb: emotion in vocal bursts. Importing it registers `Wav2Vec2ForVocalBurst` with Transformers' Auto classes."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    Wav2Vec2FeatureExtractor,
)

from configuration_avb import Wav2Vec2VocalBurstConfig
from modeling_avb import Wav2Vec2ForVocalBurst

__version__ = "0.1.0"

AutoConfig.register(Wav2Vec2VocalBurstConfig.model_type, Wav2Vec2VocalBurstConfig, exist_ok=True)
AutoModel.register(Wav2Vec2VocalBurstConfig, Wav2Vec2ForVocalBurst, exist_ok=True)
AutoModelForAudioClassification.register(Wav2Vec2VocalBurstConfig, Wav2Vec2ForVocalBurst, exist_ok=True)
AutoFeatureExtractor.register(Wav2Vec2VocalBurstConfig, Wav2Vec2FeatureExtractor, exist_ok=True)
