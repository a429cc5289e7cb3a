"""All arguments of `train_avb.py` and `pretrain_avb.py`: dataclasses with help; `avb.command_line` parses them.

Further properties of an argument are in its field's metadata (`PROPERTIES`); those of the stock Trainer's arguments are
in `_STOCK`.

The defaults are the `recommended` preset: front end frozen, transformer trained at 1e-5 and head at 1e-4, CCC averaged
over labels, masked pooling. Batch size, epochs and weight decay are the paper's (section IV-B). If an argument whose
help says `auto` is not given, training chooses a value for its encoder and clips: `avb.training.defaults`.
"""

import dataclasses
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from audio_avb import AudioPreparation
from avb.corpus_arguments import PRIVATE, CorpusArguments
from avb.encoders.late_peft import import_before_peft
from avb.errors import AvbError
from avb.recipes import FOLDER as RECIPES
from avb.registration import registering_later

with registering_later():
    import_before_peft("transformers.training_args")
    from transformers import IntervalStrategy, TrainingArguments
    from transformers.trainer_utils import SaveStrategy

    from configuration_avb import Wav2Vec2VocalBurstConfig

# The properties that an argument's metadata may set, with their defaults.
PROPERTIES: dict[str, Any] = {
    "changes_result": True,  # False: only affects where a run reads and writes, and how fast; `Result.changes` omits it
    "private": False,  # True: private, or useless to readers elsewhere; a card omits it
    "often_typed": False,  # True: a stock Trainer's argument that --help shows among ours
    "left_alone": False,  # True: ours, but --help shows it after the stock Trainer's
}
NO_CHANGE = {"changes_result": False}
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
    head_dropout: float = _of_model("head_dropout")
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
            "weights all classes equally. Default: auto: balanced if one class has over five times another's clips."
        },
    )
    label_smoothing: float = _of_model("label_smoothing")
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


@dataclass
class DataArguments(CorpusArguments):
    _argument_group_name = "data"  # of --help
    peak_db: float | None = field(
        default=AudioPreparation.peak_db, metadata={"help": "Peak level of each clip, dBFS (section IV-A: -3)."}
    )
    trim_top_db: float | None = field(
        default=AudioPreparation.trim_top_db,
        metadata={"help": "Trim leading and trailing parts more than this many dB below the peak."},
    )
    cache_frames: bool = field(
        default=True,
        metadata={
            "help": "Run a frozen encoder or front end once and train on its frames, stored in cache_dir.",
            **NO_CHANGE,
        },
    )
    frames_dtype: str = field(
        default="float16", metadata={"help": "Precision of the frames that cache_frames stores: float16 or float32."}
    )
    augment: list[str] | None = field(
        default=None,
        metadata={
            "help": "Augmentation of training clips: any of rate pitch shift mix noise equalizer gain mixup; noise:0.3 "
            "sets a probability."
        },
    )
    augment_prob: float = field(default=0.5, metadata={"help": "Probability of each augmentation, per clip and epoch."})
    teachers: list[str] | None = field(
        default=None,
        metadata={
            "help": "Distillation: teacher models, or tables of their scores for the training clips, written by "
            "predict_avb.py."
        },
    )
    teacher_weight: float = field(
        default=0.5,
        metadata={"help": "Weight of the teachers in each training label; the clip's own label gets the rest."},
    )
    teacher_views: int = field(
        default=1,
        metadata={"help": "Average each teacher model's scores over this many speeds of the clip, 0.88 to 1.14."},
    )
    fold_file: str | None = field(
        default=None,
        metadata={
            "help": "Table with columns speaker and fold, e.g. recipes/emogator/folds.csv. The training speakers of "
            "--fold become the validation split; the corpus's own validation and test splits are not used."
        },
    )
    fold: int | None = field(default=None, metadata={"help": "Fold of fold_file to hold out."})
    folds: str | None = field(
        default=None,
        metadata={
            "help": "Cross-validation: a number of folds, e.g. 5; 'speakers' for one fold per speaker; or a table with "
            "columns id (or speaker) and fold. If the corpus has splits, its train split is divided."
        },
    )
    final_model: bool = field(
        default=False, metadata={"help": "With folds: train one more model on all clips at the end."}
    )
    max_train_clips: int | None = field(default=None, metadata={"help": "Train on this many clips, drawn at random."})
    max_seconds: float = field(
        default=AudioPreparation.max_seconds, metadata={"help": "Longest clip to decode, in seconds."}
    )
    num_decode_workers: int = field(
        default=1, metadata={"help": "Processes that decode audio into the cache.", **NO_CHANGE}
    )
    cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for decoded audio. Default: the cache of datasets.", **PRIVATE},
    )
    strict: bool = field(
        default=False,
        metadata={"help": "Stop at the first clip that cannot be read instead of skipping it.", **NO_CHANGE},
    )

    def preparation(self) -> AudioPreparation:
        """How clips are prepared. Raises an AudioError if a setting is invalid."""
        return AudioPreparation(trim_top_db=self.trim_top_db, peak_db=self.peak_db, max_seconds=self.max_seconds)


