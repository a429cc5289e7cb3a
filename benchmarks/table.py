"""The table of `results/benchmarks.csv` in Markdown: the newest row of each benchmark and setting.

python benchmarks/table.py
"""

import csv
import sys

from harness import RESULTS


def main() -> int:
    with open(RESULTS, newline="", encoding="utf-8") as file:
        newest = {(row["benchmark"], row["setting"], row["peer"]): row for row in csv.DictReader(file)}
    columns = ["benchmark", "setting", "ratio (low to high)", "of processor time"]
    columns += ["ours / peer, s", "ours / peer, MiB", "predictions differ by"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for (benchmark, setting, _), row in sorted(newest.items()):
        cells = [
            benchmark,
            setting,
            "{} ({} to {})".format(*(_short(row[bound]) for bound in ("ratio", "ratio_low", "ratio_high"))),
            _short(row["cpu_ratio"]),
            f"{_short(row['ours_s'])} / {_short(row['peer_s'])}",
            f"{float(row['peak_mib']):,.0f} / {float(row['peer_peak_mib'] or 'nan'):,.0f}",
            _short(row["max_difference"]),
        ]
        print(f"| {' | '.join(cells)} |")
    return 0


def _short(number: str) -> str:
    if not number:
        return ""
    return f"{float(number):,.0f}" if float(number) >= 1000 else f"{float(number):.3g}"


if __name__ == "__main__":
    sys.exit(main())
