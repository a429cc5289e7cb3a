"""The audio files that the rows of a table name: inside one folder, with or without a suffix, in any spelling."""

import contextlib
import functools
import logging
import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path

from audio_avb import AUDIO_SUFFIXES
from avb.corpora.tables import Table
from avb.errors import CorpusError

_DATA_ROOT = re.compile(r"^\$?\{?data_root\}?/+", re.IGNORECASE)  # as SpeechBrain's tables write it

logger = logging.getLogger(__name__)


def find_files(table: Table, column: str, audio_root: Path, skip_missing: bool) -> list[Path | None]:
    """The file each cell names, None where it is not there. Links inside the folder are the user's own and followed."""
    files, missing = [], []
    spellings = functools.cache(_spellings)  # a folder is listed once
    for position, name in enumerate(table.cells[column]):
        path = _path_inside(table, position, column, name, audio_root)
        file = _file_of_that_name(path)
        if file is None:
            others = spellings(path.parent).get(_fold_name(path.name), [])
            file = others[0] if len(others) == 1 else None
        files.append(file)
        if file is None:
            missing.append(f"{table.row_word} {table.cells.index[position]} ({name})")
    if missing:
        first = ", ".join(missing[:3])
        message = f"{table.path}: {len(missing)} of {len(files)} audio files are not in {audio_root}, such as {first}"
        if "$" in first or "{" in first or "~" in first:
            message += "; of variables in paths only $data_root is filled in, by audio_root"
        if not skip_missing:
            raise CorpusError(
                f"{message}; give audio_root=... (--audio_root), or leave them out: skip_missing=True (--skip_missing)"
            )
        logger.warning("%s; left out", message)
    return files


def _path_inside(table: Table, position: int, column: str, name: str, audio_root: Path) -> Path:
    """The path a cell names, which does not leave the folder."""
    if not name:
        raise CorpusError(f"{table.where(position)}, column {column!r}: no path; remove the row or fill it in")
    relative = Path(_DATA_ROOT.sub("", name.replace("\\", "/")))
    path = audio_root / relative
    if ".." in relative.parts or not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(audio_root)):
        raise CorpusError(
            f"{table.where(position)}, column {column!r}: {name!r} lies outside {audio_root}; give the folder that "
            "holds all clips as audio_root=... (--audio_root), and paths without '..'"
        )
    return path


def _file_of_that_name(path: Path) -> Path | None:
    suffixes = ("",) if path.suffix.lower() in AUDIO_SUFFIXES else ("", *AUDIO_SUFFIXES)
    # os.path's, not Path's: a name too long for a file is the name of no file, and no error.
    return next((Path(file) for suffix in suffixes if os.path.isfile(file := f"{path}{suffix}")), None)


def _spellings(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder by name, with and without an audio suffix, however it is spelled.

    A table written on one system and clips unpacked on another: "Rec 1" and "REC 1.WAV", "é" in one character or two.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    with contextlib.suppress(OSError, ValueError):  # no such folder, or no name of one
        for file in filter(Path.is_file, folder.iterdir()):
            found[_fold_name(file.name)].append(file)
            if file.suffix.lower() in AUDIO_SUFFIXES:
                found[_fold_name(file.stem)].append(file)
    return found


def _fold_name(name: str) -> str:
    """What spellings of a file's name have in common: neither case nor the Unicode form of an accent."""
    return unicodedata.normalize("NFC", name).casefold()
