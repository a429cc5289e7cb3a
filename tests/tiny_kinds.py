"""Tiny checkpoints of every further kind of encoder, built by the stock classes, for tests and benchmarks/kinds.py."""

from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from conftest import TINY, stir

from avb.encoders.kinds import encoder_class

# Less of what the other kinds' layers have beside attention.
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
LAYER_NORM = {"feat_extract_norm": "layer", "conv_bias": True}
LAYERS = {"num_hidden_layers": 3}


class Stock(NamedTuple):
    """A tiny model of Transformers' own."""

    kind: str  # its model_type
    name: str  # of its configuration, less "Config"
    fields: dict

    def build(self) -> torch.nn.Module:
        torch.manual_seed(0)
        config = getattr(transformers, f"{self.name}Config")(**self.fields)
        return stir(getattr(transformers, f"{self.name}Model")(config)).eval()


STOCK = {
    "wavlm": Stock("wavlm", "WavLM", TINY | LAYERS),
    "wavlm, pre-norm": Stock("wavlm", "WavLM", TINY | LAYERS | LAYER_NORM | {"do_stable_layer_norm": True}),
}
STOCK |= {
    "data2vec-audio": Stock(
        "data2vec-audio",
        "Data2VecAudio",
        SMALL | LAYERS | {"conv_dim": (16,) * 7, "num_conv_pos_embedding_groups": 4, "conv_pos_kernel_size": 5},
    ),
    "unispeech-sat": Stock("unispeech-sat", "UniSpeechSat", TINY | LAYERS),
    "unispeech-sat, pre-norm": Stock(
        "unispeech-sat", "UniSpeechSat", TINY | LAYERS | LAYER_NORM | {"do_stable_layer_norm": True}
    ),
    "wav2vec2-conformer": Stock(
        "wav2vec2-conformer", "Wav2Vec2Conformer", TINY | LAYERS | {"conv_depthwise_kernel_size": 7}
    ),
    "wav2vec2-conformer, rotary": Stock(
        "wav2vec2-conformer",
        "Wav2Vec2Conformer",
        TINY | LAYERS | LAYER_NORM | {"conv_depthwise_kernel_size": 7, "position_embeddings_type": "rotary"},
    ),
    "sew": Stock("sew", "SEW", TINY | LAYERS | {"conv_dim": (16,) * 13}),
    "wav2vec2-bert": Stock(
        "wav2vec2-bert",
        "Wav2Vec2Bert",
        SMALL | LAYERS | {"conv_depthwise_kernel_size": 7},
    ),
    # A window of two seconds: the longest clip of these tests is read in two.
    "whisper": Stock(
        "whisper",
        "Whisper",
        {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1,
         "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "max_source_positions": 100, "vocab_size": 64,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "begin_suppress_tokens": None},
    ),
}  # fmt: skip


def load(folder: Path, kind: str, **fields):
    """The encoder under a head whose scores differ from clip to clip."""
    torch.manual_seed(0)
    settings = {"encoder_layer": 2, "num_labels": 3, "rnn_hidden_size": 16, **fields}
    model, info = encoder_class(kind).from_pretrained(folder, output_loading_info=True, **settings)
    assert not info["mismatched_keys"] and not info["unexpected_keys"]
    assert not [key for key in info["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")]
    model.head.weight.data *= 30
    return model.eval()


def stock_layers(stock: Stock, clip: torch.Tensor) -> list[torch.Tensor]:
    """`hidden_states` of the stock model, (1, frames, hidden) each, by the stock feature extractor where it has one."""
    model = stock.build()
    if stock.kind == "wav2vec2-bert":
        features = transformers.SeamlessM4TFeatureExtractor()(
            clip[0].numpy(), sampling_rate=16_000, return_tensors="pt"
        )
        count = int(features["attention_mask"].sum())
        return [states[:, :count] for states in model(**features, output_hidden_states=True).hidden_states]
    if stock.kind == "whisper":
        extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
        features = extractor(clip[0].numpy(), sampling_rate=16_000, return_tensors="pt")["input_features"]
        states = model.encoder(features, output_hidden_states=True).hidden_states
        return [layer[:, : -(-clip.shape[1] // 320)] for layer in states]
    return model(clip, output_hidden_states=True).hidden_states
