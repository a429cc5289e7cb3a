"""Configuration of `Wav2Vec2ForVocalBurst`, and the parts shared by the other kinds of encoder.

The encoder's own configuration plus the head of "Fine-tuning Wav2vec for Vocal-burst Emotion Recognition" (ACII A-VB
2022): section III describes the order encoder → RNN → linear → pooling, section IV-B the layer and the sizes.

Unusual: each class also reads the configuration of plain checkpoints of its kind, so
`Wav2Vec2ForVocalBurst.from_pretrained("facebook/wav2vec2-large-lv60", num_labels=10)` needs no conversion.
"""

from dataclasses import dataclass, field, fields
from functools import partial
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any

from transformers import Wav2Vec2Config

try:  # as remote code from the Hub, or as a module of the installed project
    from .pooling_avb import POOLINGS
except ImportError:
    from pooling_avb import POOLINGS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig as Stock  # it is mixed in before a stock configuration
else:
    Stock = object  # whose fields must not be hidden by those of another PreTrainedConfig

PAPERS_LAYER = 12
LOSSES = ("ccc", "mse", "ce")  # of one task
MULTITASK = "multitask"  # the loss of several tasks
TASK_WEIGHTINGS = ("fixed", "uncertainty")
CCC_REDUCTIONS = ("mean", "sum")
HEAD_NORMS = (None, "batch", "batch_clips")
HEAD_INITS = ("transformers", "torch")
WAVEFORM_NORMALIZATIONS = ("clip", "batch", "none")

# Fields (ours, and those of the labels) on which the encoder's output does not depend.
HEAD_FIELDS = frozenset(
    "rnn_layers rnn_hidden_size head_dropout pooling loss label_range ccc_reduction class_weights label_smoothing "
    "head_norm head_init pool_before_head ce_sigmoid masked_pooling tasks task_weighting task_weights "
    "frozen_encoder_dropout id2label label2id num_labels "
    "problem_type architectures".split()
)

# Settings from the pre-training of a plain encoder, with the values used for fine-tuning on bursts instead.
# Layer drop leaves parameters unused, which breaks DDP; the paper trains without SpecAugment, on one layer.
_FINE_TUNING_DEFAULTS = {
    "layerdrop": 0.0, "mask_time_prob": 0.0, "mask_feature_prob": 0.0, "use_weighted_layer_sum": False,
    "architectures": None,
}  # fmt: skip
SUFFIX = "-vocal-burst"  # of our `model_type`s, after that of the kind's plain checkpoints


# Far above every existing model (XLS-R 2B: 48 layers, width 1920), far below what would fill memory.
_LARGEST = {
    "num_hidden_layers": 1_000,
    "encoder_layer": 1_000,
    "hidden_size": 65_536,
    "intermediate_size": 262_144,
    "num_conv_pos_embeddings": 65_536,
    "encoder_layers": 1_000,  # the names used by Whisper
    "d_model": 65_536,
    "encoder_ffn_dim": 262_144,
    "max_source_positions": 65_536,
    "rnn_layers": 100,
    "rnn_hidden_size": 65_536,
    "num_labels": 100_000,
}


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def require_legal(config, legal: bool, field: str, expected: str):
    """Raises a ValueError that names the field, its value and the expected one, if it is invalid."""
    if not legal:
        raise ValueError(f"{field}={getattr(config, field)!r} is invalid: it must be {expected}")


def validate_loss(config):
    """Checks loss and labels of a configuration (also a baseline's), and sets the `problem_type` that follows.

    Raises:
        ValueError: a field has an invalid value, or contradicts another.
    """
    require, loss, weights = partial(require_legal, config), config.loss, config.class_weights
    require(config.ccc_reduction in CCC_REDUCTIONS, "ccc_reduction", f"one of {', '.join(CCC_REDUCTIONS)}")
    low_high = tuple(config.label_range)
    require(len(low_high) == 2 and low_high[0] < low_high[1], "label_range", "a pair (low, high) with low < high")
    require(0 <= config.label_smoothing < 1, "label_smoothing", "in [0, 1)")
    if loss == "ce":
        require(config.num_labels >= 2, "num_labels", "2 or more classes with loss='ce'")
        legal = weights is None or len(weights) == config.num_labels
        require(legal, "class_weights", f"None or {config.num_labels} numbers, one per class")
    elif loss != MULTITASK:
        require(config.num_labels >= 1, "num_labels", f"1 or more with loss={loss!r}")
        require(weights is None, "class_weights", f"None with loss={loss!r}: classes need loss='ce'")
        require(config.label_smoothing == 0, "label_smoothing", f"0 with loss={loss!r}: it belongs to loss='ce'")
    # The stock audio-classification pipeline reads this to decide whether to apply a softmax to the logits.
    expected = "single_label_classification" if loss == "ce" else "regression"
    require(config.problem_type in (None, expected), "problem_type", f"{expected!r} (or None) with loss={loss!r}")
    config.problem_type = expected


