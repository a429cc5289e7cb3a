"""Your own clips: a label table with a path column, or a folder of class folders. The task follows from the data.

    load("clips.csv")          file,valence,arousal      -> regression of valence and arousal
    load("clips.csv")          file,emotion              -> classification
    load("clips/")             laugh/*.wav cry/*.wav     -> classification; optionally inside train/, validation/, test/

Rules, each with an option to override it:

- The path column is the one called file, path, filename, audio, wav, file_id, ... Paths are relative to the table's
  folder (`audio_root`) and may not leave it: `..` and absolute paths outside are refused. For a table of absolute
  paths, use `audio_root="/"`. Paths of a Windows computer (`C:\\…`) count from the folder that they share, which is
  here `audio_root`. A name without a suffix finds `name.wav`, `name.mp3`, ... If no file has exactly this name, the
  only file that has it in another case or Unicode form is used.
- The label columns are the remaining columns: all numeric, or exactly one text column. Anything else is ambiguous and
  raises an error.
- Regression labels are in [0, 1], or in the given `label_range`; they are not rescaled here.
- Columns `start` and `end` (s) make each row a segment of its file, a clip with the id `path#start-end`. All segments
  of a file are in one split.
- A folder whose sub-folders train, validation, test each contain a `metadata.csv` or `.jsonl` is read as one table.
- Splits are read from the column called split (train, val, dev, test, ...), or from paths whose first folder is a split
  (`train/1.wav`). Otherwise splits of 80/10/10 are made, deterministically, and by speaker if there is a column
  speaker, subject, participant or actor: then no speaker is in two splits.
- `speaker_pattern`, `label_pattern` and `group_pattern` read speakers, classes and groups from the clips' paths without
  suffix instead: see `avb.corpora.patterns`.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from avb.corpora import shards
from avb.corpora.audiofolder import load_audiofolder
from avb.corpora.cells import (
    MISSING_CELLS,
    below_their_folder,
    blank_withheld,
    find_files,
    find_segment_columns,
    is_numeric,
    read_labels,
    read_segments,
    warn_of_parted_files,
    warn_of_scales,
)
from avb.corpora.grouping import make_splits
from avb.corpora.patterns import NamePatterns, read_classes, read_groups, read_speakers, warn_of_speakers_as_classes
from avb.corpora.questions import (
    class_question,
    label_question,
    names_audio,
    path_question,
    speaker_question,
)
from avb.corpora.raters import SPREAD, Pooled, check_targets, pool_raters, with_spreads
from avb.corpora.rows import Corpus, build_splits
from avb.corpora.splits import SPLITS, parse_split
from avb.corpora.tables import (
    Table,
    find_column,
    join_tables,
    read_table,
    refuse_duplicates,
    require_column,
)
from avb.corpus_arguments import TABLE_SUFFIXES
from avb.errors import CorpusError
from avb.tasks import Task, get_task

PATH_COLUMNS = ("file", "path", "filename", "filepath", "audio", "audio_path", "wav", "wav_path", "clip", "file_id")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "subject", "subject_id", "participant", "participant_id", "actor", "group")
SPLIT_COLUMNS = ("split", "partition", "subset")

_FOLDER_OF_SPLIT = "folder of the split"  # the column added when folders give the splits
_CLASS_OF_NAME = "label_pattern"  # the column added when file names give the classes


def load(
    root: str | Path,
    task: str | None = None,
    *,
    path_column: str | None = None,
    label_columns: Sequence[str] | None = None,
    label_range: tuple[float, float] = (0.0, 1.0),
    kind: str | None = None,
    split_column: str | None = None,
    speaker_column: str | None = None,
    rater_column: str | None = None,
    rater_targets: str | None = None,
    speaker_pattern: str | None = None,
    label_pattern: str | None = None,
    group_pattern: str | None = None,
    audio_root: str | Path | None = None,
    skip_missing: bool = False,
    cache_dir: str | None = None,
) -> Corpus:
    """Load a table, a folder that contains one table, an audiofolder, or shards that `prepare` wrote.

    Args:
        root: a CSV, TSV or Parquet file, or a folder.
        task: a task of the challenge whose labels the table has (high, two, ...), or one of prepared shards; None makes
            the task from the columns, named after the file.
        path_column: column with the audio paths.
        label_columns: columns with the labels, in the order of the model's outputs.
        label_range: lowest and highest valid value of a regression label.
        kind: "regression" or "classification"; needed if the cells do not tell, as when classes are numbers.
        split_column: column with the splits.
        speaker_column: column with the speaker (or another group); "" makes splits clip by clip.
        rater_column: column with the rater, in a table with one row per clip and rater, see `avb.corpora.raters`.
        rater_targets: `spread` also adds the raters' spread as labels, see `avb.corpora.raters.with_spreads`;
            `majority` is handled in training.
        speaker_pattern: reads speakers from file names.
        label_pattern: reads classes from file names; a folder's tables and sub-folders are then ignored.
        group_pattern: reads groups from file names; like a speaker's clips, a group stays in one split and fold.
        audio_root: folder that the paths are relative to; by default the table's folder.
        skip_missing: leave out clips whose file is missing (a warning counts them) instead of raising.
        cache_dir: where datasets puts its copy of shards; ignored otherwise.

    Returns:
        Task and splits; rows have `id` (the column `id`, else the path as written), `audio`, `labels`, and `speaker`
        and `group` where known.

    Raises:
        CorpusError: see the message; it names the row, the column and the option that helps.
        ValueError: no such task, or an invalid label_range.
    """
    root = Path(root)
    if not root.exists():
        raise CorpusError(f"{root}: no such file or folder; give a label table, or a folder of clips")
    patterns = NamePatterns(speaker_pattern, label_pattern, group_pattern)
    of_tables: dict[str, object] = {
        "task": task, "path_column": path_column, "label_columns": label_columns, "kind": kind,
        "split_column": split_column, "speaker_column": speaker_column, "audio_root": audio_root,
        "rater_column": rater_column, "rater_targets": rater_targets,
        "label_range": None if tuple(label_range) == (0, 1) else label_range,
    }  # fmt: skip
    if root.is_dir() and shards.is_prepared(root):
        _refuse_for_shards(root, patterns, of_tables)
        return shards.load_prepared(root, task, cache_dir)
    path = None if label_pattern and root.is_dir() else _find_table(root)
    of_splits = _find_tables_of_splits(root) if path is None and not label_pattern else {}
    if of_splits:
        path, split_column = root, split_column or _FOLDER_OF_SPLIT
    if path is None:
        _refuse_without_table(root, of_tables)
        return load_audiofolder(root, patterns)
    _refuse_said_twice(path, patterns, speaker_column, label_columns)

    if of_splits:
        table = join_tables(root, of_splits, partial(_path_column, given=path_column), _FOLDER_OF_SPLIT)
    else:
        table = read_table(path)
    columns = _choose_columns(table, path_column, split_column, speaker_column, rater_column, label_columns)
    are_labels_given = bool(task or label_columns or label_pattern or kind)
    is_speaker_given = speaker_column is not None or bool(speaker_pattern)
    _refuse_unclear(table, columns, are_labels_given, is_speaker_given, label_range)
    paths, _ = below_their_folder(table.cells[columns.path])
    if columns.split is None and (found_splits := _splits_of_paths(paths)):
        table.cells[_FOLDER_OF_SPLIT] = found_splits
        columns = columns._replace(split=_FOLDER_OF_SPLIT)
    if columns.split:
        is_test = np.array([parse_split(cell) == "test" for cell in table.cells[columns.split]])
        blank_withheld(table, [name for name in table.cells.columns if name not in columns], is_test)
    segments = read_segments(table, (columns.start, columns.end) if columns.start and columns.end else None)
    if label_pattern:
        table.cells[_CLASS_OF_NAME] = read_classes(paths, label_pattern, str(path))
        label_columns, kind = [_CLASS_OF_NAME], kind or "classification"
    the_task, of_labels = _make_task(table, task, label_columns, label_range, kind, columns)
    if the_task.kind == "classification" and task is None and not label_pattern:
        warn_of_speakers_as_classes(list(table.cells[of_labels[0]]), paths, str(path))
    if rater_targets is not None:
        check_targets(rater_targets, rater_column, the_task)

    names = list(table.cells[columns.id or columns.path])
    if columns.id is None:
        names = [name + segment for name, segment in zip(names, segments, strict=True)]
    if columns.rater is None:
        refuse_duplicates(table, names, "the clip")
    own_root = root if of_splits else path.parent
    files = find_files(table, columns.path, Path(audio_root) if audio_root else own_root, skip_missing)
    found = [f"{file}{segment}" if file else None for file, segment in zip(files, segments, strict=True)]
    clips = _one_row_per_clip(table, columns, names, found, read_labels(table, of_labels, the_task, names), the_task)
    if rater_targets == SPREAD:
        the_task, clips = with_spreads(the_task, clips)

    there = [clip for clip, row in enumerate(clips.positions) if files[row]]
    if not there:
        raise CorpusError(f"{path}: 0 clips: none of its {len(names)} files exists")
    rows = [clips.positions[clip] for clip in there]
    ids, labels = [names[row] for row in rows], clips.labels[there]
    known = _known_of_clips(table, columns, patterns, paths, rows)
    if "group" not in known and any(segments):  # segments of a file stay together
        known["group"] = [os.path.relpath(str(files[row]), own_root) for row in rows]
    if columns.split:
        split_of = [_split_of_row(table, columns.split, row) for row in rows]
        warn_of_parted_files([files[row] for row in rows], [segments[row] for row in rows], split_of, str(path))
    else:
        by_clip = speaker_column == ""
        split_of = make_splits(
            ids, labels, str(path), speakers=known.get("speaker"), groups=known.get("group"), by_clip=by_clip
        )
    if the_task.kind == "regression" and task is None:
        warn_of_scales(table, of_labels, the_task)
    ratings = None if clips.ratings is None else [clips.ratings[clip] for clip in there]
    splits = build_splits(ids, [str(found[row]) for row in rows], labels, split_of, ratings, **known)
    return Corpus(the_task, splits, has_made_splits=columns.split is None)


# ------------------------------------------------------------------------------- what contradicts itself


def _refuse_for_shards(root: Path, patterns: NamePatterns, of_tables: dict[str, object]):
    if any(patterns) or any(value for name, value in of_tables.items() if name not in ("task", "label_range")):
        raise CorpusError(
            f"{root}: these are prepared shards; give options of columns and patterns to prepare, not here"
        )


def _refuse_without_table(root: Path, of_tables: dict[str, object]):
    for name, value in of_tables.items():
        if value:
            raise CorpusError(
                f"{root}: it is read without a table (.csv, .tsv, .parquet); classes are its folders, or what "
                f"--label_pattern reads: leave out --{name}, or give the path of a table"
            )


def _refuse_said_twice(
    path: Path, patterns: NamePatterns, speaker_column: str | None, label_columns: Sequence[str] | None
):
    if patterns.speaker and speaker_column is not None:
        raise CorpusError(
            f"{path}: --speaker_column and --speaker_pattern both give the speakers: use only one of them"
        )
    if patterns.label and label_columns:
        raise CorpusError(f"{path}: --label_columns and --label_pattern both give the labels: use only one of them")


# ------------------------------------------------------------------------------- the table, its columns and rows


def _find_table(root: Path) -> Path | None:
    """The table at root; None if root is a folder without a table."""
    if root.is_file():
        if root.suffix.lower() not in TABLE_SUFFIXES:
            raise CorpusError(
                f"{root}: a label table must be one of {', '.join(TABLE_SUFFIXES)}; save a spreadsheet as 'CSV UTF-8'"
            )
        return root
    tables = sorted(p for p in root.iterdir() if p.suffix.lower() in TABLE_SUFFIXES and not p.name.startswith("."))
    if len(tables) > 1:
        names = ", ".join(p.name for p in tables[:5])
        raise CorpusError(
            f"{root}: {len(tables)} tables ({names}); give the path of one (join them with a split column)"
        )
    return tables[0] if tables else None


def _find_tables_of_splits(root: Path) -> dict[str, Path]:
    """`metadata.csv` or `.jsonl` in each split's folder, by split; empty if there are none."""
    if not root.is_dir():
        return {}
    found: dict[str, Path] = {}
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        split = parse_split(folder.name)
        tables = [folder / f"metadata{suffix}" for suffix in TABLE_SUFFIXES if (folder / f"metadata{suffix}").is_file()]
        if split and tables:
            if len(tables) > 1 or split in found:
                raise CorpusError(f"{folder}: a second table of split {split!r} ({tables[-1].name}); keep one")
            found[split] = tables[0]
    return {split: found[split] for split in SPLITS if split in found}


