"""Runs that uploads start: disabled unless enabled in the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import aws_events, aws_events_targets
from constructs import Construct

from .settings import Location


def start_on_uploads(
    scope: Construct, machine: Any, locations: Mapping[str, Location]
) -> tuple[Any, ...]:
    """Create a rule for each source: a file uploaded to its location starts a run with it."""
    return tuple(_rule(scope, machine, source, location) for source, location in locations.items())


def _rule(scope: Construct, machine: Any, source: str, location: Location) -> Any:
    of = aws_events.EventField
    at = f"s3://{of.from_path('$.detail.bucket.name')}/{of.from_path('$.detail.object.key')}"
    rule = aws_events.Rule(
        scope,
        f"Upload-{source}",
        description=(
            f"A run of the job for each file uploaded to {location.prefix or 'the bucket'}, as the "
            f"source {source}"
        ),
        event_pattern=aws_events.EventPattern(
            source=["aws.s3"],
            detail_type=["Object Created"],
            detail={
                "bucket": {"name": [location.bucket]},
                "object": {"key": [{"prefix": location.prefix}]},
            },
        ),
    )
    # an event may be delivered twice, by S3 under another id: the time and the sequencer tell
    run_input = {
        "run": f"upload-{of.event_id}",
        "sources": {source: at},
        "time": of.time,
        "sequencer": of.from_path("$.detail.object.sequencer"),
    }
    rule.add_target(
        aws_events_targets.SfnStateMachine(
            machine, input=aws_events.RuleTargetInput.from_object(run_input)
        )
    )
    return rule
