"""The facts that a run's record holds: its options (the request) and its counts (the outcome).

Every ledger keeps them as JSON, and `note` merges a few of them at a time, so they are TypedDicts
with optional keys. A fact that is read in several places is a property of `Record`.
"""

from __future__ import annotations

from typing import Any, TypedDict

# of the files, records and keys of runs and releases; increased when an older or a newer program
# can no longer read them
HOME_FORMAT = 4
UNMARKED_FORMAT = 3  # the last format whose runs and stacks do not name it


class CodeEntry(TypedDict):
    """The code that did an attempt and those after it, until the next entry."""

    attempt: int
    fingerprint: str
    commit: str  # "" where the job's folder is not a Git repository


class BudgetFacts(TypedDict, total=False):
    """What a run may spend."""

    limit: float
    unit: str  # core-seconds or dollars
    # dollars of a worker on AWS: for a second of a GB, by processor; for a call
    gb_second: dict[str, float]
    call: float


class FleetFacts(TypedDict, total=False):
    """The workers that a run on AWS asks for."""

    name: str  # lambda, or a fleet of the stack
    tasks: int  # at most, at a time; of lambda without a meaning
    hourly: list[float]  # dollars of a task for an hour; a second one for a task without Spot


class RunOptions(TypedDict, total=False):
    """What a run was started with, and what was decided about it since."""

    format: int  # HOME_FORMAT of the program that created the run
    as_of: str | None  # ISO 8601, UTC, without an offset
    attempt: int
    sources: dict[str, str]  # the address of each source
    max_rejected: dict[str, float]
    max_failed: float | None
    replace_newer: bool
    budget: BudgetFacts | None
    code: list[CodeEntry]
    keys_to_delete: list[str]  # before the next attempt
    # of a local run
    workers: int | None
    memory: str | int | None
    folder: str
    pilot: str  # the folder with the results of the plan's pilot
    staged: dict[str, str]  # checksums of the tables that were passed as sources, by key
    # of a run on AWS
    warehouse: str  # auto, duckdb or athena: the request, and from the first step on the choice
    warehouse_reason: str
    batches: int | None
    batch_bytes: int | None
    fleets: list[FleetFacts]  # none for the functions alone
    stack: str
    uploaded: list[str]  # the sources whose upload started the run
    replaced_uploads: list[str]  # addresses of uploads that newer ones of the same source replaced
    execution: str  # ARN of the last execution
    executions: int
    plan: dict[str, Any]  # the way that the run takes, of the plan that it was given
    hint: list[str]  # the reason why the run failed, and the hint that belongs to it


class SourceCounts(TypedDict):
    """Rows of a source: read = accepted + rejected + dropped."""

    rows: int
    accepted: int
    rejected: int
    dropped: int
    repaired: int


class ModelCounts(TypedDict, total=False):
    """Units and rows of a model, as far as the run has come."""

    # set when it is prepared
    units: int
    rows: int
    batches: int
    costs_from: str  # the run whose seconds packed the batches; "" for rows
    costs_known: int  # units that it had
    cores: int  # that its batches could use: the most of any driver
    pilot_refused: str  # why results of the plan's pilot were not taken; "" if all were
    # set when it is collected
    attempt: int
    ok: int
    failed: int
    crashed: int
    rows_in: int
    rows_out: int
    seconds: float  # of all units on one core
    longest: float  # seconds of the longest unit that the run executed
    pilot_units: int  # whose results the run took from the pilot of its plan
    pilot_seconds: float  # of them; `seconds` includes these
    # set while its units are worked on
    done: int  # units with an outcome; in summaries only
    polling: dict[str, Any] | None  # the state of the polling on AWS


class StageTimesFacts(TypedDict):
    """The seconds of each stage so far, and the stage that is open (pipeline/stage_times.py)."""

    seconds: dict[str, float]
    stage: str
    since: float
    complete: bool


class Transition(TypedDict):
    """A change of the state or of the step of a run."""

    at: str  # ISO 8601, UTC
    state: str
    step: str


class ReleaseCounts(TypedDict):
    """The release that a run made."""

    version: int
    rows: dict[str, int]
    files: list[str]


class RunCounts(TypedDict, total=False):
    """The progress and the results of a run."""

    sources: dict[str, SourceCounts]
    csv: dict[str, list[dict[str, Any]]]  # the dialect of each CSV file, by source
    models: dict[str, ModelCounts]
    release: ReleaseCounts
    tables: dict[str, dict[str, Any]]  # rows written to tables of other systems, by output
    times: StageTimesFacts
    history: list[Transition]  # see Record.history
    spent: float  # dollars on AWS, locally core-seconds; of a run with a budget
    workers_replaced: dict[str, int]  # by reason
    recomputed: list[str]  # the damaged files, one message each
    units_recomputed: int
