"""Computes the openSMILE functionals of a whole split once, stores them on disk, and makes batches of them.

The name of the file is a fingerprint of the waveforms, the feature set and openSMILE's version. So all tasks of a
corpus share one file, and clips that are decoded differently have another.

Unusual: this does not use `Dataset.map`, whose worker processes fail on the data sets of `avb.corpora.decode`
(datasets 5.2 cannot unpickle a slice of tables joined side by side), or `multiprocessing.Pool`, which waits forever if
a worker is killed, or if it was forked while SIGTERM had a handler.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from joblib import Parallel, delayed
from tqdm.auto import tqdm
from transformers import BatchFeature

from avb.baselines.opensmile_mlp import FEATURE_SETS, OpenSmileFeatureExtractor, import_opensmile
from avb.cache import arrow_writer, cache_folder, hash_waveforms
from avb.collator import collate_labels
from avb.commands import SIGTERM_EXIT, on_sigterm
from avb.errors import AvbError
from avb.files import batches

_FORMAT = 1  # increase it when the processing before or after openSMILE changes
_BATCH_CLIPS = 64  # 64 clips of 6373 functionals: 1.6 MB
_IDLE_SECONDS = 20  # how long processes wait for the next split; training needs their memory


def opensmile_features(
    split: Dataset,
    feature_extractor: OpenSmileFeatureExtractor,
    *,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Replaces waveforms by their functionals, with a progress bar.

    The first run takes 25 to 90 ms per clip and process; later runs only read the file. Finding it requires reading
    all waveforms, which takes about a second per GB.

    Args:
        split: rows with `input_values`, waveforms at 16 kHz, and any other columns.
        feature_extractor: specifies the functionals.
        num_proc: number of processes; None is one.
        cache_dir: folder of the file; None is the folder `avb` in the cache of `datasets`.

    Returns:
        The same rows and columns, with `input_values` as numpy arrays, float32 of shape (features,).

    Raises:
        AvbError: the cache cannot be written, or a process was killed.
    """
    folder = cache_folder(cache_dir)
    waveforms = split.select_columns("input_values").with_format("numpy")
    path = folder / f"{feature_extractor.feature_set}-{fingerprint(waveforms, feature_extractor)}.arrow"
    if not path.exists():
        _write(path, waveforms, feature_extractor, num_proc or 1)
    joined = datasets.concatenate_datasets([split.remove_columns("input_values"), Dataset.from_file(str(path))], axis=1)
    return joined.with_format("numpy", columns=["input_values"], output_all_columns=True)


def fingerprint(waveforms: Dataset, feature_extractor: OpenSmileFeatureExtractor) -> str:
    """Hash of everything the features depend on: 32 hexadecimal digits."""
    settings = [_FORMAT, import_opensmile().__version__, feature_extractor.to_dict()]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    return hash_waveforms(waveforms, digest).hexdigest()[:32]


def _write(path: Path, waveforms: Dataset, feature_extractor: OpenSmileFeatureExtractor, num_proc: int) -> None:
    width = FEATURE_SETS[feature_extractor.feature_set]
    schema = pa.schema({"input_values": pa.list_(pa.float32(), width)})
    with (
        on_sigterm(_exit),
        arrow_writer(path, schema) as writer,
        tqdm(desc=feature_extractor.feature_set, total=len(waveforms), unit="clip", disable=None) as progress,
    ):
        for batch in batches(_compute(waveforms, feature_extractor, num_proc), _BATCH_CLIPS):
            values = pa.FixedSizeListArray.from_arrays(np.concatenate(batch), width)
            writer.write_batch(pa.record_batch([values], schema=schema))
            progress.update(len(batch))


def _exit(number: int, frame):
    """Exits by an exception, so that the processes are ended and the unfinished file is deleted."""
    sys.exit(SIGTERM_EXIT)


def _compute(waveforms: Dataset, feature_extractor: OpenSmileFeatureExtractor, num_proc: int) -> Iterator[np.ndarray]:
    """Functionals (features,) of each row, in order."""
    tasks = (delayed(_functionals)(feature_extractor, row["input_values"]) for row in waveforms)
    try:
        parallel = Parallel(num_proc, "loky", "generator", batch_size=8, idle_worker_timeout=_IDLE_SECONDS)
        yield from parallel(tasks)
    except BrokenProcessPool as error:
        raise AvbError(
            "a process that computed openSMILE's functionals was killed, probably because memory ran out: use "
            "fewer processes (--num_decode_workers)"
        ) from error


def _functionals(feature_extractor: OpenSmileFeatureExtractor, clip: np.ndarray) -> np.ndarray:
    return feature_extractor([clip], sampling_rate=feature_extractor.sampling_rate, prepared=True)["input_values"][0]


class FeatureCollator:
    """Stacks rows of `opensmile_features`, as `BurstCollator` does with waveforms."""

    def __call__(self, rows: list[dict]) -> BatchFeature:
        """Rows with `input_values` (features,) and optional `labels` → `input_values` (batch, features), `labels`."""
        features = np.stack([np.asarray(row["input_values"], dtype=np.float32) for row in rows])
        return BatchFeature({"input_values": torch.from_numpy(features), **collate_labels(rows)})
