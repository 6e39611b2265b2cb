"""`run --confirm-above DOLLARS`: a question before an expensive run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from ..figures import money

if TYPE_CHECKING:
    from ..runs.backend import RunArguments


def confirm_cost(arguments: RunArguments, limit: float, *, on_aws: bool) -> None:
    """Ask if a run may cost more than `limit` dollars, by the upper end of its plan's interval.

    Raises: UsageError if there is no plan, no terminal to ask on, or the answer is no.
    """
    from ..runs.plans import read_plan, way_of

    if not on_aws or arguments.plan is None:
        raise UsageError(
            "--confirm-above is for --backend aws with --plan FILE, which has the dollars",
            hint="make it with: hundredfold plan JOB --out plan.json",
        )
    way = way_of(read_plan(arguments.plan), on_aws=True)
    if way["dollars"] and way["dollars"][-1] <= limit:
        return
    cost = f"up to {money(way['dollars'][-1])} dollars" if way["dollars"] else "an unknown price"
    question = f"{way['title']} may take {cost}, which is above {money(limit)}"
    if not way["dollars"]:
        question = f"{way['title']} has {cost}"
    if not sys.stdin.isatty():
        raise UsageError(
            f"{question}, and no terminal is there to confirm it",
            hint="allow it with a higher --confirm-above, or without it",
        )
    if not click.confirm(f"{question}. Run it?", err=True):
        raise UsageError("not confirmed: nothing was started")
