"""A supervisor: the parent process of one worker, that leaves nothing alive which the worker started.

The supervisor leads a session of its own and forks the worker into it.  On Linux it is a subreaper: whatever the user's
function starts stays a descendant of it, also in a session of its own or as a daemon.  It ends the worker, and then all that
is left, when the driver asks for it or is gone, when the fork server is gone, or when the worker has ended by itself.  It
does nothing else, so that it is there to do so.

It reports to the driver over a socket, in lines: `pid N`, then `exit CODE`, or `failed REASON` instead of both.  The socket is
closed when all is ended.
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

END_S = 10.0  # seconds after which a process that cannot be killed (in an uninterruptible wait) is given up
POLL_S = 0.02
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def supervise(leash: socket.socket, alive: int | None, work: Callable[[], object]) -> NoReturn:
    """Run `work` in a child process, see to its end and to that of all it started, and end.

    leash: the driver's line; its end, or a byte from it, is the order to end.
    alive: a pipe that the fork server keeps open as long as it lives.
    """
    try:
        _supervise(leash, alive, work)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the driver learns of it, and this process ends
        with contextlib.suppress(BaseException):
            report(leash, f"failed {type(error).__name__}: {error}")
    finally:
        os._exit(0)


def _supervise(leash: socket.socket, alive: int | None, work: Callable[[], object]) -> None:
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
            for descriptor in (woken, wake, leash.detach(), *([] if alive is None else [alive])):
                os.close(descriptor)
            _die_with_parent(me)
            work()
        finally:
            os._exit(1)
    report(leash, f"pid {worker}")
    code = _watch(worker, [leash.fileno(), *([] if alive is None else [alive])], woken, asked)
    report(leash, f"exit {code}")
    end_descendants()


def report(leash: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # the driver is gone
        leash.sendall(f"{line}\n".encode(errors="replace"))


def _watch(worker: int, orders: list[int], woken: int, asked: list[int]) -> int:
    """Wait for the worker's end, or for the order to end it; its exit code."""
    poll = select.poll()
    for descriptor in (*orders, woken):
        poll.register(descriptor, select.POLLIN)
    until: float | None = None
    while True:
        ready = {
            descriptor for descriptor, _ in poll.poll(None if until is None else 1000 * POLL_S)
        }
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        if until is None and (ready.intersection(orders) or signal.SIGTERM in asked):
            until = time.monotonic() + END_S
            if not _has_subreaper():
                kill(descendants())  # while they can be found below the worker
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
    """Kill everything below this process, and wait for its end."""
    until = time.monotonic() + END_S
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            if _has_subreaper():
                return  # nothing is left: an orphan would be a child of this process
        left = descendants()
        if not left or time.monotonic() > until:
            return
        kill(left)
        select.poll().poll(1000 * POLL_S / 4)


def descendants(keep: Container[int] = ()) -> list[psutil.Process]:
    """All processes below this one (`keep`, and what is below these, excepted), and those of its session: orphans are found by
    it where there is no subreaper."""
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
            process.kill()  # psutil compares the time at which it began: the number may be another's by now


_subreaper = False


def _has_subreaper() -> bool:
    return _subreaper


def become_subreaper() -> None:
    """Be the parent of every orphan below this process, where the system can (Linux)."""
    global _subreaper
    _subreaper = _prctl(SET_CHILD_SUBREAPER, 1)


def _die_with_parent(parent: int) -> None:
    _prctl(SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(Exception):
        import ctypes

        return int(ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)) == 0
    return False
