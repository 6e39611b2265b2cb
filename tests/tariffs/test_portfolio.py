"""Limits on the whole table: met at small cost within the connections of prices, or refused."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tariffs.columns import key_offsets
from tariffs.optimise.chains import Chains, DayConstraint, LadderConstraint
from tariffs.optimise.column_generation import Limit, LimitsNotMet
from tariffs.optimise.ladder import in_order
from tariffs.optimise.portfolio import solve
from tariffs.optimise.smooth import cliffs, excess, following_hour
from tariffs.pricing.joint import beyond_mode
from tariffs.pricing.portfolio_limits import (
    apply_portfolio_limits,
    chains_of,
    limits_of,
    menu,
    within_limits,
)

Rows = dict[str, np.ndarray]


def rows_of(priced: Any, kind: str, **limits: float) -> Rows:
    """The rows that the portfolio gets where the policy says this."""
    duck = priced.manual.duck
    duck.execute("BEGIN")
    try:
        for name, value in limits.items():
            duck.execute(f"UPDATE policy SET {name} = ? WHERE kind = ?", [value, kind])
        slab = priced.manual.ask("portfolio", ("kind",), ("chain", "position"))
    finally:
        duck.execute("ROLLBACK")
    found: Rows = slab.unit(["bundle", "voice"].index(kind))
    return found


def settled(rows: Rows) -> np.ndarray:
    """The prices after the limits."""
    found = within_limits(rows)
    new = dict(zip(found["unit_key"], found["price"], strict=True))
    return np.array(
        [new.get(key, price) for key, price in zip(rows["unit_key"], rows["price"], strict=True)]
    )


def measured(rows: Rows, price: np.ndarray) -> dict[str, float]:
    ratio = price / rows["current_price"]
    expected = rows["elasticity"] * (ratio - 1) + beyond_mode(rows, price)
    sold = np.minimum(rows["volume"] * np.exp(expected), rows["capacity"])
    now = np.minimum(rows["volume"], rows["capacity"])
    return {
        "max_moved_share": float((ratio != 1).mean()),
        "max_mean_change": float(abs((ratio - 1).mean())),
        "min_volume": float(sold.sum() / now.sum()),
        "margin": float((sold * (price - rows["unit_cost"])).sum()),
    }


def holds_together(rows: Rows, price: np.ndarray) -> bool:
    """Units keep their limits, ladders their order, and days get no steeper."""
    assert (price >= rows["lowest"] - 1e-9).all()
    assert (price <= rows["highest"] + 1e-9).all()
    on_tick = np.abs(price / rows["price_tick"] - np.round(price / rows["price_tick"])) < 1e-6
    assert (on_tick | (price == rows["current_price"]) | (price == rows["price"])).all()
    for first, end in pairwise(key_offsets(rows, ("chain",))):
        at = slice(first, end)
        if rows["kind"][0] == "bundle":
            assert (
                in_order(price[at], rows["volume_mb"][at]) or (price[at] == rows["price"][at]).all()
            )
        else:
            linked, limit = following_hour(rows["position"][at]), rows["max_cliff"][first]
            steep, was = (
                float((excess(p[at], np.roll(p[at], -1), limit) * linked).sum())
                for p in (price, rows["price"])
            )
            assert steep <= was + 1e-9
            assert was > 0 or not cliffs(price[at], linked, limit).any()
    return True


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("bundle", {"max_moved_share": 0.35}),
        ("bundle", {"max_mean_change": 0.01}),
        ("bundle", {"min_volume": 1.17}),
        ("bundle", {"max_revenue_risk": 0.0005}),
        ("bundle", {"max_moved_share": 0.5, "min_volume": 1.15}),
        ("bundle", {"max_moved_share": 0.4, "max_mean_change": 0.02, "max_revenue_risk": 0.0006}),
        ("voice", {"max_moved_share": 0.5}),
        ("voice", {"max_mean_change": 0.2}),
        ("voice", {"min_volume": 0.95}),
        ("voice", {"max_moved_share": 0.6, "min_volume": 0.92}),
    ],
)
def test_every_limit_is_met_and_nothing_else_is_broken(
    demo: Any, kind: str, limits: dict[str, float]
) -> None:
    rows = rows_of(demo, kind, **limits)
    price = settled(rows)
    got = measured(rows, price)
    assert got["max_moved_share"] <= limits.get("max_moved_share", 1)
    assert got["max_mean_change"] <= limits.get("max_mean_change", 9) + 1e-9
    assert got["min_volume"] >= limits.get("min_volume", 0) - 1e-9
    prices, _ = menu(rows)
    at = np.argmin(np.abs(prices - price[:, None]), axis=1)
    assert all(limit.excess(at) <= 0 for limit in limits_of(rows, prices))
    assert holds_together(rows, price)
    assert (price != rows["price"]).any()


def test_a_limit_is_not_met_by_more_than_it_must(demo: Any) -> None:
    rows = rows_of(demo, "bundle", max_moved_share=0.35)
    assert measured(rows, settled(rows))["max_moved_share"] > 0.345
    rows = rows_of(demo, "bundle", min_volume=1.17)
    assert measured(rows, settled(rows))["min_volume"] < 1.172


def test_the_units_that_still_move_are_the_ones_worth_most(demo: Any) -> None:
    rows = rows_of(demo, "bundle", max_moved_share=0.3)
    free, few = measured(rows, rows["price"]), measured(rows, settled(rows))
    base = measured(rows, rows["current_price"])["margin"]
    assert few["max_moved_share"] < 0.55 * free["max_moved_share"]
    assert few["margin"] - base > 0.75 * (free["margin"] - base)


def test_limits_that_are_met_already_change_nothing(demo: Any) -> None:
    assert (
        len(within_limits(rows_of(demo, "bundle", max_moved_share=1.0, min_volume=0.5))["price"])
        == 0
    )
    assert (
        len(rows_of(demo, "bundle")["price"]) == 1
    )  # without a limit the query asks for no more than it must


def test_keeping_limits_twice_changes_nothing(demo: Any) -> None:
    for kind in ("bundle", "voice"):
        rows = rows_of(demo, kind, max_moved_share=0.5, max_mean_change=0.3)
        price = settled(rows)
        assert len(within_limits(rows | {"price": price})["price"]) == 0


def test_a_limit_that_cannot_be_met_is_named_with_the_best_that_can(demo: Any) -> None:
    with pytest.raises(
        ValueError, match=r"cannot keep min_volume: wanted at least 2, and 1\.\d+ is the most"
    ):
        within_limits(rows_of(demo, "bundle", min_volume=2.0))
    with pytest.raises(
        ValueError,
        match=r"together: .*max_moved_share.*min_volume|together: .*min_volume.*max_moved_share",
    ):
        within_limits(rows_of(demo, "bundle", min_volume=1.17, max_moved_share=0.15))


small = st.lists(
    st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 9)), min_size=1, max_size=4),
    min_size=1,
    max_size=6,
)


@given(small, st.integers(0, 40))
def test_dual_prices_lose_less_than_one_units_choice_against_brute_force(
    units: list[list[tuple[int, int]]], most: int
) -> None:
    """The gap of a Lagrangian over discrete choices is at most the difference between the options
    of the units that are indifferent at the limit's price: of one unit, except for ties."""
    width = max(map(len, units))
    values = np.array(
        [[value for value, _ in menu] + [-np.inf] * (width - len(menu)) for menu in units],
        dtype=float,
    )
    amounts = np.array(
        [[amount for _, amount in menu] + [0] * (width - len(menu)) for menu in units], dtype=float
    )
    within = {p: sum(v for v, _ in p) for p in product(*units) if sum(a for _, a in p) <= most}
    limit = Limit("most", amounts, float(most), 1.0)
    if not within:
        with pytest.raises(ValueError, match="cannot keep most"):
            solve(values, [limit], lambda score: score.argmax(axis=1))
        return
    kept = solve(values, [limit], lambda score: score.argmax(axis=1))
    assert limit.total(kept.pick) <= most
    got = values[np.arange(len(units)), kept.pick].sum()
    widths = np.array([max(v for v, _ in menu) - min(v for v, _ in menu) for menu in units])
    score = np.sort(values - kept.duals[0] * amounts, axis=1)
    tied = (
        score[:, -1] - score[:, -2] <= 1e-3 * (1 + kept.duals[0])
        if width > 1
        else np.zeros(len(units), bool)
    )
    gap = max(widths.max(), widths[tied].sum())
    assert max(within.values()) - gap * (1 + 1e-9) <= got <= max(within.values()) + 1e-9


