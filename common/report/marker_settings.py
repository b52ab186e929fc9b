"""Settings of a marker in a page: its columns, the names of rows and the run of reference."""

from collections.abc import Sequence
from dataclasses import dataclass

ROW_KEYS = {"table": "rows", "value": "row"}
REFERENCE = "reference"


@dataclass(frozen=True)
class MarkerSettings:
    """``columns`` to show, in this order; names of ``rows``; the run ``reference``, "" if none is named."""

    columns: list[str]
    rows: list[str]
    reference: str


def read_settings(kind: str, parts: Sequence[str]) -> MarkerSettings:
    """Settings of a ``table`` or a ``value`` from the parts between its bars: columns, and ``KEY: NAME; …``.

    Raises ``ValueError`` for a key of the other kind, a key or a name that is given twice, and an empty name.
    """
    row_key, columns, keyed = ROW_KEYS[kind], list[str](), dict[str, str]()
    for part in parts:
        key, colon, names = (one.strip() for one in part.partition(":"))
        if not colon or key not in (*ROW_KEYS.values(), REFERENCE):
            columns.append(part)
            continue
        if key not in (row_key, REFERENCE):
            raise ValueError(f"the rows of a {kind} must be named by {row_key}:; got {part}. Write {row_key}: {names}")
        if key in keyed:
            raise ValueError(f"{key}: must be given once; got {keyed[key]} and {names}. Leave one out")
        keyed[key] = names
    rows = [name.strip() for name in keyed[row_key].split(";")] if row_key in keyed else []
    for what, given in (("column", columns), (f"name of {row_key}:", rows)):
        _check_names(what, given)
    if keyed.get(REFERENCE) == "":
        raise ValueError(f"{REFERENCE}: must be the name of a run; got nothing. Write it, or leave {REFERENCE}: out")
    return MarkerSettings(columns, rows, keyed.get(REFERENCE, ""))


def _check_names(what: str, names: Sequence[str]) -> None:
    if "" in names:
        raise ValueError(f"each {what} must be a text that is not empty; got an empty one. Write it, or leave it out")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"each {what} must be named once; got {', '.join(twice)} twice. Leave one out")
