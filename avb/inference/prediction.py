"""Scores of clips by a trained model: decoded beside the model's work, batched by length, given back in order.

A score is what `logits` holds for a regression task, and a probability (softmax) for a classification.
"""

import ctypes
import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Barrier
from types import NoneType
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoFeatureExtractor, PreTrainedConfig, PreTrainedModel, Wav2Vec2FeatureExtractor
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING

from audio_avb import MAX_SECONDS, SAMPLING_RATE, AudioPreparation
from avb.collator import BurstCollator, length_batches
from avb.encoders.weights import check_weights, has_preparation, has_weights, quiet, refuse_pointers
from avb.errors import AudioError, AvbError
from avb.inference.clips import Clip
from avb.inference.engines import ENGINES, ExportedModel, has_hub_export, load_exported, load_hub_export
from avb.inference.engines import MAX_SECONDS as EXPORT_MAX_SECONDS
from avb.models import locate, names
from calibration_avb import weights_fingerprint
from configuration_avb import MULTITASK, Wav2Vec2VocalBurstConfig
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import Wav2Vec2ForVocalBurst
from pipeline_avb import TASK, VocalBurstPipeline, scores_from_logits

# What Transformers, torch and safetensors make of a value of the wrong type or size: whatever it leads to there.
_DAMAGE = (
    ArithmeticError, AttributeError, LookupError, RuntimeError, SafetensorError, StrictDataclassError, TypeError,
    ValueError,
)  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Audio a batch, in seconds. A CPU gains nothing from larger batches, and smaller ones hold less padding.
CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 24.0, 64.0
MAX_BATCH_WORKERS = 4  # batches at once on a CPU; each has its own activations in memory
CHUNK_CLIPS = 128  # clips decoded ahead; within a chunk batches are made of clips of like length


def load_model(
    name: str, device: str = "auto", dtype: str = "float32", engine: str | None = None, precision: str | None = None
) -> tuple[PreTrainedModel | ExportedModel, Any]:
    """A trained model in evaluation mode, or an export of it, and its feature extractor.

    Args:
        name: a folder, one of the models that come with the project (`avb.models`), or a name on the Hub.
        device: `auto`, `cpu`, `cuda`, …
        dtype: of weights and arithmetic, `float32` or `bfloat16`: about 1.4 times as fast where the device has it,
            and scores that differ by some thousandths.
        engine: `torch`, `onnx` or `openvino`; None is torch where there are safetensors, else what the folder has.
        precision: of an engine's file in the Hub's layout: `fp32`, `fp16` or `int8`; None is fp32.

    Raises:
        AvbError: there is no such model, it has no files for this engine, it does not run in this `dtype`, its files
            are damaged or do not fit together, its weights are no safetensors, or it is an encoder without a trained
            head, whose scores would be noise.
    """
    name = locate(name)
    try:
        with quiet():
            model, feature_extractor = _load(name, device, engine, precision)
    except AvbError:
        raise
    except OSError as error:
        raise AvbError(
            f"{name}: no such model. Give a folder written by train_avb.py (config.json, model.safetensors, "
            f"preprocessor_config.json), {''.join(f'{shipped}, ' for shipped in names())}or the name of a model on the "
            f"Hub ({str(error).splitlines()[0]})"
        ) from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise AvbError(
            f"{name}: its files are damaged or do not fit together ({type(error).__name__}: {reason:.300}); copy the "
            "model again"
        ) from error
    if dtype != "float32" and not isinstance(model, Wav2Vec2ForVocalBurst):
        way = "export it with --precision bf16" if isinstance(model, ExportedModel) else "leave it at float32"
        raise AvbError(f"{name}: dtype {dtype} is for models with a wav2vec 2.0 encoder in torch; {way}")
    if isinstance(model, ExportedModel):
        return model, feature_extractor
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model.trained_weights = weights_fingerprint(model.named_parameters())  # before they are rounded
    return model.eval().to(device, DTYPES[dtype]), feature_extractor


def model_class(model_type: Any) -> type[PreTrainedModel] | None:
    """The class of a saved model, by the `model_type` of its config.json; None where it is none of this project's."""
    if model_type == Wav2Vec2VocalBurstConfig.model_type:
        return Wav2Vec2ForVocalBurst
    from avb import baselines  # here: it imports datasets, a quarter of a second

    return baselines.MODELS.get(model_type) if isinstance(model_type, str) else None


