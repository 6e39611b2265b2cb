"""Batches, and messages: requests to execute some units of a batch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

PILOT_ATTEMPT = 0  # of units whose results a run took from the pilot of its plan


@dataclass(frozen=True, slots=True)
class Batch:
    """One stored object with several complete units: `first` to `last` in the order of the keys.

    `cuts`  first units of further parts, if the batch is too large for a worker at once
    """

    number: int
    first: int
    last: int
    rows: int
    cost: float
    cuts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """A request to execute units first..last of a batch.

    `attempt` is 1, plus one per retry; of outcomes that were taken from a pilot, PILOT_ATTEMPT.
    """

    run: str
    model: str
    batch: int
    first: int
    last: int
    attempt: int = 1

    def __str__(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Message:
        """Parse the body of a message; ValueError if it was not made by str()."""
        fields = json.loads(text)
        if not isinstance(fields, dict) or set(fields) != set(cls.__slots__):
            raise ValueError(f"not a message: {text[:200]}")
        return cls(**fields)

    @property
    def units(self) -> int:
        return self.last - self.first + 1

    def part(self, first: int, last: int) -> Message:
        return Message(self.run, self.model, self.batch, first, last, self.attempt)
