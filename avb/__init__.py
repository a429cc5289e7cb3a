"""avb: emotion in vocal bursts.

    import avb
    avb.load("runs/sample")("laugh.wav")  # [{"label": "Awe", "score": 0.31}, ...]

Importing it registers the model, its feature extractor and `VocalBurstPipeline` with Transformers.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification
from transformers.pipelines import PIPELINE_REGISTRY

from configuration_avb import Wav2Vec2VocalBurstConfig
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import Wav2Vec2ForVocalBurst
from pipeline_avb import TASK, VocalBurstPipeline

__version__ = "0.1.0"

AutoConfig.register(Wav2Vec2VocalBurstConfig.model_type, Wav2Vec2VocalBurstConfig, exist_ok=True)
AutoModel.register(Wav2Vec2VocalBurstConfig, Wav2Vec2ForVocalBurst, exist_ok=True)
AutoModelForAudioClassification.register(Wav2Vec2VocalBurstConfig, Wav2Vec2ForVocalBurst, exist_ok=True)
AutoFeatureExtractor.register(Wav2Vec2VocalBurstConfig, VocalBurstFeatureExtractor, exist_ok=True)
# What is saved by `save_pretrained` and `push_to_hub` takes its code along.
Wav2Vec2VocalBurstConfig.register_for_auto_class()
Wav2Vec2ForVocalBurst.register_for_auto_class(AutoModelForAudioClassification.__name__)
VocalBurstFeatureExtractor.register_for_auto_class()
PIPELINE_REGISTRY.register_pipeline(TASK, VocalBurstPipeline, pt_model=AutoModelForAudioClassification)


def load(name: str, device: str = "auto", **settings) -> VocalBurstPipeline:
    """A trained model as a pipeline, from a folder or the Hub; with this project's code, none of the repository's.

    Args:
        name: folder written by train_avb.py or avb.export, a model that comes with the project (`emogator-small`), or a
            model on the Hub.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        settings: defaults of the calls, see `VocalBurstPipeline`: `top_k`, `window_seconds`, `batch_size`, …

    Raises:
        AvbError: there is no such model, its files are damaged or do not fit together, or it has no trained head.
    """
    from avb.inference import prediction  # not needed by who imports the classes only

    return prediction.load(name, device, **settings)


def embed(clips, model: str = "emogator-small", **settings):
    """What a model's encoder makes of clips, float32 (clips, hidden): see `avb.inference.embedding.embed`."""
    from avb.inference import embedding

    return embedding.embed(clips, model, **settings)
