"""The doors to the world: Warehouse, Store, Queue, Ledger.

Each is a Protocol of a few methods; its kinds do not inherit it.  Every sentence here is a promise that the contract
tests hold every kind to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import pyarrow as pa

from ..contract import Column
from ..errors import QueryError, SourceError
from ..job import Source
from .run_facts import CodeEntry, ModelCounts, RunCounts, RunOptions
from .run_states import Event, State


class Store(Protocol):
    """Objects by key; a key is a relative path with forward slashes."""

    def put(self, key: str, data: bytes | pa.Buffer) -> None:
        """Write whole or not at all, durable when the call returns; an object that is there is replaced."""

    def get(self, key: str) -> pa.Buffer:
        """The object's bytes; KeyError if there is none."""

    def parts(self, key: str) -> Iterator[pa.Buffer | bytes]:
        """The object's bytes in order: a few megabytes at a time, or as one buffer where it is in memory anyway; KeyError, with
        the first of them, if there is none."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix that ends with '/', in order; half-written objects are never among them."""

    def delete(self, prefix: str) -> None:
        """Remove the object of that key and all below `prefix/`; what is not there is no error."""


class RunStore(Store, Protocol):
    """The store of a home: it also says where an object is, and takes files that others write."""

    def where(self, key: str) -> str:
        """The address of an object, for a person."""

    def writing(self, key: str) -> AbstractContextManager[Path]:
        """A path to write to; it becomes the object when the block ends, whole and durable, and nothing if it raises."""


