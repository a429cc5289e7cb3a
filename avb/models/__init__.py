"""Models that come with the project, found by name and without a network; `avb.cards.shipping` writes them."""

import os
from pathlib import Path

from avb.errors import AvbError, did_you_mean

FOLDER = Path(__file__).resolve().parent  # part of the package, so that a wheel has them too


def locate(name: str | os.PathLike) -> str:
    """The folder of a shipped model, where `name` is one's and no folder here has that name; else `name` itself."""
    path = FOLDER / str(name)
    is_shipped = Path(name).name == str(name) and (path / "config.json").is_file()
    refuse_missing_folder(name)
    return str(path) if is_shipped and not Path(name).exists() else str(name)


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
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))
