"""The ports: Store, Queue, Ledger, RunHome and Warehouse.

Each is a Protocol with few methods, and its implementations do not inherit it. Every sentence of a
docstring is a promise, to which the tests in tests/ports hold every implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from ..contract import Column
from ..errors import QueryError, SourceError
from ..job import Source
from .run_facts import CodeEntry, ModelCounts, RunCounts, RunOptions, Transition
from .run_states import Event, State


class Store(Protocol):
    """Objects by key. A key is a relative path with forward slashes."""

    def put(self, key: str, data: bytes | pa.Buffer) -> None:
        """Write an object whole or not at all; it is durable when the call returns.

        An existing object is replaced.
        """

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one of that key: of all the writers at once, one wins.

        False, and nothing changes, where there is an object. Durable when the call returns.
        """

    def put_if_match(self, key: str, data: bytes, etag: str) -> bool:
        """Replace an object if it is still the one that had this entity tag: of all the writers at
        once, one wins.

        False, and nothing changes, where it was replaced or removed. Durable when the call returns.
        """

    def get(self, key: str) -> pa.Buffer:
        """Return the bytes of an object. Raises: KeyError if there is none."""

    def get_with_etag(self, key: str) -> tuple[pa.Buffer, str]:
        """Return the object's bytes and its entity tag, for `put_if_match`; KeyError if there is
        none.
        """

    def parts(self, key: str) -> Iterator[pa.Buffer | bytes]:
        """Yield the bytes of an object in order: a few megabytes at a time, or one buffer where
        they are in memory already.

        Raises: KeyError, at the first of them, if there is no object.
        """

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a prefix that ends with '/', in order.

        Partially written objects are never among them.
        """

    def delete(self, prefix: str) -> None:
        """Delete the object of that key and all objects below `prefix/`; there may be none."""


class RunStore(Store, Protocol):
    """The store of a home, which also gives the address of an object and accepts files from other
    writers.
    """

    def where(self, key: str) -> str:
        """Return the address of an object, for people."""

    def writing(self, key: str) -> AbstractContextManager[Path]:
        """Return a path to write to, which becomes the object when the block ends, whole and
        durable.

        If the block raises, there is no object.
        """


class AppendFiles(Protocol):
    """Files that are written piece by piece: growing Arrow streams, and whole files."""

    def add(self, name: str, batch: pa.RecordBatch) -> None:
        """Append a record batch to a stream; its first batch brings the schema."""

    def put(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a whole file."""

    def end(self) -> None:
        """End every stream: from now on the files can be read."""

    def sync(self) -> None:
        """Return when the disk has every byte."""

    def close(self) -> None:
        """Close the files; a file that was not ended and synced may be partial."""


class AppendStore(Store, Protocol):
    """A store with files that can be appended to."""

    def append_files(self, prefix: str) -> AppendFiles:
        """Return the files below a prefix, to append to.

        A crash leaves some of them partial: readers trust them only once an object that is written
        last commits them.
        """


class MarkedStore(Store, Protocol):
    """A store that knows a content tag of each object without reading it, also of objects that
    others wrote.
    """

    def get_marked(self, key: str, mark: str) -> pa.Buffer:
        """Return the bytes of an object.

        Raises: KeyError if there is none, DamagedFile if its content has another tag.
        """