def test_units_that_tie_at_the_limits_price_may_move_one_by_one() -> None:
    """Two units that are alike answer any price alike, and only one of them has room."""
    alike = [(3, 3), (15, 9), (0, 9), (20, 9)]
    units = [
        alike,
        [(-16, 7), (-17, 0), (-10, 6)],
        [(2, 2), (-15, 1), (-19, 9)],
        [(-10, 0), (-13, 4), (5, 3)],
        alike,
        [(-10, 3), (2, 7), (-19, 5), (-10, 7)],
    ]
    width = max(map(len, units))
    values = np.array(
        [[v for v, _ in menu] + [-np.inf] * (width - len(menu)) for menu in units], dtype=float
    )
    amounts = np.array(
        [[a for _, a in menu] + [0] * (width - len(menu)) for menu in units], dtype=float
    )
    kept = solve(values, [Limit("most", amounts, 26.0, 1.0)], best_point)
    assert kept.worth == values[np.arange(len(units)), kept.pick].sum() == 20


def best_point(score: np.ndarray) -> np.ndarray:
    return np.asarray(score.argmax(axis=1))


amount = st.integers(-9, 9)
two_sided = st.lists(
    st.lists(st.tuples(st.integers(-20, 20), amount, amount), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150)
@given(two_sided, st.integers(-4, 20), st.integers(-4, 20), st.integers(0, 12))
def test_several_limits_are_kept_at_the_most_worth_that_brute_force_finds(
    units: list[list[tuple[int, int, int]]], first: int, second: int, least: int
) -> None:
    """With amounts of either sign and two-sided limits, only impossible limits are refused, and no
    bound is too low."""
    width = max(map(len, units))
    values = np.array(
        [[v for v, _, _ in menu] + [-np.inf] * (width - len(menu)) for menu in units], dtype=float
    )
    one, other = (
        np.array(
            [[point[n] for point in menu] + [0] * (width - len(menu)) for menu in units],
            dtype=float,
        )
        for n in (1, 2)
    )
    limits = [
        Limit("a", one, float(first), 1.0),
        Limit("b", other, float(second), 2.0),
        Limit("b", -other, float(least), 2.0),
    ]
    choices = [
        p
        for p in product(*units)
        if sum(x for _, x, _ in p) <= first and -least <= sum(x for _, _, x in p) <= second
    ]
    if not choices:
        with pytest.raises(LimitsNotMet, match="cannot keep"):
            solve(values, limits, best_point)
        return
    best = max(sum(v for v, _, _ in p) for p in choices)
    kept = solve(values, limits, best_point)
    assert all(limit.excess(kept.pick) <= 0 for limit in limits)
    assert kept.worth == values[np.arange(len(units)), kept.pick].sum() == best
    assert best - 1e-6 <= kept.bound <= best + 1e-6
    at_duals = (
        (values - sum(d * limit.amounts for d, limit in zip(kept.duals, limits, strict=True)))
        .max(axis=1)
        .sum()
    )
    assert (
        at_duals + sum(d * limit.most for d, limit in zip(kept.duals, limits, strict=True))
        >= best - 1e-6
    )  # Lagrange's bound


@settings(max_examples=60)
@given(st.data())
def test_limits_over_ladders_hold_and_their_bound_is_none_too_low(data: st.DataObject) -> None:
    """The result is in order, within the limits and below the bound: brute force over 3 ladders."""
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    offsets, units, points = np.append(0, np.cumsum(sizes)), sum(sizes), 3
    draw = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    prices = 0.005 * np.sort(draw.integers(1, 20, (units, points)), axis=1).astype(float)
    values = draw.normal(0, 10, (units, points))
    volume = np.concatenate([50.0 * 2.0 ** np.arange(size) for size in sizes])
    chains = Chains(
        offsets,
        prices,
        LadderConstraint(volume),
        np.zeros(len(sizes), dtype=bool),
        np.full(units, points),
    )
    moved, drift = (np.arange(points) > 0) * np.ones((units, 1)), draw.normal(0, 1, (units, points))
    limits = [
        Limit("moved", moved, float(draw.integers(0, units)), units),
        Limit("drift", drift, float(draw.uniform(-1, 1)), units),
    ]
    ordered = [
        np.array(pick)
        for pick in product(range(points), repeat=units)
        if all(
            in_order(prices[np.arange(a, b), pick[a:b]], volume[a:b]) for a, b in pairwise(offsets)
        )
    ]
    if len(ordered) == 0 or not all(
        np.array_equal(chains.answer(np.eye(points)[pick]), pick) for pick in ordered[:3]
    ):
        return  # a ladder that no choice orders
    within = [pick for pick in ordered if all(limit.excess(pick) <= 0 for limit in limits)]
    try:
        kept = solve(values, limits, chains.answer, offsets=offsets)
    except LimitsNotMet:
        held = np.zeros(units, dtype=int)
        assert not any(np.array_equal(held, pick) for pick in within)
        return
    assert any(np.array_equal(kept.pick, pick) for pick in within)
    best = max(values[np.arange(units), pick].sum() for pick in within)
    assert kept.worth <= best + 1e-9 <= kept.bound + 1e-6


@pytest.mark.parametrize("units", [50, 300, 2000])
def test_holding_everything_is_tried_and_the_gap_is_that_of_a_few_units(units: int) -> None:
    """Point 0 meets both limits; the result is near the bound, and nearer with more units."""
    rng = np.random.default_rng(3)
    gaps = []
    for _ in range(12):
        values, drift = rng.normal(0, 10, (units, 5)), rng.normal(0, 1, (units, 5))
        values[:, 0] = drift[:, 0] = 0
        moved = (np.arange(5) > 0) * np.ones((units, 1))
        limits = [
            Limit("moved", moved, float(rng.uniform(0.05, 0.6)) * units, units),
            Limit("drift", drift, float(rng.uniform(0, 0.1)) * units, units),
        ]
        kept = solve(values, limits, best_point)
        assert all(limit.excess(kept.pick) <= 0 for limit in limits)
        gaps.append(kept.gap / kept.bound)
    assert min(gaps) >= 0
    assert np.mean(gaps) < 0.3 / units
    assert max(gaps) < 1.0 / units


def test_where_only_holding_everything_keeps_the_limits_it_is_held() -> None:
    """A mean change of 0 with odd amounts: mixtures meet it, and only today's table does."""
    rng = np.random.default_rng(11)
    values, drift = rng.normal(0, 10, (200, 5)), rng.normal(0, 1, (200, 5))
    values[:, 0] = drift[:, 0] = 0
    limits = [Limit("mean", drift, 0.0, 200.0), Limit("mean", -drift, 0.0, 200.0)]
    assert not solve(values, limits, best_point).pick.any()
    assert not solve(values, limits, best_point, hold=np.zeros(200, dtype=int)).pick.any()


def test_room_that_is_left_is_used_by_single_moves_and_by_pairs() -> None:
    """With too many units for an exact search, worth is near the bound."""
    gaps = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        values, amounts = rng.lognormal(0, 0.05, (1500, 4)), rng.lognormal(0, 1.0, (1500, 4))
        values[:, 0] = amounts[:, 0] = 0
        kept = solve(values, [Limit("most", amounts, 300.0, 1.0)], best_point)
        assert (amounts[np.arange(1500), kept.pick]).sum() <= 300 + 1e-6
        gaps.append(kept.gap)
    assert np.mean(gaps) < 0.4  # a unit is worth about 1; without moves 0.67


def test_many_units_that_are_all_alike_are_filled_up_to_the_limit() -> None:
    """They all answer a price alike, so no price of the limit is right for them."""
    values, amounts = np.tile([0.0, 5.0], (30_000, 1)), np.tile([0.0, 1.0], (30_000, 1))
    kept = solve(values, [Limit("moved", amounts, 12_345.0, 1.0)], best_point)
    assert kept.pick.sum() == 12_345
    assert kept.gap == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("bundle", {"max_moved_share": 0.35}),
        ("bundle", {"max_moved_share": 0.4, "max_mean_change": 0.02, "max_revenue_risk": 0.0006}),
        ("voice", {"max_moved_share": 0.6, "min_volume": 0.97}),
    ],
)
def test_the_gap_of_a_whole_table_is_reported_and_small_beside_the_gain(
    demo: Any, kind: str, limits: dict[str, float]
) -> None:
    rows = rows_of(demo, kind, **limits)
    found = apply_portfolio_limits(rows)
    own = {name: values[-1] for name, values in found.items()}
    assert (own["unit_key"], own["outcome"], own["limits"]) == ("", "kept", ", ".join(limits))
    price = settled(rows)
    margin, still = (measured(rows, p)["margin"] for p in (rows["price"], rows["current_price"]))
    assert 0 <= own["worth_bound"] - own["worth"] < 0.005 * (margin - still)
    assert (
        own["worth"] <= measured(rows, price)["margin"] + 1e-6
    )  # the worth is at each price's least favourable elasticity


