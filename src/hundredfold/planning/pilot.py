"""The pilot: a real run of a sample of a job's units, in a temporary home, and the fits of its
times.

Sources are validated and models prepared as in any run. Before a model's work begins, the list of
units to execute is replaced by a sample (samples.py): first a few units, then, resumed, all batches
if the time allows, or else stretches of consecutive units until it is over. If all units were
executed, the run goes on to the next model; otherwise it ends, because later models need all
results of the earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..api import resume, run
from ..bench.engine import Listener, Stopwatch, TimeLimitReached, unit_times
from ..data.layout import Layout
from ..data.manifest import Manifest, UnitList, key_text
from ..data.messages import Batch
from ..errors import HundredfoldError, PublishRefused
from ..job import Job, Model, Source
from ..local.home import Home
from ..pipeline.release_tables import without_tables
from ..ports.interfaces import Store
from ..sql.sources.files import find_files
from .fits import Fit, count_running, fit_costs
from .pilot_watch import RUN_ID, PilotWatch
from .samples import next_batches, next_sample

MIN_MODEL_S = 1.0
# assumptions where the pilot did not execute all units: of the engine for a message and, if it was
# not measured, a unit; of collecting and publishing, of the end of a run
LOCAL_MESSAGE_S, ENGINE_S_PER_UNIT = 0.005, 6e-6
MAX_ENGINE_S_PER_UNIT = 1e-4
MIN_MEASURED_S = 0.5  # between two commits, to measure what the engine needs for a unit
COLLECT_S, COLLECT_S_PER_UNIT, PUBLISH_S, END_S = 0.1, 1.5e-6, 0.2, 0.1

Floats = NDArray[np.float64]
Keep = Callable[[Sequence[Model], Store], None]


@dataclass(frozen=True, slots=True)
class ModelPilot:
    """A model in the pilot.

    rows, expected: shape (units,): rows of each unit, and its expected seconds on one core.
    spread, error: as in simulator.Work. first_call_s: what the first unit of a process takes more.
    message_s: of the engine for each message, measured if all units were executed as in any run.
    wait_s: seconds of the work before the first unit, until the worker processes have started.
    running_s: how long a unit had been executed when the time was over; it is at least one that
    takes longer.
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
    job = without_tables(job)
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
                if _enlarge(job, watch, seconds, workers):
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


def _enlarge(job: Job, watch: PilotWatch, seconds: float, workers: int) -> bool:
    """Enlarge the sample of the current model if the time allows; return whether it was."""
    assert watch.home is not None
    if not watch.samples:
        raise HundredfoldError(
            "the sources were not prepared within the time of the pilot",
            hint="give it more time with --pilot-seconds",
        )
    name = list(watch.samples)[-1]
    model, layout, store = job.model(name), Layout(RUN_ID), watch.home.store
    rows = UnitList.read(layout, name, store).rows
    done, spent, _, _ = unit_times(watch.home, RUN_ID, name, len(rows))
    left = _time_left(watch, seconds)
    sample = watch.samples[name]
    if sample.last or sample.ranges is None or left <= 0:
        return False
    if not all(done[first : last + 1].all() for first, last in sample.ranges):
        return False
    fit = _fit(watch, name, rows, done, spent, workers)
    manifest = Manifest.read(layout, name, store)
    found = (
        next_batches(manifest, fit.expected, left, workers)
        if model.batched
        else next_sample(manifest, fit.expected, fit.later_s, left, workers)
    )
    if found is None:
        return False
    watch.samples[name], watch.before[name] = found, done
    for stage in (f"enqueue {name}", f"work {name}"):
        watch.seconds.pop(stage, None)
    return True


def _fit(
    watch: PilotWatch,
    name: str,
    rows: NDArray[np.int64],
    done: NDArray[np.bool_],
    seconds: Floats,
    workers: int,
) -> Fit:
    """Return the fit of the seconds of a model's units that are done."""
    assert watch.home is not None
    begins, layout = np.zeros(len(rows), bool), Layout(RUN_ID)
    for key in watch.home.store.list(layout.outcomes(name) + "/"):
        outcome = layout.parse_outcome_key(key)
        if outcome is not None:
            begins[outcome.first] = True
    return fit_costs(rows, done, seconds[done], watch.fresh * workers, begins[done])


