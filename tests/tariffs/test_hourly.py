"""A day's discounts: no cliffs beyond the limits of the hours, and moved minutes are no gain."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tariffs.optimise.smooth import cliffs, excess, following_hour, smoothest, time_shift_matrix
from tariffs.pricing.hourly import smooth_day

Day = tuple[list[np.ndarray], list[np.ndarray], np.ndarray]


@st.composite
def short_days(draw: st.DrawFn) -> Day:
    """Up to five hours, some of them missing, with up to four discount classes each."""
    hours = np.array(
        sorted(draw(st.sets(st.sampled_from([0, 1, 2, 3, 22, 23]), min_size=1, max_size=5)))
    )
    points, values = [], []
    for _ in hours:
        classes = sorted(draw(st.sets(st.integers(1, 20), min_size=1, max_size=4)))
        points.append(np.array(classes) * 0.005)
        values.append(
            np.array(
                draw(st.lists(st.integers(-50, 50), min_size=len(classes), max_size=len(classes))),
                dtype=float,
            )
        )
    return points, values, hours


@settings(max_examples=60)
@given(short_days(), st.sampled_from([0.005, 0.02, 0.04]))
def test_the_smoothest_day_is_what_brute_force_finds(day: Day, limit: float) -> None:
    points, values, hours = day
    linked = following_hour(hours)

    def judged(price: np.ndarray) -> float:
        return round(float((excess(price, np.roll(price, -1), limit) * linked).sum()), 9)

    worth = {}
    for at in product(*(range(len(p)) for p in points)):
        price = np.array([p[i] for p, i in zip(points, at, strict=True)])
        worth[at] = (-judged(price), sum(v[i] for v, i in zip(values, at, strict=True)))
    found = smoothest(points, values, linked, limit)
    value = sum(
        v[np.flatnonzero(p == price)[0]] for p, v, price in zip(points, values, found, strict=True)
    )
    least, best = max(worth.values())
    assert -judged(found) == least
    assert value == pytest.approx(best)


def test_midnight_is_an_hour_like_any_other() -> None:
    hours = np.arange(24)
    price = np.where(hours == 23, 0.05, 0.10)
    assert np.flatnonzero(cliffs(price, following_hour(hours), 0.02)).tolist() == [0, 22, 23]
    assert not following_hour(np.array([5]))[0]


def test_waiting_moves_minutes_from_earlier_hours_mostly_the_nearest() -> None:
    sigma = time_shift_matrix(np.arange(24), 0.4, 2.0)
    assert sigma.sum(axis=1) == pytest.approx(np.full(24, 0.4))
    assert sigma.diagonal().sum() == 0
    assert sigma[0].argmax() == 23  # midnight's minutes waited since eleven
    assert sigma[10, 9] > sigma[10, 8] > sigma[10, 11]
    assert not time_shift_matrix(np.arange(24), 0.0, 2.0).any()


def days(demo: Any) -> Any:
    return demo.manual.ask("voice_day", ("cell", "day_type"), ("hour",))


def published(demo: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = demo.manual.columns(
        """SELECT a.*, v.price AS alone, v.lowest, v.highest, v.current_price,
          v.reason_code AS own_reason
        FROM voice_day AS a JOIN voice AS v USING (cell, hour, day_type)
        ORDER BY cell, day_type, hour"""
    )
    return found


def test_a_published_day_has_no_cliff_that_it_does_not_report(demo: Any) -> None:
    rows = published(demo)
    for first in range(0, len(rows["price"]), 24):
        price, bound = rows["price"][first : first + 24], rows["day_bound"][first : first + 24]
        steep = cliffs(price, following_hour(np.arange(24)), 0.02)
        steep_bound = bound == "CLIFF_OUT_OF_REACH"
        control = rows["own_reason"][first : first + 24] == "HOLD_CONTROL"
        assert np.array_equal(steep_bound, steep & ~control)
    assert (rows["day_bound"] == "CLIFF").any()


def test_a_day_has_fewer_and_smaller_cliffs_than_its_hours_alone(demo: Any) -> None:
    rows = published(demo)
    ring = {name: rows[name].reshape(-1, 24) for name in ("price", "alone", "current_price")}
    left, alone = (
        float(excess(p, np.roll(p, -1, axis=1), 0.02).sum()) for p in (ring["price"], ring["alone"])
    )
    assert left < 0.5 * alone


def test_smoothing_stays_within_each_hours_limits_and_states_what_it_moved(demo: Any) -> None:
    rows = published(demo)
    moved = rows["price"] != rows["alone"]
    assert moved.any()
    assert ((rows["reason_code"] == "SMOOTHED") == moved).all()
    assert (rows["price"] >= rows["lowest"] - 1e-9).all()
    assert (rows["price"] <= rows["highest"] + 1e-9).all()
    assert rows["price"] == pytest.approx(0.10 * (1 - rows["discount_class"] / 100))


def test_smoothing_twice_changes_nothing(demo: Any) -> None:
    slab = days(demo)
    for n in range(len(slab)):
        rows = slab.unit(n)
        once = smooth_day(rows)
        twice = smooth_day(rows | {"price": once["price"]})
        assert np.array_equal(once["price"], twice["price"])


def test_minutes_that_only_wait_make_discounts_more_expensive(demo: Any) -> None:
    """With a time shift, each hour bears the other hours' losses, and discounts are smaller."""
    slab, deeper, full = days(demo), [], []
    for n in range(0, len(slab), 5):
        rows = slab.unit(n) | {"max_cliff": np.full(24, 1.0)}
        plain, shifted = smooth_day(rows), smooth_day(rows | {"time_shift": np.full(24, 0.4)})
        asked = rows["volume"] * np.exp(
            rows["elasticity"] * (shifted["price"] / rows["current_price"] - 1)
        )
        margin = np.where(
            asked > rows["capacity"], 0.0, shifted["price"] - rows["unit_cost"]
        )  # a full hour fills up again
        full.append(asked > rows["capacity"])
        assert shifted["opportunity_cost"] == pytest.approx(
            time_shift_matrix(rows["hour"], 0.4, 2.0) @ margin
        )
        assert not plain["opportunity_cost"].any()
        deeper.append((shifted["price"] - plain["price"]).mean())
    assert min(deeper) >= 0
    assert max(deeper) > 0
    assert np.any(full)