class _Columns(NamedTuple):
    """The columns of a table that are not labels; None if the table has no such column."""

    path: str  # empty if there is none
    split: str | None
    speaker: str | None
    id: str | None
    rater: str | None
    start: str | None
    end: str | None


def _choose_columns(
    table: Table,
    path_column: str | None,
    split_column: str | None,
    speaker_column: str | None,
    rater_column: str | None,
    label_columns: Sequence[str] | None,
) -> _Columns:
    """The columns that the user names, else those with the usual names."""

    def choose(given: str | None, usual: Sequence[str], option: str) -> str | None:
        return require_column(table, given, option) if given else find_column(table, *usual)

    segment = find_segment_columns(table)
    if segment is None or set(segment) & set(label_columns or ()):
        segment = (None, None)
    return _Columns(
        path=choose(path_column, PATH_COLUMNS, "path_column") or "",
        split=choose(split_column, SPLIT_COLUMNS, "split_column"),
        speaker=None if speaker_column == "" else choose(speaker_column, SPEAKER_COLUMNS, "speaker_column"),
        id=find_column(table, "id"),
        rater=require_column(table, rater_column, "rater_column") if rater_column else None,
        start=segment[0],
        end=segment[1],
    )


def _splits_of_paths(paths: Sequence[str]) -> list[str]:
    """`train/1.wav`, `test/2.wav`, ... to train, test; empty if a first folder is not a split, or all are the same."""
    folders = [path.replace("\\", "/").removeprefix("./").partition("/") for path in paths]
    splits = [parse_split(first) or "" if slash else "" for first, slash, _ in folders]
    return splits if "train" in splits and len(set(splits)) > 1 and "" not in splits else []


