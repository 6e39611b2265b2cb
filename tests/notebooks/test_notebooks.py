"""A job declared and run in the cells of a real notebook, by a real kernel, without ipywidgets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbclient and ipykernel")
nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient and ipykernel")
pytest.importorskip("ipykernel", reason="notebooks need nbclient and ipykernel")

HANG_S = 300  # guards against a hang only: each cell takes a few seconds

NO_WIDGETS = """
import sys
sys.modules["ipywidgets"] = None  # as where it is not installed
"""
FRAME = """
import pandas as pd
import hundredfold
from hundredfold import Job, Model, Source
sales = pd.DataFrame({"shop": ["A", "B", "A"], "price": [1.0, 5.0, 3.0]})
"""
JOB = """
def mean(rows: pd.DataFrame) -> dict:
    return {"price": float(rows.price.mean())}
job = Job("means", sources=[Source("sales")], models=[Model("means", unit=("shop",), work=mean)])
r = hundredfold.run(job, {"sales": sales}, workers=1)
print(r.results().to_pandas().to_dict("list"))
"""
SLOW = """
from pathlib import Path
def slow(rows):
    import os, threading
    Path(f"worker-{os.getpid()}").touch()
    threading.Event().wait()  # for ever
slow_job = Job("slow", sources=[Source("sales")], models=[Model("slow", unit=("shop",), work=slow)])
hundredfold.run(slow_job, {"sales": sales}, workers=2, run_id="slow-1")
"""


class Notebook:
    """Cells that one kernel executes, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.client = nbclient.NotebookClient(
            nbformat.v4.new_notebook(),
            timeout=HANG_S,
            kernel_name="python3",
            allow_errors=True,
            resources={"metadata": {"path": str(folder)}},
        )
        self.kernel = self.client.async_setup_kernel()
        self.loop.run_until_complete(self.kernel.__aenter__())

    def close(self) -> None:
        self.loop.run_until_complete(self.kernel.__aexit__(None, None, None))
        self.loop.close()

    def execute(self, source: str) -> list[Any]:
        """The outputs of a cell."""
        return self.loop.run_until_complete(self._execute(source))

    def printed(self, source: str) -> str:
        """What a cell printed, and nothing else happened."""
        outputs = self.execute(source)
        assert [output.get("name") for output in outputs] in ([], ["stdout"]), outputs
        return "".join(output.text for output in outputs).strip()

    def interrupted(self, source: str, started: str) -> list[Any]:
        """The outputs of a cell that is interrupted once a file named like `started` is there."""
        return self.loop.run_until_complete(self._interrupted(source, started))

    async def _execute(self, source: str) -> list[Any]:
        cell = nbformat.v4.new_code_cell(source)
        self.client.nb.cells.append(cell)
        await self.client.async_execute_cell(cell, len(self.client.nb.cells) - 1)
        return list(cell.outputs)

    async def _interrupted(self, source: str, started: str) -> list[Any]:
        cell = asyncio.ensure_future(self._execute(source))
        while not cell.done() and not list(self.folder.glob(started)):
            await asyncio.sleep(0.05)
        await self.client.km.interrupt_kernel()
        return await cell


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
            patch.setenv(
                name, str(folder / name.lower())
            )  # the user's own settings count for nothing
        notebook = Notebook(folder)
        try:
            notebook.printed(NO_WIDGETS)
            notebook.printed(FRAME)
            yield notebook
        finally:
            notebook.close()


def test_a_function_of_a_cell_runs_and_an_edited_one_runs_again(notebook: Notebook) -> None:
    assert notebook.printed(JOB) == "{'shop': ['A', 'B'], 'price': [2.0, 5.0]}"
    edited = JOB.replace("mean()", "max()").replace("job", "job_2")
    assert notebook.printed(edited) == "{'shop': ['A', 'B'], 'price': [3.0, 5.0]}"
    assert notebook.printed(JOB) == "{'shop': ['A', 'B'], 'price': [2.0, 5.0]}"


def test_rows_a_run_and_a_job_show_as_tables(notebook: Notebook) -> None:
    notebook.printed(JOB)
    (shown,) = notebook.execute("r.results()")
    assert shown.data["text/plain"] == "2 rows of shop, price"
    assert shown.data["text/html"].startswith(
        "<table><thead><tr><th>shop</th><th>price</th></tr></thead>"
        "<tbody><tr><td>A</td><td>2.0</td>"
    )
    (shown,) = notebook.execute("r")
    assert shown.data["text/plain"].endswith("of means: done; means: 2 of 2 units ok>")
    assert "<td>means</td><td>2</td><td>2</td><td>0</td><td>0</td>" in shown.data["text/html"]
    assert "of means is done</p>" in shown.data["text/html"]
    (shown,) = notebook.execute("job")
    assert shown.data["text/html"].endswith("<p>job means</p>")
    assert "<td>source</td><td>sales</td><td>any rows</td>" in shown.data["text/html"]


def test_rows_are_arrow_data_for_other_libraries(notebook: Notebook) -> None:
    notebook.printed(JOB)
    cell = (
        "import duckdb, polars, pyarrow\n"
        "rows = r.results()\n"
        "print(polars.DataFrame(rows).rows(), pyarrow.table(rows).equals(rows.to_arrow()),\n"
        "      duckdb.sql('SELECT sum(price) FROM rows').fetchall())"
    )
    assert notebook.printed(cell) == "[('A', 2.0), ('B', 5.0)] True [(7.0,)]"


def test_a_run_is_awaited_beside_the_event_loop_of_the_kernel(notebook: Notebook) -> None:
    notebook.printed(JOB)
    cell = (
        "import asyncio\n"
        "r = await asyncio.to_thread(hundredfold.run, job, {'sales': sales}, workers=1)\n"
        "print(len(r.results()))"
    )
    assert notebook.printed(cell) == "2"


def test_an_interrupted_cell_leaves_no_process_and_can_be_resumed(notebook: Notebook) -> None:
    outputs = notebook.interrupted(SLOW, "worker-*")
    assert [output.get("ename") for output in outputs] == ["KeyboardInterrupt"]
    workers = [int(path.name.split("-")[1]) for path in notebook.folder.glob("worker-*")]
    assert workers
    assert not [pid for pid in workers if psutil.pid_exists(pid)]
    resumed = (
        "model = Model('slow', unit=('shop',), work=lambda rows: {'n': rows.rows})\n"
        "quick = Job('slow', sources=[Source('sales')], models=[model])\n"
        "run = hundredfold.resume('slow-1', job=quick, accept_new_code=True)\n"
        "print(run.results().to_pandas().to_dict('list'))"
    )
    assert notebook.printed(resumed) == "{'shop': ['A', 'B'], 'n': [2, 1]}"
    assert not list((notebook.folder / ".hundredfold" / "scratch").iterdir())
