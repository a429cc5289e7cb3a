"""Chooses values that depend on the device, if not given: precision, loader workers, size of evaluation batches.

A speech encoder is trained in bfloat16 where the device multiplies in it: a GPU that supports it, or a CPU with
instructions for it. Other GPUs use TF32. On a GPU, clips are loaded by worker processes that run until training ends.
Given values win, also those of a recipe. Values that affect results are written to the run's recipe, and a resumed run
keeps them.
"""

import gc
import os
import warnings
from collections.abc import Container
from typing import Any

import torch
from transformers.utils import is_torch_bf16_gpu_available, is_torch_tf32_available

from audio_avb import SAMPLING_RATE
from avb.arguments import AvbTrainingArguments, ModelArguments

MAX_WORKERS = 8  # per device
MAX_DRAWING_WORKERS = 2  # where the clips lie on the device, and only what is changed is drawn
PREFETCH = 4  # batches per worker
MAX_EVAL_BATCH = 256
# Of the first convolutions' outputs, which are the largest: 3,200 frames per second of 512 channels in fp32, and the
# copies that a layer norm makes of them.
EVAL_BYTES_PER_SECOND = 4 * 3200 * 512 * 4
EVAL_SHARE = 0.25  # of the free memory: training has the rest


def fill_in(
    model_args: ModelArguments, args: AvbTrainingArguments, given: Container[str], known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Sets what was not given, for the run's device; on a CPU the precision only.

    Args:
        model_args: of the run.
        args: changed in place.
        given: names of the arguments that a recipe or the command line gave.
        known: values of the run that is resumed; precision stays what it was.

    Returns:
        What was set and changes a number, to be written into the recipe.
    """
    if args.audio_on_device == "auto":
        args.audio_on_device = str((known or {}).get("audio_on_device", "auto")).lower()
    device = args.device.type
    if device not in ("cpu", "cuda"):
        return {}
    chosen: dict[str, Any] = {}
    if "bf16" not in given and "fp16" not in given:
        # Not the baselines: what they compute of spectra has more range than bfloat16 has digits.
        can = has_fast_bf16() if device == "cpu" else is_torch_bf16_gpu_available()
        # A run that has no entry began when CPUs had no such choice.
        chosen["bf16"] = known.get("bf16", False) if known else model_args.model == "wav2vec2" and can
    if device == "cuda" and "tf32" not in given and is_torch_tf32_available():
        chosen["tf32"] = True
    chosen |= {name: value for name, value in (known or {}).items() if name in chosen}
    if chosen.get("bf16"):
        args.bf16, args.mixed_precision = True, "bf16"
    if device == "cpu":
        return chosen
    if "tf32" in chosen:
        args.tf32 = chosen["tf32"]
    if args.tf32 is not None:
        set_tf32(args.tf32)
    if "logging_nan_inf_filter" not in given:
        args.logging_nan_inf_filter = False  # to look at each step's loss, the host would wait for the device
    args.accelerator_config.non_blocking = args.dataloader_pin_memory
    if "dataloader_num_workers" not in given:
        args.dataloader_num_workers = loader_workers(args.world_size)
    if args.dataloader_num_workers > 0:
        if "dataloader_persistent_workers" not in given:
            args.dataloader_persistent_workers = True
        if "dataloader_prefetch_factor" not in given:
            args.dataloader_prefetch_factor = PREFETCH
    return chosen


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16; others convert to fp32 and back, which takes longer.

    Every CPU that has AMX's products has AVX-512's too. `torch.cpu.get_capabilities`, which is public, is younger than
    the oldest torch that is allowed.
    """
    return torch.cpu._is_avx512_bf16_supported()


def set_tf32(is_on: bool):
    """Products, convolutions and LSTMs in fp32 round their factors to ten bits, or do not.

    By both of torch's interfaces. By the newer one alone, which Transformers takes, convolutions and LSTMs stay as they
    are (pytorch/pytorch#179445), and the older one raises when torch.compile asks it (#166387).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one of them is older
        torch.backends.fp32_precision = "tf32" if is_on else "ieee"  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_on
        torch.set_float32_matmul_precision("high" if is_on else "highest")


def loader_workers(world_size: int) -> int:
    """Processes that load clips, per device: all processors but one, shared by the devices of this machine."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, max(processors // max(world_size, 1) - 1, 0))


def fill_in_loading(args: AvbTrainingArguments, given: Container[str]):
    """Sets the number of loader workers where clips lie on the device, unless it was given."""
    if "dataloader_num_workers" not in given:
        args.dataloader_num_workers = min(args.dataloader_num_workers, MAX_DRAWING_WORKERS)


def free_bytes(device: torch.device) -> int:
    """Of a GPU's memory what a tensor can have: also what torch keeps for later, and what the model of a fold had."""
    gc.collect()
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def evaluation_batch_size(longest_samples: int, free: int) -> int:
    """Clips per evaluation batch that so much free memory, in bytes, has room for: a power of two from 1 to 256."""
    room = EVAL_SHARE * free / (EVAL_BYTES_PER_SECOND * max(longest_samples, 1) / SAMPLING_RATE)
    size = 1
    while size * 2 <= min(room, MAX_EVAL_BATCH):
        size *= 2
    return size


def fill_in_evaluation(args: AvbTrainingArguments, given: Container[str], longest_samples: int, dependence: str | None):
    """Sets the size of evaluation batches, unless it was given or a clip's score depends on its batch."""
    if args.device.type == "cuda" and dependence is None and "per_device_eval_batch_size" not in given:
        args.per_device_eval_batch_size = evaluation_batch_size(longest_samples, free_bytes(args.device))


def summary(args: AvbTrainingArguments, lengths: int, has_graphs: bool = False, audio_bytes: int = 0) -> str:
    """One line of how the device is used.

    Args:
        args: of the run.
        lengths: that batches are padded to; 0 where each is as long as its longest clip.
        has_graphs: whether steps are captured as CUDA graphs.
        audio_bytes: of the clips that lie on the device; 0 where they come from the disk.
    """
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "TF32" if args.tf32 else "fp32"
    if args.bf16 and args.device.type == "cpu" and not has_fast_bf16():
        # Convolutions become plain loops: a step of SE-ResNet took eight times as long on an AMD EPYC with AVX2.
        precision = "bf16, which this processor has no instructions for, so it is slower than --bf16 false"
    workers = args.dataloader_num_workers
    loading = f"{workers} loader workers" if workers else "clips loaded in this process"
    if audio_bytes:
        drawing = f", changes drawn by {workers} processes" if workers else ""
        loading = f"all clips in its memory ({audio_bytes / 1e6:,.0f} MB){drawing}"
    kept = ", kept between epochs" if workers and args.dataloader_persistent_workers else ""
    padded = f"; batches padded to {lengths} lengths" if lengths else ""
    graphs = "; steps as CUDA graphs" if has_graphs else ""
    evaluation = f"evaluation of {args.per_device_eval_batch_size} clips"
    return f"on {name}: {precision}, {loading}{kept}, {evaluation}{padded}{graphs}"
