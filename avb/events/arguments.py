"""Arguments of the detector's training: from a recipe, or by name."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from avb.errors import AvbError, did_you_mean
from avb.recipes import read_yaml


@dataclass(frozen=True)
class TrainingArguments:
    """Arguments of the detector's training."""

    pool: str = field(metadata={"help": "folder written by python -m avb.events prepare"})
    output_dir: str = field(metadata={"help": "folder for the model"})
    channels: int = field(default=192, metadata={"help": "channels of each block"})
    dropout: float = field(default=0.1, metadata={"help": "dropout in each block"})
    scene_seconds: float = field(default=10.24, metadata={"help": "length of a training scene"})
    batch_size: int = field(default=16, metadata={"help": "scenes per step"})
    max_steps: int = field(default=2400, metadata={"help": "training steps"})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak learning rate of a cosine schedule"})
    warmup_steps: int = field(default=100, metadata={"help": "steps of warm-up"})
    weight_decay: float = field(default=0.01, metadata={"help": "weight decay of AdamW"})
    ema_decay: float = field(default=0.998, metadata={"help": "decay per step of the moving average that is saved"})
    bf16: bool = field(default=False, metadata={"help": "compute in bfloat16, which processors with AMX do faster"})
    workers: int = field(default=0, metadata={"help": "processes that generate scenes in advance"})
    max_minutes: float = field(
        default=0.0, metadata={"help": "stop after this many minutes and stretch the cosine to fit; 0: no limit"}
    )
    start_from: str = field(default="", metadata={"help": "detector to start from"})
    start_share: float = field(
        default=0.0, metadata={"help": "share of the detector to start from in the weights that are saved; below 1"}
    )
    most_alarms: float = field(default=1.0, metadata={"help": "false alarms per hour allowed by the threshold"})
    f1_given_up: float = field(default=0.0, metadata={"help": "F1 on training scenes that a higher threshold may cost"})
    threshold_scenes: int = field(default=60, metadata={"help": "number of one-minute scenes for the threshold"})
    seed: int = field(default=1, metadata={"help": "random seed of weights and scenes"})


def read_arguments(recipe: str | Path | None, given: dict) -> TrainingArguments:
    """Reads a recipe; the arguments in `given` override it.

    Raises:
        AvbError: a name is unknown, or `pool` or `output_dir` is missing.
    """
    values = (read_yaml(Path(recipe)) if recipe else {}) | given
    known = [known.name for known in fields(TrainingArguments)]
    for name in values:
        if name not in known:
            raise AvbError(f"{recipe}: unknown argument {name!r}{did_you_mean(name, known)}")
    for name in ("pool", "output_dir"):
        if name not in values:
            raise AvbError(f"--{name} is missing")
    args = TrainingArguments(**values)
    if not 0 <= args.start_share < 1 or (args.start_share and not args.start_from):
        raise AvbError(f"--start_share {args.start_share:g}: give a share from 0 to below 1, and --start_from")
    return args