def _load(name: str, device: str, engine: str | None, precision: str | None):
    if engine not in (None, "torch", *ENGINES):
        raise AvbError(f"engine={engine!r} is not legal: give torch, {' or '.join(ENGINES)}")
    refuse_pointers(name)
    config_dict, _ = PreTrainedConfig.get_config_dict(name)
    if config_dict == {}:
        raise OSError("there is no config.json")
    model_type = config_dict.get("model_type")
    found = model_class(model_type)
    if found is None:
        raise AvbError(
            f"{name} holds a {model_type!r} model, not a trained vocal-burst model: its scores "
            "would be random. Fine-tune it first: train_avb.py --encoder " + str(name)
        )
    config = found.config_class.from_pretrained(name)
    if "export" in config_dict:
        model = load_exported(name, config, device)
        if (engine or config.export["backend"], precision) != (config.export["backend"], None):
            raise AvbError(f"{name} is an export for one engine at one precision; leave engine and precision out")
        return model, _load_feature_extractor(name, config, config_dict)
    if engine is None and not has_weights(name) and has_hub_export(name):
        engine = "onnx"
    if engine in ENGINES:
        model = load_hub_export(name, config, device, engine, precision)
        return model, _load_feature_extractor(name, config, config_dict)
    if precision is not None:
        raise AvbError(f"precision={precision!r} is for engine='onnx' or 'openvino'; with torch it is dtype")
    check_weights(name, config)
    model, info = found.from_pretrained(
        name, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True
    )
    if info["mismatched_keys"]:
        key, stored, wanted = min(info["mismatched_keys"])
        raise AvbError(
            f"{name}: {key} is {list(stored)} in the weights and {list(wanted)} by config.json: these files do not "
            "belong together; copy the model again"
        )
    if info["missing_keys"]:
        raise AvbError(
            f"{name}: the weights lack {', '.join(sorted(info['missing_keys'])[:3])}: the file is incomplete"
        )
    return model, _load_feature_extractor(name, model.config, config_dict)


def _load_feature_extractor(name: str, config: PreTrainedConfig, config_dict: dict):
    try:
        if isinstance(config, Wav2Vec2VocalBurstConfig) and not has_preparation(name):
            feature_extractor = VocalBurstFeatureExtractor()
        else:
            # Without the argument Transformers would ask on the terminal whether to run code of the repository.
            feature_extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
    except AudioError as error:
        raise AvbError(f"{name}: preprocessor_config.json: {error}") from error
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
            "levelled; save the model with avb.cards.hub_folder.save_hub_folder and a VocalBurstFeatureExtractor"
        )
    _check_feature_extractor(name, feature_extractor, FEATURE_EXTRACTOR_MAPPING[type(config)])
    return feature_extractor


def _check_feature_extractor(name: str, feature_extractor, expected: type):
    if not isinstance(feature_extractor, expected):
        raise AvbError(
            f"{name}: its preprocessor_config.json is that of {type(feature_extractor).__name__}, not of "
            f"{expected.__name__}: it belongs to another model; copy it again"
        )
    number = (int, float, NoneType)
    for setting, types in {"sampling_rate": (int,), "peak_db": number, "trim_top_db": number}.items():
        value = getattr(feature_extractor, setting)
        if not isinstance(value, types) or (setting == "sampling_rate" and value != SAMPLING_RATE):
            raise AvbError(f"{name}: {setting}={value!r} in its preprocessor_config.json is not legal; copy it again")


def load(
    name: str, device: str = "auto", engine: str | None = None, precision: str | None = None, **settings
) -> VocalBurstPipeline:
    """See `avb.load`."""
    model, feature_extractor = load_model(name, device, engine=engine, precision=precision)
    return VocalBurstPipeline(
        model=model, feature_extractor=feature_extractor, task=TASK, device=model.device, **settings
    )


def model_key(model: PreTrainedModel | ExportedModel, feature_extractor) -> str:
    """What a table depends on beside the clips: configuration, preparation of audio, some weights, its columns."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    digest.update("\0".join(score_columns(model.config)).encode())  # a table that an older version began has others
    digest.update(feature_extractor.to_json_string().encode())
    for parameter in model.parameters():
        digest.update(parameter.detach().flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def score_row(scores: np.ndarray, config: PreTrainedConfig) -> dict:
    """One clip's scores (labels,) as columns, after the class that each classification predicts and its probability."""
    row: dict[str, str | float] = {}
    for suffix, part in _classifications(config):
        best = int(scores[part].argmax())
        row |= {f"prediction{suffix}": config.id2label[part.start + best]}
        row |= {f"confidence{suffix}": round(float(scores[part][best]), 6)}
    # Last: a label of one of these names, as models have that were trained before they were refused, stays a label.
    return row | {config.id2label[index]: round(float(score), 6) for index, score in enumerate(scores)}


def score_columns(config: PreTrainedConfig) -> dict[str, type]:
    """The columns of `score_row`, in order, and what is in them: text or numbers."""
    columns: dict[str, type] = {}
    for suffix, _ in _classifications(config):
        columns |= {f"prediction{suffix}": str, f"confidence{suffix}": float}
    return columns | {config.id2label[index]: float for index in range(config.num_labels)}


def _classifications(config: PreTrainedConfig) -> list[tuple[str, slice]]:
    """What the columns of a classification end in, and the outputs of its classes; several in a multitask."""
    if config.loss != MULTITASK:
        return [("", slice(0, config.num_labels))] if config.loss == "ce" else []
    parts = zip(config.tasks, config.task_slices, strict=True)
    return [(f"_{task['name']}", place) for task, place in parts if task["loss"] == "ce"]


