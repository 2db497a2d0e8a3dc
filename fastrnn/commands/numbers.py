"""Numbers on the command line, as `type=` of argparse: what is wrong with one is said in one line."""

import argparse
import math


def integer(value: str, least: int = 1, most: int | None = None) -> int:
    """A whole number of that range."""
    try:
        number = int(value)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {value!r}")
    if most is not None and number > most:
        raise argparse.ArgumentTypeError(f"expected an integer of at most {most}, got {value!r}")
    return number


def above_zero(value: str) -> float:
    """A finite number above 0."""
    number = _finite(value)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {value!r}")
    return number


def not_negative(value: str) -> float:
    """A finite number of at least 0."""
    number = _finite(value)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {value!r}")
    return number


def _finite(value: str) -> float:
    """The number, or NaN if there is none or it is not finite."""
    try:
        number = float(value)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
