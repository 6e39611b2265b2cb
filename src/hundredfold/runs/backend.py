"""The interface of a backend: what the Python API and the command line ask, whichever machine does
the work.

It is not among the ports since its methods speak of runs, callbacks and jobs, which are above them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..job import Job
from ..pipeline.runner import RunCallbacks
from ..ports.interfaces import Record, RunHome
from .run import Run


@dataclass(frozen=True, slots=True)
class RunArguments:
    """What a call decides for one run. A backend refuses, with UsageError, what is not its own.

    workers, memory   local: processes (one a core), and bytes or a text such as "2GB" (0.7 of the machine's)
    batches, wait     aws: about how many batches for each model; whether to follow the run to its end
    as_of             the moment that counts as now for the checks and the release (now)
    run_id            instead of one made from the time
    max_rejected      limits for this run instead of the declared ones, by source
    max_failed        the same, for the units of each model
    accept_new_code   go on with other code than the run began with; the units that are done keep theirs
    replace_newer     the release may replace that of a run that was created later
    """

    workers: int | None = None
    memory: str | int | None = None
    batches: int | None = None
    wait: bool = True
    as_of: dt.date | str | None = None
    run_id: str | None = None
    max_rejected: Mapping[str, float] = field(default_factory=dict)
    max_failed: float | None = None
    accept_new_code: bool = False
    replace_newer: bool = False


@dataclass(frozen=True, slots=True)
class Interruption:
    """What to tell a person who stopped watching a run: what became of it, and the commands that
    make sense now.
    """

    message: str
    commands: Sequence[
        Sequence[str]
    ]  # each with what stands between `hundredfold` and the options of the backend


class Backend(Protocol):
    """Where runs are executed and kept."""

    @property
    def fixed(self) -> str:
        """What has to be done to a function before its units are tried again, as a participle."""

    @property
    def watch_options(self) -> Sequence[str]:
        """The options of `status` that follow a run which is under way."""

    @property
    def cli_options(self) -> list[str]:
        """The options of a command that name this backend and its home again."""

    def caller(self) -> str:
        """The authenticated identity of the backend's user; "" where the operating system's is all
        there is.
        """

    def prestart(self) -> None:
        """Begin early with what a run needs later."""

    def open_home(self, job: str | None = None) -> RunHome:
        """The runs that are there; HomeError or UsageError if there is none."""

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
        """Go on with a run that was stopped or lost its driver.

        `sources`: those whose files were moved.
        """

    def retry(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
    ) -> Run:
        """Do the failed and crashed units again, and what builds on them; then go on to publish."""

    def publish(
        self,
        run_id: str | None,
        arguments: RunArguments,
        callbacks: RunCallbacks,
        *,
        job: Job | None = None,
    ) -> Run:
        """Go on with a run that its limits held back."""

    def cancel(self, run_id: str | None) -> Record:
        """End a run for good; what was done stays readable."""

    def watch(self, run_id: str | None, callbacks: RunCallbacks) -> Run:
        """Follow a run to its end; UsageError where a run is the process that started it."""

    def interruption(self, run_id: str) -> Interruption:
        """What to say to a person who pressed Ctrl-C while a run was watched."""
