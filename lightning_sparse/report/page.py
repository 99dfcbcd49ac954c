"""HTML of a self-contained page: no network, no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; } th:first-child, td:first-child { text-align: left; }
th { border-bottom: 1px solid #999; } tr.differs td { font-weight: 600; } td { overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: .9rem; }
.scroll { overflow-x: auto; } summary { cursor: pointer; }
"""


def page(title: str, body: Sequence[str]) -> str:
    """Return a whole page.

    Args:
        title: Title, plain text.
        body: Sections, HTML.
    """
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def section(title: str, *content: str) -> str:
    """Return a section, or nothing if it has no content."""
    parts = [part for part in content if part]
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>" if parts else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool] | None = None) -> str:
    """Return a table, or nothing if it has no rows.

    Args:
        head: Titles of the columns.
        rows: Cells, plain text.
        marked: Whether each row stands out; default: none does.
    """
    if not rows:
        return ""
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = []
    for row, mark in zip(rows, marked or [False] * len(rows), strict=True):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f'<tr class="differs">{cells}</tr>' if mark else f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><tr>{titles}</tr>\n' + "\n".join(lines) + "\n</table></div>"


def note(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def figure_grid(figures: Sequence[str]) -> str:
    """Return figures beside each other, or nothing if there are none."""
    return '<div class="pictures">' + "\n".join(figures) + "</div>" if any(figures) else ""


def figure_html(figure: Figure, caption: str) -> str:
    """Return a figure as an image in the page."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return _image(content.getvalue(), caption)


def image_html(file: Path, caption: str) -> str:
    """Return a PNG file as an image in the page."""
    return _image(file.read_bytes(), caption)


def _image(content: bytes, caption: str) -> str:
    text = base64.b64encode(content).decode("ascii")
    escaped = escape(caption, quote=True)
    return (
        f'<figure><img alt="{escaped}" src="data:image/png;base64,{text}"><figcaption>{escaped}</figcaption></figure>'
    )


def folded(title: str, content: str) -> str:
    """Return content that is shown on a click, or nothing if it is empty."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>" if content else ""
