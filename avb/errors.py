"""Errors that a user can act on: each message says what is wrong, where (file, row, column), and how to fix it.

All are `ValueError`s, so callers that do not know this module can still catch them. A command catches `AvbError`,
prints the message without a traceback and exits with a failure. The root class and `AudioError` are defined in
`audio_avb.py`, which the Hub serves without this package.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from audio_avb import AudioError, AvbError, printable

__all__ = ["AudioError", "AvbError", "CorpusError", "RecipeError", "did_you_mean", "fold"]

MOST_LISTED = 12  # at most this many names in a message


class CorpusError(AvbError):
    """A corpus, its tables and its options do not fit together. The message is one line, whatever the cells contain."""

    def __init__(self, message: str):
        super().__init__(printable(message))


class RecipeError(AvbError):
    """A recipe cannot be read or has an unknown argument. The message is one line, whatever the recipe contains."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def fold(name: str) -> str:
    """A name without case, spaces, underscores and punctuation: `Voc_Type` and `voc type` become equal."""
    return re.sub(r"[\W_]+", "", str(name)).casefold()


def did_you_mean(name: str, names: Iterable[str], listed: str = "") -> str:
    """The end of a sentence about an unknown name: "; did you mean 'X'?", or "." if no known name is similar.

    Args:
        name: the given name.
        names: the known names.
        listed: the heading of their list, which follows; without it, they are not listed.
    """
    names = list(names)
    folded = {fold(candidate): candidate for candidate in names}
    near = get_close_matches(fold(name), folded, n=1, cutoff=0.5)
    end = f"; did you mean {folded[near[0]]!r}?" if near else "."
    if not listed:
        return end
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"{end} {listed}: {', '.join(names[:MOST_LISTED]) or 'nothing'}{more}"
