"""Source files that change during a run: the run reads one state of them, or fails and names the
file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotated_types import Gt

import hundredfold
from hundredfold import Job, Model, Publish, Source, open_run
from hundredfold.errors import SourceError
from hundredfold.pipeline.runner import NullCallbacks


@dataclass
class Row:
    shop: int
    price: Annotated[float, Gt(0)]


GOOD = pa.table({"shop": [1, 1, 2, 2], "price": [1.0, 2.0, 3.0, 4.0]})
BAD = pa.table({"shop": [1, 1, 2, 3], "price": [-100.0, 2.0, 3.0, 4.0]})


def total(rows: Any) -> Any:
    return {"s": float(rows["price"].sum())}


MODELS = [
    Model("first", unit=("shop",), work=total, query="SELECT * FROM sales"),
    Model("second", unit=("shop",), work=total, query="SELECT * FROM sales"),
]
OUT = Publish(
    "out", "SELECT shop, count(*) AS n FROM sales GROUP BY shop ORDER BY shop", formats=("csv",)
)
JOB = Job("changing", sources=[Source("sales", Row)], models=MODELS, publish=OUT)


class At(NullCallbacks):
    """Does something when a stage begins."""

    def __init__(self, stage: str, act: Callable[[], Any]) -> None:
        self.name, self.act = stage, act

    def stage_started(self, stage: Any) -> None:
        if str(stage) == self.name:
            self.act()


def rewritten(path: Path) -> None:
    pq.write_table(BAD, path)


def replaced(path: Path) -> None:
    other = path.with_name("other")
    pq.write_table(BAD, other)
    other.replace(path)


def replaced_with_the_same_size_and_time(path: Path) -> None:
    before, content = path.stat(), bytearray(path.read_bytes())
    content[6] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def removed(path: Path) -> None:
    path.unlink()


def go(folder: Path, callbacks: NullCallbacks, location: Path | None = None, job: Job = JOB) -> Any:
    home = folder / "home"
    return hundredfold.run(
        job,
        {"sales": location or folder / "sales.parquet"},
        home=home,
        run_id="r",
        workers=1,
        memory="1GB",
        callbacks=callbacks,
    )


@pytest.mark.parametrize("stage", ["prepare first", "work first", "collect second", "publish"])
@pytest.mark.parametrize(
    "change", [rewritten, replaced, replaced_with_the_same_size_and_time, removed]
)
def test_a_file_that_changes_ends_the_run_with_its_name(
    tmp_path: Path, stage: str, change: Any
) -> None:
    path = tmp_path / "sales.parquet"
    pq.write_table(GOOD, path)
    with pytest.raises(
        SourceError, match=r"sales: .*gone|sales has changed since the run began"
    ) as error:
        go(tmp_path, At(stage, lambda: change(path)))
    assert str(path) in str(error.value)
    assert "run the job again" in (error.value.hint or "")
    run = open_run("r", home=tmp_path / "home")
    assert (run.state, run.release) == ("failed", None)
    assert str(path) in run.record.reason
    with pytest.raises(SourceError):
        hundredfold.resume("r", home=tmp_path / "home", job=JOB)


def test_a_file_that_changes_while_a_query_reads_it_is_noticed(tmp_path: Path) -> None:
    """The query itself lasts until the file was replaced."""
    path, rows = tmp_path / "sales.parquet", 400_000
    table = pa.table(
        {"shop": [k % 7 for k in range(rows)], "price": [float(k) for k in range(rows)]}
    )
    slow = (
        "SELECT shop, sum(price * sin(price) * r.range) AS price FROM sales, range(60) r GROUP BY"
        " shop"
    )
    job = Job("long", [Source("sales")], [Model("m", ("shop",), total, slow)])
    pq.write_table(table, path)
    timer = threading.Timer(0.0, replaced, (path,))
    with pytest.raises(SourceError, match="sales has changed since the run began"):
        go(tmp_path, At("prepare m", timer.start), job=job)
    timer.join()
    assert open_run("r", home=tmp_path / "home").state == "failed"


def test_a_folder_that_gains_a_file_is_read_as_it_was_listed(tmp_path: Path) -> None:
    folder = tmp_path / "sales"
    folder.mkdir()
    pq.write_table(GOOD, folder / "a.parquet")
    done = go(
        tmp_path, At("prepare first", lambda: pq.write_table(BAD, folder / "b.parquet")), folder
    )
    assert done.state == "done"
    assert done.results("second").to_arrow().to_pylist() == [
        {"shop": 1, "s": 3.0},
        {"shop": 2, "s": 7.0},
    ]


def test_text_files_are_read_once_and_may_change_after_that(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_text("shop,price\n1,1\n1,2\n2,3\n2,4\n")
    done = go(tmp_path, At("prepare first", lambda: path.write_text("shop,price\n1,-100\n")), path)
    assert (done.state, done.results("second").to_arrow().to_pylist()) == (
        "done",
        [{"shop": 1, "s": 3.0}, {"shop": 2, "s": 7.0}],
    )


def test_a_wrong_path_is_found_before_a_run_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="sales: there is no file"):
        go(tmp_path, NullCallbacks(), tmp_path / "salse.parquet")
    with pytest.raises(hundredfold.HundredfoldError, match="there is no run in"):
        open_run(home=tmp_path / "home")


@pytest.mark.parametrize("stage", ["prepare first", "work first"])
def test_resume_goes_on_with_a_file_that_was_moved(tmp_path: Path, stage: str) -> None:
    path, other = tmp_path / "sales.parquet", tmp_path / "it's [moved]" / "sales.parquet"
    pq.write_table(GOOD, path)
    other.parent.mkdir()
    with pytest.raises(SourceError, match="is gone"):
        go(tmp_path, At(stage, lambda: path.rename(other)))
    again = hundredfold.resume("r", home=tmp_path / "home", job=JOB, sources={"sales": other})
    assert (again.state, again.results("second").to_arrow().to_pylist()) == (
        "done",
        [{"shop": 1, "s": 3.0}, {"shop": 2, "s": 7.0}],
    )


def test_resume_refuses_another_file_for_one_that_was_validated(tmp_path: Path) -> None:
    path, other = tmp_path / "sales.parquet", tmp_path / "other.parquet"
    pq.write_table(GOOD, path)
    pq.write_table(BAD, other)
    with pytest.raises(SourceError, match="is gone"):
        go(tmp_path, At("prepare first", path.unlink))
    with pytest.raises(SourceError, match="these are not the files that the run validated"):
        hundredfold.resume("r", home=tmp_path / "home", job=JOB, sources={"sales": other})
    assert open_run("r", home=tmp_path / "home").record.options["sources"] == {"sales": str(path)}


def test_resume_takes_a_new_path_before_a_source_was_validated(tmp_path: Path) -> None:
    path = tmp_path / "sales.parquet"
    pq.write_table(GOOD, path)

    class Gone(NullCallbacks):
        def run_started(self, run: str) -> None:  # noqa: ARG002
            path.rename(tmp_path / "moved.parquet")

    with pytest.raises(SourceError, match="there is no file"):
        go(tmp_path, Gone())
    again = hundredfold.resume(
        "r", home=tmp_path / "home", job=JOB, sources={"sales": tmp_path / "moved.parquet"}
    )
    assert again.state == "done"
