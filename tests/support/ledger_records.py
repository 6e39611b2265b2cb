"""A run's record for the tests of ledgers, and the outcome of a call as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hundredfold.errors import StateError
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_states import State

RUN = Record(
    id="20240501-0800-a1",
    job="tariffs",
    ref="tariffs.job:job",
    state=State.NEW,
    step="validate",
    created="2023-11-01T08:00:00.000+00:00",
    updated="2023-11-01T08:00:00.000+00:00",
)


def run_with(**changes: Any) -> Record:
    """Return the record with other values, of any type."""
    return replace(RUN, **changes)


def attempt(call: Callable[[], object]) -> str:
    """Return the name of the error that a call raises, or ''."""
    try:
        call()
    except StateError:
        return "StateError"
    return ""
