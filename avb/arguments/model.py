"""Arguments of the model, and of pre-training an encoder."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from avb.arguments.chosen import UNBALANCED, say_chosen
from avb.recipes import FOLDER as RECIPES
from avb.registration import registering_later

with registering_later():
    from configuration_avb import Wav2Vec2VocalBurstConfig

# Read from their recipes, because importing `avb.baselines.BASELINES` takes seconds; a test checks that each has one.
_BASELINES = sorted(path.stem for path in (RECIPES / "baselines").glob("*.yaml"))


def _of_model(name: str, more: str = "") -> Any:
    """An argument that is a field of the model's configuration, with that field's default and help."""
    (own,) = (each for each in dataclasses.fields(Wav2Vec2VocalBurstConfig) if each.name == name)
    help, legal = own.metadata["help"], [choice for choice in own.metadata["choices"] if choice is not None]
    if not all(choice in help for choice in legal):
        help += f" One of {', '.join(legal)}."
    return field(default=own.default, metadata={"help": f"{help} {more}".rstrip()})


@dataclass
class ModelArguments:
    _argument_group_name = "model"  # of --help
    model: str = field(
        default="wav2vec2",
        metadata={"help": f"wav2vec2, or a baseline: {', '.join(_BASELINES)}."},
    )
    encoder: str = field(
        default="facebook/wav2vec2-large-lv60",
        metadata={
            "help": "BASE, LARGE, LARGE-LV60K or XLSR53; Hub name or folder of a wav2vec 2.0 checkpoint, of another "
            "kind listed in docs/encoders.md, or of a model trained here; emogator-small, which is shipped with the "
            "project; or a YAML file of Wav2Vec2Config fields, for random weights."
        },
    )
    width: int | None = field(
        default=None,
        metadata={
            "help": "Networks on log-mel spectrograms: channels of the first block; the last has eight times as many. "
            "Default: 24."
        },
    )
    encoder_layer: int | None = _of_model("encoder_layer")
    rnn_layers: int = _of_model("rnn_layers", "Default: auto.")
    rnn_hidden_size: int = _of_model("rnn_hidden_size")
    head_dropout: float = _of_model("head_dropout", say_chosen("head_dropout", "0"))
    pooling: str = _of_model("pooling", "Default: auto.")
    pool_before_head: bool = _of_model("pool_before_head")
    loss: str | None = field(
        default=None, metadata={"help": "ccc, mse (section III-C) or ce. Default: ccc for scores, ce for classes."}
    )
    task_weighting: str = _of_model("task_weighting")
    task_weights: list[float] | None = _of_model("task_weights")
    ccc_reduction: str = _of_model("ccc_reduction")
    class_weights: str | None = field(
        default=None,
        metadata={
            "help": "'balanced' weights each class by the inverse of its number of training clips (loss ce); 'none' "
            f"weights all classes equally. Default: auto: balanced if one class has over {UNBALANCED} times another's "
            "clips."
        },
    )
    label_smoothing: float = _of_model("label_smoothing", say_chosen("label_smoothing", "0"))
    head_norm: str | None = _of_model("head_norm")
    head_init: str = _of_model("head_init")
    ce_sigmoid: bool = _of_model("ce_sigmoid")
    masked_pooling: bool = _of_model("masked_pooling")
    masked_group_norm: bool = _of_model("masked_group_norm")
    waveform_normalization: str = _of_model("waveform_normalization")
    frozen_encoder_dropout: bool = _of_model("frozen_encoder_dropout")
    freeze: str = field(
        default="feature_encoder",
        metadata={"help": "What is frozen: 'feature_encoder' (the convolutions), 'encoder' (all of it) or 'none'."},
    )
    freeze_layers: int = field(
        default=0,
        metadata={"help": "Freeze this many of the lowest transformer layers, and everything before them."},
    )
    use_weighted_layer_sum: bool = _of_model("use_weighted_layer_sum")
    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "Rank of adapters (LoRA) on the encoder's query and value projections, e.g. 8; the rest of the "
            "encoder is frozen. Use it with encoder_learning_rate 1e-3. Needs avb[adapters]."
        },
    )
    merge_lora: bool = field(
        default=True,
        metadata={"help": "If false, the model's folder contains only the adapters, the head and the encoder's name."},
    )
    mask_time_prob: float = field(default=0.0, metadata={"help": "SpecAugment: fraction of frames masked in training."})
    mask_feature_prob: float = field(default=0.0, metadata={"help": "SpecAugment: fraction of channels masked."})
    feat_proj_dropout: float | None = field(
        default=None, metadata={"help": "Dropout after the encoder's feature projection. Default: the checkpoint's."}
    )
    hidden_dropout: float | None = field(
        default=None, metadata={"help": "Dropout of the encoder's hidden states. Default: the checkpoint's."}
    )
    attention_dropout: float | None = field(
        default=None, metadata={"help": "Dropout of the encoder's attention weights. Default: the checkpoint's."}
    )
    activation_dropout: float | None = field(
        default=None, metadata={"help": "Dropout inside the encoder's feed-forward layers. Default: the checkpoint's."}
    )
    layerdrop: float | None = field(
        default=None, metadata={"help": "Probability of skipping a layer of the encoder. Default: 0."}
    )
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa, eager or flash_attention_2."})


@dataclass
class PretrainingArguments:
    _argument_group_name = "encoder and objective"  # of --help
    encoder: str = field(
        default="encoders/small.yaml",
        metadata={
            "help": "YAML file of Wav2Vec2Config fields (also one of the project's recipes), or folder of an encoder "
            "to continue from."
        },
    )
    objective: str = field(
        default="log_mel",
        metadata={
            "help": "What is predicted for masked frames: log_mel, descriptors, clusters (k-means of log_mel), "
            "layer_clusters (of a layer of --encoder FOLDER), or contrastive (wav2vec 2.0's own loss)."
        },
    )
    num_mel_bins: int = field(
        default=64, metadata={"help": "Mel bands of the spectrograms from which targets are computed."}
    )
    mask_time_prob: float = field(default=0.5, metadata={"help": "Fraction of frames masked for the encoder."})
    mask_time_length: int = field(
        default=8, metadata={"help": "Length of a masked span, in frames (usually 20 ms each)."}
    )
