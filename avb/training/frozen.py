"""Computes the frames of a frozen encoder, or of its frozen front end, once per clip instead of once per epoch.

Layer `encoder_layer` of every clip of a split, or the output of the convolutions, is stored on disk in half precision,
in memory-mapped Arrow shards; the rest of the model is trained on these frames. The folder's name is a hash of the
waveforms, the weights of the frozen part and all settings that matter, so outdated frames are never read. An
interrupted computation continues with the first missing shard.

Unusual: pooling, RNN, loss and labels are not part of the hash, so all heads tried on one encoder share its frames.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
import transformers
from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm
from transformers import BatchFeature

from avb.baselines import prepare_baseline
from avb.cache import arrow_writer, cache_folder, hash_waveforms
from avb.collator import BurstCollator, collate_labels, length_batches, padded_length
from avb.errors import AvbError
from avb.training.frozen_parts import FrozenPart, frozen_part, reason_against, whole_encoder
from front_end_avb import length_mask
from modeling_avb import VocalBurstModel

_FORMAT = 1  # increase when the content of the files changes
SHARD_CLIPS = 1024
NUMBER = "number_in_pool"  # a column of rows of folds
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
    pool: Dataset | None = None,
) -> tuple[DatasetDict, Callable]:
    """The inputs on which a model is trained and scored, and the collator of its batches.

    The inputs are waveforms, the frames of a frozen encoder or front end if they are the same in every epoch, or the
    functionals of a baseline.

    Args:
        model: the untrained model, on the device where its encoder will run.
        feature_extractor: that of the model.
        splits: decoded splits, rows with `input_values` waveforms; one of them is `train`.
        cache_frames: False runs the frozen part in every epoch.
        is_augmented: whether the training waveforms change between epochs, or teachers score them: then the frozen part
            runs in every epoch too.
        dtype: see `encoder_frames`.
        autocast: see `encoder_frames`.
        num_proc: processes that compute functionals.
        cache_dir: see `avb.cache.cache_folder`.
        pool: the rows of `number_rows` from which splits were taken: their frames are used for all folds.
    """
    if not isinstance(model, VocalBurstModel):
        return prepare_baseline(model, feature_extractor, splits, num_proc=num_proc, cache_dir=cache_dir)
    kept = frozen_part(model)
    if not cache_frames or kept is None:
        return splits, BurstCollator(feature_extractor)
    reason = "train clips are augmented, or teachers hear them" if is_augmented else reason_against(model, kept)
    if reason is None and kept.is_optional:
        reason = shortage(cache_folder(cache_dir), splits.values(), kept, dtype)
    if reason:
        say = logger.info if kept.is_optional and is_augmented else logger.warning
        say("the frozen %s runs in every epoch: %s", kept.name, reason)
        return splits, BurstCollator(feature_extractor)
    settings: dict[str, Any] = {"dtype": dtype, "cache_dir": cache_dir, "autocast": autocast}
    of_pool = None
    if pool is not None:
        of_pool = frozen_frames(pool, model, kept, feature_extractor, name="all folds", **settings)
    frames = {
        name: cut_from(of_pool, split, kept.column)
        if of_pool is not None and NUMBER in split.column_names
        else frozen_frames(split, model, kept, feature_extractor, name=name, **settings)
        for name, split in splits.items()
    }
    return DatasetDict(frames), FrameCollator(kept.width, kept.column)


def encoder_frames(split: Dataset, model: VocalBurstModel, feature_extractor, **settings) -> Dataset:
    """`frozen_frames` of the whole encoder."""
    return frozen_frames(split, model, whole_encoder(model), feature_extractor, **settings)


def number_rows(pool: Dataset) -> Dataset:
    """Adds each row's number, so that frames computed for all rows can be found for a subset."""
    numbers = Dataset.from_dict({NUMBER: range(len(pool))})
    joined = datasets.concatenate_datasets([pool, numbers], axis=1)
    return joined.with_format("numpy", columns=["input_values"], output_all_columns=True)


