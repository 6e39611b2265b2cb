"""Runs of one job that publish at the same time: every release is of one run, and the newest run's
is current.

One run publishes whole at each call that the other makes to its store, in turn, on files of this
machine. `tests/aws/test_publishing_on_s3.py` has the same on S3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hundredfold import Job, Model, Publish, Source
from hundredfold.errors import HundredfoldError, PublishRefused, QueryError, StateError
from hundredfold.pipeline.publish import DEFAULT_TERMS, Terms, publish
from hundredfold.pipeline.releases import (
    Pointer,
    Release,
    current_version,
    move_pointer,
    read_pointer,
    read_release,
    releases,
    rollback,
    verify_file,
)
from hundredfold.pipeline.runner import StageRunner
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_facts import RunOptions
from hundredfold.ports.run_states import Event, State
from hundredfold.testing import MemoryLedger
from support.in_process import AS_OF, InProcessRun, InProcessRunner
from support.interrupting import Interrupting

QUERY = "SELECT shop, price, run_id, table_version, parent_version FROM prices, run ORDER BY shop"
JOB = Job(
    "together",
    sources=[Source("sales")],
    models=[Model("prices", unit=("shop",), work=lambda rows: {"price": float(rows["x"][0])})],
    publish=Publish("table", query=QUERY, formats=("parquet", "csv")),
)
ROWS = pa.table({"shop": ["a", "b"], "x": [1.0, 2.0]})
MAX_CALLS = 200


Runs = tuple[InProcessRun, InProcessRun, InProcessRun]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Three runs whose models are done, each with a warehouse of its own, over one home."""
    home = tmp_path_factory.mktemp("together")
    with ExitStack() as stack:
        runners = [stack.enter_context(closing(InProcessRunner(home))) for _ in range(3)]
        for number, runner in enumerate(runners):
            runner.numbers = count(number)
        first, one, other = (runner.start(JOB, sales=ROWS).all() for runner in runners)
        yield first, one, other


def job(name: str) -> Job:
    """Return the job under another name, with releases of its own."""
    return Job(name, sources=JOB.sources, models=JOB.models, publish=JOB.publish)


def created(*runs_in_order: InProcessRun) -> Terms:
    times = {run.layout.run: f"2026-01-0{day}" for day, run in enumerate(runs_in_order, 1)}
    return Terms(created=lambda run: times.get(run, ""))


def publish_as(name: str, run: InProcessRun, store: Any, terms: Terms = DEFAULT_TERMS) -> Release:
    release = publish(job(name), run.layout, 1, AS_OF, run.warehouse, store, terms)
    assert release is not None
    return release


def outcome(call: Callable[[], Release]) -> Release | HundredfoldError:
    try:
        return call()
    except HundredfoldError as error:
        return error


def check_all(name: str, store: Any) -> None:
    """Check that every release has files and rows of its own run alone, and the pointer names
    one.
    """
    for release in releases(name, store):
        for key in release.files:
            verify_file(release, key, store)
        parquet = next(key for key in release.files if key.endswith(".parquet"))
        rows = pq.read_table(pa.BufferReader(store.get(parquet))).to_pylist()
        assert {row["run_id"] for row in rows} == {release.run}
        assert {row["table_version"] for row in rows} == {release.version}
        assert {row["parent_version"] for row in rows} == {release.parent}
    assert current_version(name, store) in {release.version for release in releases(name, store)}


@dataclass
class Watching:
    """A store that calls `check` after each call."""

    store: Any
    check: Callable[[], object]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return found(*args, **kwargs)
            finally:
                self.check()

        return call


def check_current(name: str, store: Any) -> None:
    """Check that the pointer names a release whose files are whole."""
    release = read_release(name, read_pointer(name, store).version, store)
    for key in release.files:
        verify_file(release, key, store)


@pytest.mark.parametrize("base", [True, False], ids=["a third", "the first"])
@pytest.mark.parametrize("newer", [True, False], ids=["newer", "older"])
def test_a_run_that_publishes_at_any_moment_of_another(runs: Runs, newer: bool, base: bool) -> None:
    """`one` is interrupted at each of its calls to the store in turn, and `other` publishes
    then.
    """
    first, one, other = runs
    store = one.store
    terms = created(first, other, one) if newer else created(first, one, other)
    orders = Counter[str]()
    for n in range(1, MAX_CALLS):
        name = f"race_{newer:d}_{base:d}_{n}"
        parent = publish_as(name, first, store).version if base else None
        seen: list[Any] = []

        def publish_other(name: str = name, seen: list[Any] = seen) -> None:
            seen.append(current_version(name, store))
            seen.append(outcome(lambda: publish_as(name, other, store, terms)))

        racing = Interrupting(store, n, publish_other)
        found = outcome(partial(publish_as, name, one, racing, terms))
        check_all(name, store)
        if racing.calls < n:
            break
        made = [r for r in releases(name, store) if r.run != first.layout.run]
        of_one, of_other = one.layout.run, other.layout.run
        late = seen[0] != parent  # the pointer names the release of `one` already
        refused = seen[1] if late and newer else None if late or newer else found
        if refused is not None:
            assert isinstance(refused, PublishRefused)
            assert "made by a newer run" in str(refused)
        runs_made = [of_one] if newer else [of_one, of_other]
        if not late:
            runs_made = [of_other, of_one] if newer else [of_other]
        assert [r.run for r in made] == runs_made
        assert [r.parent for r in made] == [parent, *(r.version for r in made)][: len(made)]
        assert current_version(name, store) == made[-1].version
        orders["late" if late else "in time"] += 1
    assert orders["in time"] > 10
    assert orders["late"] == 1


