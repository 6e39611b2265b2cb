"""The supervisor process: the parent of one worker, which ends every process that the worker
started.

The supervisor leads a session of its own and forks the worker into it. On Linux it is a subreaper:
every process that the user's function starts remains its descendant, even in a session of its own
or as a daemon. The supervisor ends the worker, and then all other descendants, when the driver
requests it or is gone, when the fork server is gone, or when the worker has ended by itself. It has
no other task, so nothing can keep it from this one.

It reports to the driver over a socket, in lines: `pid N`, then `exit CODE`, or `failed REASON`
instead of both. The socket is closed when all processes have ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import psutil

# for a process that cannot be killed (in an uninterruptible wait); then it is given up
MAX_END_S = 10.0
POLL_INTERVAL_S = 0.02
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def supervise(control: socket.socket, alive: int | None, work: Callable[[], object]) -> NoReturn:
    """Run `work` in a child process, ensure its end and that of all it started, and exit.

    control: the socket to the driver; its end, or a byte from it, is the request to end the worker.
    alive: a pipe that the fork server keeps open as long as it lives.
    """
    try:
        _supervise(control, alive, work)
    except BaseException as error:  # noqa: BLE001
        # any error is reported to the driver, and this process exits
        with contextlib.suppress(BaseException):
            report(control, f"failed {type(error).__name__}: {error}")
    finally:
        os._exit(0)


def _supervise(control: socket.socket, alive: int | None, work: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        os.setsid()
    become_subreaper()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    ignored = (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
    )
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGCHLD):
        before[number] = signal.signal(number, lambda found, _: asked.append(found))
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    me = os.getpid()
    worker = os.fork()
    if worker == 0:
        try:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            for descriptor in (woken, wake, control.detach(), *([] if alive is None else [alive])):
                os.close(descriptor)
            _exit_with_parent(me)
            work()
        finally:
            os._exit(1)
    report(control, f"pid {worker}")
    code = _watch(worker, [control.fileno(), *([] if alive is None else [alive])], woken, asked)
    report(control, f"exit {code}")
    end_descendants()


def report(control: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # the driver is gone
        control.sendall(f"{line}\n".encode(errors="replace"))


def _watch(worker: int, orders: list[int], woken: int, asked: list[int]) -> int:
    """Wait for the worker's end, or for the request to end it; return its exit code."""
    poll = select.poll()
    for descriptor in (*orders, woken):
        poll.register(descriptor, select.POLLIN)
    until: float | None = None
    while True:
        ready = {
            descriptor
            for descriptor, _ in poll.poll(None if until is None else 1000 * POLL_INTERVAL_S)
        }
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        if until is None and (ready.intersection(orders) or signal.SIGTERM in asked):
            until = time.monotonic() + MAX_END_S
            if not _has_subreaper():
                kill(descendants())  # now, while they can be found below the worker
            os.kill(worker, signal.SIGKILL)
        asked.clear()
        for pid, status in _ended_children():
            if pid == worker:
                return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() > until:
            return -signal.SIGKILL


def _ended_children() -> list[tuple[int, int]]:
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(found)
    return ended


def end_descendants() -> None:
    """Kill all descendants of this process, and wait for their end."""
    until = time.monotonic() + MAX_END_S
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            if _has_subreaper():
                return  # none is left: an orphan would be a child of this process
        left = descendants()
        if not left or time.monotonic() > until:
            return
        kill(left)
        select.poll().poll(1000 * POLL_INTERVAL_S / 4)


def descendants(keep: Container[int] = ()) -> list[psutil.Process]:
    """Return the descendants of this process, except `keep` and their descendants.

    Without a subreaper, orphans are found as the other processes of this session.
    """
    import psutil

    me = psutil.Process()
    found: dict[int, psutil.Process] = {}
    for child in me.children():
        if child.pid not in keep:
            found[child.pid] = child
            with contextlib.suppress(psutil.Error):
                found.update({each.pid: each for each in child.children(recursive=True)})
    if not _has_subreaper() and os.getsid(0) == me.pid:
        for other in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if other.pid != me.pid and os.getsid(other.pid) == me.pid:
                    found[other.pid] = other
    return list(found.values())


def kill(processes: Iterable[psutil.Process]) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or belongs to another user
            # psutil compares its start time too: the id may belong to another process by now
            process.kill()


_subreaper = False


def _has_subreaper() -> bool:
    return _subreaper


def become_subreaper() -> None:
    """Become the parent of every orphan below this process, if the system supports it (Linux)."""
    global _subreaper
    _subreaper = _prctl(SET_CHILD_SUBREAPER, 1)


def _exit_with_parent(parent: int) -> None:
    _prctl(SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before
        os._exit(1)


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(Exception):
        import ctypes

        return int(ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)) == 0
    return False