def test_limits_that_cannot_be_met_keep_todays_prices_and_are_reported(demo: Any) -> None:
    rows = rows_of(demo, "bundle", min_volume=2.0)
    found = apply_portfolio_limits(rows)
    assert found["outcome"][-1].startswith(
        "NOT MET, today's prices stay: the table cannot keep min_volume: wanted at least 2, and 1."
    )
    new = dict(zip(found["unit_key"], found["price"], strict=True))
    price = np.array(
        [new.get(key, p) for key, p in zip(rows["unit_key"], rows["price"], strict=True)]
    )
    free = (rows["lowest"] <= rows["current_price"]) & (rows["current_price"] <= rows["highest"])
    assert np.array_equal(price[free], rows["current_price"][free])
    assert (price >= rows["lowest"] - 1e-9).all()
    assert (price <= rows["highest"] + 1e-9).all()
    assert (rows["price"] != rows["current_price"]).mean() > 0.3
    stays = found["price"] == np.append(
        [
            dict(zip(rows["unit_key"], rows["current_price"], strict=True))[k]
            for k in found["unit_key"][:-1]
        ],
        np.nan,
    )
    assert list(found["reason_code"][:-1]) == [
        "HOLD_PORTFOLIO" if same else "PORTFOLIO_RESTORED" for same in stays[:-1]
    ]
    assert set(found["portfolio_bound"][:-1]) == {"LIMITS_NOT_MET"}


