"""Draws a recording: events on top, then the level, then scores over time; `avb.plot`.

Text remains text in the SVG, so events and their times can be searched and read aloud.
"""

import os
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from avb.events.timeline import Event, Timeline, make_timeline
from avb.files import PICTURES, check_output, whole
from avb.reports.analysis.figures import BLUE, GREY, STYLE, VERMILION, WIDTH

STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)  # seconds between ticks
MOST_TICKS = 11
HOUR = 3600
MOST_NAMED = 36  # events whose names fit side by side
NAME_INCHES = 0.055  # height per letter of a name at 60 degrees


def plot(recording, output: str | os.PathLike | None = None, **settings) -> Figure:
    """Draws a recording; see `avb.plot`.

    Args:
        recording: see `avb.events.timeline.make_timeline`.
        output: a .png or .svg file to write; None writes nothing.
        settings: settings of `make_timeline`.

    Raises:
        AvbError: the suffix is unknown, the folder cannot be written, or as in `make_timeline`.
    """
    path = None if output is None else check_output(Path(output), True, PICTURES)
    title = str(recording) if isinstance(recording, (str, os.PathLike)) else ""
    timeline = make_timeline(recording, **settings)
    with matplotlib.rc_context(STYLE | {"svg.fonttype": "none", "svg.hashsalt": "avb"}):
        figure = timeline_figure(timeline, Path(title).name)
        if path is not None:
            metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
            with whole(path) as temporary:
                figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)
    return figure


def timeline_figure(timeline: Timeline, title: str) -> Figure:
    """Draws three stacked strips that share the time axis."""
    chosen = named_events(timeline.events, timeline.seconds)
    names = {event: f"{event.label} {clock(event.start, timeline.seconds, True)}" for event in chosen}
    heights = (0.35 + NAME_INCHES * max(map(len, names.values()), default=0), 0.6, 0.4 + 0.26 * len(timeline.labels))
    figure = Figure((1.25 * WIDTH, 0.9 + sum(heights)))
    above, level, below = figure.subplots(3, height_ratios=heights, sharex=True)
    _draw_events(above, timeline, names, heights[0])
    count = len(timeline.events)
    counted = f"{count} event{'s' * (count != 1)}" if count else "no events"
    more = f", {len(names)} of them named" if len(names) < count else ""
    text = ": ".join(part for part in (title, counted + more) if part)
    figure.suptitle(text, x=0.01, ha="left", fontsize=12, parse_math=False)  # above the names, unlike a title
    peaks = np.concatenate(timeline.level.values)
    level.stairs(peaks, timeline.level.edges, baseline=-peaks, fill=True, color=GREY)
    level.set_ylim(-1.05 * max(peaks.max(), 1e-4), 1.05 * max(peaks.max(), 1e-4))
    level.set_yticks([])
    decibels = f"peak {20 * np.log10(peaks.max()):.1f} dBFS" if peaks.max() > 0 else "silent"
    text = f"level\n({decibels})".replace("-", "\N{MINUS SIGN}")
    level.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=10)
    values = np.stack(timeline.scores.values, axis=1)  # (labels, columns)
    rows = np.arange(len(timeline.labels) + 1) - 0.5
    lowest, highest = min(0.0, values.min()), max(values.max(), 1e-6)
    # One score near 1 would leave all others dark, so low probabilities get a larger part of the colour range.
    norm = Normalize(lowest, highest) if lowest < 0 else PowerNorm(0.7, lowest, highest)
    cells = below.pcolormesh(timeline.scores.edges, rows, values, cmap="cividis", norm=norm, rasterized=True)
    below.set_yticks(range(len(timeline.labels)), timeline.labels, fontsize=10, parse_math=False)
    below.invert_yaxis()
    below.set_xlim(0, timeline.seconds)
    places = ticks(timeline.seconds)
    below.xaxis.set_major_locator(FixedLocator(places.tolist()))
    below.xaxis.set_major_formatter(FuncFormatter(lambda at, _: clock(at, timeline.seconds, places[1] % 1 > 0)))
    below.set_xlabel("time, h:min:s" if timeline.seconds >= HOUR else "time, min:s")
    figure.colorbar(cells, ax=below, label=f"score ({timeline.window_seconds:g} s windows)", pad=0.01)
    for axes in (above, level):
        axes.spines[:].set_visible(False)
        axes.tick_params(bottom=False, labelbottom=False)
    return figure


def _draw_events(axes, timeline: Timeline, names: dict[Event, str], height: float):
    """Draws spans as wide as they last, at least two pixels, with names above, in a strip `height` inches high."""
    least = timeline.seconds / 700
    axes.set_ylim(0, height)
    axes.set_yticks([])
    axes.set_ylabel("events", rotation=0, ha="right", y=0.1 / height, fontsize=10)
    axes.hlines(0.1, 0, timeline.seconds, color=GREY, linewidth=0.6)
    spans = [(event.start, max(event.end - event.start, least)) for event in timeline.events]
    axes.broken_barh(spans, (0, 0.2), color=VERMILION)
    for event, text in names.items():
        middle = (event.start + event.end) / 2
        axes.text(middle, 0.26, text, rotation=60, fontsize=9, color=BLUE, rotation_mode="anchor", parse_math=False)


def named_events(events: list[Event], seconds: float) -> list[Event]:
    """The most certain events, no two closer than the width of a name."""
    room = seconds / MOST_NAMED
    chosen: list[Event] = []
    for event in sorted(events, key=lambda event: -event.detection):
        if all(abs(event.start - other.start) >= room for other in chosen):
            chosen.append(event)
    return sorted(chosen, key=lambda event: event.start)


def ticks(seconds: float) -> np.ndarray:
    """Round times within `seconds`, at most `MOST_TICKS` if the longest step allows it."""
    step = next((step for step in STEPS if seconds / step <= MOST_TICKS - 1), seconds / (MOST_TICKS - 1))
    return np.arange(0, max(seconds, step) + step / 1000, step)  # at least two


def clock(seconds: float, longest: float, has_tenths: bool) -> str:
    """Formats a time as min:s, or as h:min:s for recordings of an hour or more."""
    tenths = round(seconds * 10) if has_tenths else round(seconds) * 10
    second = f"{tenths % 600 / 10:04.1f}" if has_tenths else f"{tenths % 600 // 10:02d}"
    minutes = tenths // 600
    return f"{minutes // 60}:{minutes % 60:02d}:{second}" if longest >= HOUR else f"{minutes}:{second}"
