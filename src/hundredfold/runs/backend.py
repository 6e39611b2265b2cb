"""The interface of a backend, which the Python API and the command line use for local runs and on
AWS.

It is not in the package `ports` because its methods use runs, callbacks and jobs, which are in
higher layers.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..job import Job
from ..pipeline.runner import RunCallbacks
from ..ports.interfaces import Record, RunHome
from .run import Run


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The arguments of a call for one run. A backend refuses those of another with UsageError.

    workers, memory   local: processes (default: one a core); bytes or "2GB" (default: 0.7 of all)
    batches, wait     aws: approximate batches for each model; whether to follow the run to its end
    warehouse         aws: auto (default), duckdb or athena
    fleets            aws: the workers, "lambda" (default) and fleets of the stack: "fargate:20"
    as_of             the moment that counts as now for checks and release (default: now)
    budget            what the run may spend: core time locally ("30m"), dollars on AWS (2.5)
    plan              file with the plan to take: its workers and the results of its pilot locally,
                      its batches on AWS
    prices            aws: file with prices that override the table's, for the budget
    run_id            the id of the run (default: made from the time)
    max_rejected      limits by source that replace the declared ones
    max_failed        a limit for the units of each model that replaces the declared one
    accept_new_code   continue with other code than before; units that are done keep their results
    replace_newer     let the release replace that of a run created later
    """

    workers: int | None = None
    memory: str | int | None = None
    batches: int | None = None
    warehouse: str | None = None
    wait: bool = True
    as_of: dt.date | str | None = None
    run_id: str | None = None
    max_rejected: Mapping[str, float] = field(default_factory=dict)
    max_failed: float | None = None
    accept_new_code: bool = False
    replace_newer: bool = False
    budget: str | float | None = None
    prices: str | Path | None = None
    plan: str | Path | None = None
    fleets: Sequence[str] = ()
    # of the plan, once it is read: its way, and the folder with the results of its pilot
    way: Mapping[str, Any] | None = None
    pilot: Path | None = None


@dataclass(frozen=True, slots=True)
class Interruption:
    """A message for a person who stopped watching a run, and the useful next commands."""

    message: str
    # each without `hundredfold` and without the options of the backend
    commands: Sequence[Sequence[str]]


class Backend(Protocol):
    """The place where runs are executed and kept."""

    @property
    def fixed(self) -> str:
        """The participle for a corrected function, such as "fixed and deployed"."""

    @property
    def watch_options(self) -> Sequence[str]:
        """The options of `status` that follow a run in progress."""

    @property
    def cli_options(self) -> list[str]:
        """The options of a command that select this backend and its home."""

    def caller(self) -> str:
        """Return the authenticated identity of the backend's user; "" if only the operating system
        knows one.
        """

    def open_home(self, job: str | None = None) -> RunHome:
        """Return the place of the runs. Raises: HomeError or UsageError if there is none."""

    def run(
        self,
        job: Job | str,
        sources: Mapping[str, object] | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
    ) -> Run:
        """Run a job from its sources to its release."""

    def resume(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
        sources: Mapping[str, str | Path] | None = None,
    ) -> Run:
        """Resume a run that was stopped or lost its driver. sources: new places of files that were
        moved.
        """

    def retry(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
    ) -> Run:
        """Do failed and crashed units and their dependent models again, then continue to
        publish.
        """

    def publish(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
    ) -> Run:
        """Continue a run that was held back by its limits."""

    def cancel(self, run_id: str | None) -> Record:
        """End a run for good; its results stay readable."""

    def adjust(
        self, run_id: str | None, max_failed: float | None, concurrency: int | None
    ) -> Record:
        """Change the limit of failed units of a run in progress, or the number of workers on AWS.

        Raises: StateError where the run has ended, UsageError for what the backend cannot change.
        """

    def watch(self, run_id: str | None, callbacks: RunCallbacks) -> Run:
        """Follow a run to its end.

        Raises: UsageError where a run ends with the process that started it.
        """

    def interruption(self, run_id: str) -> Interruption:
        """Return the message for a person who pressed Ctrl-C while watching a run."""
