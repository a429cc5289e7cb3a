"""Scores of clips by a trained model: decoded beside the model's work, batched by length, given back in order.

A score is what `logits` holds for a regression task, and a probability (softmax) for a classification.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, PretrainedConfig, PreTrainedModel

from avb.audio import load_audio
from avb.baselines import MODELS as BASELINE_CLASSES
from avb.collator import BurstCollator
from avb.errors import AudioError, AvbError
from configuration_avb import Wav2Vec2VocalBurstConfig
from modeling_avb import Wav2Vec2ForVocalBurst

MODEL_CLASSES = {Wav2Vec2VocalBurstConfig.model_type: Wav2Vec2ForVocalBurst, **BASELINE_CLASSES}
CHUNK_CLIPS = 128  # clips decoded ahead; within a chunk batches are made of clips of like length


@dataclass(frozen=True)
class Clip:
    """One clip to score; `read()` gives its path, its bytes, or a row's {"bytes", "path"} when it is decoded."""

    id: str
    read: Callable[[], Any]


def load_model(name: str, device: str = "auto") -> tuple[PreTrainedModel, Any]:
    """A trained model in evaluation mode and its feature extractor, from a folder or the Hub.

    Raises:
        AvbError: there is no such model, or it is an encoder without a trained head, whose scores would be noise.
    """
    try:
        config_dict, _ = PretrainedConfig.get_config_dict(name)
        model_class = MODEL_CLASSES.get(config_dict.get("model_type"))
        if model_class is None:
            raise AvbError(
                f"{name} holds a {config_dict.get('model_type')!r} model, not a trained vocal-burst model: its scores "
                "would be random. Fine-tune it first: train_avb.py --encoder " + str(name)
            )
        model, info = model_class.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        feature_extractor = AutoFeatureExtractor.from_pretrained(name)
    except OSError as error:
        raise AvbError(
            f"{name}: no such model. Give a folder written by train_avb.py (config.json, model.safetensors, "
            f"preprocessor_config.json) or the name of a model on the Hub ({error})"
        ) from error
    if info["missing_keys"]:
        raise AvbError(
            f"{name}: the weights lack {', '.join(sorted(info['missing_keys'])[:3])}: the file is incomplete"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().to(device), feature_extractor


def scores_from_logits(logits: np.ndarray, config: PretrainedConfig) -> np.ndarray:
    """(clips, labels) logits → scores: regression as it is, classes as probabilities."""
    if config.loss != "ce":
        return logits
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def score_row(scores: np.ndarray, config: PretrainedConfig) -> dict:
    """One clip's scores (labels,) as columns; a classification's row starts with the class it predicts."""
    columns = {config.id2label[index]: round(float(score), 6) for index, score in enumerate(scores)}
    if config.loss != "ce":
        return columns
    return {"prediction": config.id2label[int(scores.argmax())], **columns}


def score_columns(config: PretrainedConfig) -> list[str]:
    """The columns of `score_row`, in order."""
    return (["prediction"] if config.loss == "ce" else []) + [config.id2label[i] for i in range(config.num_labels)]


@torch.inference_mode()
def score_waveforms(model, feature_extractor, waveforms: list[np.ndarray], batch_seconds: float = 64) -> np.ndarray:
    """Scores (clips, labels) of 16 kHz waveforms.

    Batches hold clips of like length, and at most `batch_seconds` of audio, padding included: memory is bounded by the
    longest clip, and little of the work is spent on padding.
    """
    collate = BurstCollator(feature_extractor)
    budget = batch_seconds * feature_extractor.sampling_rate
    scores = np.empty((len(waveforms), model.config.num_labels), dtype=np.float32)
    batch: list[int] = []
    order = sorted(range(len(waveforms)), key=lambda index: len(waveforms[index]))
    for place, index in enumerate(order):
        batch.append(index)
        following = len(waveforms[order[place + 1]]) if place + 1 < len(order) else None
        if following is None or following * (len(batch) + 1) > budget:
            inputs = collate([{"input_values": waveforms[i]} for i in batch]).to(model.device)
            logits = model(**inputs).logits.float().cpu().numpy()
            scores[batch] = scores_from_logits(logits, model.config)
            batch = []
    return scores


def score_clips(
    model, feature_extractor, clips: Iterable[Clip], batch_seconds: float = 64, num_workers: int = 2
) -> Iterator[tuple[Clip, np.ndarray | AudioError]]:
    """Each clip with its scores (labels,), or with the error that kept it from being read; in the order given.

    Audio is prepared as `model.config` says (level, trimming). One chunk is decoded while the one before it is scored.
    """
    audio_settings = {"peak_db": model.config.peak_db, "trim_top_db": model.config.trim_top_db}

    def decode(clip: Clip) -> np.ndarray | AudioError:
        try:
            return load_audio(clip.read(), sampling_rate=feature_extractor.sampling_rate, **audio_settings)
        except AudioError as error:
            return error

    clips = iter(clips)
    with ThreadPoolExecutor(num_workers) as pool:

        def submit() -> list[tuple[Clip, Future]]:
            return [(clip, pool.submit(decode, clip)) for clip in islice(clips, CHUNK_CLIPS)]

        chunk = submit()
        while chunk:
            following = submit()
            decoded = [(clip, future.result()) for clip, future in chunk]
            readable = [waveform for _, waveform in decoded if not isinstance(waveform, AudioError)]
            scores = iter(score_waveforms(model, feature_extractor, readable, batch_seconds))
            for clip, waveform in decoded:
                yield clip, waveform if isinstance(waveform, AudioError) else next(scores)
            chunk = following
