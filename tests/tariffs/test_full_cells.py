"""Full cells: demand beyond capacity earns nothing, so margin is (p - c) min(mu(p), C)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from tariffs.evaluation import true_value as money
from tariffs.evaluation.product_lines import VOICE
from tariffs.evaluation.run_data import columns
from tariffs.optimise.exploration import margin_at_risk
from tariffs.optimise.rule import (
    MAX_P_GAIN,
    Demand,
    Terms,
    choose,
    effect,
    effect_columns,
    expected_loss,
    robust_ratio,
)
from tariffs.synthetic import Size
from tariffs.synthetic.scenarios import OFF, Switches
from tariffs.synthetic.voice import DAY_TYPES, voice_block
from tariffs.synthetic.write import generate

QUANTILES = norm.ppf(
    (np.arange(40_000) + 0.5) / 40_000
)  # of the standard normal, evenly: an integral without chance

elasticities, doubts, costs = st.floats(-4.0, -0.3), st.floats(0.01, 0.8), st.floats(0.0, 0.6)
rooms = st.floats(0.4, 2.5)  # capacity over today's demand: below 1 the cell is full


def terms_of(
    current: float = 1.0, cost: float = 0.05, z: float = 0.84, tick: float = 0.05
) -> Terms:
    return Terms(
        *(np.array([value]) for value in (current, 1.0, cost, tick, tick, 200 * tick, 100.0, z))
    )


def demand_of(b: float, sd: float, room: float, volume: float = 100.0) -> Demand:
    return Demand(np.array([b]), np.array([sd]), np.array([volume]), np.array([room * volume]))


def worst(ratio: np.ndarray, b: float, doubt: float, kappa: float, room: float) -> np.ndarray:
    """The least margin over the two ends of the interval, per unit of today's demand."""
    ends = (
        (ratio - kappa) * np.minimum(np.exp((b + sign * doubt) * (ratio - 1)), room)
        for sign in (-1, 1)
    )
    return np.minimum(*ends)


@given(elasticities, doubts, costs, st.floats(0.0, 2.0), rooms)
def test_the_optimum_of_a_cell_is_the_one_of_a_grid(
    b: float, sd: float, kappa: float, z: float, room: float
) -> None:
    ratio = float(robust_ratio(demand_of(b, sd, room), np.array([kappa]), np.array([z]))[0])
    grid = np.arange(kappa + 0.001, 25, 0.001)
    values = worst(grid, b, z * sd, kappa, room)
    assume(kappa + 0.01 < ratio < 24)
    assert float(worst(np.array([ratio]), b, z * sd, kappa, room)[0]) >= values.max() - 1e-9
    assert ratio == pytest.approx(grid[values.argmax()], abs=0.0011)


@given(
    elasticities,
    doubts,
    st.floats(0.0, 0.5),
    st.floats(0.0, 2.0),
    rooms,
    st.integers(8, 60),
    st.sampled_from([0.05, 0.1]),
)
def test_no_price_point_is_better_in_a_cell_of_any_load(
    b: float, sd: float, cost: float, z: float, room: float, current: int, tick: float
) -> None:
    price = round(current * tick, 6)
    terms, kappa = terms_of(price, cost, z, tick), cost / price
    assume(kappa < 0.9)
    points = np.round(np.arange(1, 201) * tick, 6)
    best = worst(points / price, b, z * sd, kappa, room).max()
    found = choose(terms, demand_of(b, sd, room), np.array([False])).price
    assert float(worst(found / price, b, z * sd, kappa, room)[0]) >= best - 2e-9


@given(elasticities, doubts, st.floats(0.0, 0.5), st.floats(0.0, 2.0), st.floats(0.4, 0.95))
def test_a_full_cell_gets_no_discount_and_is_raised_until_it_fits(
    b: float, sd: float, kappa: float, z: float, room: float
) -> None:
    demand = demand_of(b, sd, room)
    ratio = float(robust_ratio(demand, np.array([kappa]), np.array([z]))[0])
    assert ratio >= 1 + np.log(room) / min(b - z * sd, -0.05) - 1e-12
    lower = effect(np.array([0.9]), terms_of(cost=kappa), demand)
    assert lower.margin[0] < 0
    assert lower.volume[0] == 0
    assert lower.p_gain[0] == 0


