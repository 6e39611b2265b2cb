"""Alarms that a person should look at, each with what it means.

No data is no alarm: between runs nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aws_cdk import Duration, aws_cloudwatch, aws_cloudwatch_actions, aws_sns
from constructs import Construct

from .settings import Settings

LOOK = Duration.minutes(5)
STUCK = 900  # seconds in which a dead letter is buried, if burying works at all


@dataclass(frozen=True, slots=True)
class Watched:
    """What the alarms look at."""

    queue: Any
    dead: Any
    step: Any
    machine: Any
    rules: tuple[Any, ...]


def make_alarms(scope: Construct, watched: Watched, settings: Settings) -> None:
    topic = (
        aws_sns.Topic.from_topic_arn(scope, "AlarmTopic", settings.alarm_topic)
        if settings.alarm_topic
        else None
    )
    for name, metric, above, words in _alarms(watched, settings):
        alarm = aws_cloudwatch.Alarm(
            scope,
            name,
            metric=metric,
            threshold=above,
            evaluation_periods=1,
            comparison_operator=aws_cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=aws_cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=words,
        )
        if topic is not None:
            alarm.add_alarm_action(aws_cloudwatch_actions.SnsAction(topic))


def _alarms(watched: Watched, settings: Settings) -> Iterator[tuple[str, Any, float, str]]:
    """Name, metric, threshold that it must not exceed, and what to do."""
    yield (
        # how many lie there would miss them: the function that buries them is faster than the
        # metric
        "DeadLetters",
        watched.dead.metric_number_of_messages_received(period=LOOK, statistic="Sum"),
        0,
        "Work was given up: its units are crashed in their run. hundredfold failures tells why, "
        "hundredfold retry does them again.",
    )
    yield (
        "DeadLettersStay",
        watched.dead.metric_approximate_age_of_oldest_message(period=LOOK, statistic="Maximum"),
        STUCK,
        "Dead letters cannot be written into their runs' accounts, so those runs cannot end: see "
        "the log of the function bury.",
    )
    yield (
        "RunOverdue",
        watched.queue.metric_approximate_age_of_oldest_message(period=LOOK, statistic="Maximum"),
        settings.overdue,
        f"A message has waited or been worked on for more than {settings.overdue:,} s. "
        "hundredfold status shows how far the run is.",
    )
    yield (
        "RunFailed",
        watched.machine.metric_failed(period=LOOK, statistic="Sum"),
        0,
        "A run failed; its reason is in its record: hundredfold status.",
    )
    yield (
        "StepErrors",
        watched.step.metric_errors(period=LOOK, statistic="Sum"),
        0,
        "The function step raised, or died: of memory, or of time. The state machine tries again; "
        "its log says more.",
    )
    for number, rule in enumerate(watched.rules):
        yield (
            f"UploadNotStarted{number or ''}",
            aws_cloudwatch.Metric(
                namespace="AWS/Events",
                metric_name="FailedInvocations",
                dimensions_map={"RuleName": rule.rule_name},
                period=LOOK,
                statistic="Sum",
            ),
            0,
            "A file was uploaded, and no run could be started with it: start one by hand with "
            "hundredfold run.",
        )
