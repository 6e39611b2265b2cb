"""A dashboard of CloudWatch with the progress of runs: disabled unless enabled in the settings."""

from __future__ import annotations

from typing import Any

from aws_cdk import Duration, aws_cloudwatch
from constructs import Construct

from ..fleets.requests import FLEET_DIMENSION, FUNCTION_DIMENSION, RUNNING_TASKS
from ..lambda_platform import METRICS_NAMESPACE
from .alarms import WatchedResources

PERIOD = Duration.minutes(1)
WIDTH = 12  # of 24: two widgets in a row


def make_dashboard(scope: Construct, watched: WatchedResources, name: str | None) -> None:
    """Create the dashboard: messages, workers, steps, executions, and the tasks of fleets."""
    queue, dead, work, step = watched.queue, watched.dead, watched.work, watched.step
    rows = [
        [
            _graph(
                "Messages: waiting, and with workers",
                queue.metric_approximate_number_of_messages_visible(period=PERIOD),
                queue.metric_approximate_number_of_messages_not_visible(period=PERIOD),
            ),
            _graph(
                "Age of the oldest message, seconds",
                queue.metric_approximate_age_of_oldest_message(period=PERIOD),
            ),
        ],
        [
            _graph(
                "Workers at a time",
                work.metric("ConcurrentExecutions", period=PERIOD, statistic="Maximum"),
            ),
            _graph(
                "Calls of workers: all, failed, refused",
                work.metric_invocations(period=PERIOD),
                work.metric_errors(period=PERIOD),
                work.metric_throttles(period=PERIOD),
            ),
        ],
        [
            _graph(
                "Duration of a call of a worker: median, and longest",
                work.metric_duration(period=PERIOD, statistic="p50"),
                work.metric_duration(period=PERIOD, statistic="Maximum"),
            ),
            _graph(
                "Steps: failed calls, and dead-lettered messages",
                step.metric_errors(period=PERIOD),
                dead.metric_number_of_messages_received(period=PERIOD, statistic="Sum"),
            ),
        ],
        [_executions(watched), *_tasks_of_fleets(watched)],
        _messages_for_tasks(watched),
    ]
    rows = [row for row in rows if row]
    aws_cloudwatch.Dashboard(scope, "Dashboard", dashboard_name=name, widgets=rows)


def _executions(watched: WatchedResources) -> Any:
    return _graph(
        "Executions: started, succeeded, failed, stopped",
        watched.machine.metric_started(period=PERIOD),
        watched.machine.metric_succeeded(period=PERIOD),
        watched.machine.metric_failed(period=PERIOD),
        watched.machine.metric_aborted(period=PERIOD),
    )


def _tasks_of_fleets(watched: WatchedResources) -> list[Any]:
    """Return the graph of the tasks of each fleet, as `step` counts them; none without fleets."""
    tasks = [
        aws_cloudwatch.Metric(
            namespace=METRICS_NAMESPACE,
            metric_name=RUNNING_TASKS,
            dimensions_map={
                FLEET_DIMENSION: fleet,
                FUNCTION_DIMENSION: watched.step.function_name,
                "service": "step",
            },
            period=PERIOD,
            statistic="Maximum",
            label=fleet,
        )
        for fleet in watched.fleets
    ]
    return [_graph("Tasks of each fleet", *tasks)] if tasks else []


def _messages_for_tasks(watched: WatchedResources) -> list[Any]:
    """Return the graphs of the queue of runs with tasks alone; none without fleets."""
    queue = watched.fleet_queue
    if queue is None:
        return []
    return [
        _graph(
            "Messages for tasks: waiting, and with tasks",
            queue.metric_approximate_number_of_messages_visible(period=PERIOD),
            queue.metric_approximate_number_of_messages_not_visible(period=PERIOD),
        ),
        _graph(
            "Age of the oldest message for tasks, seconds",
            queue.metric_approximate_age_of_oldest_message(period=PERIOD),
        ),
    ]


def _graph(title: str, *metrics: Any) -> Any:
    return aws_cloudwatch.GraphWidget(title=title, left=list(metrics), width=WIDTH)
