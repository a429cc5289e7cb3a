"""Selects the device on which a model runs: the requested one, if it exists."""

import re

import torch

from avb.errors import AvbError, did_you_mean

LEGAL = ("auto", "cpu", "cuda", "mps", "xpu")
ALIASES = {"gpu": "cuda"}  # other names for it
_COUNT = {
    "cuda": torch.cuda.device_count,
    "xpu": torch.xpu.device_count,
    "mps": lambda: int(torch.backends.mps.is_available()),
}


def find_device(name: str | int | torch.device = "auto") -> torch.device:
    """Finds the device with a name; `auto` is the GPU, if there is one.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1`, `mps` (Apple), `xpu` (Intel); or a `torch.device`, or a GPU's number.

    Raises:
        AvbError: the device does not exist here, or the name is unknown.
    """
    if isinstance(name, int) and not isinstance(name, bool):
        name = f"cuda:{name}" if name >= 0 else "cpu"
    text = str(name)
    kind, _, number = text.partition(":")
    if kind not in LEGAL or not re.fullmatch(r"[a-z]+(:\d{1,4})?", text) or (kind in ("auto", "cpu") and number):
        near = f"; did you mean {ALIASES[kind]!r}?" if kind in ALIASES else did_you_mean(text, LEGAL, "Legal")
        raise AvbError(f"device {text!r} (--device) is unknown{near}")
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        return torch.device("cpu")
    count = _COUNT[kind]()
    if int(number or 0) >= count:
        there = f"the last one is {kind}:{count - 1}" if count else f"torch finds no {kind} device{_reason(kind)}"
        raise AvbError(f"device {text!r} (--device) does not exist here: {there}; use auto or cpu")
    return torch.device(text)


def _reason(kind: str) -> str:
    """The probable reason: usually, torch was built without support for the device."""
    if kind == "cuda" and torch.version.cuda is None:
        return f" (this torch, {torch.__version__}, is built without CUDA)"
    return ""
