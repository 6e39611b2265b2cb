"""The facts of a run that its report shows: the record, the summary, and SQL over the files.

Files are read by DuckDB where they are; on AWS, each is downloaded once. A file is verified before
it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.checksums import checksum, damage_error, get_json, missing_error
from ..data.manifest import Manifest, UnitList, key_text
from ..data.numpy_columns import from_numpy, to_python_rows
from ..data.outcomes import STATUS_SCHEMA
from ..pipeline.releases import Release
from ..pipeline.validation_results import ValidationResult, read_validation
from ..ports.interfaces import Record
from ..runs.run import Run, fetch_published
from ..runs.summary import RunSummary
from ..sql.duckdb import DuckWarehouse
from ..sql.sources.engine import escape_path, sql_string

ROW = "file_row_number"  # of a unit in its file: its number in the model
UNIT_COLUMNS = tuple(name for name in STATUS_SCHEMA.names if name != "unit")
READERS = {".parquet": "read_parquet", ".csv": "read_csv", ".jsonl": "read_json"}


class RunFiles:
    """The facts of one run, each read at its first use."""

    def __init__(
        self,
        run: Run,
        summary: RunSummary,
        warehouse: DuckWarehouse,
        options: Sequence[str] = (),
    ) -> None:
        self.run, self.summary, self.warehouse = run, summary, warehouse
        self.options = options  # of commands, which name the place of the run
        self.record: Record = run.record
        self._verified: dict[str, str] = {}
        self._unit_lists: dict[str, UnitList] = {}

    @cached_property
    def validation(self) -> list[ValidationResult]:
        """The result of validation for each source; none before it is done."""
        try:
            return read_validation(self.run.layout, self.run.home.store)
        except KeyError:
            return []

    @cached_property
    def collected(self) -> list[str]:
        """The models whose results are there, in the order of the job."""
        return self.run.collected_models() if self.run.home.holds(self.run.id) else []

    @cached_property
    def manifests(self) -> Mapping[str, Manifest]:
        """The manifest of each collected model."""
        store, layout = self.run.home.store, self.run.layout
        return {name: Manifest.read(layout, name, store) for name in self.collected}

    def query(self, select: str) -> list[dict[str, Any]]:
        """Return the rows of a query with a small result, with exact Python values."""
        return to_python_rows(self.warehouse.query(select))

    def results(self, model: str) -> str:
        """Return the SQL table of the results of a collected model."""
        layout = self.run.layout
        return self._listed(layout.results(model), layout.collected(model))

    def published(self, release: Release, name: str) -> str:
        """Return a query of the rows of a published table: of its Parquet file, if it has one.

        Raises: DamagedFile if the file is missing or not as it was published.
        """
        found = [key for key in release.files if PurePosixPath(key).stem == name]
        key = min(found, key=lambda key: (not key.endswith(".parquet"), key))
        path = fetch_published(self.run.home, release, key)
        return f"SELECT * FROM {READERS[path.suffix]}('{escape_path(path)}')"

    @cached_property
    def unit_columns(self) -> set[str]:
        """The columns of the units of all models."""
        return {column for manifest in self.manifests.values() for column in manifest.unit}

    def rejects(self, source: ValidationResult) -> str | None:
        """Return the SQL table of the rows of a source that were not accepted, if there are any."""
        key = self.run.layout.rejects(source.source)
        wanted = source.checksums.get(key)
        return self.parquet(key, wanted) if wanted else None

    @cached_property
    def units(self) -> str:
        """The name of a view of all units of the collected models, without their keys.

        Its columns are those of a unit status, the model's name and position, the number of the
        unit in the model, and the number of its batch.
        """
        firsts = [
            (position, batch.first, batch.number)
            for position, name in enumerate(self.collected)
            for batch in self.manifests[name].batches
        ]
        columns = np.array(firsts, np.int64).reshape(-1, 3).T
        names = ("position", "first", "batch")
        table = pa.table([*map(from_numpy, columns)], names=names)
        self.warehouse.register("batch_firsts", table)
        parts = [
            f"SELECT {sql_string(name)} AS model, {position} AS position, {ROW} AS unit, "
            f"{', '.join(UNIT_COLUMNS)} FROM {self._accounts(name)}"
            for position, name in enumerate(self.collected)
        ]
        empty = ", ".join(
            f"NULL AS {name}" for name in ("model", "position", "unit", *UNIT_COLUMNS)
        )
        self.warehouse.create_view(
            "report_units", " UNION ALL ".join(parts) or f"SELECT {empty} WHERE FALSE"
        )
        return "report_units"

    def unit_keys(self, model: str, units: Sequence[int]) -> list[str]:
        """Return the keys of some units, by their numbers, as commands take them."""
        if model not in self._unit_lists:
            layout, store = self.run.layout, self.run.home.store
            self._unit_lists[model] = UnitList.read(layout, model, store)
        return [key_text(self._unit_lists[model].key(unit)) for unit in units]

    def _accounts(self, model: str) -> str:
        layout = self.run.layout
        table = self._listed(layout.accounts(model), layout.collected(model))
        return table.removesuffix(")") + ", file_row_number = true)"

    def _listed(self, key: str, lister: str) -> str:
        return self.parquet(key, get_json(self.run.home.store, lister)["checksums"].get(key, ""))

    def parquet(self, key: str, wanted: str) -> str:
        """Return the SQL table of a Parquet object with a recorded checksum.

        Raises: DamagedFile if it is missing or not as it was written.
        """
        if key not in self._verified:
            path = self.run.home.fetch(key)
            try:
                with pa.memory_map(str(path)) as file:
                    found = f"{checksum(key, file.read_buffer()):08x}"
            except FileNotFoundError:
                raise missing_error(self.run.home.store, key) from None
            if wanted and found != wanted:
                problem = "does not have the checksum with which it was written"
                raise damage_error(self.run.home.store, key, problem)
            self._verified[key] = f"read_parquet('{escape_path(path)}')"
        return self._verified[key]
