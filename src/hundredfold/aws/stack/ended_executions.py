"""The rule that lets the function `step` record executions that ended before their run."""

from __future__ import annotations

from typing import Any

from aws_cdk import aws_events, aws_events_targets
from constructs import Construct

from ..stage_order import ENDED_EXECUTION, UNFINISHED


def record_ended_executions(scope: Construct, machine: Any, step: Any) -> None:
    """Let EventBridge call `step` with each execution that was stopped, timed out, or failed.

    A state machine cannot report it itself: it executes no state after it was stopped.
    """
    rule = aws_events.Rule(
        scope,
        "EndedExecutions",
        description="Records the run of an execution that ended before it",
        event_pattern=aws_events.EventPattern(
            source=["aws.states"],
            detail_type=[ENDED_EXECUTION],
            detail={
                "stateMachineArn": [machine.state_machine_arn],
                "status": list(UNFINISHED),
            },
        ),
    )
    rule.add_target(aws_events_targets.LambdaFunction(step))
