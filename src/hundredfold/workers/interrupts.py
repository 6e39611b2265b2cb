"""Ctrl-C that waits for the end of a short block."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

# The command line lets the last two interrupt like Ctrl-C.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@contextlib.contextmanager
def defer_interrupts() -> Iterator[None]:
    """Let an interrupt take effect after the block.

    For short blocks in objects of others that an exception between any two lines leaves broken: a
    half-made `ZipFile`, for example, cannot be closed, and says so on stderr when it is collected.
    As a decorator it covers the collection of the function's own objects too. Only the main thread
    is interrupted; elsewhere this has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {
        number: handler
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name))
        if callable(handler := signal.getsignal(number))
    }
    arrived = []
    for number in handlers:
        signal.signal(number, lambda *signal_and_frame: arrived.append(signal_and_frame))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in arrived[:1]:
            handlers[number](number, frame)
