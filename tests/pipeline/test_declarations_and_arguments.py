"""A wrong declaration or argument is refused at once, in terms of the declaration."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import hundredfold
from hundredfold import Job, Model, Publish, Source
from hundredfold.data.manifest import UnitList, key_text
from hundredfold.errors import JobError, PublishRefused, StateError, UsageError
from hundredfold.runs.replay import find_unit
from support.waits import HANG_S


def count(rows: Any) -> dict[str, int]:
    return {"n": rows.rows}


def fails(rows: Any) -> dict[str, int]:
    raise ValueError(f"{rows.rows} rows")


NONE: Any = None  # where the type forbids it
TEXT: Any = "s"
MODEL = Model("m", unit=("k",), work=count)
JOB = Job("counts", sources=[Source("s")], models=[MODEL])
TABLE = pa.table({"k": ["a", "b"]})


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Model("m", unit=("k", "k"), work=count), "names a column twice"),
        (lambda: Model("m", unit=NONE, work=count), "wanted a tuple of names"),
        (lambda: Model("m", unit="k", work=count), r"write unit=\('k',\)"),
        (lambda: Model("m", unit=("k",), work=count, time_limit=TEXT), "wanted seconds above 0"),
        (lambda: Model("m", unit=("k",), work=count, time_limit=True), "wanted seconds above 0"),
        (lambda: Model("m", unit=("k",), work=count, batched=TEXT), "wanted True or False"),
        (lambda: Source("s", references=TEXT), "references and clean must be mappings"),
        (lambda: Source("s", max_rejected=float("nan")), "wanted a count"),
        (lambda: Job("j", sources=[TEXT], models=[MODEL]), "wanted Source"),
        (lambda: Job("j", sources=[Source("s")], models=[MODEL], publish=TEXT), "wanted Publish"),
        (
            lambda: Job("j", sources=[Source("s")], models=[MODEL], max_failed=float("nan")),
            "wanted a count",
        ),
        (
            lambda: Job(
                "j",
                sources=[Source("s")],
                models=[MODEL],
                publish=[Publish("o", query="SELECT 1"), Publish("o", query="SELECT 2")],
            ),
            "used twice",
        ),
        (
            lambda: Job(
                "j", sources=[Source("s")], models=[MODEL], publish=Publish("m", query="SELECT 1")
            ),
            "used twice",
        ),
    ],
)
def test_the_error_for_a_wrong_declaration_has_the_wanted_value(declare: Any, message: str) -> None:
    with pytest.raises(JobError, match=message):
        declare()


def test_one_source_and_one_model_need_no_list() -> None:
    job = Job("j", sources=Source("s"), models=MODEL)  # type: ignore[arg-type]
    assert (job.sources, job.models) == ((Source("s"),), (MODEL,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"job": None}, "wanted a Job"),
        ({"sources": TABLE}, "wanted a mapping"),
        ({"workers": "2"}, "wanted a whole number"),
        ({"workers": 1.5}, "wanted a whole number"),
        ({"run_id": 5}, "cannot be used"),
        ({"max_rejected": 3}, "wanted a mapping"),
        ({"max_rejected": []}, "wanted a mapping"),
        ({"as_of": "soon"}, "wanted a date or time"),
    ],
)
def test_the_error_for_a_wrong_argument_of_run_has_the_wanted_value(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        hundredfold.run(**{"job": JOB, "sources": {"s": TABLE}, "home": tmp_path, **arguments})


@pytest.mark.parametrize("limit", ["3", -1, float("nan"), 1.5])
def test_a_wrong_limit_of_a_run_is_refused_before_it_begins(tmp_path: Path, limit: Any) -> None:
    with pytest.raises(JobError, match="wanted a count"):
        hundredfold.run(JOB, {"s": TABLE}, home=tmp_path, max_failed=limit)


def test_a_limit_argument_holds_back_a_run_that_publishes_nothing(tmp_path: Path) -> None:
    def fails_once(rows: Any) -> dict[str, int]:
        return {"n": 1 // int(rows["v"][0] - 1)}

    model = Model("m", unit=("k",), work=fails_once)
    job = Job("j", sources=[Source("s")], models=[model])
    table = pa.table({"k": ["a", "b"], "v": [1, 2]})
    assert hundredfold.run(job, {"s": table}, home=tmp_path, workers=1).state == "done"
    with pytest.raises(PublishRefused, match="1 of 2 units"):
        hundredfold.run(job, {"s": table}, home=tmp_path, workers=1, max_failed=0)


def test_a_run_resumes_only_with_the_declaration_it_was_prepared_with(tmp_path: Path) -> None:
    def job(unit: str, error: bool) -> Job:
        def work(rows: Any) -> dict[str, int]:
            return {"n": 1 // (0 if error else 1)}

        return Job(
            "j",
            sources=[Source("s")],
            models=[Model("m", unit=(unit,), work=work)],
            publish=Publish("o", query="SELECT * FROM m"),
        )

    with pytest.raises(PublishRefused):
        hundredfold.run(
            job("k", True),
            {"s": pa.table({"k": ["a"], "v": [1]})},
            home=tmp_path,
            workers=1,
            as_of=dt.date(2026, 1, 1),
        )
    with pytest.raises(StateError, match=r"unit: \('k',\) then, \('v',\) now"):
        hundredfold.retry(home=tmp_path, job=job("v", False), accept_new_code=True)


def test_keys_with_commas_and_nulls_are_distinct() -> None:
    keys = [("a,b", "c"), ("a", "b,c"), (None, ""), ("", None), ('say "x"', "y")]
    units = UnitList(
        pa.table({"p": [k[0] for k in keys], "q": [k[1] for k in keys], "__rows": [1] * len(keys)})
    )
    assert [key_text(k) for k in keys] == ['"a,b",c', 'a,"b,c"', ',""', '"",', '"say ""x""",y']
    assert [find_unit(units, key_text(k), "m") for k in keys] == list(range(len(keys)))
    with pytest.raises(UsageError, match="no unit 'a,b,c'"):
        find_unit(units, "a,b,c", "m")


