"""Figures as people read and write them: durations, dollars, and numbers with two digits."""

from __future__ import annotations

import math

DURATION_UNITS = (
    ("us", 1e-6, 0.9995e-3),
    ("ms", 1e-3, 0.9995),
    ("s", 1.0, 99.5),
    ("min", 60.0, 5970.0),
    ("h", 3600.0, math.inf),
)


def duration(seconds: float | None) -> str:
    """Return a duration with two or three digits and a suitable unit.

    >>> [duration(s) for s in (4.2e-05, 0.38, 9.4, 61.2, 2460, 86400)]
    ['42 us', '380 ms', '9.4 s', '61 s', '41 min', '24 h']
    """
    if seconds is None:
        return "-"
    unit, size = next((unit, size) for unit, size, most in DURATION_UNITS if seconds < most)
    return f"{digits(seconds / size)} {unit}"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def digits(number: float) -> str:
    """Return a number with two significant digits, and all digits before the point."""
    return (
        f"{number:,.0f}"
        if number >= 9.95
        else f"{number:.1f}"
        if number >= 0.95
        else f"{number:.2g}"
    )


def money(dollars: float) -> str:
    """Return dollars with two significant digits, or with cents.

    >>> [money(d) for d in (0.00042, 0.0555, 2.5, 1234.5)]
    ['0.00042', '0.056', '2.50', '1,234.50']
    """
    if dollars >= 1:
        return f"{dollars:,.2f}"
    digits = 2
    while dollars and digits < 8 and dollars < 10 ** (1 - digits):
        digits += 1
    return f"{dollars:.{digits}f}"
