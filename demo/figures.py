"""Draws answers: a bar for every label, the valence-arousal plane, and scores over time; independent of Gradio.

Bars and plane are HTML and SVG: every label has a bar, in the task's order, with its number as text, which an image
would hide from screen readers, the clipboard and tests. Colours follow Gradio's theme.
"""

from base64 import b64encode
from html import escape

import pandas as pd
from answers import Answer

MOST_PLAYED = 40  # events with their sound; the others are listed
TIMELINE_LABELS = 6  # more lines cannot be told apart, nor named in one row

CSS = """
.avb-cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1rem;
  align-items: start; }
.avb-card { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
  padding: .8rem 1rem 1rem; background: var(--background-fill-primary); }
.avb-card h3 { margin: 0; font-size: 1.05rem; overflow-wrap: anywhere; }
.avb-card p { margin: 0 0 .6rem; font-size: .85rem; color: var(--body-text-color-subdued); }
.avb-bars { display: grid; grid-template-columns: fit-content(45%) minmax(3rem, 1fr) auto; gap: .3rem .6rem;
  align-items: center; font-size: .9rem; }
.avb-track { position: relative; height: .85rem; border-radius: .25rem; background: var(--border-color-primary); }
.avb-bar { height: 100%; border-radius: .25rem; background: var(--color-accent); min-width: 1px; }
.avb-peak { position: absolute; top: -.1rem; bottom: -.1rem; width: 2px; background: var(--body-text-color); }
.avb-value { font-variant-numeric: tabular-nums; text-align: right; }
.avb-best { font-weight: 700; }
.avb-events { list-style: none; margin: .2rem 0 .8rem; padding: 0; font-size: .9rem; }
.avb-events audio { display: block; width: 100%; height: 2rem; margin: .15rem 0 .4rem; }
.avb-plane { display: block; width: 100%; max-width: 18rem; margin: .9rem auto 0; color: var(--body-text-color); }
.avb-plane text { font-size: 11px; fill: currentColor; } .avb-plane .axis { font-weight: 600; }
.avb-plane .area { fill: none; stroke: var(--border-color-primary); } .avb-plane .quadrant { opacity: .6; }
.avb-plane .cross { stroke: var(--border-color-primary); stroke-dasharray: 3 3; }
.avb-plane .mean { fill: var(--color-accent); stroke: var(--background-fill-primary); stroke-width: 2; }
.avb-plane .window { fill: var(--color-accent); opacity: .35; }
.avb-plane .path { fill: none; stroke: var(--color-accent); opacity: .35; }
.avb-error { border-left: 4px solid var(--error-border-color, #dc2626); border-radius: var(--radius-md);
  background: var(--background-fill-secondary); padding: .7rem 1rem; overflow-wrap: anywhere; }
.avb-hint { color: var(--body-text-color-subdued); padding: 2.5rem 1rem; text-align: center;
  border: 1px dashed var(--border-color-primary); border-radius: var(--radius-lg); }
"""


def cards(answers: dict[str, Answer]) -> str:
    """The answers of the models side by side, each with the model's name."""
    return f'<div class="avb-cards">{"".join(card(name, answer) for name, answer in answers.items())}</div>'


def card(name: str, answer: Answer) -> str:
    """One model's answer: what was scored, a bar for every label, and the plane where it has one."""
    windows = len(answer.spans)
    scored = f"{answer.seconds:.2f} s"
    if windows > 1:
        scored += f", mean of {windows} windows; the mark shows the highest"
    kind = "probability of each class" if answer.is_classifier else "from {:g} to {:g}".format(*answer.score_range)
    plane_svg = plane(answer) if has_plane(answer) else ""
    return (
        f'<section class="avb-card" data-model="{escape(name)}"><h3>{escape(name)}</h3>'
        f"<p>{scored}; {kind}</p>{rejection(answer)}{events(answer)}{bars(answer)}{plane_svg}</section>"
    )


def rejection(answer: Answer) -> str:
    """A note if a clip is probably not a burst; empty if it is one, or if that is unknown."""
    if answer.is_burst is not False:
        return ""
    return error("Probably not a vocal burst: the scores are meaningless.")