def score_waveforms(
    model, feature_extractor, waveforms: list[np.ndarray], batch_seconds: float | None = None
) -> np.ndarray:
    """Scores (clips, labels) of 16 kHz waveforms that were trimmed and levelled when they were decoded.

    Batches hold clips of like length, and at most `batch_seconds` of audio, padding included; None is 24 s on a CPU and
    64 s elsewhere.
    """
    with _batch_workers(model) as run_all:
        return _score_batches(model, feature_extractor, waveforms, batch_seconds, run_all)


def _score_batches(model, feature_extractor, waveforms, batch_seconds, run_all: Callable) -> np.ndarray:
    if batch_seconds is None:
        batch_seconds = CPU_BATCH_SECONDS if model.device.type == "cpu" else GPU_BATCH_SECONDS
    collate = BurstCollator(feature_extractor)
    scores = np.empty((len(waveforms), model.config.num_labels), dtype=np.float32)
    budget = int(batch_seconds * feature_extractor.sampling_rate)

    @torch.inference_mode()
    def score(indices: list[int]):
        inputs = collate([{"input_values": waveforms[index]} for index in indices]).to(model.device)
        inputs["input_values"] = inputs["input_values"].to(model.dtype)
        logits = model(**inputs).logits.float().cpu().numpy()
        scores[indices] = scores_from_logits(logits, model.config)

    run_all(score, length_batches([len(waveform) for waveform in waveforms], budget))
    return scores


@contextmanager
def _batch_workers(model: PreTrainedModel | ExportedModel) -> Iterator[Callable]:
    """A function `(work, items)` that does the items, on a CPU some at once, torch's threads dealt out to them.

    The operations of a small encoder on some seconds of audio are too short to be cut up: two batches, a thread each,
    take less time than one after the other with two threads each.
    """
    threads = torch.get_num_threads()
    is_export = isinstance(model, ExportedModel)  # it has threads of its own
    workers = 1 if is_export or model.device.type != "cpu" else min(MAX_BATCH_WORKERS, threads)
    if workers == 1:
        yield lambda work, items: [work(item) for item in items]
        return
    everyone = Barrier(workers)

    def take_threads(_):
        everyone.wait()  # each worker takes one of these
        torch.get_num_threads()  # else the worker's first operation goes back to the number of the process
        torch.set_num_threads(threads // workers)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(take_threads, range(workers)))
        torch.set_num_threads(threads)  # for this thread, and those that start from now on
        yield lambda work, items: list(pool.map(work, items))


def _memory_trimmer() -> Callable[[], object]:
    """Gives freed memory back to the system, where the C library is glibc.

    It keeps what lies below a block that is still in use: with clips of mixed length, some hundred MB by and by.
    """
    if platform.libc_ver()[0] != "glibc":
        return lambda: None
    trim = ctypes.CDLL(None).malloc_trim
    return lambda: trim(0)


def limit_key(max_seconds: float) -> str:
    """What another limit than the usual one adds to a model's key: which clips are too long depends on it."""
    return "" if max_seconds == MAX_SECONDS else f" {max_seconds:g} s"


def score_clips(
    model,
    feature_extractor,
    clips: Iterable[Clip],
    batch_seconds: float | None = None,
    num_workers: int = 2,
    max_seconds: float = MAX_SECONDS,
) -> Iterator[tuple[Clip, np.ndarray | AudioError]]:
    """Each clip with its scores (labels,), or with the error that kept it from being read; in the order given.

    Audio is prepared as the feature extractor says (level, trimming); a clip longer than `max_seconds` is an error. One
    chunk is decoded while the one before it is scored.
    """
    if isinstance(model, ExportedModel):  # too long for it is one clip's error, not the end of the others' scores
        max_seconds = min(max_seconds, EXPORT_MAX_SECONDS)
    preparation = AudioPreparation.of(feature_extractor, max_seconds)

    def decode(clip: Clip) -> np.ndarray | AudioError:
        try:
            return preparation.load(clip.read())
        except AudioError as error:
            return error

    clips = iter(clips)
    give_back = _memory_trimmer()
    with ThreadPoolExecutor(num_workers) as pool, _batch_workers(model) as run_all:

        def submit() -> list[tuple[Clip, Future]]:
            return [(clip, pool.submit(decode, clip)) for clip in islice(clips, CHUNK_CLIPS)]

        chunk = submit()
        while chunk:
            following = submit()
            decoded = [(clip, future.result()) for clip, future in chunk]
            readable = [waveform for _, waveform in decoded if not isinstance(waveform, AudioError)]
            scores = iter(_score_batches(model, feature_extractor, readable, batch_seconds, run_all))
            for clip, waveform in decoded:
                yield clip, waveform if isinstance(waveform, AudioError) else next(scores)
            chunk = following
            give_back()
