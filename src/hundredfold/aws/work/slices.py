"""Slices of batches: those that a message requests, those without an outcome, and their parts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from ...data.checksums import put_sealed
from ...data.layout import Layout
from ...data.manifest import Manifest, UnitKeys
from ...data.messages import Message
from ...data.unit_slices import open_units
from ...errors import NoSuchRun
from ...pipeline.coverage import Coverage
from ...pipeline.work import LOST_REASON, crashed_accounts
from ...ports.interfaces import Record
from ...ports.run_states import State
from ..adapters.dynamodb_ledger import DynamoLedger
from ..adapters.s3_store import S3Store
from .messages import SqsMessage, to_slice


def redelivered_last(sqs_messages: Iterable[SqsMessage]) -> list[SqsMessage]:
    """Sort redelivered messages last.

    A redelivered message may have killed its worker, and with it the other messages of the call. So
    the others are processed first; several redelivered ones are shuffled, so that none is always
    behind the message that kills the worker.
    """
    return sorted(
        sqs_messages,
        key=lambda sqs_message: (
            sqs_message.receive_count,
            random.random() if sqs_message.receive_count > 1 else 0.0,
        ),
    )


def load_prepared(store: S3Store, request: Any, attempt: int) -> tuple[Manifest, UnitKeys]:
    """Return the manifest and units of a model; ValueError if it has not been prepared.

    Cached from call to call: an attempt never changes them, and with thousands of batches the
    manifest is larger than the data of a message.
    """
    try:
        return _load_prepared(store, request.run, request.model, attempt)
    except KeyError:
        raise ValueError(f"the run has not prepared the model {request.model}") from None


@lru_cache(maxsize=2)
def _load_prepared(
    store: S3Store, run: str, model: str, _attempt: int
) -> tuple[Manifest, UnitKeys]:
    layout = Layout(run)
    manifest = Manifest.read(layout, model, store)
    return manifest, open_units(manifest, layout, store)


def read_coverage(
    messages: Iterable[Message], manifest: Manifest, layout: Layout, store: S3Store
) -> Coverage:
    """Return which units of the messages' batches have an outcome in their attempt."""
    coverage = Coverage(manifest.units)
    for batch in {f"{message.attempt:03d}-{message.batch:06d}-" for message in messages}:
        for key in store.beginning(f"{layout.outcomes(manifest.model)}/{batch}"):
            found = layout.parse_outcome_key(key)
            if found is not None:
                coverage.add(found.first, found.last)
    return coverage


def requested_slices(sqs_message: SqsMessage, record: Record, store: S3Store) -> list[Message]:
    """Return the slices that a message requests of a run, without those of an earlier attempt.

    Raises:
        ValueError: the run has no such slice.
    """
    attempt = record.attempt
    requests = [
        each for each in sqs_message.requests if each.run == record.id and each.attempt >= attempt
    ]
    if any(each.attempt > attempt for each in requests):
        raise ValueError(
            f"it belongs to an attempt that has not begun: the run is in attempt {attempt}"
        )
    return [to_slice(each, load_prepared(store, each, attempt)[0]) for each in requests]


def missing_parts(message: Message, coverage: Coverage) -> list[Message]:
    """Return the parts of a message that have no outcome yet."""
    return [
        message.part(first, last) for first, last in coverage.missing(message.first, message.last)
    ]


def split_around(message: Message, units: Sequence[int]) -> list[Message]:
    """Split a slice so that each of these units gets a message, and so the next call, to itself."""
    cuts = sorted(
        {
            message.first,
            *(
                cut
                for unit in units
                for cut in (unit, unit + 1)
                if message.first < cut <= message.last
            ),
        }
    )
    return [message.part(first, last - 1) for first, last in pairwise([*cuts, message.last + 1])]


def record_crashed_units(
    sqs_message: SqsMessage, reason: str, store: S3Store, ledger: DynamoLedger
) -> int:
    """Record the units of a message that have no outcome as crashed; return their number.

    Raises:
        ValueError: the message is invalid.
    """
    crashed_units = 0
    for run in dict.fromkeys(request.run for request in sqs_message.requests):
        try:
            record = ledger.read(run)
        except NoSuchRun:
            raise ValueError("there is no such run") from None
        if record.state is not State.RUNNING:
            continue
        for message in requested_slices(sqs_message, record, store):
            layout, manifest = Layout(run), load_prepared(store, message, record.attempt)[0]
            for part in missing_parts(message, read_coverage([message], manifest, layout, store)):
                put_sealed(
                    store,
                    layout.outcome(part, "status"),
                    crashed_accounts(part, reason or LOST_REASON),
                )
                crashed_units += part.units
    return crashed_units
