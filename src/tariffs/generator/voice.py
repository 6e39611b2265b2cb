"""A block of cells: 24 hours on two types of day, discounted by a rule of thumb on load, as most operators do today."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tariffs.generator.bundles import location_names
from tariffs.generator.calendar import Stream, dice, season, weeks
from tariffs.generator.sizes import CELL_CLASSES, DAY_PARTS, REGIONS, VOICE_TARIFF, Size

CELLS_PER_BLOCK = 20
TAU = 0.25
DISPERSION = 30.0  # minutes come in calls, and calls in evenings
CONSTANT, EXPLORED = 0.12, 0.10
DAY_TYPES = {"WEEKDAY": 5, "WEEKEND": 2}
HOURS = np.arange(24)
LOAD = 0.06 + 0.50 * np.exp(-(((HOURS - 12) / 3.5) ** 2)) + 0.75 * np.exp(-(((HOURS - 19.5) / 2.5) ** 2))
DAY_PART_OF_HOUR = np.repeat(list(DAY_PARTS), 6)


@dataclass(frozen=True, slots=True)
class VoiceBlock:
    usage: pa.Table
    cells: pa.Table
    truth: pa.Table


def blocks(size: Size) -> int:
    return -(-size.cells // CELLS_PER_BLOCK)


def voice_season(seed: int, size: Size) -> np.ndarray:
    """Shape (regions, weeks); the same for all blocks."""
    return season(weeks(size.weeks), len(REGIONS), dice(seed, Stream.VOICE_SEASON))


def voice_block(seed: int, size: Size, block: int) -> VoiceBlock:
    """Arrays inside have the axes (cell, hour, day type, week)."""
    cell = np.arange(block * CELLS_PER_BLOCK, min((block + 1) * CELLS_PER_BLOCK, size.cells))
    rng = dice(seed, Stream.VOICE, block)
    kind = rng.choice(list(CELL_CLASSES), len(cell), p=[0.35, 0.30, 0.20, 0.15])
    shape = (len(cell), 24, 2)
    beta = _elasticities(kind, shape, rng)
    capacity = np.round(rng.lognormal(np.log(1500), 0.3, len(cell)))  # minutes per hour
    load = LOAD[None, :, None] * rng.lognormal(0, 0.35, shape)
    discount, posted = _discounts(load, size.weeks, rng)
    subscribers = np.round(rng.lognormal(np.log(2000), 0.4, len(cell)))
    days = np.array(list(DAY_TYPES.values()))
    level = np.log(load * capacity[:, None, None] * days / subscribers[:, None, None]) - 0.3
    gamma = voice_season(seed, size)[cell % len(REGIONS)][:, None, None, :]
    mu = subscribers[:, None, None, None] * np.exp(level[..., None] + gamma - beta[..., None] * discount)
    minutes = rng.poisson(rng.gamma(mu / (DISPERSION - 1), DISPERSION - 1))
    return VoiceBlock(
        _usage_table(cell, size, minutes, discount, posted, subscribers.astype(np.int64)),
        _cell_table(cell, size, kind, capacity),
        _truth_table(cell, shape, beta, level),
    )


def _elasticities(kind: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Coefficients of price / tariff, so negative; minus them is the answer to a discount."""
    mean = np.array([CELL_CLASSES[k] for k in kind])[:, None] + np.array([DAY_PARTS[p] for p in DAY_PART_OF_HOUR])[None, :]
    return np.asarray(-np.maximum(mean[:, :, None] + rng.normal(0, TAU, shape), 0.02))


def _discounts(load: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Applied and posted discounts, (cell, hour, day type, week), in shares of the tariff and multiples of 0.05.

    The rule: the emptier the hour, the deeper.  It is looked at every four weeks, with an error; some hours it never changes.
    """
    rule = np.select([load < 0.2, load < 0.5, load < 0.8], [0.75, 0.50, 0.20], 0.0)[..., None]
    constant = (rng.random(load.shape) < CONSTANT)[..., None]
    wobble = np.repeat(rng.integers(-3, 4, (*load.shape, -(-count // 4))), 4, axis=-1)[..., :count] * 0.05
    posted = np.clip(rule + np.where(constant, 0.0, wobble), 0.0, 0.95)
    explores = (rng.random(posted.shape) < EXPLORED) & ~constant
    applied = np.clip(posted + np.where(explores, rng.integers(-2, 3, posted.shape) * 0.05, 0.0), 0.0, 0.95)
    return np.round(applied, 2), np.round(posted, 2)


def _usage_table(
    cell: np.ndarray, size: Size, minutes: np.ndarray, applied: np.ndarray, posted: np.ndarray, subscribers: np.ndarray
) -> pa.Table:
    full = minutes.shape
    week = np.broadcast_to(weeks(size.weeks), full).ravel()
    grid = (_cell_names(cell)[:, None, None, None], HOURS[None, :, None, None], np.array(list(DAY_TYPES))[None, None, :, None])
    columns = {name: np.broadcast_to(values, full).ravel() for name, values in zip(("cell", "hour", "day_type"), grid, strict=True)}
    columns |= {"week": week, "discount": applied.ravel(), "posted_discount": posted.ravel(), "minutes": minutes.ravel()}
    columns["active_subs"] = np.broadcast_to(subscribers[:, None, None, None], full).ravel()
    columns["loaded_at"] = (week + 2).astype("datetime64[us]") + np.timedelta64(6, "h")
    return pa.table(columns)


def _cell_table(cell: np.ndarray, size: Size, kind: np.ndarray, capacity: np.ndarray) -> pa.Table:
    hours = len(HOURS)
    return pa.table(
        {
            "cell": np.repeat(_cell_names(cell), hours),
            "hour": np.tile(HOURS, len(cell)),
            "location": np.repeat(location_names(cell % size.locations), hours),
            "cell_class": np.repeat(kind, hours),
            "capacity_minutes": np.repeat(capacity, hours),
        }
    )


def _truth_table(cell: np.ndarray, shape: tuple[int, ...], beta: np.ndarray, level: np.ndarray) -> pa.Table:
    grid = (_cell_names(cell)[:, None, None], HOURS[None, :, None], np.array(list(DAY_TYPES))[None, None, :])
    columns = {name: np.broadcast_to(values, shape).ravel() for name, values in zip(("cell", "hour", "day_type"), grid, strict=True)}
    return pa.table(columns | {"beta": beta.ravel(), "level": level.ravel(), "tariff": np.full(beta.size, VOICE_TARIFF)})


def _cell_names(cell: np.ndarray) -> np.ndarray:
    return np.array([f"CELL_{i:05d}" for i in cell])
