"""`hundredfold doctor --backend aws`: what of a stack and its account would lose work, stop it, or
let it crawl.

Each trap is a function of its own (traps.py) over what is there (seen.py). A trap that cannot be
looked into, because a right is missing or AWS does not answer, is itself a finding: nothing is
called healthy that nobody has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from botocore.exceptions import BotoCoreError, ClientError

from ...errors import HundredfoldError, UsageError
from ..adapters.session import StackResources
from .checks import ACCOUNT, STACK
from .finding import Finding, Level
from .snapshot import StackSnapshot

ORDER = (Level.WRONG, Level.RISK, Level.NOTE)

Trap = Callable[[StackSnapshot], Iterable[Finding]]


def examine(stack: str) -> list[Finding]:
    """All that is found, the worst first; nothing, if all is well. It only reads."""
    try:
        place = StackResources.of_stack(stack)
    except UsageError as error:
        missing = Finding(
            Level.WRONG,
            error.message,
            "no run can be started on AWS",
            "hundredfold deploy MODULE:JOB",
        )
        return _sorted([missing, *_all(ACCOUNT, StackSnapshot(stack, None))])
    return _sorted(_all([*STACK, *ACCOUNT], StackSnapshot(stack, place)))


def _all(traps: Iterable[Trap], seen: StackSnapshot) -> Iterator[Finding]:
    for trap in traps:
        try:
            yield from trap(seen)
        except (ClientError, BotoCoreError, HundredfoldError) as error:
            yield Finding(
                Level.NOTE,
                f"{(trap.__doc__ or '').partition('.')[0].lower()}: could not be looked at "
                f"({error})",
                "this was not checked",
                "aws sts get-caller-identity   # who is asking? the rights to read the stack's "
                "things are wanted",
            )


def _sorted(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: ORDER.index(finding.level))
