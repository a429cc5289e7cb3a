"""Writes events in the formats of annotation tools: RTTM, Audacity labels, Praat TextGrid, JSON.

The name of an event is its most likely label, or `burst` if the model has no classes.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]  # a row of a table of events: start, end, detection, ...


def rttm(recording: str, rows: Sequence[Row], seconds: float) -> str:
    """NIST's Rich Transcription Time Marked (2009): one SPEAKER line per event, onset and length in seconds."""
    name = "_".join(recording.split()) or "recording"
    lines = []
    for row in rows:
        label = "_".join(called(row).split())
        span = f"{row['start']:.3f} {row['end'] - row['start']:.3f}"
        lines.append(f"SPEAKER {name} 1 {span} <NA> <NA> {label} {row['detection']:.3f} <NA>\n")
    return "".join(lines)


def audacity(recording: str, rows: Sequence[Row], seconds: float) -> str:
    """A label track: start, end and label, separated by tabs."""
    return "".join(f"{row['start']:.6f}\t{row['end']:.6f}\t{called(row)}\n" for row in rows)


def textgrid(recording: str, rows: Sequence[Row], seconds: float) -> str:
    """Praat's long text format with one interval tier, `bursts`, which covers the recording without gaps."""
    spans, position = [], 0.0
    for row in rows:
        start, end = max(row["start"], position), min(row["end"], seconds)
        if start > position:
            spans.append((position, start, ""))
        if end > start:
            spans.append((start, end, called(row)))
            position = end
    if position < seconds or not spans:
        spans.append((position, seconds, ""))
    head = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {seconds:.6f}",
        "tiers? <exists>", "size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"',
        '        name = "bursts"', "        xmin = 0", f"        xmax = {seconds:.6f}",
        f"        intervals: size = {len(spans)}",
    ]  # fmt: skip
    for number, (start, end, label) in enumerate(spans, 1):
        quoted = label.replace('"', '""')
        head += [
            f"        intervals [{number}]:", f"            xmin = {start:.6f}", f"            xmax = {end:.6f}",
            f'            text = "{quoted}"',
        ]  # fmt: skip
    return "\n".join(head) + "\n"


def as_json(recording: str, rows: Sequence[Row], seconds: float) -> str:
    """`{"recording", "seconds", "events": [...]}`, each event with the columns of the table."""
    events = [{name: value for name, value in row.items() if name != "id"} for row in rows]
    content = {"recording": recording, "seconds": round(seconds, 3), "events": events}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


FORMATS: dict[str, tuple[Callable[[str, Sequence[Row], float], str], str]] = {
    "rttm": (rttm, ".rttm"),
    "audacity": (audacity, ".txt"),
    "textgrid": (textgrid, ".TextGrid"),
    "json": (as_json, ".json"),
}


def called(row: Row) -> str:
    """The name of an event in a table: its prediction, or the first one of a multitask model."""
    names = [str(value) for name, value in row.items() if name == "prediction" or name.startswith("prediction_")]
    return " ".join((names[0] if names else "burst").split())
