"""A folder of class folders, `laugh/*.wav`, `cry/*.wav`, perhaps below folders named train, validation, test.

Without those, splits are made clip by clip, 80/10/10: speakers are not known here.
"""

import logging
from pathlib import Path

import numpy as np

from audio_avb import AUDIO_SUFFIXES, is_shadow
from avb.corpora.rows import Corpus, build_splits
from avb.corpora.splits import parse_split, stratified_splits
from avb.corpora.tables import TABLE_SUFFIXES
from avb.errors import CorpusError
from avb.tasks import Task

logger = logging.getLogger(__name__)


def load_audiofolder(root: Path) -> Corpus:
    """Load clips sorted into class folders.

    Raises:
        CorpusError: fewer than two classes, or too few clips to make splits of.
    """
    split_folders = {folder: parse_split(folder.name) for folder in _folders(root)}
    has_splits = bool(split_folders) and all(split_folders.values())
    clips, shadows = [], 0  # (file, class, split)
    for top, split in split_folders.items() if has_splits else [(root, None)]:
        for class_folder in _folders(top):
            files = sorted(p for p in class_folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
            kept = [file for file in files if not is_shadow(file) and not file.name.startswith(".")]
            shadows += len(files) - len(kept)
            clips += [(file, class_folder.name, split) for file in kept]
    if shadows:
        logger.warning("%s: %d hidden files and shadows of a file system (._*, __MACOSX) skipped", root, shadows)
    classes = sorted({name for _, name, _ in clips})
    if len(classes) < 2:
        raise CorpusError(
            f"{root}: neither one label table ({', '.join(TABLE_SUFFIXES)}) nor sub-folders of clips, one per class "
            f"(classes found: {classes or 'none'}); add a table with a column of paths and the label columns"
        )
    task = Task(root.resolve().name or "folder", "classification", tuple(classes))
    ids = [file.relative_to(root).as_posix() for file, _, _ in clips]
    labels = np.array([classes.index(name) for _, name, _ in clips])
    split_of = (
        [split for _, _, split in clips if split]
        if has_splits
        else stratified_splits([f"clip {clip_id}" for clip_id in ids], labels.tolist(), str(root))
    )
    return Corpus(task, build_splits(ids, [file for file, _, _ in clips], labels, split_of))


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
