"""Sizes of one bundle stay in order, and give up as little as possible for it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tariffs.optimise.ladder import Rung, best_in_order, best_with_cross_effects, in_order
from tariffs.pricing import locations

VOLUMES = (50.0, 150.0, 400.0, 1000.0)


@st.composite
def ladders(draw: st.DrawFn) -> list[Rung]:
    rungs: list[Rung] = []
    for volume in VOLUMES[: draw(st.integers(1, 4))]:
        steps = np.array(sorted(draw(st.sets(st.integers(-8, 12), min_size=1, max_size=6))))
        values = draw(st.lists(st.integers(-100, 100), min_size=len(steps), max_size=len(steps)))
        rungs.append(
            Rung(volume, 2.0 ** len(rungs) * (1 + 0.05 * steps), np.array(values, dtype=float))
        )
    return rungs


@given(ladders())
def test_the_climb_finds_what_brute_force_finds(rungs: list[Rung]) -> None:
    volumes = np.array([rung.volume_mb for rung in rungs])
    every = product(*(range(len(rung.prices)) for rung in rungs))
    worth = {
        at: sum(rung.values[i] for rung, i in zip(rungs, at, strict=True))
        for at in every
        if in_order(np.array([rung.prices[i] for rung, i in zip(rungs, at, strict=True)]), volumes)
    }
    found = best_in_order(rungs)
    if not worth:
        assert found is None
        return
    assert found is not None
    assert in_order(found, volumes)
    value = sum(
        rung.values[np.flatnonzero(rung.prices == price)[0]]
        for rung, price in zip(rungs, found, strict=True)
    )
    assert value == pytest.approx(max(worth.values()))


@pytest.mark.parametrize(
    ("prices", "volumes", "ordered"),
    [
        ([1.0, 2.0, 4.0], [50, 150, 400], True),
        ([1.0, 0.9, 4.0], [50, 150, 400], False),  # the larger bundle is cheaper
        ([1.0, 3.5, 4.0], [50, 150, 400], False),  # its megabyte is dearer
        ([1.0], [50], True),
    ],
)
def test_order_is_rising_prices_and_falling_prices_per_mb(
    prices: list[float], volumes: list[float], ordered: bool
) -> None:
    assert in_order(np.array(prices), np.array(volumes)) is ordered


def ladder_rows(demo: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = demo.manual.columns(
        """SELECT a.*, p.ladder, p.volume_mb::DOUBLE AS volume_mb, b.price AS alone, b.current_price
        FROM ladder AS a JOIN bundles AS b USING (segment, location, product)
        JOIN product_catalog AS p USING (product)
        ORDER BY segment, location, ladder, rung"""
    )
    return found


def test_published_ladders_are_in_order_or_report_that_none_is_in_reach(demo: Any) -> None:
    rows = ladder_rows(demo)
    for first in range(0, len(rows["price"]), 3):
        rungs = slice(first, first + 3)
        assert (
            in_order(rows["price"][rungs], rows["volume_mb"][rungs])
            or (rows["ladder_bound"][rungs] == "LADDER_OUT_OF_REACH").all()
        )


def test_an_adjusted_price_reports_it_and_stays_within_the_units_limits(demo: Any) -> None:
    rows = ladder_rows(demo)
    adjusted = rows["price"] != rows["alone"]
    assert adjusted.any()
    assert ((rows["reason_code"] == "LADDER_ADJUSTED") == adjusted).all()
    assert (rows["price"] >= rows["lowest"] - 1e-9).all()
    assert (rows["price"] <= rows["highest"] + 1e-9).all()


def test_ladders_that_are_in_order_keep_every_figure(demo: Any) -> None:
    same = demo.manual.columns(
        """SELECT a.p_gain AS a1, b.p_gain AS b1,
          a.expected_margin_delta AS a2, b.expected_margin_delta AS b2,
            a.reason_code AS a3, b.reason_code AS b3
        FROM ladder AS a JOIN bundles AS b USING (segment, location, product)
        WHERE a.price = b.price"""
    )
    assert np.array_equal(same["a1"], same["b1"])
    assert np.array_equal(same["a2"], same["b2"])
    assert np.array_equal(same["a3"], same["b3"])


def test_ordering_twice_changes_nothing(demo: Any) -> None:
    groups = demo.manual.ask("ladder", ("location",), ("segment", "ladder", "rung"))
    for n in range(len(groups)):
        rows = groups.unit(n)
        once = locations.optimise_location(rows)
        twice = locations.optimise_location(
            rows | {"price": once["price"], "reason_code": once["reason_code"]}
        )
        assert np.array_equal(once["price"], twice["price"])


@st.composite
def pulled_ladders(draw: st.DrawFn) -> list[Rung]:
    """Rungs whose prices multiply their neighbours' sales."""
    rungs = draw(ladders())
    return [
        replace(
            r,
            cross_effect=np.array(
                draw(st.lists(st.floats(0.5, 2.0), min_size=len(r.prices), max_size=len(r.prices)))
            ),
        )
        for r in rungs
    ]


def worth_together(rungs: list[Rung], at: tuple[int, ...]) -> float:
    cross_effect = [1.0, *(rung.cross_effect[i] for rung, i in zip(rungs, at, strict=True)), 1.0]
    return float(
        sum(
            rung.values[i] * cross_effect[j] * cross_effect[j + 2]
            for j, (rung, i) in enumerate(zip(rungs, at, strict=True))
        )
    )


@settings(max_examples=60)
@given(pulled_ladders())
def test_the_climb_with_neighbours_that_pull_finds_what_brute_force_finds(
    rungs: list[Rung],
) -> None:
    volumes = np.array([rung.volume_mb for rung in rungs])
    worth = {
        at: worth_together(rungs, at)
        for at in product(*(range(len(rung.prices)) for rung in rungs))
        if in_order(np.array([rung.prices[i] for rung, i in zip(rungs, at, strict=True)]), volumes)
    }
    found = best_with_cross_effects(rungs)
    if not worth:
        assert found is None
        return
    assert found is not None
    at = tuple(
        int(np.flatnonzero(rung.prices == price)[0])
        for rung, price in zip(rungs, found, strict=True)
    )
    assert worth_together(rungs, at) == pytest.approx(max(worth.values()))


@given(ladders())
def test_neighbours_that_do_not_pull_change_nothing(rungs: list[Rung]) -> None:
    plain, pulled = (
        best_in_order(rungs),
        best_with_cross_effects(
            [replace(rung, cross_effect=np.ones(len(rung.prices))) for rung in rungs]
        ),
    )
    assert (plain is None) == (pulled is None)
    if plain is not None and pulled is not None:
        assert sum(
            r.values[r.prices == p][0] for r, p in zip(rungs, plain, strict=True)
        ) == pytest.approx(
            sum(r.values[r.prices == p][0] for r, p in zip(rungs, pulled, strict=True))
        )
