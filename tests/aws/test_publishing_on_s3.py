"""Two runs of one job whose publishing is interleaved on S3: every release is of one run, and the
newest run's is current.

`tests/pipeline/test_runs_that_publish_together.py` interrupts every call on files; here one run
publishes whole before each conditional write that the other makes.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hundredfold import Job, Model, Publish, Source
from hundredfold.errors import PublishRefused
from hundredfold.pipeline.publish import DEFAULT_TERMS, Terms
from hundredfold.pipeline.releases import Release, current_version, releases, verify_file
from support.in_process_aws import AwsRun, AwsRunner
from support.interrupting import Interrupting

QUERY = "SELECT shop, price, run_id, table_version, parent_version FROM prices, run ORDER BY shop"
JOB = Job(
    "together",
    sources=[Source("sales")],
    models=[Model("prices", unit=("shop",), work=lambda rows: {"price": float(rows["x"][0])})],
    publish=Publish("table", query=QUERY, formats=("parquet",)),
)
CONDITIONAL = ("put_if_absent", "put_if_match")
MAX_CALLS = 10


@pytest.fixture(scope="module")
def runs(aws_runner: AwsRunner) -> tuple[AwsRun, AwsRun, AwsRun]:
    """Three runs whose models are done."""
    rows = pa.table({"shop": ["a", "b"], "x": [1.0, 2.0]})
    first, one, other = (aws_runner.start(JOB, sales=rows) for _ in range(3))
    for run in (first, one, other):
        run.all()
    return first, one, other


def publish_as(
    name: str, run: AwsRun, store: Any, terms: Terms = DEFAULT_TERMS
) -> Release | PublishRefused:
    job = Job(name, sources=JOB.sources, models=JOB.models, publish=JOB.publish)
    try:
        release = run.publish_as(job, store, terms)
    except PublishRefused as error:
        return error
    assert release is not None
    return release


def check_all(name: str, store: Any) -> None:
    """Check that every release has files and rows of its own run alone."""
    for release in releases(name, store):
        for key in release.files:
            verify_file(release, key, store)
        (parquet,) = release.files
        rows = pq.read_table(pa.BufferReader(store.get(parquet))).to_pylist()
        assert {row["run_id"] for row in rows} == {release.run}
        assert {row["table_version"] for row in rows} == {release.version}
        assert {row["parent_version"] for row in rows} == {release.parent}


@pytest.mark.parametrize("newer", [True, False], ids=["newer", "older"])
def test_runs_that_publish_together_on_s3_make_a_release_each(
    runs: tuple[AwsRun, AwsRun, AwsRun], newer: bool
) -> None:
    """`one`, the newer or the older, is interrupted before each of its conditional writes."""
    first, one, other = runs
    order = (first, other, one) if newer else (first, one, other)
    times = {run.layout.run: f"2026-01-0{day}" for day, run in enumerate(order, 1)}
    terms = Terms(created=lambda run: times.get(run, ""))
    store, late = one.store, []
    for n in range(1, MAX_CALLS):
        name = f"s3_{newer:d}_{n}"
        publish_as(name, first, store)

        def publish_other(name: str = name) -> None:
            late.append(current_version(name, store) != 1)
            found = publish_as(name, other, store, terms)
            assert isinstance(found, PublishRefused) == (late[-1] and newer)

        racing = Interrupting(store, n, publish_other, CONDITIONAL)
        found = publish_as(name, one, racing, terms)
        check_all(name, store)
        if racing.calls < n:
            break
        assert isinstance(found, PublishRefused) == (not late[-1] and not newer)
        made = releases(name, store)
        newest = one if newer else other
        assert current_version(name, store) == made[-1].version
        assert made[-1].run == newest.layout.run
        assert [release.parent for release in made[1:]] == [r.version for r in made[:-1]]
    assert late.count(False) >= 2  # before the claim, and before the pointer
    assert late.count(True) >= 1
