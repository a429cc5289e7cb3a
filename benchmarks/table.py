"""The table of `results/benchmarks.csv` in Markdown: the newest row of each benchmark and setting.

python benchmarks/table.py [TABLE]
"""

import csv
import sys
from pathlib import Path

from harness import RESULTS


def main(table: str | Path = RESULTS) -> int:
    with open(table, newline="", encoding="utf-8") as file:
        newest = {(row["benchmark"], row["setting"], row["peer"]): row for row in csv.DictReader(file)}
    columns = ["benchmark", "setting", "ratio (low to high)", "of processor time"]
    columns += ["ours / peer, s", "ours / peer, MiB", "predictions differ by"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for (benchmark, setting, _), row in sorted(newest.items()):
        cells = [
            benchmark,
            setting,
            _spread(row),
            _short(row["cpu_ratio"]),
            f"{_short(row['ours_s'])} / {_short(row['peer_s'])}",
            f"{float(row['peak_mib']):,.0f} / {float(row['peer_peak_mib'] or 'nan'):,.0f}",
            _short(row["max_difference"]),
        ]
        print(f"| {' | '.join(cells)} |")
    return 0


def _spread(row: dict[str, str]) -> str:
    """The ratio and its range; empty where ours ran alone."""
    low, high = _short(row["ratio_low"]), _short(row["ratio_high"])
    return f"{_short(row['ratio'])} ({low} to {high})" if row["ratio"] else ""


def _short(number: str) -> str:
    if not number:
        return ""
    return f"{float(number):,.0f}" if float(number) >= 1000 else f"{float(number):.3g}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
