"""Checkpoints on disk: which of them are complete, and where a run starts.

Unusual: a checkpoint contains a list of its files and their sizes, which is written last. So a checkpoint that was
truncated while it was written or copied is never used.
"""

import contextlib
import json
import logging
import os
import shutil
from pathlib import Path

from avb.errors import AvbError
from avb.run_files import BAD_CLIPS, METRICS, RESULTS, RUN_ID

logger = logging.getLogger(__name__)

UNFINISHED = "checkpoint.tmp"  # for checkpoints being written or deleted; its content is useless
MANIFEST = "checkpoint.json"


def is_finished(output_dir: str | Path) -> bool:
    """Whether the folder contains a finished run: `metrics.json` is the last file that a run writes."""
    return (Path(output_dir) / METRICS).exists()


def starting_point(output_dir: str | Path, resume: bool, overwrite: bool) -> str | None:
    """The checkpoint from which to continue; None to start from the beginning, also if there is no checkpoint.

    Raises:
        AvbError: the folder contains a run, but neither `resume` nor `overwrite` is given.
    """
    if resume and overwrite:
        raise AvbError("--resume true continues and --overwrite true starts over: give one of them")
    if resume:
        return last_checkpoint(output_dir)
    if not overwrite and is_finished(output_dir):
        raise AvbError(f"{output_dir} contains a finished model: choose another --output_dir, or --overwrite true")
    if not overwrite and _find_checkpoints(output_dir):
        raise AvbError(
            f"{output_dir} contains an unfinished run: --resume true continues, --overwrite true starts over"
        )
    return None


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The newest complete checkpoint; None if there is none. Reports newer ones that are ignored."""
    for path in reversed(_find_checkpoints(output_dir)):
        if is_whole(path):
            return str(path)
        logger.warning("%s is not a complete checkpoint of this program: it is ignored", path)
    return None


def whole_checkpoints(output_dir: str | Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return [path for path in _find_checkpoints(output_dir) if is_whole(path)]


def _find_checkpoints(output_dir: str | Path) -> list[Path]:
    """All checkpoints, complete or not, oldest first."""
    from transformers.trainer_utils import sort_checkpoints  # imported here, because the queue needs no torch

    return [Path(path) for path in sort_checkpoints(str(output_dir))]


def is_whole(checkpoint: Path) -> bool:
    """Whether all its files exist, with the sizes with which they were written."""
    try:
        files = read_manifest(checkpoint)["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def clear(output_dir: str | Path):
    """Deletes an earlier run's checkpoints, `metrics.json` and results, so that nothing continues from them.

    Its calibration, which was fitted to its weights, is deleted too: a card would state its figures for the new ones.
    So is the list of clips that could not be read, which may be other ones now.
    """
    from calibration_avb import CALIBRATION_FILE  # here: it imports torch

    for name in (METRICS, RESULTS, RUN_ID, BAD_CLIPS, CALIBRATION_FILE):
        (Path(output_dir) / name).unlink(missing_ok=True)
    for path in _find_checkpoints(output_dir):
        discard(path)
    shutil.rmtree(Path(output_dir) / UNFINISHED, ignore_errors=True)


def discard_all(output_dir: str | Path):
    """Deletes the checkpoints of a finished run: they are three times as large as its model, and no longer needed."""
    for path in whole_checkpoints(output_dir):
        discard(path)
    shutil.rmtree(Path(output_dir) / UNFINISHED, ignore_errors=True)


def discard(checkpoint: Path):
    """Renames a checkpoint, then deletes it, so that a partly deleted one is not taken for a checkpoint."""
    if checkpoint.exists():
        grave = checkpoint.parent / UNFINISHED / f"deleted-{checkpoint.name}"
        grave.parent.mkdir(exist_ok=True)
        shutil.rmtree(grave, ignore_errors=True)
        os.replace(checkpoint, grave)
        shutil.rmtree(grave, ignore_errors=True)
        with contextlib.suppress(OSError):  # a new checkpoint is being written there
            grave.parent.rmdir()


def write_manifest(checkpoint: Path, **facts: float):
    """Writes the list of files, after syncing them to disk, and other facts that a resumption needs."""
    files = {str(path.relative_to(checkpoint)): path for path in checkpoint.rglob("*") if path.is_file()}
    for path in files.values():
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # after a power failure, only files that were synced to disk are left
    manifest = {**facts, "files": {name: path.stat().st_size for name, path in files.items()}}
    with open(checkpoint / MANIFEST, "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(checkpoint: Path) -> dict:
    return json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
