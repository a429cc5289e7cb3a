"""Markdown tables; scores have three decimals, and an undefined one (NaN) is shown as such."""

import math
from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, with columns aligned for reading as plain text."""
    cells = [list(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def number(value: float | int) -> str:
    """Formats a number with three decimals; counts are unchanged."""
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "undefined"
    return f"{round(value, 3) + 0.0:.3f}"  # + 0.0 turns -0.0 into 0.0


def bounds(low: float, high: float) -> str:
    """Formats an interval in words."""
    return "undefined" if math.isnan(low) or math.isnan(high) else f"{number(low)} to {number(high)}"