def _path_column(table: Table, given: str | None) -> str:
    path = require_column(table, given, "path_column") if given else find_column(table, *PATH_COLUMNS)
    if path is None:
        raise CorpusError(f"{table.path}: {path_question(table, PATH_COLUMNS)}")
    return path


def _refuse_unclear(
    table: Table, columns: _Columns, are_labels_given: bool, is_speaker_given: bool, label_range: Sequence[float]
):
    """Raises one error that asks for everything the table leaves open."""
    asked = [] if columns.path else [path_question(table, PATH_COLUMNS)]
    left = [name for name in table.cells.columns if name not in columns and not (asked and names_audio(table, name))]
    if not are_labels_given and left and _is_unclear(table, left):
        asked.append(label_question(table, left, label_range))
    if asked and columns.speaker is None and not is_speaker_given:
        asked.append(speaker_question(SPEAKER_COLUMNS))
    if asked:
        raise CorpusError(f"{table.path}: {'. Also: '.join(asked)}")


def _is_unclear(table: Table, columns: Sequence[str]) -> bool:
    """Whether these columns are neither all scores nor a single column of classes."""
    return len(columns) > 1 and not all(is_numeric(table, name) for name in columns)


def _one_row_per_clip(
    table: Table, columns: _Columns, names: list[str], files: list[str | None], labels: np.ndarray, task: Task
) -> Pooled:
    """Each clip's row and labels; joins the rows of several raters, otherwise each file may be listed only once."""
    if columns.rater is None:
        refuse_duplicates(table, [file or name for file, name in zip(files, names, strict=True)], "the file")
        return Pooled(list(range(len(names))), labels, None)
    same = [columns.path, columns.split, columns.speaker]
    return pool_raters(table, names, table.cells[columns.rater], labels, task, same)