@dataclass
class AvbTrainingArguments(TrainingArguments):
    _argument_group_name = "training"  # of --help
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for model, card and scores. Default: runs/RECIPE.", **PRIVATE},
    )
    per_device_train_batch_size: int = field(
        default=16, metadata={"help": "Clips per step and device. Default: auto (16, section IV-B)."}
    )
    batch_seconds: float | None = field(
        default=None,
        metadata={
            "help": "Instead of per_device_train_batch_size: seconds of audio per step and device, including padding. "
            "Clips of similar length share a step; a longer clip is a batch of its own."
        },
    )
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Clips per step and device in evaluation."})
    num_train_epochs: float = field(
        default=20,
        metadata={"help": "Epochs (section IV-B: 20; Table V: 50). Default: auto, by encoder and number of clips."},
    )
    learning_rate: float = field(
        default=1e-4,
        metadata={
            "help": "Learning rate of the head and of all other weights without a rate of their own. Default: auto, "
            "by encoder."
        },
    )
    encoder_learning_rate: float = field(
        default=1e-5,
        metadata={
            "help": "Learning rate of the encoder, if it is trained (paper: 1e-4 for everything). Default: auto."
        },
    )
    layer_lr_decay: float = field(
        default=1.0,
        metadata={
            "help": "Layer-wise decay: multiply the encoder's learning rate by this factor for each layer below the "
            "highest one used, e.g. 0.9; the part before the layers counts as one more layer."
        },
    )
    weight_decay: float = field(
        default=0.0625, metadata={"help": "Weight decay of AdamW (section IV-B: 1 / batch size)."}
    )
    decay_biases: bool = field(
        default=False, metadata={"help": "Also apply weight decay to biases and norms, as the authors do."}
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Warm-up: a fraction of all steps if below 1, otherwise a number of steps."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When the validation split is scored."})
    save_strategy: str = field(default="epoch", metadata={"help": "When a checkpoint is written."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When the training loss is logged.", **NO_CHANGE})
    save_total_limit: int | None = field(
        default=1, metadata={"help": "Number of checkpoints to keep besides the best one.", **NO_CHANGE}
    )
    keep_checkpoints: bool = field(
        default=False,
        metadata={"help": "Keep the checkpoints (weights and optimiser) after training.", **NO_CHANGE},
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Keep the epoch with the best validation score."}
    )
    best_on_tie: str = field(
        default="first",
        metadata={"help": "Which epoch to keep if several share the best score: first, or last (as the authors do)."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Score and keep an exponential moving average of the weights with this decay per step, e.g. 0.998."
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better score (Table V)."}
    )
    train_sampling_strategy: str = field(default="group_by_length", metadata={"help": "random or group_by_length."})
    length_column_name: str = field(default="num_samples", metadata={"help": "Leave as it is.", "left_alone": True})
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Drop the last batch of an epoch if it is smaller."}
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available,
        metadata={"help": "Faster copies to a GPU; off without one.", **NO_CHANGE},
    )
    cuda_graphs: str = field(
        default="auto",
        metadata={
            "help": "Run steps as CUDA graphs: auto (on one GPU, if batches have few lengths), true or false.",
        },
    )
    audio_on_device: str = field(
        default="auto",
        metadata={
            "help": "Keep all decoded clips in the device's memory, and change them there: auto (on a GPU, where they "
            "fit), true or false.",
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave as it is.", "left_alone": True})
    # If true, the Trainer multiplies the loss by the number of devices, which is wrong for a loss of the joined batch.
    average_tokens_across_devices: bool = field(default=False, metadata={"help": "Leave as it is.", "left_alone": True})
    push_to_hub: bool = field(
        default=False,
        metadata={
            "help": "After training, upload the model and its card to hub_model_id, in one commit.",
            **PRIVATE,
        },
    )
    hub_model_id: str | None = field(
        default=None,
        metadata={"help": "Repository ORG/NAME to push to; created before training if it does not exist.", **PRIVATE},
    )
    hub_private_repo: bool = field(
        default=True,
        metadata={"help": "If false, a newly created repository is public.", **PRIVATE},
    )
    hub_token: str | None = field(
        default=None,
        metadata={"help": "Not accepted here: log in with `hf auth login`, or set HF_TOKEN.", **PRIVATE},
    )
    hub_strategy: str = field(
        default="end",
        metadata={
            "help": "Leave as it is: checkpoints are never uploaded.",
            **NO_CHANGE,
            "left_alone": True,
        },
    )
    results: str | None = field(
        default=None,
        metadata={"help": "CSV file to append one row per scored split to, e.g. results/runs.csv.", **PRIVATE},
    )
    resume: bool = field(
        default=False,
        metadata={"help": "Continue from the last checkpoint in output_dir.", **PRIVATE},
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Replace the finished model in output_dir.", **PRIVATE},
    )

    def __post_init__(self):
        # By default, accelerate does not join processes on a machine without an accelerator: each would train alone and
        # overwrite the others' files.
        self.use_cpu: bool = self.use_cpu or not torch.accelerator.is_available()
        self._check_numbers()
        if self.deepspeed and find_spec("deepspeed") is None:
            raise AvbError("--deepspeed needs the package deepspeed: `pip install deepspeed`, or omit the argument")
        if isinstance(self.deepspeed, str) and not Path(self.deepspeed).is_file() and "{" not in self.deepspeed:
            raise AvbError(f"--deepspeed {self.deepspeed}: no such file; recipes/accelerate/ needs none")
        if self.hub_token:
            raise AvbError("--hub_token would be written to recipe.yaml: log in with `hf auth login`, or set HF_TOKEN")
        if self.label_smoothing_factor:
            raise AvbError("--label_smoothing_factor of the stock Trainer has no effect here: use --label_smoothing")
        if self.batch_seconds is not None:
            if self.batch_seconds <= 0:
                raise AvbError(f"--batch_seconds {self.batch_seconds:g} must be positive, in seconds of audio")
            if self.train_sampling_strategy != "group_by_length":
                raise AvbError(
                    f"--batch_seconds groups clips of similar length, but --train_sampling_strategy "
                    f"{self.train_sampling_strategy} does not: omit one of them"
                )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise AvbError(f"--ema_decay {self.ema_decay:g} is invalid: it must be between 0 and 1, such as 0.998")
        for name in ("cuda_graphs", "audio_on_device"):
            choice = str(getattr(self, name)).lower()  # YAML reads true and false as booleans
            setattr(self, name, choice)
            if choice not in ("auto", "true", "false"):
                raise AvbError(f"--{name} {choice!r} is invalid: it must be auto, true or false")
        if self.best_on_tie not in ("first", "last"):
            raise AvbError(f"--best_on_tie {self.best_on_tie!r} is invalid: it must be first or last")
        scored, saved = IntervalStrategy(self.eval_strategy).value, SaveStrategy(self.save_strategy).value
        if self.load_best_model_at_end and saved not in (scored, "best"):
            raise AvbError(
                f"--eval_strategy {scored} and --save_strategy {saved} must be the same to keep the best epoch: "
                "set both, or add --load_best_model_at_end false"
            )
        if self.push_to_hub and not self.hub_model_id:
            raise AvbError("--push_to_hub true needs --hub_model_id ORG/NAME")
        super().__post_init__()

    def _check_numbers(self):
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise AvbError(f"--{name} {getattr(self, name)} is invalid: it must be 1 or more")
        if self.num_train_epochs <= 0:
            raise AvbError(f"--num_train_epochs {self.num_train_epochs:g} trains nothing: it must be more than 0")
        if self.max_steps < 1 and self.max_steps != -1:
            raise AvbError(
                f"--max_steps {self.max_steps} is invalid: it must be 1 or more, or -1 for --num_train_epochs"
            )


# Arguments of the stock Trainer that change no number, among them do_train, do_eval and do_predict, which are not read.
_NO_INFLUENCE = """
logging_first_step logging_nan_inf_filter log_on_each_node log_level log_level_replica disable_tqdm debug
include_num_input_tokens_seen skip_memory_metrics save_only_model save_on_each_node enable_jit_checkpoint
eval_accumulation_steps torch_empty_cache_steps dataloader_num_workers dataloader_persistent_workers
dataloader_prefetch_factor dataloader_multiprocessing_context ddp_backend ddp_bucket_cap_mb ddp_find_unused_parameters
ddp_static_graph ddp_timeout local_rank do_train do_eval do_predict resume_from_checkpoint
""".split()
# Properties of the stock Trainer's arguments. An argument that is not listed changes the result: whatever affects a
# number, even its last digit, or the order of clips, counts as a change.
_STOCK: dict[str, dict[str, Any]] = {
    "seed": {**NO_CHANGE, "often_typed": True},  # the table of results has a column for it
    "max_steps": {"often_typed": True},
    "bf16": {"often_typed": True},
    "gradient_accumulation_steps": {"often_typed": True},
    "eval_steps": {"often_typed": True},
    "save_steps": {"often_typed": True},
    "logging_steps": {**NO_CHANGE, "often_typed": True},
    "torch_compile": {"often_typed": True},
    "use_cpu": {**NO_CHANGE, "often_typed": True},
    "report_to": {**NO_CHANGE, "often_typed": True},
    "run_name": PRIVATE,
    "logging_dir": PRIVATE,  # in recipes of older runs
    "hub_always_push": PRIVATE,
    "hub_revision": PRIVATE,
    "project": PRIVATE,  # of an experiment tracker, like the three below
    "trackio_space_id": PRIVATE,
    "trackio_bucket_id": PRIVATE,
    "trackio_static_space_id": PRIVATE,
    **dict.fromkeys(_NO_INFLUENCE, NO_CHANGE),
}


def names_with(prop: str, value: bool = True) -> list[str]:
    """The arguments with this value of a property of `PROPERTIES`."""
    found = dict.fromkeys(_STOCK, PROPERTIES[prop])
    for arguments in (ModelArguments, PretrainingArguments, DataArguments, AvbTrainingArguments):
        found |= {f.name: f.metadata.get(prop, PROPERTIES[prop]) for f in dataclasses.fields(arguments)}
    found |= {name: properties[prop] for name, properties in _STOCK.items() if prop in properties}
    return [name for name, own in found.items() if own == value]