def cut_from(pool: Dataset, split: Dataset, column: str) -> Dataset:
    """The rows of a split, taken from the pool, whose frames are in `column`, with the split's labels."""
    rows = pool.select(split[NUMBER][:])
    own, of_pool = (np.asarray(clips["labels"][:], dtype=np.float64) for clips in (split, rows))
    if own.shape == of_pool.shape and np.array_equal(own, of_pool, equal_nan=True):
        return rows
    joined = datasets.concatenate_datasets([rows.remove_columns("labels"), split.select_columns("labels")], axis=1)
    return joined.with_format("numpy", columns=[column], output_all_columns=True)


@torch.inference_mode()
def frozen_frames(
    split: Dataset,
    model: VocalBurstModel,
    part: FrozenPart,
    feature_extractor,
    *,
    name: str = "clips",
    dtype: str = "float16",
    cache_dir: str | os.PathLike | None = None,
    batch_seconds: float | None = None,
    autocast: bool = False,
) -> Dataset:
    """Replaces waveforms by the frames of the model's frozen part, with a progress bar.

    Args:
        split: rows with `input_values`, prepared waveforms at 16 kHz, `num_samples`, and any other columns.
        model: its encoder runs in evaluation mode, on its device.
        part: of the model.
        feature_extractor: that of the model.
        name: of the split, for the progress bar.
        dtype: of the frames on disk, float16 or float32.
        cache_dir: see `avb.cache.cache_folder`.
        batch_seconds: audio per batch, including padding; None: 128 s on a GPU, 24 s on a CPU.
        autocast: run the part in bfloat16, as in training with `--bf16 true`.

    Returns:
        The same rows and columns with the part's column, a numpy array of shape (frames × width,), for `input_values`.

    Raises:
        AvbError: the disk is full, the folder cannot be written, or a value does not fit into half precision.
    """
    if batch_seconds is None:
        batch_seconds = 24 if model.device.type == "cpu" else 128
    digest = fingerprint(split, model, feature_extractor, dtype, autocast, part)
    folder = cache_folder(cache_dir) / f"{part.folder}-{digest}"
    starts = range(0, len(split), SHARD_CLIPS)
    shards = [folder / f"{start // SHARD_CLIPS:05d}.arrow" for start in starts]
    missing = [(start, path) for start, path in zip(starts, shards, strict=True) if not path.exists()]
    if missing and (reason := shortage(folder, [split], part, dtype, len(missing) / len(shards))):
        raise AvbError(f"{reason}: give another --cache_dir, or --cache_frames false")
    was_training = model.training
    model.eval()
    schema = pa.schema({part.column: pa.list_(_TYPES[dtype])})
    with tqdm(desc=f"{part.name} {name}", total=len(split), unit="clip", disable=None) as progress:
        progress.update(len(split) - sum(min(SHARD_CLIPS, len(split) - start) for start, _ in missing))
        for start, path in missing:
            rows = split.select(range(start, min(start + SHARD_CLIPS, len(split))))
            frames = _encode(rows, model, part, feature_extractor, dtype, batch_seconds, autocast, progress)
            with arrow_writer(path, schema) as writer:
                offsets = np.cumsum([0, *map(len, frames)], dtype=np.int32)
                values = pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(frames), _TYPES[dtype]))
                writer.write_batch(pa.record_batch([values], schema=schema))
    model.train(was_training)
    computed = datasets.concatenate_datasets([Dataset.from_file(str(path)) for path in shards])
    joined = datasets.concatenate_datasets([split.remove_columns("input_values"), computed], axis=1)
    return joined.with_format("numpy", columns=[part.column], output_all_columns=True, dtype=np.dtype(dtype))


