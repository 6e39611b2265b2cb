"""A block of cells: 24 hours on two day types, discounted by the usual rule of thumb on load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tariffs.synthetic.bundles import location_names
from tariffs.synthetic.calendar import DAY, Stream, rng_for, season, weeks
from tariffs.synthetic.scenarios import OFF, SHOCK, Switches, shocks, waiting
from tariffs.synthetic.sizes import CELL_CLASSES, DAY_PARTS, REGIONS, VOICE_COST, VOICE_TARIFF, Size

CELLS_PER_BLOCK = 20
TAU = 0.25
DISPERSION = 30.0  # minutes cluster in calls, and calls in evenings
MINUTES_PER_CALL = 1.8
MAX_DISCOUNT = 0.95
CONSTANT_DISCOUNT_SHARE, EXPLORED_SHARE = 0.12, 0.10
DAY_TYPES = {"WEEKDAY": 5, "WEEKEND": 2}
HOURS = np.arange(24)
LOAD = (
    0.06
    + 0.50 * np.exp(-(((HOURS - 12) / 3.5) ** 2))
    + 0.75 * np.exp(-(((HOURS - 19.5) / 2.5) ** 2))
)
DAY_PART_OF_HOUR = np.repeat(list(DAY_PARTS), 6)


@dataclass(frozen=True, slots=True)
class VoiceBlock:
    """The measurements of a block of cells, and the truth per unit.

    offered  the minutes demanded, per row;  drawn  the minutes that hours draw from one another,
             per unit and hour; both only with the switches that need them
    """

    usage: pa.Table
    cells: pa.Table
    truth: pa.Table
    offered: pa.Table | None
    drawn: pa.Table | None


def blocks(size: Size) -> int:
    return -(-size.cells // CELLS_PER_BLOCK)


def voice_season(seed: int, size: Size) -> np.ndarray:
    """Return the season of shape (regions, weeks), the same for all blocks."""
    return season(weeks(size.weeks), len(REGIONS), rng_for(seed, Stream.VOICE_SEASON))


def voice_block(seed: int, size: Size, block: int, switches: Switches = OFF) -> VoiceBlock:
    """Return one block; its arrays have the axes (cell, hour, day type, week)."""
    cell = np.arange(block * CELLS_PER_BLOCK, min((block + 1) * CELLS_PER_BLOCK, size.cells))
    rng = rng_for(seed, Stream.VOICE, block)
    kind = rng.choice(list(CELL_CLASSES), len(cell), p=[0.35, 0.30, 0.20, 0.15])
    shape, full = (len(cell), 24, 2), (len(cell), 24, 2, size.weeks)
    beta = _elasticities(kind, shape, rng)
    nominal = np.round(rng.lognormal(np.log(1500), 0.3, len(cell)))  # minutes per hour
    load = LOAD[None, :, None] * rng.lognormal(0, 0.35, shape)
    eta = shocks(switches, seed, Stream.VOICE_SHOCKS, block, full) if switches.shaken else None
    discount, posted = _discounts(
        load, size.weeks, rng, None if eta is None else switches.endog * eta
    )
    subscribers = np.round(rng.lognormal(np.log(2000), 0.4, len(cell)))
    days = np.array(list(DAY_TYPES.values()))
    level = np.log(load * nominal[:, None, None] * days / subscribers[:, None, None]) - 0.3
    gamma = voice_season(seed, size)[cell % len(REGIONS)][:, None, None, :]
    shock = 0.0 if eta is None else eta - SHOCK**2 / 2  # changes a week's demand, not the mean
    demand = Demand(
        subscribers[:, None, None, None], beta[..., None], level[..., None], switches.shift
    )
    mu = demand.minutes(discount, gamma, shock)
    offered = rng.poisson(rng.gamma(mu / (DISPERSION - 1), DISPERSION - 1))
    capacity = nominal if switches.cap else ample(nominal, offered, days)
    room = (capacity[:, None, None] * days).astype(np.int64)  # minutes a week
    minutes = np.minimum(offered, room[..., None]) if switches.cap else offered
    attempts, blocked = _calls(minutes, offered, rng_for(seed, Stream.CALLS, block))
    keys = _keys(cell, full) | {"week": np.broadcast_to(weeks(size.weeks), full)}
    measured = {
        "discount": discount,
        "posted_discount": posted,
        "minutes": minutes,
        "attempts": attempts,
        "blocked": blocked,
    }
    usual = demand.minutes(posted[..., -1:])[..., 0]
    return VoiceBlock(
        _usage_table(keys, measured, subscribers.astype(np.int64)),
        _cell_table(cell, size, kind, capacity),
        _truth_table(_keys(cell, shape), beta, level, posted[..., -1], usual / room),
        _table(keys | {"offered_minutes": offered, "refused_minutes": offered - minutes})
        if switches.cap
        else None,
        drawn_table(cell, beta, usual, switches.shift) if switches.shift else None,
    )


@dataclass(frozen=True, slots=True)
class Demand:
    """The demand of a block's units; arrays of (cell, hour, day type, week)."""

    subscribers: np.ndarray
    beta: np.ndarray
    level: np.ndarray
    shift: float

    def minutes(
        self, discount: np.ndarray, gamma: np.ndarray | float = 0.0, shock: np.ndarray | float = 0.0
    ) -> np.ndarray:
        """Return mean minutes a week, after calls that can wait have moved to cheaper hours."""
        log_demand = self.level + gamma - self.beta * discount + shock
        return _with_drawn(self.subscribers * np.exp(log_demand), discount, self.shift)


