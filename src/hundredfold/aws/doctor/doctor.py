"""`hundredfold doctor --backend aws`: finds faults of a stack and its account that would lose, stop
or slow down work.

Each check is a function (checks.py) of a snapshot of the stack (snapshot.py). A check that fails,
because a permission is missing or AWS does not reply, is itself a finding: nothing unchecked is
reported as healthy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from botocore.exceptions import BotoCoreError, ClientError

from ...errors import HundredfoldError, UsageError
from ..adapters.session import StackResources
from .checks import ACCOUNT_CHECKS, STACK_CHECKS
from .finding import Finding, Level
from .snapshot import StackSnapshot

LEVEL_ORDER = (Level.WRONG, Level.RISK, Level.NOTE)

Check = Callable[[StackSnapshot], Iterable[Finding]]


def examine(stack: str) -> list[Finding]:
    """Return all findings, the worst first; none if all is well. It only reads."""
    try:
        resources = StackResources.from_stack(stack)
    except UsageError as error:
        missing = Finding(
            Level.WRONG,
            error.message,
            "no run can be started on AWS",
            "hundredfold deploy MODULE:JOB",
        )
        return _sorted([missing, *_run_checks(ACCOUNT_CHECKS, StackSnapshot(stack, None))])
    return _sorted(_run_checks([*STACK_CHECKS, *ACCOUNT_CHECKS], StackSnapshot(stack, resources)))


def _run_checks(checks: Iterable[Check], snapshot: StackSnapshot) -> Iterator[Finding]:
    for check in checks:
        try:
            yield from check(snapshot)
        except (ClientError, BotoCoreError, HundredfoldError) as error:
            yield Finding(
                Level.NOTE,
                f"{(check.__doc__ or '').partition('.')[0].lower()}: could not be checked "
                f"({error})",
                "this was not checked",
                "aws sts get-caller-identity   # prints whose credentials these are; they need "
                "permissions to read the stack's resources",
            )


def _sorted(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: LEVEL_ORDER.index(finding.level))
