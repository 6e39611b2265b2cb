"""Execution of units in a worker process: opens a batch and calls the user's function, once for
each unit or once for many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..data.batch import OpenBatch, row_form
from ..data.manifest import Manifest, open_batch, stored_bytes
from ..data.messages import Batch, Message
from ..data.numpy_columns import UNIT, to_numpy, to_python
from ..data.outcomes import Stretch, UnitStatus, failed_unit, pack_results, pack_statuses
from ..data.result_contract import return_type
from ..data.results import ResultBuilder, UnusableBatchResult
from ..data.unit_slices import open_units
from ..data.upstream import UpstreamResults
from ..errors import WorkerError
from ..job import Model
from .memory import (
    MEMORY_HINT,
    MemoryGauge,
    ResourcesExhausted,
    forget_frames,
    ran_out_of_files,
    ran_out_of_memory,
    release,
    size_text,
)
from .protocol import ALL_UNITS, NO_UNIT, WorkerContext

# results are sent after this time, so that the death of a worker costs no more work than that
MAX_CHUNK_NS = 2_000_000_000
# results are sent from this size on, so that memory does not grow with them
MAX_CHUNK_BYTES = 16 * 2**20
# how often a worker checks whether another took the rest of its slice
STOP_CHECK_INTERVAL_NS = 20_000_000
# after a stretch of units the size of their results is estimated
FIRST_STRETCH_UNITS, MAX_STRETCH_UNITS, MAX_NUMERIC_STRETCH_UNITS = 8, 256, 2048

NO_UNIT_LIMIT = 2**62
# copies of a unit's rows that exist while they are passed to the function
COPIES_BY_FORM = {"light": 2, "dict": 2, "arrow": 2.5, "polars": 3.5, "pandas": 3.5}
FORM_NAMES = {
    "light": "arrays",
    "dict": "arrays",
    "arrow": "an Arrow table",
    "polars": "a polars frame",
    "pandas": "a pandas frame",
}
SORT_BYTES_PER_ROW = 40

Send = Callable[[tuple[Any, ...]], None]


class UnitRunner:
    """The state that a worker process keeps between messages.

    context: the job and the access to its data. progress: the shared array that names the unit at
    work (see protocol.py). send: sends a message to the driver. memory: the worker's share of
    memory in bytes; None if it is unlimited. name: that of this process, for the statuses of units.
    """

    def __init__(
        self,
        context: WorkerContext,
        progress: Any,
        send: Send,
        memory: int | None = None,
        name: str = "",
    ) -> None:
        pa.set_cpu_count(1)
        if memory is not None:
            # Arrow's own allocator reserves a gigabyte, which would count as used
            pa.set_memory_pool(pa.system_memory_pool())
        self.context, self.progress, self.send, self.name = context, progress, send, name
        self.gauge = MemoryGauge(memory)
        self.units_started = 0  # in this process
        self._model_runners: dict[str, ModelRunner] = {}

    def run(self, message: Message, narrow: bool = False, final: bool = False) -> None:
        """Execute units first..last of one batch, or as many of them as this process should.

        narrow: read only these units of the batch. final: a unit that meets MemoryError has failed,
        and is not tried again.

        Raises:
            ResourcesExhausted: a fresh process should continue.
        """
        model_runner = self._model_runner(message.model)
        whole = self._open(model_runner, message, narrow)
        doing = _run_batched if model_runner.model.batched else _run_each
        last = doing(self, model_runner, whole, message, final)
        if message.last == whole.first + len(whole.sizes) - 1:
            model_runner.close()  # no more of this batch is likely to be requested
        self.progress[0] = NO_UNIT
        if last is not None:
            why = (
                "max_units_per_worker"
                if model_runner.is_used_up()
                else "its memory grew"
                if self.gauge.is_worn()
                else ""
            )
            # the reason to replace this process, if there is one
            self.send(("finished", last, why))

    def is_fresh(self) -> bool:
        return self.units_started == 0

    def _model_runner(self, name: str) -> ModelRunner:
        model_runner = self._model_runners.get(name)
        if model_runner is None:
            model = self.context.model(name)
            try:
                model_runner = self._model_runners[name] = ModelRunner(self.context, model)
            except Exception as error:
                if not ran_out_of_memory(error):
                    raise
                if not self.is_fresh():
                    raise ResourcesExhausted(
                        f"ran out of memory while it loaded the inputs of {name}: {error}"
                    ) from error
                results = (f", the results of {each}" for each in model.inputs or ())
                raise WorkerError(
                    f"the inputs of {name} do not fit into a worker's share of memory of"
                    f" {size_text(self.gauge.share or 0)}: its list of units{''.join(results)}",
                    hint=f"{MEMORY_HINT}; then resume the run",
                ) from error
        return model_runner

    def _open(self, model_runner: ModelRunner, message: Message, narrow: bool) -> OpenBatch:
        if not model_runner.has_open(message, narrow):
            model_runner.close()  # at most one batch in memory
            self.gauge.release_if_high()
        for again in (True, False):
            try:
                return model_runner.open(message, narrow)
            except Exception as error:
                if not ran_out_of_memory(error):
                    raise
                forget_frames(error)
                if not again:
                    raise ResourcesExhausted(self.too_large_text(model_runner, message)) from None
            release()  # free memory that earlier batches left, possibly in fragments
        raise AssertionError("the second attempt returns or raises")

    def too_large_text(self, model_runner: ModelRunner, message: Message) -> str:
        """Return why the units cannot be passed to the function."""
        share = size_text(self.gauge.share) if self.gauge.share else "limited"
        rows = int(model_runner.units.sizes(message.first, message.last).sum())
        need = model_runner.bytes_needed(message)
        subject = (
            f"its {rows:,} rows need"
            if message.units == 1
            else f"{rows:,} rows of {message.units:,} units need"
        )
        return (
            f"{subject} about {size_text(need)} of memory as {FORM_NAMES[model_runner.form]},"
            f" and a worker's share is {share}: {MEMORY_HINT}"
        )


class ModelRunner:
    """One model, prepared for execution: its manifest, units, inputs and the batch opened last."""

    def __init__(self, context: WorkerContext, model: Model) -> None:
        self.context, self.model = context, model
        self.form = row_form(model)
        self.manifest = Manifest.read(context.layout, model.name, context.store)
        self.units = open_units(self.manifest, context.layout, context.store)
        self.inputs = [
            UpstreamResults(name, model, context.job.model(name), context.layout, context.store)
            for name in model.inputs or ()
        ]
        self.contract = return_type(model)
        self.units_done = 0  # in this process
        self._open: tuple[tuple[int, int, int], OpenBatch] | None = None

    def open(self, message: Message, narrow: bool) -> OpenBatch:
        """Return the batch of a message in memory; if `narrow`, only the units of the message."""
        if self._open is None or not self.has_open(message, narrow):
            self._open = None  # at most one batch in memory
            batch = self._batch_of(message, narrow)
            opened = open_batch(
                self.manifest, self.units, batch, self.context.layout, self.context.store
            )
            self._open = (batch.number, batch.first, batch.last), opened
        return self._open[1]

    def has_open(self, message: Message, narrow: bool) -> bool:
        """Return whether the batch that `open` returns is in memory already."""
        batch = self._batch_of(message, narrow)
        return self._open is not None and self._open[0] == (batch.number, batch.first, batch.last)

    def _batch_of(self, message: Message, narrow: bool) -> Batch:
        batch = self.manifest.batches[message.batch]
        return replace(batch, first=message.first, last=message.last) if narrow else batch

    def units_left(self) -> int:
        """Return how many more units this process may execute."""
        most = self.model.max_units_per_worker
        return NO_UNIT_LIMIT if most is None else max(most - self.units_done, 1)

    def is_used_up(self) -> bool:
        most = self.model.max_units_per_worker
        return most is not None and self.units_done >= most

    def bytes_needed(self, message: Message) -> int:
        """Return about how many bytes it takes to pass the units of a message to the function."""
        batch = self.manifest.batches[message.batch]
        rows = int(self.units.sizes(message.first, message.last).sum())
        size = stored_bytes(
            self.manifest,
            batch,
            message.first,
            message.last,
            self.context.layout,
            self.context.store,
        )
        return int(COPIES_BY_FORM[self.form] * size) + SORT_BYTES_PER_ROW * rows

    def close(self) -> None:
        self._open = None

    def result_builder(self, batch: OpenBatch) -> ResultBuilder:
        keys = {name: _key_reader(batch, name) for name in batch.keys.column_names}
        return ResultBuilder(self.contract, keys)


def _key_reader(batch: OpenBatch, name: str) -> Callable[[int], Any]:
    column, first = batch.keys.column(name), batch.first
    return lambda unit: to_python(column[unit - first])


def raise_fatal(error: BaseException) -> None:
    """Raise an error that must end the process.

    A panic of a Rust library is no Exception in Python, but fails only the unit.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


