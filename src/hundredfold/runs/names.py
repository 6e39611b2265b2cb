"""The rules for the id of a run and the name of a job, which are checked before any lookup or
lock.
"""

from __future__ import annotations

import re

from ..errors import UsageError
from ..job import NAME

MAX_RUN_ID_CHARACTERS = 80
RUN_ID = re.compile(rf"(?!-)[\w-]{{1,{MAX_RUN_ID_CHARACTERS}}}")  # letters and digits of any script
AWS_RUN_ID = re.compile(RUN_ID.pattern.replace(r"\w", "A-Za-z0-9_"))  # AWS names executions by it


def check_run_id(run: object) -> str:
    """Return a valid run id.

    Raises: UsageError for anything else, such as an empty text, a path, or one with spaces.
    """
    if not isinstance(run, str) or not RUN_ID.fullmatch(run):
        raise UsageError(
            f"the run id {run!r} cannot be used",
            hint=f"wanted letters, digits, - and _ (at most {MAX_RUN_ID_CHARACTERS}), "
            "such as hundredfold status lists; leave it out for the newest run",
        )
    return run


def check_aws_run_id(run: object) -> str:
    """Return a run id that the names of AWS resources can hold: ASCII only.

    Raises: UsageError for anything else.
    """
    if not AWS_RUN_ID.fullmatch(check_run_id(run)):
        raise UsageError(
            f"the run id {run!r} cannot be used on AWS",
            hint=f"wanted a-z, A-Z, 0-9, - and _ (at most {MAX_RUN_ID_CHARACTERS})",
        )
    return str(run)


def check_job_name(job: object) -> str:
    """Return a valid job name. Raises: UsageError for anything else, such as a path."""
    if not isinstance(job, str) or not NAME.fullmatch(job):
        raise UsageError(
            f"{job!r} cannot be a job's name",
            hint="wanted the name that Job(...) declares, in lower-case letters, digits and _; "
            "hundredfold list   lists them",
        )
    return job
