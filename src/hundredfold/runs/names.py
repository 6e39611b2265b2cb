"""Names that a person types for a run or a job: checked before anything is looked up or locked under them."""

from __future__ import annotations

import re
from typing import Any

from ..errors import UsageError
from ..job import NAME

RUN_ID = re.compile(r"(?!-)[\w-]{1,80}")  # letters and digits of any alphabet


def check_run_id(run: Any) -> str:
    """Return a run's id. Raises: UsageError for a value that no run can have: empty, a path, with blanks, too long."""
    if not isinstance(run, str) or not RUN_ID.fullmatch(run):
        raise UsageError(
            f"the run id {run!r} cannot be used",
            hint="wanted letters, digits, - and _ (at most 80), such as hundredfold status lists; leave it out for the newest run",
        )
    return run


def check_job_name(job: Any) -> str:
    """Return a job's name. Raises: UsageError for a value that no job can have, such as a path or module:attribute."""
    if not isinstance(job, str) or not NAME.fullmatch(job):
        raise UsageError(
            f"{job!r} cannot be a job's name",
            hint="wanted the name that Job(...) declares, in lower-case letters, digits and _; hundredfold status --all lists them",
        )
    return job
