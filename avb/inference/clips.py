"""The clips that predict_avb.py scores: audio files, or a split of a corpus.

Both can be divided into parts, and a part can be sent to another machine: for files, their names are sent; for a
corpus, its name and row numbers. Audio is read only when it is decoded, one clip at a time, so a corpus does not have
to fit into memory.
"""

import glob
import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from audio_avb import AUDIO_SUFFIXES, is_shadow
from avb.corpus_arguments import SPREADSHEET_SUFFIXES, TABLE_SUFFIXES
from avb.errors import AvbError
from avb.files import files_below


@dataclass(frozen=True)
class Clip:
    """A clip to score; `read()` returns its path, its bytes, or a row's {"bytes", "path"} for decoding."""

    id: str
    read: Callable[[], Any]


@dataclass(frozen=True)
class PathClips:
    """Audio files.

    Attributes:
        paths: as given; the ids are made from them.
        folder: which relative paths are relative to; empty means the current folder.
    """

    paths: list[str]
    folder: str = ""

    def count(self) -> int:
        return len(self.paths)

    def ids(self) -> Iterator[str]:
        # A name that is not UTF-8 cannot be written to a table: the id has its bytes escaped.
        return (os.fsencode(path).decode("utf-8", "backslashreplace") for path in self.paths)

    def clips(self) -> Iterator[Clip]:
        for clip_id, path in zip(self.ids(), self.paths, strict=True):
            yield Clip(clip_id, partial(os.path.join, self.folder, path))

    def part(self, start: int, stop: int) -> "PathClips":
        return PathClips(self.paths[start:stop], self.folder)


@dataclass(frozen=True)
class CorpusClips:
    """A split of a corpus, which is opened where its clips are read, once per process.

    Attributes:
        corpus: hume_vb, emogator or folder.
        data_dir: its location.
        task: if it has several.
        split: train, validation or test.
        options: of the corpus's `load` function, names and values.
        run_splits: a run's `splits.csv`, with the split of each clip; None for the corpus's own splits.
        is_same: whether it is that run's own corpus, see `avb.corpora.rows.as_in_run`.
        rows: consecutive row numbers; None means all rows.
    """

    corpus: str
    data_dir: str
    task: str | None
    split: str
    options: tuple[tuple[str, Any], ...] = ()
    run_splits: str | None = None
    is_same: bool = False
    rows: range | None = None

    def count(self) -> int:
        return len(self._numbers())

    def ids(self) -> Iterator[str]:
        numbers = self._numbers()
        return iter(self._open().select_columns("id")[numbers.start : numbers.stop]["id"])

    def clips(self) -> Iterator[Clip]:
        split = self._open()
        for clip_id, number in zip(self.ids(), self._numbers(), strict=True):
            yield Clip(clip_id, partial(_read_audio, split, number))

    def part(self, start: int, stop: int) -> "CorpusClips":
        return replace(self, rows=self._numbers()[start:stop])

    def _numbers(self) -> range:
        return range(len(self._open())) if self.rows is None else self.rows

    def labelled(self):
        """The meaning of the labels (a `Task` or `MultiTask`), and the rows of the split, a `datasets.Dataset`."""
        return _open_split(replace(self, rows=None))

    def _open(self):
        return self.labelled()[1]


Clips = PathClips | CorpusClips


def find_paths(patterns: list[str]) -> list[str]:
    """Finds the paths of files, folders (searched recursively, sorted) and globs; `-` is standard input (`read_names`).

    A file that does not exist is kept, and later reported as a bad clip.

    Raises:
        AvbError: one of them is a table, a folder does not exist (which would be many clips, not a bad one), or cannot
            be listed.
    """
    paths: list[str] = []
    for pattern in patterns:
        if pattern == "-":
            paths += read_names()
        elif os.path.isdir(pattern):
            found = [str(path) for path in files_below(pattern) if path.suffix.lower() in AUDIO_SUFFIXES]
            clips = [path for path in found if not is_shadow(path)]
            if len(clips) < len(found):
                left = f"{len(found) - len(clips)} file-system metadata files (._*, __MACOSX)"
                print(f"predict_avb.py: {pattern}: {left} skipped", file=sys.stderr)
            paths += sorted(clips)
        elif not os.path.exists(pattern) and glob.has_magic(pattern):
            paths += sorted(glob.glob(pattern, recursive=True))
        elif Path(pattern).suffix.lower() in (*TABLE_SUFFIXES, *SPREADSHEET_SUFFIXES):
            raise AvbError(
                f"{pattern} is a table, not audio; give the clips, or a split of the table: --corpus folder --data_dir "
                f"{shlex.quote(pattern)} --split test"
            )
        elif not os.path.lexists(pattern) and (pattern.endswith(("/", os.sep)) or not Path(pattern).suffix):
            raise AvbError(f"{pattern}: no such file or folder; check the path")
        else:
            paths.append(pattern)
    return paths


def read_names() -> list[str]:
    """The paths on standard input: one per line, or ended by zero bytes, as `find -print0` writes them.

    Raises:
        AvbError: standard input is closed.
    """
    if sys.stdin is None:
        raise AvbError("- reads the paths of the clips from standard input, which is closed")
    content = sys.stdin.buffer.read()  # names need not be UTF-8
    end = next((end for end in (b"\0", b"\r\n") if end in content), b"\n")
    return [os.fsdecode(name) for name in content.split(end) if name.strip()]


def scores_key(model: str, ids: Iterable[str]) -> str:
    """A hash of everything that the scores of a table depend on: the model's key, and the clips in order."""
    digest = hashlib.sha256(model.encode())
    for clip_id in ids:
        digest.update(clip_id.encode() + b"\0")
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _open_split(clips: CorpusClips):
    from avb.corpora import load_bursts  # files and folders do not need the packages that corpora need
    from avb.corpora.rows import as_in_run

    task, splits = load_bursts(clips.corpus, clips.data_dir, clips.task, **dict(clips.options))
    if clips.run_splits:
        splits = as_in_run(splits, clips.run_splits, clips.data_dir, clips.is_same)
    if clips.split not in splits:
        raise AvbError(f"--split {clips.split}: {clips.data_dir} has {', '.join(splits)}")
    return task, splits[clips.split]


def _read_audio(split, number: int) -> dict:
    return split[number]["audio"]
