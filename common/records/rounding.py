"""Rounding of stored floats to six significant digits."""

from decimal import ROUND_FLOOR, Context

DIGITS = 6  # significant digits: what float32 carries


def rounded(value: float) -> float:
    """Nearest number of `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def rounded_down(value: float) -> float:
    """Largest number of `DIGITS` significant digits that is at most ``value``, for lower bounds."""
    return float(Context(prec=DIGITS, rounding=ROUND_FLOOR).create_decimal(repr(float(value))))
