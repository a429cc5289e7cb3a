"""What a result depends on, besides recipe and seed: the commit of this project and the versions of the packages."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def versions() -> dict:
    """Of this run: the commit, None where it is unknown, and versions of packages."""
    packages = ("transformers", "datasets", "accelerate", "librosa", "soundfile", "numpy")
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with its CUDA, which the package's own metadata may leave out
        **{package: version(package) for package in packages},
    }


def _commit() -> str | None:
    """Of the repository whose tree this file is in; None where it is installed, or git is not.

    An installed package may lie inside another project's repository, `.venv/` in it, whose commit says nothing.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", "avb/training/versions.py"], capture_output=True)
        if tracked.returncode:
            return None
        return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip() or None
    except FileNotFoundError:
        return None