class RangeStore(Store, Protocol):
    """A store on another machine, which can return a part of an object."""

    def get_range(self, key: str, first: int, last: int) -> pa.Buffer:
        """Return the bytes first..last of an object, or those of them that there are.

        Raises: KeyError if there is no object.
        """


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that a queue delivered. `receipt` is valid for this delivery only."""

    body: str
    receipt: str
    receive_count: int  # deliveries of the message, this one included


@dataclass(frozen=True, slots=True)
class Depth:
    """The number of messages in a queue: waiting, in flight, and dead-lettered."""

    waiting: int
    in_flight: int
    dead: int


class Queue(Protocol):
    """A queue with the semantics of SQS: at least once, in no guaranteed order, by leases."""

    def send(self, bodies: Sequence[str]) -> None:
        """Add messages, as durably as the implementation can.

        Earlier messages tend to be delivered first.
        """

    def receive(self, wait: float = 0.0) -> Delivery | None:
        """Lease one message for the visibility timeout, and wait up to `wait` seconds for one.

        A message whose lease ended after `max_receives` deliveries becomes a dead letter instead.
        """

    def extend(self, receipt: str, seconds: float) -> bool:
        """Extend a lease to `seconds` from now; 0 returns the message to the queue at once.

        Returns False if the lease was lost.
        """

    def delete(self, receipt: str) -> bool:
        """Delete a message that is done.

        Returns False if its lease was lost in the meantime; it may be delivered again.
        """

    def dead(self) -> Sequence[str]:
        """Return the bodies of the dead letters."""

    def purge(self) -> None:
        """Delete all messages, dead letters included."""

    def depth(self) -> Depth:
        """Return the number of messages that are waiting, in flight and dead."""


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a run in the ledger.

    `options` hold the request and later decisions, `counts` the progress and the result.
    """

    id: str
    job: str  # the job's name
    ref: str  # module:attribute; "" where the job was passed as an object
    state: State
    step: str
    created: str  # ISO 8601, UTC
    updated: str
    reason: str = ""
    options: RunOptions = field(default_factory=lambda: RunOptions())
    counts: RunCounts = field(default_factory=lambda: RunCounts())
    version: int = 0  # incremented by every write; compared by a conditional write

    @property
    def attempt(self) -> int:
        """The attempt that the run is at, from 1."""
        return int(self.options.get("attempt", 1))

    @property
    def as_of(self) -> str:
        """The moment that counts as now for the run's checks and its release."""
        return str(self.options["as_of"])

    @property
    def source_addresses(self) -> dict[str, str]:
        """The address of each source, by name."""
        return self.options.get("sources", {})

    @property
    def max_failed(self) -> float | None:
        """The limit of failed units that replaces the declared one; None for none."""
        return self.options.get("max_failed")

    @property
    def replace_newer(self) -> bool:
        """Whether the release may replace that of a run created later."""
        return bool(self.options.get("replace_newer"))

    @property
    def code(self) -> list[CodeEntry]:
        """The code of the attempts, oldest first; empty where none was recorded."""
        return self.options.get("code", [])

    @property
    def history(self) -> list[Transition]:
        """Each state and step of the run with the time at which it began, oldest first.

        Of a run with very many, those in the middle are left out (`run_records.MAX_TRANSITIONS`).
        """
        found = [Transition(at=self.created, state=State.NEW, step=State.NEW)]
        found += self.counts.get("history", [])
        now = Transition(at=self.updated, state=self.state, step=self.step)
        # the state machine on AWS records a failure without the ledger
        same = (found[-1]["state"], found[-1]["step"]) == (now["state"], now["step"])
        return found if same else [*found, now]

    @property
    def execution(self) -> str:
        """The ARN of the last execution on AWS; "" where there is none."""
        return str(self.options.get("execution", ""))

    @property
    def models(self) -> dict[str, ModelCounts]:
        """The counts of each model that was prepared, in the order of the job."""
        return self.counts.get("models", {})


class Ledger(Protocol):
    """The records of the runs.

    State transitions follow `run_states.after`. Of two writers at once, the loser gets an error; no
    write is lost.
    """

    def create(self, record: Record) -> None:
        """Add a run. Raises: StateError if its id exists."""

    def read(self, run: str) -> Record:
        """Return a record. Raises: NoSuchRun."""

    def move(self, run: str, event: Event, *, step: str | None = None, reason: str = "") -> Record:
        """Apply an event to a run, and return the new record.

        Raises: StateError if its state forbids it.
        """

    def note(
        self,
        run: str,
        *,
        step: str | None = None,
        counts: RunCounts | None = None,
        options: RunOptions | None = None,
    ) -> Record:
        """Write facts that leave the state unchanged: the current step, counts and options.

        Counts and options are merged into the existing ones.
        """

    def runs(self, job: str | None = None) -> Sequence[Record]:
        """Return all runs, or those of a job, newest first."""


class RunHome(Protocol):
    """Where the runs of a backend are kept."""

    @property
    def store(self) -> RunStore:
        """The objects of all runs and releases."""

    @property
    def ledger(self) -> Ledger:
        """The records of all runs."""

    @property
    def description(self) -> str:
        """The name of the home, for messages."""

    def publishing(self, job: str) -> AbstractContextManager[None]:
        """Return a lock for making a release of a job, so that a version is made only once."""

    def is_active(self, run: str) -> bool:
        """Return whether a process or an execution is working on the run."""

    def holds(self, run: str) -> bool:
        """Return whether the run's files still exist."""

    def where(self, key: str) -> str:
        """Return the address of an object, for people."""

    def fetch(self, key: str) -> Path:
        """Return an object as a local file.

        Raises: KeyError or FileNotFoundError if there is none.
        """

    def check_writers(self, key: str) -> None:
        """Check that an object may be executed.

        Raises: HomeError if users other than this one and root could have written it.
        """

    def scratch(self, run: str) -> Path:
        """Return a local folder for a warehouse's temporary files."""


