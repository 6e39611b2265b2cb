"""Runs that an upload starts: off unless the settings say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import aws_events, aws_events_targets
from constructs import Construct

from .settings import Location


def start_on_uploads(
    scope: Construct, machine: Any, places: Mapping[str, Location]
) -> tuple[Any, ...]:
    """A rule for each source: a file that comes to its place starts a run with that file as the
    source.
    """
    return tuple(_rule(scope, machine, source, place) for source, place in places.items())


def _rule(scope: Construct, machine: Any, source: str, place: Location) -> Any:
    of = aws_events.EventField
    at = f"s3://{of.from_path('$.detail.bucket.name')}/{of.from_path('$.detail.object.key')}"
    rule = aws_events.Rule(
        scope,
        f"Upload-{source}",
        description=(
            f"A run of the job for each file that comes to {place.prefix or 'the bucket'}, as the "
            f"source {source}"
        ),
        event_pattern=aws_events.EventPattern(
            source=["aws.s3"],
            detail_type=["Object Created"],
            detail={
                "bucket": {"name": [place.bucket]},
                "object": {"key": [{"prefix": place.prefix}]},
            },
        ),
    )
    told = {
        "run": f"upload-{of.event_id}",
        "sources": {source: at},
    }  # an event may come twice: the second finds its run begun
    rule.add_target(
        aws_events_targets.SfnStateMachine(
            machine, input=aws_events.RuleTargetInput.from_object(told)
        )
    )
    return rule
