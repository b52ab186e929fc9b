"""Text from outside (names of files and evaluators, first lines of studies) as text: no terminal codes, no formulas."""

import re
from typing import Any

_CODES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NUMBER = re.compile(r"[+-]?[\d.][\d.,eE+\-\s%\[\]]*")


def plain(text: str) -> str:
    """The text with terminal codes, changes of direction and undecodable bytes as escapes: ``\\x1b`` for ESC.

    Line feeds and tabs stay.
    """
    return _CODES.sub(lambda found: ascii(found[0])[1:-1], text)


def as_entry(value: object) -> object:
    """An entry of a spreadsheet: `plain`, with an apostrophe before what a program would calculate as a formula."""
    if not isinstance(value, str):
        return value
    value = plain(value)
    if value[:1] in ("=", "+", "-", "@", "\t", "\n") and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def accept_any_text(stream: Any) -> None:
    """Let a stream write characters that its encoding lacks as escapes, where it would raise an error."""
    if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
