"""Step 3. Sends a message for each batch, the most expensive first.

A later attempt has a message for each range of units that are done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..data.checksums import get_json, put_json
from ..data.layout import Layout
from ..data.manifest import Manifest
from ..data.messages import Message
from ..ports.interfaces import Queue, Store
from .coverage import Coverage


def plan_attempt(
    manifest: Manifest, layout: Layout, attempt: int, store: Store
) -> tuple[list[Message], Coverage]:
    """Return the messages of an attempt, and the coverage of its units.

    They are the ranges that a retry or a pilot planned, or else all batches, the most expensive
    first.
    """
    try:
        planned = get_json(store, retry_key(layout, manifest.model, attempt))
    except KeyError:
        longest_first = sorted(manifest.batches, key=lambda batch: (-batch.cost, batch.number))
        messages = [
            Message(layout.run, manifest.model, batch.number, first, last, attempt)
            for batch in longest_first
            for first, last in zip(
                (batch.first, *batch.cuts),
                (*(cut - 1 for cut in batch.cuts), batch.last),
                strict=True,
            )
        ]
        return messages, Coverage.read(manifest.units, layout, manifest.model, None, store)
    messages = [
        Message(layout.run, manifest.model, manifest.batch_of(first).number, first, last, attempt)
        for first, last in planned.get("ranges") or contiguous_ranges(manifest, planned["units"])
    ]
    return messages, Coverage.read(manifest.units, layout, manifest.model, attempt, store)


def plan_retry(
    manifest: Manifest, layout: Layout, attempt: int, units: Sequence[int], store: Store
) -> None:
    """Record the units that an attempt does again."""
    put_json(store, retry_key(layout, manifest.model, attempt), {"units": sorted(units)})


def plan_ranges(
    manifest: Manifest,
    layout: Layout,
    attempt: int,
    ranges: Sequence[tuple[int, int]],
    store: Store,
) -> None:
    """Record the units that an attempt does as ranges of one batch each, in their order."""
    put_json(store, retry_key(layout, manifest.model, attempt), {"ranges": ranges})


def retry_key(layout: Layout, model: str, attempt: int) -> str:
    return f"{layout.model(model)}/retry-{attempt:03d}.json"


def contiguous_ranges(manifest: Manifest, units: Sequence[int]) -> list[tuple[int, int]]:
    """Return contiguous units of one batch as ranges (first, last), in order."""
    units = sorted(units)
    if not units:
        return []
    starts = {batch.first for batch in manifest.batches}
    cuts = [units[0], *(b for a, b in pairwise(units) if b != a + 1 or b in starts)]
    ends = [*(a for a, b in pairwise(units) if b != a + 1 or b in starts), units[-1]]
    return list(zip(cuts, ends, strict=True))


def enqueue(messages: Sequence[Message], coverage: Coverage, queue: Queue) -> int:
    """Send messages for all units without an outcome to an empty queue, and return their number."""
    wanted = [
        message.part(first, last)
        for message in messages
        for first, last in coverage.missing(message.first, message.last)
    ]
    queue.send([str(message) for message in wanted])
    return len(wanted)
