"""The report as Markdown, and as one HTML file with its pictures inside: the same sections, rendered twice."""

import html
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, select_autoescape
from markupsafe import Markup
from tqdm.auto import tqdm

from avb.errors import AvbError
from avb.files import make_folder
from avb.reports.analysis.figures import write_figure
from avb.reports.analysis.numbers import Estimate
from avb.reports.markdown import bounds, markdown_table

TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Attributes:
        header: column names.
        rows: cells of each row, as many as in the header.
        folded: text to click on to unfold the table; if empty, the table is always shown.
    """

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    folded: str = ""


@dataclass(frozen=True)
class Section:
    """A title, a figure with an explanation of how it was computed, and tables.

    Attributes:
        title: heading.
        text: one paragraph of plain text, below the figure if there is one.
        figure: name of the figure's files, without suffix.
        draw: the function of `avb.reports.analysis.figures` that draws it, and its arguments; empty for no figure.
        tables: tables below the text.
    """

    title: str
    text: str
    figure: str = ""
    draw: tuple[Any, ...] = ()
    tables: tuple[Table, ...] = ()


def interval(estimate: Estimate) -> str:
    """Formats an interval as lower to upper bound."""
    return bounds(estimate.low, estimate.high)


def write_report(title: str, sections: list[Section], folder: str | Path) -> Path:
    """Writes report.md, report.html, and each figure as SVG and PNG; the pages are written last.

    Files are created in a temporary folder and moved one by one; other files in `folder` are kept.

    Raises:
        AvbError: the folder cannot be created or written.
    """
    folder = make_folder(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".report-") as temporary:
            temporary = Path(temporary)
            pictures = [section for section in sections if section.figure]
            for section in tqdm(pictures, desc="draw", unit="figure", disable=None):
                write_figure(section.draw[0], temporary / section.figure, *section.draw[1:])
            svgs = {s.figure: Markup(inline_svg(temporary / f"{s.figure}.svg", s.figure)) for s in pictures}
            (temporary / "report.md").write_text(markdown_page(title, sections), encoding="utf-8")
            (temporary / "report.html").write_text(html_page(title, sections, svgs), encoding="utf-8")
            for path in sorted(temporary.iterdir(), key=lambda path: (path.stem == "report", path.name)):
                os.replace(path, folder / path.name)
    except OSError as error:
        raise AvbError(f"{folder}: cannot be written ({error.strerror}); give another --output") from error
    return folder / "report.md"


def markdown_page(title: str, sections: list[Section]) -> str:
    """The report as Markdown, with links to its figures."""
    lines = [f"# {_plain(title)}"]
    for section in sections:
        lines += ["", f"## {_plain(section.title)}"]
        if section.figure:
            lines += ["", f"![{_plain(section.title)}]({section.figure}.png)"]
        lines += ["", _plain(section.text)]
        for table in section.tables:
            rows = [[_plain(cell) for cell in row] for row in table.rows]
            shown = markdown_table([_plain(cell) for cell in table.header], rows)
            if table.folded:
                shown = [f"<details><summary>{_plain(table.folded)}</summary>", "", *shown, "", "</details>"]
            lines += ["", *shown]
    return "\n".join(lines) + "\n"


def html_page(title: str, sections: list[Section], svgs: dict[str, Markup]) -> str:
    """The report as one HTML file; all text is escaped, the figures are not."""
    environment = Environment(autoescape=select_autoescape(default=True), keep_trailing_newline=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, sections=sections, svgs=svgs)


def inline_svg(path: Path, name: str) -> str:
    """An SVG to embed in a page: without XML header, and with ids that are unique within the page."""
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.strip()


def _plain(text: str) -> str:
    """Escapes text for Markdown, which would otherwise pass HTML in a label's name through."""
    return html.escape(text, quote=False)
