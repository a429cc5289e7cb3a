"""Files that are computed once: Arrow on disk, memory-mapped when read, named by a hash of everything they depend on.

A file is written under a temporary name and then moved, so an existing file is complete. Old files are not deleted; the
folder can be emptied at any time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset

from avb.errors import AvbError


def cache_folder(cache_dir: str | os.PathLike | None) -> Path:
    """The folder of cached files: the given one, or `avb` in the cache of `datasets`."""
    return Path(cache_dir) if cache_dir is not None else Path(datasets.config.HF_DATASETS_CACHE) / "avb"


@contextmanager
def arrow_writer(path: Path, schema: pa.Schema) -> Iterator[pa.ipc.RecordBatchStreamWriter]:
    """Opens a writer of record batches; the file `path` exists only after the block has ended without an error.

    Raises:
        AvbError: the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            yield writer
        os.replace(temporary, path)
    except OSError as error:
        raise AvbError(
            f"{path.parent}: the cache cannot be written ({error}); give a --cache_dir that has space and is writable"
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def hash_waveforms(rows: Dataset, digest):
    """Adds the column `input_values`, including lengths, to a hash of hashlib; takes about a second per GB."""
    for table in rows.select_columns("input_values").with_format("arrow").iter(batch_size=256):
        for chunk in table["input_values"].chunks:
            digest.update(np.ascontiguousarray(chunk.value_lengths()))
            digest.update(np.ascontiguousarray(chunk.flatten()))
    return digest
