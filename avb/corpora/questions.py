"""Asks, in one error, everything that an unknown table leaves open: the columns of clips, labels and speakers.

A column is proposed only if its values suggest it, not because they are numbers: running numbers and durations are
numbers too.
"""

import shlex
from collections.abc import Sequence

import numpy as np

from audio_avb import AUDIO_SUFFIXES
from avb.corpora.cells import MISSING_CELLS, is_numeric, parse_numbers
from avb.corpora.tables import Table
from avb.errors import fold

# Columns of numbers that are not labels, as spelled by `fold`; they are never proposed as labels.
_NO_LABELS = {
    fold(name) for name in ("start", "stop", "end", "duration", "length", "seconds", "offset", "frames", "sr")
}
# Columns of text that are about the speaker or the recording, and those that are proposed before all others.
_NO_CLASSES = {
    fold(name)
    for name in (
        "speaker", "subject", "participant", "actor", "person", "gender", "sex", "age", "country", "language",
        "session", "device", "date", "Versuchsperson", "VP", "Proband", "Sprecher", "Geschlecht", "Alter", "Datum",
    )
}  # fmt: skip
_CLASSES = {fold(name) for name in ("emotion", "label", "class", "category", "target", "affect", "Klasse", "Kategorie")}
MAX_CLASSES = 100  # in a proposed column; EmoGator, which has many, has 30
MOST_MISSING = 0.1  # share of a proposed column's cells that may be empty; remarks are on some clips only


def path_question(table: Table, usual: Sequence[str]) -> str:
    """Asks which column has the clips; `usual` are the names that are found without asking."""
    named = [column for column in table.cells if names_audio(table, column)]
    proposed = f" {shlex.join(named)}" if len(named) == 1 else ""
    return (
        f"which column holds the audio paths? No column is called {', '.join(usual[:6])}, ...; give path_column=... "
        f"(--path_column{proposed}), one of {list(table.cells.columns)}"
    )


def label_question(table: Table, columns: Sequence[str], label_range: Sequence[float]) -> str:
    """Asks which of these columns are the labels."""
    numeric = [name for name in columns if is_numeric(table, name)]
    text = [name for name in columns if name not in numeric]
    scores = [name for name in numeric if fold(name) not in _NO_LABELS and _lies_in(table, name, label_range)]
    classes = _likely_classes(table, text)
    if len(classes) == 1 and scores:
        proposed = f"--label_columns {shlex.join(classes)} for classes, --label_columns {shlex.join(scores)} for scores"
    elif len(classes) == 1 or (scores and not classes):
        proposed = f"--label_columns {shlex.join(classes or scores)}"
    else:
        proposed = "--label_columns COLUMN ..."
    return (
        f"which columns are the labels? {_listed('numeric', numeric)}{_listed('text', text)}"
        f"give label_columns=[...] ({proposed})"
    )


def class_question(table: Table, columns: Sequence[str]) -> str:
    """Asks which of these columns has the classes; numbers may be classes too."""
    classes = _likely_classes(table, columns)
    proposed = shlex.join(classes) if len(classes) == 1 else "COLUMN"
    return (
        f"a classification needs one label column, but there are {', '.join(columns)}; choose one: label_columns=[...] "
        f"(--label_columns {proposed})"
    )


def speaker_question(usual: Sequence[str]) -> str:
    """Asks which column has the speaker; `usual` are the names that are found without asking."""
    return (
        f"who speaks? No column is called {', '.join(usual[::2])}; give speaker_column=... (--speaker_column) if there "
        "is one; otherwise a person may be in several splits"
    )


def names_audio(table: Table, column: str) -> bool:
    """Whether most cells end with an audio file suffix."""
    return bool(table.cells[column].str.lower().str.endswith(tuple(AUDIO_SUFFIXES)).mean() > 0.5)


def _lies_in(table: Table, column: str, label_range: Sequence[float]) -> bool:
    numbers, _ = parse_numbers(table, column)
    low, high = label_range
    return bool(low <= np.nanmin(numbers) and np.nanmax(numbers) <= high)


def _likely_classes(table: Table, columns: Sequence[str]) -> list[str]:
    """Columns that may have the classes; only those called emotion, label, … where there are any."""
    found = [name for name in columns if fold(name) not in _NO_CLASSES and _has_classes(table, name)]
    return [name for name in found if fold(name) in _CLASSES] or found


def _has_classes(table: Table, column: str) -> bool:
    """Whether nearly every row has one of a few values; excludes remarks (on some rows) and names (mostly distinct)."""
    cells = table.cells[column].str.casefold()
    is_missing = cells.isin(MISSING_CELLS)
    kinds = cells[~is_missing].nunique()
    return is_missing.mean() <= MOST_MISSING and 2 <= kinds <= min(MAX_CLASSES, len(cells) / 2)


def _listed(what: str, columns: Sequence[str]) -> str:
    return f"{what}: {', '.join(columns)}; " if columns else ""
