"""Jinja2 environment of the page: every value is escaped, and strict about names."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.report.figures.drawing import darkened
from common.report.page.cells import address, fits_a_line, is_coarse, named
from common.report.tables.table import as_cell

TEMPLATES = Path(__file__).parent / "templates"
INTERVAL = re.compile(r"\[(\S{1,9}), (\S{1,9})\]")


@cache
def environment() -> Environment:
    """The environment with the functions that the templates call."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    made.globals.update(as_cell=as_cell, fits_a_line=fits_a_line, is_coarse=is_coarse, named=named)
    made.globals.update(address=address, darkened=darkened)
    return made


def printable(value: Any) -> Any:
    """A value as it is written: control characters, which are invalid in a page, become spaces.

    Numbers stay on one line: ``"eps ≤ 8/255"``, ``"< 0.0001"``, ``"5 %"`` and ``"[1.0, 2.0]"`` have spaces that do not
    break.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    if not value.isprintable():
        value = "".join(character if character.isprintable() or character == "\n" else " " for character in value)
    value = value.replace(" ≤ ", "\u00a0≤\u00a0").replace("< 0.0001", "<\u00a00.0001").replace(" %", "\u00a0%")
    return INTERVAL.sub("[\\1,\u00a0\\2]", value)
