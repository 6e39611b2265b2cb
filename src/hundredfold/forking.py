"""How child processes are started, and what surrounds them while they start.  Light to import: a command calls `warm` first of all."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator

from .errors import CrewError

PINS = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "BLIS_NUM_THREADS",
        "POLARS_MAX_THREADS",
        "NUMBA_NUM_THREADS",
    ),
    "1",
)
# imported once for all children; the user's own modules may not survive a fork
PRELOADED = ["hundredfold.pinned", "hundredfold.desk", "pyarrow.compute"]
_launching = threading.Lock()  # what is hidden and pinned while a process starts belongs to the whole of this one


def start_method() -> str:
    """How children are started: by a server that forks clean ones where there is one, else afresh, or as HUNDREDFOLD_START says."""
    # a fork of the driver would take its threads' locks along
    there = [method for method in mp.get_all_start_methods() if method != "fork"]
    wanted = os.environ.get("HUNDREDFOLD_START") or ("forkserver" if "forkserver" in there else "spawn")
    if wanted not in there:
        raise CrewError(f"HUNDREDFOLD_START is {wanted!r}, wanted {' or '.join(there)}")
    return wanted


def warm() -> None:
    """Let the server that forks children start now and import what they need, while the caller still imports what it needs."""
    if start_method() == "forkserver":
        threading.Thread(target=_start_server, daemon=True).start()


def _start_server() -> None:
    from multiprocessing import forkserver

    out_of_reach()
    with contextlib.suppress(OSError), starting():
        forkserver.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """What holds while a process is started."""
    with _launching, _pinned_environment() if start_method() == "spawn" else contextlib.nullcontext(), _hidden_main():
        yield


def out_of_reach() -> None:
    """What this thread starts from now on, Ctrl-C must not reach."""
    with contextlib.suppress(ImportError, AttributeError):  # Windows has none
        from multiprocessing.resource_tracker import ensure_running

        ensure_running()  # first: when it has started, it lets the signal through again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@contextlib.contextmanager
def _pinned_environment() -> Iterator[None]:
    """The pins in this process's own environment: a spawned child reads its libraries' settings before any code of ours."""
    before = {name: os.environ.get(name) for name in PINS}
    os.environ.update(PINS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Children need nothing of the caller's __main__ (its functions travel by value): so a script needs no main guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
