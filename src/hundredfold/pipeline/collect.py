"""Step 5. Merges the outcomes into one sorted result and one status for every unit.

The totals must match: units planned = ok + failed + crashed, by key. The type of each column is
decided over all units, and a unit whose columns differ from those of the others has failed.
Outcomes are read a few megabytes at a time, so that memory does not grow with the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..contract import Contract
from ..data.checksums import checksum_of, get_json, get_listed, put_json, require, unseal
from ..data.layout import Layout
from ..data.manifest import Manifest, UnitList
from ..data.messages import PILOT_ATTEMPT, Message
from ..data.numpy_columns import UNIT, from_numpy, to_numpy, to_python_rows
from ..data.outcomes import (
    STATUS_SCHEMA,
    Executions,
    UnitStatus,
    status_table,
    unpack_results,
    unpack_statuses,
)
from ..data.parquet import MAX_ROW_GROUP_BYTES, ROW_GROUP_ROWS, ParquetWriter
from ..data.parquet_in_memory import read_row_group
from ..data.result_contract import result_contract
from ..errors import ConservationError
from ..job import Model
from ..ports.interfaces import RunStore, Store, Warehouse
from ..ports.run_facts import ModelCounts
from .result_columns import ResultColumns, choose_columns, contract_violations, convert_table

COPIES_OF_STATUSES = 3  # of the statuses of a slice, in memory while they are collected
MAX_COMPARED_UNITS = 2**20  # units whose outcomes are compared at a time
# facts of a model beside those that earlier versions of this package read
BESIDE = ("longest", "pilot_units", "pilot_seconds")
STATUS_RANK = {"ok": 3, "failed": 2, "crashed": 1}


@dataclass(frozen=True, slots=True)
class Collected:
    """The totals of a model's units."""

    model: str
    attempt: int
    units: int
    ok: int
    failed: int
    crashed: int
    rows_in: int
    rows_out: int
    seconds: float
    # seconds of the longest unit that the run executed; None in older runs
    longest: float | None = None
    # units that the run took from the pilot of its plan; their seconds, which `seconds` includes
    pilot_units: int = 0
    pilot_seconds: float = 0.0

    @property
    def bad(self) -> int:
        return self.failed + self.crashed

    @property
    def counts(self) -> ModelCounts:
        """The counts of the model, as the run's record holds them."""
        counts = ModelCounts(
            attempt=self.attempt,
            units=self.units,
            ok=self.ok,
            failed=self.failed,
            crashed=self.crashed,
            rows_in=self.rows_in,
            rows_out=self.rows_out,
            seconds=self.seconds,
        )
        if self.longest is not None:
            counts["longest"] = self.longest
        if self.pilot_units:
            counts["pilot_units"], counts["pilot_seconds"] = self.pilot_units, self.pilot_seconds
        return counts

    @classmethod
    def of(cls, model: str, counts: ModelCounts) -> Collected | None:
        """Return the totals of a model from the run's record; None if it is not collected yet."""
        if "ok" not in counts:
            return None
        return cls(
            model,
            counts["attempt"],
            counts["units"],
            counts["ok"],
            counts["failed"],
            counts["crashed"],
            counts["rows_in"],
            counts["rows_out"],
            counts["seconds"],
            counts.get("longest"),
            counts.get("pilot_units", 0),
            counts.get("pilot_seconds", 0.0),
        )


def read_collected(layout: Layout, model: str, store: Store) -> Collected:
    """Return the totals that `collect` wrote. Raises: KeyError before it has."""
    facts = get_json(store, layout.collected(model))
    beside = {name: facts[name] for name in BESIDE if name in facts}
    return Collected(**facts["collected"], **beside)


def collect(
    model: Model,
    manifest: Manifest,
    layout: Layout,
    attempt: int,
    warehouse: Warehouse,
    store: RunStore,
) -> Collected:
    """Merge the outcomes of all attempts, or return the totals that exist.

    Raises: ConservationError if a unit or a row is missing.
    """
    with suppress(KeyError):
        return read_collected(layout, model.name, store)
    merge = _Merge.of(model, manifest, layout, warehouse, store)
    counts = _write_files(merge, model, layout, store)
    collected = Collected(
        model.name,
        attempt,
        manifest.units,
        counts["ok"],
        counts["failed"],
        counts["crashed"],
        counts["rows_in"],
        counts["rows_out"],
        counts["ms"] / 1000,
        counts["longest_us"] / 1e6,
        counts["pilot_units"],
        counts["pilot_ms"] / 1000,
    )
    _check_totals(collected, manifest)
    checksums = {
        key: checksum_of(store, key)
        for key in (layout.results(model.name), layout.accounts(model.name))
    }
    facts = asdict(collected)
    beside = {name: facts.pop(name) for name in BESIDE}
    put_json(
        store,
        layout.collected(model.name),
        {"collected": facts, "checksums": checksums, **beside},
    )
    return collected