# a path, a pattern or an address; or the rows themselves
SourceLocation: TypeAlias = str | Path | pa.Table
# JSON values: the address of a file, then facts that change with its content
Fingerprint = list[Any]


@dataclass(frozen=True, slots=True)
class AttachedSource:
    """The raw rows of a source.

    The columns __file and __row locate each row.
    """

    select: str
    schema: pa.Schema
    text: bool = False  # every value is text, to be converted to the type of the contract
    in_place: bool = False  # the source's own files are read, not a copy
    malformed: pa.Table | None = None  # the lines that cannot be read; None if there are none
    fingerprints: list[Fingerprint] = field(default_factory=list)  # taken before the first read
    in_file_order: bool = True  # __row is the number of the row in its file
    csv: list[dict[str, Any]] = field(default_factory=list)  # the dialect of each CSV file
    # a copy with row numbers, where __row is null
    with_row_numbers: Callable[[], AttachedSource] | None = None
    # where the rows are local and a table may be remote: a local table `value` of those values of
    # a query's only column which a column of the table has; None for a table that is local too
    find_known: Callable[[str, str, str], str | None] | None = None


class Warehouse(Protocol):
    """SQL over named tables; where all rows of a data set are processed."""

    @property
    def replays(self) -> bool:
        """Whether a step is called again after each of its queries.

        If so, validation keeps the result of each source before it begins the next.
        """

    def create_view(self, name: str, select: str) -> None:
        """Create a view of a query."""

    def materialize(self, name: str, select: str) -> None:
        """Run a query and store its rows as a table."""

    def register(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table available to queries under a name."""

    def drop(self, name: str) -> None:
        """Drop a view or table, with its rows. It need not exist."""

    def columns(self, select: str) -> pa.Schema:
        """Return the columns of a query without running it. Raises: QueryError if it cannot run."""

    def tables_of(self, select: str) -> set[str]:
        """Return the names of the tables that a query reads."""

    def query(self, select: str) -> pa.Table:
        """Return the rows of a query with a small result."""

    def stream(self, select: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query of any size, in the order of its ORDER BY, if it has one."""

    def prefetch(self, selects: Sequence[str]) -> None:
        """Run queries at the same time, if that is faster, before their rows are read.

        One that fails raises its error when its rows are read.
        """

    def together(self) -> AbstractContextManager[Callable[[], AbstractContextManager[None]]]:
        """Return a context whose blocks may run their queries at the same time.

        A block is entered with the value of the context, which is called. A block that waits for a
        query may be left early; the context then does not end normally either, so that nothing
        after it runs. The error of the first block that has one is raised.
        """

    def write(self, select: str, key: str, format: str = "parquet") -> int:
        """Write the rows of a query as one object, in the query's order, and return their
        number.
        """

    def write_rows(self, select: str, key: str) -> int:
        """Write the rows of a query for `read_parquet(key)`, and return their number."""

    def read_parquet(self, key: str) -> str:
        """Return the SQL table function that reads a Parquet object, or the rows of
        `write_rows`.
        """

    def attach(
        self,
        source: Source,
        location: SourceLocation,
        folder: Path | None,
        contract_columns: Mapping[str, Column],
        staged: str,
    ) -> AttachedSource:
        """Return the raw rows of a source.

        folder: the folder of the job, for relative paths. staged: the key for a copy, if one is
        needed.
        """

    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint]:
        """Return a fingerprint of each file of a source. Raises: OSError for a missing file."""

    def find_damage(
        self, source: str, paths: Sequence[str], error: QueryError
    ) -> SourceError | None:
        """Return an error that names the damaged file of a source which made a query fail.

        Returns None if the query failed for another reason.
        """

    def close(self) -> None:
        """Release memory, threads and temporary files."""


class StreamingWarehouse(Warehouse, Protocol):
    """A warehouse in the driver's process: batches are written while the rows stream by."""

    def stream(self, select: str, rows: int = ...) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query, about `rows` at a time."""

    def is_plain(self, select: str) -> bool:
        """Return whether reading the query twice gives the same rows, and costs no more than two
        scans.
        """


Clock = Callable[[], float]
