"""The frames of a frozen encoder, computed once per clip instead of once per clip and epoch.

Layer `encoder_layer` of every clip of a split goes to disk in half precision, in shards of Arrow that are memory-mapped
from then on; LSTM and head train from them. The folder's name is a hash of the waveforms, the encoder's weights and all
settings it depends on, so that a stale one cannot be read. A computation that was stopped goes on at the first shard
that is missing.

Unusual: pooling, RNN, loss and labels are no part of the hash. Every head tried on one encoder shares its frames.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
import transformers
from datasets import Dataset, DatasetDict
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import BatchFeature

from avb.baselines import prepare_baseline
from avb.cache import arrow_writer, cache_folder, hash_waveforms
from avb.collator import BurstCollator, collate_labels, length_batches
from avb.errors import AvbError
from configuration_avb import HEAD_FIELDS, Wav2Vec2VocalBurstConfig
from modeling_avb import Wav2Vec2ForVocalBurst, length_mask

_FORMAT = 1  # raise when what the files hold changes
SHARD_CLIPS = 1024
_TYPES = {"float16": pa.float16(), "float32": pa.float32()}


logger = logging.getLogger(__name__)


def training_inputs(
    model,
    feature_extractor,
    splits: DatasetDict,
    *,
    cache_frames: bool = True,
    is_augmented: bool = False,
    dtype: str = "float16",
    autocast: bool = False,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> tuple[DatasetDict, Callable]:
    """What a model is trained and scored on, and the collator of its batches.

    Waveforms; a frozen encoder's frames, where they are the same in every epoch; a baseline's functionals.

    Args:
        model: the untrained model, where its encoder will run.
        feature_extractor: that of the model.
        splits: decoded splits, rows with `input_values` waveforms; one of them is `train`.
        cache_frames: False runs a frozen encoder in every epoch.
        is_augmented: the train clips' waveforms will change from epoch to epoch, or teachers hear them: it runs in
            every epoch too.
        dtype: see `encoder_frames`.
        autocast: see `encoder_frames`.
        num_proc: processes that compute functionals.
        cache_dir: see `avb.cache.cache_folder`.
    """
    if not isinstance(model, Wav2Vec2ForVocalBurst):
        return prepare_baseline(model, feature_extractor, splits, num_proc=num_proc, cache_dir=cache_dir)
    is_frozen = not any(parameter.requires_grad for parameter in model.wav2vec2.parameters())
    if not cache_frames or not is_frozen:
        return splits, BurstCollator(feature_extractor)
    if reason := "train clips are augmented, or teachers hear them" if is_augmented else reason_against(model):
        logger.warning("the frozen encoder runs in every epoch: %s", reason)
        return splits, BurstCollator(feature_extractor)
    settings: dict[str, Any] = {"dtype": dtype, "cache_dir": cache_dir, "autocast": autocast}
    frames = {
        name: encoder_frames(split, model, feature_extractor, name=name, **settings) for name, split in splits.items()
    }
    return DatasetDict(frames), FrameCollator(model.config.hidden_size)


def reason_against(model: Wav2Vec2ForVocalBurst) -> str | None:
    """Why a frozen encoder has to run in every epoch: its frames are random or depend on the batch; else None."""
    config = model.config
    if config.frozen_encoder_dropout and max(config.encoder_dropout, config.layerdrop) > 0:
        return "its dropout is on (frozen_encoder_dropout)"
    is_masked = config.apply_spec_augment and max(config.mask_time_prob, config.mask_feature_prob) > 0
    if config.frozen_encoder_dropout and is_masked:  # what leaves dropout on leaves SpecAugment on
        return "its SpecAugment is on (frozen_encoder_dropout, with mask_time_prob or mask_feature_prob)"
    if config.head_norm == "batch" or config.pools_padding:
        return config.encoder_batch_dependence or "the head sees the frames of the padding (head_norm, or pooling)"
    return config.encoder_batch_dependence


@torch.inference_mode()
def encoder_frames(
    split: Dataset,
    model: Wav2Vec2ForVocalBurst,
    feature_extractor,
    *,
    name: str = "clips",
    dtype: str = "float16",
    cache_dir: str | os.PathLike | None = None,
    batch_seconds: float = 64,
    autocast: bool = False,
) -> Dataset:
    """Replaces waveforms by the frames of the model's encoder; a progress bar shows how far it is.

    Args:
        split: rows with `input_values`, prepared waveforms at 16 kHz, `num_samples`, and any other columns.
        model: its encoder is run as in evaluation, where it is.
        feature_extractor: that of the model.
        name: of the split, for the progress bar.
        dtype: of the frames on disk, float16 or float32.
        cache_dir: see `avb.cache.cache_folder`.
        batch_seconds: audio per batch, padding included.
        autocast: run the encoder in bfloat16, as training with `--bf16 true` would.

    Returns:
        The same rows and columns with `encoder_frames`, a numpy array of shape (frames × hidden,), for `input_values`.

    Raises:
        AvbError: the disk is too small, the folder cannot be written, or a value does not fit into half precision.
    """
    folder = cache_folder(cache_dir) / f"frames-{fingerprint(split, model, feature_extractor, dtype, autocast)}"
    starts = range(0, len(split), SHARD_CLIPS)
    shards = [folder / f"{start // SHARD_CLIPS:05d}.arrow" for start in starts]
    missing = [(start, path) for start, path in zip(starts, shards, strict=True) if not path.exists()]
    if missing:
        _check_space(folder, split, model, dtype, len(missing) / len(shards))
    was_training = model.training
    model.eval()
    schema = pa.schema({"encoder_frames": pa.list_(_TYPES[dtype])})
    with tqdm(desc=f"encode {name}", total=len(split), unit="clip", disable=None) as progress:
        progress.update(len(split) - sum(min(SHARD_CLIPS, len(split) - start) for start, _ in missing))
        for start, path in missing:
            rows = split.select(range(start, min(start + SHARD_CLIPS, len(split))))
            frames = _encode(rows, model, feature_extractor, dtype, batch_seconds, autocast, progress)
            with arrow_writer(path, schema) as writer:
                offsets = np.cumsum([0, *map(len, frames)], dtype=np.int32)
                values = pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(frames), _TYPES[dtype]))
                writer.write_batch(pa.record_batch([values], schema=schema))
    model.train(was_training)
    computed = datasets.concatenate_datasets([Dataset.from_file(str(path)) for path in shards])
    joined = datasets.concatenate_datasets([split.remove_columns("input_values"), computed], axis=1)
    return joined.with_format("numpy", columns=["encoder_frames"], output_all_columns=True)


def fingerprint(split: Dataset, model: Wav2Vec2ForVocalBurst, feature_extractor, dtype: str, autocast: bool) -> str:
    """Hash of everything the frames depend on: 32 hexadecimal digits."""
    config = model.config.to_dict()
    encoder_fields = {field.name for field in fields(Wav2Vec2VocalBurstConfig)} - HEAD_FIELDS
    settings = {
        "format": _FORMAT,
        "versions": [torch.__version__, transformers.__version__],
        "precision": [dtype, autocast],
        "config": {name: config.get(name) for name in sorted(encoder_fields)},
        "normalize": feature_extractor.do_normalize,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for key, tensor in model.wav2vec2.state_dict().items():
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return hash_waveforms(split, digest).hexdigest()[:32]


def _encode(rows, model, feature_extractor, dtype, batch_seconds, autocast, progress) -> list[np.ndarray]:
    """Frames of each row, flat, in the rows' order; batches are made of clips of like length."""
    collate = BurstCollator(feature_extractor)
    waveforms = rows.select_columns("input_values").with_format("numpy")
    frames = [np.empty(0)] * len(rows)
    budget = int(batch_seconds * feature_extractor.sampling_rate)
    for indices in length_batches(rows["num_samples"][:], budget):
        inputs = collate([{"input_values": waveforms[index]["input_values"]} for index in indices]).to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
            outputs, mask = model.encode(**inputs)
        hidden = outputs.last_hidden_state.float().cpu()
        for index, clip, count in zip(indices, hidden, mask.sum(-1).tolist(), strict=True):
            with np.errstate(over="ignore"):
                values = clip[:count].numpy().astype(dtype).reshape(-1)
            if not np.isfinite(values).all():
                raise AvbError(
                    f"the encoder's frames of clip {rows[index]['id']!r} do not fit into {dtype}: use "
                    "--frames_dtype float32, or --cache_frames false"
                )
            frames[index] = values
        progress.update(len(indices))
    return frames