def test_a_rollback_at_any_moment_of_a_publishing_run_is_kept(runs: Runs) -> None:
    first, one, other = runs
    store = one.store
    for n in range(1, MAX_CALLS):
        name = f"back_{n}"
        publish_as(name, first, store)
        publish_as(name, other, store)
        racing = Interrupting(store, n, partial(rollback, name, store))
        release = publish_as(name, one, racing)
        check_all(name, store)
        pointer = read_pointer(name, store)
        if racing.calls < n:
            assert (pointer.version, pointer.withdrawn, release.parent) == (3, (), 2)
            break
        if release.parent == 1:
            assert (pointer.version, pointer.withdrawn) == (release.version, (2,))
        else:  # the pointer had moved already
            assert (pointer.version, pointer.withdrawn) == (2, (3,))
            assert n > 10
    assert n > 10


def test_a_rollback_that_another_overtakes_is_refused(runs: Runs) -> None:
    store = runs[0].store
    name = "twice"
    for run in runs:
        publish_as(name, run, store)
    refused = 0
    for n in range(1, MAX_CALLS):
        assert move_pointer(name, Pointer(3, (), read_pointer(name, store).etag), store)
        racing = Interrupting(store, n, lambda: rollback(name, store, 1))
        found = outcome(lambda racing=racing: rollback(name, racing))  # type: ignore[misc]
        if racing.calls < n:
            assert current_version(name, store) == 2
            break
        assert current_version(name, store) == 1
        assert isinstance(found, StateError)
        refused += "was changed at the same time" in str(found)
    assert refused > 5


def test_a_run_that_publishes_twice_at_once_keeps_its_release_whole(runs: Runs) -> None:
    """A call that outlives its stopped execution publishes beside the one that resumed the run.

    `other` publishes at the same moments, so that both begin again.
    """
    first, one, other = runs
    store = one.store
    terms = created(first, other, one)
    for third in (False, True):
        for n in range(1, MAX_CALLS):
            name = f"same_{third:d}_{n}"
            publish_as(name, first, store)

            def publish_again(name: str = name, third: bool = third) -> None:
                if third:
                    outcome(lambda: publish_as(name, other, store, terms))
                publish_as(name, one, store, terms)

            racing = Interrupting(store, n, publish_again)
            found = publish_as(
                name, one, Watching(racing, partial(check_current, name, store)), terms
            )
            check_all(name, store)
            assert current_version(name, store) == found.version
            made = [r for r in releases(name, store) if r.run == one.layout.run]
            assert [r.version for r in made] == [found.version]
            if racing.calls < n:
                break
        assert n > 10


def test_a_run_that_fails_while_publishing_blocks_no_other_run(runs: Runs) -> None:
    """At each of its calls to the store in turn; it is resumed after another run has published."""

    class LostError(Exception): ...

    def fail() -> None:
        raise LostError

    first, one, other = runs
    store = one.store
    terms = created(first, one, other)
    for n in range(1, MAX_CALLS):
        name = f"fails_{n}"
        publish_as(name, first, store)
        racing = Interrupting(store, n, fail)
        try:
            publish_as(name, one, racing)
        except LostError:
            later = publish_as(name, other, store, terms)
        else:
            break
        assert current_version(name, store) == later.version
        assert later.parent in (1, later.version - 1)
        resumed = outcome(partial(publish_as, name, one, store, terms))
        check_all(name, store)
        assert current_version(name, store) == later.version
        if isinstance(resumed, Release):  # it was current before the other was
            assert later.parent == resumed.version
        else:
            assert isinstance(resumed, PublishRefused)
    assert n > 10


@pytest.mark.parametrize("event", [Event.CANCEL, Event.FAIL])
def test_a_run_that_is_ended_while_it_publishes_has_no_release(runs: Runs, event: Event) -> None:
    """At each of its calls to the store in turn, as where a call outlives its execution."""
    first, one, _ = runs
    store = one.store
    moved: list[bool] = []
    for n in range(1, MAX_CALLS):
        name = f"ended_{event}_{n}"
        publish_as(name, first, store)
        ledger = MemoryLedger()
        run = one.layout.run
        options: RunOptions = {"as_of": AS_OF, "attempt": 1}
        ledger.create(Record(run, name, "", State.NEW, "publish", AS_OF, AS_OF, options=options))
        racing = Interrupting(store, n, partial(ledger.move, run, event))
        record = ledger.move(run, Event.START)
        with suppress(StateError):
            StageRunner(job(name), record, cast(Any, racing), ledger).publish(one.warehouse)
        if racing.calls < n:
            break
        check_all(name, store)
        moved.append(current_version(name, store) != 1)
    assert moved.count(False) > 10
    assert moved == sorted(moved)
    assert moved.count(True) <= 3  # from the move of the pointer on


def test_a_query_that_cannot_run_claims_no_version(runs: Runs) -> None:
    run = runs[0]
    wrong = Publish("table", query="SELECT no_such FROM prices")
    broken = Job("wrong", sources=JOB.sources, models=JOB.models, publish=wrong)
    with pytest.raises(QueryError):
        publish(broken, run.layout, 1, AS_OF, run.warehouse, run.store)
    assert list(run.store.list("releases/wrong/")) == []
    publish_as("wrong", run, run.store)
    assert list(run.store.list("releases/wrong/claims/")) == [
        "releases/wrong/claims/000001.json",
        "releases/wrong/claims/first.json",
    ]
