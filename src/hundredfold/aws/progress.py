"""How far the workers of a model are, seen from afar: what their outcomes tell, each of which is
read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ..data.checksums import get_sealed
from ..data.outcomes import UnitStatus, unpack_ledger
from ..job import Layout
from ..pipeline.coverage import Coverage
from ..pipeline.work import Progress
from .adapters.s3_store import S3Store

AT_ONCE = 16


class ProgressReader:
    """The units of a model that have an outcome, and those of them that did not end well.

    Of a unit that was done again, the last counts.
    """

    def __init__(self, store: S3Store, layout: Layout, model: str, units: int) -> None:
        self.store, self.layout, self.model = store, layout, model
        self.coverage = Coverage(units)
        self.bad: set[int] = set()
        self.last_failure = ""
        self._seen: set[str] = set()

    def look(self) -> Progress:
        """How far the model is now; only what has come since the last look is read."""
        listed = self.store.list(self.layout.outcomes(self.model) + "/")
        fresh = sorted(
            key for key in listed if key not in self._seen and self.layout.parse_outcome_key(key)
        )  # by attempt, first of all
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for key, bad in zip(fresh, pool.map(self._bad, fresh), strict=True):
                self._add(key, bad)
        return Progress(
            self.model,
            int(self.coverage.done.sum()),
            len(self.coverage.done),
            len(self.bad),
            self.last_failure,
        )

    def _add(self, key: str, bad: Sequence[UnitStatus]) -> None:
        done = self.layout.parse_outcome_key(key)
        assert done is not None
        self._seen.add(key)
        self.coverage.add(done.first, done.last)
        self.bad -= {unit for unit in self.bad if done.first <= unit <= done.last}
        self.bad |= {account.unit for account in bad}
        if bad:
            self.last_failure = f"{bad[-1].error}: {bad[-1].message.partition(chr(10))[0]}"

    def _bad(self, key: str) -> Sequence[UnitStatus]:
        try:
            return unpack_ledger(get_sealed(self.store, key)).not_ok
        except KeyError:  # it was put together with others, or is forgotten for a retry
            return ()
