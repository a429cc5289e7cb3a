"""A model's files, checked before Transformers reads them: safetensors inside the folder, and as large as they must be.

Unusual: sizes are compared first, file against configuration. Transformers makes room for whatever config.json asks
for, and fills what the file lacks with random numbers.
"""

import json
import os
from pathlib import Path

from transformers import PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME, cached_file

from avb.errors import AvbError
from configuration_avb import Wav2Vec2VocalBurstConfig


def check_weights(name: str, config: PreTrainedConfig):
    """Refuses a model whose weights are no safetensors, lie elsewhere, or are far too few for its configuration.

    Args:
        name: a folder or a name on the Hub.
        config: its configuration.

    Raises:
        AvbError: as said.
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
    if parameters > size:  # a byte a parameter: none is stored in less
        raise AvbError(
            f"{name}: config.json describes a model of at least {parameters:,} parameters, and its weights have "
            f"{size:,} bytes: they do not belong together, or the file is incomplete; copy both again"
        )


def count_encoder_parameters(config: PreTrainedConfig) -> int:
    """Parameters of the large matrices of encoder and RNN, others left out; 0 for a baseline, whose size is fixed."""
    if not isinstance(config, Wav2Vec2VocalBurstConfig):
        return 0
    width, units = config.hidden_size, config.rnn_hidden_size
    layer = 4 * width * width + 2 * width * config.intermediate_size
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
            raise AvbError(f"{index}: names {shard!r}, which is no safetensors file beside it; it is not loaded")
    return sorted(shards)
