"""Every argument of `train_avb.py`: dataclasses with help, read from a recipe and the command line.

The defaults are the `recommended` preset: front end frozen, transformer trained at 1e-5 and head at 1e-4, CCC averaged
over labels, masked pooling. Batch size, epochs and weight decay are the paper's (section IV-B).
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch
from transformers import HfArgumentParser, IntervalStrategy, TrainingArguments
from transformers.hf_argparser import string_to_bool
from transformers.trainer_utils import SaveStrategy

from avb.corpus_arguments import CorpusArguments
from avb.errors import AvbError, RecipeError, did_you_mean
from avb.recipes import SUFFIXES, read_recipe, recipe_arguments


@dataclass
class ModelArguments:
    _argument_group_name = "model"  # of --help
    model: str = field(
        default="wav2vec2",
        metadata={"help": "wav2vec2, or a baseline: egemaps_mlp, compare_mlp, emo18 or log_mel_cnn."},
    )
    encoder: str = field(
        default="facebook/wav2vec2-large-lv60",
        metadata={
            "help": "BASE, LARGE, LARGE-LV60K or XLSR53; Hub name or folder of a wav2vec 2.0 checkpoint or of a model "
            "trained here; emogator-small, which comes with the project;"
            " or a YAML file of Wav2Vec2Config fields, to start from random weights."
        },
    )
    encoder_layer: int | None = field(
        default=None,
        metadata={
            "help": "Transformer layer that feeds the head; those above are cut off. Default: 12 (section IV-B), or "
            "the last one of a smaller encoder."
        },
    )
    rnn_layers: int = field(default=2, metadata={"help": "LSTM layers; 0 is the paper's 'without RNN' (Table IV)."})
    rnn_hidden_size: int = field(default=512, metadata={"help": "Units of an LSTM layer (section IV-B)."})
    head_dropout: float = field(default=0.0, metadata={"help": "Dropout around the LSTM. The paper has none."})
    pooling: str = field(
        default="last",
        metadata={"help": "last, first, max, avg (section III-B), attention, or maskavg (of the authors' code)."},
    )
    pool_before_head: bool = field(
        default=False, metadata={"help": "True: the linear layer reads the pooled frames (the authors' older code)."}
    )
    loss: str | None = field(
        default=None, metadata={"help": "ccc, mse (section III-C) or ce. Default: ccc for scores, ce for classes."}
    )
    task_weighting: str = field(
        default="fixed", metadata={"help": "Several tasks: fixed weights, or 'uncertainty' learns them."}
    )
    task_weights: list[float] | None = field(
        default=None, metadata={"help": "Several tasks: one fixed weight a task. Default: 1 each."}
    )
    ccc_reduction: str = field(default="mean", metadata={"help": "CCC over labels: mean, or the authors' sum."})
    class_weights: str | None = field(
        default=None, metadata={"help": "'balanced' weighs each class by the inverse of its train count (loss ce)."}
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "Label smoothing of loss ce, in [0, 1)."})
    head_norm: str | None = field(
        default=None,
        metadata={
            "help": "'batch': the authors' batch norm over labels before the sigmoid; 'batch_clips': over clips, with "
            "pool_before_head."
        },
    )
    head_init: str = field(
        default="transformers",
        metadata={"help": "Initial weights of LSTM and linear layers: transformers', or torch's (the authors')."},
    )
    ce_sigmoid: bool = field(
        default=False, metadata={"help": "True: a sigmoid before cross entropy, as in the authors' older code."}
    )
    masked_pooling: bool = field(
        default=True, metadata={"help": "False: max, avg and maskavg see padding, as the authors'."}
    )
    masked_group_norm: bool = field(default=True, metadata={"help": "False: stock group norm, which sees padding."})
    waveform_normalization: str = field(
        default="clip", metadata={"help": "clip, batch (torchaudio's since 2.0) or none (the authors')."}
    )
    frozen_encoder_dropout: bool = field(
        default=False, metadata={"help": "True: a frozen encoder's dropout stays on in training, as the authors'."}
    )
    freeze: str = field(
        default="feature_encoder",
        metadata={
            "help": "What stays as loaded: 'feature_encoder' (the convolutions), 'encoder' (all of it) or 'none'."
        },
    )
    mask_time_prob: float = field(default=0.0, metadata={"help": "SpecAugment: share of frames masked in training."})
    mask_feature_prob: float = field(default=0.0, metadata={"help": "SpecAugment: share of channels masked."})
    feat_proj_dropout: float | None = field(
        default=None, metadata={"help": "Dropout behind the encoder's feature projection. Default: the checkpoint's."}
    )
    hidden_dropout: float | None = field(
        default=None, metadata={"help": "Dropout of the encoder's hidden states. Default: the checkpoint's."}
    )
    attention_dropout: float | None = field(
        default=None, metadata={"help": "Dropout of the encoder's attention weights. Default: the checkpoint's."}
    )
    activation_dropout: float | None = field(
        default=None, metadata={"help": "Dropout inside the encoder's feed-forward parts. Default: the checkpoint's."}
    )
    layerdrop: float | None = field(
        default=None, metadata={"help": "Probability of skipping a layer of the encoder. Default: 0."}
    )
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa, eager or flash_attention_2."})


@dataclass
class PretrainingArguments:
    _argument_group_name = "encoder and objective"  # of --help
    encoder: str = field(
        default="recipes/encoders/small.yaml",
        metadata={"help": "YAML file of Wav2Vec2Config fields, or folder of an encoder to go on from."},
    )
    objective: str = field(
        default="log_mel",
        metadata={
            "help": "What of hidden frames is predicted: log_mel, descriptors, clusters (k-means of log_mel), "
            "layer_clusters (of a layer of --encoder FOLDER), or contrastive (wav2vec 2.0's own loss)."
        },
    )
    num_mel_bins: int = field(default=64, metadata={"help": "Bands of the spectra that targets are made of."})
    mask_time_prob: float = field(default=0.5, metadata={"help": "Share of frames hidden from the encoder."})
    mask_time_length: int = field(default=8, metadata={"help": "Frames of a hidden span (of 20 ms, as a rule)."})


@dataclass
class DataArguments(CorpusArguments):
    _argument_group_name = "data"  # of --help
    peak_db: float | None = field(default=-3.0, metadata={"help": "Peak level of each clip, dBFS (section IV-A: -3)."})
    trim_top_db: float | None = field(
        default=None, metadata={"help": "Cut leading and trailing parts quieter than this many dB below the peak."}
    )
    cache_frames: bool = field(
        default=True,
        metadata={"help": "Run a frozen encoder once and train on its frames, kept in cache_dir."},
    )
    frames_dtype: str = field(
        default="float16", metadata={"help": "Of the frames that cache_frames keeps: float16 or float32."}
    )
    augment: list[str] | None = field(
        default=None,
        metadata={"help": "Random changes to train clips: any of rate pitch shift mix noise gain mixup."},
    )
    augment_prob: float = field(
        default=0.5, metadata={"help": "Probability of each change of augment, a clip and epoch."}
    )
    teachers: list[str] | None = field(
        default=None,
        metadata={"help": "Distillation: models, or tables of predict_avb.py that they made of the train clips."},
    )
    teacher_weight: float = field(
        default=0.5, metadata={"help": "Share of the teachers in a train label; the rest is the clip's own."}
    )
    max_train_clips: int | None = field(default=None, metadata={"help": "Train on the first so many clips, shuffled."})
    num_decode_workers: int = field(default=1, metadata={"help": "Processes that decode audio into the cache."})
    cache_dir: str | None = field(
        default=None, metadata={"help": "Where decoded audio is kept. Default: datasets' cache."}
    )
    strict: bool = field(
        default=False, metadata={"help": "Stop at the first clip that cannot be read; else it is skipped."}
    )


@dataclass
class AvbTrainingArguments(TrainingArguments):
    _argument_group_name = "training"  # of --help
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for model, card and scores. Default: runs/ and the recipe's name."}
    )
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Clips a step and device (section IV-B)."})
    batch_seconds: float | None = field(
        default=None,
        metadata={
            "help": "Instead of per_device_train_batch_size: audio a step and device, in s, padding included. Clips of "
            "like length share a step; a longer clip is a batch of its own."
        },
    )
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Clips a step and device in evaluation."})
    num_train_epochs: float = field(
        default=20, metadata={"help": "Epochs (section IV-B: 20; Table V: 50 with early stopping)."}
    )
    learning_rate: float = field(
        default=1e-4, metadata={"help": "Learning rate of the head, and of all that has no rate of its own."}
    )
    encoder_learning_rate: float = field(
        default=1e-5,
        metadata={"help": "Learning rate of the encoder, unless it is frozen (the paper has 1e-4 for all)."},
    )
    weight_decay: float = field(
        default=0.0625, metadata={"help": "Weight decay of AdamW (section IV-B: 1 / batch size)."}
    )
    decay_biases: bool = field(
        default=False, metadata={"help": "True: weight decay on biases and norms too, as the authors'."}
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up: a share of all steps below 1, else steps."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When the validation split is scored."})
    save_strategy: str = field(default="epoch", metadata={"help": "When a checkpoint is written."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When the training loss is logged."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept, beside the best one."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best epoch on validation."})
    best_on_tie: str = field(
        default="first", metadata={"help": "Of epochs with the same best score: the first, or the last (the authors')."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better score (Table V)."}
    )
    train_sampling_strategy: str = field(default="group_by_length", metadata={"help": "random or group_by_length."})
    length_column_name: str = field(default="num_samples", metadata={"help": "Leave as it is."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop a last, smaller batch in training."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Faster copies to a GPU; off where there is none."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave as it is."})
    # With it the Trainer multiplies the loss by the number of devices, which is wrong for a loss of the joined batch.
    average_tokens_across_devices: bool = field(default=False, metadata={"help": "Leave as it is."})
    push_to_hub: bool = field(
        default=False,
        metadata={"help": "At the end, upload the finished model and its card to hub_model_id, in one commit."},
    )
    hub_model_id: str | None = field(
        default=None, metadata={"help": "ORG/NAME to push to; made before training if it is not there."}
    )
    hub_private_repo: bool = field(default=True, metadata={"help": "False: a repository made here is public."})
    hub_token: str | None = field(default=None, metadata={"help": "Not here: log in by `hf auth login`, or HF_TOKEN."})
    hub_strategy: str = field(default="end", metadata={"help": "Leave as it is: checkpoints are never uploaded."})
    results: str | None = field(
        default=None, metadata={"help": "File that gets one row for each scored split, e.g. results/runs.csv."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Train anew into a folder that holds a finished model."})

    def __post_init__(self):
        # Unless it is told so, accelerate does not join processes on a machine without an accelerator: each would train
        # alone and overwrite the other's files.
        self.use_cpu: bool = self.use_cpu or not torch.accelerator.is_available()
        if self.hub_token:
            raise AvbError("--hub_token would end up in recipe.yaml: log in by `hf auth login`, or set HF_TOKEN")
        if self.label_smoothing_factor:
            raise AvbError("--label_smoothing_factor of the stock Trainer has no effect here: give --label_smoothing")
        if self.batch_seconds is not None:
            if self.batch_seconds <= 0:
                raise AvbError(f"--batch_seconds {self.batch_seconds:g} must be positive, in seconds of audio")
            if self.train_sampling_strategy != "group_by_length":
                raise AvbError(
                    f"--batch_seconds puts clips of like length together, which --train_sampling_strategy "
                    f"{self.train_sampling_strategy} does not: leave one of them out"
                )
        if self.best_on_tie not in ("first", "last"):
            raise AvbError(f"--best_on_tie {self.best_on_tie!r} is not legal: it must be first or last")
        scored, saved = IntervalStrategy(self.eval_strategy).value, SaveStrategy(self.save_strategy).value
        if self.load_best_model_at_end and saved not in (scored, "best"):
            raise AvbError(
                f"--eval_strategy {scored} and --save_strategy {saved} must be the same, so that the best epoch "
                "is kept: give both, or add --load_best_model_at_end false"
            )
        if self.push_to_hub and not self.hub_model_id:
            raise AvbError("--push_to_hub true needs --hub_model_id ORG/NAME")
        super().__post_init__()


# Arguments of the stock Trainer that a reader of --help looks for among ours, and ours that are none of his business.
_OFTEN_TYPED = ("seed", "max_steps", "bf16", "gradient_accumulation_steps", "eval_steps", "save_steps", "logging_steps")
_OFTEN_TYPED += ("torch_compile", "use_cpu", "report_to")
_LEFT_ALONE = ("length_column_name", "remove_unused_columns", "average_tokens_across_devices", "hub_strategy")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """One spelling an argument and one default: the stock help has `--a_b A_B, --a-b A_B` and `(default: None)`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        values = "" if action.nargs == 0 else f" {self._format_args(action, '')}"
        return f"{action.option_strings[0]}{values}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        kind = action.type.kind if isinstance(action.type, _OrNone) else action.type
        value = {int: "N", float: "X", string_to_bool: "true|false"}.get(kind, "VALUE")
        return f"{value} ..." if action.nargs in ("+", "*") else value

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_said = action.default is None or "Default:" in (action.help or "")
        return action.help if is_said else super()._get_help_string(action)


