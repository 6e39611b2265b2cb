"""CloudWatch Logs: one lock around the groups and their streams.

MiniStack writes the log of a call in the thread of the call, and reads on its loop: a list of
streams that grows while it is read fails the request.
"""

from __future__ import annotations

import threading

from ministack.services import cloudwatch_logs, lambda_svc

from . import held, need

READING = (
    "_describe_log_groups",
    "_describe_log_streams",
    "_filter_log_events",
    "_get_log_events",
)

need(cloudwatch_logs, *READING)
need(lambda_svc, "_emit_lambda_logs")


def fill() -> None:
    lock = threading.RLock()
    for name in READING:
        setattr(cloudwatch_logs, name, held(lock, getattr(cloudwatch_logs, name)))
    lambda_svc._emit_lambda_logs = held(lock, lambda_svc._emit_lambda_logs)
