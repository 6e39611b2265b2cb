"""Where a child does its work: a batch opened, the user's function called unit by unit or once for many."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .arrays import UNIT, numpy_of, value_of
from .batch import OpenBatch, form_of
from .crew import IDLE, MANY, Kit
from .given import Given
from .job import Message, Model
from .manifest import Manifest, UnitList, open_batch
from .outcome import Account, account_of, pack_accounts, pack_results
from .results import Gather, WrongShape
from .returns import returned_by

CHUNK = 2_000_000_000  # nanoseconds of work after which results are handed over, so that a death costs no more than that
LOOK = 20_000_000  # nanoseconds of work after which it is looked whether the rest of a slice was given to another

Say = Callable[[tuple[Any, ...]], None]


class Desk:
    """Everything that one child keeps between messages; `say` tells the driver."""

    def __init__(self, kit: Kit, marks: Any, say: Say) -> None:
        pa.set_cpu_count(1)
        self.kit, self.marks, self.say = kit, marks, say
        self._tables: dict[str, Table] = {}

    def do(self, message: Message) -> None:
        """Units first..last of one batch."""
        table = self._tables.get(message.model)
        if table is None:
            table = self._tables[message.model] = Table(self.kit, self.kit.model(message.model))
        whole = table.open(message.batch)
        doing = _do_many if table.model.many else _do_each
        doing(table, whole, message, self.marks, self.say)
        if message.last == whole.first + len(whole.sizes) - 1:
            table.close()  # no more of this batch is likely to be asked for
        self.marks[0] = IDLE


class Table:
    """One model, set out for work: its manifest, its form, its parameters, the batch last opened."""

    def __init__(self, kit: Kit, model: Model) -> None:
        self.kit, self.model = kit, model
        self.form = form_of(model)
        self.manifest = Manifest.read(kit.layout, model.name, kit.store)
        self.units = UnitList.read(kit.layout, model.name, kit.store)
        self.givens = [Given(name, model, kit.job.model(name), kit.layout, kit.store) for name in model.given or ()]
        self.returned = returned_by(model)
        self._open: tuple[int, OpenBatch] | None = None

    def open(self, number: int, again: bool = False) -> OpenBatch:
        if self._open is None or self._open[0] != number or again:
            self._open = None  # one batch in memory, not two
            self._open = number, open_batch(self.manifest, self.units, self.manifest.batches[number], self.kit.layout, self.kit.store)
        return self._open[1]

    def close(self) -> None:
        self._open = None

    def gather(self, batch: OpenBatch) -> Gather:
        keys = {name: _key_reader(batch, name) for name in batch.keys.column_names}
        return Gather(self.returned, keys)


def _key_reader(batch: OpenBatch, name: str) -> Callable[[int], Any]:
    column, first = batch.keys.column(name), batch.first
    return lambda unit: value_of(column[unit - first])


def raise_fatal(error: BaseException) -> None:
    """Raise what ends a process; a panic of a library in Rust is no Exception in Python, and yet a failure of the unit alone."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _do_each(table: Table, batch: OpenBatch, message: Message, marks: Any, say: Say) -> None:
    """One call for each unit; a chunk is handed over whenever it has taken long enough."""
    clock = time.monotonic_ns
    given = [(g.name, g.for_units(batch.keys)) for g in table.givens]
    first = message.first
    while first <= min(message.last, marks[2]):
        gather, bad = table.gather(batch), []
        add = gather.adder()
        work, units = batch.calls(table.form, first - batch.first, message.last - batch.first, table.model.work)
        now = clock()
        stamps, end, look = [now], now + CHUNK, now + LOOK
        for unit, rows in zip(range(first, message.last + 1), units, strict=True):
            marks[1] = now
            marks[0] = unit
            try:
                if given:
                    add(unit, work(rows, **{name: get(unit - batch.first) for name, get in given}))
                else:
                    add(unit, work(rows))
            except BaseException as error:  # noqa: BLE001  # the one place where a unit's failure becomes a value
                raise_fatal(error)
                bad.append(account_of(unit, error))
            now = clock()
            stamps.append(now)
            if now > look:
                if now > end or unit >= marks[2]:
                    break
                look = now + LOOK
        marks[0] = MANY  # should the results themselves kill this process, no single unit is to blame
        _hand_over(gather, bad, np.diff(stamps) / 1e9, message.part(first, unit), say)
        first = unit + 1
    say(("finished", first - 1))


def _do_many(table: Table, batch: OpenBatch, message: Message, marks: Any, say: Say) -> None:
    """One call for all units of the slice. Where it raises, the slice is tried in halves; a unit alone is a failure."""
    marks[1] = time.monotonic_ns()
    marks[0] = message.first if message.units == 1 else MANY
    own = message.first - batch.first
    keys = batch.keys.slice(own, message.units)
    began = time.perf_counter()
    gather, bad = table.gather(batch), []
    try:
        value = table.model.work(batch.units(table.form, own, own + message.units - 1), **{g.name: g.for_many(keys) for g in table.givens})
        gather.add_many(message.first, message.units, value)
    except BaseException as error:  # noqa: BLE001  # a failure of many is found by halves, of one is a value
        raise_fatal(error)
        table.open(message.batch, again=True)  # the function may have written to the columns before it raised
        if message.units > 1 and not isinstance(error, WrongShape):
            say(("split", message.first))
            return
        gather, bad = table.gather(batch), [account_of(unit, error) for unit in range(message.first, message.last + 1)]
    seconds = np.full(message.units, (time.perf_counter() - began) / message.units)
    _hand_over(gather, bad, seconds, message, say)
    say(("finished", message.last))


def _hand_over(gather: Gather, bad: list[Account], seconds: NDArray[np.float64], message: Message, say: Say) -> None:
    tables, unfit = gather.finish()
    rows_out = np.zeros(message.units, np.int64)
    for rows in tables:
        rows_out += np.bincount(numpy_of(rows.column(UNIT), False) - message.first, minlength=message.units)
    accounts = pack_accounts(message, seconds, rows_out, [*bad, *unfit], tables)
    say(("chunk", message.first, message.last, pack_results(tables), accounts))