def test_a_unit_with_the_key_nan_receives_its_own_result(tmp_path: Path) -> None:
    def total(rows: Any) -> dict[str, float]:
        return {"total": float(rows["v"].sum())}

    def share(rows: Any, totals: dict[str, Any]) -> dict[str, float]:
        return {"share": float(rows["v"][0]) / totals["total"]}

    table = pa.table(
        {"k": pa.array([1.0, float("nan"), None, float("nan")]), "v": [1.0, 2.0, 3.0, 6.0]}
    )
    job = Job(
        "j",
        sources=[Source("s")],
        models=[Model("totals", unit=("k",), work=total), Model("shares", unit=("k",), work=share)],
    )
    run = hundredfold.run(job, {"s": table}, home=tmp_path, workers=1)
    assert run.results("shares").to_arrow().column("share").to_pylist() == [1.0, 0.25, 1.0]


def test_two_runs_that_end_at_once_make_two_releases(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("k\na\nb\n")
    (tmp_path / "rd.py").write_text(
        "from hundredfold import *\ndef a(rows): return {'n': rows.rows}\njob = Job('rd', "
        "[Source('s', path='s.csv')], [Model('m', unit=('k',), work=a)], publish=Publish('out', "
        "query='SELECT run.run_id, m.* FROM m, run'))\n"
    )
    message = [
        sys.executable,
        "-m",
        "hundredfold",
        "run",
        "rd:job",
        "--workers",
        "1",
        "--home",
        "home",
        "--run-id",
    ]
    racing = [
        subprocess.Popen(
            [*message, name], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for name in ("one", "two", "three")
    ]
    errors = [process.communicate(timeout=HANG_S)[1] for process in racing]
    for name, process, error in zip(("one", "two", "three"), racing, errors, strict=True):
        if process.returncode:  # a run that began before one that had published by then is refused
            publish = ["publish", name, "--replace-newer", "--home", "home"]
            assert f"hundredfold {' '.join(publish)}".encode() in error
            again = [sys.executable, "-m", "hundredfold", *publish]
            subprocess.run(again, cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)
    runs = [hundredfold.open_run(name, home=tmp_path / "home") for name in ("one", "two", "three")]
    assert sorted(run.release.version for run in runs if run.release) == [1, 2, 3]
    assert all(
        run.published_rows().to_arrow().column("run_id").to_pylist() == [run.id] * 2 for run in runs
    )