@given(elasticities, doubts, st.floats(0.0, 1.3), rooms, st.floats(0.3, 3.0))
def test_p_gain_of_a_cell_is_the_share_of_elasticities_that_gain(
    b: float, sd: float, kappa: float, room: float, ratio: float
) -> None:
    """Against an integral over the posterior, for full cells and others, raises and cuts."""
    assume(abs(ratio - 1) > 0.01 and abs(ratio - kappa) > 1e-3 and abs(1 - kappa) > 1e-3)
    beta = b + sd * QUANTILES
    # an elasticity above 0 is out of scope: the rule assumes that demand falls with the price
    beta = np.minimum(beta, -1e-9) if kappa >= 1 else beta
    gains = (ratio - kappa) * np.minimum(np.exp(beta * (ratio - 1)), room) > (1 - kappa) * min(
        1.0, room
    ) * (1 + 1e-12)
    found = effect(np.array([ratio]), terms_of(cost=kappa), demand_of(b, sd, room)).p_gain[0]
    assert found == pytest.approx(min(gains.mean(), MAX_P_GAIN), abs=1e-3)


def test_p_gain_of_a_full_cell_is_what_chance_states() -> None:
    rng = np.random.default_rng(5)
    for b, sd, kappa, room, ratio in (
        (-1.6, 0.4, 0.05, 0.8, 1.15),
        (-2.5, 0.6, 0.1, 0.9, 1.3),
        (-1.2, 0.3, 0.05, 1.05, 0.8),
    ):
        gains = (ratio - kappa) * np.minimum(
            np.exp(rng.normal(b, sd, 400_000) * (ratio - 1)), room
        ) > (1 - kappa) * min(1, room)
        found = effect(np.array([ratio]), terms_of(cost=kappa), demand_of(b, sd, room)).p_gain[0]
        assert 0 < gains.mean() < 1 or room > 1
        assert found == pytest.approx(gains.mean(), abs=0.003)


def test_a_rise_to_where_the_cell_just_fits_gains_for_certain() -> None:
    demand = demand_of(-1.5, 0.0, 0.8)
    fits = float(1 + np.log(0.8) / -1.5)
    found = effect(np.array([fits]), terms_of(), demand)
    assert found.p_gain[0] == MAX_P_GAIN
    assert found.volume[0] == pytest.approx(0)
    assert found.margin[0] == pytest.approx(80 * (fits - 1))


def test_the_deltas_of_a_cell_have_the_interval_of_what_can_be_sold() -> None:
    for room, price in ((0.8, 1.15), (1.1, 0.85), (0.95, 1.4)):
        beta = -1.6 + 0.3 * QUANTILES
        sold, now = np.minimum(100 * np.exp(beta * (price - 1)), 100 * room), 100 * min(room, 1.0)
        found = effect_columns(np.array([price]), terms_of(), demand_of(-1.6, 0.3, room))
        drawn = {
            "volume": sold - now,
            "revenue": price * sold - now,
            "margin": (price - 0.05) * sold - 0.95 * now,
        }
        for name, values in drawn.items():
            ends = found[f"expected_{name}_delta_lo"][0], found[f"expected_{name}_delta_hi"][0]
            assert ends == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])), abs=0.05)
            assert ends[0] <= found[f"expected_{name}_delta"][0] <= ends[1]


@given(elasticities, doubts, costs, st.floats(0.0, 2.0), st.floats(0.5, 2.0))
def test_where_no_cell_is_full_no_bit_changes(
    b: float, sd: float, cost: float, z: float, price: float
) -> None:
    without = Demand(np.array([b]), np.array([sd]), np.array([100.0]))
    for capacity in (np.inf, 1e18):
        ample = replace(without, capacity=np.array([capacity]))
        one, other = (
            choose(terms_of(1.0, cost, z), demand, np.array([False])) for demand in (without, ample)
        )
        assert (one.price.tobytes(), one.bound[0]) == (other.price.tobytes(), other.bound[0])
        results = [
            effect_columns(np.array([price]), terms_of(1.0, cost, z), demand)
            for demand in (without, ample)
        ]
        assert all(results[0][name].tobytes() == results[1][name].tobytes() for name in results[0])


