"""examples/cheese: on made-up retailers with known truth, and on the real ones beside R."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from examples.cheese.__main__ import main
from examples.cheese.compare import compare
from examples.cheese.job import job
from examples.cheese.models import demand, fit_alone, fit_prior, shrink

from hundredfold import HundredfoldError, Run, run
from support.waits import HANG_S

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def done(cheese: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(job, {"cheese": cheese}, home=tmp_path_factory.mktemp("home"), workers=2)


def test_every_retailer_is_published_once(done: Run) -> None:
    table = pd.read_csv(done.published("elasticities", "csv"))
    assert list(table["retailer"]) == list("ABCDEFGH")
    assert list(table["weeks"]) == [30] * 8
    assert done.state == "done"
    assert len(done.failures()) == 0


def test_a_retailers_own_fit_is_least_squares(done: Run, cheese: pd.DataFrame) -> None:
    own = done.results("own").to_pandas().set_index("retailer")
    for retailer in "ABCDEF":
        y, x = demand(cheese[cheese["retailer"] == retailer])
        assert list(own.loc[retailer, ["intercept", "display", "elasticity"]]) == pytest.approx(
            np.linalg.lstsq(x, y)[0], abs=1e-8
        )


def test_a_parameter_that_a_retailer_lacks_is_null_or_from_the_others(done: Run) -> None:
    own, shrunk = (
        done.results(name).to_pandas().set_index("retailer") for name in ("own", "shrunk")
    )
    slopes = done.results("slopes").to_pandas().iloc[0]
    assert list(own.index[own["display"].isna()]) == ["G"]
    assert list(own.index[own["elasticity"].isna()]) == ["H"]
    assert shrunk.loc["H", "slope"] == pytest.approx(slopes["mean"], abs=1e-12)
    assert not shrunk.isna().any(axis=None)


def test_shrunken_elasticities_are_nearer_to_the_truth(done: Run, cheese: pd.DataFrame) -> None:
    truth = cheese.groupby("retailer")["truth"].first()[list("ABCDEFG")]
    table = pd.read_parquet(done.published(format="parquet")).set_index("retailer").loc[truth.index]
    error = {
        name: float(np.sqrt(((table[name] - truth) ** 2).mean())) for name in ("own", "shrunk")
    }
    assert error["shrunk"] < 0.8 * error["own"]


def test_the_run_gives_what_the_functions_give_by_hand(done: Run, cheese: pd.DataFrame) -> None:
    results = done.results("shrunk").to_pandas().set_index("retailer")
    slopes = next(done.results("slopes").to_pandas().itertuples())
    prior = fit_prior(cheese)
    for retailer, rows in cheese.groupby("retailer"):
        by_hand = shrink(rows, fit_alone(rows), slopes, prior)
        assert list(results.loc[retailer]) == pytest.approx(
            [getattr(by_hand, name) for name in results.columns], abs=1e-9
        )


def test_a_row_that_cannot_be_stops_the_run_and_is_named(
    cheese: pd.DataFrame, tmp_path: Path
) -> None:
    cheese = cheese.copy()
    cheese.loc[3, "price"] = 0.0
    with pytest.raises(HundredfoldError, match=r"price\s+must be > 0\s+1 row") as stopped:
        run(job, {"cheese": cheese}, home=tmp_path, workers=1)
    assert "1 of 240 rows" in str(stopped.value)


def test_the_command_prints_the_summary(cheese: pd.DataFrame, tmp_path: Path) -> None:
    cheese.to_csv(tmp_path / "cheese.csv", index=False)
    arguments = [
        "run",
        "examples.cheese.job:job",
        "--source",
        f"cheese={tmp_path / 'cheese.csv'}",
        "--home",
        str(tmp_path / "home"),
    ]
    completed = subprocess.run(
        [sys.executable, "-m", "hundredfold", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert "Five retailers that moved most" in completed.stdout
    assert "elasticities.parquet" in completed.stdout


def test_the_example_prints_its_findings(
    cheese: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cheese.to_csv(tmp_path / "cheese.csv", index=False)
    main([str(tmp_path / "cheese.csv"), "--home", str(tmp_path / "home")])
    assert capsys.readouterr().out.startswith("8 retailers in ")


def test_real_retailers_are_those_of_r(reference_data: Path, tmp_path: Path) -> None:
    """lm to rounding, lme4's posterior modes, and bayesm's posterior means: of 20,000 draws."""
    done = run(job, {"cheese": reference_data / "cheese.csv"}, home=tmp_path)
    found = {a.ours: a for a in compare(done, reference_data / "reference")}
    for name in ("own.intercept", "own.display", "own.elasticity", "own.se"):
        assert found[name].largest < 1e-8
    assert found["own.elasticity"].retailers == 88
    assert found["own.display"].retailers == 86  # two never had a display
    assert found["shrunk.slope"].largest < 0.005
    assert found["shrunk.elasticity"].largest < 0.12
    assert found["shrunk.elasticity"].mean < 0.03
    table = pd.read_parquet(done.published(format="parquet"))
    assert (table["own"] > 0).sum() == 2
    assert (table["shrunk"] > 0).sum() == 0
