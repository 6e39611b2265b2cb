"""Parts of a call that all handlers share: their scratch folder, queue, log keys and metrics."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from aws_lambda_powertools import Metrics
from aws_lambda_powertools.metrics import MetricUnit

from ..adapters.session import StackResources
from ..adapters.sqs_queue import SqsQueue
from ..work.json_log import log

# the only folder that a function may write to
SCRATCH_FOLDER = Path(tempfile.gettempdir()) / "hundredfold"

metrics = Metrics(namespace="Hundredfold")


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
