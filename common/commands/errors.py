"""Errors of the user, printed in at most five lines."""

import textwrap

from common.files.errors import FileError
from common.naming.outside_text import plain

LINES, WIDTH = 5, 200
DEBUG = "ROBUST_DIFFUSION_DEBUG"


class UsageError(ValueError):
    """Wrong command, option or configuration; the message names the remedy."""


def text_of(error: Exception, command: str) -> str:
    """Message of an error; of one of the system with the file and the command in whose course it occurred."""
    if not isinstance(error, OSError) or isinstance(error, FileError) or not error.strerror:
        return str(error)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if not names:
        return f"{command} could not read or write a file: {error.strerror} ({DEBUG}=1 shows where)"
    return f"{command} could not read or write {' or '.join(names)}: {error.strerror}"


def concise(message: str, width: int = WIDTH) -> str:
    """The message in at most five lines of ``width`` characters; what is cut off is in the traceback."""
    lines = [part for line in plain(message).strip().splitlines() for part in _wrapped(line.strip(), width)]
    if len(lines) <= LINES:
        return "\n".join(lines)
    return "\n".join([*lines[: LINES - 1], f"… ({DEBUG}=1 prints all of it)"])


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
