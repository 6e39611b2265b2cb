"""The code with which a run is done: kept with it, compared when it goes on, and recorded by
attempt.
"""

from __future__ import annotations

from ..data.checksums import get_sealed, put_sealed
from ..errors import DamagedFile, StateError
from ..job import Job, Layout
from ..ports.interfaces import Record, RunHome
from ..ports.run_facts import CodeEntry
from ..workers.job_pickle import pickle_job
from .job_code import JobCode, differences, facts_of, read_job_code
from .retry import plan_remaining


def check_code(home: RunHome, record: Record, job: Job, verb: str, accept: bool) -> JobCode:
    """Return the code of the job as it is now.

    StateError if it is not that with which the run was done so far, unless that is accepted.
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
        problems = ["what differs is not known: the run's copy of its code is gone or damaged"]
    raise StateError(
        f"the code is not that with which run {record.id} was done so far",
        problems=problems,
        hint=f"go on with the code as it is now: hundredfold {verb} {record.id} --accept-new-code "
        "  (in Python: accept_new_code=True)   or put the code back, or run the job again",
    )


def is_new_code(record: Record, code: JobCode) -> bool:
    """Whether code is other than that with which the run was done last."""
    return bool(record.code) and record.code[-1]["fingerprint"] != code.fingerprint


def keep_code(home: RunHome, record: Record, code: JobCode, attempt: int | None = None) -> None:
    """Keep the code with the run, and record that it is that of an attempt (the run's present one)
    and of those that follow.
    """
    layout = Layout(record.id)
    try:
        get_sealed(home.store, layout.code(code.fingerprint))
    except (KeyError, DamagedFile):
        put_sealed(home.store, layout.code(code.fingerprint), code.archive())
    if not record.code or is_new_code(record, code):
        first = attempt if attempt is not None else record.attempt
        entry = CodeEntry(attempt=first, fingerprint=code.fingerprint, commit=code.commit)
        home.ledger.note(record.id, options={"code": [*record.code, entry]})


def keep_job(home: RunHome, record: Record, job: Job, code: JobCode) -> None:
    """Keep a job that was given as an object, where its code is new: whoever goes on without naming
    a job takes this one.
    """
    if not record.ref and is_new_code(record, code):
        put_sealed(home.store, Layout(record.id).job(), pickle_job(job))


def plan_new_code(home: RunHome, record: Record, job: Job, code: JobCode) -> None:
    """Let what is left of a run be done in an attempt of its own, so that each unit's attempt says
    by which code it was done.
    """
    keep_job(home, record, job, code)
    left = plan_remaining(home, record, job)
    attempt = record.attempt + 1
    keep_code(home, record, code, attempt)
    if left:
        home.ledger.note(record.id, options={"attempt": attempt})
