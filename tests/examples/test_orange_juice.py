"""examples/orange_juice: on made-up stores with known truth, and on the real ones beside R."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from examples.orange_juice.__main__ import main
from examples.orange_juice.compare import beside, columns, compare, held_out
from examples.orange_juice.job import job
from examples.orange_juice.models import fit_prior, fit_store

from hundredfold import HundredfoldError, Run, run

UNIT = ["store", "brand"]


@pytest.fixture(scope="module")
def done(juice: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Store 2 sold brand 1 in ten weeks only: too few for 14 coefficients."""
    weeks = juice[~((juice["store"] == 2) & (juice["brand"] == 1) & (juice["week"] >= 50))]
    return run(
        job,
        {"yx": weeks.sample(frac=1, random_state=0)},
        home=tmp_path_factory.mktemp("home"),
        workers=2,
    )


@pytest.fixture(scope="module")
def published(done: Run) -> pd.DataFrame:
    return pd.read_parquet(done.published(format="parquet")).set_index(UNIT).sort_index()


def test_every_brand_in_every_store_is_published_once(done: Run, published: pd.DataFrame) -> None:
    assert done.state == "done"
    assert list(published.index) == [(store, brand) for store in range(1, 21) for brand in (1, 2)]
    assert published.loc[(2, 1), "weeks"] == 10
    assert set(published["product"]) == {"Tropicana Premium 64 oz", "Tropicana Premium 96 oz"}


def test_a_store_with_too_few_weeks_has_a_fit_only_with_the_others(
    published: pd.DataFrame,
) -> None:
    assert list(published.index[published["own"].isna()]) == [(2, 1)]
    others = published.drop(index=(2, 1)).xs(1, level="brand")
    fit: Any = published.loc[(2, 1)]
    assert abs(fit["shrunk"] - fit["pooled"]) < 1
    assert fit["shrunk_sd"] > others["shrunk_sd"].max()


def test_shrunken_elasticities_are_nearer_to_the_truth(
    published: pd.DataFrame, juice: pd.DataFrame
) -> None:
    table = published.dropna().join(juice.groupby(UNIT)["truth"].first())
    error = {
        name: float(np.sqrt(((table[name] - table["truth"]) ** 2).mean()))
        for name in ("own", "shrunk")
    }
    assert error["shrunk"] < 0.8 * error["own"]


def test_the_run_gives_what_the_functions_give_by_hand(done: Run, juice: pd.DataFrame) -> None:
    results = done.results("elasticity").to_pandas().set_index(UNIT)
    rows = columns(juice[juice["brand"] == 2])
    prior = fit_prior(rows)
    for store in range(1, 21):
        by_hand = fit_store(
            {name: column[rows["store"] == store] for name, column in rows.items()}, prior
        )
        for name, value in results.loc[(store, 2)].items():
            assert value == pytest.approx(getattr(by_hand, name), abs=1e-9)


def test_held_out_weeks_are_forecast_by_each_fit(done: Run, juice: pd.DataFrame) -> None:
    found = held_out(done.results("elasticity").to_pandas(), juice)
    assert list(found["forecasts"]) == [1600, 800, 800]
    assert (found[["pooled", "own", "shrunk"]] > 0.2).all(axis=None)
    noise = found.loc[2]  # its units were fitted to these very weeks
    assert noise["own"] < noise["shrunk"] < noise["pooled"]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("price7", 0.0, r"price7\s+must be > 0"), ("brand", 12, r"brand\s+must be <= 11")],
)
def test_a_row_that_cannot_be_stops_the_run_and_is_named(
    juice: pd.DataFrame, tmp_path: Path, column: str, value: float, message: str
) -> None:
    juice = juice.copy()
    juice.loc[5, column] = value
    with pytest.raises(HundredfoldError, match=message):
        run(job, {"yx": juice}, home=tmp_path, workers=1)


def test_a_week_reported_twice_stops_the_run(juice: pd.DataFrame, tmp_path: Path) -> None:
    twice = pd.concat([juice, juice.iloc[[7]].assign(logmove=9.0)])
    with pytest.raises(HundredfoldError, match="2 of 1,601 rows"):
        run(job, {"yx": twice}, home=tmp_path, workers=1)


def test_the_release_has_a_summary_by_brand(done: Run) -> None:
    assert done.release is not None
    brands, moved = done.release.summaries.values()
    assert [(row["product"], row["stores"]) for row in brands] == [
        ("Tropicana Premium 64 oz", 20),
        ("Tropicana Premium 96 oz", 20),
    ]
    assert len(moved) == 5
    assert None not in [row["own"] for row in moved]


def test_the_example_prints_its_findings(
    juice: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    juice.to_parquet(tmp_path / "yx.parquet")
    main([str(tmp_path / "yx.parquet"), "--until", "70", "--home", str(tmp_path / "home")])
    printed = capsys.readouterr().out
    assert printed.startswith("1,600 rows, 40 units (store, brand) in ")
    assert "from week 70 on" in printed


def test_real_stores_of_brand_1_are_those_of_r(reference_data: Path, tmp_path: Path) -> None:
    weeks = pd.read_parquet(reference_data / "bayesm_orangeJuice_yx.parquet")
    brand = weeks[weeks["brand"] == 1]
    done = run(job, {"yx": brand}, home=tmp_path)
    found: Any = compare(
        pd.read_parquet(done.published(format="parquet")),
        brand,
        reference_data / "reference" / "ref_oj_brand1_own_R.csv",
    )
    assert found.loc["own, lm", "largest"] < 1e-8
    assert list(found.loc["own, lm", ["mean", "sd"]]) == pytest.approx([-2.838, 0.510], abs=5e-4)
    assert found.loc["shrunk, bayesm", "largest"] < 0.35
    assert found.loc["the same, its prior", "largest"] < 0.15
    assert found.loc["the same, its prior", "mean apart"] < 0.05

    earlier = (
        run(job, {"yx": brand[brand["week"] < 118]}, home=tmp_path)
        .results("elasticity")
        .to_pandas()
    )
    scores = held_out(earlier, brand[brand["week"] >= 118]).loc["all"]
    assert scores["shrunk"] < scores["pooled"] < scores["own"]


def test_fits_beside_each_other_are_compared_store_by_store() -> None:
    ours, theirs = pd.Series([1.0, 2.0], [5, 8]), pd.Series([1.5, 1.0], [8, 5])
    assert beside(ours, theirs)["largest"] == 0.5
