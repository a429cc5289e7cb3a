"""Models that come with the project, found by name and without a network; `avb.shipping` writes them."""

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "models"  # part of the package, so that a wheel has them too


def locate(name: str | os.PathLike) -> str:
    """The folder of a shipped model, where `name` is one's and no folder here has that name; else `name` itself."""
    path = FOLDER / str(name)
    is_shipped = Path(name).name == str(name) and (path / "config.json").is_file()
    return str(path) if is_shipped and not Path(name).exists() else str(name)


def names() -> list[str]:
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))