def _write_files(merge: _Merge, model: Model, layout: Layout, store: RunStore) -> Counter[str]:
    """Write the results and the unit statuses of a model, range by range, and return the totals."""
    counts: Counter[str] = Counter()
    with (
        store.writing(layout.results(model.name)) as results,
        store.writing(layout.accounts(model.name)) as accounts,
    ):
        keys = merge.units.keys.schema
        files = _ModelFiles(results, accounts, merge.columns.schema(keys), keys)
        try:
            for first, last in _ranges(merge.outcomes, merge.chosen, merge.loads):
                table, account, not_ok = merge.tables(first, last)
                counts["ok"] += last + 1 - first - len(not_ok)
                counts.update(status.status for status in not_ok.values())
                _add_counts(counts, account, table)
                files.add(table, account)
        finally:
            files.close()
    return counts


def _list_outcomes(layout: Layout, model: str, store: Store) -> list[Message]:
    """Return every committed slice, in the order of their keys: by attempt, then by unit."""
    found = (layout.parse_outcome_key(key) for key in store.list(layout.outcomes(model) + "/"))
    return [message for message in found if message is not None]


def _read_part(outcome: Message, part: str, layout: Layout, store: Store) -> pa.Buffer:
    """Return the bytes of a part of an outcome, which must exist."""
    key = layout.outcome(outcome, part)
    return unseal(store, key, require(store, key))


def _choose_outcomes(
    outcomes: Sequence[Message], manifest: Manifest, layout: Layout, store: Store
) -> tuple[NDArray[np.int32], list[tuple[int, int]], list[dict[str, Any]]]:
    """Choose the outcome that counts for each unit: of its last attempt, the one with the best
    status.

    Returns its number by unit; the rows and bytes of each outcome; and the columns of the tables of
    the chosen ones. Raises: ConservationError if a unit has none.
    """
    chosen = np.full(manifest.units, -1, np.int32)
    score = np.zeros(manifest.units, np.int32)
    summaries: list[dict[str, Any]] = []
    loads: list[tuple[int, int]] = []
    for number, outcome in enumerate(outcomes):
        packed = _read_part(outcome, "status", layout, store)
        summary = unpack_statuses(packed)
        status = np.full(outcome.units, STATUS_RANK["ok"] + outcome.attempt * 4, np.int32)
        for account in summary.not_ok:
            status[account.unit - outcome.first] = STATUS_RANK[account.status] + outcome.attempt * 4
        span = slice(outcome.first, outcome.last + 1)
        better = status > score[span]
        chosen[span][better] = number
        score[span][better] = status[better]
        size = (
            sum(table.get("bytes", 0) for table in summary.tables)
            + COPIES_OF_STATUSES * packed.size
        )
        loads.append((max(int(summary.rows_out.sum()), outcome.units), size))
        summaries += [
            {**table, "outcome": number, "table": position}
            for position, table in enumerate(summary.tables)
        ]
    missing = np.flatnonzero(chosen < 0)
    if len(missing):
        raise ConservationError(
            f"{manifest.model}: {len(missing):,} of {manifest.units:,} units have no outcome, the "
            f"first is unit {missing[0]}",
            hint=f"hundredfold resume {layout.run}",
        )
    counting = set(_distinct(chosen))
    return chosen, loads, [s for s in summaries if s["outcome"] in counting]


