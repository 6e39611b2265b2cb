"""Removes what a Lambda environment lacks: /dev/shm, and with it semaphores and shared memory.

Python imports this at its start in every function of the emulator and in every child process.
"""

import _multiprocessing
import errno
import os
from typing import Any

try:
    import _posixshmem
except ImportError:  # not a POSIX system
    _posixshmem = None


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


class SemLock(_multiprocessing.SemLock):
    """multiprocessing's Lock, Queue, Pool and so on are made of this"""

    def __new__(cls, *_: Any, **__: Any) -> "SemLock":
        refuse()
        raise AssertionError


_multiprocessing.SemLock = SemLock
if _posixshmem is not None:
    _posixshmem.shm_open = refuse