def _summarize(
    job: Job,
    sources: Mapping[str, Any],
    watch: PilotWatch,
    whole: float | None,
    refused: str,
    workers: int,
) -> Pilot:
    models = tuple(
        _model_pilot(watch, model, workers) for model in job.models if model.name in watch.samples
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
    fit = _fit(watch, name, rows, done, seconds, workers)
    batches = Manifest.read(Layout(RUN_ID), name, watch.home.store).batches
    found = ModelPilot(
        model,
        rows,
        fit.expected,
        fit.spread,
        0.0,
        0.0,
        int(done.sum()),
        failed,
        watch.seconds.get(f"prepare {name}", 0.0),
        0.0,
        watch.seconds.get(f"collect {name}", COLLECT_S + COLLECT_S_PER_UNIT * len(rows)),
        batches,
    )
    whole = bool(done.all()) and watch.samples[name].ranges is None
    found = (
        _measured(found, watch, seconds, workers)
        if whole
        else _extrapolated(found, fit, watch, done, seconds, workers)
    )
    return replace(found, longest_key=key_text(listed.key(int(found.expected.argmax()))))


def _measured(model: ModelPilot, watch: PilotWatch, seconds: Floats, workers: int) -> ModelPilot:
    """Return a model whose units were all executed, as in any run. The wait is in message_s."""
    name = model.model.name
    earlier = watch.before.get(name, np.zeros(len(seconds), bool))
    spent = watch.seconds.get(f"work {name}", 0.0) * workers - float(seconds[~earlier].sum())
    return replace(
        model,
        # imports of an earlier round, which are not repeated
        expected=np.where(earlier, np.minimum(seconds, model.expected), seconds),
        message_s=max(spent / len(model.batches), LOCAL_MESSAGE_S),
    )


def _extrapolated(
    model: ModelPilot,
    fit: Fit,
    watch: PilotWatch,
    done: NDArray[np.bool_],
    seconds: Floats,
    workers: int,
) -> ModelPilot:
    """Return a model some of whose units were executed, or all in other messages than in a run."""
    name, planned = model.model.name, np.zeros(len(done), bool)
    for first, last in watch.samples[name].ranges or [(0, len(done) - 1)]:
        planned[first : last + 1] = True
    left = np.flatnonzero(planned & ~done)
    running = count_running(watch.running_s.get(name, 0.0), left, model.rows, fit.expected)
    wait = watch.first_commit_s.get(name, 0.0)
    a_unit = _engine_s_per_unit(watch, name, done, seconds, workers)
    return replace(
        model,
        error=fit.error,
        first_call_s=fit.first_call_s,
        message_s=LOCAL_MESSAGE_S + fit.chunk_s + a_unit * len(done) / len(model.batches),
        wait_s=max(wait - _first_chunk_s(model.model, model.batches, fit.expected), 0.0),
        running_s=running,
    )


def _engine_s_per_unit(
    watch: PilotWatch, name: str, done: NDArray[np.bool_], seconds: Floats, workers: int
) -> float:
    """Return the seconds of the engine for each unit, beside those of the unit itself.

    Measured between the first and the last commit of the last round, when no worker waited.
    """
    units, span = watch.steady.get(name, (0, 0.0))
    earlier, ranges = watch.before.get(name), watch.samples[name].ranges
    if earlier is None or ranges is None or not units or span < MIN_MEASURED_S:
        return ENGINE_S_PER_UNIT
    own = seconds[done & ~earlier]
    messages = units * len(ranges) / sum(last - first + 1 for first, last in ranges)
    spent = span * workers - units * float(own.mean()) - messages * LOCAL_MESSAGE_S
    return min(max(spent / units, 0.0), MAX_ENGINE_S_PER_UNIT)


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
