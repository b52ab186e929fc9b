"""Markers in a page of Markdown, outside of its code: their places, words and indentation."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

LISTS = r"(?:[-*+]|\d{1,9}[.)])(?=[ \t])"
CONTAINERS = rf"[ \t]*(?:(?:>|{LISTS})[ \t]*)*"
FENCED = (
    rf"^{CONTAINERS}(?P<fence>(?P<sign>[`~])(?P=sign){{2,}})(?!(?P=sign))(?:(?<=~)[^\n]*|[^\n`]*)(?:\n|\Z)"
    r".*?(?P<closing>^[ \t>]*(?P=fence)(?P=sign)*[ \t]*$|\Z)"
)
NEW_BLOCK = rf"[ \t>]*(?:\n|\Z|<!--|\#|\||{LISTS}|`{{3}}|~{{3}})"  # begins where a paragraph ends, and code in it
SPAN = rf"(?<!`)(?P<ticks>`+)(?!`)(?:[^\n]|\n(?!{NEW_BLOCK}))+?(?<!`)(?P=ticks)(?!`)"
TOKENS = re.compile(rf"(?P<comment><!--.*?-->)|\\[^\w\s]|{FENCED}|{SPAN}", re.DOTALL | re.MULTILINE)

BLOCK = re.compile(r"<!-- (?:(table|figure) ([^\n]+?) -->[ \t]*\n|(value) ([^\n]+?) -->)(.*?)<!-- end -->", re.DOTALL)
OPENING = re.compile(r"<!--\s*(?:table|figure|value)\s")
UNFINISHED = re.compile(rf"{OPENING.pattern}|<!--\s*end\b")
LOOSE = re.compile(r"<!--\s*(?:(?:table|figure|value)(?=\s|-->)[^\n]*|end\s*-->[^\n]*)")


@dataclass(frozen=True)
class Marker:
    """One marker of a page with its content, ``text[start:end]``; ``place`` names its line.

    ``indent`` begins every line of what is written below it: that of its list item or quotation.
    """

    kind: str
    words: str
    place: str
    start: int
    end: int
    indent: str


def find_markers(text: str, page: str) -> Iterator[Marker]:
    """The markers of a page, in order.

    Raises ``ValueError`` for a marker without its end, an end without its marker, and fenced code without its end.
    """
    shown, end = without_code(text, page), 0
    for block in BLOCK.finditer(shown):
        _check_between(shown, end, block.start(), page)
        kind, words, place = block[1] or block[3], block[2] or block[4], _place(page, text, block.start())
        if found := UNFINISHED.search(block[5]):
            got = block[5][found.start() :].partition("\n")[0].strip()
            raise ValueError(f"{place}: <!-- {kind} {words} --> needs <!-- end --> before the next marker; got {got}")
        end = block.end()
        yield Marker(kind, words, place, block.start(), end, _indent(text, block.start()))
    _check_between(shown, end, len(shown), page)
    if not end:
        raise ValueError(
            f"{page} has no markers outside of code. Write <!-- table STUDY --> and, below it, <!-- end -->"
        )


def without_code(text: str, page: str = "the page") -> str:
    """The text with an x for each character of fenced code, of code in a line and of escapes; comments stay.

    Raises ``ValueError`` for markers in a fence that is not closed: the rest of the page would be code.
    """
    parts, end = [], 0
    for found in TOKENS.finditer(text):
        if found["fence"] and not found["closing"] and OPENING.search(found[0]):
            place = _place(page, text, found.start("fence"))
            raise ValueError(f"{place}: code must end with a line {found['fence']}, or the markers below are code")
        parts += [text[end : found.start()], found[0] if found["comment"] else re.sub(r"[^\n]", "x", found[0])]
        end = found.end()
    return "".join([*parts, text[end:]])


def _check_between(shown: str, start: int, end: int, page: str) -> None:
    """Raise ``ValueError`` for a marker outside of the blocks: what it encloses would stay as it is, unnoticed."""
    if found := LOOSE.search(shown, start, end):
        raise ValueError(
            f"{_place(page, shown, found.start())}: a marker must be <!-- table STUDY … --> or <!-- figure STUDY … -->"
            " on a line of its own, <!-- end --> below it, or <!-- value STUDY … --> with <!-- end --> in a line; got "
            f"{found[0].strip()}, which has no counterpart. Complete it, or write an example of it as code"
        )


def _place(page: str, text: str, position: int) -> str:
    return f"{page}, line {text.count(chr(10), 0, position) + 1}"


def _indent(text: str, position: int) -> str:
    """Begin of the lines that belong to the list item or quotation of a position: spaces, and > of a quotation."""
    found = re.compile(CONTAINERS).match(text, text.rfind("\n", 0, position) + 1, position)
    return re.sub(r"[^>\s]", " ", found[0]) if found else ""
