"""Dates and random streams of the synthetic data: functions of the seed, independent of today."""

from __future__ import annotations

import datetime as dt
from enum import IntEnum

import numpy as np

LAST_WEEK = dt.date(2026, 6, 28)
DAY = np.timedelta64(1, "D")
AS_OF = dt.datetime(2026, 6, 29, 6, 0)  # UTC; later dates are in the future


class Stream(IntEnum):
    """One random stream per table, so that no table depends on the draws of another."""

    SEASON = 1
    PLACES = 2
    PRICES = 3
    SALES = 4
    DIRT = 5
    VOICE_SEASON = 6
    VOICE = 7
    SHOCKS = 8
    VOICE_SHOCKS = 9
    CALLS = 10
    VOICE_DIRT = 11


def rng_for(seed: int, stream: Stream, block: int = 0) -> np.random.Generator:
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, (stream << 32) | block], dtype=np.uint64))
    )


def weeks(count: int) -> np.ndarray:
    """Return the last `count` weeks, by their Sundays; datetime64[D], shape (count,)."""
    return np.asarray(np.datetime64(LAST_WEEK, "D") - 7 * DAY * np.arange(count - 1, -1, -1))


def payday(week: np.ndarray) -> np.ndarray:
    """Return 1 for weeks in which a month ends, else 0."""
    ends = (week + DAY).astype("datetime64[M]") != (week - 6 * DAY).astype("datetime64[M]")
    return np.asarray(ends, dtype=np.float64)


def season(week: np.ndarray, groups: int, rng: np.random.Generator) -> np.ndarray:
    """Return the log season: a yearly sine, paydays and noise, with mean zero in each group.

    Shape (groups, weeks).
    """
    year = 2 * np.pi * week.astype(np.int64) / 365.25
    amplitude, phase = rng.uniform(0.08, 0.20, (groups, 1)), rng.uniform(0, 2 * np.pi, (groups, 1))
    monthly = rng.uniform(0.05, 0.15, (groups, 1)) * payday(week)
    gamma = amplitude * np.sin(year + phase) + monthly + rng.normal(0, 0.05, (groups, len(week)))
    return np.asarray(gamma - gamma.mean(axis=1, keepdims=True))