@dataclass(slots=True)
class Chunk:
    """Results that are sent together: those of the units from `first` on.

    unit: the last unit that was begun. stamps_ns: the time at which the first unit began, then the
    end of each unit; `started` is the first of them by the wall clock. retry_reason: if not empty,
    why `unit` is to be tried again; it is no part of the chunk then.
    """

    first: int
    builder: ResultBuilder
    failed: FailedUnits
    unit: int
    stamps_ns: list[int]
    started: float
    retry_reason: str = ""

    def __init__(self, first: int, builder: ResultBuilder) -> None:
        self.first, self.builder, self.failed = first, builder, FailedUnits()
        self.started = time.time()
        self.unit, self.stamps_ns, self.retry_reason = first - 1, [], ""

    @property
    def last(self) -> int:
        """Return the last unit whose result the chunk holds."""
        return self.unit - 1 if self.retry_reason else self.unit


def _run_each(
    runner: UnitRunner, model_runner: ModelRunner, batch: OpenBatch, message: Message, final: bool
) -> int:
    """Call the function for each unit, and send a chunk whenever it is old or large enough.

    Return the last unit that is done.
    """
    inputs = [(each.name, each.for_units(batch.keys)) for each in model_runner.inputs]
    first, last = message.first, min(message.last, message.first + model_runner.units_left() - 1)
    while first <= min(last, runner.progress[2]):
        chunk = Chunk(first, model_runner.result_builder(batch))
        calls = _calls(runner, model_runner, batch, message, first, last)
        _fill_chunk(runner, batch, chunk, calls, inputs, last, final)
        if batch.columns.exhausted:
            raise ResourcesExhausted(runner.too_large_text(model_runner, message))
        runner.gauge.note_first_unit()
        runner.units_started += chunk.unit + 1 - first
        model_runner.units_done += chunk.last + 1 - first
        # if the results themselves kill this process, no single unit is to blame
        runner.progress[0] = ALL_UNITS
        if chunk.last >= first:
            seconds = np.diff(chunk.stamps_ns) / 1e9
            done = message.part(first, chunk.last)
            stretch = Stretch(done.units, chunk.started, runner.name)
            _send_chunk(runner, chunk.builder, chunk.failed.statuses, seconds, done, stretch)
        if chunk.retry_reason:
            raise ResourcesExhausted(chunk.retry_reason, chunk.unit)
        first = chunk.unit + 1
        if runner.gauge.is_worn():
            break
    return first - 1


