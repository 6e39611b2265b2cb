"""The evaluation is correct: it equals figures computed by hand, and detects false truths."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

import hundredfold
from hundredfold.errors import UsageError
from hundredfold.local.home import Home
from tariffs import demo
from tariffs.demand.panel import make_panel
from tariffs.evaluation import backtest, calibration, plots
from tariffs.evaluation import elasticity_recovery as recovery
from tariffs.evaluation import risk_sweep as dial
from tariffs.evaluation import simulation as loop
from tariffs.evaluation import true_value as money
from tariffs.evaluation.prior import summarise_prior
from tariffs.evaluation.product_lines import BUNDLE, LINES, VOICE
from tariffs.evaluation.run_data import FinishedRun, open_finished
from tariffs.optimise.ladder import in_order
from tariffs.synthetic.scenarios import Switches
from tariffs.synthetic.write import generate


@pytest.fixture(scope="module")
def finished(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The demo operator, with its dirt, through the whole job."""
    home = shutil.copytree(demo_home, tmp_path_factory.mktemp("evaluated") / "home")
    return open_finished(Home(home, make=False), None, None)


@pytest.fixture(scope="module")
def bundles(finished: FinishedRun) -> money.Market:
    return money.market(finished, BUNDLE)


def by_key(table: pa.Table, line: Any) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in line.key])


# the elasticities


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.kind)
def test_bias_and_error_are_those_worked_out_by_hand(finished: FinishedRun, line: Any) -> None:
    found = recovery.recover(finished, line).scores[0]
    error = (
        by_key(finished.results(line.model), line)["beta"].to_numpy()
        - by_key(finished.known(line), line)["beta"].to_numpy()
    )
    assert found.units == len(error)
    assert found.bias == pytest.approx(error.mean(), abs=1e-12)
    assert found.rmse["shrunk"] == pytest.approx(np.sqrt(np.mean(error**2)), abs=1e-12)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.kind)
def test_the_posterior_is_nearer_to_the_truth_than_the_other_estimators(
    finished: FinishedRun, line: Any
) -> None:
    found = recovery.recover(finished, line)
    rmse = found.scores[0].rmse
    assert rmse["shrunk"] < min(rmse["prior"], rmse["alone"], rmse["pooled"])
    assert found.tau == pytest.approx(found.true_tau, rel=0.15)
    levels = [s for s in found.scores if s.factor == line.factors[0]]
    assert sum(s.units for s in levels) == found.scores[0].units


def test_another_truth_shows_as_bias_and_lost_cover(finished: FinishedRun, tmp_path: Path) -> None:
    known = finished.known(BUNDLE)
    moved = known.set_column(known.column_names.index("beta"), "beta", pc.add(known["beta"], 1.0))
    pq.write_table(moved, tmp_path / BUNDLE.truth)
    true, false = (
        recovery.recover(f, BUNDLE).scores[0] for f in (finished, replace(finished, truth=tmp_path))
    )
    assert false.bias == pytest.approx(true.bias - 1.0, abs=1e-9)
    assert true.cover > 0.85
    assert false.cover < 0.4


def test_a_run_on_data_without_a_truth_reports_it(finished: FinishedRun) -> None:
    with pytest.raises(UsageError, match=r"no bundles\.parquet") as error:
        recovery.recover(replace(finished, truth=None), BUNDLE)
    assert "--truth" in str(error.value.hint)


# the promises


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_is_wilsons(counts: tuple[int, int]) -> None:
    expected = binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert calibration.wilson(*counts) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_promised_and_realised_gain_agree_for_all_moves_of_both_lines(
    finished: FinishedRun,
) -> None:
    for line in LINES:
        found = calibration.calibrate(money.market(finished, line))
        assert found is not None
        assert found.all.promised == pytest.approx(found.all.realised, abs=0.02)
        assert found.all.moves == sum(band.moves for band in found.bands)
        assert found.promised_margin == pytest.approx(found.true_margin, rel=0.1)


def test_a_promise_that_is_too_high_is_outside_of_what_came_of_it(bundles: money.Market) -> None:
    honest, boastful = (
        calibration.calibrate(m)
        for m in (bundles, replace(bundles, p_gain=np.where(bundles.moved, 0.999, 0.0)))
    )
    assert honest is not None
    assert boastful is not None
    assert honest.all.fits
    assert not boastful.all.fits


def test_where_nothing_moves_nothing_was_promised(bundles: money.Market) -> None:
    assert calibration.calibrate(replace(bundles, price=bundles.current)) is None


# the best table that one could have


def test_the_best_prices_of_a_ladder_are_those_of_trying_them_all(
    finished: FinishedRun, bundles: money.Market
) -> None:
    ladders = pa.table({name: pa.array(values) for name, values in dial._ladders(finished).items()})
    best = money.best_prices(bundles, ladders)
    tried = 0
    for rungs in itertools.islice(ladders_of(bundles, ladders), 20):
        volumes, options = (
            [r.volume_mb for r in rungs.values()],
            [range(len(r.prices)) for r in rungs.values()],
        )
        worth = {
            choice: sum(r.values[n] for r, n in zip(rungs.values(), choice, strict=True))
            for choice in itertools.product(*options)
            if in_order(
                np.array([r.prices[n] for r, n in zip(rungs.values(), choice, strict=True)]),
                np.array(volumes),
            )
        }
        found = sum(r.values[list(r.prices).index(best[at])] for at, r in rungs.items())
        if worth:
            assert found == pytest.approx(max(worth.values()), rel=1e-12)
            tried += 1
    assert tried > 15


