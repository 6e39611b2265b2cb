"""The pilot: a real run of a sample of a job's units, in a temporary home, and the fits of its
times.

Sources are validated and models prepared as in any run. Before a model's work begins, the list of
units to execute is replaced by a sample, drawn by size (bench/sample.py): first a few units, then,
resumed, as many as the time allows. If that is all of them, the run goes on to the next model;
otherwise it ends, because later models need all results of the earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..api import resume, run
from ..bench.engine import Listener, Stopwatch, TimeLimitReached, unit_times
from ..bench.sample import Draw, draw
from ..data.layout import Layout
from ..data.manifest import Manifest, UnitList, key_text
from ..data.messages import Batch
from ..errors import HundredfoldError, PublishRefused
from ..job import Job, Model, Source
from ..local.home import Home
from ..pipeline.enqueue import plan_retry, retry_key
from ..pipeline.stages import Stage
from ..pipeline.work import Progress
from ..ports.interfaces import Store
from ..sql.sources.files import find_files
from .fits import count_running, fit_costs, sum_error
from .worker_memory import largest_child_bytes

RUN_ID, ATTEMPT = "pilot", 1
FIRST_UNITS = 40  # of the first round
MAX_UNITS = 5_000  # of a sample that is not everything
SECOND_SHARE = 0.8  # of the time left, for the second round
MEMORY_SAMPLE_S = 0.2
MIN_MODEL_S = 1.0
# assumptions where the pilot did not execute all units: of the engine for a message and a unit, of
# collecting and publishing, of the end of a run
LOCAL_MESSAGE_S, ENGINE_S_PER_UNIT = 0.005, 6e-6
COLLECT_S, COLLECT_S_PER_UNIT, PUBLISH_S, END_S = 0.1, 3e-6, 0.2, 0.1

Floats = NDArray[np.float64]
Keep = Callable[[Sequence[Model], Store], None]


@dataclass(frozen=True, slots=True)
class ModelPilot:
    """A model in the pilot.

    rows, expected: shape (units,): rows of each unit, and its expected seconds on one core.
    spread, error: as in simulator.Work. first_call_s: what the first unit of a process takes more.
    message_s: of the engine for each message, measured if all units were executed. wait_s: seconds
    of the work before the first unit, until the worker processes have started. running_s: how long
    a unit had been executed when the time was over; it is at least one that takes longer.
    longest_key: the key of the unit with the most expected seconds.
    """

    model: Model
    rows: NDArray[np.int64]
    expected: Floats
    spread: float
    error: float
    first_call_s: float
    timed: int
    failed: int
    prepare_s: float
    message_s: float
    collect_s: float
    batches: tuple[Batch, ...]
    wait_s: float = 0.0
    running_s: float = 0.0
    longest_key: str = ""

    @property
    def seconds(self) -> float:
        """The expected seconds of all units on one core."""
        return float(self.expected.sum())


@dataclass(frozen=True, slots=True)
class Pilot:
    """All that the pilot measured. left_out: models that it did not reach. start_s: of the start
    and the end of a run, around its steps.
    """

    job: Job
    models: tuple[ModelPilot, ...]
    left_out: tuple[str, ...]
    reading_s: float
    publish_s: float
    worker_bytes: int
    source_bytes: tuple[int, ...]
    rejected: int
    refused: str
    start_s: float = 0.0


@dataclass
class PilotWatch(Stopwatch):
    """A stopwatch that replaces the units of a model by a sample before they are enqueued."""

    home: Home | None = None
    drawn: dict[str, Draw] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)  # units of the sample
    first_units: dict[str, int] = field(default_factory=dict)  # of an earlier round
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
                self.first_commit_s.setdefault(self.now.model.name, start)
            self.spent += self.clock() - self.since - start
        super().close()

    def is_complete(self, model: str) -> bool:
        """Return whether the sample of a model is all of its units."""
        return self.wanted[model] == len(self.drawn[model].order)

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
        if model.name not in self.drawn:
            self.drawn[model.name] = _draw(model, manifest, self.home)
            first = FIRST_UNITS
            if model.batched:  # a call takes a whole batch
                batch = typical_first(manifest)[0]
                first = batch.last - batch.first + 1
            self.wanted[model.name] = min(first, len(self.drawn[model.name].order))
        if self.is_complete(model.name):  # as in any run: batch by batch, the most expensive first
            store.delete(retry_key(layout, model.name, ATTEMPT))
            return
        units = self.drawn[model.name].order[: self.wanted[model.name]]
        plan_retry(manifest, layout, ATTEMPT, [int(unit) for unit in units], store)


def _draw(model: Model, manifest: Manifest, home: Home) -> Draw:
    """Return the order of the units; of a batched model, batch by batch, typical ones first."""
    rows = UnitList.read(Layout(RUN_ID), model.name, home.store).rows
    if not model.batched:
        return draw(rows)
    batches = typical_first(manifest)
    order = np.concatenate([np.arange(batch.first, batch.last + 1) for batch in batches])
    return Draw(order, np.zeros(len(order)), np.zeros(len(order)))


def typical_first(manifest: Manifest) -> list[Batch]:
    """Return the batches, those of the median cost first: the last one may have two units."""
    median = float(np.median([batch.cost for batch in manifest.batches]))
    return sorted(manifest.batches, key=lambda batch: abs(batch.cost - median))


def run_pilot(
    job: Job,
    sources: Mapping[str, Any],
    seconds: float,
    options: Mapping[str, Any],
    workers: int,
    listener: Listener,
    keep: Keep | None = None,
) -> Pilot:
    """Run a sample of the job's units for about `seconds`, and return the fitted times.

    keep: is passed the models and the store of the pilot, before it is deleted.

    Raises:
        HundredfoldError: the job cannot be run, or no unit ended within the time.
    """
    with TemporaryDirectory(prefix="hundredfold-plan-", ignore_cleanup_errors=True) as folder:
        home = Home(folder)

        def limit(watch: Stopwatch, _: Model) -> float:
            return _time_left(watch, seconds)

        watch = PilotWatch(listener, limit, MIN_MODEL_S, home=home)
        refused, complete = "", False
        while True:
            try:
                _run_or_resume(job, sources, home, options, watch)
                complete = True
            except PublishRefused as refusal:
                refused = str(refusal)
            except TimeLimitReached:
                if _enlarge(watch, seconds, workers):
                    continue
            watch.close()
            whole = watch.clock() - watch.began if complete and watch.fresh == 1 else None
            pilot = _summarize(job, sources, watch, whole, refused, workers)
            if keep is not None:
                keep([each.model for each in pilot.models], home.store)
            return pilot


def _time_left(watch: Stopwatch, seconds: float) -> float:
    """Return the seconds that are left to execute units: steps beside it do not count."""
    assert isinstance(watch, PilotWatch)
    return max(seconds - watch.spent, 0.0)


def _run_or_resume(
    job: Job,
    sources: Mapping[str, Any],
    home: Home,
    options: Mapping[str, Any],
    watch: PilotWatch,
) -> None:
    watch.fresh += 1
    if watch.fresh > 1:
        watch.resumed = True
        pool = {name: options[name] for name in ("workers", "memory")}
        resume(RUN_ID, home=home.folder, job=job, callbacks=watch, **pool)
        return
    run(job, sources, home=home.folder, run_id=RUN_ID, callbacks=watch, **options)


def _enlarge(watch: PilotWatch, seconds: float, workers: int) -> bool:
    """Enlarge the sample of the current model if the time allows; return whether it was."""
    assert watch.home is not None
    if not watch.drawn:
        raise HundredfoldError(
            "the sources were not prepared within the time of the pilot",
            hint="give it more time with --pilot-seconds",
        )
    name = list(watch.drawn)[-1]
    drawn, wanted = watch.drawn[name], watch.wanted[name]
    rows = UnitList.read(Layout(RUN_ID), name, watch.home.store).rows
    done, spent, _, _ = unit_times(watch.home, RUN_ID, name, len(rows))
    left = _time_left(watch, seconds) * SECOND_SHARE
    if watch.is_complete(name) or left <= 0 or not done[drawn.order[:wanted]].all():
        return False
    typical, _, _ = fit_costs(rows, done, spent[done], 2 * workers)
    ahead = np.cumsum(typical[drawn.order[wanted:]]) / workers
    fits = int(np.searchsorted(ahead, left))
    if wanted + fits < len(drawn.order):
        fits = min(fits, MAX_UNITS)
    if not fits or fits < min(FIRST_UNITS, len(drawn.order) - wanted) // 4:
        return False
    watch.first_units[name], watch.wanted[name] = wanted, wanted + fits
    for stage in (f"enqueue {name}", f"work {name}"):
        watch.seconds.pop(stage, None)
    return True


def _summarize(
    job: Job,
    sources: Mapping[str, Any],
    watch: PilotWatch,
    whole: float | None,
    refused: str,
    workers: int,
) -> Pilot:
    models = tuple(
        _model_pilot(watch, model, workers) for model in job.models if model.name in watch.drawn
    )
    parts = sum(watch.seconds.values())
    start = max(whole - parts, 0.0) if whole else watch.start_s + END_S
    return Pilot(
        job,
        models,
        tuple(model.name for model in job.models[len(models) :]),
        watch.seconds["validate"],
        watch.seconds.get("publish", PUBLISH_S) if job.releases else 0.0,
        watch.worker_bytes,
        tuple(
            _size_of(source, sources.get(source.name, source.path), job) for source in job.sources
        ),
        watch.rejected,
        refused,
        start,
    )


def _model_pilot(watch: PilotWatch, model: Model, workers: int) -> ModelPilot:
    assert watch.home is not None
    name = model.name
    listed = UnitList.read(Layout(RUN_ID), name, watch.home.store)
    rows = listed.rows
    done, seconds, failed, _ = unit_times(watch.home, RUN_ID, name, len(rows))
    if not done.any():
        raise HundredfoldError(
            f"no unit of {name} ended within the time of the pilot",
            hint="give it more time with --pilot-seconds",
        )
    if failed == int(done.sum()):
        raise HundredfoldError(
            f"every unit of {name} that the pilot executed failed: {failed:,}",
            hint="hundredfold run shows why",
        )
    expected, spread, first_call = fit_costs(rows, done, seconds[done], watch.fresh * workers)
    timed, complete = int(done.sum()), bool(done.all())
    batches = Manifest.read(Layout(RUN_ID), name, watch.home.store).batches
    message_s = LOCAL_MESSAGE_S + ENGINE_S_PER_UNIT * len(rows) / len(batches)
    wait, running = 0.0, 0.0  # if it is complete, the wait is in message_s
    if complete:
        expected, first_call = seconds.copy(), 0.0
        spent = watch.seconds.get(f"work {name}", 0.0) * workers
        rest = spent - float(
            seconds[watch.drawn[name].order[watch.first_units.get(name, 0) :]].sum()
        )
        message_s = max(rest / len(batches), LOCAL_MESSAGE_S)
    else:
        sample = watch.drawn[name].order[: watch.wanted[name]]
        left = sample[~done[sample]]
        running = count_running(watch.running_s.get(name, 0.0), left, rows, expected)
        wait = watch.first_commit_s.get(name, 0.0) - _first_chunk_s(model, batches, expected)
    return ModelPilot(
        model,
        rows,
        expected,
        spread,
        0.0 if complete else sum_error(spread, timed),
        first_call,
        timed,
        failed,
        watch.seconds.get(f"prepare {name}", 0.0),
        message_s,
        watch.seconds.get(f"collect {name}", COLLECT_S + COLLECT_S_PER_UNIT * len(rows)),
        batches,
        max(wait, 0.0),
        running,
        key_text(listed.key(int(expected.argmax()))),
    )


def _first_chunk_s(model: Model, batches: Sequence[Batch], expected: Floats) -> float:
    """Return the expected seconds of the units of the first outcome of a pilot."""
    if not model.batched:
        return float(np.median(expected))
    return float(expected.sum()) / len(batches)


def _size_of(source: Source, location: Any, job: Job) -> int:
    """Return the bytes of a source's files; 0 for a table in memory."""
    if not isinstance(location, str | Path):
        return 0
    found = find_files(source.name, str(location), job.folder or Path())
    return sum(Path(path).stat().st_size for path in found.paths)
