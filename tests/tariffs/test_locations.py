"""A location's prices: losses of other products are counted, and segment ratios are limited."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tariffs.columns import key_offsets
from tariffs.optimise.fairness import band
from tariffs.optimise.ladder import in_order
from tariffs.pricing.joint import price_points, robust_worth, unit_margins
from tariffs.pricing.locations import optimise_location

Rows = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def locations(demo: Any) -> list[Rows]:
    """The locations that are no control."""
    slab = demo.manual.ask("ladder", ("location",), ("segment", "ladder", "rung"))
    rows = [slab.unit(n) for n in range(0, len(slab), 3)]
    return [one for one in rows if not (one["reason_code"] == "HOLD_CONTROL").any()]


def policy(rows: Rows, **values: float) -> Rows:
    return rows | {name: np.full(len(rows["price"]), value) for name, value in values.items()}


def ladders_of(rows: Rows) -> list[np.ndarray]:
    return [np.arange(a, b) for a, b in pairwise(key_offsets(rows, ("segment", "ladder")))]


def test_each_ladder_is_the_best_answer_to_the_others_of_its_segment(locations: list[Rows]) -> None:
    """Return the best prices by brute force, with the other ladders' prices and losses fixed."""
    rows = policy(locations[0], diversion=0.4)
    found = optimise_location(rows)
    for at in ladders_of(rows)[:6]:
        segment = np.flatnonzero(rows["segment"] == rows["segment"][at[0]])
        others = np.setdiff1d(segment, at)
        left = unit_margins(rows, found["price"])[others]
        lost = 0.4 * float(left @ rows["volume"][others]) / float(rows["volume"][others].sum())
        assert found["opportunity_cost"][at] == pytest.approx(np.full(len(at), lost))
        points = [
            price_points(rows, i, rows["lowest"][i], rows["highest"][i], found["price"][i])
            for i in at
        ]
        worth = [robust_worth(rows, i, p, lost) for i, p in zip(at, points, strict=True)]
        ordered = {
            pick: sum(w[i] for w, i in zip(worth, pick, strict=True))
            for pick in product(*(range(len(p)) for p in points))
            if in_order(
                np.array([p[i] for p, i in zip(points, pick, strict=True)]), rows["volume_mb"][at]
            )
        }
        got = tuple(
            int(np.flatnonzero(p == found["price"][i])[0]) for p, i in zip(points, at, strict=True)
        )
        assert ordered[got] == pytest.approx(max(ordered.values()), rel=1e-9)


def test_the_more_products_take_from_one_another_the_less_is_discounted(
    locations: list[Rows],
) -> None:
    means = [
        float(
            np.mean(
                [
                    optimise_location(policy(rows, diversion=share))["price"].sum()
                    / rows["current_price"].sum()
                    for rows in locations
                ]
            )
        )
        for share in (0.0, 0.3, 0.7)
    ]
    assert means == sorted(means)
    assert means[0] < means[-1]


def test_rungs_that_pull_at_each_other_are_priced_together(locations: list[Rows]) -> None:
    """Return whether a ladder with cross effects is worth no less than without them."""
    gained = 0
    for rows in locations[:3]:
        pulled = policy(rows, cross_effect=0.5)
        apart, together = optimise_location(rows), optimise_location(pulled)
        for at in ladders_of(rows):
            if "LADDER_OUT_OF_REACH" in (*apart["ladder_bound"][at], *together["ladder_bound"][at]):
                continue
            one, other = (
                worth_with_pull(pulled, at, prices["price"][at]) for prices in (apart, together)
            )
            assert other >= one - 1e-9 * abs(one)
            gained += other > one + 1e-9
        assert (together["opportunity_cost"] != 0).all()
        assert set(together["reason_code"]) >= {"DIVERSION_ADJUSTED"}
    assert gained > 3


