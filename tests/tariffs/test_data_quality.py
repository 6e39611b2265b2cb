"""Dirt through a whole run: every piece gets its policy, sums agree, estimates are unaffected."""

from __future__ import annotations

import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hundredfold
from hundredfold.data.checksums import checksum_of, get_json, put_json
from hundredfold.data.layout import Layout
from hundredfold.local.filesystem import FileStore
from tariffs.cleaning import TIDY_PRICE
from tariffs.data_quality.reconciliation import SourceBalance, reconcile
from tariffs.data_quality.repair_kinds import kind_of
from tariffs.data_quality.show import tallied
from tariffs.job import job
from tariffs.synthetic import AS_OF, Size
from tariffs.synthetic.corruption import CONFLICT_ID
from tariffs.synthetic.write import Paths, generate

SIZE = Size(locations=40, cells=20, weeks=26, sales_format="csv")
ENGINES_NAMES = {
    "week_by_its_monday": "week_by_another_day",
    "renamed_day_150": "renamed_product",
}  # where it cannot know as much


def run_of(paths: Paths, home: Path) -> hundredfold.Run:
    sources = {
        name: files[0] if len(files) == 1 else files[0].parent
        for name, files in paths.sources.items()
    }
    return hundredfold.run(
        job, sources, home=home, workers=1, as_of=AS_OF.isoformat(), run_id="one"
    )


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> tuple[hundredfold.Run, Paths]:
    folder = tmp_path_factory.mktemp("dirty")
    paths = generate(SIZE, folder / "data")
    return run_of(paths, folder / "home"), paths


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[hundredfold.Run, Paths]:
    folder = tmp_path_factory.mktemp("clean")
    paths = generate(SIZE, folder / "data", dirt=False)
    return run_of(paths, folder / "home"), paths


@pytest.fixture(scope="module")
def reconciled(
    dirty: tuple[hundredfold.Run, Paths],
) -> tuple[dict[str, SourceBalance], list[dict[str, Any]]]:
    balances, ledger = reconcile(dirty[0])
    return {balance.source: balance for balance in balances}, ledger.to_pylist()


@pytest.fixture(scope="module")
def known(dirty: tuple[hundredfold.Run, Paths]) -> list[dict[str, Any]]:
    """The generator's ledger, each row by its key."""
    rows = pq.read_table(dirty[1].truth / "dirt.parquet").to_pylist()
    return [row | {"key": row["key"] or str(row["row_id"])} for row in rows]


def keys(
    entries: list[dict[str, Any]], policy: str, source: str | None = None
) -> set[tuple[str, str]]:
    return {
        (e["source"], e["key"])
        for e in entries
        if e["policy"] == policy and source in (None, e["source"])
    }


# every piece has its policy


@pytest.mark.parametrize("policy", ["REPAIR", "REJECT", "DEDUPE", "SUPERSEDE"])
def test_what_can_be_known_is_done_to_every_such_row_and_to_no_other(
    policy: str, reconciled: Any, known: Any
) -> None:
    expected = keys(known, policy)
    if policy == "REJECT":  # of two rows that contradict one another, both
        expected |= {
            (e["source"], str(e["row_id"] + CONFLICT_ID))
            for e in known
            if e["kind"] == "conflicting_copy"
        }
    assert keys(reconciled[1], policy) == expected
    assert len(expected) > 30


def test_spikes_and_prices_in_pesewas_are_found(reconciled: Any, known: Any) -> None:
    found, there = keys(reconciled[1], "SET_ASIDE"), keys(known, "SET_ASIDE")
    assert len(found & there) >= 0.95 * max(len(found), len(there))  # recall and precision
    pesewas = {e["key"] for e in known if e["kind"] == "price_in_pesewas"}
    assert {e["key"] for e in reconciled[1] if e["kind"] == "price_in_pesewas"} == pesewas


def test_every_repair_is_reported_by_the_name_of_its_dirt(reconciled: Any, known: Any) -> None:
    named = {
        (e["source"], e["key"]): ENGINES_NAMES.get(e["kind"], e["kind"])
        for e in known
        if e["policy"] == "REPAIR"
    }
    assert {
        (e["source"], e["key"]): e["kind"] for e in reconciled[1] if e["policy"] == "REPAIR"
    } == named


def test_what_is_odd_and_right_is_left_alone(reconciled: Any, known: Any) -> None:
    kept = keys(known, "KEEP")
    assert not kept & {(e["source"], e["key"]) for e in reconciled[1]}
    assert len(kept) > 100


