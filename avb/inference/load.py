"""Loads a trained model from a folder, the models shipped with the project, or the Hub, and checks its files first."""

from types import NoneType
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoFeatureExtractor, PreTrainedConfig, PreTrainedModel, Wav2Vec2FeatureExtractor
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING

from audio_avb import SAMPLING_RATE
from avb.encoders.adapters import load_adapters
from avb.encoders.kinds import trained_class
from avb.encoders.weights import check_weights, has_preparation, has_weights, quiet, refuse_pointers
from avb.errors import AudioError, AvbError
from avb.inference.devices import find_device
from avb.inference.engines import ExportedModel, has_hub_export, load_exported, load_hub_export
from avb.inference.precisions import ENGINES
from avb.models import locate, names
from calibration_avb import weights_fingerprint
from configuration_avb import VocalBurstConfig
from feature_extraction_avb import VocalBurstFeatureExtractor
from modeling_avb import VocalBurstModel
from pipeline_avb import TASK, VocalBurstPipeline

# What Transformers, torch and safetensors raise for a value with the wrong type or size.
_DAMAGE = (
    ArithmeticError, AttributeError, LookupError, RuntimeError, SafetensorError, StrictDataclassError, TypeError,
    ValueError,
)  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(
    name: str,
    device: str | int | torch.device = "auto",
    dtype: str = "float32",
    engine: str | None = None,
    precision: str | None = None,
) -> tuple[PreTrainedModel | ExportedModel, Any]:
    """Loads a trained model in evaluation mode, or an export of it, and its feature extractor.

    Args:
        name: a folder, a model shipped with the project (`avb.models`), or a name on the Hub.
        device: see `avb.inference.devices.find_device`.
        dtype: of weights and arithmetic, `float32` or `bfloat16`; the latter is about 1.4 times as fast if the device
            supports it, with scores that differ by a few thousandths.
        engine: `torch`, `onnx` or `openvino`; None: torch if there are safetensors, otherwise what the folder has.
        precision: of an engine's file in the Hub's layout: `fp32`, `fp16` or `int8`; None means fp32.

    Raises:
        AvbError: there is no such device or model, it has no files for this engine, it does not run in this `dtype`,
            its files are damaged or do not fit together, its weights are not safetensors, or it is an encoder without a
            trained head, whose scores would be noise.
    """
    place = find_device(device)
    name = locate(name)
    try:
        with quiet():
            given = "auto" if device == "auto" else str(place)
            model, feature_extractor = _load(name, given, engine, precision)
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
    if dtype != "float32" and not isinstance(model, VocalBurstModel):
        way = "export it with --precision bf16" if isinstance(model, ExportedModel) else "leave it at float32"
        raise AvbError(f"{name}: dtype {dtype} is for models with a speech encoder in torch; {way}")
    if isinstance(model, ExportedModel):
        return model, feature_extractor
    model.trained_weights = weights_fingerprint(model.named_parameters())  # before they are rounded
    return model.eval().to(place, DTYPES[dtype]), feature_extractor


def model_class(model_type: Any) -> type[PreTrainedModel] | None:
    """The class of a saved model, by the `model_type` of its config.json; None if it is not from this project."""
    if found := trained_class(model_type):
        return found
    from avb import baselines  # imported here, because it imports datasets, which takes a quarter of a second

    return baselines.MODELS.get(model_type) if isinstance(model_type, str) else None


def _load(name: str, device: str, engine: str | None, precision: str | None):
    if engine not in (None, "torch", *ENGINES):
        raise AvbError(f"engine={engine!r} is invalid: give torch, {' or '.join(ENGINES)}")
    refuse_pointers(name)
    config_dict, _ = PreTrainedConfig.get_config_dict(name)
    if config_dict == {}:
        raise OSError("there is no config.json")
    model_type = config_dict.get("model_type")
    found = model_class(model_type)
    if found is None:
        raise AvbError(
            f"{name} contains a {model_type!r} model, not a trained vocal-burst model: its scores "
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
    if "adapter" in config_dict:
        return load_adapters(name, found, config).eval(), _load_feature_extractor(name, config, config_dict)
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
        if isinstance(config, VocalBurstConfig) and not has_preparation(name):
            feature_extractor = VocalBurstFeatureExtractor()
        else:
            # Without the argument Transformers would ask on the terminal whether to run code of the repository.
            feature_extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
    except AudioError as error:
        raise AvbError(f"{name}: preprocessor_config.json: {error}") from error
    is_plain = type(feature_extractor) is Wav2Vec2FeatureExtractor
    if "trim_top_db" in config_dict:  # saved by an older version, in which the model had these settings
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
            raise AvbError(f"{name}: {setting}={value!r} in its preprocessor_config.json is invalid; copy it again")


def load(
    name: str, device: str = "auto", engine: str | None = None, precision: str | None = None, **settings
) -> VocalBurstPipeline:
    """See `avb.load`."""
    model, feature_extractor = load_model(name, device, engine=engine, precision=precision)
    return VocalBurstPipeline(
        model=model, feature_extractor=feature_extractor, task=TASK, device=model.device, **settings
    )
