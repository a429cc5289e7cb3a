"""Encoders read from their checkpoints, for training and for pre-training: whole, in fp32, and of the kind asked for.

Unusual: Transformers fills what a file lacks, or has in another shape, with random numbers, reads another kind of model
as if it were this one, and keeps half precision as it is. Each of these is an error or is mended here.
"""

import contextlib
import dataclasses
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, Wav2Vec2FeatureExtractor

from audio_avb import SAMPLING_RATE
from avb.encoders.names import reading_hub
from avb.encoders.weights import has_preparation, quiet, refuse_pointers
from avb.errors import AvbError, did_you_mean
from configuration_avb import VocalBurstConfig

ATTENTION = ("sdpa", "eager", "flash_attention_2")
# Errors of torch, safetensors and Transformers for a file that is truncated or of another type than its name says.
DAMAGE = (
    ArithmeticError, AttributeError, EOFError, LookupError, pickle.UnpicklingError, RuntimeError, SafetensorError,
    StrictDataclassError, TypeError, ValueError,
)  # fmt: skip


def load_encoder(
    find_class: Callable[[Any], type[PreTrainedModel] | None],
    extractor_class: type[Wav2Vec2FeatureExtractor],
    name: str,
    **fields,
) -> tuple[PreTrainedModel, Wav2Vec2FeatureExtractor]:
    """Loads a model whose `base_model` is a checkpoint's encoder, in fp32; its other weights may be random.

    Args:
        find_class: returns the class for a `model_type`, or None; the class has its encoder at its `base_model_prefix`.
        extractor_class: of the feature extractor.
        name: a folder, or a name on the Hub.
        fields: of the configuration; they override those of the checkpoint.

    Raises:
        AvbError: there is no such checkpoint, it contains another kind of model, its file is damaged, incomplete or a
            Git LFS pointer, or it requires another sampling rate.
    """
    with reading_hub(name), _explained(name):
        refuse_pointers(name)
        config = _read_config(name)
        kind: Any = config.get("model_type")
        model_class = find_class(kind)
        if model_class is None:
            raise AvbError(f"--encoder {name}: holds a {kind!r} model, no encoder that is read here (docs/encoders.md)")
        _refuse_foreign_fields(kind, model_class, fields)
        # fp32 whatever the checkpoint's precision: half-precision weights cannot take a step of 1e-5.
        with quiet():
            model, info = model_class.from_pretrained(
                name, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **fields
            )
        is_stored = has_preparation(name)
        feature_extractor = extractor_class.from_pretrained(name) if is_stored else extractor_class()
    _check_is_whole(name, info, f"{model_class.base_model_prefix}.")
    if feature_extractor.sampling_rate != SAMPLING_RATE:
        raise AvbError(f"--encoder {name} wants audio at {feature_extractor.sampling_rate} Hz, not {SAMPLING_RATE} Hz")
    feature_extractor.return_attention_mask = True
    return model, feature_extractor


def _read_config(name: str) -> dict[str, Any]:
    config, _ = PreTrainedConfig.get_config_dict(name)
    if config == {}:
        raise OSError("there is no config.json")
    return config


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Raises an AvbError in place of what is raised for a checkpoint that is not there or is damaged."""
    try:
        yield
    except AvbError:
        raise
    except OSError as error:
        reason = str(error).splitlines()[0]
        what = "cannot be read" if Path(name).is_dir() else "no such folder, and it could not be read from the Hub"
        raise AvbError(
            f"--encoder {name}: {what} ({reason}). Give a folder with config.json, model.safetensors and "
            "preprocessor_config.json, copied whole, a Hub name, or a YAML file of encoder fields; emogator-small "
            "comes with the project and needs no network"
        ) from error
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise AvbError(
            f"--encoder {name}: its files are damaged, or are not what they are called "
            f"({type(error).__name__}: {reason:.200}); copy the folder again"
        ) from error


def check_attention(name: str | None):
    """Refuses an `attn_implementation` that is unknown, or whose package is not available.

    Raises:
        AvbError: it is refused.
    """
    if name is not None and name not in ATTENTION:
        raise AvbError(f"--attn_implementation {name!r} is unknown{did_you_mean(name, ATTENTION, 'Legal')}")
    if name == "flash_attention_2":
        from transformers.utils import is_flash_attn_2_available

        if not is_flash_attn_2_available():
            raise AvbError(
                "--attn_implementation flash_attention_2 needs an NVIDIA GPU and the package flash-attn, and one of "
                "them is not here: leave it at sdpa"
            )


def _refuse_foreign_fields(kind: str, model_class: type[PreTrainedModel], fields: dict):
    if not issubclass(model_class.config_class, VocalBurstConfig):
        return  # pre-training, whose fields are all those of wav2vec 2.0
    known = {"attn_implementation", *(field.name for field in dataclasses.fields(model_class.config_class))}
    if foreign := sorted(fields.keys() - known):
        raise AvbError(f"--{foreign[0]}: a {kind} encoder has no such setting; leave it out")


def _check_is_whole(name: str, info: dict, prefix: str):
    """Raises if a weight of the encoder is missing, or its shape contradicts config.json."""
    missing = sorted(key for key in info["missing_keys"] if _is_encoder(key, prefix))
    if missing:
        raise AvbError(f"--encoder {name}: its file lacks {len(missing)} weights of the encoder, such as {missing[0]}")
    for key, stored, wanted in sorted(info["mismatched_keys"]):
        if _is_encoder(key, prefix):
            raise AvbError(
                f"--encoder {name}: {key} is {list(stored)} in the weights and {list(wanted)} by config.json: these "
                "files do not belong together; copy both again"
            )


def _is_encoder(key: str, prefix: str) -> bool:
    return key.startswith(prefix) and "masked_spec" not in key
