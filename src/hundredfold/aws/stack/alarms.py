"""The alarms of a stack, each with its meaning for a person.

Missing data is not an alarm: between runs there is no activity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from aws_cdk import Duration, aws_cloudwatch, aws_cloudwatch_actions, aws_sns
from constructs import Construct

from .settings import Settings

PERIOD = Duration.minutes(5)
# seconds within which a dead-lettered message is processed, if the function works at all
Alarm = tuple[str, Any, float, str]  # name, metric, threshold, description

MAX_DEAD_LETTER_AGE_S = 900
# a mapping loses a fifth of its throughput where this fraction of calls fails
MAX_FAILED_CALLS_PERCENT = 1


@dataclass(frozen=True, slots=True)
class WatchedResources:
    """The resources that the alarms watch."""

    queue: Any
    dead: Any
    step: Any
    work: Any
    machine: Any
    rules: tuple[Any, ...]
    fleet_queue: Any = None  # of a stack with fleets
    fleets: tuple[str, ...] = ()


def make_alarms(scope: Construct, watched: WatchedResources, settings: Settings) -> None:
    topic = (
        aws_sns.Topic.from_topic_arn(scope, "AlarmTopic", settings.alarm_topic)
        if settings.alarm_topic
        else None
    )
    for name, metric, threshold, description in chain(
        _alarms(watched, settings),
        _fleet_alarms(watched, settings),
        _worker_alarms(watched),
        _upload_alarms(watched),
    ):
        alarm = aws_cloudwatch.Alarm(
            scope,
            name,
            metric=metric,
            threshold=threshold,
            evaluation_periods=1,
            comparison_operator=aws_cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=aws_cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=description,
        )
        if topic is not None:
            alarm.add_alarm_action(aws_cloudwatch_actions.SnsAction(topic))


def _alarms(watched: WatchedResources, settings: Settings) -> Iterator[Alarm]:
    yield (
        # the number of messages in the queue would miss them: the function removes them faster than
        # the metric is sampled
        "DeadLetters",
        watched.dead.metric_number_of_messages_received(period=PERIOD, statistic="Sum"),
        0,
        "Messages were dead-lettered: their units are recorded as crashed. hundredfold failures "
        "prints why, hundredfold retry executes them again.",
    )
    yield (
        "DeadLettersStay",
        watched.dead.metric_approximate_age_of_oldest_message(period=PERIOD, statistic="Maximum"),
        MAX_DEAD_LETTER_AGE_S,
        "The units of dead-lettered messages cannot be recorded, so their runs cannot end: see "
        "the log of the function dead_letter.",
    )
    yield (
        "RunOverdue",
        watched.queue.metric_approximate_age_of_oldest_message(period=PERIOD, statistic="Maximum"),
        settings.overdue,
        f"A message has waited or been processed for more than {settings.overdue:,} s. "
        "hundredfold status shows the progress of the run.",
    )
    yield (
        "RunFailed",
        watched.machine.metric_failed(period=PERIOD, statistic="Sum"),
        0,
        "A run failed; hundredfold status prints the reason.",
    )
    yield (
        "StepErrors",
        watched.step.metric_errors(period=PERIOD, statistic="Sum"),
        0,
        "The function step raised an error, ran out of memory, or timed out. The state machine "
        "retries it; see the function's log.",
    )


def _fleet_alarms(watched: WatchedResources, settings: Settings) -> Iterator[Alarm]:
    if watched.fleet_queue is None:
        return
    yield (
        "FleetOverdue",
        watched.fleet_queue.metric_approximate_age_of_oldest_message(
            period=PERIOD, statistic="Maximum"
        ),
        settings.overdue,
        f"A message for tasks has waited or been processed for more than {settings.overdue:,} s. "
        "hundredfold status shows the progress of the run.",
    )


def _worker_alarms(watched: WatchedResources) -> Iterator[Alarm]:
    yield (
        "WorkErrors",
        aws_cloudwatch.MathExpression(
            expression="IF(calls > 0, 100 * errors / calls, 0)",
            using_metrics={
                "errors": watched.work.metric_errors(period=PERIOD, statistic="Sum"),
                "calls": watched.work.metric_invocations(period=PERIOD, statistic="Sum"),
            },
            period=PERIOD,
            label="failed calls of workers, %",
        ),
        MAX_FAILED_CALLS_PERCENT,
        "More than 1 % of the workers' calls failed: they crashed, timed out or ran out of memory "
        "as a whole, and the queue starts fewer workers. See the function's log; failed units are "
        "no failed calls.",
    )
    yield (
        "WorkThrottles",
        watched.work.metric_throttles(period=PERIOD, statistic="Sum"),
        0,
        "Lambda refused calls of workers, so that runs take longer: the account's concurrency is "
        "used up. hundredfold doctor reports it.",
    )


def _upload_alarms(watched: WatchedResources) -> Iterator[Alarm]:
    for number, rule in enumerate(watched.rules):
        yield (
            f"UploadNotStarted{number or ''}",
            aws_cloudwatch.Metric(
                namespace="AWS/Events",
                metric_name="FailedInvocations",
                dimensions_map={"RuleName": rule.rule_name},
                period=PERIOD,
                statistic="Sum",
            ),
            0,
            "A file was uploaded, but the run for it could not be started: start one with "
            "hundredfold run.",
        )