def _with_drawn(mu: np.ndarray, discount: np.ndarray, shift: float) -> np.ndarray:
    """Return minutes after calls have moved to hours with deeper discounts, equal in total.

    The day is a ring.
    """
    if not shift:
        return mu
    moved = np.zeros_like(mu)
    for step, share in waiting().items():
        gained = np.roll(discount, -step, axis=1) - discount  # of a call `step` hours later
        leave = mu * shift * share * np.maximum(gained, 0.0)
        moved += np.roll(leave, step, axis=1) - leave
    return np.asarray(mu + moved)


def ample(nominal: np.ndarray, offered: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return minutes per hour of cells that carry every week of `offered`, at least nominal.

    offered  (cell, hour, day type, week).  Shape (cells,).
    """
    busiest = (offered.max(axis=3) / days).max(axis=(1, 2))
    return np.asarray(np.maximum(nominal, np.ceil(busiest)))


def _calls(
    minutes: np.ndarray, offered: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return call attempts and the blocked ones, with the probability that a minute is blocked."""
    attempts = rng.poisson(offered / MINUTES_PER_CALL) + (offered > 0)
    return attempts, rng.binomial(attempts, 1 - minutes / np.maximum(offered, 1) * (offered > 0))


def _elasticities(kind: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return coefficients of price / tariff, negative; their opposites are those of discounts."""
    mean = (
        np.array([CELL_CLASSES[k] for k in kind])[:, None]
        + np.array([DAY_PARTS[p] for p in DAY_PART_OF_HOUR])[None, :]
    )
    return np.asarray(-np.maximum(mean[:, :, None] + rng.normal(0, TAU, shape), 0.02))


def _discounts(
    load: np.ndarray, count: int, rng: np.random.Generator, foreseen: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return applied and posted discounts in shares of the tariff, multiples of 0.05.

    Shape (cell, hour, day type, week).  The rule: the emptier the hour, the deeper.  It is reviewed
    every four weeks, with an error; some hours never change.  The foreseen part of demand is
    subtracted from the discount, every week.
    """
    rule = np.select([load < 0.2, load < 0.5, load < 0.8], [0.75, 0.50, 0.20], 0.0)[..., None]
    constant = (rng.random(load.shape) < CONSTANT_DISCOUNT_SHARE)[..., None]
    wobble = (
        np.repeat(rng.integers(-3, 4, (*load.shape, -(-count // 4))), 4, axis=-1)[..., :count]
        * 0.05
    )
    posted = np.clip(rule + np.where(constant, 0.0, wobble), 0.0, MAX_DISCOUNT)
    explores = (rng.random(posted.shape) < EXPLORED_SHARE) & ~constant
    trial = np.where(explores, rng.integers(-2, 3, posted.shape) * 0.05, 0.0)
    if foreseen is not None:
        posted = np.clip(
            np.round((posted - np.where(constant, 0.0, foreseen)) * 20) / 20, 0.0, MAX_DISCOUNT
        )
        fits = np.abs(posted - MAX_DISCOUNT / 2) + np.abs(trial) <= MAX_DISCOUNT / 2 + 1e-9
        trial = np.where(
            fits, trial, 0.0
        )  # a trial clipped by a limit would depend on the posted discount, and so on demand
    return np.round(np.clip(posted + trial, 0.0, MAX_DISCOUNT), 2), np.round(posted, 2)


def _keys(cell: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the unit keys, each of shape `shape`, whose first axes are cell, hour and day type."""
    grid = {
        "cell": (_cell_names(cell), 0),
        "hour": (HOURS, 1),
        "day_type": (np.array(list(DAY_TYPES)), 2),
    }
    rest = len(shape) - 1
    return {
        name: np.broadcast_to(values.reshape(-1, *[1] * (rest - axis)), shape)
        for name, (values, axis) in grid.items()
    }


def _table(columns: dict[str, np.ndarray]) -> pa.Table:
    return pa.table({name: values.ravel() for name, values in columns.items()})


def _usage_table(
    keys: dict[str, np.ndarray], measured: dict[str, np.ndarray], subscribers: np.ndarray
) -> pa.Table:
    columns = (
        keys
        | measured
        | {"active_subs": np.broadcast_to(subscribers[:, None, None, None], keys["week"].shape)}
    )
    return _table(
        columns
        | {"loaded_at": (keys["week"] + 2 * DAY).astype("datetime64[us]") + np.timedelta64(6, "h")}
    )


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


def _truth_table(
    keys: dict[str, np.ndarray],
    beta: np.ndarray,
    level: np.ndarray,
    current: np.ndarray,
    load: np.ndarray,
) -> pa.Table:
    """Return the truth.

    best price    the closed form kappa - 1/beta, in money, without limits
    offered_load  the demand at today's discount in a usual week, as a share of the capacity
    """
    kappa = np.full(beta.shape, VOICE_COST / VOICE_TARIFF)
    truth = {
        "beta": beta,
        "level": level,
        "tariff": np.full(beta.shape, VOICE_TARIFF),
        "kappa": kappa,
        "current_discount": current,
    }
    return _table(
        keys | truth | {"best_price": VOICE_TARIFF * (kappa - 1 / beta), "offered_load": load}
    )


def drawn_table(cell: np.ndarray, beta: np.ndarray, usual: np.ndarray, shift: float) -> pa.Table:
    """Return for each unit and each hour in reach the minutes drawn.

    weight  shift / (t + 1)^b
    sigma   of the minutes that a somewhat deeper discount adds, the share from that hour
    """
    weights = {step: shift * share for step, share in waiting().items()}
    drawn = {step: weight * np.roll(usual, -step, axis=1) for step, weight in weights.items()}
    brought = -beta * usual + sum(drawn.values())
    keys = _keys(cell, usual.shape)
    return pa.concat_tables(
        _table(
            keys
            | {
                "from_hour": (keys["hour"] + step) % 24,
                "weight": np.full(usual.shape, weight),
                "sigma": drawn[step] / brought,
            }
        )
        for step, weight in weights.items()
    )


def _cell_names(cell: np.ndarray) -> np.ndarray:
    return np.array([f"CELL_{i:05d}" for i in cell])
