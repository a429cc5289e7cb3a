"""A model's files, checked before Transformers reads them: safetensors inside the folder, and as large as they must be.

Unusual: sizes are compared first, file against configuration. Transformers makes room for whatever config.json asks
for, and fills what the file lacks with random numbers.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.utils import enable_progress_bars
from transformers import PreTrainedConfig
from transformers.utils import (
    FEATURE_EXTRACTOR_NAME,
    PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_NAME,
    cached_file,
    logging,
)

from avb.errors import AvbError
from configuration_avb import VocalBurstConfig, Wav2Vec2VocalBurstConfig

LFS_HEAD, LFS_BYTES = b"version https://git-lfs", 1024


def check_weights(name: str, config: PreTrainedConfig):
    """Refuses a model whose weights are not safetensors, are outside its folder, or are far too small for its config.

    Args:
        name: a folder or a name on the Hub.
        config: its configuration.

    Raises:
        AvbError: the model is refused.
        OSError: there are no weights, or the Hub cannot be reached.
    """
    file = _find(name, SAFE_WEIGHTS_NAME)
    if file:
        files = [file]
    elif index := _find(name, SAFE_WEIGHTS_INDEX_NAME):
        files = [cached_file(name, shard) for shard in _shards(index)]
    elif _find(name, WEIGHTS_NAME):
        raise AvbError(
            f"{name}: its weights are a pickle, {WEIGHTS_NAME}, which is not loaded; save them as {SAFE_WEIGHTS_NAME}"
        )
    else:
        raise OSError(f"there is no {SAFE_WEIGHTS_NAME}")
    size, parameters = sum(map(os.path.getsize, files)), count_encoder_parameters(config)
    if parameters > size:  # no parameter is stored in less than a byte
        raise AvbError(
            f"{name}: config.json describes a model of at least {parameters:,} parameters, and its weights have "
            f"{size:,} bytes: they do not belong together, or the file is incomplete; copy both again"
        )


def has_weights(name: str) -> bool:
    """Whether a folder or a Hub repository has weights that torch can load, whole or in shards."""
    return any(_find(name, file) for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME))


def refuse_pointers(name: str):
    """Refuses a folder that was cloned without its large files, for which Git LFS leaves small text files.

    Raises:
        AvbError: a file is a Git LFS pointer.
    """
    for path in sorted(Path(name).glob("*")) if Path(name).is_dir() else ():
        if path.is_file() and path.stat().st_size < LFS_BYTES and path.read_bytes().startswith(LFS_HEAD):
            raise AvbError(f"{path}: a pointer of Git LFS, not the file: run `git lfs pull` in {name}")


def has_preparation(name: str) -> bool:
    """Whether a model specifies how its audio is prepared; if not, prints a line with the default that is used.

    Raises:
        OSError: the Hub cannot be reached.
    """
    if _find(name, FEATURE_EXTRACTOR_NAME) or _find(name, PROCESSOR_NAME):
        return True
    print(f"{name}: no {FEATURE_EXTRACTOR_NAME}: audio is prepared as usual for wav2vec 2.0", file=sys.stderr)
    return False


def count_encoder_parameters(config: PreTrainedConfig) -> int:
    """Number of parameters in the large matrices of encoder and RNN; 0 for a baseline, whose size is fixed."""
    if not isinstance(config, VocalBurstConfig):
        return 0
    width, units = config.hidden_size, config.rnn_hidden_size
    layer = 4 * width * width + 2 * width * getattr(config, "intermediate_size", 0)
    convolutions = positions = 0
    if isinstance(config, Wav2Vec2VocalBurstConfig):  # for the other kinds, counting the layers is enough
        channels = zip((1, *config.conv_dim), config.conv_dim, config.conv_kernel, strict=False)
        convolutions = sum(before * after * kernel for before, after, kernel in channels)
        positions = width * width // config.num_conv_pos_embedding_groups * config.num_conv_pos_embeddings
    rnn = 4 * units * (width + units + max(0, config.rnn_layers - 1) * 2 * units) if config.rnn_layers else 0
    return config.num_hidden_layers * layer + convolutions + positions + rnn


def _find(name: str, file: str) -> str | None:
    return cached_file(name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_gated_repo=False)


def _shards(index: str) -> list[str]:
    shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    for shard in shards:
        # Transformers would follow `../../other.safetensors` out of the folder.
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise AvbError(f"{index}: names {shard!r}, which is not a safetensors file next to it; it is not loaded")
    return sorted(shards)


@contextmanager
def quiet() -> Iterator[None]:
    """Hides the tables that Transformers prints of weights that do not fit: those that matter raise an error.

    Also hides its progress bar for reading weights, which takes no time; bars of downloads remain.
    """
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if has_bars:
        logging.disable_progress_bar()  # also those of downloads
        enable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
