"""Ctrl-C between any two lines of code that an exception there would leave broken."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from hundredfold.runs.job_code import JobCode, facts_of
from hundredfold.workers.interrupts import defer_interrupts

CODE = JobCode("fingerprint", {"python": "3"}, (), {"model": b"def double(rows): ..."}, "", 0)


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect errors that Python can only print, such as those of `__del__`; Ctrl-C interrupts."""
    found: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: found.append(repr(error.exc_value)))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield found
    signal.signal(signal.SIGINT, before)


def interrupt_at(line: int, action: Callable[[], object]) -> bool:
    """Do an action, with Ctrl-C at a line of `zipfile` that is executed; return whether there is
    such a line.
    """
    executed = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal executed
        if "zipfile" in frame.f_code.co_filename and event == "line":
            executed += 1
            if executed == line:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(KeyboardInterrupt):
            action()
    finally:
        sys.settrace(before)
    return executed >= line


@pytest.mark.parametrize("part", ["written", "read"])
def test_ctrl_c_in_an_archive_of_code_is_an_interrupt_and_no_more(
    part: str, unraisable: list[str]
) -> None:
    archive = CODE.archive()
    action = CODE.archive if part == "written" else lambda: facts_of(archive)
    line = 1
    while interrupt_at(line, action):
        line += 1
    gc.collect()
    assert line > 50
    assert unraisable == []


def test_a_deferred_interrupt_takes_effect_after_the_block(unraisable: list[str]) -> None:
    done = []

    @defer_interrupts()
    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == ["the rest of the block"]
    assert unraisable == []


def test_deferred_interrupts_leave_handlers_as_they_were(unraisable: list[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with defer_interrupts(), defer_interrupts():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    in_thread: list[str] = []

    def block() -> None:
        with defer_interrupts():
            in_thread.append("done")

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert in_thread == ["done"]