def test_a_held_price_beyond_its_limits_has_a_code_of_its_own(demo: Any) -> None:
    rows = {
        name: np.array(values) for name, values in rows_of(demo, "bundle", min_volume=2.0).items()
    }
    first = int(np.flatnonzero(rows["price"] <= rows["current_price"])[0])
    low = rows["current_price"].copy()
    low[first] = rows["lowest"][first] = rows["price"][first] = rows["current_price"][first] * 0.5
    rows["lowest"] = np.where(
        np.arange(len(low)) == first, low[first] + rows["price_tick"][first], rows["lowest"]
    )
    found = apply_portfolio_limits(rows | {"current_price": low})
    at = int(np.flatnonzero(found["unit_key"] == rows["unit_key"][first])[0])
    assert found["price"][at] > low[first]
    assert (found["reason_code"][at], found["portfolio_bound"][at]) == (
        "PORTFOLIO_RESTORED",
        "LIMITS_NOT_MET",
    )


def test_a_limit_on_the_whole_table_is_not_for_a_part_of_it(demo: Any) -> None:
    duck = demo.manual.duck
    duck.execute("BEGIN")
    try:
        duck.execute(
            "INSERT INTO policy BY NAME SELECT * REPLACE ('YOUTH' AS scope,"
            " 0.1 AS max_moved_share) FROM policy WHERE kind = 'bundle'"
        )
        slab = demo.manual.ask("portfolio", ("kind",), ("chain", "position"))
    finally:
        duck.execute("ROLLBACK")
    with pytest.raises(
        ValueError,
        match=r"row of YOUTH limits the whole table; wanted in the row with the scope \*",
    ):
        within_limits(slab.unit(0))
    assert len(within_limits(slab.unit(1))["price"]) == 0


