"""A report as one HTML page beside its pictures; no script, nothing loaded from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment

from napari_histolatent._files import write_text
from napari_histolatent.errors import writing_to

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
  figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; max-width: 100% }
  figure img { max-width: 100%; image-rendering: pixelated; display: block }
  figcaption { font-size: .85rem; color: #555; max-width: 30rem }
  table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left }
  td + td { font-variant-numeric: tabular-nums } .notice { background: #fff3cd; padding: .6rem 1rem }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="notice">{{ notice }}</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% for paragraph in section.text %}<p>{{ paragraph }}</p>{% endfor %}
{% if section.rows %}<table>{% for row in section.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>{% endif %}
{% for figure in section.figures %}
<figure><img src="{{ figure.file }}" alt="{{ figure.caption }}"><figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
{% endfor %}
</body>
</html>
"""


@dataclass(frozen=True)
class Figure:
    """A picture of the report."""

    file: str
    """Relative to the report."""
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the report: text, then a table, then pictures."""

    title: str
    text: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    figures: tuple[Figure, ...] = ()


def write_report(path: Path, *, title: str, notice: str, sections: Sequence[Section]) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path
        The HTML file.
    title, notice
        Heading, and what a reader has to know before anything else.
    sections
        Parts, in order. All text is escaped.
    """
    page = Environment(autoescape=True).from_string(_PAGE)
    with writing_to(path.parent):
        write_text(path, page.render(title=title, notice=notice, sections=sections))
