"""Checks of settings: numbers, counts, flags, choices and parts, refused by name before anything runs.

Each check takes the name of the caller's argument and its value, returns the value, and raises ``ValueError`` with the
name, the condition and the value. Numbers are finite; a bool is no number, and a fraction no count. The name may go on
in apposition: ``check_count("first, the samples of the first stage,", first)``; ``note`` adds the unit or a remedy.
"""

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from mimetypes import MimeTypes
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from common.naming.nearest import did_you_mean
from common.units import parse_number

T = TypeVar("T")


class MissingFileError(FileNotFoundError, ValueError):
    """Setting that names a file which does not exist."""


_BOUNDS: dict[str, tuple[str, Callable[[Any, float], bool]]] = {
    "above": (">", operator.gt),
    "at_least": (">=", operator.ge),
    "below": ("<", operator.lt),
    "at_most": ("<=", operator.le),
}

SHORTEST = 2.0**-30
"""Shortest length in pixel units: a sixty-fourth of the spacing of float32 numbers below 1."""

LEAST = 2.0**-126
"""Least normal number of float32: networks and attacks read anything less as 0."""

MOST = 2.0**63
"""Largest size of a number: float32 holds its square, and reads the square of anything more as infinite."""

NOISIEST = 5.0
"""Largest noise level of an image, in pixel units; levels of 0..255 units are above it."""

SEEDS = 2**63
"""Seeds of ``Noise`` are below it."""

COUNTS = 2**63 - 1
"""The largest count: PyTorch's integers hold no more."""

SIZES = 1_000_000
"""The largest size of something that is built in memory; no network, grid or batch comes near it."""


def check_number(name: str, value: Any, note: str = "", **bounds: float) -> float:
    """A finite number within the ``bounds``, any of ``above``, ``at_least``, ``below`` and ``at_most``."""
    plain = isinstance(value, Real) and not isinstance(value, bool) and is_finite(value)
    if not plain or not all(_BOUNDS[kind][1](value, bound) for kind, bound in bounds.items()):
        limits = " and ".join(f"{_BOUNDS[kind][0]} {bound:g}" for kind, bound in bounds.items())
        raise ValueError(refusal(name, f"a finite number {limits}".rstrip(), value, note))
    if abs(value) > MOST:
        raise ValueError(refusal(name, f"at most {MOST:.3g} in size, whose square float32 holds", value, note))
    return value  # type: ignore[no-any-return]


def is_finite(value: Any) -> bool:
    """True for a number that a float holds, up to rounding; an integer may be larger than all floats."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_positive(name: str, value: Any, note: str = "") -> float:
    """A finite number above 0, also in float32."""
    if check_number(name, value, above=0, note=note) < LEAST:
        raise ValueError(refusal(name, f"at least {LEAST:.3g}, else it is 0 in float32", value, note))
    return value  # type: ignore[no-any-return]


def check_not_negative(name: str, value: Any, note: str = "") -> float:
    """A finite number of at least 0."""
    return check_number(name, value, at_least=0, note=note)


def check_fraction(name: str, value: Any, note: str = "") -> float:
    """A number from 0 to 1."""
    return check_number(name, value, at_least=0, at_most=1, note=note)


def check_ratio(name: str, value: Any, note: str = "") -> float:
    """A finite number, or a ratio as the field writes it, as a float: ``"8/255"``."""
    parsed = _parsed(name, value, note)
    if not math.isfinite(parsed):
        raise ValueError(refusal(name, "a finite number or a ratio such as 8/255", value, note))
    check_number(name, parsed, note)
    return parsed


def check_length(name: str, value: Any, note: str = "") -> float:
    """A finite length in pixel units above 0, which float32 pixels resolve, a number or a ratio, as a float."""
    length = _parsed(name, value, note)
    if 0 < length < SHORTEST:
        raise ValueError(refusal(name, f"at least {SHORTEST:.3g}, else no pixel changes in float32", value, note))
    if not 0 < length < math.inf:
        raise ValueError(refusal(name, "above 0, in pixel units", value, note))
    return check_number(name, length, note)


def check_noise_level(name: str, value: Any, zero: bool = False) -> float:
    """Standard deviation of the noise in an image, in pixel units and at most `NOISIEST`, as a float; 0 if ``zero``."""
    if zero and (level := check_ratio(name, value)) == 0:
        return level
    level = check_length(name, value)
    if level > NOISIEST:
        remedy = f"Write {value}/255" if isinstance(value, Real) else ""
        raise ValueError(refusal(name, f"in pixel units of [0,1], at most {NOISIEST:g}", value, remedy))
    return level


def _parsed(name: str, value: Any, note: str) -> float:
    """A number or a ratio as a float."""
    plain = isinstance(value, Real | str) and not isinstance(value, bool)
    try:
        return parse_number(value if plain else "")
    except ValueError as error:
        raise ValueError(refusal(name, "a number or a ratio such as 8/255", value, note)) from error


def check_count(name: str, value: Any, at_least: int = 1, at_most: float = COUNTS, note: str = "") -> int:
    """An integer of at least ``at_least`` and at most ``at_most``, which is named where it matters."""
    plain = isinstance(value, Integral) and not isinstance(value, bool)
    if not plain or not at_least <= value <= at_most:
        named = at_most < COUNTS or (plain and value > at_most)
        bounds = f">= {at_least}" + (f" and <= {at_most:g}" if named else "")
        raise ValueError(refusal(name, f"an integer {bounds}", value, note))
    return value  # type: ignore[no-any-return]


def check_size(name: str, value: Any, at_least: int = 1, note: str = "") -> int:
    """A count of what is built in memory, such as layers, channels, classes or steps: at most a million."""
    huge = isinstance(value, Integral) and int(value) > SIZES  # the limit is named to those who meet it
    return check_count(name, value, at_least, SIZES if huge else COUNTS, note)


def check_seed(name: str, value: Any, limit: int = SEEDS) -> int:
    """A seed in 0 .. limit - 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < limit:
        raise ValueError(refusal(name, f"an integer in 0 .. 2^{limit.bit_length() - 1} - 1", value))
    return value  # type: ignore[return-value]


