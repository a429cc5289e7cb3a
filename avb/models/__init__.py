"""Models that come with the project, found by name and without a network; `avb.cards.shipping` writes them."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from avb.errors import AvbError, did_you_mean

DETECTOR = "emogator-events"  # of bursts in recordings: no emotion model, see avb.events
FOLDER = Path(__file__).resolve().parent  # part of the package, so that a wheel has them too


def locate(name: str | os.PathLike, others: Iterable[str] = ()) -> str:
    """The folder of a shipped model, where `name` is one's and no folder here has that name; else `name` itself.

    Args:
        name: of a shipped model, a path, or ORG/NAME on the Hub.
        others: further names that the user may have meant.

    Raises:
        AvbError: there is no such folder, and it cannot be a name on the Hub, which is not asked then: without a
            network that takes half a minute.
    """
    name = str(name)
    if Path(name).exists():
        return name
    path = FOLDER / name
    if Path(name).name == name and (path / "config.json").is_file():
        return str(path)
    refuse_missing_folder(name)
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]*\w[\w.-]*", name):
        known = [*names(), *others]
        raise AvbError(
            f"{name}: no such model{did_you_mean(name, known)} Give a folder written by train_avb.py (config.json, "
            f"model.safetensors, preprocessor_config.json), {', '.join(known)}, or ORG/NAME of a model on the Hub"
        )
    return name


def refuse_missing_folder(name: str | os.PathLike):
    """Raises an AvbError for `runs/mien` where `runs/` holds models, but not this one: no name on the Hub is meant.

    The Hub would be asked for it, and, without a network, for more than a minute.
    """
    path = Path(name)
    if len(path.parts) == 1 or path.exists():
        return
    models = sorted(found.parent.name for found in path.parent.glob("*/config.json"))
    if models:
        raise AvbError(f"{name}: no such folder{did_you_mean(path.name, models, f'In {path.parent} there are')}")


def names() -> list[str]:
    """Of the emotion models."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json") if path.parent.name != DETECTOR)
