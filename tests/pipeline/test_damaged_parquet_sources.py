"""A Parquet source that is damaged, or not Parquet: one error with the file, its type and a
hint.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hundredfold import Job, Model, Source
from hundredfold.errors import HundredfoldError, SourceError
from hundredfold.local.home import Home
from support.in_process import InProcessRunner
from support.waits import HANG_S

ROWS = 4_000


def written(path: Path, compression: str = "zstd") -> Path:
    numbers = np.random.default_rng(1).normal(size=ROWS)
    table = pa.table({"k": np.arange(ROWS) % 7, "v": numbers, "t": [f"text {n}" for n in numbers]})
    pq.write_table(table, path, compression=compression, row_group_size=1_000, use_dictionary=False)
    return path


def page_of(path: Path, column: str, group: int) -> int:
    """Return the offsets of the data pages of a column."""
    meta = pq.ParquetFile(path).metadata.row_group(group)
    names = [meta.column(n).path_in_schema for n in range(meta.num_columns)]
    return int(meta.column(names.index(column)).data_page_offset)


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def no_footer(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def torn_footer(path: Path) -> None:
    size = path.stat().st_size
    overwrite(path, size - 8 - int.from_bytes(path.read_bytes()[-8:-4], "little"), b"\xff" * 60)


def encrypted(path: Path) -> None:
    overwrite(path, 0, b"PARE")
    overwrite(path, path.stat().st_size - 4, b"PARE")


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (no_footer, "its end is missing"),
    "a torn footer": (torn_footer, "cannot be read as Parquet"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "a few bytes": (lambda path: path.write_bytes(b"PAR1"), "its end is missing"),
    "text": (lambda path: path.write_text("k,v\n1,2\n"), "it begins with 'k,v'"),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), "it begins with"),
    "gzip": (
        lambda path: path.write_bytes(gzip.compress(path.read_bytes())),
        "compressed with gzip",
    ),
    "HTML": (lambda path: path.write_text("<!DOCTYPE html><html></html>"), "a page of HTML"),
    "encrypted": (encrypted, "it is encrypted"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("several", [False, True])
def test_a_file_that_is_not_parquet_is_named_with_its_real_type(
    runner: InProcessRunner, tmp_path: Path, kind: str, several: bool
) -> None:
    change, message = OTHERS[kind]
    change(written(tmp_path / "b.parquet"))
    if several:
        written(tmp_path / "a.parquet")
        written(tmp_path / "c.parquet")
    with pytest.raises(SourceError, match=message) as caught:
        runner.source(Source("s"), tmp_path).validate()
    assert "b.parquet" in str(caught.value)
    assert "a.parquet" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "lz4", "brotli"])
@pytest.mark.parametrize("where", ["header", "data"])
def test_a_damaged_page_is_named_in_whichever_step_reads_it(
    runner: InProcessRunner, tmp_path: Path, compression: str, where: str
) -> None:
    damaged = written(tmp_path / "b.parquet", compression)
    written(tmp_path / "a.parquet", compression)
    at = page_of(damaged, "t", 2)
    overwrite(damaged, at + 30 * (where == "data"), b"\xff" * 40)
    model = Model("m", unit=("k",), query="SELECT k, t FROM s", work=lambda rows: {"n": rows.rows})
    with pytest.raises(
        SourceError
    ) as caught:  # no contract: only the model's query reads the column
        run_steps(runner.start(Job("one", sources=[Source("s")], models=[model]), s=tmp_path))
    assert "b.parquet cannot be read as Parquet" in str(caught.value)
    assert "column t" in str(caught.value)
    assert "column v" not in str(caught.value)
    assert "again" in str(caught.value.hint)


def run_steps(run: Any) -> None:
    """Run the steps of a run in the contexts in which a driver runs them."""
    from contextlib import ExitStack

    from hundredfold.pipeline.validate import naming_damage

    results = run.validate()
    with ExitStack() as stack:
        for result in results:
            stack.enter_context(naming_damage(result.source, result.files, run.warehouse))
        run.prepare("m")


def test_an_error_of_a_query_is_not_taken_for_damage(
    runner: InProcessRunner, tmp_path: Path
) -> None:
    written(tmp_path / "a.parquet")
    model = Model(
        "m",
        unit=("k",),
        query="SELECT k, CAST(t AS INT) AS t FROM s",
        work=lambda rows: {"n": rows.rows},
    )
    with pytest.raises(HundredfoldError, match="Conversion Error") as caught:
        run_steps(runner.start(Job("one", sources=[Source("s")], models=[model]), s=tmp_path))
    assert not isinstance(caught.value, SourceError)


JOB = """
from hundredfold import Job, Model, Source

def work(rows):
    return {"n": len(rows)}

model = Model("m", unit=("k",), query="SELECT * FROM s", work=work)
job = Job("job", sources=[Source("s", path="b.parquet")], models=[model])
"""


def test_a_run_with_a_damaged_page_fails_with_one_error(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    damaged = written(tmp_path / "b.parquet")
    overwrite(damaged, page_of(damaged, "t", 1), b"\xff" * 40)
    command = [sys.executable, "-m", "hundredfold", "run", "job.py", "--workers", "1"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "b.parquet cannot be read as Parquet" in done.stderr
    assert "hint: copy or write the file again" in done.stderr
    assert [record.state.value for record in Home(tmp_path / ".hundredfold").ledger.runs()] == [
        "failed"
    ]
