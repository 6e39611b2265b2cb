"""The callbacks of a pilot: they replace the units of a model by a sample, and time its steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..bench.engine import Stopwatch, TimeLimitReached
from ..data.layout import Layout
from ..data.manifest import Manifest, UnitList
from ..job import Model
from ..local.home import Home
from ..pipeline.enqueue import plan_ranges, retry_key
from ..pipeline.stages import Stage
from ..pipeline.work import Progress
from .samples import Sample, first_sample
from .worker_memory import largest_child_bytes

RUN_ID, ATTEMPT = "pilot", 1
MEMORY_SAMPLE_S = 0.2


@dataclass
class PilotWatch(Stopwatch):
    """A stopwatch that replaces the units of a model by a sample before they are enqueued."""

    home: Home | None = None
    samples: dict[str, Sample] = field(default_factory=dict)
    # the units that were done before the last round
    before: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    # units and seconds of work between the first and the last commit
    steady: dict[str, tuple[int, float]] = field(default_factory=dict)
    worker_bytes: int = 0
    last_memory_sample: float = 0.0
    spent: float = 0.0  # seconds of work on units
    fresh: int = 0  # times that worker processes were started
    start_s: float = 0.0  # before the first step
    first_commit_s: dict[str, float] = field(default_factory=dict)  # of a model's work
    running_s: dict[str, float] = field(default_factory=dict)  # since the last commit, at the end

    def stage_started(self, stage: Stage) -> None:
        model = stage.model
        self.start_s = self.start_s or self.clock() - self.began
        if model is not None and stage.step == "enqueue":
            self._plan_sample(model)
        if model is not None and stage.step == "collect" and not self.is_complete(model.name):
            self.close()
            raise TimeLimitReached
        super().stage_started(stage)

    def close(self) -> None:
        if self.now is not None and self.now.step == "work":
            start = self.first[1] if self.first else 0.0  # of the workers, and their first units
            if self.first and self.now.model is not None:
                name = self.now.model.name
                self.first_commit_s.setdefault(name, start)
                self.steady[name] = self.last[0] - self.first[0], self.last[1] - start
            self.spent += self.clock() - self.since - start
        super().close()

    def is_complete(self, model: str) -> bool:
        """Return whether the sample of a model is all of its units."""
        return self.samples[model].whole

    def progress(self, progress: Progress) -> None:
        now = self.clock()
        if now - self.last_memory_sample > MEMORY_SAMPLE_S:
            self.last_memory_sample = now
            self.worker_bytes = max(self.worker_bytes, largest_child_bytes())
        try:
            super().progress(progress)
        except TimeLimitReached:
            if progress.done:  # else a process may still be starting
                self.running_s[progress.model] = now - self.since - self.last[1]
            raise

    def _plan_sample(self, model: Model) -> None:
        assert self.home is not None
        layout, store = Layout(RUN_ID), self.home.store
        manifest = Manifest.read(layout, model.name, store)
        if model.name not in self.samples:
            rows = UnitList.read(layout, model.name, store).rows
            self.samples[model.name] = first_sample(rows, manifest, bool(model.batched))
        ranges = self.samples[model.name].ranges
        if ranges is None:  # as in any run: batch by batch, the most expensive first
            store.delete(retry_key(layout, model.name, ATTEMPT))
        else:
            plan_ranges(manifest, layout, ATTEMPT, ranges, store)