def worth_with_pull(rows: Rows, at: np.ndarray, price: np.ndarray) -> float:
    moved = (
        rows["cross_effect"][at] * (price - rows["current_price"][at]) / rows["reference_price"][at]
    )
    beside = np.append(moved[1:], 0.0) + np.append(0.0, moved[:-1])
    own = np.array(
        [robust_worth(rows, i, np.array([p]))[0] for i, p in zip(at, price, strict=True)]
    )
    return float((own * np.exp(beside)).sum())


def test_a_neighbours_new_price_changes_what_a_held_product_sells(locations: list[Rows]) -> None:
    rows = policy(locations[0], cross_effect=0.5)
    found = optimise_location(rows)
    held = (found["price"] == rows["current_price"]) & (found["neighbour_effect"] != 0)
    assert held.any()
    assert found["expected_volume_delta"][held] == pytest.approx(
        rows["volume"][held] * np.expm1(found["neighbour_effect"][held])
    )


def test_without_diversion_nothing_costs_anything_and_prices_are_as_before(
    locations: list[Rows],
) -> None:
    found = optimise_location(locations[0])
    assert not found["opportunity_cost"].any()
    assert not found["neighbour_effect"].any()
    assert (found["price"] != locations[0]["price"]).sum() == (
        found["reason_code"] == "LADDER_ADJUSTED"
    ).sum()


def undercut(rows: Rows) -> tuple[Rows, int, int]:
    """Return a location whose first segment's month of 1000 MB costs as much as the week of it,
    with customers who respond far more to the former."""
    week, month = (
        int(np.flatnonzero(rows["product"] == name)[0]) for name in ("WEEK_1000", "MONTH_1000")
    )
    rows = {name: values.copy() for name, values in rows.items()}
    today = rows["current_price"][week]
    for name, value in {
        "current_price": today,
        "elasticity": -5.0,
        "draw": -5.0,
        "se": 0.1,
        "volume": 60.0,
    }.items():
        rows[name][month] = value
    for at in (week, month):
        rows["lowest"][at], rows["highest"][at] = 0.85 * today, 1.15 * today
    points = price_points(rows, month, rows["lowest"][month], rows["highest"][month], today)
    rows["price"][month] = points[robust_worth(rows, month, points).argmax()]
    return rows, week, month


@pytest.mark.parametrize("cross_effect", [0.0, 0.4])
def test_the_same_size_for_longer_costs_no_less_at_the_best_total_worth(
    locations: list[Rows], cross_effect: float
) -> None:
    """Return the best pair of ladders by brute force over each price of their 1000 MB products."""
    rows, week, month = undercut(policy(locations[0], cross_effect=cross_effect))
    assert rows["price"][month] < rows["price"][week]
    found = optimise_location(rows)
    pair = [next(at for at in ladders_of(rows) if i in at) for i in (week, month)]
    assert "LADDER_OUT_OF_REACH" not in found["ladder_bound"][np.concatenate(pair)]
    best = [best_by_price(rows, at, i) for at, i in zip(pair, (week, month), strict=True)]
    most = max(a + b for p, a in best[0].items() for q, b in best[1].items() if q >= p)
    assert found["price"][month] >= found["price"][week]
    assert (
        found["highest"][week] <= found["lowest"][month]
    )  # so that no limit on the whole table can break it either
    assert found["reason_code"][month] == "LADDER_ADJUSTED"
    if (
        not cross_effect
    ):  # with it, the ladders are settled once more, each for its neighbours' new prices
        assert sum(worth_with_pull(rows, at, found["price"][at]) for at in pair) == pytest.approx(
            most, rel=1e-9
        )


def best_by_price(rows: Rows, at: np.ndarray, one: int) -> dict[float, float]:
    points = [
        price_points(rows, i, rows["lowest"][i], rows["highest"][i], rows["price"][i]) for i in at
    ]
    best: dict[float, float] = {}
    for pick in product(*points):
        if in_order(np.array(pick), rows["volume_mb"][at]):
            price = pick[list(at).index(one)]
            best[price] = max(best.get(price, -np.inf), worth_with_pull(rows, at, np.array(pick)))
    return best


