"""Parts of a call that all handlers share: their scratch folder, queue, log keys and metrics."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aws_lambda_powertools import Metrics
from aws_lambda_powertools.metrics import MetricUnit

from ..adapters.session import StackResources
from ..adapters.sqs_queue import SqsQueue
from ..fleets.requests import FLEET_DIMENSION, FUNCTION_DIMENSION, RUNNING_TASKS
from ..lambda_platform import METRICS_NAMESPACE
from ..work.json_log import log

# the only folder that a function may write to
SCRATCH_FOLDER = Path(tempfile.gettempdir()) / "hundredfold"

metrics = Metrics(namespace=METRICS_NAMESPACE)


def work_queue(resources: StackResources) -> SqsQueue:
    return SqsQueue(resources.queue, resources.dead)


def set_log_keys(context: Any, **keys: str) -> None:
    """Set the keys of every log line of this call, and the request id of Lambda's own lines."""
    log.clear_state()
    known = {**keys, "function_request_id": getattr(context, "aws_request_id", "")}
    log.append_keys(**{name: value for name, value in known.items() if value})


def emit_metrics(job: str, **counts: int) -> None:
    """Emit the function's metrics; zeros are left out."""
    if any(counts.values()):
        metrics.add_dimension(name="job", value=job)
        for name, count in counts.items():
            if count:
                metrics.add_metric(name=name, unit=MetricUnit.Count, value=count)
        metrics.flush_metrics()


def emit_tasks(of_fleets: Mapping[str, int]) -> None:
    """Emit the number of tasks of each fleet, also 0, as a metric of this function."""
    for fleet, tasks in of_fleets.items():
        metrics.add_dimension(name=FLEET_DIMENSION, value=fleet)
        function = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "")
        metrics.add_dimension(name=FUNCTION_DIMENSION, value=function)
        metrics.add_metric(name=RUNNING_TASKS, unit=MetricUnit.Count, value=tasks)
        metrics.flush_metrics()
