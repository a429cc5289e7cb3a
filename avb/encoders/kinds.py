"""Which kinds of speech encoder are read, by the `model_type` of their plain checkpoints. A module is imported when a
checkpoint asks for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modeling_avb import VocalBurstModel

_SUFFIX = "-vocal-burst"
# `model_type` of a plain checkpoint → the Hub module and its model
MODELS = {
    "wav2vec2": ("modeling_avb", "Wav2Vec2ForVocalBurst"),
    "hubert": ("modeling_avb", "Wav2Vec2ForVocalBurst"),  # the same layers under another prefix
    "wavlm": ("modeling_wavlm_avb", "WavLMForVocalBurst"),
    "data2vec-audio": ("modeling_data2vec_avb", "Data2VecAudioForVocalBurst"),
    "unispeech-sat": ("modeling_unispeech_sat_avb", "UniSpeechSatForVocalBurst"),
    "wav2vec2-conformer": ("modeling_conformer_avb", "Wav2Vec2ConformerForVocalBurst"),
    "sew": ("modeling_sew_avb", "SEWForVocalBurst"),
    "wav2vec2-bert": ("modeling_w2v_bert_avb", "Wav2Vec2BertForVocalBurst"),
    "whisper": ("modeling_whisper_avb", "WhisperForVocalBurst"),
}


def trained_class(model_type: Any) -> type[VocalBurstModel] | None:
    """The class of a model trained here, by the `model_type` of its config.json; None if it is none of these."""
    kind = model_type.removesuffix(_SUFFIX) if isinstance(model_type, str) else None
    return _load(kind) if kind in MODELS and model_type == f"{kind}{_SUFFIX}" and kind != "hubert" else None


def encoder_class(model_type: Any) -> type[VocalBurstModel] | None:
    """The class whose encoder a checkpoint contains, plain or trained here; None if it is another kind of model."""
    return _load(model_type) if model_type in MODELS else trained_class(model_type)


def all_classes() -> list[type[VocalBurstModel]]:
    """One class of each kind; imports them all."""
    return [_load(kind) for kind in MODELS if kind != "hubert"]


def _load(kind: str) -> type[VocalBurstModel]:
    module, name = MODELS[kind]
    return getattr(import_module(module), name)
