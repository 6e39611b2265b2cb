"""The optimism that totals subtract: the part of a promise that is due to the choice of moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.tariffs_worlds import BUNDLES, WORLDS, World, make, sums

from tariffs.columns import Labels, Rows
from tariffs.demand.prior import Prior
from tariffs.optimise.rule import COVERAGE_90
from tariffs.pricing import bundles
from tariffs.pricing.optimism import CHANGES, optimism
from tariffs.pricing.totals import Totals, total
from tariffs.release.checks import Checked
from tariffs.release.show import show_checked

Found = tuple[Rows, Prior]


def priced(world: World, seed: int) -> Found:
    market = make(world, seed)
    prior, units = market.prior(), market.units()
    return sums(market, market.kind.price(units, prior), units.keys), prior


def labels_of(rows: Rows) -> dict[str, Labels]:
    columns = zip(bundles.FACTORS, ("first", "second", "third"), strict=True)
    return {name: rows[column].astype(object) for name, column in columns}


def totals_of(found: Found) -> Totals:
    rows, prior = found
    return total(rows, prior, prior)


@pytest.fixture(scope="module")
def few() -> list[Found]:
    return [priced(WORLDS["54"], seed) for seed in range(200, 204)]


def test_a_total_of_few_units_promises_less_than_their_sum(few: list[Found]) -> None:
    for rows, prior in few:
        share = optimism(rows, prior, labels_of(rows)).share
        found = total(rows, prior, prior)
        assert len(rows["units"]) == 54
        assert found.optimism == share["margin"]
        for name in CHANGES:
            left = rows[name].sum() - share[name] * np.abs(rows[name]).sum()
            assert getattr(found, name) == pytest.approx(left)
    assert 0.02 < np.mean([totals_of(each).optimism for each in few]) < 0.4


def test_more_units_are_less_optimistic(few: list[Found]) -> None:
    more = totals_of(priced(WORLDS["1,080"], 200)).optimism
    assert 0 <= more < 0.5 * np.mean([totals_of(each).optimism for each in few])


def test_the_interval_is_as_wide_as_the_errors_of_copies_or_wider(few: list[Found]) -> None:
    wider = 0
    for rows, prior in few:
        plain = total({**rows, "units": rows["units"] + 1}, prior, prior)
        found, copies = total(rows, prior, prior), optimism(rows, prior, labels_of(rows))
        for name in CHANGES:
            widths = [getattr(t, f"{name}_hi") - getattr(t, f"{name}_lo") for t in (found, plain)]
            of_copies = 2 * COVERAGE_90 * copies.error[name] * np.abs(rows[name]).sum()
            assert widths[0] == pytest.approx(max(widths[1], of_copies))
            wider += widths[0] > 1.05 * widths[1]
    assert wider > 0


def test_sums_over_several_units_have_no_optimism(few: list[Found]) -> None:
    rows, prior = few[0]
    several = {**rows, "units": np.full(len(rows["units"]), 2)}
    assert optimism(several, prior, labels_of(rows)).share == dict.fromkeys(CHANGES, 0.0)


def test_units_without_information_or_moves_have_no_optimism(few: list[Found]) -> None:
    rows, prior = few[0]
    nothing = dict.fromkeys(CHANGES, 0.0)
    unknown = {**rows, "own": np.ones(len(rows["own"]))}
    assert optimism(unknown, prior, labels_of(rows)).share == nothing
    held = {**rows, "lowest": rows["current_price"], "highest": rows["current_price"]}
    assert optimism(held, prior, labels_of(rows)).share == nothing


def test_optimism_is_the_same_to_the_last_bit_each_time(few: list[Found]) -> None:
    rows, prior = few[1]
    assert optimism(rows, prior, labels_of(rows)) == optimism(rows, prior, labels_of(rows))


def test_a_cell_that_is_full_promises_no_more_than_it_carries() -> None:
    found = totals_of(priced(replace(WORLDS["voice 48"], cells=1), 200))
    assert 0.0 <= found.optimism < 0.3


def test_beyond_a_number_of_units_the_query_sums_by_kind() -> None:
    market = make(World(38), 200)
    prior, units = market.prior(), market.units()
    rows = sums(market, market.kind.price(units, prior), units.keys)
    assert market.kind is BUNDLES
    assert len(units) > 2_000  # as in queries/totals.sql
    assert rows["units"].sum() == len(units)
    assert set(rows["unit"]) == {""}
    assert total(rows, prior, prior).optimism == 0.0


@pytest.mark.parametrize(("share", "printed"), [(0.0824, True), (0.0, False), (None, False)])
def test_a_check_prints_the_subtracted_optimism(
    share: float | None, printed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"line": "bundle", "revenue": 9.0, "from": 5.0, "to": 13.0, "optimism": share}
    show_checked(Checked(1, "", None, (), (), (row,)))
    assert ("bundle: 8.2% less margin" in capsys.readouterr().out) is printed
