"""A folder of class folders, `laugh/*.wav`, `cry/*.wav`, optionally inside folders named train, validation, test.

Without these, splits of 80/10/10 are made: by clip, or by speaker if speakers can be read from file names. Classes can
be read from file names too; then clips may be in any folder.
"""

import logging
from pathlib import Path

import numpy as np

from audio_avb import AUDIO_SUFFIXES, is_shadow
from avb.corpora.grouping import make_splits
from avb.corpora.patterns import NamePatterns, read_classes, read_groups, read_speakers, warn_of_speakers_as_classes
from avb.corpora.rows import Corpus, build_splits
from avb.corpora.splits import parse_split
from avb.corpus_arguments import TABLE_SUFFIXES
from avb.errors import CorpusError
from avb.files import files_below
from avb.tasks import Task

NO_PATTERNS = NamePatterns()

logger = logging.getLogger(__name__)


def load_audiofolder(root: Path, patterns: NamePatterns = NO_PATTERNS) -> Corpus:
    """Load clips sorted into class folders, or any folder of clips whose file names contain the classes.

    Sub-folders are searched behind links too, as in prediction.

    Raises:
        CorpusError: fewer than two classes, too few clips to split, or a name that does not match a pattern.
    """
    split_folders = {folder: parse_split(folder.name) for folder in _folders(root)}
    has_splits = bool(split_folders) and all(split_folders.values())
    clips, shadows = [], 0  # (file, class, split)
    for top, split in split_folders.items() if has_splits else [(root, None)]:
        for class_folder in [top] if patterns.label else _folders(top):
            files = sorted(path for path in files_below(class_folder) if path.suffix.lower() in AUDIO_SUFFIXES)
            kept = [file for file in files if not is_shadow(file) and not _is_hidden(file.relative_to(top))]
            shadows += len(files) - len(kept)
            clips += [(file, class_folder.name, split) for file in kept]
    if shadows:
        logger.warning("%s: %d hidden files and file-system metadata files (._*, __MACOSX) skipped", root, shadows)
    ids = [file.relative_to(root).as_posix() for file, _, _ in clips]
    class_of = read_classes(ids, patterns.label, str(root)) if patterns.label else [name for _, name, _ in clips]
    classes = sorted(set(class_of))
    if len(classes) < 2 and not patterns.label:
        raise CorpusError(
            f"{root}: neither one label table ({', '.join(TABLE_SUFFIXES)}) nor sub-folders of clips, one per class "
            f"(classes found: {classes or 'none'}); add a table with a column of paths and the label columns, or give "
            "--label_pattern if the names of the files contain the classes"
        )
    if len(classes) < 2:
        raise CorpusError(
            f"{root}: --label_pattern {patterns.label} finds {len(classes)} class ({classes}) in the names of "
            f"{len(clips)} clips; at least two are needed"
        )
    if not patterns.label:
        warn_of_speakers_as_classes(class_of, ids, str(root))
    task = Task(root.resolve().name or "folder", "classification", tuple(classes))
    labels = np.array([classes.index(name) for name in class_of])
    found = {
        "speaker": read_speakers(ids, patterns.speaker, str(root)) if patterns.speaker else None,
        "group": read_groups(ids, patterns.group, str(root)) if patterns.group else None,
    }
    known = {name: values for name, values in found.items() if values is not None}
    split_of = (
        [split for _, _, split in clips if split]
        if has_splits
        else make_splits(ids, labels, str(root), speakers=found["speaker"], groups=found["group"])
    )
    splits = build_splits(ids, [file for file, _, _ in clips], labels, split_of, None, **known)
    return Corpus(task, splits, has_made_splits=not has_splits)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