class AppendFiles(Protocol):
    """Files that are written piece by piece: Arrow streams that grow by record batches, and whole files."""

    def add(self, name: str, batch: pa.RecordBatch) -> None:
        """Append a record batch to a stream; the first of a stream brings its schema."""

    def put(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a whole file."""

    def end(self) -> None:
        """End every stream: from now on the files can be read."""

    def sync(self) -> None:
        """Return when the disk has every byte."""

    def close(self) -> None:
        """Close the files; what was not ended or synced may be partial."""


class AppendStore(Store, Protocol):
    """A store with files that can be appended to."""

    def append_files(self, prefix: str) -> AppendFiles:
        """Return files below a prefix. A crash leaves some of them partial: a reader trusts them only
        after an object that is written last commits them."""


@runtime_checkable
class MarkedStore(Store, Protocol):
    """A store that knows a mark of each object's content, without reading it: of objects that others wrote into it."""

    def get_marked(self, key: str, mark: str) -> pa.Buffer:
        """The object's bytes; KeyError if there is none, DamagedFile if it is not the one that had this mark."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message handed out by a queue. `receipt` is good for this delivery only."""

    body: str
    receipt: str
    receive_count: int  # how often it has been handed out, this time included


@dataclass(frozen=True, slots=True)
class Depth:
    """What a queue holds: waiting, handed out, and given up."""

    waiting: int
    in_flight: int
    dead: int


class Queue(Protocol):
    """SQS's semantics: at least once, in no promised order, leased and not taken."""

    def send(self, bodies: Sequence[str]) -> None:
        """Add messages; durable as far as the kind can make it. Earlier ones tend to be handed out first."""

    def receive(self, wait: float = 0.0) -> Delivery | None:
        """Lease one message for the visibility timeout; wait up to `wait` seconds for one. A message that was handed
        out `max_receives` times and came back goes to the dead letters instead."""

    def extend(self, receipt: str, seconds: float) -> bool:
        """Lease it `seconds` longer, from now; 0 gives it back at once. False if the lease was lost."""

    def delete(self, receipt: str) -> bool:
        """It is done. False if the lease was lost in the meantime (it may be handed out again)."""

    def dead(self) -> Sequence[str]:
        """The bodies of the dead letters."""

    def purge(self) -> None:
        """Forget all messages, dead letters included."""

    def depth(self) -> Depth:
        """How many messages are waiting, in flight and dead."""


@dataclass(frozen=True, slots=True)
class Record:
    """A run as the ledger knows it. `options` is what it was started with, `counts` what has come of it."""

    id: str
    job: str  # the job's name
    ref: str  # module:attribute, or "" where the job was given as an object
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
        """The address of each source."""
        return self.options.get("sources", {})

    @property
    def max_failed(self) -> float | None:
        """The limit of failed units that this run has instead of the declared ones."""
        return self.options.get("max_failed")

    @property
    def replace_newer(self) -> bool:
        """Whether the release may replace that of a run created later."""
        return bool(self.options.get("replace_newer"))

    @property
    def code(self) -> list[CodeEntry]:
        """The code of the attempts, oldest first; empty where it was not recorded."""
        return self.options.get("code", [])

    @property
    def execution(self) -> str:
        """The ARN of the last execution on AWS; "" where there is none."""
        return str(self.options.get("execution", ""))

    @property
    def models(self) -> dict[str, ModelCounts]:
        """The counts of each model that was prepared, in the order of the job."""
        return self.counts.get("models", {})


class Ledger(Protocol):
    """The runs' records. Transitions go through states.after, and a lost race is an error, never a lost write."""

    def create(self, record: Record) -> None:
        """Add a run; StateError if its id is taken."""

    def read(self, run: str) -> Record:
        """The record; NoSuchRun if there is none."""

    def move(self, run: str, event: Event, *, step: str | None = None, reason: str = "") -> Record:
        """Let `event` happen to the run, if its state allows it; the new record."""

    def note(
        self,
        run: str,
        *,
        step: str | None = None,
        counts: RunCounts | None = None,
        options: RunOptions | None = None,
    ) -> Record:
        """Write facts beside the state: the step it is at, counts and options (merged into those there)."""

    def runs(self, job: str | None = None) -> Sequence[Record]:
        """All runs, or those of a job, newest first."""


class RunHome(Protocol):
    """Where the runs of a backend are kept."""

    @property
    def store(self) -> RunStore:
        """The objects of all runs and releases."""

    @property
    def ledger(self) -> Ledger:
        """The records of all runs."""

    @property
    def words(self) -> str:
        """How the place is called in a sentence."""

    def publishing(self, job: str) -> AbstractContextManager[None]:
        """Held while a release of a job is made, so that a version is made once."""

    def is_active(self, run: str) -> bool:
        """Whether a process or an execution is at work on the run."""

    def holds(self, run: str) -> bool:
        """Whether the run's files are still there."""

    def where(self, key: str) -> str:
        """The address of an object, for a person."""

    def fetch(self, key: str) -> Path:
        """An object as a file of this machine; KeyError or FileNotFoundError if there is none."""

    def scratch(self, run: str) -> Path:
        """A folder of this machine for a warehouse's temporary files."""


SourcePlace: TypeAlias = (
    str | Path | pa.Table
)  # a path, a pattern or an address, or the rows themselves
Fingerprint = list[
    Any
]  # JSON values: the address of a file, then facts that change with its content


@dataclass(frozen=True, slots=True)
class AttachedSource:
    """The raw rows of a source. The columns __file and __row name the place of each row."""

    select: str
    schema: pa.Schema
    text: bool = False  # every value is text, for the contract to convert
    in_place: bool = False  # the source's own files are read, and no copy of them
    malformed: pa.Table | None = None  # the lines that could not be read; None for no line
    fingerprints: list[Fingerprint] = field(default_factory=list)  # taken before the first read
    in_file_order: bool = True  # __row is the number of the row in its file
    csv: list[dict[str, Any]] = field(default_factory=list)  # the dialect of each CSV file
    with_row_numbers: Callable[[], AttachedSource] | None = None  # where __row is null


class Warehouse(Protocol):
    """SQL over tables by name, and the one place where the rows of a whole data set are touched."""

    @property
    def replays(self) -> bool:
        """Whether a step is called again after each of its queries: facts of one source are kept before the next."""

    def create_view(self, name: str, select: str) -> None:
        """Let `name` stand for a query's rows."""

    def materialize(self, name: str, select: str) -> None:
        """Run a query and let `name` stand for its rows."""

    def register(self, name: str, table: pa.Table) -> None:
        """Let `name` stand for the rows of a table in memory."""

    def drop(self, name: str) -> None:
        """Drop a name, and the rows that are stored under it."""

    def columns(self, select: str) -> pa.Schema:
        """The columns of a query, without running it; QueryError if it cannot run."""

    def tables_of(self, select: str) -> set[str]:
        """The names of tables that a query reads."""

    def query(self, select: str) -> pa.Table:
        """The rows of a query whose answer is small, or sorted by it."""

    def stream(self, select: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query of any size: in its order, where it has one at its end, else in any."""

    def write(self, select: str, key: str, format: str = "parquet") -> int:
        """Write a query's rows as one object of the store, in the query's order; how many."""

    def write_rows(self, select: str, key: str) -> int:
        """Write a query's rows so that `parquet(key)` reads them; how many."""

    def read_parquet(self, key: str) -> str:
        """The table function by which a query reads an object of the store, or what `settle` wrote."""

    def attach(
        self,
        source: Source,
        place: SourcePlace,
        folder: Path | None,
        contract_columns: Mapping[str, Column],
        staged: str,
    ) -> AttachedSource:
        """Return the raw rows of a source; `folder` is that of the job, `staged` the key of a copy."""

    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint]:
        """A fingerprint of each file of a source; OSError for one that is not there."""

    def find_damage(
        self, source: str, paths: Sequence[str], error: QueryError
    ) -> SourceError | None:
        """An error that names the file of a source whose damage made a query fail; None if it failed for another reason."""

    def close(self) -> None:
        """Give back memory, threads and temporary files."""


class StreamingWarehouse(Warehouse, Protocol):
    """A warehouse in the driver's own process, from which batches are written while the rows stream by."""

    def stream(self, select: str, rows: int = ...) -> Iterator[pa.RecordBatch]:
        """The rows of a query, about `rows` of them at a time."""

    def is_plain(self, select: str) -> bool:
        """Whether reading the query twice costs two scans and no more."""


Clock = Callable[[], float]
