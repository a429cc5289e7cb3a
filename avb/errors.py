"""The errors a user can act on: each message says what is wrong, where (file, row, column) and the way out.

All are `ValueError`s, so a caller that knows nothing of this module still catches them; a command catches `AvbError`,
prints the message without a traceback and exits with a failure. The root and `AudioError` are defined in
`audio_avb.py`, which the Hub serves without this package.
"""

from audio_avb import AudioError, AvbError

__all__ = ["AudioError", "AvbError", "CorpusError", "RecipeError"]


class CorpusError(AvbError):
    """A corpus on disk, its tables or its options do not fit together."""


class RecipeError(AvbError):
    """A recipe that cannot be read, or an argument in it that does not exist."""
