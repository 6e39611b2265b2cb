"""Substitution between sizes is found where the market has it, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
from click.testing import CliRunner

import hundredfold
from hundredfold.local.home import Home
from tariffs import demo
from tariffs.cli import app
from tariffs.demand.panel import make_panel
from tariffs.demand.substitution import fit_substitution, neighbours
from tariffs.evaluation.run_data import open_finished
from tariffs.evaluation.substitution import neighbour_price, separate_foresight, substitution
from tariffs.synthetic.scenarios import Switches
from tariffs.synthetic.write import generate

CHI = 0.4


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The home of a finished run on a market with that substitution."""

    def run(cross: float) -> Path:
        home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("operator")
        made = generate("demo", data, dirt=True, switches=Switches(cross=cross))
        sources = {
            name: files[0] if len(files) == 1 else files[0].parent
            for name, files in made.sources.items()
        }
        hundredfold.run(demo.JOB, sources, home=home, as_of=demo.AS_OF, workers=1)
        return home

    return run


def test_chi_is_found_where_the_market_has_it_and_reported(run_of: Callable[..., Path]) -> None:
    home = run_of(CHI)
    found = substitution(open_finished(Home(home, make=False), None, None)).found
    assert abs(found.chi - CHI) < 3 * found.se
    assert 0.005 < found.se < 0.1
    assert found.p < 1e-3
    result = CliRunner().invoke(app, ["evidence", "substitution", "--home", str(home)])
    assert result.exit_code == 0, result.output
    assert f"chi: {found.chi:+.3f}" in result.output
    assert "its neighbours sell" in result.output
    result = CliRunner().invoke(app, ["evidence", "prior", "--home", str(home)])
    assert f"neighbouring products take: chi {found.chi:+.3f} (se {found.se:.3f})" in result.output
    parted = separate_foresight(open_finished(Home(home, make=False), None, None))
    assert parted is not None
    assert abs(parted[1].rho) < 3 * parted[1].se  # nor is substitution mistaken for foresight


def test_no_substitution_is_found_where_there_is_none(run_of: Callable[..., Path]) -> None:
    found = substitution(open_finished(Home(run_of(0.0), make=False), None, None)).found
    assert abs(found.chi) < 3 * found.se


def test_chi_is_that_of_a_poisson_regression_with_dummies() -> None:
    chance = np.random.default_rng(3)
    units, weeks = 24, 12
    unit, week = np.repeat(np.arange(units), weeks), np.tile(np.arange(weeks), units)
    x, cross_effect = (
        chance.uniform(-0.3, 0.3, units * weeks),
        chance.uniform(-0.3, 0.3, units * weeks),
    )
    quantity = chance.poisson(np.exp(2 + 0.3 * np.sin(week) - 1.5 * x + 0.5 * cross_effect)).astype(
        float
    )
    panel = make_panel(np.arange(0, units * weeks + 1, weeks), quantity, x, np.ones(units * weeks))
    found = fit_substitution(
        panel, cross_effect, np.zeros(units, dtype=int), week, weeks, np.arange(units) // 2
    )
    dummies = np.hstack(
        [x[:, None], cross_effect[:, None], np.eye(units)[unit], np.eye(weeks)[week][:, 1:]]
    )
    anchor = sm.GLM(quantity, dummies, family=sm.families.Poisson()).fit(
        tol=1e-12, cov_type="cluster", cov_kwds={"groups": unit // 2}
    )
    assert found.chi == pytest.approx(anchor.params[1], abs=1e-7)
    lost = (len(x) - 1) / (
        len(x) - dummies.shape[1]
    )  # statsmodels also counts every dummy as a parameter lost
    assert found.se == pytest.approx(anchor.bse[1] / np.sqrt(lost), rel=1e-6)


def test_neighbours_are_those_of_the_same_week_and_all_of_them() -> None:
    unit, period = np.array([0, 0, 0, 1, 1, 2, 2, 3]), np.array([0, 1, 2, 0, 2, 0, 1, 0])
    x = np.array([0.1, 0.2, 0.3, 1.0, 3.0, 10.0, 20.0, 5.0])
    cross_effect, known = neighbours(
        unit, period, x, np.array([[-1, 1], [0, 2], [1, -1], [-1, -1]])
    )
    assert known.tolist() == [True, False, True, True, False, True, False, False]
    assert cross_effect[known].tolist() == [1.0, 3.0, 10.1, 1.0]


def test_rungs_are_neighbours_within_their_ladder_and_place() -> None:
    catalogue = pa.table(
        {
            "product": ["A1", "A2", "B1", "V"],
            "ladder": ["A", "A", "B", None],
            "rung": [1, 2, 2, None],
        }
    )
    keys: Any = {
        "segment": np.array(["S"] * 4 + ["T"]),
        "location": np.array(["L"] * 5),
        "product": np.array(["A1", "A2", "B1", "V", "A1"]),
    }
    assert neighbour_price(keys, catalogue).tolist() == [
        [-1, 1],
        [0, -1],
        [-1, -1],
        [-1, -1],
        [-1, -1],
    ]


def test_what_cannot_be_reported_is_refused() -> None:
    units = 10
    panel = make_panel(
        np.arange(0, 2 * units + 1, 2),
        np.ones(2 * units),
        np.tile([0.0, 0.1], units),
        np.ones(2 * units),
    )
    one, cell = np.zeros(units, dtype=int), np.tile([0, 1], units)
    with pytest.raises(
        ValueError, match="5 clusters have neighbouring products, wanted at least 8"
    ):
        fit_substitution(panel, np.arange(2.0 * units), one, cell, 2, np.arange(units) // 2)
    with pytest.raises(ValueError, match="never moved"):
        fit_substitution(panel, np.zeros(2 * units), one, cell, 2, np.arange(units))