OFF = "none"  # as a value of an argument that may be None: `--peak_db none`, and in a recipe `peak_db: none`


class _OrNone:
    """A type of arguments that takes `none` too, as None."""

    def __init__(self, kind: Callable[[str], Any]):
        self.kind = kind
        self.__name__ = kind.__name__  # of argparse's errors

    def __call__(self, text: str) -> Any:
        return None if text.lower() == OFF else self.kind(text)


def _names_that_may_be_none(dataclass_type: type) -> set[str]:
    return {name for name, hint in get_type_hints(dataclass_type).items() if NoneType in get_args(hint)}


class AvbArgumentParser(HfArgumentParser):
    """One-line errors, and a help in which our arguments come before the hundred of the stock Trainer."""

    def __init__(self, dataclass_types, **kwargs):
        # Before the stock parser, which rewrites the types of fields.
        may_be_none = set().union(*map(_names_that_may_be_none, dataclass_types))
        super().__init__(dataclass_types, formatter_class=_HelpFormatter, **kwargs)
        for action in self._actions:
            if action.dest in may_be_none and action.default != OFF:  # of report_to it is a value of its own
                action.type = _OrNone(action.type or str)
        for action in self._actions:
            if action.option_strings[0].startswith("--no_"):  # HfArgumentParser makes one of each switch that is on
                action.help = argparse.SUPPRESS
        training = next(group for group in self._action_groups if group.title == "training")
        stock = self.add_argument_group("of the stock Trainer", "see transformers.TrainingArguments")
        ours = [name for name in AvbTrainingArguments.__annotations__ if name not in _LEFT_ALONE] + list(_OFTEN_TYPED)
        stock._group_actions = [action for action in training._group_actions if action.dest not in ours]
        training._group_actions = [action for action in training._group_actions if action.dest in ours]
        training._group_actions.sort(key=lambda action: ours.index(action.dest))

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def make_parser(model_arguments: type = ModelArguments) -> AvbArgumentParser:
    """The arguments of `train_avb.py`, or with `PretrainingArguments` those of `pretrain_avb.py`."""
    return AvbArgumentParser(
        (model_arguments, DataArguments, AvbTrainingArguments),
        usage="%(prog)s [RECIPE.yaml ...] [--argument value ...]",
        description="A recipe is a YAML file of these arguments (recipes/README.md). Later recipes win over earlier "
        "ones, and what is typed wins over all.",
        allow_abbrev=False,
    )


