"""The leases of messages that a worker holds, extended by a thread of their own.

The main thread may wait for longer than a lease lasts: for a manifest, for the imports of a job,
for a slow store. A lease is lost when the queue refuses to extend it, or when it could not be
extended in time: then the queue may have delivered the message to another worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

from ...errors import HundredfoldError
from ...ports.interfaces import Clock, Queue
from .json_log import log

RENEWALS_PER_LEASE = 3  # so that a lease survives a failed renewal
MAX_JOIN_S = 1.0  # for a renewal that waits for the queue


@dataclass
class Leases:
    """Leases of `seconds` each, by receipt. A context: its thread renews them until its end."""

    queue: Queue
    seconds: float
    clock: Clock = time.monotonic
    held: dict[str, float] = field(default_factory=dict)  # receipt: the end of its lease
    lost: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._renew_until_end, daemon=True)

    def __enter__(self) -> Leases:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(MAX_JOIN_S)

    def hold(self, receipts: Iterable[str], since: float) -> None:
        """Renew the leases of messages that were requested at that time."""
        with self._lock:
            self.held.update((receipt, since + self.seconds) for receipt in receipts)

    def release(self, receipt: str) -> bool:
        """Stop renewing a lease; return whether it was held until now."""
        with self._lock:
            is_held = self.is_held(receipt)
            self.held.pop(receipt, None)
            self.lost.discard(receipt)
        return is_held

    def is_held(self, receipt: str) -> bool:
        return receipt not in self.lost and self.held.get(receipt, 0.0) > self.clock()

    def renew(self) -> None:
        """Extend every lease that is not lost."""
        for receipt in list(self.held):
            if receipt in self.lost:
                continue
            asked = self.clock()
            try:
                extended = self.queue.extend(receipt, self.seconds)
            except HundredfoldError as error:
                log.warning("a lease could not be extended", reason=str(error))
                continue  # the next renewal may succeed before it ends
            with self._lock:
                if receipt not in self.held:  # it was released in the meantime
                    continue
                if extended and self.is_held(receipt):
                    self.held[receipt] = asked + self.seconds
                    continue
                self.lost.add(receipt)
            log.warning("a lease was lost: another worker gets the message")

    def _renew_until_end(self) -> None:
        while not self._ended.wait(self.seconds / RENEWALS_PER_LEASE):
            self.renew()
