"""The pictures, each a matplotlib figure of numbers that are already there; and their files, the same bytes each time.

Colours are Okabe and Ito's ("Color Universal Design", 2008), which colour-blind readers can tell apart; runs differ in
line style too. Sizes are made for the width of a README, some 800 pixels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from avb.reports.analysis.numbers import Bin, Curve, Estimate, Part

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
LINES = ("-", "--", ":", "-.")
GREY = "#666666"
BLUES = LinearSegmentedColormap.from_list("blues", ["#C6DBEF", "#6BAED6", "#08306B"])  # even a single clip is visible
WIDTH = 8.0  # inches
DPI = 150
WRITTEN_CELLS = 12  # a larger confusion matrix shows no numbers in its cells; they are in the table
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "font.family": "DejaVu Sans",  # ships with matplotlib, so figures look the same everywhere
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": DPI,
    "legend.frameon": False,
    "svg.fonttype": "path",
}


def write_figure(draw: Callable[..., Figure], path: Path, *args):
    """Draws a figure and writes `path`.svg and `path`.png, without dates or random names."""
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": path.name}):
        figure = draw(*args)
        figure.savefig(f"{path}.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(f"{path}.png", metadata={"Software": None})


def confusion_figure(shares: np.ndarray, labels: tuple[str, ...]) -> Figure:
    """Draws a confusion matrix with rows as shares, (classes, classes)."""
    num_labels = len(labels)
    figure = Figure((WIDTH, 7.2))
    axes = figure.add_subplot()
    edges = np.arange(num_labels + 1) - 0.5
    cells = axes.pcolormesh(edges, edges, shares, cmap="Blues", vmin=0)  # imshow would embed a raster image in the SVG
    axes.set_aspect("equal")
    axes.invert_yaxis()
    size = float(np.clip(240 / num_labels, 5, 11))
    axes.set_xticks(range(num_labels), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(num_labels), labels, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.spines[:].set_visible(False)
    if num_labels <= WRITTEN_CELLS:
        dark = np.nanmax(shares, initial=0) * 0.6
        for (row, column), share in np.ndenumerate(shares):
            if not np.isnan(share):
                colour = "white" if share > dark else "black"
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=9)
    bar = figure.colorbar(cells, label="share of the true class", shrink=0.8)
    assert bar.solids is not None  # it is drawn
    bar.solids.set_rasterized(False)
    return figure


def labels_figure(parts: dict[str, Estimate], name: str, overall: Estimate, chance: float | None) -> Figure:
    """Draws the score of each label, highest on top, and the mean over labels, with intervals."""
    order = sorted(parts, key=lambda label: (np.nan_to_num(parts[label].value, nan=-2), label))
    figure = Figure((WIDTH, 1.4 + 0.26 * len(order)))
    axes = figure.add_subplot()
    _dots(axes, [parts[label] for label in order], horizontal=True)
    axes.axvline(overall.value, color=GREY, linestyle="--", linewidth=1.2, label=f"mean {overall.value:.3f}")
    if chance is not None:
        axes.axvline(chance, color=ORANGE, linestyle=":", linewidth=2, label=f"chance {chance:.3f}")
    axes.set_yticks(range(len(order)), order, fontsize=9 if len(order) > 15 else 11)
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.set_xlabel(name)
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def reliability_figure(bins: list[Bin]) -> Figure:
    """Draws accuracy against confidence, with intervals; below it, a histogram of confidence."""
    figure = Figure((6.4, 6.4))
    above, below = figure.subplots(2, height_ratios=(4, 1), sharex=True)
    confidence = [b.predicted for b in bins]
    end = min(1.0, 1.08 * np.nanmax([*confidence, *(b.true.value for b in bins), *(b.true.high for b in bins)]))
    above.plot((0, end), (0, end), color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    _dots(above, [b.true for b in bins], confidence)
    above.plot(confidence, [b.true.value for b in bins], color=BLUE, linewidth=1)
    above.set_xlim(0, end)
    above.set_ylim(-0.02 * end, 1.02 * end)  # so that dots at 0 and 1 are not cut off
    above.set_ylabel("share that is right")
    above.legend(loc="upper left")
    below.bar(confidence, [b.count for b in bins], width=end / 40, color=SKY)
    below.set_ylabel("clips")
    below.set_xlabel("probability of the predicted class")
    return figure


def calibration_figure(panels: list[tuple[str, np.ndarray, np.ndarray, list[Bin]]]) -> Figure:
    """Draws one panel per label (name, predictions (clips,), labels (clips,), bins): density of clips and bin means."""
    columns = min(len(panels), 3 if len(panels) > 4 else 2)
    rows = -(-len(panels) // columns)
    side = WIDTH / max(columns, 2)
    figure = Figure((side * columns, side * rows))
    all_axes = figure.subplots(rows, columns, squeeze=False)
    for axes, (label, pred, true, bins) in zip(all_axes.flat, panels, strict=False):
        low, high = min(pred.min(), true.min()), max(pred.max(), true.max())
        margin = 0.03 * (high - low or 1.0)
        extent = (low - margin, high + margin)
        axes.hexbin(pred, true, gridsize=22, extent=extent * 2, mincnt=1, cmap=BLUES, bins="log", linewidths=0.1)
        axes.plot(extent, extent, color=GREY, linestyle="--", linewidth=1)
        _dots(axes, [b.true for b in bins], [b.predicted for b in bins], colour=VERMILION)
        axes.set_xlim(extent)
        axes.set_ylim(extent)
        axes.set_aspect("equal")
        axes.set_title(label, fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    for axes in all_axes.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("predicted", fontsize=11)
    figure.supylabel("label", fontsize=11)
    return figure


def speakers_figure(scores: list[float], name: str, overall: float) -> Figure:
    """Draws one dot per speaker, lowest score first."""
    figure = Figure((WIDTH, 3.6))
    axes = figure.add_subplot()
    axes.plot(range(1, len(scores) + 1), scores, "o", color=BLUE, markersize=5 if len(scores) < 100 else 3)
    axes.axhline(overall, color=GREY, linestyle="--", linewidth=1.2, label=f"all clips {overall:.3f}")
    axes.set_xlabel("speakers, lowest score first")
    axes.set_ylabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper right")
    return figure


def durations_figure(parts: list[Part], name: str, overall: float) -> Figure:
    """Draws the score of each quartile of duration, with intervals."""
    figure = Figure((WIDTH, 3.6))
    axes = figure.add_subplot()
    _dots(axes, [part.score for part in parts])
    axes.axhline(overall, color=GREY, linestyle="--", linewidth=1.2, label=f"all clips {overall:.3f}")
    axes.set_xticks(range(len(parts)), [f"{part.name}\n{part.count} clips" for part in parts])
    axes.set_xlim(-0.5, len(parts) - 0.5)
    axes.set_xlabel("duration")
    axes.set_ylabel(name)
    figure.legend(loc="outside upper right")
    return figure


def curves_figure(curves: list[Curve], name: str) -> Figure:
    """Draws training loss and, if logged, the validation metric by epoch; runs are overlaid."""
    has_scores = any(curve.score for curve in curves)
    figure = Figure((WIDTH, 3.8))
    panels = figure.subplots(1, 1 + has_scores, squeeze=False)[0]
    titles = ["training loss", f"{name} on validation"]
    for axes, title, key in zip(panels, titles, ("loss", "score"), strict=False):
        for number, curve in enumerate(curves):
            points = getattr(curve, key)
            colour, line = COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
            epochs, values = zip(*points, strict=True) if points else ((), ())
            marker = "o" if len(points) < 30 else ""
            axes.plot(epochs, values, color=colour, linestyle=line, marker=marker, markersize=4, label=curve.name)
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(curves) > 1:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(curves), 3), fontsize=9)
    return figure


def ablation_figure(variants: dict[str, dict[str, Estimate]]) -> Figure:
    """Draws the score of each pooling, side by side for each variant, with intervals."""
    poolings = list(dict.fromkeys(pooling for scores in variants.values() for pooling in scores))
    figure = Figure((WIDTH, 4.2))
    axes = figure.add_subplot()
    for number, (variant, scores) in enumerate(variants.items()):
        places = [poolings.index(p) + 0.2 * (number - (len(variants) - 1) / 2) for p in scores]
        marker = "os^Dv"[number % 5]
        _dots(axes, list(scores.values()), places, colour=COLOURS[number], marker=marker, label=variant)
    axes.set_xticks(range(len(poolings)), poolings)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("pooling")
    axes.set_ylabel("UAR")
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _dots(axes, estimates: list[Estimate], places=None, horizontal=False, colour=BLUE, marker="o", label=None):
    """Draws values with error bars; undefined intervals are not drawn."""
    values = np.array([estimate.value for estimate in estimates])
    places = np.arange(len(values)) if places is None else np.asarray(places)
    bounds = np.array([(estimate.low, estimate.high) for estimate in estimates]).reshape(-1, 2)
    x, y, draw = (values, places, axes.hlines) if horizontal else (places, values, axes.vlines)
    draw(places, bounds[:, 0], bounds[:, 1], color=colour, linewidth=1.6, alpha=0.7)
    axes.plot(x, y, linestyle="none", marker=marker, color=colour, markersize=6, label=label)