def _known_of_clips(
    table: Table, columns: _Columns, patterns: NamePatterns, paths: list[str], rows: list[int]
) -> dict[str, list[str]]:
    """Speaker and group of the clips in these rows, if the table or the file names contain them."""
    speakers = list(table.cells[columns.speaker]) if columns.speaker else None
    if patterns.speaker:
        speakers = read_speakers(paths, patterns.speaker, str(table.path))
    groups = read_groups(paths, patterns.group, str(table.path)) if patterns.group else None
    found = {"speaker": speakers, "group": groups}
    return {name: [values[row] for row in rows] for name, values in found.items() if values}


# ------------------------------------------------------------------------------- the task


def _make_task(
    table: Table,
    task: str | None,
    label_columns: Sequence[str] | None,
    label_range: Sequence[float],
    kind: str | None,
    special: Sequence[str | None],
) -> tuple[Task, list[str]]:
    """The task and its label columns."""
    if kind not in (None, "regression", "classification"):
        raise CorpusError(f"kind must be 'regression' or 'classification', got {kind!r}")
    if task is not None:
        the_task = get_task(task)
        if the_task.kind == "classification":
            return the_task, [_only(table, _label_candidates(table, label_columns, special))]
        return the_task, [require_column(table, name) for name in label_columns or the_task.labels]

    columns = _label_candidates(table, label_columns, special)
    if kind is None:
        if _is_unclear(table, columns):
            raise CorpusError(f"{table.path}: {label_question(table, columns, label_range)}")
        kind = "regression" if is_numeric(table, columns[0]) else "classification"
        if kind == "regression" and len(columns) == 1 and set(table.cells[columns[0]]) - {*MISSING_CELLS} == {"0", "1"}:
            raise CorpusError(
                f"{table.path}, column {columns[0]!r}: it has only 0 and 1: if these are two classes, use "
                "kind='classification' (--kind classification), if they are scores, kind='regression'"
            )
    if kind == "regression":
        return Task(
            table.path.stem, "regression", tuple(columns), cast(tuple[float, float], tuple(label_range))
        ), columns
    return Task(table.path.stem, "classification", _classes(table, _only(table, columns))), columns


