"""Where a child does its work: a batch opened, the user's function called unit by unit or once for many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..data.arrays import UNIT, numpy_of, value_of
from ..data.batch import OpenBatch, form_of
from ..data.manifest import Manifest, UnitList, bytes_of_units, open_batch
from ..data.outcomes import UnitStatus, failed_unit, pack_accounts, pack_results
from ..data.result_contract import returned_by
from ..data.results import ResultBuilder, WrongShape
from ..data.upstream import UpstreamResults
from ..errors import WorkerError
from ..job import Batch, Message, Model
from .memory import (
    RAISE,
    Exhausted,
    Gauge,
    forget_frames,
    is_of_files,
    ran_out_of_memory,
    release,
    size_text,
)
from .protocol import ALL_UNITS, NO_UNIT, WorkerContext

CHUNK_NS = 2_000_000_000  # nanoseconds of work after which results are handed over, so that a death costs no more than that
CHUNK_BYTES = (
    16 * 2**20
)  # bytes of results after which they are handed over, so that memory does not grow with the results
STOP_CHECK_NS = 20_000_000  # nanoseconds of work after which it is looked whether the rest of a slice was given to another
FIRST_STRETCH, SHORT_STRETCH, LONGEST_STRETCH = (
    8,
    256,
    2048,
)  # units after which the size of their results is estimated

NO_LIMIT = 2**62
COPIES = {
    "light": 2,
    "dict": 2,
    "arrow": 2.5,
    "polars": 3.5,
    "pandas": 3.5,
}  # of a unit's rows, while they are handed over
FORMS = {
    "light": "arrays",
    "dict": "arrays",
    "arrow": "an Arrow table",
    "polars": "a polars frame",
    "pandas": "a pandas frame",
}
ORDER_BYTES = 40  # a row takes while it is sorted

Say = Callable[[tuple[Any, ...]], None]


class UnitRunner:
    """Everything that one child keeps between messages; `say` tells the driver. `memory` is the child's share, in bytes."""

    def __init__(
        self, context: WorkerContext, marks: Any, say: Say, memory: int | None = None
    ) -> None:
        pa.set_cpu_count(1)
        if (
            memory is not None
        ):  # Arrow's own allocator reserves a gigabyte, which would count as used
            pa.set_memory_pool(pa.system_memory_pool())
        self.context, self.marks, self.say = context, marks, say
        self.gauge = Gauge(memory)
        self.begun = 0  # units, since this process started
        self._tables: dict[str, ModelRunner] = {}

    def do(self, message: Message, narrow: bool = False, final: bool = False) -> None:
        """Do units first..last of one batch, or as many of them as this process should.

        narrow: read no other unit of the batch. final: a unit that meets MemoryError has failed, and is not tried again.

        Raises: Exhausted, where a fresh process should go on.
        """
        table = self._table(message.model)
        whole = self._open(table, message, narrow)
        doing = _do_many if table.model.batched else _do_each
        last = doing(self, table, whole, message, final)
        if message.last == whole.first + len(whole.sizes) - 1:
            table.close()  # no more of this batch is likely to be asked for
        self.marks[0] = NO_UNIT
        if last is not None:
            why = (
                "max_units_per_worker"
                if table.is_used_up()
                else "its memory grew"
                if self.gauge.is_worn()
                else ""
            )
            self.say(("finished", last, why))  # why a fresh process should go on

    def is_fresh(self) -> bool:
        return self.begun == 0

    def _table(self, name: str) -> ModelRunner:
        table = self._tables.get(name)
        if table is None:
            try:
                table = self._tables[name] = ModelRunner(self.context, self.context.model(name))
            except Exception as error:
                if not ran_out_of_memory(error):
                    raise
                if not self.is_fresh():
                    raise Exhausted(
                        f"ran out of memory while it began with {name}: {error}"
                    ) from error
                needs = "its list of units" + "".join(
                    f", the results of {earlier}"
                    for earlier in self.context.model(name).inputs or ()
                )
                raise WorkerError(
                    f"{name} does not fit into a worker's share of memory of {size_text(self.gauge.share or 0)}: {needs}",
                    hint=f"{RAISE}; then resume the run",
                ) from error
        return table

    def _open(self, table: ModelRunner, message: Message, narrow: bool) -> OpenBatch:
        if not table.has_open(message, narrow):
            table.close()  # one batch in memory, not two
            self.gauge.make_room()
        for again in (True, False):
            try:
                return table.open(message, narrow)
            except Exception as error:
                if not ran_out_of_memory(error):
                    raise
                forget_frames(error)
                if not again:
                    raise Exhausted(self.too_large(table, message)) from None
            release()  # what earlier batches left may be free, and in pieces
        raise AssertionError("the second try returns or raises")

    def too_large(self, table: ModelRunner, message: Message) -> str:
        """Return why units cannot be handed to the function."""
        share = size_text(self.gauge.share) if self.gauge.share else "limited"
        rows = int(table.units.sizes(message.first, message.last).sum())
        need = table.need(message)
        what = (
            f"its {rows:,} rows need"
            if message.units == 1
            else f"{rows:,} rows of {message.units:,} units need"
        )
        return f"{what} about {size_text(need)} of memory as {FORMS[table.form]}, and a worker's share is {share}: {RAISE}"


