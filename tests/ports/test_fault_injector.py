"""The promises of FaultInjector to its users."""

from __future__ import annotations

import copy
import doctest
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import hundredfold.testing
from hundredfold.testing import (
    FaultInjector,
    FaultInjectorAfter,
    InjectedFault,
    MemoryQueue,
    MemoryStore,
)


def put_three(store: Any) -> None:
    for name in "abc":
        store.put(name, b"")


def test_the_nth_call_is_not_executed_and_the_others_are() -> None:
    store = MemoryStore()
    faulty = FaultInjector(store, fail_at=2)
    faulty.put("a", b"")
    with pytest.raises(InjectedFault, match=r"call 2, put$"):
        faulty.put("b", b"")
    faulty.put("c", b"")
    assert list(faulty.list("")) == ["a", "c"]
    assert faulty.calls == 4


def test_a_fault_after_a_call_leaves_it_executed() -> None:
    store = MemoryStore()
    faulty = FaultInjectorAfter(store, fail_at=2)
    with pytest.raises(InjectedFault):
        put_three(faulty)
    assert list(store.list("")) == ["a", "b"]


@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt()])
def test_the_given_error_is_raised(error: Any) -> None:
    with pytest.raises(type(error)) as raised:
        FaultInjector(MemoryQueue(), 1, error).send(["a"])
    assert raised.value is error


def test_all_methods_share_one_count() -> None:
    queue = FaultInjector(MemoryQueue(), fail_at=3)
    queue.send(["a"])
    queue.receive()
    with pytest.raises(InjectedFault, match=r"call 3, depth$"):
        queue.depth()


def test_a_test_can_stop_at_every_call_in_turn() -> None:
    stopped = 0
    for n in count(1):
        store = MemoryStore()
        faulty = FaultInjector(store, fail_at=n)
        with suppress(InjectedFault):
            put_three(faulty)
        if faulty.calls < n:
            break
        stopped += 1
        put_three(store)
        assert list(store.list("")) == ["a", "b", "c"]
    assert stopped == 3


def test_other_attributes_are_those_of_the_port(tmp_path: Path) -> None:
    from hundredfold.local.filesystem import FileStore

    assert FaultInjector(FileStore(tmp_path), 1).root == tmp_path
    with pytest.raises(AttributeError):
        _ = FaultInjector(MemoryStore(), 1).no_such_thing
    assert copy.copy(FaultInjector(MemoryStore(), 3)).fail_at == 3


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(hundredfold.testing)
    assert result.attempted > 5
    assert result.failed == 0