def test_counting_what_waits_earns_more_where_minutes_wait() -> None:
    """Discounts that move minutes between hours, priced with and without that cost."""
    rng = np.random.default_rng(3)
    b, base, sigma = (
        -rng.uniform(1.2, 2.4, 24),
        rng.uniform(50, 500, 24),
        time_shift_matrix(np.arange(24), 0.4, 2.0),
    )
    rows = day_rows(b, base)

    def revenue(price: np.ndarray) -> float:
        added = base * (np.exp(b * (price / 0.1 - 1)) - 1)
        return float(price @ (base + added - sigma.T @ added))

    alone = smooth_day(rows)["price"]
    counted = smooth_day(rows | {"time_shift": np.full(24, 0.4)})["price"]
    assert revenue(counted) > revenue(alone)


def day_rows(b: np.ndarray, volume: np.ndarray) -> dict[str, np.ndarray]:
    """A day without discounts yet, every hour priced at its own best point."""
    every = np.ones(24)
    points = np.round(np.arange(1, 21) * 0.005, 6)
    alone = points[np.argmax(points * np.exp(b[:, None] * (points / 0.1 - 1)), axis=1)]
    floats = {
        "price": alone,
        "current_price": 0.1,
        "reference_price": 0.1,
        "unit_cost": 0.0,
        "usage_value": 0.0,
        "price_tick": 0.005,
        "elasticity": b,
        "draw": b,
        "se": 0.1,
        "volume": volume,
        "centre_price": 0.1,
        "lowest": 0.005,
        "highest": 0.1,
        "z": 0.0,
        "max_cliff": 1.0,
        "time_shift": 0.0,
        "patience": 2.0,
    }
    rows = {name: value * every for name, value in floats.items()}
    text = {"reason_code": "DECREASE_CONFIDENT", "time_zone": "UTC"}
    rows |= {name: np.full(24, value, dtype=object) for name, value in text.items()}
    return rows | {
        "hour": np.arange(24),
        "explore_flag": np.zeros(24, bool),
        "as_of": np.full(24, np.datetime64("2026-06-29", "us")),
    }
