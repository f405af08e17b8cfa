"""Parts of a page: escaped text, tables that scroll, figures with a caption, embedded pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from supertickets.images import read_image

PICTURE_PX = 900  # longest side of a picture inside a page


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, texts: bool = False, raw: bool = False) -> str:
    """A table whose first column names its rows; it scrolls if it is too wide. `raw`: the cells are already HTML."""
    shown = (lambda cell: cell) if raw else escape
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(
        f'<tr><th scope="row">{shown(first)}</th>{"".join(f"<td>{shown(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    kind = ' class="texts"' if texts else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table{kind}><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def details(summary: str, content: str) -> str:
    """Content that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}</details>"


def figure(caption: str, content: str) -> str:
    """A chart with its caption, which is also its name for screen readers."""
    return f'<figure role="group" aria-label="{escape(caption)}"><figcaption>{escape(caption)}</figcaption>\n{content}</figure>'


def picture(path: Path, caption: str) -> str:
    """A picture as part of the page, reduced if it is large."""
    image = Image.fromarray(read_image(path))
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    data = io.BytesIO()
    image.save(data, "WEBP", quality=80)
    source = base64.b64encode(data.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return figure(caption, f'<img alt="{escape(caption)}" {size} src="data:image/webp;base64,{source}">')


def tiles(figures: Mapping[str, tuple[str, str]]) -> str:
    """Large figures: label -> the figure, and a remark below it."""
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd><strong>{escape(text)}</strong>{escape(remark)}</dd></div>"
        for name, (text, remark) in figures.items()
    )
    return f'<dl class="tiles">{shown}</dl>'


def numbered(number: int, name: str, *, series: int) -> str:
    """The number of a run in its colour, and its name."""
    return f'<span class="number" style="background:var(--series-{(number - 1) % series})">{number}</span>{escape(name)}'
