"""The memory of a process tree while it runs: the peak of the sum of its proportional set sizes."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil


class PeakMemory:
    """Samples this process and its descendants until the block ends; `peak` is in bytes.

    PSS counts a page that several processes share once; where the system has none, what is not shared is summed.
    """

    def __init__(self, every: float = 0.1) -> None:
        self.every, self.peak = every, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._end.wait(self.every):
            family = [me, *me.children(recursive=True)]
            self.peak = max(self.peak, sum(map(_pss, family)))


def _pss(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(full, "pss", full.uss))