def parse_arguments(argv: list[str] | None = None, model_arguments: type = ModelArguments) -> tuple:
    """Reads `[RECIPE.yaml ...] [--argument value ...]`; later recipes win, and the command line over all.

    Args:
        argv: None is the command line's.
        model_arguments: dataclass of what is trained: `ModelArguments`, or `PretrainingArguments`.

    Returns:
        The dataclasses (model, data, training), and the recipe with the command line's arguments merged in, ready to be
        written beside the model.

    An error ends the program with exit code 2 and one line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser(model_arguments)
    known = {action.dest for action in parser._actions} - {"help"}
    recipe: dict[str, Any] = {}
    names: list[str] = []
    try:
        while argv and not argv[0].startswith("-"):
            path = Path(argv.pop(0))
            recipe |= read_recipe(path)
            names.append(path.stem)
        argv = recipe_arguments(recipe, known) + argv
    except RecipeError as error:
        parser.error(str(error))

    namespace, rest = parser.parse_known_args(argv)
    if rest and Path(rest[0]).suffix in SUFFIXES:
        parser.error(f"unknown argument {rest[0]!r}; if it is a recipe, it comes before all that begins with --")
    if rest and not rest[0].startswith("-"):
        parser.error(f"unknown argument {rest[0]!r}; the one before it takes no such value, or no more of them")
    if rest:
        unknown = rest[0].lstrip("-").split("=")[0]
        parser.error(f"unknown argument {rest[0]!r}{did_you_mean(unknown, known)}")
    for name, value in vars(namespace).items():
        if value == [None]:  # a list's `none`
            setattr(namespace, name, None)
    if namespace.output_dir is None:
        namespace.output_dir = f"runs/{'-'.join(names) or 'run'}"
    given = {item.lstrip("-").split("=")[0].replace("-", "_") for item in argv if item.startswith("--")}
    resolved = {
        key: OFF if value is None and key != "output_dir" else value  # null would mean: not given
        for key, value in vars(namespace).items()
        if key in given | {key for key, value in recipe.items() if value is not None} | {"output_dir"}
    }
    try:
        parts = []
        for dataclass_type in parser.dataclass_types:
            own = {f.name for f in dataclass_type.__dataclass_fields__.values() if f.init}
            parts.append(dataclass_type(**{key: value for key, value in vars(namespace).items() if key in own}))
    except (AvbError, ValueError, ImportError) as error:
        parser.error(str(error))
    return (*parts, resolved)
