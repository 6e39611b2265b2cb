"""A block of locations: weekly sales of nine bundles to six segments, with known elasticities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tariffs.synthetic.calendar import DAY, Stream, rng_for, season, weeks
from tariffs.synthetic.scenarios import OFF, SHOCK, Switches, shocks
from tariffs.synthetic.sizes import (
    BUNDLES,
    CEILING_SHARE,
    COST_PER_MB,
    FLOOR_SHARE,
    PLACE_NAMES,
    REGIONS,
    SEGMENTS,
    TIERS,
    Size,
)

LOCATIONS_PER_BLOCK = 20
TAU = 0.35
DISPERSION = 2.5
LEAST_ELASTIC = -0.02
PRICE_GRID = np.round(np.arange(0.70, 1.36, 0.05), 2)
EXPLORED_SHARE, CONSTANT_PRICE_SHARE = 0.06, 0.12
CONTROL_SHARE = 0.05
ROWS_PER_BLOCK = 1_000_000  # range of a block's row ids
PRODUCTS = np.array([b.product for b in BUNDLES])
LIST_PRICE = np.array([b.list_price for b in BUNDLES])
UNIT_COST = np.array([b.volume_mb * COST_PER_MB for b in BUNDLES])
LOWEST_RATIO = 0.3  # of a posted price that foresees a shock
NEIGHBOURS = np.array(
    [[a.ladder == b.ladder and abs(a.rung - b.rung) == 1 for b in BUNDLES] for a in BUNDLES]
)
BEST_RESPONSES = 12  # rounds in which each rung of a ladder answers the others


@dataclass(frozen=True, slots=True)
class Block:
    """The sales of a block's locations, and the truth behind them, one row per unit."""

    sales: pa.Table
    truth: pa.Table


