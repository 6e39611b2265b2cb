"""The fork server process: one for each driver. It imports the modules that workers need once, and
forks supervisors on demand.

It is not that of multiprocessing, which cannot be used from a daemonic process or below a fork,
needs a socket in a short temporary path, is shared with the caller's own processes, and does not
clean up what its children leave behind.

A request is one byte with four descriptors: the supervisor's socket, the worker's socket, the
worker's progress and settings, and the job. The server ends when its driver does, and all workers
with it.
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

REQUEST_DESCRIPTORS = 4  # of a request
SETTINGS_OFFSET_BYTES = 4096  # the progress is stored before it, in the first page
# checks whether the driver is alive, if the system cannot report its end
DRIVER_CHECK_INTERVAL_S = 1.0


def main(driver: int, preload: Sequence[str]) -> NoReturn:
    """Run a fork server, whose standard input is the driver's socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # close the descriptors that the driver's libraries and its caller left inheritable
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    driver_socket = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for name in preload:
        with contextlib.suppress(Exception):  # a worker meets the error again, and reports it
            importlib.import_module(name)
    # since Python 3.12; a library's own thread (such as that of Arrow's memory pool) does not make
    # these forks unsafe
    warnings.filterwarnings(
        "ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning
    )
    gc.freeze()  # so that no worker's collector writes to the objects that exist now
    try:
        _Server(driver_socket, driver).serve()
    finally:
        os._exit(0)  # the supervisors notice, and end their workers


class _Server:
    def __init__(self, driver_socket: socket.socket, driver: int) -> None:
        self._driver_socket, self._driver = driver_socket, driver
        # by process id: the supervisors' sockets to the driver, closed when they have ended
        self._supervisors: dict[int, socket.socket] = {}
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
        for descriptor in (self._driver_socket.fileno(), self._woken, *ends):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {
                descriptor
                for descriptor, _ in poll.poll(None if ends else 1000 * DRIVER_CHECK_INTERVAL_S)
            }
            if ready.intersection(ends) or os.getppid() != self._driver:
                return
            with contextlib.suppress(BlockingIOError):
                if os.read(self._woken, 4096):
                    self._reap()
            if self._driver_socket.fileno() in ready and not self._answer():
                return

    def _end_of_driver(self) -> list[int]:
        """Return a descriptor that is ready when the driver has ended.

        The driver's socket does not show that: a process that it forked may hold a copy.
        """
        with contextlib.suppress(OSError, AttributeError):
            return [os.pidfd_open(self._driver)]
        return []

    def _answer(self) -> bool:
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            byte, descriptors, _, _ = socket.recv_fds(
                self._driver_socket, 1, REQUEST_DESCRIPTORS, flags
            )
        except OSError:
            return False
        if not byte:
            return False
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        if descriptors:
            control = socket.socket(fileno=descriptors[0])
            try:
                self._fork(control, descriptors[1:])
            except OSError as error:
                report(control, f"failed {type(error).__name__}: {error}")
                control.close()
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        return True

    def _fork(self, control: socket.socket, descriptors: Sequence[int]) -> None:
        if len(descriptors) < REQUEST_DESCRIPTORS - 1:
            raise OSError("too many open files in the fork server")
        pid = os.fork()
        if pid:
            self._supervisors[pid] = control
            return
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            self._driver_socket.close()
            for other in self._supervisors.values():
                other.close()
            for descriptor in (self._living, self._woken, self._wake):
                os.close(descriptor)
            supervise(control, self._alive, lambda: become_worker(*descriptors))
        finally:
            os._exit(1)

    def _reap(self) -> None:
        """Reap supervisors that have ended, and end the processes that a killed one left to this
        process.
        """
        found = False
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                control = self._supervisors.pop(pid, None)
                if control is not None:
                    control.close()
            found = True  # there are children left
        if found:
            kill(descendants(keep=self._supervisors))

    def _suspend(self, *_: object) -> None:
        """Pass Ctrl-Z on to the workers.

        It stops the driver's process group, which includes this process, but not the sessions of
        the workers: they are stopped and continued with it.
        """
        for order in (signal.SIGSTOP, signal.SIGCONT):
            for pid in self._supervisors:
                with contextlib.suppress(OSError):
                    os.killpg(pid, order)
            if order == signal.SIGSTOP:
                os.kill(os.getpid(), signal.SIGSTOP)


def become_worker(pipe: int, settings: int, job: int) -> None:
    """Become a worker: call the function that the settings name."""
    content = os.pread(
        settings, os.fstat(settings).st_size - SETTINGS_OFFSET_BYTES, SETTINGS_OFFSET_BYTES
    )
    entry, arguments = pickle.loads(content)
    entry(socket.socket(fileno=pipe), settings, job, *arguments)
