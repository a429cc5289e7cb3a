"""Folds of clips or speakers: made here, or read from a table, so that every experiment holds out the same ones."""

import logging
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from avb.corpora.grouping import units_of, warn_of_parted_cuts
from avb.corpora.rows import require_split
from avb.corpora.splits import hold_out, strata_of, stratified_folds
from avb.corpora.tables import Table, find_column, read_table, require_column
from avb.corpus_arguments import TABLE_SUFFIXES
from avb.errors import CorpusError
from avb.files import write_table

BY_SPEAKER = "speakers"  # value of --folds: each speaker is a fold
INNER_SHARE = 0.1  # of a fold's training clips: held out if the best epoch is chosen

logger = logging.getLogger(__name__)


def check_folds(folds: str):
    """Checks `--folds` before anything is read.

    Raises:
        CorpusError: it is neither a number of at least 2, nor `speakers`, nor a table.
    """
    is_number = folds.isdecimal() and int(folds) >= 2
    if not (is_number or folds == BY_SPEAKER or (Path(folds).suffix in TABLE_SUFFIXES and Path(folds).is_file())):
        raise CorpusError(
            f"--folds {folds}: give a number of at least 2, {BY_SPEAKER!r} to hold each of them out once, or a table "
            f"with the columns id (or speaker) and fold ({', '.join(TABLE_SUFFIXES)})"
        )


def assign_folds(clips: Dataset, folds: str, where: str) -> np.ndarray:
    """The fold of each clip, integers (clips,); clips that belong together share a fold, and each class is in all.

    Args:
        clips: rows with `id` and `labels`, and `speaker` and `group` where known.
        folds: a number, `speakers`, or a table (see `check_folds`).
        where: the corpus, for messages.

    Raises:
        CorpusError: no speakers are known, there are more folds than speakers, or the table does not fit the corpus.
    """
    ids, units = clips["id"][:], clip_units(clips)
    if folds == BY_SPEAKER:
        if "speaker" not in clips.column_names:
            raise CorpusError(
                f"{where}: --folds {BY_SPEAKER} needs to know them: --speaker_column names their column, "
                "--speaker_pattern reads them from file names"
            )
        number_of = {unit: number for number, unit in enumerate(sorted(set(units)))}
        fold_of = [number_of[unit] for unit in units]
        if len(number_of) < 2:
            raise CorpusError(f"{where}: --folds {BY_SPEAKER}: there is only one, {units[0]!r}")
    elif folds.isdecimal():
        fold_of = stratified_folds(units, label_strata(clips), int(folds), where)
    else:
        fold_of = _folds_of_table(clips, folds)
        parted = [unit for unit in set(units) if len({f for f, u in zip(fold_of, units, strict=True) if u == unit}) > 1]
        if parted:
            logger.warning("%s: %d speakers or groups are in several folds, such as %s", folds, len(parted), parted[0])
    speakers = clips["speaker"][:] if "speaker" in clips.column_names else None
    warn_of_parted_cuts(ids, [f"fold {fold}" for fold in fold_of], where, speakers)
    return np.array(fold_of)


def clip_units(clips: Dataset) -> list[str]:
    """The unit of clips that each clip must stay with; see `avb.corpora.grouping.units_of`."""
    known = {name: clips[name][:] if name in clips.column_names else None for name in ("speaker", "group")}
    return units_of(clips["id"][:], known["speaker"], known["group"])


def label_strata(clips: Dataset) -> list:
    """See `avb.corpora.splits.strata_of`."""
    return strata_of(np.asarray(clips["labels"][:]))


def _folds_of_table(clips: Dataset, path: str) -> list[int]:
    table = read_table(Path(path))
    column = "id" if find_column(table, "id") else "speaker"
    if column == "speaker" and column not in clips.column_names:
        raise CorpusError(f"{path}: it has no column id, and the clips of this corpus have no speakers")
    fold_of = _read_column(table, column)
    names = clips[column][:]
    unknown = sorted(set(names) - fold_of.keys(), key=str)
    if unknown:
        raise CorpusError(f"{path}: {len(unknown)} have no fold, such as {column} {unknown[0]!r}; add a row for each")
    found = [fold_of[name] for name in names]
    if len(set(found)) < 2:
        raise CorpusError(f"{path}: all clips are in fold {found[0]}; at least two folds are needed")
    return found


def write_folds(path: str | Path, ids: list[str], fold_of: np.ndarray):
    """Writes a table that `--folds` accepts."""
    rows = ({"id": clip_id, "fold": int(fold)} for clip_id, fold in zip(ids, fold_of, strict=True))
    write_table(Path(path), rows, ["id", "fold"])


def fold_numbers(path: str | Path) -> list[int]:
    """The folds in a table that `write_folds` wrote."""
    return sorted(set(_read_column(read_table(Path(path)), "id").values()))


def cut_fold(clips: Dataset, is_held_out: np.ndarray, has_validation: bool, where: str) -> DatasetDict:
    """The splits of one fold: `train`, `test` if clips are held out, and `validation`, a tenth of the other clips.

    Args:
        clips: as for `assign_folds`.
        is_held_out: booleans (clips,).
        has_validation: whether the best epoch is chosen; never on the held-out clips.
        where: the corpus, for messages.

    Raises:
        CorpusError: no clips are left for choosing the epoch.
    """
    splits = {"train": clips.select(np.flatnonzero(~is_held_out))}
    if has_validation:
        others = splits["train"]
        is_chosen_by = hold_out(clip_units(others), label_strata(others), INNER_SHARE, where)
        splits["train"] = others.select(np.flatnonzero(~is_chosen_by))
        splits["validation"] = others.select(np.flatnonzero(is_chosen_by))
    if is_held_out.any():
        splits["test"] = clips.select(np.flatnonzero(is_held_out))
    return DatasetDict(splits)


def read_folds(path: str | Path) -> dict[str, int]:
    """The fold of each speaker.

    Args:
        path: table with the columns `speaker` and `fold` (0, 1, ...), one row per speaker.

    Raises:
        CorpusError: the table cannot be read, lacks a column, lists a speaker twice, or has a fold that is no number.
    """
    return _read_column(read_table(Path(path)), "speaker")


def _read_column(table: Table, column: str) -> dict[str, int]:
    """The fold of each id or speaker."""
    names = list(table.cells[require_column(table, column)])
    fold_of: dict[str, int] = {}
    for position, (name, fold) in enumerate(zip(names, table.cells[require_column(table, "fold")], strict=True)):
        if not fold.isdecimal():
            raise CorpusError(f"{table.where(position)}: fold {fold!r} is not a number; give 0, 1, ...")
        if name in fold_of:
            raise CorpusError(f"{table.where(position)}: {column} {name!r} appears twice; remove one of the rows")
        fold_of[name] = int(fold)
    return fold_of


def hold_out_fold(splits: DatasetDict, path: str | Path, fold: int) -> DatasetDict:
    """Cuts the train split in two: the speakers of one fold become the validation split, the others stay.

    The corpus's own validation and test splits are left out, since nothing should be chosen on them.

    Args:
        splits: contain `train`, whose rows have `speaker`.
        path: see `read_folds`.
        fold: the fold to hold out.

    Raises:
        CorpusError: no speakers, a speaker without a fold, or a fold that contains no speaker or all of them.
    """
    train, fold_of = require_split(splits, "train"), read_folds(path)
    if "speaker" not in train.column_names:
        raise CorpusError(f"{path}: the clips of this corpus have no speakers, so they cannot be divided by speaker")
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
