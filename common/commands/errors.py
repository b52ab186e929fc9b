"""Errors of the user, printed in at most five lines."""

import textwrap

from common.naming.outside_text import plain

LINES, WIDTH = 5, 200
DEBUG = "ROBUST_DIFFUSION_DEBUG"


class UsageError(ValueError):
    """Wrong command, option or configuration; the message names the remedy."""


def concise(message: str, width: int = WIDTH) -> str:
    """The message in at most five lines of ``width`` characters; what is cut off is in the traceback."""
    lines = [part for line in plain(message).strip().splitlines() for part in _wrapped(line.strip(), width)]
    if len(lines) <= LINES:
        return "\n".join(lines)
    return "\n".join([*lines[: LINES - 1], f"… ({DEBUG}=1 prints all of it)"])


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
