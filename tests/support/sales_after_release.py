"""The weeks after a release, as the generator's truth has them: customers with known elasticities
who pay the new prices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tariffs.release.outcome import DAYS_PER_WEEK
from tariffs.synthetic import bundles, voice
from tariffs.synthetic.bundles import LIST_PRICE, PRODUCTS
from tariffs.synthetic.sizes import VOICE_TARIFF

DAY, WEEK = np.timedelta64(1, "D"), np.timedelta64(7, "D")
LIST_OF = dict(zip(PRODUCTS.tolist(), LIST_PRICE.tolist(), strict=True))


@dataclass(frozen=True)
class After:
    """`sales` as the source has them, of the weeks after; `lift` what the truth says of the
    repriced units: margin at the new prices over margin at the old ones, without chance.
    """

    sales: pa.Table
    lift: float


def bundles_after(
    truth: pa.Table,
    last: pa.Table,
    price: Mapping[tuple[str, str, str], float],
    control: set[str],
    cost: Mapping[str, float],
    weeks: int = 4,
    seed: int = 1,
    shock: float = 0.0,
) -> After:
    """`last` is the last week of sales; `price` the new price by (segment, location, product);
    `shock` the sd of what befalls a location.
    """
    rng = np.random.default_rng(seed)
    keys = list(
        zip(*(truth[name].to_pylist() for name in ("segment", "location", "product")), strict=True)
    )
    rows = {
        k: n
        for n, k in enumerate(
            zip(
                *(last[name].to_pylist() for name in ("segment", "location", "product")),
                strict=True,
            )
        )
    }
    subs = last["active_subs"].to_numpy()[[rows[k] for k in keys]].astype(float)
    beta, level = truth["beta"].to_numpy(), truth["level"].to_numpy()
    full, unit_cost = np.array([LIST_OF[k[2]] for k in keys]), np.array([cost[k[2]] for k in keys])
    now, then = truth["current_price"].to_numpy(), np.array([price[k] for k in keys])
    treated = np.array([k[1] not in control for k in keys])
    befalls = dict(
        zip(
            sorted({k[1] for k in keys}),
            rng.normal(0, shock, len({k[1] for k in keys})),
            strict=True,
        )
    )
    gamma = rng.normal(0, 0.1, (len({k[0] for k in keys}), weeks))
    segment = {s: n for n, s in enumerate(sorted({k[0] for k in keys}))}
    season = gamma[[segment[k[0]] for k in keys]] + np.array([befalls[k[1]] for k in keys])[:, None]
    base = subs * np.exp(level)
    mu = base[:, None] * np.exp(season + (beta * (then / full - 1))[:, None])
    units = rng.poisson(rng.gamma(mu / (bundles.DISPERSION - 1), bundles.DISPERSION - 1))
    was, comes = (base * np.exp(beta * (p / full - 1)) * (p - unit_cost) for p in (now, then))
    spread = np.repeat(np.arange(len(keys)), weeks)
    week = np.datetime64("2026-06-28") + WEEK * np.tile(np.arange(1, weeks + 1), len(keys))
    sales = {
        "row_id": 900_000_000 + np.arange(len(spread)),
        **{
            name: np.array([k[n] for k in keys])[spread]
            for n, name in enumerate(("segment", "location", "product"))
        },
        "week": week.astype("datetime64[D]"),
        "price": then[spread],
        "list_price": then[spread],
        "units": units.ravel(),
        "active_subs": subs[spread].astype(np.int64),
        "explore_eps": np.zeros(len(spread)),
        "loaded_at": (week + 2 * DAY).astype("datetime64[us]") + np.timedelta64(6, "h"),
    }
    return After(pa.table(sales), float(comes[treated].sum() / was[treated].sum() - 1))


def voice_after(
    truth: pa.Table,
    last: pa.Table,
    discount: Mapping[tuple[str, int, str], float],
    cells: pa.Table,
    weeks: int = 4,
    seed: int = 2,
) -> pa.Table:
    """Voice in the weeks after, at these discounts, as the source has them.

    `cells` has the capacities: no more than these is carried.
    """
    rng = np.random.default_rng(seed)
    keys = list(
        zip(*(truth[name].to_pylist() for name in ("cell", "hour", "day_type")), strict=True)
    )
    rows = {
        k: n
        for n, k in enumerate(
            zip(*(last[name].to_pylist() for name in ("cell", "hour", "day_type")), strict=True)
        )
    }
    subs = last["active_subs"].to_numpy()[[rows[k] for k in keys]].astype(float)
    d = np.array([discount[k] for k in keys])
    mu = (subs * np.exp(truth["level"].to_numpy() - truth["beta"].to_numpy() * d))[
        :, None
    ] * np.exp(rng.normal(0, 0.1, weeks))
    minutes = rng.poisson(rng.gamma(mu / (voice.DISPERSION - 1), voice.DISPERSION - 1))
    capacity = dict(
        zip(
            zip(cells["cell"].to_pylist(), cells["hour"].to_pylist(), strict=True),
            pc.fill_null(cells["capacity_minutes"].cast(pa.float64()), np.inf).to_pylist(),
            strict=True,
        )
    )
    carried = np.array([capacity[k[:2]] * DAYS_PER_WEEK[k[2]] for k in keys])
    carried = np.where(carried > 0, carried, np.inf)  # 0 or none: the capacity is not known
    minutes = np.minimum(minutes, np.floor(carried)[:, None]).astype(np.int64)
    spread = np.repeat(np.arange(len(keys)), weeks)
    week = (
        np.datetime64("2026-06-28") + WEEK * np.tile(np.arange(1, weeks + 1), len(keys))
    ).astype("datetime64[D]")
    columns = {
        name: np.array([k[n] for k in keys])[spread]
        for n, name in enumerate(("cell", "hour", "day_type"))
    }
    columns |= {
        "week": week,
        "discount": d[spread],
        "posted_discount": d[spread],
        "minutes": minutes.ravel(),
    }
    uncounted = pa.nulls(len(spread), pa.int64())
    columns |= {"attempts": uncounted, "blocked": uncounted}
    columns |= {
        "active_subs": subs[spread].astype(np.int64),
        "loaded_at": (week + 2 * DAY).astype("datetime64[us]") + np.timedelta64(6, "h"),
    }
    return pa.table(columns)


__all__ = ["VOICE_TARIFF", "After", "bundles_after", "voice_after"]
