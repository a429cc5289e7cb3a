"""openSMILE functionals of a whole split, computed once and kept on disk; and batches of them.

The file's name is a fingerprint of the waveforms themselves, the feature set and openSMILE's version. So the tasks of a
corpus share one file, and clips decoded in another way get another.
"""

import hashlib
import json
import os
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from transformers import BatchFeature

from avb.baselines.opensmile_mlp import FEATURE_SETS, OpenSmileFeatureExtractor, import_opensmile
from avb.errors import AvbError

_FORMAT = 1  # raise when what is done before or after openSMILE changes


def opensmile_features(
    split: Dataset,
    feature_extractor: OpenSmileFeatureExtractor,
    *,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Replaces waveforms by their functionals; a progress bar shows how far it is.

    The first run takes 25 to 90 ms a clip and process. Later ones read the file, whatever their `num_proc`; an
    interrupted one goes on with the processes' parts that are finished. Finding the file means reading all waveforms,
    about a second per GB.

    Args:
        split: rows with `input_values`, waveforms at 16 kHz, and any other columns.
        feature_extractor: says which functionals.
        num_proc: processes; None is one.
        cache_dir: folder of the file; None is the folder `avb` in the cache of datasets.

    Returns:
        The same rows and columns with `input_values` (float32 of shape (features,), given out as a numpy array).

    Raises:
        AvbError: the cache cannot be written.
    """
    folder = Path(cache_dir) if cache_dir is not None else Path(datasets.config.HF_DATASETS_CACHE) / "avb"
    waveforms = split.select_columns("input_values").with_format("numpy")
    key = fingerprint(waveforms, feature_extractor)
    name, width = feature_extractor.feature_set, FEATURE_SETS[feature_extractor.feature_set]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        features = waveforms.map(
            _functionals,
            fn_kwargs={"feature_extractor": feature_extractor},
            features=Features({"input_values": List(Value("float32"), length=width)}),
            num_proc=num_proc if num_proc and num_proc > 1 else None,
            cache_file_name=str(folder / f"{name}-{key}.arrow"),
            load_from_cache_file=True,
            new_fingerprint=key,
            desc=name,
        )
    except OSError as error:
        raise AvbError(
            f"{folder}: the features cannot be written ({error.strerror}); give another cache_dir with enough space"
        ) from error
    joined = datasets.concatenate_datasets([split.remove_columns("input_values"), features], axis=1)
    return joined.with_format("numpy", columns=["input_values"], output_all_columns=True)


def fingerprint(waveforms: Dataset, feature_extractor: OpenSmileFeatureExtractor) -> str:
    """Hash of everything the features depend on: 32 hexadecimal digits."""
    settings = [_FORMAT, import_opensmile().__version__, feature_extractor.to_dict()]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for table in waveforms.with_format("arrow").iter(batch_size=256):
        for chunk in table["input_values"].chunks:
            digest.update(np.ascontiguousarray(chunk.value_lengths()))
            digest.update(np.ascontiguousarray(chunk.flatten()))
    return digest.hexdigest()[:32]


def _functionals(row: dict, feature_extractor: OpenSmileFeatureExtractor) -> dict:
    batch = feature_extractor([row["input_values"]], sampling_rate=feature_extractor.sampling_rate)
    return {"input_values": batch["input_values"][0]}


class FeatureCollator:
    """Stacks rows of `opensmile_features`, as `BurstCollator` does with waveforms."""

    def __call__(self, rows: list[dict]) -> BatchFeature:
        """Rows with `input_values` (features,) and perhaps `labels` → `input_values` (batch, features), `labels`."""
        features = np.stack([np.asarray(row["input_values"], dtype=np.float32) for row in rows])
        batch = BatchFeature({"input_values": torch.from_numpy(features)})
        if "labels" in rows[0]:
            # (batch, labels) float32 for scores, (batch,) int64 for classes
            labels = np.stack([np.asarray(row["labels"]) for row in rows])
            batch["labels"] = torch.from_numpy(labels.astype(np.float32 if labels.ndim == 2 else np.int64))
        return batch