class ModelRunner:
    """One model, set out for work: its manifest, its form, its parameters, the batch last opened."""

    def __init__(self, context: WorkerContext, model: Model) -> None:
        self.context, self.model = context, model
        self.form = form_of(model)
        self.manifest = Manifest.read(context.layout, model.name, context.store)
        self.units = UnitList.read(context.layout, model.name, context.store)
        self.givens = [
            UpstreamResults(name, model, context.job.model(name), context.layout, context.store)
            for name in model.inputs or ()
        ]
        self.returned = returned_by(model)
        self.done = 0  # units, in this process
        self._open: tuple[tuple[int, int, int], OpenBatch] | None = None

    def open(self, message: Message, narrow: bool) -> OpenBatch:
        """Return the batch of a message in memory, or (`narrow`) no more of it than the units that are asked for."""
        if self._open is None or not self.has_open(message, narrow):
            self._open = None  # one batch in memory, not two
            batch = self._wanted(message, narrow)
            opened = open_batch(
                self.manifest, self.units, batch, self.context.layout, self.context.store
            )
            self._open = (batch.number, batch.first, batch.last), opened
        return self._open[1]

    def has_open(self, message: Message, narrow: bool) -> bool:
        """Return whether what `open` returns is in memory already."""
        batch = self._wanted(message, narrow)
        return self._open is not None and self._open[0] == (batch.number, batch.first, batch.last)

    def _wanted(self, message: Message, narrow: bool) -> Batch:
        batch = self.manifest.batches[message.batch]
        return replace(batch, first=message.first, last=message.last) if narrow else batch

    def left(self) -> int:
        """Return how many units this process may still do."""
        most = self.model.max_units_per_worker
        return NO_LIMIT if most is None else max(most - self.done, 1)

    def is_used_up(self) -> bool:
        most = self.model.max_units_per_worker
        return most is not None and self.done >= most

    def need(self, message: Message) -> int:
        """Return about how many bytes it takes to hand the units of a message to the function."""
        batch = self.manifest.batches[message.batch]
        rows = int(self.units.sizes(message.first, message.last).sum())
        size = bytes_of_units(
            self.manifest,
            batch,
            message.first,
            message.last,
            self.context.layout,
            self.context.store,
        )
        return int(COPIES[self.form] * size) + ORDER_BYTES * rows

    def close(self) -> None:
        self._open = None

    def gather(self, batch: OpenBatch) -> ResultBuilder:
        keys = {name: _key_reader(batch, name) for name in batch.keys.column_names}
        return ResultBuilder(self.returned, keys)