def fingerprint(
    split: Dataset,
    model: VocalBurstModel,
    feature_extractor,
    dtype: str,
    autocast: bool,
    part: FrozenPart | None = None,
) -> str:
    """Hash of everything the frames depend on: 32 hexadecimal digits. `part`: None is the whole encoder."""
    part = part or whole_encoder(model)
    config = model.config.to_dict()
    # On a CPU it has no effect, and in bf16 next to none.
    in_tf32 = model.device.type == "cuda" and not autocast and torch.get_float32_matmul_precision() != "highest"
    settings = {
        "format": _FORMAT,
        "versions": [torch.__version__, transformers.__version__],
        "precision": [dtype, autocast, *["tf32"] * in_tf32],
        "config": {name: config.get(name) for name in sorted(part.fields)},
        "normalize": feature_extractor.do_normalize,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for key, tensor in part.weights.state_dict().items():
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return hash_waveforms(split, digest).hexdigest()[:32]


def _encode(rows, model, part, feature_extractor, dtype, batch_seconds, autocast, progress) -> list[np.ndarray]:
    """Yields the frames of each row, flattened, in the order of rows; batches have clips of similar length."""
    collate = BurstCollator(feature_extractor)
    waveforms = rows.select_columns("input_values").with_format("numpy")
    kept = [np.empty(0)] * len(rows)
    budget = int(batch_seconds * feature_extractor.sampling_rate)
    for indices in length_batches(rows["num_samples"][:], budget):
        inputs = collate([{"input_values": waveforms[index]["input_values"]} for index in indices]).to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
            frames, mask = part.run(**inputs)
        frames = frames.float().cpu()
        for index, clip, count in zip(indices, frames, mask.sum(-1).tolist(), strict=True):
            with np.errstate(over="ignore"):
                values = clip[:count].numpy().astype(dtype).reshape(-1)
            if not np.isfinite(values).all():
                raise AvbError(
                    f"the {part.name}'s frames of clip {rows[index]['id']!r} do not fit into {dtype}: use "
                    "--frames_dtype float32, or --cache_frames false"
                )
            kept[index] = values
        progress.update(len(indices))
    return kept


def shortage(
    folder: Path,
    splits: Iterable[Dataset],
    part: FrozenPart,
    dtype: str,
    share: float = 1,
) -> str | None:
    """A message if the disk has no room for the frames of this fraction of the clips; None if it has."""
    num_frames = sum(sum(split["num_samples"][:]) for split in splits) / part.samples_per_frame * share
    needed = num_frames * part.width * np.dtype(dtype).itemsize
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed <= free:
        return None
    return f"{folder}: the {part.name}'s frames need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"


class FrameCollator:
    """Pads rows of frames and builds their mask, like `BurstCollator` for waveforms.

    Args:
        width: values per frame.
        column: of the rows, and of the batch.
        lengths: to which batches are padded, ascending, in frames; without them, each is padded to its longest clip.
    """

    def __init__(self, width: int, column: str = "encoder_frames", lengths: Sequence[int] = ()):
        self.width, self.column, self.lengths = width, column, lengths

    def __call__(self, rows: list[dict]) -> BatchFeature:
        """→ `column` (batch, frames, width), `frame_mask` (batch, frames), and perhaps `labels`.

        Frames of the encoder are float32; those of the front end keep their stored type, because the model casts them.
        """
        clips = [torch.from_numpy(np.array(row[self.column])).view(-1, self.width) for row in rows]
        if self.column == "encoder_frames":
            clips = [clip.float() for clip in clips]
        lengths = torch.tensor([len(clip) for clip in clips])
        longest = padded_length(int(lengths.max()), self.lengths)
        frames = clips[0].new_zeros(len(clips), longest, self.width)
        for row, clip in zip(frames, clips, strict=True):
            row[: len(clip)] = clip
        mask = length_mask(lengths, longest)
        return BatchFeature({self.column: frames, "frame_mask": mask, **collate_labels(rows)})
