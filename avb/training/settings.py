"""Whether a resumed run has the settings with which it began.

A run whose settings changed half-way would be neither the one nor the other, but its recipe and its row in the table of
results would describe it as the later one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from avb.arguments import names_with
from avb.errors import AvbError
from avb.recipes import read_yaml
from avb.run_files import FOLDS, RECIPE
from avb.training.checkpoints import last_checkpoint
from avb.training.defaults import CHOSEN

# What may change: how a step is divided and computed (on another machine), when it is saved, and whether a model of all
# folds is added.
_MAY_CHANGE = """
per_device_train_batch_size gradient_accumulation_steps per_device_eval_batch_size bf16 fp16 tf32
audio_on_device final_model cuda_graphs torch_compile torch_compile_backend torch_compile_mode gradient_checkpointing
gradient_checkpointing_kwargs accelerator_config parallelism_config fsdp fsdp_config deepspeed save_strategy save_steps
""".split()


def check_unchanged(output_dir: str | Path, recipe: Mapping[str, Any]):
    """Refuses to resume a run with other settings than it began with, if something of it would be kept.

    Args:
        output_dir: folder of the run.
        recipe: the settings that are given now, as in `Command.recipe`.

    Raises:
        AvbError: a setting differs.
    """
    is_begun = (Path(output_dir) / FOLDS).is_dir() or last_checkpoint(output_dir) is not None
    changes = changed_settings(output_dir, recipe) if is_begun else []
    if changes:
        raise AvbError(
            f"{output_dir} was begun with other settings ({'; '.join(changes)}): --resume true needs the same; "
            "--overwrite true starts over, and another --output_dir keeps both"
        )


def changed_settings(output_dir: str | Path, recipe: Mapping[str, Any]) -> list[str]:
    """How a run's settings differ from the given ones, such as `seed 2, and 1 before`; empty if it has noted none.

    Settings that change no result do not count, nor does what a resumed run may change.
    """
    path = Path(output_dir) / RECIPE
    if not path.is_file():
        return []
    before, now = (
        _comparable(read_yaml(path)),
        _comparable(yaml.safe_load(yaml.safe_dump(dict(recipe), sort_keys=False))),
    )
    ignored = {*names_with("changes_result", False), *_MAY_CHANGE} - {"seed"}
    names = [name for name in [*now, *before] if before.get(name) != now.get(name) and name not in ignored]
    # A value that is not given now may have been chosen by the run itself, which chooses it again.
    names = [name for name in dict.fromkeys(names) if name in now or name not in CHOSEN]
    return [f"{name} {now.get(name, 'not given')}, and {before.get(name, 'not given')} before" for name in names]


def _comparable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Values as text, because YAML reads 1e-3 as text; paths without their folders, which may have been moved."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return " ".join(map(text, value))
        try:
            return f"{float(value):g}" if not isinstance(value, bool) else str(value).lower()
        except (TypeError, ValueError):
            return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)

    return {name: text(value) for name, value in recipe.items()}