def _ranges(
    outcomes: Sequence[Message], chosen: NDArray[np.int32], loads: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Yield the ranges (first, last) of units that are collected together.

    They consist of whole outcomes and have about the rows of a row group. loads: rows and bytes of
    each outcome.
    """
    last, first, rows, size = len(chosen) - 1, 0, 0, 0
    counting = sorted(
        ((outcomes[number], loads[number]) for number in _distinct(chosen)),
        key=lambda each: each[0].first,
    )
    reached = -1
    for outcome, load in counting:
        # no outcome is in two ranges
        if outcome.first > reached and (rows >= ROW_GROUP_ROWS or size >= MAX_ROW_GROUP_BYTES):
            yield first, outcome.first - 1
            first, rows, size = outcome.first, 0, 0
        reached = max(reached, outcome.last)
        rows, size = rows + load[0], size + load[1]
    if counting:
        yield first, last


@dataclass(frozen=True, slots=True)
class _Merge:
    """The outcomes of a model, and the choices that were made over all of them."""

    outcomes: Sequence[Message]
    chosen: NDArray[np.int32]  # the number of the outcome that counts, by unit
    loads: Sequence[tuple[int, int]]  # rows and bytes of each outcome
    columns: ResultColumns
    refused: Mapping[tuple[int, int], str]  # the reason, by outcome and table
    contract: Contract | None
    units: UnitList
    layout: Layout
    warehouse: Warehouse
    store: Store

    @classmethod
    def of(
        cls,
        model: Model,
        manifest: Manifest,
        layout: Layout,
        warehouse: Warehouse,
        store: Store,
    ) -> _Merge:
        """Read the statuses of every outcome, and choose outcomes and columns."""
        units = UnitList.read(layout, model.name, store)
        contract = result_contract(model)
        outcomes = _list_outcomes(layout, model.name, store)
        chosen, loads, summaries = _choose_outcomes(outcomes, manifest, layout, store)
        columns, refused = choose_columns(summaries, contract, units.keys.column_names)
        return cls(
            outcomes, chosen, loads, columns, refused, contract, units, layout, warehouse, store
        )

    def tables(self, first: int, last: int) -> tuple[pa.Table, pa.Table, dict[int, UnitStatus]]:
        """Return the results and statuses of units first..last, and the statuses that are not ok.

        Both tables have the keys as their first columns, and are sorted.
        """
        span = self.chosen[first : last + 1]
        executions = Executions(len(span))
        rows_out = np.zeros(len(span), np.int64)
        not_ok: dict[int, UnitStatus] = {}
        late: dict[int, str] = {}
        tables: list[pa.Table] = []
        for number in _distinct(span):
            outcome = self.outcomes[number]
            summary = unpack_statuses(_read_part(outcome, "status", self.layout, self.store))
            own = slice(outcome.first - first, outcome.last + 1 - first)
            counts = span[own] == number
            executions.take(own, counts, summary, outcome.attempt)
            rows_out[own][counts] = summary.rows_out[counts]
            not_ok.update(
                (status.unit, status)
                for status in summary.not_ok
                if counts[status.unit - outcome.first]
            )
            if summary.rows_out.any():
                tables += self._converted(number, counts, late)
        table = self._joined(tables, late)
        if late:
            rows_out[np.array(list(late)) - first] = 0
            not_ok.update(
                (unit, UnitStatus(unit, "failed", "ResultError", why)) for unit, why in late.items()
            )
        rows_in = self.units.sizes(first, last).astype(np.int64)
        account = status_table(first, rows_in, rows_out, executions, not_ok)
        return (
            _with_keys(table, UNIT, self.units),
            _with_keys(account, "unit", self.units),
            not_ok,
        )

    def _converted(
        self, number: int, counts: NDArray[np.bool_], late: dict[int, str]
    ) -> Iterator[pa.Table]:
        """Yield the result tables of an outcome: the units that count, in the chosen columns."""
        outcome = self.outcomes[number]
        packed = unpack_results(_read_part(outcome, "results", self.layout, self.store))
        for position, table in enumerate(packed):
            if not counts.all():
                table = table.filter(
                    _mask(counts[to_numpy(table.column(UNIT), False) - outcome.first])
                )
            why = self.refused.get((number, position))
            if why:
                late.update(dict.fromkeys(to_numpy(table.column(UNIT), False).tolist(), why))
            elif table.num_rows:
                yield convert_table(table, self.columns, late)

    def _joined(self, tables: Sequence[pa.Table], late: dict[int, str]) -> pa.Table:
        """Return the rows of all tables by unit, without the units in `late`.

        Units that violate the contract are added to `late` first.
        """
        if tables:
            table = _sorted_by_unit(pa.concat_tables(tables))
        else:  # only here: an empty table imports pandas
            table = self.columns.schema(pa.schema([(UNIT, pa.int64())])).empty_table()
        if self.contract is not None:
            late.update(contract_violations(table, self.contract, self.warehouse))
        if late:
            table = table.filter(_mask(~np.isin(to_numpy(table.column(UNIT), False), list(late))))
        return table


def _distinct(numbers: NDArray[np.int32]) -> list[int]:
    """Return each number once, in order (np.unique would import numpy.ma)."""
    lowest, highest = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    found = np.zeros(highest - lowest + 1, bool)
    for start in range(0, len(numbers), MAX_COMPARED_UNITS):
        found[numbers[start : start + MAX_COMPARED_UNITS] - lowest] = True
    return [int(n) + lowest for n in np.flatnonzero(found)]


def _sorted_by_unit(table: pa.Table) -> pa.Table:
    """Sort by unit; the rows of a unit keep their order."""
    unit = to_numpy(table.column(UNIT), False)
    return (
        table
        if (unit[1:] >= unit[:-1]).all()
        else table.take(from_numpy(np.argsort(unit, kind="stable")))
    )


def _mask(keep: NDArray[np.bool_]) -> pa.Array:
    """Return a mask as an Arrow array (pa.array would import pandas)."""
    return pa.Array.from_buffers(
        pa.bool_(), len(keep), [None, pa.py_buffer(np.packbits(keep, bitorder="little"))]
    )


def _with_keys(table: pa.Table, column: str, units: UnitList) -> pa.Table:
    """Replace the numbers of units by their keys, as the first columns."""
    number = to_numpy(table.column(column), False)
    first = int(number[0]) if len(number) else 0
    if not units.keys.num_columns:
        keys = None
    elif np.array_equal(number, np.arange(first, first + len(number))):
        keys = units.keys.slice(first, len(number))
    else:
        near = units.keys.slice(
            first, int(number[-1]) - first + 1
        ).combine_chunks()  # a copy of the keys of this range only
        keys = near.take(from_numpy(number - first))
    rest = table.drop_columns([column])
    arrays = [*(keys.columns if keys is not None else []), *rest.columns]
    return pa.Table.from_arrays(arrays, names=[*units.keys.column_names, *rest.column_names])


class _ModelFiles:
    """The two files of a collected model, in row groups whose size does not depend on the
    batches.
    """

    def __init__(
        self, results: object, accounts: object, result_schema: pa.Schema, keys: pa.Schema
    ) -> None:
        self.results = ParquetWriter(results, result_schema)
        self.accounts = ParquetWriter(
            accounts, pa.schema([*keys, *(f for f in STATUS_SCHEMA if f.name != "unit")])
        )

    def add(self, table: pa.Table, account: pa.Table) -> None:
        self.results.add(table)
        self.accounts.add(account)

    def close(self) -> None:
        self.results.close()
        self.accounts.close()


def _add_counts(counts: Counter[str], account: pa.Table, table: pa.Table) -> None:
    counts["rows_in"] += int(to_numpy(account.column("rows_in"), False).sum())
    seconds = to_numpy(account.column("seconds"), False)
    counts["ms"] += round(1000 * float(seconds.sum()))
    taken = to_numpy(account.column("attempt"), False) == PILOT_ATTEMPT
    counts["pilot_units"] += int(taken.sum())
    counts["pilot_ms"] += round(1000 * float(seconds[taken].sum()))
    longest = round(1e6 * float(seconds[~taken].max(initial=0.0)))
    counts["longest_us"] = max(counts["longest_us"], longest)
    promised = int(to_numpy(account.column("rows_out"), False).sum())
    if promised != table.num_rows:
        raise ConservationError(
            f"the statuses of a batch count {promised:,} result rows, but it has {table.num_rows:,}"
        )
    counts["rows_out"] += table.num_rows


def _check_totals(collected: Collected, manifest: Manifest) -> None:
    if collected.ok + collected.bad != manifest.units or collected.rows_in != manifest.rows:
        raise ConservationError(
            f"{manifest.model}: {manifest.units:,} units and {manifest.rows:,} rows were planned, "
            f"but {collected.ok + collected.bad:,} units and {collected.rows_in:,} rows were "
            "collected"
        )


def failures(layout: Layout, model: str, store: Store) -> Iterator[dict[str, Any]]:
    """Yield the units that failed or crashed, with their keys and reasons."""
    file = pq.ParquetFile(
        pa.BufferReader(get_listed(store, layout.accounts(model), layout.collected(model)))
    )
    for group in range(file.num_row_groups):
        for row in to_python_rows(read_row_group(file, group)):
            if row["status"] != "ok":
                yield row
