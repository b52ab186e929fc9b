"""The nearest known name to a mistyped one."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

CUTOFF, MARGIN = 0.6, 0.05  # least likeness of a suggestion, and its distance from the nearest one


def nearest(name: str, known: Iterable[str], count: int = 2) -> list[str]:
    """At most ``count`` known names that resemble ``name``, the nearest first; upper and lower case count as equal."""
    lower, typed = {one.lower(): one for one in reversed(list(known))}, name.lower()
    found = get_close_matches(typed, lower, n=count, cutoff=CUTOFF)
    likeness = [SequenceMatcher(None, typed, match).ratio() for match in found]
    return [lower[match] for match, like in zip(found, likeness, strict=True) if like > likeness[0] - MARGIN]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean NAME?`` with a leading space, or nothing if no known name resembles ``name``."""
    found = nearest(name, known)
    return f" Did you mean {' or '.join(found)}?" if found else ""
