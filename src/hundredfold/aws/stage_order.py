"""The stages that one call of `step` may execute, and its replies that name the next one.

The functions and the state machine share this module: a reply and its Choice are the same text.
"""

from __future__ import annotations

from ..job import Job
from ..pipeline.stages import Stage, stages

RELEASE_STEP = "release the workers"  # in place of a step, after an execution that failed
# in place of a step, the event of EventBridge of an execution that ended before its run: its
# detail-type, and the statuses of such executions
ENDED_EXECUTION = "Step Functions Execution Status Change"
UNFINISHED = ("ABORTED", "FAILED", "TIMED_OUT")
GROUP_TOKEN = "together"  # in place of the token of one query, after several at the same time


def later_stages(job: Job, stage: Stage) -> list[Stage | None]:
    """Return the stages at which a call for `stage` may stop: up to the next one that waits for
    workers, else up to the end of the run, which is None.
    """
    every = list(stages(job))
    found: list[Stage | None] = []
    for each in every[every.index(stage) + 1 :]:
        found.append(each)
        if each.step == "work":
            return found
    return [*found, None]


def action_to(stage: Stage | None) -> str:
    """Return the action of a reply that goes to a later stage; None for the end of the run."""
    return f"to {stage}" if stage else "to the end"


def query_action(kind: str, stage: Stage | None) -> str:
    """Return the action of a reply that has a query run, or "queries", for a stage.

    None: the stage that was called.
    """
    return f"{kind} of {stage}" if stage else kind