def _fill_chunk(
    runner: UnitRunner,
    batch: OpenBatch,
    chunk: Chunk,
    calls: tuple[Callable[..., Any], Iterator[Any]],
    inputs: Sequence[tuple[str, Callable[[int], Any]]],
    last: int,
    final: bool,
) -> None:
    """Call the function for units from `chunk.first` on, until the chunk is to be sent."""
    clock, progress = time.monotonic_ns, runner.progress
    builder, failed, stamps, first = chunk.builder, chunk.failed, chunk.stamps_ns, chunk.first
    add, (work, units), unit = builder.appender(), calls, chunk.unit
    stretch_units = 1 if runner.is_fresh() else FIRST_STRETCH_UNITS
    max_stretch = MAX_NUMERIC_STRETCH_UNITS if builder.only_numbers else MAX_STRETCH_UNITS
    stamps.append(now := clock())
    end, next_check = now + MAX_CHUNK_NS, now + STOP_CHECK_INTERVAL_NS
    while unit < last and stretch_units:
        stretch = range(unit + 1, min(unit + stretch_units, last) + 1)
        for unit, rows in zip(stretch, units, strict=False):
            progress[1], progress[0] = now, unit
            if unit > progress[2]:  # read after its own unit is shown: see WorkerPool.share_after
                unit, stretch_units = unit - 1, 0
                break
            try:
                if inputs:
                    add(unit, work(rows, **{name: get(unit - batch.first) for name, get in inputs}))
                else:
                    add(unit, work(rows))
            # the one place where a unit's failure becomes a value
            except BaseException as error:  # noqa: BLE001
                raise_fatal(error)
                status = failed_unit(unit, error)
                if ran_out_of_memory(error):
                    chunk.retry_reason = _reason_to_retry(runner, batch, status, error, final)
                    if chunk.retry_reason:
                        stretch_units = 0
                        break
                failed.append(status)
            stamps.append(now := clock())
            if now > next_check:
                if now > end or runner.gauge.is_high():
                    stretch_units = 0
                    break
                next_check = now + STOP_CHECK_INTERVAL_NS
        else:
            size, done = builder.estimate_bytes() + failed.bytes, unit + 1 - first
            stretch_units = _next_stretch(stretch_units, size, done, max_stretch)
            runner.gauge.note_first_unit()
    chunk.unit = unit


