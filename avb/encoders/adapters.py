"""Adapters of low rank (LoRA, Hu et al. 2021, arXiv:2106.09685) on an encoder's query and value projections, by peft.

Merged, a model is like any other. Unmerged, its folder holds no encoder: its name, the adapter as peft writes one
(`adapter/`, over the stock encoder), and what stands above the encoder (`head.safetensors`).
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers.utils import cached_file

from avb.encoders.names import resolve
from avb.errors import AvbError
from avb.files import make_folder
from modeling_avb import VocalBurstModel

ADAPTER, HEAD = "adapter", "head.safetensors"
_WEIGHTS, _SETTINGS = f"{ADAPTER}/adapter_model.safetensors", f"{ADAPTER}/adapter_config.json"
_PREFIX = "base_model.model."  # prefix of the keys that peft writes
MARK = "lora_"  # in the names of an adapter's weights


def import_peft():
    """Imports peft, an optional dependency.

    Raises:
        AvbError: it is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise AvbError('adapters need the package peft, which is missing: pip install "avb[adapters]"') from error
    return peft


def add_adapters(model: VocalBurstModel, rank: int):
    """Adds untrained adapters to the encoder, which do not change its output yet, and freezes its own weights.

    Args:
        model: its encoder is changed in place.
        rank: of the adapters, which are scaled by 2.

    Raises:
        AvbError: peft is not installed, or the rank is invalid.
    """
    if rank < 1:
        raise AvbError(f"--lora_rank {rank} is invalid: give 1 or more, or leave it out")
    peft = import_peft()
    encoder = model.base_model
    model.freeze_feature_encoder()
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(model.lora_targets))
    peft.inject_adapter_in_model(settings, encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad = MARK in name


def has_adapters(model: torch.nn.Module) -> bool:
    return any(MARK in name for name, _ in model.named_parameters())


def merge_adapters(model: VocalBurstModel):
    """Merges the adapters into the encoder's weights and removes them; a model without adapters is not changed."""
    if not has_adapters(model):
        return
    import_peft()
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(model.base_model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())


def trained_state(model: VocalBurstModel) -> dict[str, torch.Tensor]:
    """Adapters, head and layer weights: all that a checkpoint needs to contain."""
    prefix = f"{model.base_model_prefix}."
    return {name: value for name, value in model.state_dict().items() if MARK in name or not name.startswith(prefix)}


def save_adapters(model: VocalBurstModel, feature_extractor, encoder: str, folder: str | Path) -> Path:
    """Writes adapters and head to a folder that `avb.load` reads if peft and the encoder are available.

    Args:
        model: with adapters.
        feature_extractor: the model's.
        encoder: the encoder of the adapters: a folder or a name on the Hub, as passed to `--encoder`.
        folder: created if it does not exist.
    """
    peft = import_peft()
    folder = make_folder(folder)
    weights = peft.get_peft_model_state_dict(model.base_model)
    settings = model.base_model.peft_config["default"]
    settings.base_model_name_or_path = encoder
    settings.save_pretrained(folder / ADAPTER)
    save_file({_PREFIX + key: value.contiguous() for key, value in weights.items()}, folder / _WEIGHTS)
    save_file({key: value for key, value in trained_state(model).items() if MARK not in key}, folder / HEAD)
    # Code in a Hub folder loads safetensors, and would not find an encoder here.
    model.config.auto_map, model.config.custom_pipelines = {}, {}
    model.config.adapter = {"encoder": encoder}
    model.config.save_pretrained(folder)
    feature_extractor.save_pretrained(folder)
    return folder


def load_adapters(name: str, model_class: type[VocalBurstModel], config) -> VocalBurstModel:
    """Loads a model from a folder that `save_adapters` wrote, and merges its adapters.

    Raises:
        AvbError: peft is not installed, the encoder has changed, or a file lacks weights.
        OSError: the encoder cannot be found.
    """
    peft = import_peft()
    encoder = config.adapter["encoder"]
    model, info = model_class.from_pretrained(
        resolve(encoder), config=config, dtype=torch.float32, output_loading_info=True
    )
    lacking = [key for key in info["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")]
    if lacking:
        raise AvbError(
            f"{name}: the encoder it stands on, {encoder}, lacks {len(lacking)} weights, such as {lacking[0]}"
        )
    settings = peft.LoraConfig(**json.loads(Path(cached_file(name, _SETTINGS)).read_text(encoding="utf-8")))
    peft.inject_adapter_in_model(settings, model.base_model)
    weights = load_file(cached_file(name, _WEIGHTS))
    found = peft.set_peft_model_state_dict(
        model.base_model, {key.removeprefix(_PREFIX): value for key, value in weights.items()}
    )
    head = load_file(cached_file(name, HEAD))
    missing = {key for key in trained_state(model) if MARK not in key} - head.keys()
    missing |= {key for key in found.missing_keys if MARK in key} | set(found.unexpected_keys)
    if missing:
        raise AvbError(f"{name}: the weights lack {', '.join(sorted(missing)[:3])}: the folder is incomplete")
    model.load_state_dict(head, strict=False)
    merge_adapters(model)
    return model
