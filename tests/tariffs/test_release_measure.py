"""Measurement: the estimate equals the textbook's, and its interval contains the known truth."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import statsmodels.api as sm
from scipy import stats

from support.price_tables import bundle, table, voice
from support.sales_after_release import bundles_after
from tariffs.release.drift import CUSUM_ALARM, charts, cusum
from tariffs.release.effect import Cells, Effect, effect, t_quantile
from tariffs.release.measure import Measured, UnitFacts, first_week, measure, to_json
from tariffs.release.panel import Panel, panel_of
from tariffs.release.promise import shares
from tariffs.release.show_outcome import notes
from tariffs.release.tables import bools, floats
from tariffs.synthetic.bundles import UNIT_COST, bundle_block
from tariffs.synthetic.sizes import BUNDLES, Size

COST = {b.product: float(c) for b, c in zip(BUNDLES, UNIT_COST, strict=True)}


def cells(
    rng: np.random.Generator,
    locations: int = 12,
    held: int = 4,
    units: int = 6,
    delta: float = 0.1,
    shock: float = 0.0,
) -> Cells:
    """Return four weeks before and after, two groups with seasons, gaps, and location shocks."""
    location = np.repeat(np.arange(locations), units)
    group = np.arange(len(location)) % 2
    treated = np.broadcast_to(
        (location >= held)[:, None] & (np.arange(8) >= 4)[None, :], (len(location), 8)
    )
    exposure = rng.integers(50, 150, (len(location), 8)).astype(float)
    season = rng.normal(0, 0.2, (2, 8))[group] + (rng.normal(0, shock, locations)[location])[
        :, None
    ] * (np.arange(8) >= 4)
    mu = (
        exposure
        * np.exp(-1.5 + rng.normal(0, 0.7, len(location)))[:, None]
        * np.exp(season + delta * treated)
    )
    y = rng.poisson(rng.gamma(mu, 1.0)).astype(float)
    y[rng.random(y.shape) < 0.05] = np.nan
    return Cells(y, exposure, treated, group, location)


def textbook(c: Cells) -> float:
    """The same by a Poisson GLM with a dummy for each unit and each (group, week)."""
    there = np.isfinite(c.y)
    unit, week = np.nonzero(there)
    columns = [c.treated[there].astype(float)]
    columns += [(unit == u).astype(float) for u in range(len(c.y))]
    columns += [
        ((week == w) & (c.group[unit] == g)).astype(float) for g in (0, 1) for w in range(1, 8)
    ]
    fit = sm.GLM(
        c.y[there],
        np.column_stack(columns),
        family=sm.families.Poisson(),
        offset=np.log(c.exposure[there]),
    ).fit(tol=1e-12)
    return float(fit.params[0])


def test_the_effect_equals_a_poisson_regression_with_unit_and_week_dummies() -> None:
    c = cells(np.random.default_rng(3))
    found = effect(c)
    assert found is not None
    assert found.log == pytest.approx(textbook(c), abs=1e-8)
    assert found.change == pytest.approx(math.exp(found.log) - 1)


def test_it_does_not_depend_on_the_order_of_the_units() -> None:
    c = cells(np.random.default_rng(4))
    order = np.random.default_rng(5).permutation(len(c.location))
    other = effect(
        Cells(c.y[order], c.exposure[order], c.treated[order], c.group[order], c.location[order])
    )
    one = effect(c)
    assert one is not None
    assert other is not None
    assert other.log == pytest.approx(one.log, abs=1e-10)
    assert other.se == pytest.approx(one.se, rel=1e-9)


@pytest.mark.parametrize(("held", "shock"), [(4, 0.0), (4, 0.15), (1, 0.0), (1, 0.15)])
def test_its_interval_holds_the_truth_as_often_as_it_states(held: int, shock: float) -> None:
    rng = np.random.default_rng(held + int(100 * shock))
    runs: list[Effect] = [
        e for _ in range(120) if (e := effect(cells(rng, held=held, shock=shock))) is not None
    ]
    inside = np.mean([e.lo <= math.expm1(0.1) <= e.hi for e in runs])
    assert 0.88 <= inside <= 1.0, inside
    spread = np.std([e.log for e in runs])
    assert abs(np.mean([e.log for e in runs]) - 0.1) < 4 * spread / math.sqrt(len(runs))
    assert np.mean([e.se for e in runs]) == pytest.approx(spread, rel=0.45)


def test_what_cannot_be_reported_is_not_reported() -> None:
    c = cells(np.random.default_rng(6))
    nobody = Cells(c.y, c.exposure, np.zeros_like(c.treated), c.group, c.location)
    assert effect(nobody) is None
    everybody = Cells(
        c.y, c.exposure, np.broadcast_to(np.arange(8) >= 4, c.y.shape), c.group, c.location
    )
    assert effect(everybody) is None
    unsold = Cells(
        np.where(np.arange(8) >= 4, 0.0, c.y), c.exposure, c.treated, c.group, c.location
    )
    assert effect(unsold) is None


def test_with_few_locations_there_is_no_interval() -> None:
    found = effect(cells(np.random.default_rng(7), locations=4, held=2))
    assert found is not None
    assert math.isnan(found.lo)


@pytest.mark.parametrize("freedom", [3, 5, 10, 50, 1000])
def test_students_t_is_that_of_the_tables(freedom: int) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.01)


# drift


def test_the_two_sums_of_a_cusum_are_those_of_the_book() -> None:
    up, down = cusum(np.array([1.0, 2.0, -3.0, 0.6]))
    assert up.tolist() == [0.5, 2.0, 0.0, pytest.approx(0.1)]
    assert down.tolist() == [0.0, 0.0, 2.5, pytest.approx(1.4)]


def sold(
    factor: float, season: float = 0.0, weeks: int = 8, seed: int = 1
) -> tuple[pa.Table, Panel]:
    """Return a table of 60 repriced and 30 control units with 50 expected sales a week each.

    In the weeks the repriced units sell `factor` times that.
    """
    rows = [
        bundle(
            f"L{n:02d}", control_flag=n % 3 == 0, expected_volume=40.0, expected_volume_delta=10.0
        )
        for n in range(90)
    ]
    made = table(*rows)
    rng = np.random.default_rng(seed)
    control = np.array([r["control_flag"] for r in made.to_pylist()])
    mu = (
        50 * np.exp(rng.normal(0, season, weeks))[None, :] * np.where(control, 1.0, factor)[:, None]
    )
    quantity = rng.poisson(mu).astype(float)
    days = np.datetime64("2026-07-05") + np.timedelta64(7, "D") * np.arange(weeks)
    return made, Panel(
        days, quantity, np.full(quantity.shape, 2.0), np.full(quantity.shape, 100.0), 0, 0
    )


def test_demand_as_expected_raises_no_alarm_in_any_season() -> None:
    peaks = [charts(*sold(1.0, season=0.3, seed=seed))[0].peak for seed in range(60)]
    assert sum(peak > CUSUM_ALARM for peak in peaks) <= 3


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_customers_who_do_not_raise_one_in_either_direction(factor: float) -> None:
    (found,) = charts(*sold(factor, season=0.3))
    assert found.alarm
    assert found.ratio == pytest.approx(factor - 1, abs=0.03)
    assert (max(found.up) > max(found.down)) is (factor > 1)


def test_without_control_units_or_expectations_there_is_no_chart() -> None:
    made, panel = sold(1.0)
    assert (
        charts(
            made.set_column(
                made.schema.get_field_index("control_flag"), "control_flag", pa.array([False] * 90)
            ),
            panel,
        )
        == ()
    )
    assert (
        charts(
            made.set_column(
                made.schema.get_field_index("expected_volume"),
                "expected_volume",
                pa.nulls(90, pa.float64()),
            ),
            panel,
        )
        == ()
    )


# a table measured


def world(
    seed: int = 7, locations: int = 100, held: int = 25, weeks: int = 8
) -> tuple[pa.Table, pa.Table, float]:
    """Return a table with real elasticities, the sales before and after, and its true lift."""
    size = Size(locations=locations, cells=0, weeks=26, sales_format="csv")
    parts: list[dict[str, Any]] = []
    blocks = [bundle_block(seed, size, number) for number in range(locations // 20)]
    truth, sales = (
        pa.concat_tables([b.truth for b in blocks]),
        pa.concat_tables([b.sales for b in blocks]),
    )
    control = {f"LOC_{n:05d}" for n in range(0, locations, locations // held)}
    last = sales.filter(pc.equal(sales["week"].cast(pa.date32()), dt.date(2026, 6, 28)))
    price = {}
    for row in truth.to_pylist():
        better = 0.9 if row["best_price"] < row["current_price"] else 1.1
        moves = row["location"] not in control
        price[row["segment"], row["location"], row["product"]] = round(
            row["current_price"] * (better if moves else 1.0), 4
        )
        parts.append(
            bundle(
                row["location"],
                row["product"],
                segment=row["segment"],
                unit_key=f"{row['segment']}/{row['location']}/{row['product']}",
                price=price[row["segment"], row["location"], row["product"]],
                current_price=row["current_price"],
                champion_price=2.0,
                control_flag=not moves,
                p_gain=0.97 if moves else None,
            )
        )
    after = bundles_after(truth, last, price, control, COST, weeks=weeks, seed=seed)
    both = pa.concat_tables(
        [
            sales.select(after.sales.column_names),
            after.sales.cast(sales.select(after.sales.column_names).schema),
        ]
    )
    key = pc.binary_join_element_wise(both["segment"], both["location"], both["product"], "/")
    week = both["week"].cast(pa.date32())
    columns = {
        "unit_key": key,
        "week": week,
        "quantity": both["units"],
        "price": both["price"],
        "active_subs": both["active_subs"],
    }
    return table(*parts), pa.table(columns), after.lift


def measured(made: pa.Table, sales: pa.Table) -> Measured:
    cost = np.array([COST[p] for p in made["product"].to_pylist()])
    return measure(
        made,
        panel_of(made, sales),
        dt.date(2026, 6, 29),
        None,
        UnitFacts(cost, np.full(made.num_rows, np.nan)),
    )


def kpi(measured: Measured, name: str) -> Effect:
    return next(k.effect for k in measured.kpis if k.name == name)


def test_the_lift_that_the_truth_has_is_found_again() -> None:
    errors, scores = [], []
    for seed in range(7, 15):
        made, sales, lift = world(seed, locations=60, held=20)
        found = kpi(measured(made, sales), "margin")
        assert lift > 0.02
        errors.append(found.log - math.log1p(lift))
        scores.append(errors[-1] / found.se)
    assert abs(np.mean(errors)) < 0.03, errors
    assert np.abs(scores).max() < 3.5
    assert 0.4 < np.sqrt(np.mean(np.square(scores))) < 1.7  # a standard error that is honest


def test_the_weeks_before_show_no_effect_and_figures_name_their_units() -> None:
    made, sales, _ = world()
    found = measured(made, sales)
    (placebo,) = found.placebo
    assert placebo.effect.lo < 0 < placebo.effect.hi
    assert (len(found.before), len(found.after)) == (8, 8)
    e = kpi(found, "revenue")
    assert (e.control_locations, e.locations) == (25, 100)
    assert 4000 < e.units + e.held <= 5400
    assert found.moved == pytest.approx(0.75, abs=0.01)
    assert [(b.lo, b.units) for b in found.bands] == [(0.95, 4050)]
    assert set(found.champion["bundles"]) == {"table", "rule", "no change"}


def test_a_spike_in_the_feed_moves_nothing() -> None:
    made, sales, _ = world()
    clean = kpi(measured(made, sales), "margin")
    spoilt = sales["quantity"].to_numpy().astype(float)
    spoilt[np.flatnonzero(sales["week"].to_numpy() == np.datetime64("2026-07-12"))[::500]] += 1000.0
    found = measured(
        made,
        sales.set_column(sales.schema.get_field_index("quantity"), "quantity", pa.array(spoilt)),
    )
    assert found.set_aside == 11
    assert kpi(found, "margin").change == pytest.approx(clean.change, abs=0.01)


def test_one_large_week_alone_is_no_spike() -> None:
    sales = pa.table(
        {
            "unit_key": ["C1/07/WEEKDAY"],
            "week": [dt.date(2026, 7, 12)],
            "quantity": [9000.0],
            "price": [0.5],
            "active_subs": [50.0],
        }
    )
    panel = panel_of(table(voice("C1")), sales)
    assert (panel.quantity.tolist(), panel.set_aside) == ([[9000.0]], 0)


def test_weeks_at_other_prices_are_left_out() -> None:
    made, sales, _ = world(locations=40, held=10)
    trial = pc.equal(sales["week"], pa.scalar(dt.date(2026, 7, 12)))
    found = measured(made, sales.filter(pc.invert(trial)))
    wild = sales.set_column(3, "price", pc.if_else(trial, 99.0, sales["price"]))
    wild = wild.set_column(2, "quantity", pc.if_else(trial, 90, wild["quantity"]))
    assert kpi(measured(made, wild), "revenue").log == pytest.approx(
        kpi(found, "revenue").log, abs=1e-9
    )


def test_a_week_counts_when_all_of_it_is_after() -> None:
    monday = dt.date(2026, 6, 29)
    assert first_week(monday) == np.datetime64("2026-07-05")
    assert first_week(monday + dt.timedelta(days=1)) == np.datetime64("2026-07-06")


def test_voice_is_measured_in_minutes_and_by_the_load_of_its_hours() -> None:
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for cell in range(30):
        for hour in range(4):
            held = cell % 3 == 0
            rows.append(
                voice(
                    f"C{cell:02d}",
                    hour,
                    location=f"P{cell:02d}",
                    control_flag=held,
                    price=0.05 if held else 0.04,
                    discount_class=50 if held else 60,
                    current_price=0.05,
                )
            )
    made = table(*rows)
    keys, hours = made["unit_key"].to_pylist(), made["hour"].to_pylist()
    repriced = np.array([not c for c in made["control_flag"].to_pylist()])
    weeks = [dt.date(2026, 5, 31) + dt.timedelta(weeks=n) for n in range(9)]
    sales = []
    for number, week in enumerate(weeks):
        after = week > dt.date(2026, 6, 30)
        mu = (
            np.where(np.array(hours) < 2, 100.0, 900.0)
            * np.exp(0.2 * (repriced & after))
            * (1 + 0.1 * number)
        )
        share = np.where(repriced & after, 0.4, 0.5)
        sales.append(
            pa.table(
                {
                    "unit_key": keys,
                    "week": [week] * len(keys),
                    "quantity": rng.poisson(mu).astype(float),
                    "price": share,
                    "active_subs": np.full(len(keys), 50.0),
                }
            )
        )
    capacity = np.full(len(keys), 1000.0)
    panel = panel_of(made, pa.concat_tables(sales))
    found = measure(
        made,
        panel,
        dt.date(2026, 6, 29),
        None,
        UnitFacts(np.full(len(keys), 0.004), capacity, ["A"] * len(keys)),
    )
    names = [k.name for k in found.kpis]
    assert names == [
        "revenue",
        "margin",
        "minutes",
        "minutes, hours below 20% load",
        "minutes, hours from 50% load",
    ]
    for name in names[2:]:
        assert kpi(found, name).change == pytest.approx(math.exp(0.2) - 1, abs=0.02)
    assert kpi(found, "revenue").change == pytest.approx(math.exp(0.2) * 0.8 - 1, abs=0.02)


def test_what_is_measured_can_be_reported_as_json() -> None:
    import json

    made, sales, _ = world(locations=40, held=10)
    facts = json.loads(json.dumps(to_json(measured(made, sales)), allow_nan=False))
    assert facts["kpis"][0]["effect"]["lo"] < facts["kpis"][0]["effect"]["hi"]
    assert facts["alarms"] == [
        c["name"] for c in facts["charts"] if max(*c["up"], *c["down"]) > CUSUM_ALARM
    ]


def test_the_rule_and_the_table_sell_no_more_than_a_cell_carries() -> None:
    asked: dict[str, Any] = {
        "current_price": 0.05,
        "champion_price": 0.02,
        "elasticity": -1.5,
        "expected_volume": 80.0,
        "expected_blocked_minutes": 20.0,
    }
    made = table(
        voice("C1", price=0.06, location="P1", **asked),
        voice("C2", location="P2", control_flag=True, **asked),
    )
    weeks = [dt.date(2026, 6, 21), dt.date(2026, 7, 12)]
    sales = pa.table(
        {
            "unit_key": [key for key in made["unit_key"].to_pylist() for _ in weeks],
            "week": weeks * 2,
            "quantity": [80.0] * 4,
            "price": [0.05, 0.06, 0.05, 0.05],
            "active_subs": [50.0] * 4,
        }
    )
    facts = UnitFacts(np.full(2, 0.01), np.full(2, 80.0))
    found = measure(made, panel_of(made, sales), dt.date(2026, 6, 29), None, facts).champion[
        "voice"
    ]
    after = min(100 * math.exp(-1.5 * 0.2), 80.0)
    assert found == pytest.approx(
        {"table": after * 0.05, "rule": 80 * 0.01, "no change": 80 * 0.04}
    )


def test_a_promise_is_without_the_optimism_that_the_totals_subtract() -> None:
    made, sales, _ = world(locations=40, held=10)
    moved = ~bools(made, "control_flag")
    change = np.where(moved, np.arange(made.num_rows) % 7 - 2.0, 0.0)
    at = made.schema.get_field_index("expected_margin_delta")
    made = made.set_column(at, "expected_margin_delta", pa.array(change))
    cost = np.array([COST[p] for p in made["product"].to_pylist()])
    now = floats(made, "expected_volume") * (floats(made, "current_price") - cost)
    total = {"line": "bundle", "margin": change.sum() - 0.2 * np.abs(change).sum(), "revenue": None}
    found = shares(made, [total])
    assert found == pytest.approx({("bundles", "margin"): 0.2})
    facts = UnitFacts(cost, np.full(made.num_rows, np.nan), None, found)
    with_totals = measure(made, panel_of(made, sales), dt.date(2026, 6, 29), None, facts)
    without = measured(made, sales)
    promised = {k.name: k.promised for k in with_totals.kpis}
    own = {k.name: k.promised for k in without.kpis}
    lost = 0.2 * np.abs(change[moved]).sum() / now[moved].sum()
    assert lost > 0
    assert promised["margin"] == pytest.approx(own["margin"] - lost)
    assert promised["revenue"] == own["revenue"]
    assert with_totals.bands == without.bands  # units' own promises
    assert with_totals.optimism == pytest.approx({"bundles": 0.2})
    assert any("20.0% of the units' changes less" in line for line in notes(with_totals))
    assert not any("chosen for looking best" in line for line in notes(without))
