"""Chunks of units that are done, kept for a short time so that adjacent ones become one outcome.

A worker with several processes cuts a message into a part for each, and each part ends with a chunk
of its own. On S3 every outcome costs two requests to write and two to collect. So the chunks of a
message wait for each other: until the message is done, or a bundle is large or old.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from ..data.messages import Message
from ..data.outcomes import join_statuses

MAX_BUNDLE_BYTES = 16 * 2**20

Chunk = tuple[Message, bytes | pa.Buffer, bytes]  # a slice, its results and its statuses


@dataclass
class Bundles:
    """The chunks that wait. `max_age_s`: for at most this time; 0 for not at all."""

    max_age_s: float
    waiting: list[tuple[float, Chunk]] = field(default_factory=list)  # with the time of arrival
    size: int = 0  # bytes

    def add(self, chunk: Chunk, now: float) -> None:
        self.waiting.append((now, chunk))
        self.size += _size_of(chunk)

    def due(self, now: float) -> Iterator[Chunk]:
        """Return all chunks if one has waited long enough, or they are too large to wait."""
        is_due = self.size >= MAX_BUNDLE_BYTES or any(
            now - arrived >= self.max_age_s for arrived, _ in self.waiting[:1]
        )
        return self.take() if is_due else iter(())

    def take(self, first: int = 0, last: int = sys.maxsize) -> Iterator[Chunk]:
        """Return the chunks within those units; adjacent ones as one."""
        taken: list[Chunk] = []
        kept: list[tuple[float, Chunk]] = []
        for arrived, chunk in self.waiting:
            if first <= chunk[0].first <= last:
                taken.append(chunk)
            else:
                kept.append((arrived, chunk))
        self.waiting = kept
        self.size -= sum(map(_size_of, taken))
        return joined(taken)


def joined(chunks: list[Chunk]) -> Iterator[Chunk]:
    """Yield chunks; those of one batch that follow each other as one."""
    groups: list[list[Chunk]] = []
    for chunk in sorted(chunks, key=lambda each: _order(each[0])):
        if groups and _follows(chunk[0], groups[-1][-1][0]):
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
    return map(_join, groups)


def _order(message: Message) -> tuple[int, int, int]:
    return message.attempt, message.batch, message.first


def _follows(message: Message, before: Message) -> bool:
    return _order(message) == (before.attempt, before.batch, before.last + 1)


def _join(chunks: list[Chunk]) -> Chunk:
    """Return chunks that follow each other as one."""
    if len(chunks) == 1:
        return chunks[0]
    messages, results, statuses = zip(*chunks, strict=True)
    return (
        messages[0].part(messages[0].first, messages[-1].last),
        b"".join(results),
        join_statuses(statuses),
    )


def _size_of(chunk: Chunk) -> int:
    return len(chunk[1]) + len(chunk[2])
