"""Pages in Markdown that hold tables, figures and numbers of studies, between markers, written anew from the records.

    <!-- table STUDY [NAME] [| COLUMN …] [| rows: NAME; …] [| reference: RUN] -->
    <!-- end -->
    <!-- figure STUDY [NAME] -->
    <!-- end -->
    words <!-- value STUDY NAME | COLUMN | row: NAME; … [| reference: RUN] --><!-- end --> and more words

STUDY is the name of a folder of records. A table is the headline if no other is named; ``rows`` keeps those that one of
the names identifies, and ``reference`` is the run that all others are compared with. A figure is that of the study if
no other is named; its files are in ``figures`` beside the page, for a light and for a dark page. A value is an entry of
a table: of one column, in the one row that all names of ``row`` identify. Markers in code are examples, which stay.
"""

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
from common.report.markdown import escaped, markdown, part_of
from common.report.marker_settings import read_settings
from common.report.markers import Marker, find_markers
from common.report.named_tables import COMPARED, HEADLINE, TABLES
from common.report.pairing import Pairing
from common.report.studies import RecordedStudy
from common.report.tables.comparisons import run_table
from common.report.tables.table import Table, as_cell

FOLDER = "figures"


@dataclass
class Written:
    """A page as it must be: its ``text``, and the ``figures`` beside it by name."""

    text: str
    figures: dict[str, bytes] = field(default_factory=dict)


def write_into(page: Path, studies: Sequence[RecordedStudy], check: bool = False) -> list[Path]:
    """Write the tables and figures of a page anew, and return the files that changed, or would change if ``check``.

    Figures that another version of matplotlib drew do not differ if ``check``. Raises ``ValueError`` for a page without
    markers, for a marker without its end or an end without its marker, for a marker that names no study, table, figure,
    column or row, or has settings that it does not take, and for two studies of one name.
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
    for marker in find_markers(text, page):
        try:
            content = _content(marker, studies, made.figures)
        except ValueError as error:
            raise ValueError(f"{marker.place}, <!-- {marker.kind} {marker.words} -->: {error}") from error
        made.text += f"{text[end : marker.start]}<!-- {marker.kind} {marker.words} -->{content}<!-- end -->"
        end = marker.end
    made.text += text[end:]
    return made


def _content(marker: Marker, studies: Mapping[str, RecordedStudy], figures: dict[str, bytes]) -> str:
    """Text between a marker and its end; lines of tables and figures are indented as the marker."""
    if marker.kind == "value":
        return _of_table(marker.kind, marker.words, studies)
    figure = marker.kind == "figure"
    body = _figure(marker.words, studies, figures) if figure else _of_table(marker.kind, marker.words, studies)
    lines = (f"{marker.indent}{line}" if line else marker.indent.rstrip() for line in ["", *body.splitlines(), ""])
    return "\n".join(["", *lines, marker.indent])


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
    return escaped(f"{cell.text}{' %' if isinstance(entry, tuple) else ''} {cell.note}")


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
