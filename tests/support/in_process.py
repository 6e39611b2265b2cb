"""A run without processes: every step on its real doors, and the user's function called in this process.

Real DuckDB, real files; what a worker would hand over is committed here as the floor commits it.
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
from hundredfold.data.manifest import Manifest
from hundredfold.job import Layout, Message
from hundredfold.local.filesystem import FileStore
from hundredfold.pipeline.collect import Collected, collect, failures
from hundredfold.pipeline.enqueue import plan_attempt
from hundredfold.pipeline.prepare import prepare
from hundredfold.pipeline.publish import Release, publish
from hundredfold.pipeline.validate import ValidationResult, validate
from hundredfold.pipeline.work import halves
from hundredfold.sql.duckdb import DuckWarehouse
from hundredfold.sql.queries import check_queries
from hundredfold.workers.child import UnitRunner
from hundredfold.workers.protocol import NO_STOP, NO_UNIT, WorkerContext

AS_OF = "2026-01-01 00:00:00"
Cut = Callable[[Message], Sequence[Message]]


def whole(message: Message) -> Sequence[Message]:
    """A message is done in one piece."""
    return [message]


class Bench:
    """One store and one warehouse for many small runs."""

    def __init__(self, folder: Path, *, memory: int = 2**28) -> None:
        self.store = FileStore(folder / "home")
        self.warehouse = DuckWarehouse(self.store, folder / "scratch", memory=memory, threads=1)
        self.numbers = count()

    def start(self, job: Job, **places: Any) -> Piece:
        """A new run of a job, of which nothing is done yet."""
        return Piece(self, job, places, Layout(f"r{next(self.numbers)}"))

    def source(self, source: Source, place: Any) -> Piece:
        """A run with this source alone and a model that nobody asks for."""
        model = Model("rest", unit=(), work=lambda rows: {"n": rows.rows})
        return self.start(Job("check", sources=[source], models=[model]), **{source.name: place})

    def results(self, model: Model, rows: Any, *, parts: int = 0, cut: Cut = whole) -> pa.Table:
        """The result of one model over one table named `rows_in`."""
        piece = self.start(Job("one", sources=[Source("rows_in")], models=[model]), rows_in=rows)
        piece.validate()
        piece.model(model.name, parts=parts, cut=cut)
        return piece.results(model.name)

    def close(self) -> None:
        self.warehouse.close()


class Piece:
    """One run on the bench, a step at a time."""

    def __init__(self, bench: Bench, job: Job, places: Mapping[str, Any], layout: Layout) -> None:
        self.bench, self.job, self.places, self.layout = bench, job, places, layout
        self.store, self.warehouse = bench.store, bench.warehouse
        self.collected: dict[str, Collected] = {}

    def validate(self) -> list[ValidationResult]:
        check_queries(self.job, self.warehouse.tables_of)
        places = {
            name: str(place) if isinstance(place, Path) else place
            for name, place in self.places.items()
        }
        return validate(self.job, places, AS_OF, self.layout, self.warehouse, self.store)

    def rejects(self, source: str) -> list[dict[str, Any]]:
        return self._read(self.layout.rejects(source)).to_pylist()

    def repairs(self, source: str) -> list[dict[str, Any]]:
        return self._read(self.layout.repairs(source)).to_pylist()

    def accepted(self, source: str) -> list[dict[str, Any]]:
        return self.warehouse.query(f"SELECT * FROM {source}").to_pylist()

    def prepare(
        self, model: str, *, parts: int = 0, batch_bytes: int = 2**26, memory: int | None = None
    ) -> Manifest:
        """One batch, or about 12 for each of `parts`, however small the data."""
        limits = {"workers": parts, "batch_bytes": batch_bytes, "memory": memory}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hundredfold.pipeline.prepare.LEAST_COST", 1e-9)
            return prepare(
                self.job.model(model), self.job, self.layout, self.warehouse, self.store, **limits
            )

    def work(self, model: str, *, cut: Cut = whole, attempt: int = 1) -> None:
        """Every message of the round, each in the pieces that `cut` makes of it."""
        manifest = Manifest.read(self.layout, model, self.store)
        said: list[tuple[Any, ...]] = []
        desk = UnitRunner(
            WorkerContext(self.job, self.layout, self.store), [NO_UNIT, 0, NO_STOP], said.append
        )
        for message in plan_attempt(manifest, self.layout, attempt, self.store)[0]:
            todo = list(cut(message))
            while todo:
                doing = todo.pop(0)
                desk.do(doing)
                for kind, *facts in said:
                    if kind == "chunk":
                        first, last, results, accounts = facts
                        self._commit(doing.part(first, last), results, accounts)
                    elif kind == "split":
                        todo[:0] = halves(doing.part(facts[0], doing.last))
                said.clear()

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
        """One model from its query to its result."""
        self.prepare(model, parts=parts, batch_bytes=batch_bytes)
        self.work(model, cut=cut)
        return self.collect(model)

    def all(self, **how: Any) -> Piece:
        """Validate, and every model."""
        self.validate()
        for model in self.job.models:
            self.model(model.name, **how)
        return self

    def publish(self, attempt: int = 1) -> Release | None:
        return publish(self.job, self.layout, attempt, AS_OF, self.warehouse, self.store)

    def results(self, model: str) -> pa.Table:
        return self._read(self.layout.results(model))

    def result_bytes(self, model: str) -> bytes:
        return self.store.get(self.layout.results(model)).to_pybytes()

    def failures(self, model: str) -> list[dict[str, Any]]:
        return list(failures(self.layout, model, self.store))

    def _commit(self, message: Message, results: bytes, accounts: bytes) -> None:
        if results:
            put_sealed(self.store, self.layout.outcome(message, "results"), results)
        put_sealed(self.store, self.layout.outcome(message, "ledger"), accounts)

    def _read(self, key: str) -> pa.Table:
        return pq.ParquetFile(pa.BufferReader(self.store.get(key))).read()
