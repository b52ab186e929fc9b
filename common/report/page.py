"""One self-contained HTML page: no script, no font and no picture from elsewhere; light and dark, wide and narrow."""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from html import escape

from common.report import protocol
from common.report.figures import DARK, LIGHT, Draw, Style, to_svg, view_names
from common.report.looks import CSS, READING
from common.report.runs import Run
from common.report.tables import Entry, Table, bounds, percent
from common.robustness.records import Record

Panel = tuple[Run, str, list[Record]]  # a run, an evaluator, and its records with pictures

NARROW = 3.9  # inches; a phone in portrait shows about 360 CSS pixels


def page(
    runs: Sequence[Run], tables: Sequence[Table], figures: Sequence[tuple[str, Draw]], panels: Sequence[Panel]
) -> str:
    """The page. ``figures`` are captions with what draws them; tables without rows are left out."""
    results = [_table(table) for table in tables if table.rows] + [_figure(*figure) for figure in figures]
    body = [
        _head(runs),
        _failed(runs),
        _section("Results", *results),
        _section("What the images look like", *(_strip(*panel) for panel in panels)),
        _section("How the numbers were made", *(_protocol(run) for run in runs)),
        _section("Checks for gradient masking", *(_checks(run) for run in runs if run.checks)),
        _section("How to read the numbers", READING),
    ]
    title = _text(", ".join(run.name for run in runs))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n'
        '<meta name="color-scheme" content="light dark" />\n'
        f"<title>Robustness report: {title}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(body)}</main>\n</body>\n</html>\n"
    )


def _head(runs: Sequence[Run]) -> str:
    counts = sorted({summary.n for run in runs for summary in run.summaries}) or [0]
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    defences = f"{len(runs)} defence{'s' if len(runs) > 1 else ''}"
    return (
        f'<header>\n<p class="brand">robust-diffusion</p>\n<h1>Robustness report</h1>\n<p class="lead">{defences}, '
        f"{images} images each.{_lead(runs)} Every number is computed from the records of the runs.</p>\n</header>\n"
    )


def _lead(runs: Sequence[Run]) -> str:
    """The most robust defence, if there is a choice; one with a failed check does not lead."""
    sound = [run for run in runs if all(check.passed for check in run.checks)]
    found = [(summary.metrics["Avg"], run.name, summary.evaluator) for run in sound for summary in run.of_kind(1)]
    if len({name for _, name, _ in found}) < 2:
        return ""
    triple, name, evaluator = max(found)
    accuracy = f"{percent(triple[0])} % {bounds(triple)}"
    return f" Under attack <b>{_text(name)}</b> keeps most, {accuracy} of single queries ({_text(evaluator)})."


def _failed(runs: Sequence[Run]) -> str:
    failed = [(run, check) for run in runs for check in run.checks if not check.passed]
    if not failed:
        return ""
    items = "".join(
        f"<li><b>{_text(run.name)}, {_text(check.name)}.</b> {_text(check.sentence)}</li>\n" for run, check in failed
    )
    title = f"{len(failed)} check{'s' if len(failed) > 1 else ''} failed: read before trusting the numbers"
    return f'<aside aria-label="Failed checks">\n<h2>{title}</h2>\n<ul>\n{items}</ul>\n</aside>\n'


def _section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{''.join(parts)}</section>\n" if any(parts) else ""


def _table(table: Table) -> str:
    """Roles are written out because the narrow layout stacks the cells, and browsers then forget them."""
    heads = "".join(f'<th role="columnheader" scope="col">{_text(column)}</th>' for column in table.columns)
    rows = "".join(f'<tr role="row">{_row(table, number)}</tr>\n' for number in range(len(table.rows)))
    label = _text(table.title)
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0">\n<table class="numbers" role="table">\n'
        f'<caption>{label}</caption>\n<thead role="rowgroup"><tr role="row">{heads}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{rows}</tbody>\n</table>\n</div>\n'
    )


def _row(table: Table, number: int) -> str:
    name, evaluation, *rest = table.rows[number]
    kind = "again" if number and table.rows[number - 1][0] == name else "name"
    first = f'<th role="rowheader" scope="row" class="{kind}">{_text(str(name))}</th>'
    second = f'<td role="cell" class="evaluation">{_text(str(evaluation))}</td>'
    return first + second + "".join(map(_cell, table.columns[2:], rest))


