"""Scores of clips by a trained model: decoded beside the model's work, batched by length, given back in order.

A score is what `logits` holds for a regression task, and a probability (softmax) for a classification.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, PreTrainedConfig, PreTrainedModel, Wav2Vec2FeatureExtractor

from audio_avb import MAX_SECONDS, load_audio
from avb.collator import BurstCollator, length_batches
from avb.errors import AudioError, AvbError
from avb.runtime import MAX_SECONDS as EXPORT_MAX_SECONDS
from avb.runtime import ExportedModel, load_exported
from configuration_avb import MULTITASK, Wav2Vec2VocalBurstConfig
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import Wav2Vec2ForVocalBurst
from pipeline_avb import TASK, VocalBurstPipeline, scores_from_logits


def _baseline_class(model_type: str) -> type[PreTrainedModel]:
    from avb import baselines  # it imports datasets, a quarter of a second

    return baselines.MODELS[model_type]


# What `load_model` reads, by the `model_type` that is saved: a function that gives the class.
MODEL_CLASSES: dict[str, Callable[[], type[PreTrainedModel]]] = {
    Wav2Vec2VocalBurstConfig.model_type: lambda: Wav2Vec2ForVocalBurst,
    "opensmile-mlp": lambda: _baseline_class("opensmile-mlp"),
    "emo18": lambda: _baseline_class("emo18"),
}
CHUNK_CLIPS = 128  # clips decoded ahead; within a chunk batches are made of clips of like length


@dataclass(frozen=True)
class Clip:
    """One clip to score; `read()` gives its path, its bytes, or a row's {"bytes", "path"} when it is decoded."""

    id: str
    read: Callable[[], Any]


def load_model(name: str, device: str = "auto") -> tuple[PreTrainedModel | ExportedModel, Any]:
    """A trained model in evaluation mode, or an export of it, and its feature extractor, from a folder or the Hub.

    Raises:
        AvbError: there is no such model, or it is an encoder without a trained head, whose scores would be noise.
    """
    try:
        config_dict, _ = PreTrainedConfig.get_config_dict(name)
        find_class = MODEL_CLASSES.get(config_dict.get("model_type"))
        if find_class is None:
            raise AvbError(
                f"{name} holds a {config_dict.get('model_type')!r} model, not a trained vocal-burst model: its scores "
                "would be random. Fine-tune it first: train_avb.py --encoder " + str(name)
            )
        if "export" in config_dict:
            config = find_class().config_class.from_pretrained(name)
            return load_exported(name, config, device), _load_feature_extractor(name, config, config_dict)
        model, info = find_class().from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        feature_extractor = _load_feature_extractor(name, model.config, config_dict)
    except OSError as error:
        raise AvbError(
            f"{name}: no such model. Give a folder written by train_avb.py (config.json, model.safetensors, "
            f"preprocessor_config.json) or the name of a model on the Hub ({str(error).splitlines()[0]})"
        ) from error
    if info["missing_keys"]:
        raise AvbError(
            f"{name}: the weights lack {', '.join(sorted(info['missing_keys'])[:3])}: the file is incomplete"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().to(device), feature_extractor


def _load_feature_extractor(name: str, config: PreTrainedConfig, config_dict: dict):
    feature_extractor = AutoFeatureExtractor.from_pretrained(name)
    is_plain = type(feature_extractor) is Wav2Vec2FeatureExtractor
    if "trim_top_db" in config_dict:  # saved when these settings were still the model's
        if is_plain:
            feature_extractor = VocalBurstFeatureExtractor.from_pretrained(name)
        for setting in ("trim_top_db", "peak_db"):
            setattr(feature_extractor, setting, config_dict[setting])
            delattr(config, setting)
    elif is_plain:
        raise AvbError(
            f"{name}: its preprocessor_config.json is a plain encoder's, and does not say how clips are trimmed and "
            "levelled; save the model with avb.hub.save_hub_folder and a VocalBurstFeatureExtractor"
        )
    return feature_extractor


def load(name: str, device: str = "auto", **settings) -> VocalBurstPipeline:
    """A trained model as a pipeline, from a folder or the Hub; with this project's code, none of the repository's.

    Args:
        name: folder written by train_avb.py, or a model on the Hub.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        settings: defaults of the calls, see `VocalBurstPipeline`: `top_k`, `window_seconds`, `batch_size`, …

    Raises:
        AvbError: see `load_model`.
    """
    model, feature_extractor = load_model(name, device)
    return VocalBurstPipeline(
        model=model, feature_extractor=feature_extractor, task=TASK, device=model.device, **settings
    )


def score_row(scores: np.ndarray, config: PreTrainedConfig) -> dict:
    """One clip's scores (labels,) as columns, after the class that each classification predicts."""
    predicted = {
        name: config.id2label[part.start + int(scores[part].argmax())] for name, part in _classifications(config)
    }
    return predicted | {config.id2label[index]: round(float(score), 6) for index, score in enumerate(scores)}


def score_columns(config: PreTrainedConfig) -> list[str]:
    """The columns of `score_row`, in order."""
    predicted = [name for name, _ in _classifications(config)]
    return predicted + [config.id2label[index] for index in range(config.num_labels)]


def _classifications(config: PreTrainedConfig) -> list[tuple[str, slice]]:
    """Column of the predicted class, and the outputs of its classes; several in a multitask."""
    if config.loss != MULTITASK:
        return [("prediction", slice(0, config.num_labels))] if config.loss == "ce" else []
    ends = accumulate(task["num_labels"] for task in config.tasks)
    return [
        (f"prediction_{task['name']}", slice(end - task["num_labels"], end))
        for task, end in zip(config.tasks, ends, strict=True)
        if task["loss"] == "ce"
    ]


@torch.inference_mode()
def score_waveforms(model, feature_extractor, waveforms: list[np.ndarray], batch_seconds: float = 64) -> np.ndarray:
    """Scores (clips, labels) of 16 kHz waveforms that were trimmed and levelled when they were decoded.

    Batches hold clips of like length, and at most `batch_seconds` of audio, padding included.
    """
    collate = BurstCollator(feature_extractor)
    scores = np.empty((len(waveforms), model.config.num_labels), dtype=np.float32)
    budget = int(batch_seconds * feature_extractor.sampling_rate)
    for indices in length_batches([len(waveform) for waveform in waveforms], budget):
        inputs = collate([{"input_values": waveforms[index]} for index in indices]).to(model.device)
        logits = model(**inputs).logits.float().cpu().numpy()
        scores[indices] = scores_from_logits(logits, model.config)
    return scores


def score_clips(
    model, feature_extractor, clips: Iterable[Clip], batch_seconds: float = 64, num_workers: int = 2
) -> Iterator[tuple[Clip, np.ndarray | AudioError]]:
    """Each clip with its scores (labels,), or with the error that kept it from being read; in the order given.

    Audio is prepared as the feature extractor says (level, trimming). One chunk is decoded while the one before it is
    scored.
    """
    audio_settings = {
        "peak_db": feature_extractor.peak_db,
        "trim_top_db": feature_extractor.trim_top_db,
        # A clip that is too long for an export is one clip's error, not the end of the others' scores.
        "max_seconds": EXPORT_MAX_SECONDS if isinstance(model, ExportedModel) else MAX_SECONDS,
    }

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
