"""`splits.csv`: which clip a run had in which split, so that a later command tests on no clip that was trained on.

Made splits depend on the whole table: a row added, or another column of speakers, moves clips from one to another.
"""

import csv
import logging
from pathlib import Path

from datasets import DatasetDict, concatenate_datasets

from avb.errors import CorpusError
from avb.files import write_table

COLUMNS = ["id", "split"]

logger = logging.getLogger(__name__)


def write_run_splits(path: str | Path, splits: DatasetDict):
    """Writes the split of each clip, in the order of the splits' rows."""
    rows = ({"id": clip_id, "split": name} for name, split in splits.items() for clip_id in split["id"][:])
    write_table(Path(path), rows, COLUMNS)


def read_run_splits(path: str | Path) -> dict[str, list[str]]:
    """The ids of each split, in the order of its rows.

    Raises:
        CorpusError: the file is not what `write_run_splits` writes.
    """
    splits: dict[str, list[str]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, strict=True):
                splits.setdefault(row["split"], []).append(row["id"])
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise CorpusError(f"{path}: not what a run writes ({error}); train again, or delete it") from error
    return splits


def as_in_run(splits: DatasetDict, path: str | Path, where: str, is_same: bool) -> DatasetDict:
    """The clips in the splits of a run.

    Args:
        splits: of the corpus, with a column `id`.
        path: the run's `splits.csv`.
        where: the corpus, for errors.
        is_same: whether it is the run's own table. Of another one, with other clips, the splits stay as they are.

    Raises:
        CorpusError: the run's table, but no longer the run's clips.
    """
    wanted = read_run_splits(path)
    if wanted == {name: split["id"][:] for name, split in splits.items()}:
        return splits
    joined = concatenate_datasets(list(splits.values()))
    positions = {clip_id: position for position, clip_id in enumerate(joined["id"][:])}
    known = {clip_id for ids in wanted.values() for clip_id in ids}
    new, gone = sorted(positions.keys() - known), sorted(known - positions.keys())
    if not new and not gone:
        return DatasetDict({name: joined.select([positions[i] for i in ids]) for name, ids in wanted.items()})
    differing = ", ".join(
        f"{len(ids)} {what}, such as {ids[0]!r}" for ids, what in ((new, "new"), (gone, "gone")) if ids
    )
    if is_same:
        raise CorpusError(
            f"{where}: its clips are no longer those that the model was trained with ({differing}; {path}), so a test "
            "clip may have been a train clip; restore the table, or give a table with a column of splits "
            "(--split_column)"
        )
    if len(new) < len(positions):
        logger.warning("%s: shares clips with the table of the model's training, which may be train clips", where)
    return splits