def test_repairs_bring_back_the_values_that_were_there_before_the_dirt(
    dirty: Any, clean: Any, known: Any
) -> None:
    with duckdb.connect() as duck:
        for name, (run, _) in (("dirty", dirty), ("clean", clean)):
            accepted = f"{run.folder}/sources/bundle_sales.parquet"
            files = (
                accepted if Path(accepted).exists() else f"{run.folder}/staged/bundle_sales.parquet"
            )
            duck.sql(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{files}')")
        ids = pa.table(
            {
                "row_id": [
                    e["row_id"]
                    for e in known
                    if e["policy"] == "REPAIR" and e["source"] == "bundle_sales"
                ]
            }
        )
        duck.register("repaired", ids)
        columns = (
            "row_id::BIGINT AS row_id, segment, location, product, date_trunc('week', week::DATE),"
            " round(price::DOUBLE, 9), units::BIGINT, loaded_at::TIMESTAMP"
        )
        both = [
            duck.sql(
                f"SELECT {columns} FROM {name} SEMI JOIN repaired USING (row_id) ORDER BY row_id"
            ).fetchall()
            for name in ("dirty", "clean")
        ]
        assert both[0] == both[1]
        assert len(both[0]) == len(ids)


def test_capacities_discounts_and_names_are_again_what_they_were(dirty: Any, clean: Any) -> None:
    with duckdb.connect() as duck:
        for source, columns in (
            ("cell_load", "cell, hour, capacity_minutes"),
            ("voice_usage", "cell, hour, day_type, week, discount, posted_discount"),
            ("locations", "location, name"),
        ):
            mended = duck.sql(
                f"SELECT {columns} FROM '{dirty[0].folder}/sources/{source}.parquet'"
            ).fetchall()
            reader = "read_csv" if source == "locations" else "read_parquet"
            before = set(
                duck.sql(
                    f"SELECT {columns} FROM {reader}('{clean[1].sources[source][0]}')"
                ).fetchall()
            )
            assert set(mended) <= before
            assert len(mended) > 0.999 * len(before)


@pytest.mark.parametrize(
    ("column", "before", "after", "kind"),
    [
        ("price", "GHS 1,5 ", "1.5", "decimal_comma"),
        ("product", " day_50", "DAY_50", "untidy_product"),
        ("location", "LOC_7", "LOC_00007", "no_leading_zeros"),
        ("capacity_minutes", None, "9.0", "capacity_missing"),
        ("capacity_minutes", "0", "9.0", "capacity_zero"),
        ("name", "Ho ", "Ho", "untidy_name"),
    ],
)
def test_kinds_are_derived_from_the_values(
    column: str, before: str | None, after: str, kind: str
) -> None:
    assert kind_of(column, before, after) == kind


@pytest.mark.parametrize("written", ["{}", "GHS {}", " ghs{} ", "{} GHS"])
@pytest.mark.parametrize(
    ("price", "tidy"),
    [
        ("1.5", "1.5"),
        ("150", "1.5"),
        ("30", "30"),
        ("31", "0.31"),
        ("3001", None),
        ("99999999", None),
        ("inf", None),
    ],
)
def test_a_price_with_a_currency_is_held_to_the_same_bounds(
    written: str, price: str, tidy: str | None
) -> None:
    with duckdb.connect() as duck:
        sql = (
            f"SELECT TRY_CAST({TIDY_PRICE} AS DOUBLE) FROM (SELECT ? AS price, '1.5' AS list_price)"
        )
        assert duck.execute(sql, [written.format(price)]).fetchone() == (
            None if tidy is None else float(tidy),
        )


# the sums agree


def test_rows_and_money_come_out_even_to_the_last_digit(reconciled: Any, dirty: Any) -> None:
    balances, _ = reconciled
    assert all(balance.even for balance in balances.values())
    sales = balances["bundle_sales"]
    counts = dirty[0].counts["sources"]["bundle_sales"]
    assert (sales.came.rows, sales.accepted.rows, sales.rejected.rows) == (
        counts["rows"],
        counts["accepted"],
        counts["rejected"],
    )
    assert sales.copies.rows + sales.superseded.rows == counts["dropped"]
    parts = (sales.kept, sales.before, sales.rejected, sales.copies, sales.superseded)
    assert sales.came.money == sum((part.money for part in parts), Decimal(0))
    assert sales.accepted.money == sales.kept.money + sales.after.money


def test_the_repaired_money_is_the_money_of_the_clean_rows(
    reconciled: Any, clean: Any, known: Any
) -> None:
    ids = pa.table(
        {
            "row_id": [
                e["row_id"]
                for e in known
                if e["policy"] == "REPAIR" and e["source"] == "bundle_sales"
            ]
        }
    )
    with duckdb.connect() as duck:
        duck.register("repaired", ids)
        sales = clean[1].sources["bundle_sales"][0].parent
        [(money,)] = duck.sql(
            f"SELECT sum(price * units) FROM '{sales}/*.csv' SEMI JOIN repaired USING (row_id)"
        ).fetchall()
    assert float(reconciled[0]["bundle_sales"].after.money) == pytest.approx(money, abs=1e-6)


def believe(home: Path, key: str) -> None:
    """Record the checksum that a file has now: as if validation itself had lost a row."""
    store, key_of_result = FileStore(home), Layout("one").validation_result()
    fields = get_json(store, key_of_result)
    for source in fields["results"]:
        if key in source["checksums"]:
            source["checksums"][key] = checksum_of(store, key)
    put_json(store, key_of_result, fields)


@pytest.mark.parametrize("left_out", ["rejects", "repairs"])
def test_a_row_that_is_reported_nowhere_is_missed(
    dirty: Any, tmp_path: Path, left_out: str
) -> None:
    home = tmp_path / "home"
    shutil.copytree(dirty[0].home.folder, home)
    file = home / "runs" / "one" / left_out / "bundle_sales.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    believe(home, f"runs/one/{left_out}/bundle_sales.parquet")
    balance = next(
        b
        for b in reconcile(hundredfold.open_run("one", home=home))[0]
        if b.source == "bundle_sales"
    )
    assert not balance.even
    assert balance.missing is not None
    assert balance.missing.rows + balance.untold == 1


def test_the_command_shows_the_balance_and_writes_the_ledger(
    dirty: Any, reconciled: Any, tmp_path: Path
) -> None:
    out = tmp_path / "ledger.parquet"
    words = ["dirt", "one", "--home", str(dirty[0].home.folder), "--out", str(out)]
    completed = subprocess.run(
        [sys.executable, "-m", "tariffs.cli", *words], capture_output=True, text=True, check=True
    )
    assert "price_in_pesewas" in completed.stdout
    assert "not accounted for" in completed.stdout
    assert "Nothing to do in product_catalog, policy." in completed.stdout
    assert pq.read_table(out).num_rows == len(reconciled[1])


# the money that people see is plausible


def test_the_money_at_risk_is_that_of_the_clean_rows(
    reconciled: Any, clean: Any, known: Any
) -> None:
    """Each row with sound figures agrees; rows with nonsense agree approximately in the sum."""
    sales = clean[1].sources["bundle_sales"][0].parent
    with duckdb.connect() as duck:
        true = dict(
            duck.sql(
                f"SELECT CAST(row_id AS VARCHAR), price * units FROM '{sales}/*.csv'"
            ).fetchall()
        )
    kinds = {e["key"]: e["kind"] for e in known if e["source"] == "bundle_sales"}
    of_kind: dict[str, list[tuple[float, float]]] = {}
    for e in reconciled[1]:
        if (
            e["source"] == "bundle_sales"
            and e["policy"] in ("REJECT", "SET_ASIDE")
            and e["key"] in kinds
            and e["money_at_risk"] is not None
        ):
            of_kind.setdefault(kinds[e["key"]], []).append(
                (float(e["money_at_risk"]), true[e["key"]])
            )
    prices, units = (
        {"null_price", "zero_price", "free_units", "price_beyond_all"},
        {"null_units", "negative_units", "full_counter"},
    )
    for kind, pairs in of_kind.items():
        found, there = np.array(pairs).T
        if kind in prices:
            assert found.sum() == pytest.approx(there.sum(), rel=0.25), kind
        elif kind in units | {"spike"}:
            assert found.sum() == pytest.approx(there.sum(), rel=0.5), (
                kind
            )  # what a unit sells varies more than its price
        else:
            assert found == pytest.approx(there, abs=1e-6), kind
    assert (prices | units | {"spike"}) <= set(of_kind)


NONSENSE = [  # price, units
    ("99999999", "7"),
    ("1e300", "7"),
    ("inf", "7"),
    ("nan", "7"),
    ("-5", "7"),
    ("FREE", "7"),
    ("", "7"),
    ("0", "7"),
    ("1e12", "2147483647"),
    ("1.5", "2147483647"),
    ("1.5", "-2147483648"),
    ("1.5", "1e30"),
    ("1.5", ""),
    ("GHS 99999999", "7"),
    ("99999999,5", "7"),
    ("0.001", ""),
]


def test_no_figure_however_wrong_shows_absurd_money(tmp_path: Path) -> None:
    made = generate(
        Size(locations=2, cells=2, weeks=12, sales_format="csv"), tmp_path / "data", dirt=False
    )
    files = made.sources["bundle_sales"]
    head, *rows = files[0].read_text().splitlines()
    at = {name: n for n, name in enumerate(head.replace('"', "").split(","))}
    spoilt = []
    for n, (price, units) in enumerate(NONSENSE):
        fields = rows[20 * n].split(",")
        fields[at["price"]], fields[at["units"]] = f'"{price}"', f'"{units}"' if units else ""
        spoilt += [",".join(fields)]
    for n, (column, value, units) in enumerate(
        [
            ("product", "GHOST", "7"),
            ("location", "LOC_77777", "2000000000"),
            ("location", "LOC_77777", "3"),
        ]
    ):
        fields = rows[20 * n + 7].split(",")
        fields[at[column]], fields[at["units"]] = value, units
        spoilt += [",".join(fields)]
    kept = [row for n, row in enumerate(rows) if n % 20 not in (0, 7)]
    files[0].write_text("\n".join([head, *kept, *spoilt]) + "\n")
    run = run_of(made, tmp_path / "home")
    balances, ledger = reconcile(run)
    sales = next(balance for balance in balances if balance.source == "bundle_sales")
    done = {key: tally for key, tally in tallied(ledger).items() if key[2] == "bundle_sales"}
    dearest = max(
        float(line.split(",")[at["price"]]) * float(line.split(",")[at["units"]]) for line in kept
    )
    assert sales.even
    assert sales.rejected.rows == len(NONSENSE) + 3
    assert abs(sales.rejected.money) > 1e9  # the figures as they came
    assert sum(tally.entries for tally in done.values()) == len(NONSENSE) + 3
    assert 0 < sum(tally.at_risk for tally in done.values()) <= dearest * len(NONSENSE)
    assert (
        done["REJECT", "product must be in product_catalog.product", "bundle_sales"].not_priced == 1
    )
    placeless = done["REJECT", "location must be in locations.location", "bundle_sales"]
    assert (placeless.entries, placeless.not_priced) == (2, 1)
    shown = subprocess.run(
        [sys.executable, "-m", "tariffs.cli", "dirt", "--home", str(tmp_path / "home")],
        capture_output=True,
        text=True,
        check=True,
    )
    figures = [
        float(f.replace(",", ""))
        for f in shown.stdout.split()
        if f.replace(",", "").lstrip("-").isdigit() and f != "2147483647"
    ]
    assert max(figures) < 1e7
    assert min(figures) >= 0


# the estimates are unaffected


def recovered(
    run: hundredfold.Run, paths: Paths, model: str, key: tuple[str, ...]
) -> tuple[float, float, float]:
    """Bias, cover of the 90 % interval, and RMSE of the elasticities at the reference price."""
    with duckdb.connect() as duck:
        duck.register("found", run.results(model).to_arrow())
        truth = paths.truth / ("bundles.parquet" if model == "bundles" else "voice.parquet")
        rows = duck.sql(
            f"""SELECT elasticity * reference_price / found.current_price AS beta,
              se * reference_price / found.current_price AS se, t.beta AS truth
            FROM found JOIN '{truth}' AS t USING ({", ".join(key)})"""
        ).fetchnumpy()
    error = rows["beta"] - rows["truth"]
    return (
        error.mean(),
        np.mean(np.abs(error) < 1.645 * rows["se"]),
        np.sqrt(np.mean(error**2)),
    )


@pytest.mark.parametrize(
    ("model", "key"),
    [("bundles", ("segment", "location", "product")), ("voice", ("cell", "hour", "day_type"))],
)
def test_estimates_with_all_the_dirt_are_as_without(
    dirty: Any, clean: Any, model: str, key: tuple[str, ...]
) -> None:
    bias, cover, rmse = recovered(dirty[0], dirty[1], model, key)
    bias_without, cover_without, rmse_without = recovered(clean[0], clean[1], model, key)
    rho, rho_without = (
        run.results("prior" if model == "bundles" else "voice_prior").to_arrow().to_pylist()[0]
        for run, _ in (dirty, clean)
    )
    assert (
        abs(rho["rho"] - rho_without["rho"]) < rho_without["rho_se"] / 2
    )  # an estimate with an error of its own, which rows gone move
    assert bias + rho["rho_used"] == pytest.approx(bias_without + rho_without["rho_used"], abs=0.01)
    assert cover == pytest.approx(cover_without, abs=0.01)
    assert rmse == pytest.approx(rmse_without, rel=0.02)
    assert dirty[0].counts["models"][model]["units"] == clean[0].counts["models"][model]["units"]
