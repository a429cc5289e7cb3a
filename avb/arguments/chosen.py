"""Values that training chooses for arguments that are not given, as far as --help states them.

`avb.training.defaults` chooses; the measurements behind the values are in docs/training.md.
"""

from typing import Any

BATCH_SIZE = 16  # clips per step (section IV-B)
# A small encoder memorises few clips after some epochs. Measured in combination, for classes.
AGAINST_LEARNING_BY_HEART: dict[str, Any] = {
    "augment": ["shift", "mixup"], "label_smoothing": 0.1, "head_dropout": 0.2, "weight_decay": 0.05,
}  # fmt: skip
# Clips of the largest / the smallest class above which classes are weighted. Measured at 8 and 23.
UNBALANCED = 5


def say_chosen(name: str, otherwise: str) -> str:
    """The end of an argument's help: the value of `AGAINST_LEARNING_BY_HEART`, or another one."""
    value = AGAINST_LEARNING_BY_HEART[name]
    text = " ".join(value) if isinstance(value, list) else f"{value:g}"
    return f"Default: auto: {text} if a small encoder is trained on classes, otherwise {otherwise}."
