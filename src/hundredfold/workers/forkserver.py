"""The fork server: one process for each driver, that imports what workers need once and forks supervisors on demand.

It is not multiprocessing's: that one cannot be used from a daemonic process or below a fork, needs a socket in a short
temporary path, is shared with the caller's own processes, and does not see to what its children leave behind.

A request is one byte with four descriptors: the supervisor's socket, the worker's socket, the worker's settings and marks,
and the job.  The server ends when its driver does, and with it all workers.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import warnings
from collections.abc import Sequence
from typing import NoReturn

from .supervisor import become_subreaper, descendants, kill, report, supervise

DESCRIPTORS = 4  # of a request
SETTINGS_AT = 4096  # bytes: before it, in the first page, are the marks
LOOK_S = 1.0  # between looks whether the driver lives, where the system cannot report it


def main(driver: int, preload: Sequence[str]) -> NoReturn:
    """The life of a fork server: its standard input is the socket of its driver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver to answer
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.closerange(
        3, os.sysconf("SC_OPEN_MAX")
    )  # what the driver's libraries and its caller left inheritable
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for name in preload:
        with contextlib.suppress(Exception):  # a worker meets it again, and reports it
            importlib.import_module(name)
    # since Python 3.12: a library's own thread (Arrow's memory pool has one) does not make these forks unsafe
    warnings.filterwarnings(
        "ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning
    )
    gc.freeze()  # what is there is not written to by the collector of each worker
    try:
        _Server(control, driver).serve()
    finally:
        os._exit(0)  # the supervisors see it, and end what is theirs


class _Server:
    def __init__(self, control: socket.socket, driver: int) -> None:
        self._control, self._driver = control, driver
        self._supervisors: dict[
            int, socket.socket
        ] = {}  # by pid: their lines to the driver, closed when they are gone
        self._alive, self._living = os.pipe()
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        become_subreaper()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._suspend)

    def serve(self) -> None:
        """Fork a supervisor for each request, until the driver has ended."""
        poll, ends = select.poll(), self._end_of_driver()
        for descriptor in (self._control.fileno(), self._woken, *ends):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(None if ends else 1000 * LOOK_S)}
            if ready.intersection(ends) or os.getppid() != self._driver:
                return
            with contextlib.suppress(BlockingIOError):
                if os.read(self._woken, 4096):
                    self._reap()
            if self._control.fileno() in ready and not self._answer():
                return

    def _end_of_driver(self) -> list[int]:
        """A descriptor that is ready when the driver has ended: a copy of its socket may be open in a process that it forked."""
        with contextlib.suppress(OSError, AttributeError):
            return [os.pidfd_open(self._driver)]
        return []

    def _answer(self) -> bool:
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            byte, descriptors, _, _ = socket.recv_fds(self._control, 1, DESCRIPTORS, flags)
        except OSError:
            return False
        if not byte:
            return False
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        if descriptors:
            leash = socket.socket(fileno=descriptors[0])
            try:
                self._fork(leash, descriptors[1:])
            except OSError as error:
                report(leash, f"failed {type(error).__name__}: {error}")
                leash.close()
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        return True

    def _fork(self, leash: socket.socket, descriptors: Sequence[int]) -> None:
        if len(descriptors) < DESCRIPTORS - 1:
            raise OSError("too many open files in the fork server")
        pid = os.fork()
        if pid:
            self._supervisors[pid] = leash
            return
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            self._control.close()
            for other in self._supervisors.values():
                other.close()
            for descriptor in (self._living, self._woken, self._wake):
                os.close(descriptor)
            supervise(leash, self._alive, lambda: begin(*descriptors))
        finally:
            os._exit(1)

    def _reap(self) -> None:
        """Bury supervisors that have ended, and end what one that was killed has left: this process is its heir."""
        found = False
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                leash = self._supervisors.pop(pid, None)
                if leash is not None:
                    leash.close()
            found = True  # children are left
        if found:
            kill(descendants(keep=self._supervisors))

    def _suspend(self, *_: object) -> None:
        """Ctrl-Z stops the driver's process group, and with it this process: the workers are stopped and continued with it."""
        for order in (signal.SIGSTOP, signal.SIGCONT):
            for pid in self._supervisors:
                with contextlib.suppress(OSError):
                    os.killpg(pid, order)
            if order == signal.SIGSTOP:
                os.kill(os.getpid(), signal.SIGSTOP)


def begin(pipe: int, settings: int, job: int) -> None:
    """Become a worker: call the function that the settings name."""
    content = os.pread(settings, os.fstat(settings).st_size - SETTINGS_AT, SETTINGS_AT)
    entry, arguments = pickle.loads(content)
    entry(socket.socket(fileno=pipe), settings, job, *arguments)