def blocks(size: Size) -> int:
    return -(-size.locations // LOCATIONS_PER_BLOCK)


def block_locations(size: Size, block: int) -> np.ndarray:
    return np.arange(
        block * LOCATIONS_PER_BLOCK, min((block + 1) * LOCATIONS_PER_BLOCK, size.locations)
    )


def location_table(seed: int, size: Size, block: int) -> pa.Table:
    """Return the rows of `locations` for one block."""
    where, rng = block_locations(size, block), rng_for(seed, Stream.PLACES, block)
    tier = rng.choice(list(TIERS), len(where), p=[0.35, 0.40, 0.25])
    region, drawn = np.array(REGIONS)[where % len(REGIONS)], rng.random(len(where))
    control = drawn < CONTROL_SHARE
    if block == 0:
        control = _with_both_kinds(control, drawn, size)
    return pa.table(
        {
            "location": location_names(where),
            "name": spoken_names(where),
            "region": region,
            "tier": tier,
            "control": control,
        }
    )


def _with_both_kinds(control: np.ndarray, drawn: np.ndarray, size: Size) -> np.ndarray:
    """Return control locations such that bundles and voice have some, and neither only control.

    If no location with a cell was drawn, the one with the least draw is added.  A country with one
    location, or one cell, has none to spare.
    """
    has_cell = np.arange(len(drawn)) < size.cells  # cells are assigned to locations in order
    may = np.full(len(drawn), size.locations > 1) & (~has_cell if size.cells == 1 else True)
    wanted = may & (has_cell if size.cells > 1 else True)
    control = control & may
    if wanted.any() and not (control & wanted).any():
        control = control | (np.arange(len(drawn)) == np.argmin(np.where(wanted, drawn, np.inf)))
    return control


def location_names(where: np.ndarray) -> np.ndarray:
    return np.array([f"LOC_{i:05d}" for i in where])


def spoken_names(where: np.ndarray) -> np.ndarray:
    """Return names of places with accents and apostrophes, numbered where a town has several."""
    return np.array(
        [
            PLACE_NAMES[i % len(PLACE_NAMES)]
            + (f" {i // len(PLACE_NAMES) + 1}" if i >= len(PLACE_NAMES) else "")
            for i in where
        ]
    )


def bundle_season(seed: int, size: Size) -> np.ndarray:
    """Return the season of shape (segments, weeks), the same for all blocks."""
    return season(weeks(size.weeks), len(SEGMENTS), rng_for(seed, Stream.SEASON))


def bundle_block(seed: int, size: Size, block: int, switches: Switches = OFF) -> Block:
    """Return one block; its arrays have the axes (segment, location, product, week)."""
    tier = location_table(seed, size, block)["tier"].to_numpy()
    shape = (len(SEGMENTS), len(tier), len(BUNDLES))
    rng = rng_for(seed, Stream.SALES, block)
    beta = _elasticities(tier, shape, rng)
    level = rng.normal(np.log(0.010) - 0.35 * np.log(LIST_PRICE), 0.8, shape)
    eta = (
        shocks(switches, seed, Stream.SHOCKS, block, (*shape, size.weeks))
        if switches.shaken
        else None
    )
    posted, paid, explored = _prices(
        seed, size, block, shape, None if eta is None else switches.endog * eta
    )
    subscribers = _subscribers(shape, size.weeks, rng)
    gamma = bundle_season(seed, size)[:, None, None, :]
    x = paid / LIST_PRICE[:, None] - 1
    log_demand = level[..., None] + gamma + beta[..., None] * x
    if eta is not None:
        log_demand += eta - SHOCK**2 / 2  # a shock changes a week's demand, not the mean
    if switches.cross:
        log_demand += switches.cross * (NEIGHBOURS @ x)
    mu = subscribers * np.exp(log_demand)
    units = rng.poisson(rng.gamma(mu / (DISPERSION - 1), DISPERSION - 1))
    keys = _keys(size, block, shape)
    sales = _sales_table(
        keys,
        size,
        block,
        paid=paid,
        list_price=posted,
        units=units,
        active_subs=subscribers,
        explore_eps=explored,
    )
    return Block(sales, _truth_table(keys, beta, level, posted[..., -1], switches.cross))


def _elasticities(tier: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return m_product + d_segment + d_tier + N(0, TAU), bounded away from 0."""
    product = np.array([b.elasticity for b in BUNDLES])[None, None, :]
    segment = np.array(list(SEGMENTS.values()))[:, None, None]
    location = np.array([TIERS[t] for t in tier])[None, :, None]
    return np.asarray(
        np.minimum(product + segment + location + rng.normal(0, TAU, shape), LEAST_ELASTIC)
    )


def _prices(
    seed: int, size: Size, block: int, shape: tuple[int, ...], foreseen: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return posted and paid prices, and the logged exploration between them.

    Each of shape (segment, location, product, week).  A campaign holds for 3 to 8 weeks in all
    segments of a (location, product); some units never leave the list price.  The foreseen part of
    demand is added to the campaign, in shares of the list price.
    """
    rng = rng_for(seed, Stream.PRICES, block)
    campaign = _plateaus(rng, shape[1] * shape[2], size.weeks).reshape(1, *shape[1:], size.weeks)
    constant = (rng.random(shape) < CONSTANT_PRICE_SHARE)[..., None]
    if foreseen is not None:
        campaign = np.maximum(campaign + foreseen, LOWEST_RATIO)
    tick = np.array([b.price_tick for b in BUNDLES])[:, None]
    posted = np.where(
        constant,
        LIST_PRICE[:, None],
        np.round(np.round(campaign * LIST_PRICE[:, None] / tick) * tick, 2),
    )
    full = (*shape, size.weeks)
    explores = (rng.random(full) < EXPLORED_SHARE) & ~constant
    epsilon = np.where(
        explores, np.round(rng.uniform(0.05, 0.15, full) * rng.choice([-1.0, 1.0], full), 3), 0.0
    )
    return posted, np.round(posted * (1 + epsilon), 4), epsilon


def _plateaus(rng: np.random.Generator, paths: int, count: int) -> np.ndarray:
    """Return price ratios of shape (paths, count) that change every 3 to 8 weeks."""
    lengths = rng.integers(3, 9, (paths, count // 3 + 1))
    ends = lengths.cumsum(axis=1)
    plateau = (np.arange(count)[None, :, None] >= ends[:, None, :]).sum(axis=2)
    return PRICE_GRID[
        np.take_along_axis(rng.integers(0, len(PRICE_GRID), lengths.shape), plateau, axis=1)
    ]


def _subscribers(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> np.ndarray:
    base = rng.lognormal(np.log(900), 0.6, shape[:2])[:, :, None, None]
    return np.asarray(
        np.maximum(np.round(base * rng.lognormal(0, 0.03, (*shape, count))), 1).astype(np.int64)
    )


def _keys(size: Size, block: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the unit keys, each of shape `shape`."""
    location = location_names(block_locations(size, block))
    names = (
        np.array(list(SEGMENTS))[:, None, None],
        location[None, :, None],
        PRODUCTS[None, None, :],
    )
    return {
        name: np.broadcast_to(values, shape)
        for name, values in zip(("segment", "location", "product"), names, strict=True)
    }


def _sales_table(
    keys: dict[str, np.ndarray], size: Size, block: int, **measured: np.ndarray
) -> pa.Table:
    full = measured["paid"].shape
    week = np.broadcast_to(weeks(size.weeks), full).ravel()
    columns: dict[str, np.ndarray] = {"row_id": block * ROWS_PER_BLOCK + np.arange(week.size)}
    columns |= {
        name: np.broadcast_to(values[..., None], full).ravel() for name, values in keys.items()
    }
    columns |= {"week": week, "price": measured.pop("paid").ravel()} | {
        name: values.ravel() for name, values in measured.items()
    }
    columns["loaded_at"] = (week + 2 * DAY).astype("datetime64[us]") + np.timedelta64(6, "h")
    return pa.table(columns)


def _truth_table(
    keys: dict[str, np.ndarray],
    beta: np.ndarray,
    level: np.ndarray,
    current: np.ndarray,
    chi: float,
) -> pa.Table:
    """Return the truth with two best prices, in money.

    The unit's own, the closed form kappa - 1/beta without limits; and the one that earns most for
    its whole ladder, between floor and ceiling.
    """
    kappa = np.broadcast_to(UNIT_COST / LIST_PRICE, beta.shape)
    best = LIST_PRICE * (kappa - 1 / beta)
    truth = {
        "beta": beta,
        "level": level,
        "kappa": kappa,
        "current_price": current,
        "best_price": best,
    }
    truth |= {
        "chi": np.full(beta.shape, chi),
        "ladder_price": LIST_PRICE * _joint_prices(best / LIST_PRICE, beta, level, chi),
    }
    return pa.table({name: values.ravel() for name, values in (keys | truth).items()})


def _joint_prices(alone: np.ndarray, beta: np.ndarray, level: np.ndarray, chi: float) -> np.ndarray:
    """Return price ratios with the best margin of each (segment, location) as a whole.

    Products that substitute respond to one another in turn, each by trying all of its prices, to 1
    % of the list price; with positive margins this increases, and it stops long before
    BEST_RESPONSES.  Shape (segments, locations, products).
    """
    ratio: np.ndarray = np.clip(alone, FLOOR_SHARE, CEILING_SHARE)
    if not chi:
        return ratio
    tries = np.round(np.arange(FLOOR_SHARE, CEILING_SHARE + 1e-9, 0.01), 2)
    for _ in range(BEST_RESPONSES):
        before = ratio.copy()
        for product in range(len(BUNDLES)):
            ratio[..., product] = tries[
                np.argmax(_margins(ratio, product, tries, beta, level, chi), axis=0)
            ]
        if np.array_equal(before, ratio):
            break
    return ratio


def _margins(
    ratio: np.ndarray,
    product: int,
    tries: np.ndarray,
    beta: np.ndarray,
    level: np.ndarray,
    chi: float,
) -> np.ndarray:
    """Return the margin of a product and its neighbours, per subscriber and week, at each price.

    Shape (tries, segments, locations).
    """
    x = ratio - 1
    log_demand = level + beta * x + chi * (x @ NEIGHBOURS)
    own = np.exp(
        log_demand[..., product]
        - beta[..., product] * x[..., product]
        + beta[..., product] * (tries - 1)[:, None, None]
    )
    earned = (LIST_PRICE[product] * tries - UNIT_COST[product])[:, None, None] * own
    for other in np.flatnonzero(NEIGHBOURS[product]):
        theirs = (LIST_PRICE[other] * ratio[..., other] - UNIT_COST[other]) * np.exp(
            log_demand[..., other] - chi * x[..., product]
        )
        earned += np.exp(chi * (tries - 1))[:, None, None] * theirs
    return np.asarray(earned)
