"""Whole runs with real worker processes: the same bytes for any number of workers."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hundredfold
from hundredfold import Job, Model, Publish, Source, Unit
from hundredfold.errors import PublishRefused

UNITS = 300


@dataclass
class Level:
    level: float
    shape: np.ndarray


def rows() -> pa.Table:
    rng = np.random.default_rng(5)
    shop = rng.zipf(1.5, 6000) % UNITS
    named = np.char.add("r", (shop % 5).astype(str)).astype(object)
    region = np.where(shop % 7 == 0, np.array(None, dtype=object), named)
    table = pa.table(
        {
            "region": region.tolist(),
            "shop": shop,
            "week": rng.integers(0, 50, 6000),
            "x": rng.normal(size=6000),
        }
    )
    return table.take(pa.array(rng.permutation(6000)))


def level(rows: Unit) -> Level:
    return Level(float(np.add.accumulate(rows["x"])[-1]), rows["x"][:3].copy())


def price(rows: Unit, level: Level) -> dict[str, Any]:
    total = level.level
    for value in rows["x"].tolist():
        total = total * 0.75 + value
    return {"price": total, "first": int(rows["week"][0]), "shape": level.shape}


JOB = Job(
    "whole",
    sources=[Source("sales")],
    models=[
        Model("level", unit=("region",), order_by=("week", "x"), work=level),
        Model("price", unit=("region", "shop"), order_by=("week",), work=price),
    ],
    publish=Publish(
        "prices", query="SELECT * FROM price ORDER BY region, shop", formats=("parquet", "csv")
    ),
)


def by_hand(table: pa.Table) -> list[dict[str, Any]]:
    data = sorted(
        table.to_pylist(),
        key=lambda r: (r["region"] is None, r["region"] or "", r["shop"], r["week"], r["x"]),
    )
    levels: dict[Any, list[float]] = {}
    for row in sorted(data, key=lambda r: (r["week"], r["x"])):
        levels.setdefault(row["region"], []).append(row["x"])
    units: dict[Any, list[dict[str, Any]]] = {}
    for row in data:
        units.setdefault((row["region"], row["shop"]), []).append(row)
    found = []
    for (region, shop), group in units.items():
        total = 0.0
        for value in levels[region]:
            total += value
        for row in group:
            total = total * 0.75 + row["x"]
        found.append(
            {
                "region": region,
                "shop": shop,
                "price": total,
                "first": group[0]["week"],
                "shape": levels[region][:3],
            }
        )
    return found


def test_any_number_of_workers_gives_the_same_bytes_and_the_right_rows(
    tmp_path: Path,
) -> None:
    files = []
    for workers in (1, 2, 4):
        run = hundredfold.run(
            JOB,
            {"sales": rows()},
            home=tmp_path / str(workers),
            workers=workers,
            memory="2GB",
            as_of="2026-01-01",
        )
        assert run.state == "done"
        files.append(
            [
                (run.folder / "models/price/results.parquet").read_bytes(),
                run.published(format="csv").read_bytes(),
            ]
        )
        assert run.results("price").to_arrow().to_pylist() == by_hand(rows())
    assert files[0] == files[1] == files[2]


def test_a_run_within_half_a_gigabyte_uses_it_and_gives_all_rows_back(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"shop": np.repeat(np.arange(3000), 400), "x": np.arange(1_200_000.0)}),
        tmp_path / "big.parquet",
    )
    job = Job(
        "big",
        sources=[Source("sales")],
        models=[Model("m", unit=("shop",), work=lambda rows: {"sum": float(rows["x"].sum())})],
    )
    run = hundredfold.run(
        job, {"sales": tmp_path / "big.parquet"}, home=tmp_path / "home", memory="512MB"
    )
    found = run.results().to_arrow()
    assert found.column("sum").to_pylist() == [
        float(sum(range(400 * s, 400 * s + 400))) for s in range(3000)
    ]
    assert run.counts["models"]["m"]["rows_in"] == 1_200_000


def test_a_retry_does_only_failed_units_and_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    def job(broken: bool) -> Job:
        def work(rows: Unit) -> dict[str, Any]:
            if broken and rows.key[0] % 3 == 0:
                raise ValueError("not yet")
            return {"v": None if rows.key[0] % 2 else float(rows["x"].sum())}

        return Job(
            "again",
            sources=[Source("sales")],
            models=[Model("m", unit=("shop",), work=work)],
            publish=Publish("out", query="SELECT * FROM m"),
        )

    table = pa.table({"shop": list(range(30)) * 2, "x": np.arange(60.0)})
    with pytest.raises(PublishRefused, match="m: 10 of 30 units"):
        hundredfold.run(
            job(True), {"sales": table}, home=tmp_path, workers=1, memory="1GB", run_id="bad"
        )
    held = hundredfold.open_run("bad", home=tmp_path)
    assert [row["unit"] for row in held.failures().to_arrow().to_pylist()] == [
        str(k) for k in range(0, 30, 3)
    ]
    retried = hundredfold.retry("bad", home=tmp_path, job=job(False), accept_new_code=True)
    whole = hundredfold.run(job(False), {"sales": table}, home=tmp_path, workers=1, memory="1GB")
    assert (retried.folder / "models/m/results.parquet").read_bytes() == (
        whole.folder / "models/m/results.parquet"
    ).read_bytes()
    assert set(retried.units().to_arrow().column("attempt").to_pylist()) == {1, 2}


OF_HASHES = """
from hundredfold import Job, Model, Publish, Source

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon"]

