"""CloudWatch: CloudFormation creates an alarm on an expression of several metrics.

MiniStack refuses such alarms, and with them the stack. This one is created and described, but never
evaluated: its state stays INSUFFICIENT_DATA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ministack.services.cloudformation import provisioners

from . import need

need(provisioners, "_cw_metric_alarm_record")


def fill() -> None:
    provisioners._cw_metric_alarm_record = _with_expressions(provisioners._cw_metric_alarm_record)


def _with_expressions(
    record: Callable[[str, dict[str, Any]], dict[str, Any]],
) -> Callable[[str, Mapping[str, Any]], dict[str, Any]]:
    def recorded(name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
        metrics = properties.get("Metrics")
        if not metrics:
            return record(name, dict(properties))
        expressions = [metric["Expression"] for metric in metrics if "Expression" in metric]
        if len(expressions) != 1:
            raise ValueError(f"{len(expressions)} of the Metrics are expressions, expected 1")
        rest = {key: value for key, value in properties.items() if key != "Metrics"}
        return record(name, rest | {"MetricName": expressions[0], "Namespace": "expression"})

    return recorded