def check_flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(refusal(name, "True or False", value))
    return value


def check_text(name: str, value: Any, note: str = "") -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(refusal(name, "a text that is not empty", value, note))
    return value


def check_path(name: str, value: Any, note: str = "") -> Path:
    """A path, with ``~`` replaced by the home folder."""
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(refusal(name, "a path", value, note))
    return Path(value).expanduser()


def check_folder(name: str, value: Any) -> Path:
    """The path of a folder, `check_path`; a new one may not look like a file, see `is_file_name`."""
    path = check_path(name, value)
    if is_file_name(path):
        raise ValueError(refusal(name, "a folder", value, f"Write {path.with_suffix('')}"))
    return path


def is_file_name(path: Path) -> bool:
    """True for a path with an ending of files, ``rows.csv``, and not ``v1.2``; False for a folder that exists."""
    return MimeTypes().guess_type(path.name)[0] is not None and not path.is_dir()


def check_one_of(name: str, value: T, choices: Collection[Any], alternative: str = "") -> T:
    """One of the ``choices``, by equality and type."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        advice = did_you_mean(value, [one for one in choices if isinstance(one, str)]) if isinstance(value, str) else ""
        raise ValueError(refusal(name, f"one of {', '.join(map(str, choices))}{alternative}", value, advice.strip()))
    return value


def check_part(name: str, value: T, kind: Any, what: str = "", note: str = "") -> T:
    """An instance of ``kind``; ``what`` describes one, by default by the name of the class."""
    if isinstance(value, type) or not isinstance(value, kind):
        described = what or f"a {getattr(kind, '__name__', kind)}"
        raise ValueError(refusal(name, described, value, note))
    return value


def check_function(name: str, value: T, what: str = "a function") -> T:
    """A callable that is no class."""
    if isinstance(value, type) or not callable(value):
        raise ValueError(refusal(name, what, value))
    return value


def check_sequence(
    name: str, value: Any, check: Callable[[str, Any], Any], at_least: int = 1, note: str = ""
) -> list[Any]:
    """A list or tuple of at least ``at_least`` entries that pass ``check(name, entry)``."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) < at_least:
        raise ValueError(refusal(name, f"a list of at least {at_least}" if at_least else "a list", value, note))
    return [check(f"each of {name}", entry) for entry in value]


def check_mapping(name: str, value: Any, note: str = "") -> Mapping[str, Any]:
    """A mapping whose keys are texts."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(refusal(name, "a mapping of names to values", value, note))
    return value


def check_optional(check: Callable[..., T], name: str, value: Any, *bounds: Any, **named: Any) -> T | None:
    """None, or a value that passes ``check(name, value, ...)``."""
    return None if value is None else check(name, value, *bounds, **named)


def refusal(name: str, wanted: str, value: Any, note: str = "") -> str:
    """The message of a refused setting."""
    plain = value is None or isinstance(value, str | int | float | list | tuple | dict)
    got = repr(value) if plain else f"the class {value.__name__}" if isinstance(value, type) else _kind(value)
    return f"{name} must be {wanted}; got {got if len(got) <= 200 else _kind(value)}" + (f". {note}" if note else "")


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