def events(answer: Answer) -> str:
    """The events of a longer recording, each with its sound; empty for a clip."""
    if answer.events is None:
        return ""
    items = []
    for number, event in enumerate(answer.events):
        said = f"{event.start:.2f} to {event.end:.2f} s: {escape(event.label.replace('_', ' '))} {event.score:.3f}"
        player = ""
        if number < MOST_PLAYED:
            source = f"data:audio/wav;base64,{b64encode(event.wav).decode()}"
            player = f'<audio controls preload="none" aria-label="{said}" src="{source}"></audio>'
        items.append(f"<li>{said}{player}</li>")
    title = f"Events: {len(items)}" if items else "No vocal bursts found"
    return f'<h4>{title}</h4><ol class="avb-events">{"".join(items)}</ol>'


def bars(answer: Answer) -> str:
    """A horizontal bar for every label, in the task's order; the predicted class is bold."""
    low, high = answer.score_range
    peaks = answer.scores.max(axis=0)
    rows = []
    for label, score, peak in zip(answer.labels, answer.mean, peaks, strict=True):
        width, place = (100 * (float(value) - low) / (high - low) for value in (score, peak))
        mark = f'<div class="avb-peak" style="left: {place:.1f}%"></div>' if len(answer.scores) > 1 else ""
        best = " avb-best" if answer.is_classifier and label == answer.prediction else ""
        rows.append(
            f'<span class="avb-label{best}">{escape(label.replace("_", " "))}</span>'
            f'<div class="avb-track"><div class="avb-bar" style="width: {width:.1f}%"></div>{mark}</div>'
            f'<span class="avb-value{best}">{score:.3f}</span>'
        )
    return f'<div class="avb-bars">{"".join(rows)}</div>'


def has_plane(answer: Answer) -> bool:
    """True if the labels are valence and arousal, in either order."""
    return not answer.is_classifier and {label.lower() for label in answer.labels} == {"valence", "arousal"}


def plane(answer: Answer) -> str:
    """Valence to the right, arousal upwards; a dot for the recording, faint ones for its windows in their order."""
    columns = [label.lower() for label in answer.labels]
    low, high = answer.score_range
    side, left, top = 200, 30, 10  # of the square, in SVG units

    def place(scores) -> tuple[float, float]:
        valence, arousal = (
            (float(scores[columns.index(name)]) - low) / (high - low) for name in ("valence", "arousal")
        )
        return left + side * valence, top + side * (1 - arousal)

    windows = [place(row) for row in answer.scores] if len(answer.scores) > 1 else []
    x, y = place(answer.mean)
    middle_x, middle_y, bottom = left + side / 2, top + side / 2, top + side
    quadrants = {"tense": (0.25, 0.94), "elated": (0.75, 0.94), "gloomy": (0.25, 0.03), "calm": (0.75, 0.03)}
    text = "".join(
        f'<text class="quadrant" text-anchor="middle" x="{left + side * right}" y="{bottom - side * up}">{word}</text>'
        for word, (right, up) in quadrants.items()
    )
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in windows)
    dots = "".join(f'<circle class="window" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in windows)
    return (
        f'<svg class="avb-plane" viewBox="0 0 {left + side + 10} {bottom + 24}" role="img" '
        'aria-label="Valence-arousal plane">'
        f'<rect class="area" x="{left}" y="{top}" width="{side}" height="{side}" rx="6"/>'
        f'<path class="cross" d="M{middle_x} {top}V{bottom}M{left} {middle_y}H{left + side}"/>{text}'
        f'<text class="axis" text-anchor="middle" x="{middle_x}" y="{bottom + 17}">Valence →</text>'
        f'<text class="axis" text-anchor="middle" transform="translate(18 {middle_y}) rotate(-90)">Arousal →</text>'
        f'<polyline class="path" points="{path}"/>{dots}<circle class="mean" cx="{x:.1f}" cy="{y:.1f}" r="7"/></svg>'
    )


def timeline(answer: Answer) -> pd.DataFrame:
    """Columns `seconds` (middle of the window), `label`, `score`: of the labels with the highest window, in order."""
    peaks = answer.scores.max(axis=0)
    kept = sorted(sorted(range(len(peaks)), key=lambda index: -peaks[index])[:TIMELINE_LABELS])
    rows = [
        {"seconds": (start + end) / 2, "label": answer.labels[index], "score": float(scores[index])}
        for (start, end), scores in zip(answer.spans, answer.scores, strict=True)
        for index in kept
    ]
    return pd.DataFrame(rows, columns=["seconds", "label", "score"])


def error(message: str) -> str:
    """An error as shown to the user."""
    return f'<div class="avb-error" role="alert">{escape(message)}</div>'


def hint(message: str) -> str:
    """The placeholder for results."""
    return f'<div class="avb-hint">{escape(message)}</div>'
