"""A page of results as one HTML file: text, tables, bars, a scatter plot and pictures inside it.

The file needs no network and no other file. All text is escaped: names from a data set are never
markup.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape

from PIL import Image

from rcnn.view.colours import Colour, class_colour

WORD = 32  # letters of a word that is not broken between two lines

STYLE = """
:root { --ink: #2b3038; --pale: #6b7280; --line: #d9dce1; --paper: #fafafb; --bar: #5764f9;
  --error: #c50000; --warning: #b06a00; --info: #2a6f97; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
th { cursor: pointer; } th, .number, .word { white-space: nowrap; }
.number { text-align: right; }
.bar { background: var(--bar); height: .8rem; min-width: 1px; }
.error, .warning, .info { font-weight: 600; white-space: nowrap; }
.error { color: var(--error); } .warning { color: var(--warning); } .info { color: var(--info); }
figure { display: inline-block; margin: .4rem; vertical-align: top; max-width: 320px; }
figure img { max-width: 100%; border: 1px solid var(--line); }
figcaption { color: var(--pale); font-size: .85rem; overflow-wrap: anywhere; }
pre { background: #eceef2; padding: .6rem .8rem; white-space: pre-wrap; }
details summary { cursor: pointer; color: var(--pale); } svg text { font: 12px system-ui; }
"""

SORT = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const column = [...head.parentNode.children].indexOf(head);
  const body = head.closest("table").tBodies[0];
  const sign = head.dataset.sign = head.dataset.sign === "1" ? -1 : 1;
  const value = row => row.children[column].textContent.trim();
  const compare = (a, b) => a.localeCompare(b, undefined, {numeric: true});
  body.append(...[...body.rows].sort((a, b) => sign * compare(value(a), value(b))));
};
"""


class Page:
    """A page that grows from top to bottom.

    Args:
        title: headline, and title of the browser's window.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Add the heading of a section."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def code(self, text: str) -> None:
        """Add a command or another text as it is typed."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def table(
        self, heads: Sequence[str], rows: Sequence[Sequence[str]], mark: int | None = None
    ) -> None:
        """Add a table that is sorted by a column when its head is clicked.

        Args:
            heads: heads of the columns.
            rows: cells of each row; a number is set to the right.
            mark: column of which the text is also a style: ``error``, ``warning`` or ``info``.
        """

        def cell(column: int, text: str) -> str:
            word = "word" if len(text) < WORD and " " not in text else ""
            classes = "number" if _is_number(text) else text if column == mark else word
            return f'<td class="{escape(classes)}">{escape(text)}</td>'

        top = "".join(f"<th>{escape(head)}</th>" for head in heads)
        body = "".join(f"<tr>{''.join(map(cell, range(len(row)), row))}</tr>" for row in rows)
        self._parts.append(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")

    def bars(self, heads: tuple[str, str], values: Sequence[tuple[str, float]]) -> None:
        """Add a table of names and numbers with a bar for each number.

        Args:
            heads: what is named, and what is counted.
            values: name and number of each row.
        """
        most = max((value for _, value in values), default=0) or 1
        rows = "".join(
            f'<tr><td>{escape(name)}</td><td class="number">{value:g}</td>'
            f'<td style="width: 60%"><div class="bar" style="width: {value / most:.1%}"></div></td>'
            "</tr>"
            for name, value in values
        )
        top = "".join(f"<th>{escape(head)}</th>" for head in heads)
        self._parts.append(
            f"<table><thead><tr>{top}<th></th></tr></thead><tbody>{rows}</tbody></table>"
        )

    def details(self, summary: str, lines: Sequence[str]) -> None:
        """Add a list that is folded until its summary is clicked."""
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        self._parts.append(
            f"<details><summary>{escape(summary)}</summary><ul>{items}</ul></details>"
        )

    def scatter(
        self,
        points: Sequence[tuple[float, float, int]],
        names: Sequence[str],
        boxes: Sequence[tuple[float, float]] = (),
        axes: tuple[str, str] = ("width", "height"),
    ) -> None:
        """Add a plot of pairs of positive numbers on logarithmic axes.

        Args:
            points: x, y and label (1..K) of each point.
            names: names of the labels 1..K, for the legend.
            boxes: x and y of larger marks, such as anchors.
            axes: names of the axes.
        """
        side, edge, top = 420, 46, 12
        numbers = [max(n, 0.5) for x, y, *_ in [*points, *boxes] for n in (x, y)] or [1.0, 2.0]
        low, high = math.floor(math.log2(min(numbers))), math.ceil(math.log2(max(numbers)))
        high += low == high

        def at(number: float) -> float:
            return (math.log2(max(number, 0.5)) - low) / (high - low) * side

        marks = "".join(
            f'<circle cx="{edge + at(x):.1f}" cy="{side - at(y):.1f}" r="2.2" '
            f'fill="{_hex(class_colour(label))}" fill-opacity="0.55"/>'
            for x, y, label in points
        )
        marks += "".join(
            f'<rect x="{edge + at(x) - 5:.1f}" y="{side - at(y) - 5:.1f}" width="10" height="10" '
            'fill="none" stroke="#2b3038" stroke-width="2"/>'
            for x, y in boxes
        )
        ticks = "".join(
            f'<line x1="{edge}" x2="{edge + side}" y1="{side - at(2.0**n):.1f}" '
            f'y2="{side - at(2.0**n):.1f}" stroke="#e4e7ec"/>'
            f'<line y1="0" y2="{side}" x1="{edge + at(2.0**n):.1f}" x2="{edge + at(2.0**n):.1f}" '
            f'stroke="#e4e7ec"/><text x="{edge - 6}" y="{side - at(2.0**n) + 4:.1f}" '
            f'text-anchor="end">{2.0**n:g}</text><text x="{edge + at(2.0**n):.1f}" '
            f'y="{side + 16}" text-anchor="middle">{2.0**n:g}</text>'
            for n in range(low, high + 1)
        )
        legend = "".join(
            f'<circle cx="{edge + side + 20}" cy="{16 + 20 * n}" r="5" '
            f'fill="{_hex(class_colour(n + 1))}"/>'
            f'<text x="{edge + side + 32}" y="{20 + 20 * n}">{escape(name)}</text>'
            for n, name in enumerate(names[:20])
        )
        self._parts.append(
            f'<svg viewBox="0 {-top} {edge + side + 240} {side + top + 44}" width="100%">{ticks}'
            f'{marks}{legend}<text x="{edge + side / 2}" y="{side + 38}" text-anchor="middle">'
            f'{escape(axes[0])}</text><text transform="translate(12 {side / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(axes[1])}</text></svg>'
        )

    def picture(self, image: Image.Image, caption: str) -> None:
        """Add a picture with its caption, at most 640 pixels wide and high, as JPEG."""
        small = image.convert("RGB")
        small.thumbnail((640, 640))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=85)
        data = base64.b64encode(file.getvalue()).decode()
        self._parts.append(
            f'<figure><img alt="" src="data:image/jpeg;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def html(self) -> str:
        """Return the whole page."""
        title = escape(self._title)
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
            f"{''.join(self._parts)}<script>{SORT}</script></body></html>\n"
        )


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").removesuffix("%").removesuffix(" "))
    except ValueError:
        return False
    return True


def _hex(colour: Colour) -> str:
    red, green, blue = colour
    return f"#{red:02x}{green:02x}{blue:02x}"
