"""Pages in Markdown that hold tables, figures and numbers of studies, between markers, written anew from the records.

    <!-- table STUDY [NAME] [| COLUMN …] [| rows: NAME; …] [| reference: RUN] -->
    <!-- end -->
    <!-- figure STUDY [NAME] -->
    <!-- end -->
    words <!-- value STUDY NAME | COLUMN | row: NAME; … [| reference: RUN] --><!-- end --> and more words

STUDY is the name of a folder of records. A table is the headline if no other is named; ``rows`` keeps those that one of
the names identifies, and ``reference`` is the run that all others are compared with. A figure is that of the study if
no other is named; its files are in ``figures`` beside the page, for a light and for a dark page. A value is an entry of
a table: of one column, in the one row that all names of ``row`` identify.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from common.experiments.yaml_files import read_text
from common.files.replacing import write_all
from common.report.contents import figure_name
from common.report.figures.convergence import convergence
from common.report.figures.drawing import darkened, drawn_by
from common.report.figures.of_results import result_figures
from common.report.markdown import markdown, part_of
from common.report.marker_settings import read_settings
from common.report.named_tables import COMPARED, HEADLINE, TABLES
from common.report.pairing import Pairing
from common.report.studies import RecordedStudy
from common.report.tables.comparisons import run_table
from common.report.tables.table import Table, as_cell

FOLDER = "figures"
BLOCK = re.compile(r"<!-- (?:(table|figure) ([^\n]+?) -->[ \t]*\n|(value) ([^\n]+?) -->)(.*?)<!-- end -->", re.DOTALL)
OPENING = re.compile(r"<!--\s*(table|figure|value)\s")
LOOSE = re.compile(r"<!--\s*(?:table|figure|value|end)\b[^\n]*")


@dataclass
class Written:
    """A page as it must be: its ``text``, and the ``figures`` beside it by name."""

    text: str
    figures: dict[str, bytes] = field(default_factory=dict)


def write_into(page: Path, studies: Sequence[RecordedStudy], check: bool = False) -> list[Path]:
    """Write the tables and figures of a page anew, and return the files that changed, or would change if ``check``.

    Figures that another version of matplotlib drew do not differ if ``check``. Raises ``ValueError`` for a page without
    markers, for a marker without its end or an end without its marker, for a marker that names no study, table, figure,
    column or row, and for two studies of one name.
    """
    if not page.is_file():
        raise ValueError(
            f"there is no page {page}. Write one with markers such as <!-- table STUDY --> and <!-- end -->"
        )
    names = [one.name for one in studies]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"each study must be in one folder of records; {', '.join(twice)} is in several. Leave one out"
        )
    content = read_text(page)
    line_end = "\r\n" if "\r\n" in content else "\n"
    before = content.replace("\r\n", "\n")
    made = filled(before, {one.name: one for one in studies}, str(page))
    contents: dict[Path, str | bytes] = {page.parent / FOLDER / name: svg for name, svg in made.figures.items()}
    changed = {path: svg for path, svg in contents.items() if isinstance(svg, bytes) and _differs(path, svg, check)}
    contents = {**changed, **({page: made.text.replace("\n", line_end)} if made.text != before else {})}
    if contents and not check:
        if changed:
            (page.parent / FOLDER).mkdir(exist_ok=True)
        write_all(contents, "write the tables of")
    return list(contents)


def filled(text: str, studies: Mapping[str, RecordedStudy], page: str) -> Written:
    """The page with what its markers ask for."""
    made, end = Written(""), 0
    for block in BLOCK.finditer(text):
        _check_between(text, end, block.start(), page)
        kind, words = block[1] or block[3], block[2] or block[4]
        place = _place(page, text, block.start())
        if OPENING.search(block[5]):
            raise ValueError(f"{place}: <!-- {kind} {words} --> needs a line <!-- end --> before the next marker")
        try:
            body = _figure(words, studies, made.figures) if kind == "figure" else _of_table(kind, words, studies)
        except ValueError as error:
            raise ValueError(f"{place}, <!-- {kind} {words} -->: {error}") from error
        body = body if kind == "value" else f"\n\n{body}\n"
        made.text += f"{text[end : block.start()]}<!-- {kind} {words} -->{body}<!-- end -->"
        end = block.end()
    _check_between(text, end, len(text), page)
    if not end:
        raise ValueError(f"{page} has no markers such as <!-- table STUDY --> and, below it, <!-- end -->")
    made.text += text[end:]
    return made


def _check_between(text: str, start: int, end: int, page: str) -> None:
    """Raise ``ValueError`` for a marker outside of the blocks: what it encloses would stay as it is, unnoticed."""
    if found := LOOSE.search(text, start, end):
        raise ValueError(
            f"{_place(page, text, found.start())}: a marker must be <!-- table STUDY … --> or <!-- figure STUDY … -->"
            " on a line of its own, <!-- end --> below it, or <!-- value STUDY … --> with <!-- end --> in a line; got "
            f"{found[0].strip()}, which has no counterpart"
        )


def _place(page: str, text: str, position: int) -> str:
    return f"{page}, line {text.count(chr(10), 0, position) + 1}"


def _of_table(kind: str, words: str, studies: Mapping[str, RecordedStudy]) -> str:
    """A table in Markdown, or one of its entries."""
    first, *parts = (part.strip() for part in words.split("|"))
    study, name = _named(first, studies, HEADLINE)
    if name not in TABLES:
        raise ValueError(f"there is no table {name}; tables are {', '.join(TABLES)}")
    asked = read_settings(kind, parts)
    made = _compared(study, name, asked.reference) if asked.reference else TABLES[name](study)
    table = part_of(made, asked.columns, asked.rows)
    if not table.rows:
        raise ValueError(f"the records of {study.name} have nothing for this table")
    return markdown(table) if kind == "table" else _value(table, asked.rows)


def _compared(study: RecordedStudy, name: str, reference: str) -> Table:
    """The table of every run against the ``reference``."""
    if name != COMPARED:
        raise ValueError(f"only the table {COMPARED} has a reference; got {name}. Leave the reference out")
    known = [run.name for run in study.runs]
    if reference not in known:
        raise ValueError(
            f"the reference must be one of the runs, {', '.join(known)}; got {reference}. Name one of them"
        )
    return run_table(study.runs, Pairing(reference))


def _value(table: Table, names: Sequence[str]) -> str:
    """The entry of the one row that all ``names`` identify."""
    found = [row for row in table.rows if {*names} <= {str(entry) for entry in row[: table.names]}]
    columns = len(table.columns) - table.names
    if columns != 1 or len(found) != 1 or not names:
        raise ValueError(f"a value needs one column and names of one row; got {columns} columns and {len(found)} rows")
    entry = found[0][-1]
    cell = as_cell(entry)
    if cell == as_cell(None):
        raise ValueError(
            f"a value must be an entry of the records; {', '.join(names)} has no {table.columns[-1]}. "
            "Name another row or column, or run that evaluation"
        )
    return f"{cell.text}{' %' if isinstance(entry, tuple) else ''} {cell.note}".strip()


def _figure(words: str, studies: Mapping[str, RecordedStudy], made: dict[str, bytes]) -> str:
    if "|" in words:
        raise ValueError("a figure must have neither columns nor rows. Write <!-- figure STUDY NAME -->")
    study, name = _named(words, studies, "")
    shown = [*study.figures, *result_figures(study.runs), *convergence(study.runs)]
    figures = {one.name: one for one in shown}
    name = name or next(iter(figures), "")
    if name not in figures:
        raise ValueError(f"there is no figure {name}; figures are {', '.join(figures)}")
    stem = figure_name(study.name, name)
    light = figures[name].light
    made |= {f"{stem}.svg": light, f"{stem}-dark.svg": darkened(light)}
    words = escape(figures[name].caption)
    return (
        f'<picture>\n<source media="(prefers-color-scheme: dark)" srcset="{FOLDER}/{stem}-dark.svg">\n'
        f'<img src="{FOLDER}/{stem}.svg" alt="{words}">\n</picture>\n'
    )


def _named(words: str, studies: Mapping[str, RecordedStudy], default: str) -> tuple[RecordedStudy, str]:
    """The study that a marker names, and the name behind it."""
    name, _, rest = words.strip().partition(" ")
    if name not in studies:
        raise ValueError(f"there are no records of {name}; studies are {', '.join(studies)}")
    return studies[name], rest.strip() or default


def _differs(path: Path, svg: bytes, check: bool) -> bool:
    """True of a figure that must be written; other versions of matplotlib place its points a little differently."""
    if not path.is_file():
        return True
    known = path.read_bytes()
    return known != svg and (not check or drawn_by(known) == drawn_by(svg))
