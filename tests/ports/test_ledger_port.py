"""The promises of the Ledger port, held by every implementation, and the table of states, which all
of them follow.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from hundredfold.aws.adapters.dynamodb_ledger import DynamoLedger
from hundredfold.errors import HomeError, NoSuchRun, StateError
from hundredfold.local.sqlite_ledger import SqliteLedger, sqlite_errors
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_records import MAX_TRANSITIONS, transition
from hundredfold.ports.run_states import TABLE, Event, State, after
from hundredfold.testing import MemoryLedger
from support.aws_account import LinkedClock
from support.ledger_records import RUN, attempt, run_with

SHARED: dict[str, Callable[..., Any]] = {  # shared between processes
    "local": lambda ask: SqliteLedger(ask("tmp_path") / "home" / "ledger.sqlite", ask("clock")),
    "dynamodb": lambda ask: DynamoLedger(ask("account").table(), ask("clock")),
}
KINDS: dict[str, Callable[..., Any]] = {"memory": lambda ask: MemoryLedger(ask("clock")), **SHARED}
PAIRS = [
    pytest.param(state, event, id=f"{state.value}-{event.value}")
    for state, event in product(State, Event)
]


@pytest.fixture(params=KINDS)
def ledger(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param](request.getfixturevalue)


@pytest.fixture(params=SHARED)
def shared(request: pytest.FixtureRequest) -> Any:
    return SHARED[request.param](request.getfixturevalue)


def counted(record: Record) -> dict[str, Any]:
    """Return the counts that callers gave."""
    return {name: value for name, value in record.counts.items() if name != "history"}


def test_a_run_is_read_as_it_was_written(ledger: Any) -> None:
    run = run_with(
        reason="why €",
        options={"sources": {"sales": ["a", "b"]}, "none": None},
        counts={"units": 3, "share": 0.5},
        version=7,
    )
    ledger.create(run)
    assert ledger.read(run.id) == run


def test_a_run_can_be_created_only_once(ledger: Any) -> None:
    ledger.create(RUN)
    with pytest.raises(StateError, match=f"{RUN.id} exists already"):
        ledger.create(run_with(job="other"))
    assert ledger.read(RUN.id) == RUN


def test_an_empty_ledger_is_reported_as_empty(ledger: Any) -> None:
    assert ledger.runs() == []
    with pytest.raises(NoSuchRun, match="no run r1; there is no run yet") as caught:
        ledger.read("r1")
    assert str(caught.value.hint).startswith("hundredfold list   lists the runs")


@pytest.mark.parametrize(
    "call",
    [
        lambda ledger: ledger.read("x"),
        lambda ledger: ledger.move("x", Event.START),
        lambda ledger: ledger.note("x", step="work"),
    ],
    ids=["read", "move", "note"],
)
def test_a_missing_run_is_reported_with_the_newest_three(ledger: Any, call: Any) -> None:
    for number in range(5):
        ledger.create(run_with(id=f"r{number}"))
    with pytest.raises(NoSuchRun, match=r"no run x; the newest are r4, r3, r2\n"):
        call(ledger)


def test_runs_come_newest_first(ledger: Any) -> None:
    for name, created, job in [
        ("a", "2024-05-02", "tariffs"),
        ("c", "2024-05-01", "other"),
        ("b", "2024-05-02", "tariffs"),
    ]:
        ledger.create(run_with(id=name, created=created, job=job))
    assert [run.id for run in ledger.runs()] == ["b", "a", "c"]
    assert [run.id for run in ledger.runs("tariffs")] == ["b", "a"]
    assert ledger.runs("none") == []


def test_an_event_moves_the_run_and_is_recorded(ledger: Any, clock: LinkedClock) -> None:
    ledger.create(RUN)
    clock.now = 1_714_550_400.5
    moved = ledger.move(RUN.id, Event.START, step="prepare", reason="resumed")
    assert moved == run_with(
        state=State.RUNNING,
        step="prepare",
        reason="resumed",
        updated="2024-05-01T08:00:00.500+00:00",
        version=1,
        counts=moved.counts,
    )
    assert ledger.read(RUN.id) == moved


def test_each_change_of_state_or_step_is_kept_with_its_time(
    ledger: Any, clock: LinkedClock
) -> None:
    ledger.create(RUN)
    wanted = [(RUN.created, "new", "new")]

    def expect(record: Record, step: str) -> None:
        wanted.append((record.updated, record.state.value, step))

    expect(ledger.move(RUN.id, Event.START), RUN.step)
    for step in ("prepare m", "work m"):
        clock.now += 1.0
        expect(ledger.note(RUN.id, step=step), step)
        ledger.note(RUN.id, step=step, counts={"models": {}})  # neither state nor step changes
    expect(ledger.move(RUN.id, Event.START, reason="resumed"), "work m")  # its driver died
    expect(ledger.move(RUN.id, Event.FAIL, reason="no rows"), "work m")
    found = ledger.read(RUN.id).history
    assert [(each["at"], each["state"], each["step"]) for each in found] == wanted
    assert [each["at"] for each in found] == sorted(each["at"] for each in found)


def test_a_long_history_keeps_its_beginning_and_its_end(ledger: Any) -> None:
    ledger.create(RUN)
    for number in range(MAX_TRANSITIONS + 9):
        last = ledger.note(RUN.id, step=f"step {number}")
    steps = [each["step"] for each in last.history]
    assert len(steps) == MAX_TRANSITIONS + 1
    assert steps[:3] == ["new", "step 0", "step 1"]
    assert steps[-1] == f"step {MAX_TRANSITIONS + 8}"


def test_a_state_that_another_writer_set_is_the_last_of_the_history() -> None:
    """The state machine on AWS records a failure without the rules of the port."""
    record = transition(RUN, Event.START, None, "", 1_714_550_000.0)
    failed = replace(record, state=State.FAILED, updated="2024-05-01T09:00:00.000+00:00")
    assert [each["state"] for each in failed.history] == ["new", "running", "failed"]
    assert failed.history[-1]["at"] == failed.updated


def test_the_reason_is_that_of_the_last_event_and_the_step_stays(ledger: Any) -> None:
    ledger.create(RUN)
    ledger.move(RUN.id, Event.FAIL, step="work", reason="no rows")
    resumed = ledger.move(RUN.id, Event.START)
    assert (resumed.step, resumed.reason) == ("work", "")


def test_a_note_is_merged_into_the_record(ledger: Any) -> None:
    ledger.create(run_with(options={"jobs": 4}, counts={"rows": 1, "units": {"ok": 1}}))
    ledger.note(RUN.id, step="work", counts={"units": {"failed": 2}, "batches": 3})
    noted = ledger.note(RUN.id, options={"limit": None})
    assert noted == ledger.read(RUN.id)
    assert noted.step == "work"
    assert counted(noted) == {"rows": 1, "units": {"failed": 2}, "batches": 3}
    assert noted.options == {"jobs": 4, "limit": None}
    assert noted.state == State.NEW


def test_a_write_returns_the_record_that_is_read_after_it(ledger: Any) -> None:
    ledger.create(RUN)
    assert ledger.note(RUN.id, counts={"pair": (1, 2)}, options={3: "a key"}) == ledger.read(RUN.id)
    assert ledger.move(RUN.id, Event.START) == ledger.read(RUN.id)
    assert counted(ledger.read(RUN.id)) == {"pair": [1, 2]}


def test_each_write_increases_the_version_and_the_time(ledger: Any, clock: LinkedClock) -> None:
    ledger.create(RUN)
    ledger.note(RUN.id)
    before = ledger.read(RUN.id)
    clock.advance(1)
    ledger.move(RUN.id, Event.START)
    run = ledger.read(RUN.id)
    assert run.version == 2
    assert run.updated > before.updated
    assert run.created == RUN.created


def test_a_clock_that_is_set_back_does_not_reverse_times(ledger: Any, clock: LinkedClock) -> None:
    ledger.create(RUN)
    before = ledger.note(RUN.id)
    clock.advance(-86_400)
    after = ledger.move(RUN.id, Event.START)
    assert (after.version, after.updated) == (2, before.updated)


def test_a_record_is_a_copy_that_changes_nothing(ledger: Any) -> None:
    options = {"list": [1]}
    ledger.create(run_with(options=options))
    options["list"].append(2)
    ledger.read(RUN.id).options["list"].append(3)
    ledger.runs()[0].options["list"].append(4)
    assert ledger.read(RUN.id).options == {"list": [1]}


def test_values_that_are_not_json_are_not_written(ledger: Any) -> None:
    ledger.create(RUN)
    with pytest.raises(TypeError, match="JSON"):
        ledger.note(RUN.id, counts={"a": object()})
    assert ledger.read(RUN.id) == RUN


def test_a_rejected_event_changes_nothing(ledger: Any) -> None:
    ledger.create(run_with(state=State.DONE))
    with pytest.raises(StateError, match="cannot cancel: it is done"):
        ledger.move(RUN.id, Event.CANCEL, step="x", reason="y")
    assert ledger.read(RUN.id) == run_with(state=State.DONE)


def test_the_table_of_states_is_total() -> None:
    assert set(TABLE) == set(product(State, Event))
    assert all(isinstance(answer, State) or len(answer) > 5 for answer in TABLE.values())


def test_every_state_can_be_reached() -> None:
    assert {State.NEW} | {answer for answer in TABLE.values() if isinstance(answer, State)} == set(
        State
    )


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_every_ledger_follows_the_table_of_states(ledger: Any, state: State, event: Event) -> None:
    ledger.create(run_with(state=state))
    answer = TABLE[state, event]
    if isinstance(answer, State):
        assert ledger.move(RUN.id, event).state == answer == after(state, event)
    else:
        with pytest.raises(StateError, match=answer) as caught:
            ledger.move(RUN.id, event)
        assert caught.value.hint == f"hundredfold status {RUN.id}"
        assert ledger.read(RUN.id).state == state


def test_one_of_many_writers_ends_a_run(ledger: Any) -> None:
    ledger.create(run_with(state=State.RUNNING))
    with ThreadPoolExecutor(8) as pool:
        errors = list(
            pool.map(lambda _: attempt(lambda: ledger.move(RUN.id, Event.FINISH)), range(8))
        )
    assert sorted(errors) == ["", *["StateError"] * 7]
    assert ledger.read(RUN.id).version == 1


def test_one_of_many_writers_creates_a_run(ledger: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        errors = list(
            pool.map(lambda i: attempt(lambda: ledger.create(run_with(step=str(i)))), range(8))
        )
    assert errors.count("") == 1
    assert ledger.read(RUN.id).step == str(errors.index(""))


def test_concurrent_notes_are_not_lost(ledger: Any) -> None:
    ledger.create(RUN)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: ledger.note(RUN.id, counts={str(i): i}), range(40)))
    run = ledger.read(RUN.id)
    assert run.counts == {str(i): i for i in range(40)}
    assert run.version == 40


def test_many_runs_are_listed_completely_and_in_order(ledger: Any) -> None:
    names = [f"r{number:03d}" for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda name: ledger.create(
                    run_with(id=name, created=name, options={"text": "x" * 30_000})
                ),
                names,
            )
        )
    assert [run.id for run in ledger.runs()] == names[::-1]
    assert [run.id for run in ledger.runs(RUN.job)] == names[::-1]


def write_notes(ledger: Any, name: str) -> None:
    for number in range(20):
        ledger.note(RUN.id, counts={f"{name}{number}": number})


def finish(ledger: Any, _: int) -> str:
    return attempt(lambda: ledger.move(RUN.id, Event.FINISH))


def test_processes_share_a_ledger(shared: Any) -> None:
    shared.create(run_with(state=State.RUNNING))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_notes, [shared, shared], ["a", "b"]))
        noted = shared.read(RUN.id)
        errors = list(pool.map(finish, [shared] * 8, range(8)))
    assert (noted.version, len(noted.counts)) == (40, 40)
    assert sorted(errors) == ["", *["StateError"] * 7]
    assert shared.read(RUN.id).version == 41


def test_reading_creates_no_file(tmp_path: Path) -> None:
    assert SqliteLedger(tmp_path / "home" / "ledger.sqlite").runs() == []
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_an_empty_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").touch()
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    assert ledger.runs() == []
    ledger.create(RUN)
    assert ledger.read(RUN.id) == RUN


def test_a_ledger_that_stays_locked_is_an_error(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite", patience=0.01)
    ledger.create(RUN)
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            HomeError, match=r"ledger\.sqlite is locked by another process"
        ) as caught:
            ledger.move(RUN.id, Event.START)
        with pytest.raises(HomeError, match="locked"):
            ledger.read(RUN.id)
    assert caught.value.hint
    assert ledger.read(RUN.id) == RUN


def test_a_file_that_is_not_a_ledger_is_an_error_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("these are not the bytes of a database" * 100)
    before = path.read_bytes()
    for call in (lambda: SqliteLedger(path).runs(), lambda: SqliteLedger(path).create(RUN)):
        with pytest.raises(HomeError, match="is damaged") as caught:
            call()
        assert str(caught.value.hint).startswith("move it away")
    assert path.read_bytes() == before


def test_a_truncated_ledger_is_an_error(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    for number in range(200):
        ledger.create(run_with(id=f"r{number}", options={"text": "x" * 500}))
    content = ledger.path.read_bytes()
    ledger.path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(HomeError, match="is damaged"):
        ledger.runs()


def test_a_ledger_of_a_newer_format_is_unchanged(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.create(RUN)
    with closing(sqlite3.connect(ledger.path)) as other:
        other.execute("PRAGMA user_version = 99")
    for call in (ledger.runs, lambda: ledger.note(RUN.id, step="work")):
        with pytest.raises(HomeError, match="has format 99") as caught:
            call()
        assert "upgrade" in str(caught.value.hint)


def test_a_ledger_in_a_read_only_folder_can_be_read(
    closed_folder: Path, guest: Callable[[Path], AbstractContextManager[None]]
) -> None:
    ledger = SqliteLedger(closed_folder / "ledger.sqlite")
    ledger.create(RUN)
    with guest(closed_folder):
        assert ledger.read(RUN.id) == RUN
        with pytest.raises(HomeError, match="cannot be written") as caught:
            ledger.move(RUN.id, Event.START)
    assert "--home" in str(caught.value.hint)
    assert ledger.read(RUN.id) == RUN


def test_a_folder_without_write_permission_is_an_error(
    closed_folder: Path, guest: Callable[[Path], AbstractContextManager[None]]
) -> None:
    with guest(closed_folder):
        for path in (closed_folder / "ledger.sqlite", closed_folder / "home" / "ledger.sqlite"):
            with pytest.raises(HomeError, match="cannot be opened") as caught:
                SqliteLedger(path).create(RUN)
            assert "--home" in str(caught.value.hint)


def test_a_ledger_that_cannot_grow_keeps_its_records(
    tmp_path: Path, small_files: Callable[[int], AbstractContextManager[None]]
) -> None:
    ledger: Any = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.create(RUN)
    with small_files(8192), pytest.raises(HomeError, match="cannot be read or written"):
        ledger.note(RUN.id, counts={"text": "x" * 100_000})
    assert ledger.read(RUN.id) == RUN


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as db:
        db.execute("CREATE TABLE t (c)")
        db.execute("PRAGMA max_page_count = 2")  # SQLite fails as on a full disk
        with (
            pytest.raises(HomeError, match="the disk is full") as caught,
            sqlite_errors(tmp_path / "ledger.sqlite", "damaged"),
        ):
            db.execute("INSERT INTO t VALUES (?)", ("x" * 100_000,))
    assert "free some space" in str(caught.value.hint)
