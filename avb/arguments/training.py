"""Arguments of training: those of the stock Trainer, with our defaults, and our own."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch

from avb.arguments.chosen import BATCH_SIZE, say_chosen
from avb.arguments.properties import NO_CHANGE
from avb.corpus_arguments import PRIVATE
from avb.encoders.late_peft import import_before_peft
from avb.errors import AvbError
from avb.registration import registering_later

with registering_later():
    import_before_peft("transformers.training_args")
    from transformers import IntervalStrategy, TrainingArguments
    from transformers.trainer_utils import SaveStrategy


@dataclass
class AvbTrainingArguments(TrainingArguments):
    _argument_group_name = "training"  # of --help
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for model, card and scores. Default: runs/RECIPE.", **PRIVATE},
    )
    per_device_train_batch_size: int = field(
        default=BATCH_SIZE,
        metadata={"help": f"Clips per step and device. Default: auto ({BATCH_SIZE}, section IV-B)."},
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
        default=0.0625,
        metadata={
            "help": "Weight decay of AdamW. " + say_chosen("weight_decay", "0.0625 (section IV-B: 1 / batch size)")
        },
    )
    decay_biases: bool = field(
        default=False, metadata={"help": "Also apply weight decay to biases and norms, as the authors do."}
    )
    bf16: bool = field(
        default=False,
        metadata={
            "help": "Train in bfloat16, with weights in fp32. Default: auto: true for a speech encoder, if the GPU or "
            "CPU multiplies in bfloat16; false in pre-training."
        },
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
            "help": "Keep all decoded clips in the device's memory, and augment them there: auto (on a GPU, if they "
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
