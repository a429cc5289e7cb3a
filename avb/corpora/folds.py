"""Folds of speakers, kept in a table, so that every choice and every calibration holds out the same ones."""

from pathlib import Path

import numpy as np
from datasets import DatasetDict

from avb.corpora.rows import require_split
from avb.corpora.tables import read_table, require_column
from avb.errors import CorpusError


def read_folds(path: str | Path) -> dict[str, int]:
    """The fold of each speaker.

    Args:
        path: table of the columns `speaker` and `fold` (0, 1, ...), a row per speaker.

    Raises:
        CorpusError: the table cannot be read, lacks a column, has a speaker twice, or a fold that is no number.
    """
    table = read_table(Path(path))
    speakers = list(table.cells[require_column(table, "speaker")])
    fold_of: dict[str, int] = {}
    for position, (speaker, fold) in enumerate(zip(speakers, table.cells[require_column(table, "fold")], strict=True)):
        if not fold.isdecimal():
            raise CorpusError(f"{table.where(position)}: fold {fold!r} is no number; give 0, 1, ...")
        if speaker in fold_of:
            raise CorpusError(f"{table.where(position)}: speaker {speaker!r} is there twice; remove one of the rows")
        fold_of[speaker] = int(fold)
    return fold_of


def hold_out_fold(splits: DatasetDict, path: str | Path, fold: int) -> DatasetDict:
    """The train split, cut in two: the speakers of a fold become the validation split, the others stay.

    The corpus' own validation and test splits are left out, since nothing should be chosen by them.

    Args:
        splits: with `train`, whose rows have `speaker`.
        path: see `read_folds`.
        fold: the one that is held out.

    Raises:
        CorpusError: no speakers, a speaker who has no fold, a fold that no speaker is in, or all are in.
    """
    train, fold_of = require_split(splits, "train"), read_folds(path)
    if "speaker" not in train.column_names:
        raise CorpusError(f"{path}: the clips of this corpus have no speakers, so they cannot be cut by speaker")
    speakers = train["speaker"][:]
    unknown = sorted(set(speakers) - fold_of.keys(), key=str)
    if unknown:
        raise CorpusError(
            f"{path}: {len(unknown)} speakers of the train split have no fold, such as {unknown[0]!r}; add a row "
            "for each"
        )
    is_held_out = np.array([fold_of[speaker] == fold for speaker in speakers])
    if not is_held_out.any() or is_held_out.all():
        found = ", ".join(map(str, sorted({fold_of[speaker] for speaker in speakers})))
        kept = "every" if is_held_out.any() else "no"
        raise CorpusError(f"{path}: {kept} train speaker is in fold {fold}; the folds are {found}")
    return DatasetDict(
        train=train.select(np.flatnonzero(~is_held_out)), validation=train.select(np.flatnonzero(is_held_out))
    )