def setting(default, help: str, choices: tuple = ()) -> Any:
    """A field of the configuration: its default, its meaning, and its legal values if they can be listed."""
    return field(default=default, metadata={"help": help, "choices": choices})


def receptive_field(kernels: list[int], strides: list[int]) -> int:
    """Samples in the receptive field of one frame of a stack of convolutions."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


@dataclass(kw_only=True, repr=False)
class VocalBurstConfig(Stock):
    """Encoder, head and loss of a vocal-burst model; the feature extractor is responsible for preparing the audio.

    Each kind of encoder mixes this class in before the stock configuration of that kind.

    The defaults are the `recommended` preset; the values described as the authors' make the `authors` preset.

    The description of each field is beside it; `train_avb.py --help` prints it.

    Raises:
        ValueError: a field has an invalid value, or contradicts another; the message names it and the legal values.
    """

    _auto_class = "AutoConfig"  # every saved folder contains the code, whoever saves it

    layerdrop: float = 0.0
    mask_time_prob: float = 0.0

    encoder_layer: int | None = setting(
        None,
        "Transformer layer that feeds the head, counted from 1; the layers above it are removed, so num_hidden_layers "
        "becomes encoder_layer. Default: 12 (section IV-B), or the last layer of a smaller encoder.",
    )
    rnn_layers: int = setting(2, "LSTM layers; 0 is the paper's 'without RNN' (Table IV).")
    rnn_hidden_size: int = setting(512, "Units of each LSTM layer (section IV-B).")
    head_dropout: float = setting(
        0.0, "Dropout before the LSTM, between its layers and before the linear layer. The paper has none."
    )
    # maskavg, from the authors' code, divides a sum by the number of valid frames. It equals avg, unless masked_pooling
    # is False: the sum then includes padding, and the result can exceed 1.
    pooling: str = setting(
        "last",
        "How per-frame predictions are pooled, over valid frames only (section III-B); attention is ours, maskavg the "
        "authors'.",
        tuple(POOLINGS),
    )
    loss: str = setting(
        "ccc",
        "ccc and mse give a regression model, ce a classifier (section III-C); multitask is the sum of the losses in "
        "tasks.",
        (*LOSSES, MULTITASK),
    )
    tasks: list[dict] | None = setting(
        None,
        "Multitask models: one dict per task, in the order of the labels: name, loss, num_labels and, for scores, "
        "label_range.",
    )
    task_weighting: str = setting(
        "fixed",
        "Several tasks: fixed weights, or 'uncertainty', which learns them (Kendall et al. 2018, arXiv:1705.07115).",
        TASK_WEIGHTINGS,
    )
    task_weights: list[float] | None = setting(None, "Several tasks: one fixed weight per task. Default: 1 each.")
    label_range: tuple[float, float] | list[float] = setting(
        (0.0, 1.0), "Lowest and highest value of a regression label; the sigmoid output is scaled to it."
    )
    ccc_reduction: str = setting(
        "mean", "Reduction of the CCC loss over labels: mean, or sum as in the authors' code.", CCC_REDUCTIONS
    )
    class_weights: list[float] | None = setting(None, "One weight per class for loss ce.")
    label_smoothing: float = setting(0.0, "Label smoothing of loss ce, in [0, 1).")
    # Its statistics include all frames, with padding, as in the authors' code for CCC.
    head_norm: str | None = setting(
        None,
        "'batch': the authors' batch norm over labels before the sigmoid; 'batch_clips': over clips, with "
        "pool_before_head.",
        HEAD_NORMS,
    )
    head_init: str = setting(
        "transformers",
        "Initial weights of LSTM and linear layers: as in transformers (Xavier and normal, zero biases), or as in "
        "torch (uniform, including biases) and the authors' code.",
        HEAD_INITS,
    )
    # The authors' model without RNN until 2022-09-26: with rnn_layers=0, pooling="maskavg", masked_pooling=False,
    # head_norm="batch_clips" for CCC, and ce_sigmoid=True for ce.
    pool_before_head: bool = setting(
        False, "True: pool the frames, then apply the linear layer once per clip (the authors' older code)."
    )
    ce_sigmoid: bool = setting(False, "True: a sigmoid before cross entropy, as in the authors' code until 2022-10-05.")
    masked_pooling: bool = setting(True, "False: max, avg and maskavg include padding, as in the authors' code.")
    masked_group_norm: bool = setting(True, "False: the stock group norm of BASE and LARGE, which includes padding.")
    waveform_normalization: str = setting(
        "clip",
        "clip: zero mean and unit variance per clip (by the feature extractor); batch: over the whole padded "
        "batch, as in torchaudio's LARGE-LV60K and XLSR53 since version 2.0; none: raw audio, as the authors used.",
        WAVEFORM_NORMALIZATIONS,
    )
    frozen_encoder_dropout: bool = setting(
        False, "True: keep dropout on in a frozen encoder during training, as in the authors' code."
    )
    use_weighted_layer_sum: bool = setting(
        False,
        "True: the head reads a weighted sum (softmax of learned weights) of the first layer's input and the outputs "
        "of all layers up to encoder_layer.",
    )
    hears_level = False  # True for kinds pre-trained on waveforms that were not normalised

    def __post_init__(self, **kwargs):
        if self.encoder_layer is None:
            self.encoder_layer = self._default_layer()
        self._refuse_absurd_sizes(kwargs.get("num_labels"))
        super().__post_init__(**kwargs)
        self.validate_architecture()
        self._validate_head()
        validate_loss(self)
        self.num_hidden_layers = self.encoder_layer

    def _default_layer(self) -> int:
        layers = self.num_hidden_layers
        return min(PAPERS_LAYER, layers) if _is_whole(layers) else PAPERS_LAYER

    def _refuse_absurd_sizes(self, num_labels: int | None):
        """Refuses absurd sizes in a file before they can fill the memory."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name in _LARGEST}
        for name, value in {**own, "num_labels": 1 if num_labels is None else num_labels}.items():
            if not _is_whole(value) or not value <= _LARGEST[name]:
                raise ValueError(f"{name}={value!r} is invalid: it must be a whole number up to {_LARGEST[name]:,}")

    def _validate_types(self, require):
        # Without huggingface_hub's strict dataclasses: they refuse an int for a float, as in head_dropout=0.
        for name in ("head_dropout", "label_smoothing"):
            require(_is_number(getattr(self, name)), name, "a number")
        booleans = "masked_pooling masked_group_norm frozen_encoder_dropout pool_before_head ce_sigmoid"
        for name in (*booleans.split(), "use_weighted_layer_sum"):
            require(isinstance(getattr(self, name), bool), name, "true or false")
        is_pair = isinstance(self.label_range, (list, tuple)) and all(map(_is_number, self.label_range))
        require(is_pair, "label_range", "a pair (low, high) with low < high")
        for name in ("class_weights", "task_weights"):
            weights = getattr(self, name)
            legal = weights is None or (isinstance(weights, (list, tuple)) and all(map(_is_number, weights)))
            require(legal, name, "None or a list of numbers")
        tasks = self.tasks
        legal = tasks is None or (isinstance(tasks, (list, tuple)) and all(isinstance(task, dict) for task in tasks))
        require(legal, "tasks", "None or a list of dicts with name, loss and num_labels")
        names = {*self.id2label.values()} if isinstance(self.id2label, dict) else {None}
        require(all(isinstance(name, str) for name in names), "id2label", "a name for each output")

    def _validate_head(self):
        require = partial(require_legal, self)
        self._validate_types(require)
        for own in fields(self):
            if choices := own.metadata.get("choices"):
                require(getattr(self, own.name) in choices, own.name, f"one of {', '.join(map(str, choices))}")
        assert self.encoder_layer is not None  # since __post_init__
        require(
            1 <= self.encoder_layer <= self.num_hidden_layers,
            "encoder_layer",
            f"between 1 and {self.num_hidden_layers}, the encoder's num_hidden_layers (in training: --encoder_layer)",
        )
        require(self.rnn_layers >= 0, "rnn_layers", "0 (without RNN) or more")
        require(self.rnn_hidden_size >= 1, "rnn_hidden_size", "1 or more")
        require(0 <= self.head_dropout < 1, "head_dropout", "in [0, 1)")
        norms = (None, "batch_clips" if self.pool_before_head else "batch")
        where = "with" if self.pool_before_head else "without"
        require(self.head_norm in norms, "head_norm", f"{' or '.join(map(str, norms))} {where} pool_before_head")
        require(self.loss == "ce" or not self.ce_sigmoid, "ce_sigmoid", "False: it belongs to loss='ce'")
        names = {each.name for each in fields(self)}
        if "add_adapter" in names:
            require(not self.add_adapter, "add_adapter", "False: the head reads the encoder's own frames")
        if self.mask_feature_prob > 0:
            require(self.mask_feature_length <= self.hidden_size, "mask_feature_length", f"at most {self.hidden_size}")
        if self.loss == MULTITASK:
            self._validate_tasks(require)

    def _validate_tasks(self, require):
        tasks = self.tasks or []
        legal = len(tasks) >= 2 and all(task.keys() >= {"name", "loss", "num_labels"} for task in tasks)
        require(legal, "tasks", "two or more dicts with name, loss and num_labels")
        require(all(task["loss"] in LOSSES for task in tasks), "tasks", f"of losses {', '.join(LOSSES)}")
        legal = all(_is_whole(task["num_labels"]) and isinstance(task["name"], str) for task in tasks)
        require(legal, "tasks", "of names and whole numbers of labels")
        total = sum(task["num_labels"] for task in tasks)
        require(total == self.num_labels, "num_labels", f"{total}, the sum over the tasks")
        weights = self.task_weights
        require(
            weights is None or (len(weights) == len(tasks) and min(weights) >= 0 and self.task_weighting == "fixed"),
            "task_weights",
            f"None or {len(tasks)} numbers of at least 0, one per task, with task_weighting='fixed'",
        )
        require(self.class_weights is None, "class_weights", "None with several tasks")

    @property
    def pools_padding(self) -> bool:
        """Whether the pooling includes padding frames, as in the authors' code."""
        return not self.masked_pooling and self.pooling in ("max", "avg", "maskavg")

    @property
    def encoder_batch_dependence(self) -> str | None:
        """Why the encoder's frames of a clip depend on the other clips in its batch; None if they do not."""
        if self.waveform_normalization == "batch":
            return "waveforms are normalised over the batch (waveform_normalization batch)"
        if self.feat_extract_norm == "group" and not self.masked_group_norm:
            return "the group norm includes the padding of the batch (masked_group_norm false)"
        return None

    @property
    def batch_dependence(self) -> str | None:
        """Why a clip's scores depend on the other clips in its batch; None if they do not."""
        if self.encoder_batch_dependence is None and self.pools_padding:
            return "the pooling includes the padding of the batch (masked_pooling false)"
        return self.encoder_batch_dependence

    @property
    def task_slices(self) -> list[slice]:
        """The outputs of each task in a multitask model, in the order of `tasks`."""
        widths = [task["num_labels"] for task in self.tasks or []]
        return [slice(end - width, end) for width, end in zip(widths, accumulate(widths), strict=True)]

    @property
    def encoder_dropout(self) -> float:
        """The highest dropout rate in the encoder."""
        return max(self.feat_proj_dropout, self.attention_dropout, self.hidden_dropout, self.activation_dropout)

    @property
    def receptive_field(self) -> int:
        """Samples that the convolutional front end needs for its first frame (400 in every released checkpoint)."""
        return receptive_field(self.conv_kernel, self.conv_stride)

    @property
    def samples_per_frame(self) -> int:
        """Samples from one frame of the head's input to the next (320 in every released wav2vec 2.0)."""
        return prod(self.conv_stride)

    @classmethod
    def reads(cls, config_dict: dict) -> bool:
        """Whether this is the configuration of a plain checkpoint of this kind."""
        return config_dict.get("model_type") == cls.model_type.removesuffix(SUFFIX)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """Reads a configuration file; that of a plain encoder of this kind is converted to ours.

        Raises:
            ValueError: the file describes a model of another kind.
        """
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        found = config_dict.get("model_type", cls.model_type)
        if found == cls.model_type:
            return config_dict, kwargs
        if not cls.reads(config_dict):
            raise ValueError(
                f"{pretrained_model_name_or_path} contains a model of type {found!r}: only {cls.kind} encoders and "
                f"{cls.model_type!r} models can be loaded here"
            )
        return {**config_dict, **_FINE_TUNING_DEFAULTS, "model_type": cls.model_type}, kwargs

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Builds the configuration from a file's content and the arguments of `from_pretrained`.

        The stock method sets fields after the configuration is built and checked, so `encoder_layer=30` would pass.
        """
        own = {each.name for each in fields(cls) if each.init}
        changes = {key: kwargs.pop(key) for key in own & kwargs.keys() - {"dtype"}}
        # Fields that follow from the loss and the labels are recomputed when these change.
        stale = {"problem_type"} if "loss" in changes else set()
        if "id2label" in changes or kwargs.get("num_labels") is not None:
            stale |= {"id2label", "label2id", "num_labels"}
        kept = {key: value for key, value in config_dict.items() if key not in stale}
        return super().from_dict({**kept, **changes}, **kwargs)


class Wav2Vec2VocalBurstConfig(VocalBurstConfig, Wav2Vec2Config):
    """A wav2vec 2.0 or HuBERT encoder under the head; see `VocalBurstConfig`."""

    model_type = f"wav2vec2{SUFFIX}"
    kind = "wav2vec 2.0 and HuBERT"

    @classmethod
    def reads(cls, config_dict: dict) -> bool:
        # A HuBERT encoder differs from a wav2vec 2.0 encoder only in its pre-training; its weights have the same names.
        # The exceptions are two options that only distilled HuBERTs use.
        is_hubert = config_dict.get("model_type") == "hubert" and config_dict.get("feat_proj_layer_norm", True)
        return (super().reads(config_dict) or is_hubert) and not config_dict.get("conv_pos_batch_norm")