def ladders_of(market: money.Market, ladders: pa.Table) -> Iterator[dict[int, Any]]:
    """The rungs of each ladder, by the unit's number."""
    order, volume, offsets = money._rungs(market, ladders)
    for first, end in itertools.pairwise(offsets):
        yield {
            int(at): money._rung(market, at, mb)
            for at, mb in zip(order[first:end], volume[first:end], strict=True)
        }


def test_no_one_who_does_not_know_the_truth_does_better(
    finished: FinishedRun, bundles: money.Market
) -> None:
    oracle = dial._oracle(finished)
    assert oracle is not None
    assert 0 < bundles.gain().sum() / bundles.margin(bundles.current).sum() < oracle


# the dial


def test_the_job_run_again_at_the_same_z_gives_the_same_prices(
    finished: FinishedRun, tmp_path: Path
) -> None:
    again = finished.again(dial._with_z(finished.policy(), 0.84), str(tmp_path / "home"))
    assert again.prices().column("price").equals(finished.prices().column("price"))


def test_turning_the_dial_trades_lift_for_harm_and_publishes_nothing(finished: FinishedRun) -> None:
    before = sorted(finished.home.store.list("releases/"))
    heard: list[str] = []
    found = dial.sweep(finished, [1.96, 0.0], heard.append)
    for line in LINES:
        bold, sure = (s for s in found.settings if s.line == line.kind)
        assert (bold.z, sure.z) == (0.0, 1.96)
        assert bold.moved > sure.moved
        assert bold.truly is not None
        assert sure.truly is not None
        assert bold.truly.lift > sure.truly.lift
        assert bold.truly.harmed > sure.truly.harmed
    assert len(heard) == 2
    assert sorted(finished.home.store.list("releases/")) == before
    home: Any = finished.home
    assert not list((home.folder / "scratch").glob("evidence-*"))


def test_a_dial_beyond_its_scale_is_refused(finished: FinishedRun) -> None:
    with pytest.raises(UsageError, match="wanted 0 to 5"):
        dial.sweep(finished, [7.0], print)


# weeks not seen


def test_deviance_equals_a_poisson_regression_with_levels_and_season() -> None:
    chance = np.random.default_rng(5)
    units, weeks = 8, 6
    unit, week = np.repeat(np.arange(units), weeks), np.tile(np.arange(weeks), units)
    x, beta = chance.choice([-0.2, -0.1, 0.0, 0.1], units * weeks), chance.normal(-1.5, 0.5, units)
    exposure = chance.integers(50, 200, units * weeks).astype(float)
    y = chance.poisson(0.2 * exposure * np.exp(beta[unit] * x)).astype(float)
    found = backtest.deviance(
        make_panel(np.arange(0, units * weeks + 1, weeks), y, x, exposure), beta, week
    )
    dummies = np.column_stack(
        [unit[:, None] == np.arange(units), week[:, None] == np.arange(1, weeks)]
    ).astype(float)
    fit = sm.GLM(
        y, dummies, family=sm.families.Poisson(), offset=np.log(exposure) + beta[unit] * x
    ).fit(tol=1e-12)
    assert found.sum() == pytest.approx(fit.deviance, rel=1e-6)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.kind)
def test_weeks_not_seen_are_predicted_best_by_the_posterior(
    finished: FinishedRun, line: Any
) -> None:
    every = backtest.backtest(finished, line, 8).judged[0]
    assert every.best == "shrunk"


def test_what_is_predicted_is_learnt_from_the_weeks_before_alone(finished: FinishedRun) -> None:
    rows = finished.sample(VOICE, 500)
    first = np.unique(rows["week"])[-8]
    late = rows["week"] >= first
    other = rows | {"quantity": np.where(late, rows["quantity"][::-1], rows["quantity"])}
    for once, again in zip(
        backtest._split(rows, VOICE, first)[0].values(),
        backtest._split(other, VOICE, first)[0].values(),
        strict=True,
    ):
        assert np.array_equal(once, again)


def test_weeks_that_sold_all_there_was_are_not_judged(finished: FinishedRun) -> None:
    rows = finished.sample(VOICE, 500)
    first = np.unique(rows["week"])[-8]
    full = (rows["week"] >= first) & (np.arange(len(rows["week"])) % 5 == 0)
    judged = backtest._split(
        rows | {"quantity": np.where(full, rows["capacity"], rows["quantity"])}, VOICE, first
    )[1]
    was = backtest._split(rows, VOICE, first)[1]
    assert len(judged["week"]) == len(was["week"]) - (full & ~backtest._full(rows)).sum()


def test_too_many_weeks_cannot_be_held_out(finished: FinishedRun) -> None:
    with pytest.raises(UsageError, match="--weeks is 23, and the run has 26 weeks"):
        backtest.backtest(finished, BUNDLE, 23)