@given(st.floats(1.0, 200.0), st.floats(1.0, 200.0), st.floats(0.01, 1.0), st.floats(1.0, 200.0))
def test_the_expected_loss_under_a_ceiling_is_its_integral(
    before: float, after: float, spread: float, most: float
) -> None:
    drawn = np.minimum(after * np.exp(spread * QUANTILES), most)
    found = expected_loss(
        np.array([before]), np.array([after]), np.array([spread]), np.array([most])
    )[0]
    assert found == pytest.approx(np.maximum(before - drawn, 0).mean(), abs=2e-3 * before)


def test_what_a_trial_may_lose_is_counted_on_what_can_be_sold() -> None:
    for room, price in ((0.8, 0.9), (0.8, 1.2), (1.05, 0.7), (0.8, 0.04)):
        demand, terms = demand_of(-1.4, 0.4, room), terms_of(cost=0.05)
        sold = np.minimum(100 * np.exp((-1.4 + 0.4 * QUANTILES) * (price - 1)), 100 * room)
        lost = np.maximum(95 * min(room, 1) - (price - 0.05) * sold, 0).mean()
        assert margin_at_risk(np.array([price]), terms, demand)[0] == pytest.approx(
            lost, rel=2e-3, abs=2e-2
        )


# the generator


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000),
    st.booleans(),
    st.sampled_from([OFF, Switches(endog=1.0, ar=0.5, shift=0.4)]),
)
def test_no_row_carries_more_than_its_cell(seed: int, cap: bool, market: Switches) -> None:
    block = voice_block(seed, Size(2, 3, 12, "parquet"), 0, replace(market, cap=cap))
    rows = block.usage.join(block.cells, ["cell", "hour"])
    days = np.array([DAY_TYPES[kind] for kind in rows["day_type"].to_pylist()])
    room = rows["capacity_minutes"].to_numpy() * days
    assert (rows["minutes"].to_numpy() <= room).all()
    if not cap:
        assert pc.sum(block.usage["blocked"]).as_py() == 0


@pytest.mark.parametrize("cap", [False, True])
def test_no_row_of_the_files_carries_more_than_its_cell_dirt_and_all(
    tmp_path: Path, cap: bool
) -> None:
    paths = generate(Size(4, 8, 16, "parquet"), tmp_path, seed=3, switches=Switches(cap=cap))
    usage, cells = (pq.read_table(paths.sources[name][0]) for name in ("voice_usage", "cell_load"))
    rows = usage.join(cells, ["cell", "hour"]).to_pydict()
    room = np.array(
        [
            c and c * DAY_TYPES[d]
            for c, d in zip(rows["capacity_minutes"], rows["day_type"], strict=True)
        ],
        dtype=float,
    )
    known = room > 0  # some capacities are left out: that is dirt too
    assert known.mean() > 0.9
    assert (np.array(rows["minutes"])[known] <= room[known]).all()


# the whole table


def test_the_money_of_full_cells_has_the_sign_and_size_of_the_truth(demo: Any) -> None:
    """Promised and true gains of cells that are full at today's price."""
    p, slab = demo.voice_prices, demo.voice
    truth = {
        (r["cell"], r["hour"], r["day_type"]): r
        for r in pq.read_table(demo.manual.truth / "voice.parquet").to_pylist()
    }
    known = [
        truth[key] for key in zip(*(slab.keys[name].tolist() for name in VOICE.key), strict=True)
    ]
    last = slab.offsets[1:] - 1
    beta, scale = (
        np.array([t["beta"] for t in known]),
        slab["active_subs"][last] * np.exp([t["level"] for t in known]),
    )

    def margin(price: np.ndarray) -> np.ndarray:
        found: np.ndarray = (price - p["unit_cost"]) * np.minimum(
            scale * np.exp(beta * (price / p["reference_price"] - 1)), p["capacity"]
        )
        return found

    full = (p["volume"] > p["capacity"]) & (p["price"] > p["current_price"])
    true = (margin(p["price"]) - margin(p["current_price"]))[full]
    assert full.sum() >= 10
    assert true.sum() > 0
    assert p["expected_margin_delta"][full].sum() == pytest.approx(true.sum(), rel=0.25)
    moved = p["price"] != p["current_price"]
    gained = (margin(p["price"]) > margin(p["current_price"]))[moved]
    assert p["p_gain"][moved].mean() == pytest.approx(gained.mean(), abs=0.03)