def _cell(column: str, entry: Entry) -> str:
    start = f'<td role="cell" data-label="{_text(column)}" class="n'
    if isinstance(entry, tuple):
        return f'{start}"><span><b>{percent(entry[0])}</b> <small>{bounds(entry)}</small></span></td>'
    return f'{start} none">–</td>' if entry is None else f'{start}">{_text(str(entry))}</td>'


def _figure(caption: str, draw: Draw) -> str:
    phone, dark = "(max-width: 40rem)", "(prefers-color-scheme: dark)"
    sources = "".join(
        f'<source media="{media}" srcset="{_svg(draw, style)}" />\n'
        for media, style in [
            (f"{phone} and {dark}", replace(DARK, width=NARROW)),
            (phone, replace(LIGHT, width=NARROW)),
            (dark, DARK),
        ]
    )
    image = f'<img src="{_svg(draw, LIGHT)}" alt="{_text(caption)} The numbers are in the tables above." />'
    return f"<figure>\n<picture>\n{sources}{image}\n</picture>\n<figcaption>{_text(caption)}</figcaption>\n</figure>\n"


def _svg(draw: Draw, style: Style) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(to_svg(draw, style)).decode()}"


def _strip(run: Run, evaluator: str, records: list[Record]) -> str:
    heads = "".join(f'<th scope="col">class {record.label}</th>' for record in records)
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th>{"".join(_thumbnail(name, record) for record in records)}</tr>\n'
        for name in view_names(records)
    )
    label = f"{_text(run.name)}, {_text(evaluator)}"
    return (
        f'<div class="wide" role="region" aria-label="Images of {label}" tabindex="0">\n<table class="strip">\n'
        f"<caption>{label}</caption>\n<thead><tr><td></td>{heads}</tr></thead>\n<tbody>\n{rows}"
        f'<tr><th scope="row">read as</th>{"".join(map(_verdict, records))}</tr>\n</tbody>\n</table>\n</div>\n'
    )


def _thumbnail(name: str, record: Record) -> str:
    png = record.values["images"].get(name)
    if not png:
        return "<td></td>"
    width = int.from_bytes(base64.b64decode(png[:32])[16:20], "big")  # where a PNG states it
    look = ' class="coarse"' if width <= 64 else ""
    alt = _text(f"image {record.index}, class {record.label}, {name}")
    return f'<td><img{look} src="data:image/png;base64,{_text(png)}" alt="{alt}" /></td>'


def _verdict(record: Record) -> str:
    guess = record.values["predictions"][0]
    return f'<td class="right">{guess} ✓</td>' if guess == record.label else f'<td class="wrong">{guess} ✗</td>'


def _protocol(run: Run) -> str:
    defence = protocol.defence(run)
    first = f"<p>Defence: <code>{_text(defence)}</code></p>\n" if defence else ""
    items = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>\n" for name, text in protocol.evaluations(run))
    listed = f"<dl>\n{items}</dl>\n" if items else "<p>This run has not recorded any image yet.</p>\n"
    config = _text(json.dumps(run.config, indent=1, sort_keys=True, ensure_ascii=False))
    return (
        f"<article>\n<h3>{_text(run.name)}</h3>\n{first}{listed}<details>\n"
        f"<summary>Configuration, fingerprint {_text(run.fingerprint[:16])}</summary>\n<pre>{config}</pre>\n"
        "</details>\n</article>\n"
    )


def _checks(run: Run) -> str:
    passed = sum(check.passed for check in run.checks)
    items = "".join(
        f'<li class="{"right" if check.passed else "wrong"}">{"✓" if check.passed else "✗"} '
        f"<b>{_text(check.name)}.</b> <span>{_text(check.sentence)}</span></li>\n"
        for check in run.checks
    )
    state = "" if passed == len(run.checks) else ' open="open"'
    summary = f"<summary>{_text(run.name)}: {passed} of {len(run.checks)} passed</summary>"
    return f'<details{state}>\n{summary}\n<ul class="checks">\n{items}</ul>\n</details>\n'


def _text(text: str) -> str:
    """Safe between tags and in attributes; control characters, which no page may hold, become spaces."""
    return escape("".join(character if character.isprintable() or character == "\n" else " " for character in text))
