"""Memory: a leak, a giant unit and large results cost no more than they must, and never an innocent
unit.
"""

from __future__ import annotations

import builtins
import ctypes
import mmap
import os
import re
import resource
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hundredfold import Job, Model, Source, open_run, run
from hundredfold.errors import JobError, PublishRefused

MIB = 2**20
UNITS = 60
ROWS = pa.table({"k": np.repeat(np.arange(UNITS), 2)})
STILL = threading.Event()  # never set
GRID = np.arange(20_000.0)


def kept() -> list[Any]:
    """What outlives a unit, as a cache of a library does."""
    objects: list[Any] = builtins.__dict__.setdefault("kept_by_a_test", [])
    return objects


def malloc_8_mib() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    ctypes.memset(libc.malloc(ctypes.c_size_t(8 * MIB)), 1, 8 * MIB)


def map_8_mib(flags: Any) -> None:
    pages = mmap.mmap(-1, 8 * MIB, flags)
    pages.write(b"x" * 8 * MIB)
    kept().append(pages)


def open_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    kept().extend(os.open(os.devnull, os.O_RDONLY) for _ in range(5))


LEAKS = {
    "python": lambda: kept().append(np.ones(MIB)),
    "malloc": malloc_8_mib,
    "private_pages": lambda: map_8_mib(mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
    "shared_pages": lambda: map_8_mib(mmap.MAP_SHARED | mmap.MAP_ANONYMOUS),
    "threads": lambda: threading.Thread(target=STILL.wait, daemon=True).start(),
    "files": open_files,
}


class Leaky:
    """A function that leaks a little with each unit."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, rows: Any) -> Any:
        LEAKS[self.how]()
        return {"twice": 2 * int(rows["k"][0]), "process": os.getpid()}


def leaky_together(rows: Any) -> Any:
    for _ in range(len(rows)):
        LEAKS["python"]()
    return {"twice": 2 * rows.keys["k"], "process": [os.getpid()] * len(rows)}


def counted_together(rows: Any) -> Any:
    return {"twice": 2 * rows.keys["k"], "process": [os.getpid()] * len(rows)}


def counted(rows: Any) -> Any:
    return {"twice": 2 * int(rows["k"][0]), "process": os.getpid()}


def runs_out_on_purpose(rows: Any) -> Any:
    if rows["k"][0] % 2:
        raise MemoryError("this unit is not wanted")
    return counted(rows)


def greedy(rows: Any) -> Any:
    if rows["k"][0] == 7:
        kept().append([bytearray(MIB) for _ in range(4_000)])
    return counted(rows)


def returns_much(rows: Any) -> Any:
    return {"process": os.getpid(), **dict.fromkeys("abcd", GRID)}


def rows_of_all(rows: pa.Table) -> Any:
    return {"rows": len(rows), "process": os.getpid()}


def done(
    home: Path, *models: Model, rows: pa.Table = ROWS, workers: int = 1, memory: str = "512MB"
) -> Any:
    with suppress(PublishRefused):
        run(
            Job("j", [Source("s")], models, max_failed=1.0),
            {"s": rows},
            home=home,
            run_id="r",
            workers=workers,
            memory=memory,
        )
    return open_run("r", home=home)


def processes(run: Any, model: str) -> Counter[int]:
    """How many units each process did."""
    return Counter(run.results(model).to_arrow().column("process").to_pylist())


@pytest.fixture(scope="module")
def leaked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return done(
        tmp_path_factory.mktemp("leak") / "home",
        *(Model(how, ("k",), Leaky(how), query="SELECT * FROM s") for how in LEAKS),
    )


@pytest.mark.parametrize("how", LEAKS)
def test_a_leak_costs_no_unit_and_its_workers_are_replaced(leaked: Any, how: str) -> None:
    assert leaked.counts["models"][how]["ok"] == UNITS
    assert leaked.results(how).to_arrow().column("twice").to_pylist() == [
        2 * k for k in range(UNITS)
    ]
    assert len(processes(leaked, how)) >= 2
    assert (
        leaked.counts["workers_replaced"].get("its memory grew", 0)
        + leaked.counts["workers_replaced"].get("memory ran out", 0)
        >= 5
    )


def test_a_leak_in_a_function_of_many_units_costs_no_unit(tmp_path: Path) -> None:
    run = done(tmp_path, Model("m", ("k",), leaky_together, batched=True))
    assert run.results().to_arrow().column("twice").to_pylist() == [2 * k for k in range(UNITS)]
    assert len(processes(run, "m")) >= 2


@pytest.mark.parametrize(("work", "many"), [(counted, False), (counted_together, True)])
def test_a_worker_does_no_more_units_than_it_may(tmp_path: Path, work: Any, many: bool) -> None:
    run = done(
        tmp_path,
        Model("m", ("k",), work, batched=many, max_units_per_worker=20),
        workers=2,
        memory="1GB",
    )
    assert run.results().to_arrow().column("twice").to_pylist() == [2 * k for k in range(UNITS)]
    assert max(processes(run, "m").values()) <= 20
    assert run.counts["workers_replaced"].keys() == {"max_units_per_worker"}
    command = [sys.executable, "-m", "hundredfold", "status", "--home", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^  workers replaced: (\d+) \(\1 x max_units_per_worker\)$", shown, re.M)


@pytest.mark.parametrize("most", [0, -1, 1.0, True, "7"])
def test_a_wrong_number_of_units_per_worker_is_refused(most: Any) -> None:
    with pytest.raises(
        JobError, match=r"max_units_per_worker is .*, wanted a whole number of 1 or more, or None"
    ):
        Model("m", ("k",), counted, max_units_per_worker=most)


def test_a_memory_error_raised_on_purpose_replaces_no_worker(tmp_path: Path) -> None:
    run = done(tmp_path, Model("m", ("k",), runs_out_on_purpose), memory="1500MB")
    failures = run.failures().to_arrow().to_pylist()
    assert [int(row["unit"]) for row in failures] == list(range(1, UNITS, 2))
    assert {(row["status"], row["error"]) for row in failures} == {("failed", "MemoryError")}
    assert all(row["message"].startswith("this unit is not wanted (it had ") for row in failures)
    assert len(processes(run, "m")) == 1


def test_a_unit_that_alone_needs_too_much_is_named(tmp_path: Path) -> None:
    run = done(tmp_path, Model("m", ("k",), greedy))
    (failure,) = run.failures().to_arrow().to_pylist()
    assert (failure["unit"], failure["status"], failure["error"]) == ("7", "failed", "MemoryError")
    assert (
        "of memory to itself, in a worker's share of 352 MiB: raise --memory or lower --workers"
        in failure["message"]
    )
    assert run.counts["models"]["m"]["ok"] == UNITS - 1


def test_results_that_pile_up_are_handed_over_by_their_size(tmp_path: Path) -> None:
    run = done(tmp_path, Model("m", ("k",), returns_much))
    assert run.counts["models"]["m"]["ok"] == UNITS
    assert len(processes(run, "m")) == 1
    assert len(list(tmp_path.glob("runs/r/models/m/outcomes/*.results.arrow"))) >= 3
    assert run.results().to_arrow().column("d")[UNITS - 1].as_py() == GRID.tolist()


def test_a_giant_unit_costs_one_unit_and_is_named_with_its_need(tmp_path: Path) -> None:
    giant = 3_500_000
    rows = pa.table(
        {
            "k": np.r_[np.repeat(np.arange(UNITS), 10), np.full(giant, 999)],
            **{n: np.arange(giant + 10.0 * UNITS) for n in "abcdef"},
        }
    )
    run = done(tmp_path, Model("m", ("k",), rows_of_all, order_by=("a",)), rows=rows)
    (failure,) = run.failures().to_arrow().to_pylist()
    assert (failure["unit"], failure["status"], failure["error"]) == (
        "999",
        "failed",
        "MemoryError",
    )
    assert failure["message"].startswith("its 3,500,000 rows need about ")
    assert failure["message"].endswith(
        "as an Arrow table, and a worker's share is 352 MiB: raise --memory or lower --workers"
    )
    assert run.results().to_arrow().column("rows").to_pylist() == [10] * UNITS


def first_letters(rows: Any) -> Any:
    return {
        "letters": "".join(text[0] for text in rows["text"]),
        "size": int(sum(map(len, rows["text"]))),
    }


def test_a_unit_that_is_giant_by_its_texts_costs_one_unit(tmp_path: Path) -> None:
    """Few rows, among others in one batch: rows alone do not show how large it is."""
    rows = [
        (k, f"{k % 10}{'x' * (12 * MIB if k == 7 else 500)}") for k in range(40) for _ in range(20)
    ]
    source = tmp_path / "rows.parquet"
    pq.write_table(
        pa.table({"k": [k for k, _ in rows], "text": [text for _, text in rows]}),
        source,
        row_group_size=4,
    )
    run = done(tmp_path / "home", Model("m", ("k",), first_letters), rows=source)
    assert run.failures().to_arrow().column("unit").to_pylist() == ["7"]
    (failure,) = run.failures().to_arrow().to_pylist()
    assert (failure["status"], failure["error"]) == ("failed", "MemoryError")
    assert run.results().to_arrow().column("letters").to_pylist() == [
        str(k % 10) * 20 for k in range(40) if k != 7
    ]


def nested_sum(rows: Any) -> Any:
    return {
        "letters": "".join(str(len(values)) for values in rows["inner"]),
        "sum": sum(each["x"] for row in rows["inner"] for each in row),
    }


def wide_texts(length: Any, units: Any) -> Any:
    """The rows of 5 to a unit; the first letter of each counts."""
    return pa.table(
        {
            "k": np.repeat(np.arange(units), 5),
            "text": [f"{row % 10}{'y' * length}" for row in range(5 * units)],
        }
    )


def nested_rows(units: Any) -> Any:
    counts = [2_000 + row % 5 for row in range(5 * units)]
    inner = pa.StructArray.from_arrays(
        [pa.array(np.arange(sum(counts)) % 7), pa.array(["text"] * sum(counts))], ["x", "y"]
    )
    lists = pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(counts)], pa.int32()), inner)
    return pa.table(
        {"k": np.repeat(np.arange(units), 5), "n": np.arange(5 * units), "inner": lists}
    )


WIDE: dict[str, tuple[Callable[..., Any], Callable[[], pa.Table], list[str]]] = {
    "texts of 2 MiB": (first_letters, lambda: wide_texts(2 * MIB, 40), ["01234", "56789"] * 20),
    "texts of 100 kB": (first_letters, lambda: wide_texts(100_000, 800), ["01234", "56789"] * 400),
    "lists of dicts": (nested_sum, lambda: nested_rows(100), ["20002001200220032004"] * 100),
}


@pytest.mark.parametrize("shape", WIDE)
def test_wide_rows_are_done_in_parts_that_fit_a_worker(tmp_path: Path, shape: str) -> None:
    work, rows, letters = WIDE[shape]
    source = tmp_path / "rows.parquet"
    pq.write_table(rows(), source, row_group_size=20)
    run = done(tmp_path / "home", Model("m", ("k",), work), rows=source)
    assert run.counts["models"]["m"]["ok"] == len(letters)
    assert run.results().to_arrow().column("letters").to_pylist() == letters
    assert not any(
        path.stat().st_size for path in (tmp_path / "home").glob("runs/r/logs/*")
    )  # no worker ran out when it opened the next


def blob(rows: Any) -> Any:
    return {"blob": f"{int(rows['k'][0]):03d}" * (MIB // 3)}


def from_blob(rows: Any, blob: dict[str, str]) -> Any:
    return {"begins": blob["blob"][:3], "process": os.getpid()}


def test_earlier_results_larger_than_a_worker_are_given_unit_by_unit(tmp_path: Path) -> None:
    rows = pa.table({"k": np.arange(500)})
    run = done(
        tmp_path,
        Model("blob", ("k",), blob),
        Model("m", ("k",), from_blob, inputs=("blob",)),
        rows=rows,
    )
    assert run.results("m").to_arrow().column("begins").to_pylist() == [
        f"{k:03d}" for k in range(500)
    ]
    assert len(processes(run, "m")) == 1
    assert not any(path.stat().st_size for path in tmp_path.glob("runs/r/logs/*"))


def wide_result(rows: Any) -> Any:
    return {"text": f"{int(rows['k'][0])}" * MIB}


def test_row_groups_of_large_results_are_small(tmp_path: Path) -> None:
    run = done(tmp_path, Model("m", ("k",), wide_result))
    assert run.counts["models"]["m"]["ok"] == UNITS
    file = pq.ParquetFile(tmp_path / "runs/r/models/m/results.parquet")
    assert file.num_row_groups >= 3
    assert [text[:2] for text in file.read().column("text").to_pylist()] == [
        str(k)[0] + str(k)[-1] for k in range(UNITS)
    ]