def test_blocked_minutes_before_and_after_are_in_the_table(demo: Any) -> None:
    rows = demo.manual.columns(
        (Path(money.__file__).parents[1] / "queries/price_table.sql").read_text()
    )
    voice = rows["kind"] == "voice"
    assert np.isnan(rows["expected_blocked_minutes"][~voice]).all()
    t = {name: values[voice] for name, values in rows.items()}
    v = demo.manual.columns("SELECT * FROM voice ORDER BY cell, hour, day_type")
    room = dict(
        zip(
            zip(v["cell"], v["hour"], v["day_type"], strict=True),
            zip(v["volume"], v["capacity"], v["centre_price"], strict=True),
            strict=True,
        )
    )
    volume, capacity, centre = np.array(
        [room[key] for key in zip(t["cell"], t["hour"], t["day_type"], strict=True)]
    ).T
    assert t["expected_volume"] == pytest.approx(np.minimum(volume, capacity))
    assert t["expected_blocked_minutes"] == pytest.approx(np.maximum(volume - capacity, 0))
    today, new = (np.abs(t[at] - centre) / t["current_price"] for at in ("current_price", "price"))
    after = volume * np.exp(
        t["elasticity"] * (t["price"] / t["current_price"] - 1)
        + t["se"] ** 2 / 2 * (new**2 - today**2)
    )
    assert t["expected_volume"] + t["expected_volume_delta"] == pytest.approx(
        np.minimum(after, capacity)
    )
    blocked = t["expected_blocked_minutes"] + t["expected_blocked_minutes_delta"]
    assert blocked == pytest.approx(np.maximum(after - capacity, 0), abs=1e-6)
    assert 0 < blocked.sum() < t["expected_blocked_minutes"].sum()


def test_without_a_load_limit_only_full_cells_are_raised_as_far_as_it_pays(demo: Any) -> None:
    from tariffs.pricing.voice import price_voices

    free = replace(
        demo.voice,
        columns=demo.voice.columns | {"load_limit": np.full(len(demo.voice["week"]), np.nan)},
    )
    p = price_voices(free, demo.voice_prior)
    assert np.isfinite(p["price"]).all()
    assert not (p["constraint_bound"] == "CAPACITY").any()
    control = free["control"][free.offsets[1:] - 1].astype(bool)
    full = (p["volume"] > p["capacity"]) & ~control & (p["lowest"] < p["highest"])
    assert full.sum() > 5
    assert (p["price"] >= p["current_price"])[full].all()
    assert (p["price"] > p["current_price"])[
        full & (p["current_price"] < p["reference_price"])
    ].mean() > 0.8
    moved = full & (p["price"] > p["current_price"])
    assert (p["p_gain"][moved] > 0.5).all()


def test_the_true_money_of_the_evidence_stops_at_the_capacity(demo: Any) -> None:
    keys = {
        name: values[:1]
        for name, values in columns(pq.read_table(demo.manual.truth / "voice.parquet")).items()
        if name in VOICE.key
    }
    one = {
        name: np.array([1.0])
        for name in money.Market.__dataclass_fields__
        if name not in ("line", "keys", "capacity", "held")
    }
    there = money.Market(
        line=VOICE,
        keys=keys,
        held=np.array([False]),
        capacity=np.array([80.0]),
        **(
            one
            | {
                "scale": np.array([100.0]),
                "beta": np.array([-2.0]),
                "unit_cost": np.array([0.1]),
            }
        ),
    )
    assert there.volume(np.array([1.0]))[0] == 80
    assert there.margin(np.array([0.5]))[0] == pytest.approx(80 * 0.4)
    assert there.margin(np.array([1.5]))[0] == pytest.approx(100 * np.exp(-1.0) * 1.4)
