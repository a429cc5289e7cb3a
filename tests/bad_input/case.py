"""What a row of the matrix is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One kind of input.

    Args:
        name: what is unusual about it, in words.
        build: makes it in an empty folder; returns what the group's entry point is given.
        expected: how the outcome begins, or for an error or a skipped clip `error: ` or `skipped: ` and words of the
            message.
    """

    name: str
    build: Callable[[Path], Any]
    expected: str

    def is_met_by(self, seen: str) -> bool:
        """Whether an outcome is the one expected, on one line."""
        kind, _, words = self.expected.partition(": ")
        return seen.startswith(kind) and words in seen and "\n" not in seen
