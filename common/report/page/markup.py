"""HTML of the report's parts: text, sections, tables, figures, grids of images."""

import base64
from collections.abc import Iterable
from dataclasses import replace
from html import escape

from common.records.schema import AttackedRecord
from common.report.figures.drawing import LIGHT, Figure, darkened, to_svg
from common.report.figures.image_grids import COARSE, Grid
from common.report.tables.table import Entry, Table, as_cell

IN_LINE = 4  # columns with intervals beside the number; with more they stand below it
NARROW = 3.9  # inches; a phone in portrait shows about 360 CSS pixels


def text(words: str) -> str:
    """Escaped text, for tags and attributes; control characters, which are invalid in a page, become spaces."""
    shown = escape("".join(character if character.isprintable() or character == "\n" else " " for character in words))
    return shown.replace(" ≤ ", "\u00a0≤\u00a0").replace("&lt; 0.0001", "&lt;\u00a00.0001")


def section(title: str, *parts: str) -> str:
    """A section with its heading; empty where all its parts are."""
    return f"<section>\n<h2>{text(title)}</h2>\n{''.join(parts)}</section>\n" if any(parts) else ""


def details(summary: str, body: str, opened: bool = False) -> str:
    """Details that unfold at a click."""
    state = ' open="open"' if opened else ""
    return f"<details{state}>\n<summary>{text(summary)}</summary>\n{body}</details>\n" if body else ""


def aside(title: str, sentences: Iterable[tuple[str, str]], kind: str = "") -> str:
    """A list of (name, sentence) set apart; empty where the list is."""
    items = "".join(f"<li>{f'<b>{text(name)}.</b> ' if name else ''}{text(words)}</li>\n" for name, words in sentences)
    look = f' class="{kind}"' if kind else ""
    return (
        f'<aside{look} aria-label="{text(title)}">\n<h2>{text(title)}</h2>\n<ul>\n{items}</ul>\n</aside>\n'
        if items
        else ""
    )


def table(shown: Table) -> str:
    """A table with its notes; the notes alone without rows.

    Roles are written out because browsers drop them in the narrow layout, which stacks the cells.
    """
    notes = "".join(f"<li>{text(note)}</li>\n" for note in shown.notes)
    below = f'<ul class="notes">\n{notes}</ul>\n' if notes else ""
    if not shown.rows:
        return below
    heads = "".join(
        f'<th role="columnheader" scope="col"{_side(shown, place)}>{text(column)}</th>'
        for place, column in enumerate(shown.columns)
    )
    rows = "".join(f'<tr role="row">{_row(shown, number)}</tr>\n' for number in range(len(shown.rows)))
    label = text(shown.title)
    cells = [list(map(as_cell, row)) for row in shown.rows]
    noted = sum(any(row[place].note for row in cells) for place in range(len(shown.columns)))
    kind = "numbers prose" if shown.prose else "numbers line" if noted <= IN_LINE else "numbers"
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0">\n<table class="{kind}" role="table">\n'
        f'<caption>{label}</caption>\n<thead role="rowgroup"><tr role="row">{heads}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{rows}</tbody>\n</table>\n</div>\n{below}'
    )


def _side(shown: Table, place: int) -> str:
    return "" if place < shown.names or shown.prose else ' class="n"'


def _row(shown: Table, number: int) -> str:
    row, above = shown.rows[number], shown.rows[number - 1] if number else []
    cells = []
    for place, entry in enumerate(row[: shown.names]):
        again = row[: place + 1] == above[: place + 1] and place < len(row) - 1
        kind = "again" if again and place < shown.names - 1 else "name" if place == 0 else f"about about{place}"
        tag, scope = ("th", ' scope="row"') if place == 0 else ("td", "")
        role = "rowheader" if place == 0 else "cell"
        cells.append(f'<{tag} role="{role}"{scope} class="{kind}"><span>{text(str(entry))}</span></{tag}>')
    return "".join(cells) + "".join(map(_cell, shown.columns[shown.names :], row[shown.names :]))


def _cell(column: str, entry: Entry) -> str:
    start = f'<td role="cell" data-label="{text(column)}" class="n'
    if entry is None:
        return f'{start} none">–</td>'
    cell = as_cell(entry)
    words = f"<b>{text(cell.text)}</b>" if cell.strong else text(cell.text)
    return (
        f'{start}"><span>{words} <small>{text(cell.note)}</small></span></td>'
        if cell.note
        else f'{start}">{words}</td>'
    )


def figure(shown: Figure) -> str:
    """A figure in four versions: wide and narrow, light and dark."""
    wide, narrow, caption = shown.light, to_svg(shown.draw, replace(LIGHT, width=NARROW)), text(shown.caption)
    phone, dark = "(max-width: 40rem)", "(prefers-color-scheme: dark)"
    choices = [(f"{phone} and {dark}", darkened(narrow)), (phone, narrow), (dark, darkened(wide))]
    sources = "".join(f'<source media="{media}" srcset="{_svg(svg)}" />\n' for media, svg in choices)
    image = f'<img src="{_svg(wide)}" alt="{caption}" />'
    return f"<figure>\n<picture>\n{sources}{image}\n</picture>\n<figcaption>{caption}</figcaption>\n</figure>\n"


def _svg(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def strip(title: str, grid: Grid) -> str:
    """A grid of images as a table, one column per image, with prediction and label under each view."""
    heads = "".join(f'<th scope="col">class {record.label}</th>' for record in grid.records)
    rows = "".join(
        f'<tr><th scope="row">{text(grid.title(view))}</th>'
        f"{''.join(_thumbnail(grid, record, view) for record in grid.records)}</tr>\n"
        for view in grid.views
    )
    shares = "".join(f"<td>{_share(record)}</td>" for record in grid.records)
    return (
        f'<div class="wide" role="region" aria-label="Images of {text(title)}" tabindex="0">\n<table class="strip">\n'
        f"<caption>{text(title)}</caption>\n<thead><tr><td></td>{heads}</tr></thead>\n<tbody>\n{rows}"
        f'<tr class="share"><th scope="row">correct decisions</th>{shares}</tr>\n</tbody>\n</table>\n</div>\n'
    )


def _share(record: AttackedRecord) -> str:
    return f"{sum(record.correct)} of {len(record.predictions)}"


def _thumbnail(grid: Grid, record: AttackedRecord, view: str) -> str:
    png = grid.png(record, view)
    if not png:
        return "<td></td>"
    width = int.from_bytes(base64.b64decode(png[:32])[16:20], "big")  # bytes 16 to 19 of a PNG
    look = ' class="coarse"' if width <= COARSE else ""
    alt = text(f"image {record.index}, class {record.label}, {grid.title(view)}")
    caption, correct = grid.caption(record, view)
    kind = {True: "correct", False: "wrong", None: "plain"}[correct]
    image = f'<img{look} src="data:image/png;base64,{text(png)}" alt="{alt}" />'
    return f'<td>{image}<span class="{kind}">{text(caption)}</span></td>'