def _calls(
    runner: UnitRunner,
    model_runner: ModelRunner,
    batch: OpenBatch,
    message: Message,
    first: int,
    last: int,
) -> tuple[Callable[..., Any], Iterator[Any]]:
    """Return the callable for the units, and an iterator over the argument for each of them."""
    try:
        return batch.calls(
            model_runner.form, first - batch.first, last - batch.first, model_runner.model.work
        )
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        raise ResourcesExhausted(runner.too_large_text(model_runner, message)) from None


def _reason_to_retry(
    runner: UnitRunner, batch: OpenBatch, status: UnitStatus, error: BaseException, final: bool
) -> str:
    """Return why a unit that ran out of memory is to be tried again alone in a fresh process.

    Return "" if the unit has failed; `status` then has the reason. Running out of memory does not
    prove a unit guilty if others were executed in this process before, or if the process holds
    rows of others.
    """
    forget_frames(error)
    of_files, limited, alone = (
        ran_out_of_files(error),
        runner.gauge.share is not None,
        runner.is_fresh() and len(batch.sizes) == 1,
    )
    fault = f"{status.error}: {status.message}"
    if batch.columns.exhausted:
        return fault
    if limited and not alone and not final and (of_files or runner.gauge.has_grown()):
        return fault
    if limited and not of_files:
        status.message = f"{status.message} ({runner.gauge.description(alone)})".lstrip()
    return ""