@settings(max_examples=40)
@given(st.data(), st.booleans())
def test_chains_solved_all_at_once_are_what_brute_force_finds(
    data: st.DataObject, ring: bool
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    offsets = np.append(0, np.cumsum(sizes))
    prices = 0.005 * np.array(
        [[data.draw(st.integers(1, 20)) for _ in range(3)] for _ in range(offsets[-1])], dtype=float
    )
    score = np.array([[float(data.draw(st.integers(-30, 30))) for _ in range(3)] for _ in prices])
    volume = np.concatenate([50.0 * 2.0 ** np.arange(size) for size in sizes])
    hour = np.concatenate([np.array([22, 23, 0, 1])[:size] for size in sizes])
    tie = DayConstraint(hour, np.full(len(prices), 0.02)) if ring else LadderConstraint(volume)
    pick = Chains(
        offsets, prices, tie, np.zeros(len(sizes), dtype=bool), np.full(len(prices), 3)
    ).answer(score)
    for first, end in pairwise(offsets):
        judged = {
            at: judge(
                prices[first:end], score[first:end], volume[first:end], hour[first:end], at, ring
            )
            for at in product(range(3), repeat=end - first)
        }
        assert judged[tuple(pick[first:end])] == max(judged.values())


def judge(
    prices: np.ndarray,
    score: np.ndarray,
    volume: np.ndarray,
    hour: np.ndarray,
    at: tuple[int, ...],
    ring: bool,
) -> tuple[float, float]:
    price = prices[np.arange(len(at)), at]
    worth = float(score[np.arange(len(at)), at].sum())
    if ring:
        return -round(
            float((excess(price, np.roll(price, -1), 0.02) * following_hour(hour)).sum()), 9
        ), worth
    pairs = [in_order(price[i : i + 2], volume[i : i + 2]) for i in range(len(at) - 1)]
    return -float(len(pairs) - sum(pairs)), worth


def test_ladders_without_an_order_in_reach_keep_their_prices(demo: Any) -> None:
    rows = rows_of(demo, "bundle", max_moved_share=0.3)
    first = rows | {
        "group_bound": np.where(
            rows["chain"] == rows["chain"][0], "LADDER_OUT_OF_REACH", ""
        ).astype(object)
    }
    price = settled(first)
    out = first["chain"] == first["chain"][0]
    assert np.array_equal(price[out], rows["price"][out])
    assert chains_of(first, *menu(first)).loose[0]