def test_what_is_cheaper_for_longer_today_is_left_to_those_who_made_it_so(
    locations: list[Rows],
) -> None:
    rows, week, month = undercut(locations[0])
    rows["current_price"][month] *= 0.9
    found = optimise_location(rows)
    assert found["price"][month] < found["price"][week]


def test_no_segment_pays_much_more_than_another_for_the_same(locations: list[Rows]) -> None:
    adjusted = 0
    for plain in locations:
        rows = policy(plain, max_segment_ratio=1.2)
        found = optimise_location(rows)
        for name in np.unique(rows["product"].astype(str)):
            at = rows["product"] == name
            lost = np.isin(
                found["ladder_bound"][at], ["FAIRNESS_OUT_OF_REACH", "LADDER_OUT_OF_REACH"]
            ).any()
            assert lost or found["price"][at].max() <= 1.2 * found["price"][at].min() + 1e-6
        adjusted += int((found["reason_code"] == "FAIRNESS_ADJUSTED").sum())
        assert (found["price"] >= rows["lowest"] - 1e-9).all()
        assert (found["price"] <= rows["highest"] + 1e-9).all()
    assert adjusted > 0


@settings(max_examples=60)
@given(
    st.lists(
        st.dictionaries(st.integers(10, 30), st.integers(-50, 50), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([1.0, 1.2, 1.5]),
)
def test_the_band_is_what_brute_force_finds(segments: list[dict[int, int]], ratio: float) -> None:
    points = [np.array(sorted(menu), dtype=float) for menu in segments]
    values = [
        np.array([float(menu[int(p)]) for p in prices])
        for menu, prices in zip(segments, points, strict=True)
    ]
    fair = {
        pick: sum(menu[p] for menu, p in zip(segments, pick, strict=True))
        for pick in product(*segments)
        if max(pick) <= ratio * min(pick) + 1e-9
    }
    found = band(points, values, ratio)
    if fair:
        assert sum(menu[int(p)] for menu, p in zip(segments, found.prices, strict=True)) == max(
            fair.values()
        )
        assert found.prices.max() <= ratio * found.prices.min() + 1e-9
    else:
        assert (found.prices > found.highest).any() or (found.prices < found.lowest).any()


def test_a_table_is_valid_from_midnight_where_its_customers_are(locations: list[Rows]) -> None:
    rows = locations[0] | {
        "as_of": np.full(len(locations[0]["price"]), np.datetime64("2026-03-27T23:30", "us"))
    }
    for zone, start, end in (
        ("UTC", "2026-03-28T00:00", "2026-04-04T00:00"),
        ("Africa/Accra", "2026-03-28T00:00", "2026-04-04T00:00"),
        (
            "Africa/Johannesburg",
            "2026-03-28T22:00",
            "2026-04-04T22:00",
        ),  # it is the 28th there already
        ("Europe/Berlin", "2026-03-28T23:00", "2026-04-04T22:00"),  # clocks go forward on the 29th
    ):
        found = optimise_location(
            rows | {"time_zone": np.full(len(rows["price"]), zone, dtype=object)}
        )
        assert found["valid_from"][0] == np.datetime64(start)
        assert found["valid_to"][0] == np.datetime64(end)
        assert str(found["valid_from_local"][0])[11:19] == "00:00:00"
        assert str(found["valid_to_local"][0])[11:19] == "00:00:00"


def test_a_time_zone_that_is_none_is_named(locations: list[Rows]) -> None:
    with pytest.raises(
        ValueError, match=r"'Accra' is not known; wanted an IANA name such as Africa/Accra"
    ):
        optimise_location(
            locations[0] | {"time_zone": np.full(len(locations[0]["price"]), "Accra", dtype=object)}
        )