def _key_reader(batch: OpenBatch, name: str) -> Callable[[int], Any]:
    column, first = batch.keys.column(name), batch.first
    return lambda unit: value_of(column[unit - first])


def raise_fatal(error: BaseException) -> None:
    """Raise what ends a process; a panic of a library in Rust is no Exception in Python, and yet a failure of the unit alone."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _do_each(
    runner: UnitRunner, table: ModelRunner, batch: OpenBatch, message: Message, final: bool
) -> int:
    """Call the function for each unit; a chunk is handed over whenever it is long or large enough. Return the last unit that is done."""
    clock, marks = time.monotonic_ns, runner.marks
    given = [(g.name, g.for_units(batch.keys)) for g in table.givens]
    first = message.first
    end_of_all = min(message.last, first + table.left() - 1)
    while first <= min(end_of_all, marks[2]):
        gather, bad = table.gather(batch), BadUnits()
        add = gather.adder()
        work, units = _calls(runner, table, batch, message, first, end_of_all)
        now = clock()
        stamps, end, look = [now], now + CHUNK_NS, now + STOP_CHECK_NS
        unit, room, out_of_memory = first - 1, 1 if runner.is_fresh() else FIRST_STRETCH, ""
        while unit < end_of_all and room:
            stretch = range(unit + 1, min(unit + room, end_of_all) + 1)
            for unit, rows in zip(stretch, units, strict=False):
                marks[1] = now
                marks[0] = unit
                try:
                    if given:
                        add(
                            unit,
                            work(rows, **{name: get(unit - batch.first) for name, get in given}),
                        )
                    else:
                        add(unit, work(rows))
                except BaseException as error:  # noqa: BLE001  # the one place where a unit's failure becomes a value
                    raise_fatal(error)
                    account = failed_unit(unit, error)
                    if ran_out_of_memory(error):
                        out_of_memory = _fault_of(runner, batch, account, error, final)
                        if out_of_memory:
                            break
                    bad.append(account)
                now = clock()
                stamps.append(now)
                if now > look:
                    if now > end or unit >= marks[2] or runner.gauge.is_high():
                        room = 0
                        break
                    look = now + STOP_CHECK_NS
            else:
                room = _room(
                    room,
                    gather.weigh() + bad.size,
                    unit + 1 - first,
                    LONGEST_STRETCH if gather.only_numbers else SHORT_STRETCH,
                )
                runner.gauge.begun()
                continue
            break
        if batch.columns.exhausted:
            raise Exhausted(runner.too_large(table, message))
        runner.gauge.begun()
        done = unit - 1 if out_of_memory else unit
        runner.begun += unit + 1 - first
        table.done += done + 1 - first
        marks[0] = (
            ALL_UNITS  # should the results themselves kill this process, no single unit is to blame
        )
        if done >= first:
            _hand_over(
                runner, gather, bad.accounts, np.diff(stamps) / 1e9, message.part(first, done)
            )
        if out_of_memory:
            raise Exhausted(out_of_memory, unit)
        first = unit + 1
        if runner.gauge.is_worn():
            break
    return first - 1


def _calls(
    runner: UnitRunner,
    table: ModelRunner,
    batch: OpenBatch,
    message: Message,
    first: int,
    last: int,
) -> tuple[Callable[..., Any], Iterator[Any]]:
    """Return what to call for each unit, and what to call it with."""
    try:
        return batch.calls(table.form, first - batch.first, last - batch.first, table.model.work)
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        raise Exhausted(runner.too_large(table, message)) from None


def _fault_of(
    runner: UnitRunner, batch: OpenBatch, account: UnitStatus, error: BaseException, final: bool
) -> str:
    """Return why a unit that ran out of memory is to be tried again alone in a fresh process; "" if it has failed, as its account then says.

    It is no proof against a unit that memory ran out after others were done in this process, or while it holds others' rows.
    """
    forget_frames(error)
    of_files, limited, alone = (
        is_of_files(error),
        runner.gauge.share is not None,
        runner.is_fresh() and len(batch.sizes) == 1,
    )
    fault = f"{account.error}: {account.message}"
    if batch.columns.exhausted:
        return fault
    if limited and not alone and not final and (of_files or runner.gauge.has_grown()):
        return fault
    if limited and not of_files:
        account.message = f"{account.message} ({runner.gauge.words(alone)})".lstrip()
    return ""


def _room(last: int, size: int, units: int, longest: int) -> int:
    """Return after how many more units to look at the size of the results; 0 if they are to be handed over now."""
    if size >= CHUNK_BYTES:
        return 0
    return max(1, min(4 * last, longest, (CHUNK_BYTES - size) * units // max(size, 1)))


class BadUnits:
    """The accounts of units that failed, and about how many bytes they take."""

    def __init__(self) -> None:
        self.accounts: list[UnitStatus] = []
        self.size = 0

    def append(self, account: UnitStatus) -> None:
        self.accounts.append(account)
        self.size += len(account.message) + len(account.traceback)


def _do_many(
    runner: UnitRunner, table: ModelRunner, batch: OpenBatch, message: Message, final: bool
) -> int | None:
    """Call the function once for all units of the slice. Where it raises, the slice is tried in halves; a unit alone is a failure.

    Return the last unit that is done, None if the slice is split.
    """
    marks = runner.marks
    if message.units > table.left():
        message = message.part(message.first, message.first + table.left() - 1)
    marks[1] = time.monotonic_ns()
    marks[0] = message.first if message.units == 1 else ALL_UNITS
    own = message.first - batch.first
    keys = batch.keys.slice(own, message.units)
    began = time.perf_counter()
    gather, bad = table.gather(batch), []
    try:
        value = table.model.work(
            batch.units(table.form, own, own + message.units - 1),
            **{g.name: g.for_many(keys) for g in table.givens},
        )
        gather.add_many(message.first, message.units, value)
    except BaseException as error:  # noqa: BLE001  # a failure of many is found by halves, of one is a value
        raise_fatal(error)
        account = failed_unit(message.first, error)
        if ran_out_of_memory(error) and (message.units == 1 or not runner.is_fresh()):
            fault = _fault_of(runner, batch, account, error, final)
            if batch.columns.exhausted:
                raise Exhausted(runner.too_large(table, message)) from None
            if fault:
                raise Exhausted(fault, message.first if message.units == 1 else None) from None
        runner.begun += message.units
        table.close()  # the function may have written to the columns before it raised
        if message.units > 1 and not isinstance(error, WrongShape):
            runner.say(("split", message.first))
            return None
        gather, bad = (
            table.gather(batch),
            [
                account,
                *(failed_unit(unit, error) for unit in range(message.first + 1, message.last + 1)),
            ],
        )
    else:
        runner.begun += message.units
    table.done += message.units
    seconds = np.full(message.units, (time.perf_counter() - began) / message.units)
    if batch.columns.exhausted:
        raise Exhausted(runner.too_large(table, message))
    _hand_over(runner, gather, bad, seconds, message)
    return message.last


def _hand_over(
    runner: UnitRunner,
    gather: ResultBuilder,
    bad: list[UnitStatus],
    seconds: NDArray[np.float64],
    message: Message,
) -> None:
    tables, unfit = gather.finish()
    rows_out = np.zeros(message.units, np.int64)
    for rows in tables:
        rows_out += np.bincount(
            numpy_of(rows.column(UNIT), False) - message.first, minlength=message.units
        )
    accounts = pack_accounts(message, seconds, rows_out, [*bad, *unfit], tables)
    runner.say(("chunk", message.first, message.last, pack_results(tables), accounts))