def _check_space(folder: Path, split: Dataset, model: Wav2Vec2ForVocalBurst, dtype: str, share: float):
    stride = int(np.prod(model.config.conv_stride))
    num_frames = sum(split["num_samples"]) / stride * share
    needed = num_frames * model.config.hidden_size * np.dtype(dtype).itemsize
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise AvbError(
            f"{folder}: the encoder's frames need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: give another "
            "--cache_dir, or --cache_frames false"
        )


class FrameCollator:
    """Pads rows of `encoder_frames` and builds their mask, as `BurstCollator` does with waveforms."""

    def __init__(self, hidden_size: int):
        self.hidden_size = hidden_size

    def __call__(self, rows: list[dict]) -> BatchFeature:
        """→ `encoder_frames` (batch, frames, hidden) float32, `frame_mask` (batch, frames), and perhaps `labels`."""
        clips = [
            torch.from_numpy(np.asarray(row["encoder_frames"], dtype=np.float32)).view(-1, self.hidden_size)
            for row in rows
        ]
        lengths = torch.tensor([len(clip) for clip in clips])
        frames = pad_sequence(clips, batch_first=True)  # (batch, frames, hidden)
        mask = length_mask(lengths, frames.shape[1])
        return BatchFeature({"encoder_frames": frames, "frame_mask": mask, **collate_labels(rows)})