# a year under the table


@pytest.fixture(scope="module")
def lived(finished: FinishedRun) -> loop.Loop:
    return loop.simulate(finished, 2, 7, lambda _: None)


def test_who_never_moves_stays_and_who_learns_gains(lived: loop.Loop) -> None:
    ways = {way.policy: way for way in lived.ways}
    assert ways["hold"].lift == (0.0, 0.0)
    assert all(
        0 < way.lift[0] < way.lift[1] < lived.oracle for name, way in ways.items() if name != "hold"
    )
    assert ways["robust 1.28"].harmed < ways["robust 0.84"].harmed < ways["plug-in"].harmed
    assert ways["robust 1.28"].moved < ways["plug-in"].moved


def test_the_same_chance_makes_the_same_year(finished: FinishedRun, lived: loop.Loop) -> None:
    assert loop.simulate(finished, 2, 7, lambda _: None) == lived


def test_the_first_cycle_uses_the_jobs_prices_before_its_ladder(
    finished: FinishedRun,
) -> None:
    rows = finished.whole(BUNDLE.model)
    prices = loop._prices("robust 0.84", 0.84, rows, np.random.default_rng(0))
    assert np.array_equal(
        prices, by_key(finished.results(BUNDLE.model), BUNDLE)["price"].to_numpy()
    )


# plots


def test_the_same_evidence_makes_the_same_plot_to_the_byte(
    finished: FinishedRun, lived: loop.Loop, tmp_path: Path
) -> None:
    found = [recovery.recover(finished, line) for line in LINES]
    calibrated = calibration.calibrate(money.market(finished, BUNDLE))
    assert calibrated is not None
    panels = [*(plots.recovery(f) for f in found), plots.calibration(calibrated), plots.loop(lived)]
    first, second = (plots.draw(str(tmp_path / name), "all", panels) for name in ("a", "b"))
    assert [path.suffix for path in first] == [".svg", ".png"]
    assert [a.read_bytes() for a in first] == [b.read_bytes() for b in second]
    assert "<text" not in first[0].read_text()  # letters are drawn: they look the same everywhere
    assert first[0].stat().st_size < 400_000


# what the run found of its own data


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.kind)
def test_what_is_reported_of_the_prices_is_what_the_run_priced_by(
    finished: FinishedRun, line: Any
) -> None:
    found, prior = summarise_prior(finished, line), finished.results(line.prior).to_pylist()[0]
    assert (found.exogeneity, found.rho, found.rho_p) == (
        prior["exogeneity"],
        prior["rho"],
        prior["rho_p"],
    )
    assert found.rho_used == prior["rho_used"]
    assert found.tau**2 == pytest.approx(prior["tau2"])
    assert [(group.name, group.gate) for group in found.groups] == list(
        zip(prior["groups"], prior["gate_choice"], strict=True)
    )
    assert [group.deviance_eb for group in found.groups] == prior["gate_eb"]


def test_an_untested_or_barely_detectable_rho_is_not_reported_as_absent(
    tmp_path: Path,
) -> None:
    """Prices that foresee demand are detected in voice, reported as barely detectable in so few
    bundles, and untested where the log of trials is lost."""
    operator = generate("demo", tmp_path / "data", dirt=False, switches=Switches(endog=1.0)).sources
    logged, lost = (_priced(operator, tmp_path / f"home-{lost}", lost) for lost in (False, True))
    seen, hardly, unseen = (
        summarise_prior(logged, VOICE),
        summarise_prior(logged, BUNDLE),
        summarise_prior(lost, BUNDLE),
    )
    assert [found.exogeneity for found in (seen, hardly, unseen)] == [
        "ENDOGENOUS",
        "EXOGENOUS",
        "NOT_TESTED",
    ]
    assert seen.rho > seen.visible > 0 < seen.rho_used
    assert hardly.visible > 0.3  # the bias that this foresight makes is +0.26
    assert abs(hardly.chi) < 3 * hardly.chi_se < 0.1  # foresight is not mistaken for substitution
    assert hardly.rho_beside == pytest.approx(hardly.rho, abs=hardly.rho_se)
    assert np.isnan([unseen.rho, unseen.rho_se, unseen.rho_p, unseen.visible]).all()
    assert (unseen.rho_used, "log trials" in unseen.meaning) == (0.0, True)


def _priced(sources: Any, home: Path, lost: bool) -> FinishedRun:
    sales = pa.concat_tables(
        [
            csv.read_csv(file) if file.suffix == ".csv" else pq.read_table(file)
            for file in sources["bundle_sales"]
        ]
    )
    if lost:
        at = sales.column_names.index("explore_eps")
        sales = sales.set_column(at, "explore_eps", pa.array(np.zeros(sales.num_rows)))
    inputs: dict[str, Any] = {name: str(files[0]) for name, files in sources.items()} | {
        "bundle_sales": sales
    }
    hundredfold.run(demo.JOB, inputs, home=home, as_of=demo.AS_OF, workers=1)
    return open_finished(Home(home, make=False), None, None)
