"""Switches of the synthetic market: off they change nothing; on, each has its effect only."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tariffs.synthetic import SIZES, Size
from tariffs.synthetic.bundles import LIST_PRICE, NEIGHBOURS, UNIT_COST, bundle_block
from tariffs.synthetic.calendar import Stream
from tariffs.synthetic.scenarios import OFF, SHOCK, Switches, shocks, waiting
from tariffs.synthetic.sizes import BUNDLES, size_of
from tariffs.synthetic.voice import DAY_TYPES, Demand, VoiceBlock, drawn_table, voice_block
from tariffs.synthetic.write import generate

SEED = 7
BEFORE_UNITS, BEFORE_REVENUE, BEFORE_MINUTES = 202_885, 1_928_117.7567, 68_381_928
SIZE = SIZES["medium"]
ALL = Switches(endog=1.0, ar=0.5, cross=0.3, cap=True, shift=0.4)
BUNDLE_AXES = (6, 20, 9, SIZE.weeks)
VOICE_AXES = (20, 24, 2, SIZE.weeks)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def column(table: pa.Table, name: str, shape: tuple[int, ...]) -> np.ndarray:
    found: np.ndarray = table[name].to_numpy().reshape(shape)
    return found


def voice(switches: Switches) -> VoiceBlock:
    return voice_block(SEED, SIZE, 0, switches)


def test_without_switches_the_market_is_unchanged() -> None:
    sales = bundle_block(SEED, SIZES["demo"], 0, OFF).sales
    revenue = float(np.dot(sales["price"].to_numpy(), sales["units"].to_numpy()))
    usage = voice_block(SEED, SIZES["demo"], 0, OFF).usage
    totals = [int(pc.sum(sales["units"]).as_py()), revenue, int(pc.sum(usage["minutes"]).as_py())]
    assert totals == pytest.approx(
        [BEFORE_UNITS, BEFORE_REVENUE, BEFORE_MINUTES], rel=1e-5
    )  # another draw anywhere moves them by 1e-3


def test_two_workers_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    size = replace(
        SIZES["demo"], locations=1300, cells=40, weeks=1, sales_format="parquet"
    )  # two files of sales
    for workers in (1, 2):
        generate(size, tmp_path / str(workers), SEED, True, ALL, workers)
    one, two = files_of(tmp_path / "1"), files_of(tmp_path / "2")
    assert len([path for path in one if path.parts[0] == "bundle_sales"]) == 2
    assert one == two


def test_a_block_with_all_switches_comes_out_the_same_in_any_order() -> None:
    forwards = [bundle_block(SEED, SIZE, b, ALL).sales for b in (0, 1)]
    backwards = [bundle_block(SEED, SIZE, b, ALL).sales for b in (1, 0)][::-1]
    assert all(a.equals(b) for a, b in zip(forwards, backwards, strict=True))
    assert voice(ALL).usage.equals(voice(ALL).usage)


def test_the_truth_states_which_switches_were_on(tmp_path: Path) -> None:
    paths = generate(
        Size(locations=2, cells=2, weeks=3, sales_format="csv"), tmp_path, switches=ALL
    )
    facts = json.loads((paths.truth / "switches.json").read_text())
    assert (facts["endog"], facts["ar"], facts["cross"], facts["cap"], facts["shift"]) == (
        1.0,
        0.5,
        0.3,
        True,
        0.4,
    )
    assert facts["shock_sd"] == SHOCK
    assert set(pq.read_table(paths.truth / "bundles.parquet")["chi"].to_pylist()) == {0.3}


@pytest.mark.parametrize("wrong", [{"ar": 1.0}, {"endog": -0.1}, {"shift": 0.9}, {"cross": 2.0}])
def test_a_switch_out_of_range_is_refused_with_the_range(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(ValueError, match=rf"{name}=.*wanted .*{name} 0 to "):
        Switches(**wrong)


def test_shocks_have_the_spread_and_the_memory_that_they_promise() -> None:
    eta = shocks(Switches(ar=0.6), SEED, Stream.SHOCKS, 0, (20_000, 12))
    assert eta.std(axis=0) == pytest.approx(np.full(12, SHOCK), rel=0.03)
    assert np.mean(eta[:, 1:] * eta[:, :-1]) / SHOCK**2 == pytest.approx(0.6, abs=0.02)
    assert np.mean(eta[:, 2:] * eta[:, :-2]) / SHOCK**2 == pytest.approx(0.36, abs=0.02)


def test_endogenous_prices_follow_the_shock_and_trials_do_not() -> None:
    switches = Switches(endog=1.0)
    eta = shocks(switches, SEED, Stream.SHOCKS, 0, BUNDLE_AXES).ravel()
    sales = bundle_block(SEED, SIZE, 0, switches).sales
    posted = sales["list_price"].to_numpy() / np.tile(np.repeat(LIST_PRICE, SIZE.weeks), 120)
    trials = sales["explore_eps"].to_numpy()
    assert np.cov(posted, eta)[0, 1] / eta.var() == pytest.approx(
        0.88, abs=0.05
    )  # 12 % of the units never move
    assert abs(np.corrcoef(trials[trials != 0], eta[trials != 0])[0, 1]) < 3 / np.sqrt(
        (trials != 0).sum()
    )


def test_endogenous_discounts_follow_the_shock_and_trials_do_not() -> None:
    switches = Switches(endog=1.0)
    eta = np.concatenate(
        [shocks(switches, SEED, Stream.VOICE_SHOCKS, b, VOICE_AXES).ravel() for b in range(5)]
    )
    usage = pa.concat_tables([voice_block(SEED, SIZE, b, switches).usage for b in range(5)])
    posted, applied = usage["posted_discount"].to_numpy(), usage["discount"].to_numpy()
    trials = applied - posted
    tried = np.abs(trials) > 1e-9
    assert np.cov(posted, eta)[0, 1] / eta.var() < -0.6
    assert abs(np.corrcoef(trials[tried], eta[tried])[0, 1]) < 3 / np.sqrt(tried.sum())


def test_an_expensive_neighbour_adds_sales_to_its_ladder_only() -> None:
    alone, together = (bundle_block(SEED, SIZE, 0, Switches(cross=chi)) for chi in (0.0, 0.5))
    assert together.sales["price"].equals(alone.sales["price"])
    x = column(alone.sales, "price", BUNDLE_AXES) / LIST_PRICE[:, None] - 1
    factor = np.exp(0.5 * (NEIGHBOURS @ x)).ravel()
    before, after = alone.sales["units"].to_numpy(), together.sales["units"].to_numpy()
    raised = factor > 1.05
    assert after[raised].sum() / before[raised].sum() == pytest.approx(
        np.average(factor[raised], weights=before[raised]), rel=0.02
    )
    names = [b.product for b in BUNDLES]
    neighbours = {(names[i], names[j]) for i, j in zip(*np.nonzero(NEIGHBOURS), strict=True)}
    assert ("DAY_50", "DAY_150") in neighbours
    assert not {("DAY_50", "DAY_400"), ("DAY_400", "WEEK_300"), ("DAY_50", "DAY_50")} & neighbours


def test_the_ladders_best_prices_earn_more_than_each_products_own_best() -> None:
    truth = bundle_block(SEED, SIZE, 0, Switches(cross=0.3)).truth
    shape = BUNDLE_AXES[:3]
    beta, level = column(truth, "beta", shape), column(truth, "level", shape)

    def earned(price: np.ndarray) -> np.ndarray:
        x = price / LIST_PRICE - 1
        found: np.ndarray = (
            (price - UNIT_COST) * np.exp(level + beta * x + 0.3 * (x @ NEIGHBOURS))
        ).sum(axis=-1)
        return found

    own = np.clip(column(truth, "best_price", shape), 0.6 * LIST_PRICE, 1.6 * LIST_PRICE)
    best = column(truth, "ladder_price", shape)
    assert (earned(best) >= earned(own) * (1 - 1e-4)).all()
    assert earned(best).sum() > 1.005 * earned(own).sum()
    for other in (best * 1.03, best * 0.97):  # and no step of all nine together does better
        assert earned(np.clip(other, 0.6 * LIST_PRICE, 1.6 * LIST_PRICE)).sum() < earned(best).sum()


def test_a_full_cell_carries_its_capacity_and_counts_what_it_refused() -> None:
    free, full = voice(OFF), voice(Switches(cap=True))
    capacity = (
        column(full.cells, "capacity_minutes", (20, 24))[:, :, None, None]
        * np.array(list(DAY_TYPES.values()))[:, None]
    )
    asked, carried = (
        column(free.usage, "minutes", VOICE_AXES),
        column(full.usage, "minutes", VOICE_AXES),
    )
    assert np.array_equal(carried, np.minimum(asked, capacity))
    assert full.offered is not None
    assert np.array_equal(column(full.offered, "offered_minutes", VOICE_AXES), asked)
    assert np.array_equal(column(full.offered, "refused_minutes", VOICE_AXES), asked - carried)
    assert 0.02 < (carried < asked).mean() < 0.15


def test_what_was_asked_for_can_be_derived_from_attempts_and_blocked_calls() -> None:
    block = voice(Switches(cap=True))
    usage = block.usage
    minutes, attempts, blocked = (
        usage[name].to_numpy() for name in ("minutes", "attempts", "blocked")
    )
    assert block.offered is not None
    asked = block.offered["offered_minutes"].to_numpy()
    full = asked > minutes
    assert blocked[~full].sum() == 0
    demand = minutes * attempts / np.maximum(attempts - blocked, 1)
    assert demand[full].sum() == pytest.approx(asked[full].sum(), rel=0.005)
    assert np.array_equal(demand[~full], minutes[~full])


def test_deeper_discounts_move_minutes_between_hours_without_losing_any() -> None:
    still, moved = (
        column(voice(Switches(shift=s)).usage, "minutes", VOICE_AXES).astype(float)
        for s in (0.0, 0.4)
    )
    discount = column(voice(OFF).usage, "discount", VOICE_AXES)
    assert moved.sum() == pytest.approx(still.sum(), rel=0.005)
    around = np.mean([np.roll(discount, -step, axis=1) for step in waiting()], axis=0)
    deeper, shallower = discount > around + 0.15, discount < around - 0.15
    assert moved[deeper].sum() > 1.08 * still[deeper].sum()
    assert moved[shallower].sum() < 0.92 * still[shallower].sum()


def test_sigma_is_the_share_that_a_deeper_discount_takes_from_each_hour() -> None:
    rng = np.random.default_rng(1)
    shape = (1, 24, 1, 1)
    demand = Demand(
        np.full(shape, 1000.0), -rng.uniform(1, 2, shape), rng.normal(0, 0.5, shape), shift=0.4
    )
    usual = demand.minutes(np.zeros(shape))
    hour, step = 12, 1e-6
    deeper = np.zeros(shape)
    deeper[0, hour] = step
    change = (demand.minutes(deeper) - usual).ravel()
    lost = {k: -change[(hour + k) % 24] / change[hour] for k in waiting()}
    table = drawn_table(
        np.array([0]), demand.beta[..., 0].repeat(2, axis=2), usual[..., 0].repeat(2, axis=2), 0.4
    )
    rows = [r for r in table.to_pylist() if r["hour"] == hour and r["day_type"] == "WEEKDAY"]
    assert {(r["from_hour"] - hour): pytest.approx(r["sigma"], rel=1e-3) for r in rows} == lost


def test_the_truth_of_voice_names_best_price_and_offered_load() -> None:
    truth = voice(OFF).truth
    beta, best, kappa = (truth[name].to_numpy() for name in ("beta", "best_price", "kappa"))
    price = np.linspace(0.01, 2.0, 20_001)
    margin = (price[:, None] / 0.1 - kappa[:50]) * np.exp(beta[:50] * price[:, None] / 0.1)
    inside = best[:50] < 2.0
    assert price[margin.argmax(axis=0)][inside] == pytest.approx(best[:50][inside], abs=1e-4)
    block = voice(OFF)
    room = column(block.cells, "capacity_minutes", (20, 24))[:, :, None] * np.array(
        list(DAY_TYPES.values())
    )
    seen = column(block.usage, "minutes", VOICE_AXES).mean(axis=-1) / room
    assert np.corrcoef(truth["offered_load"].to_numpy(), seen.ravel())[0, 1] > 0.9


def test_the_command_takes_counts_and_switches(tmp_path: Path) -> None:
    words = (
        "--size demo --locations 3 --cells 2 --weeks 4 --endog 1 --ar 0.3 --cross 0.2 --cap"
        " --shift 0.3 --no-dirt"
    )
    subprocess.run(
        [sys.executable, "-m", "tariffs.synthetic", *words.split(), "--out", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    assert pq.read_metadata(tmp_path / "truth/bundles.parquet").num_rows == 3 * 54
    assert pq.read_metadata(tmp_path / "voice_usage.parquet").num_rows == 2 * 48 * 4
    assert json.loads((tmp_path / "truth/switches.json").read_text())["endog"] == 1.0


@pytest.mark.parametrize("counts", [{"weeks": 501}, {"weeks": 0}, {"locations": 0}, {"cells": -1}])
def test_a_size_that_cannot_be_made_is_refused(counts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(counts))):
        size_of("demo", **counts)