def _label_candidates(table: Table, given: Sequence[str] | None, special: Sequence[str | None]) -> list[str]:
    if given:
        given = [given] if isinstance(given, str) else given
        return [require_column(table, name, "label_columns") for name in given]
    left = [name for name in table.cells.columns if name not in special]
    if not left:
        raise CorpusError(
            f"{table.path}: no label columns besides {', '.join(name for name in special if name)}; add them, "
            "or name them in label_columns=[...] (--label_columns)"
        )
    return left


def _only(table: Table, columns: list[str]) -> str:
    if len(columns) > 1:
        raise CorpusError(f"{table.path}: {class_question(table, columns)}")
    return columns[0]


def _classes(table: Table, column: str) -> tuple[str, ...]:
    cells = table.cells[column]
    classes = sorted(set(cells[~cells.str.lower().isin(MISSING_CELLS)]))
    spelled: dict[str, str] = {}
    for name in classes:
        if spelled.setdefault(name.casefold(), name) != name:
            raise CorpusError(
                f"{table.path}, column {column!r}: {spelled[name.casefold()]!r} and {name!r} are one class in two "
                "spellings; keep one"
            )
    if len(classes) < 2:
        raise CorpusError(f"{table.path}, column {column!r}: {len(classes)} class ({classes}); at least two are needed")
    if len(classes) == len(cells) > 2:
        raise CorpusError(
            f"{table.path}, column {column!r}: every row has its own class, such as {classes[0]!r}; if it is not "
            "a label, name the label in label_columns=[...] (--label_columns)"
        )
    return tuple(classes)


# ------------------------------------------------------------------------------- the splits


def _split_of_row(table: Table, column: str, position: int) -> str:
    text = table.cells[column].iloc[position]
    split = parse_split(text)
    if split is None:
        raise CorpusError(
            f"{table.where(position)}, column {column!r}: {text!r} is not a split; valid: train, validation (val, "
            "dev), test"
        )
    return split
