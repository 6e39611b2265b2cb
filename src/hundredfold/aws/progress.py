"""The progress of a model, read from its outcomes; each outcome is read once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ..data.checksums import get_sealed
from ..data.layout import Layout
from ..data.outcomes import UnitStatus, unpack_statuses
from ..pipeline.coverage import Coverage
from ..pipeline.work import Progress
from .adapters.s3_store import S3Store

READ_THREADS = 16


class ProgressReader:
    """The units of a model that have an outcome, and those that did not end with `ok`.

    The last outcome of a unit counts.
    """

    def __init__(self, store: S3Store, layout: Layout, model: str, units: int) -> None:
        self.store, self.layout, self.model = store, layout, model
        self.coverage = Coverage(units)
        self.failures: set[int] = set()
        self.last_failure = ""
        self._read_keys: set[str] = set()

    def read(self) -> Progress:
        """Return the current progress; only outcomes that are new since the last call are read."""
        listed = self.store.list(self.layout.outcomes(self.model) + "/")
        # sorted by attempt first
        fresh = sorted(
            key
            for key in listed
            if key not in self._read_keys and self.layout.parse_outcome_key(key)
        )
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for key, failed in zip(fresh, pool.map(self._read_failures, fresh), strict=True):
                self._add(key, failed)
        return Progress(
            self.model,
            int(self.coverage.done.sum()),
            len(self.coverage.done),
            len(self.failures),
            self.last_failure,
        )

    def _add(self, key: str, failed: Sequence[UnitStatus]) -> None:
        done = self.layout.parse_outcome_key(key)
        assert done is not None
        self._read_keys.add(key)
        self.coverage.add(done.first, done.last)
        self.failures -= {unit for unit in self.failures if done.first <= unit <= done.last}
        self.failures |= {account.unit for account in failed}
        if failed:
            self.last_failure = f"{failed[-1].error}: {failed[-1].message.partition(chr(10))[0]}"

    def _read_failures(self, key: str) -> Sequence[UnitStatus]:
        try:
            return unpack_statuses(get_sealed(self.store, key)).not_ok
        except KeyError:  # it was merged with others, or removed for a retry
            return ()
