"""What a result depends on, besides recipe and seed: the commit of this project and the versions of the packages."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def versions() -> dict:
    """The versions of this run: the commit (None if unknown) and the packages."""
    packages = ("transformers", "datasets", "accelerate", "librosa", "soundfile", "numpy")
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # including CUDA, which the package's metadata may omit
        **{package: version(package) for package in packages},
    }


def _commit() -> str | None:
    """The commit of the repository that contains this file; None if it is installed as a package, or git is missing.

    An installed package may be inside another project's repository (in `.venv/`), whose commit is meaningless.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", "avb/training/versions.py"], capture_output=True)
        if tracked.returncode:
            return None
        return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip() or None
    except FileNotFoundError:
        return None