def _next_stretch(last: int, size: int, units: int, longest: int) -> int:
    """Return after how many more units to check the size of the results; 0 to send them now."""
    if size >= MAX_CHUNK_BYTES:
        return 0
    return max(1, min(4 * last, longest, (MAX_CHUNK_BYTES - size) * units // max(size, 1)))


class FailedUnits:
    """The statuses of units that failed, and about how many bytes they take."""

    def __init__(self) -> None:
        self.statuses: list[UnitStatus] = []
        self.bytes = 0

    def append(self, status: UnitStatus) -> None:
        self.statuses.append(status)
        self.bytes += len(status.message) + len(status.traceback)


def _run_batched(
    runner: UnitRunner, model_runner: ModelRunner, batch: OpenBatch, message: Message, final: bool
) -> int | None:
    """Call the function once for all units of a slice.

    If it raises, the slice is to be tried in halves; a slice of one unit has failed.

    Return the last unit that is done, or None if the slice is rejected.
    """
    progress = runner.progress
    if message.units > model_runner.units_left():
        message = message.part(message.first, message.first + model_runner.units_left() - 1)
    progress[1] = time.monotonic_ns()
    progress[0] = message.first if message.units == 1 else ALL_UNITS
    offset = message.first - batch.first
    keys = batch.keys.slice(offset, message.units)
    began, started = time.perf_counter(), time.time()
    builder: ResultBuilder = model_runner.result_builder(batch)
    failed: list[UnitStatus] = []
    try:
        value = model_runner.model.work(
            batch.units(model_runner.form, offset, offset + message.units - 1),
            **{each.name: each.for_many(keys) for each in model_runner.inputs},
        )
        builder.add_batched(message.first, message.units, value)
    # the failure of several units is located by halving; that of one unit is a value
    except BaseException as error:  # noqa: BLE001
        raise_fatal(error)
        failed = _failed_slice(runner, model_runner, batch, message, error, final)
        if not failed:
            runner.send(("split", message.first))
            return None
        builder = model_runner.result_builder(batch)
    else:
        runner.units_started += message.units
    model_runner.units_done += message.units
    seconds = np.full(message.units, (time.perf_counter() - began) / message.units)
    if batch.columns.exhausted:
        raise ResourcesExhausted(runner.too_large_text(model_runner, message))
    stretch = Stretch(message.units, started, runner.name, together=True)
    _send_chunk(runner, builder, failed, seconds, message, stretch)
    return message.last


def _failed_slice(
    runner: UnitRunner,
    model_runner: ModelRunner,
    batch: OpenBatch,
    message: Message,
    error: BaseException,
    final: bool,
) -> list[UnitStatus]:
    """Return the status of each unit of a slice on which the function raised.

    The list is empty if the slice is to be tried in halves.

    Raises:
        ResourcesExhausted: a fresh process should try it again.
    """
    status = failed_unit(message.first, error)
    if ran_out_of_memory(error) and (message.units == 1 or not runner.is_fresh()):
        reason = _reason_to_retry(runner, batch, status, error, final)
        if batch.columns.exhausted:
            raise ResourcesExhausted(runner.too_large_text(model_runner, message)) from None
        if reason:
            unit = message.first if message.units == 1 else None
            raise ResourcesExhausted(reason, unit) from None
    runner.units_started += message.units
    model_runner.close()  # the function may have written to the columns before it raised
    if message.units > 1 and not isinstance(error, UnusableBatchResult):
        return []
    others = range(message.first + 1, message.last + 1)
    return [status, *(failed_unit(unit, error) for unit in others)]


def _send_chunk(
    runner: UnitRunner,
    builder: ResultBuilder,
    failed: list[UnitStatus],
    seconds: NDArray[np.float64],
    message: Message,
    stretch: Stretch,
) -> None:
    tables, unfit = builder.build()
    rows_out = np.zeros(message.units, np.int64)
    for rows in tables:
        rows_out += np.bincount(
            to_numpy(rows.column(UNIT), False) - message.first, minlength=message.units
        )
    statuses = pack_statuses(message, seconds, rows_out, [*failed, *unfit], tables, [stretch])
    runner.send(("chunk", message.first, message.last, pack_results(tables), statuses))