def words(rows):
    total = 0.1
    for word in set(WORDS):  # the sum, too, has the order of the set
        total = total / 3 + len(word)
    found = {word: {"lengths": {word[:n] for n in range(3)}} for word in set(WORDS)}
    sets = {word: [{"x", "y", word}] for word in set(WORDS)}
    return {"total": total, "inner": found, "of": frozenset(WORDS), **sets}

output = Publish("out", query="SELECT * FROM m", formats=("parquet",))
job = Job("hashes", [Source("s")], [Model("m", ("k",), words)], publish=output)
"""


def test_results_have_the_same_bytes_with_any_seed_of_hashes(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(OF_HASHES)
    pq.write_table(pa.table({"k": list(range(40))}), tmp_path / "s.parquet")
    files = []
    for seed, workers, start in (
        ("0", "1", "forkserver"),
        ("1", "2", "forkserver"),
        ("random", "1", "spawn"),
    ):
        home = tmp_path / f"{seed}-{start}"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "hundredfold",
                "run",
                "job.py",
                "-s",
                "s=s.parquet",
                "--home",
                home,
                "--workers",
                workers,
                "--memory",
                "1GB",
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed, "HUNDREDFOLD_START": start},
            check=True,
            capture_output=True,
        )
        run = hundredfold.open_run(home=home)
        files.append((run.folder / "models/m/results.parquet").read_bytes())
    assert len(set(files)) == 1
    assert run.results().to_arrow().column("of")[0].as_py() == [
        "alpha",
        "beta",
        "delta",
        "epsilon",
        "gamma",
    ]


OF_FILES = """
from hundredfold import Job, Model, Publish, Source, Unit

def count(rows: Unit):
    return {"n": rows.rows}

output = Publish("out", query="SELECT * FROM m", formats=("csv", "parquet"))
job = Job("files", [Source("s")], [Model("m", ("k",), count)], publish=output)
"""


def test_the_driver_of_a_run_on_files_imports_no_pandas(tmp_path: Path) -> None:
    """Pandas costs a run 0.2 s and 60 MB; `pa.array` and empty tables import it on the quiet."""
    (tmp_path / "job.py").write_text(OF_FILES)
    pq.write_table(pa.table({"k": list(range(40))}), tmp_path / "s.parquet")
    program = (
        "import sys, hundredfold\n"
        "hundredfold.run('job.py:job', {'s': 's.parquet'}, home='home', workers=1)\n"
        "print('pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"
