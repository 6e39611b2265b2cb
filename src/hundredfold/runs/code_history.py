"""The history of the code that does a run: kept with the run, recorded by attempt, compared on
resume.
"""

from __future__ import annotations

from ..data.checksums import get_sealed, put_sealed
from ..data.layout import Layout
from ..errors import DamagedFile, StateError
from ..job import Job
from ..ports.interfaces import Record, RunHome
from ..ports.run_facts import CodeEntry
from ..workers.job_pickle import pickle_job
from .job_code import JobCode, differences, facts_of, read_job_code
from .retry import plan_remaining


def check_code(home: RunHome, record: Record, job: Job, verb: str, accept: bool) -> JobCode:
    """Return the present code of the job.

    Raises: StateError if it is not the code that did the run so far, unless `accept` is set.
    """
    code = read_job_code(job, record.ref)
    if accept or not is_new_code(record, code):
        return code
    last = record.code[-1]["fingerprint"]
    try:
        problems = differences(
            facts_of(get_sealed(home.store, Layout(record.id).code(last)).to_pybytes()), code.facts
        )
    except (KeyError, DamagedFile):
        problems = ["the differences are unknown: the run's copy of its code is missing or damaged"]
    raise StateError(
        f"the code is not that which did run {record.id} so far",
        problems=problems,
        hint=f"continue with the present code: hundredfold {verb} {record.id} --accept-new-code   "
        "(in Python: accept_new_code=True)   or restore the earlier code, or run the job again",
    )


def is_new_code(record: Record, code: JobCode) -> bool:
    """Return whether code is other than that which did the run last."""
    return bool(record.code) and record.code[-1]["fingerprint"] != code.fingerprint


def keep_code(home: RunHome, record: Record, code: JobCode, attempt: int | None = None) -> None:
    """Keep the code with the run, and record that it does an attempt and those after it.

    attempt: by default the present one.
    """
    layout = Layout(record.id)
    archive = code.archive()
    try:
        kept = get_sealed(home.store, layout.code(code.fingerprint)).to_pybytes()
    except (KeyError, DamagedFile):
        kept = b""
    if kept != archive:  # workers execute it: a copy that another user changed is replaced
        put_sealed(home.store, layout.code(code.fingerprint), archive)
    if not record.code or is_new_code(record, code):
        first = attempt if attempt is not None else record.attempt
        entry = CodeEntry(attempt=first, fingerprint=code.fingerprint, commit=code.commit)
        home.ledger.note(record.id, options={"code": [*record.code, entry]})


def keep_job(home: RunHome, record: Record, job: Job, code: JobCode) -> None:
    """Keep a job that was passed as an object, where its code is new.

    A later command that names no job uses this one.
    """
    if not record.ref and is_new_code(record, code):
        put_sealed(home.store, Layout(record.id).job(), pickle_job(job))


def plan_new_code(home: RunHome, record: Record, job: Job, code: JobCode) -> None:
    """Plan the remaining units of a run as an attempt of their own.

    The attempt of a unit then identifies the code that did it.
    """
    keep_job(home, record, job, code)
    left = plan_remaining(home, record, job)
    attempt = record.attempt + 1
    keep_code(home, record, code, attempt)
    if left:
        home.ledger.note(record.id, options={"attempt": attempt})
