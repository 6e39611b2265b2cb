"""MiniStack with added features, on one port of 127.0.0.1; it ends when its standard input is
closed.

Run by emulator/__init__.py with the emulator's own interpreter; the patches are in gaps/.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import threading

import psutil
from gaps import (
    FOLDER,
    alarms,
    athena,
    clock,
    jobs,
    lambdas,
    logs,
    notices,
    queues,
    rights,
    states,
    tasks,
)
from ministack import app

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Adopt the orphans of functions, so that they can be found and ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """End with the process at the other end of the standard input, in whatever way that ends."""
    sys.stdin.buffer.read()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(FOLDER, ignore_errors=True)
    os._exit(0)


def main() -> None:
    adopt_orphans()
    threading.Thread(target=end_with_parent, daemon=True, name="end with parent").start()
    # notices after queues: a late notice takes the lock when it is due
    for gap in (clock, rights, queues, notices, athena, states, logs, lambdas, alarms, tasks, jobs):
        gap.fill()
    app.main()


if __name__ == "__main__":
    main()
