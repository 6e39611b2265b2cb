"""A run in this process: every step on its real ports, and the user's function without workers.

DuckDB and files are real. Results that a worker would send are committed here, as the dispatcher
commits them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hundredfold import Job, Model, Source
from hundredfold.data.checksums import put_sealed
from hundredfold.data.layout import Layout
from hundredfold.data.manifest import Manifest
from hundredfold.data.messages import Message
from hundredfold.local.filesystem import FileStore
from hundredfold.pipeline.collect import Collected, collect, failures
from hundredfold.pipeline.enqueue import plan_attempt
from hundredfold.pipeline.prepare import prepare
from hundredfold.pipeline.publish import publish
from hundredfold.pipeline.releases import Release
from hundredfold.pipeline.validate import validate
from hundredfold.pipeline.validation_results import ValidationResult
from hundredfold.pipeline.work import halves
from hundredfold.sql.duckdb import DuckWarehouse
from hundredfold.sql.queries import check_queries
from hundredfold.workers.protocol import NO_STOP, NO_UNIT, WorkerContext
from hundredfold.workers.unit_runner import UnitRunner

AS_OF = "2026-01-01 00:00:00"
Cut = Callable[[Message], Sequence[Message]]


def whole(message: Message) -> Sequence[Message]:
    """Return the message as its only slice."""
    return [message]


class InProcessRunner:
    """Starts runs in this process; they share one store and one warehouse."""

    def __init__(self, folder: Path, *, memory: int = 2**28) -> None:
        self.store = FileStore(folder / "home")
        self.warehouse = DuckWarehouse(self.store, folder / "scratch", memory=memory, threads=1)
        self.numbers = count()

    def start(self, job: Job, **locations: Any) -> InProcessRun:
        """Return a new run of a job, no step of which has run."""
        return InProcessRun(self, job, locations, Layout(f"r{next(self.numbers)}"))

    def source(self, source: Source, location: Any) -> InProcessRun:
        """Return a new run of a job with one source and a trivial model."""
        model = Model("rest", unit=(), work=lambda rows: {"n": rows.rows})
        return self.start(Job("check", sources=[source], models=[model]), **{source.name: location})

    def results(self, model: Model, rows: Any, *, parts: int = 0, cut: Cut = whole) -> pa.Table:
        """Return the results of one model over one table named `rows_in`."""
        run = self.start(Job("one", sources=[Source("rows_in")], models=[model]), rows_in=rows)
        run.validate()
        run.model(model.name, parts=parts, cut=cut)
        return run.results(model.name)

    def close(self) -> None:
        self.warehouse.close()


class InProcessRun:
    """One run, executed a step at a time."""

    def __init__(
        self, runner: InProcessRunner, job: Job, locations: Mapping[str, Any], layout: Layout
    ) -> None:
        self.runner, self.job, self.locations, self.layout = runner, job, locations, layout
        self.store, self.warehouse = runner.store, runner.warehouse
        self.collected: dict[str, Collected] = {}

    def validate(self) -> list[ValidationResult]:
        check_queries(self.job, self.warehouse.tables_of)
        locations = {
            name: str(location) if isinstance(location, Path) else location
            for name, location in self.locations.items()
        }
        return validate(self.job, locations, AS_OF, self.layout, self.warehouse, self.store)

    def rejects(self, source: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._read(self.layout.rejects(source)).to_pylist()
        return rows

    def repairs(self, source: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._read(self.layout.repairs(source)).to_pylist()
        return rows

    def accepted(self, source: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.warehouse.query(f"SELECT * FROM {source}").to_pylist()
        return rows

    def prepare(
        self, model: str, *, parts: int = 0, batch_bytes: int = 2**26, memory: int | None = None
    ) -> Manifest:
        """Make one batch, or about 12 for each of `parts`, no matter how small the data is."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hundredfold.pipeline.prepare.MIN_BATCH_COST", 1e-9)
            return prepare(
                self.job.model(model),
                self.job,
                self.layout,
                self.warehouse,
                self.store,
                workers=parts,
                batch_bytes=batch_bytes,
                memory=memory,
            )

    def work(self, model: str, *, cut: Cut = whole, attempt: int = 1) -> None:
        """Execute the messages of an attempt, each in the slices that `cut` returns for it."""
        manifest = Manifest.read(self.layout, model, self.store)
        events: list[tuple[Any, ...]] = []
        unit_runner = UnitRunner(
            WorkerContext(self.job, self.layout, self.store),
            [NO_UNIT, 0, NO_STOP],
            events.append,
        )
        for message in plan_attempt(manifest, self.layout, attempt, self.store)[0]:
            waiting = list(cut(message))
            while waiting:
                current = waiting.pop(0)
                unit_runner.run(current)
                for kind, *fields in events:
                    if kind == "chunk":
                        first, last, results, statuses = fields
                        self._commit(current.part(first, last), results, statuses)
                    elif kind == "split":
                        waiting[:0] = halves(current.part(fields[0], current.last))
                events.clear()

    def collect(self, model: str, attempt: int = 1) -> Collected:
        manifest = Manifest.read(self.layout, model, self.store)
        collected = collect(
            self.job.model(model), manifest, self.layout, attempt, self.warehouse, self.store
        )
        self.warehouse.create_view(
            model, f"SELECT * FROM {self.warehouse.read_parquet(self.layout.results(model))}"
        )
        self.collected[model] = collected
        return collected

    def model(
        self, model: str, *, parts: int = 0, batch_bytes: int = 2**26, cut: Cut = whole
    ) -> Collected:
        """Execute one model, from its query to its results."""
        self.prepare(model, parts=parts, batch_bytes=batch_bytes)
        self.work(model, cut=cut)
        return self.collect(model)

    def all(self, **options: Any) -> InProcessRun:
        """Validate the sources and execute every model."""
        self.validate()
        for model in self.job.models:
            self.model(model.name, **options)
        return self

    def publish(self, attempt: int = 1) -> Release | None:
        return publish(self.job, self.layout, attempt, AS_OF, self.warehouse, self.store)

    def results(self, model: str) -> pa.Table:
        return self._read(self.layout.results(model))

    def result_bytes(self, model: str) -> bytes:
        return bytes(self.store.get(self.layout.results(model)).to_pybytes())

    def failures(self, model: str) -> list[dict[str, Any]]:
        return list(failures(self.layout, model, self.store))

    def _commit(self, message: Message, results: bytes, statuses: bytes) -> None:
        if results:
            put_sealed(self.store, self.layout.outcome(message, "results"), results)
        put_sealed(self.store, self.layout.outcome(message, "status"), statuses)

    def _read(self, key: str) -> pa.Table:
        return pq.ParquetFile(pa.BufferReader(self.store.get(key))).read()
