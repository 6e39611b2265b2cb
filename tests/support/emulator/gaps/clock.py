"""SQS: its clock can be set by a test, so that a lease of an hour takes no time; an expired lease
is not extended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ministack.services import sqs

from . import need, setting

GONE = "Message does not exist or is not available for visibility timeout change."

need(sqs, "_HANDLERS", "_get_q", "_Err", "time")


class ManualTime:
    """Replaces the module `time` in SQS: `time()` is the time that the test set, if it did."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        by_hand = setting("queue_time", None)
        return time.time() if by_hand is None else float(by_hand)


def fill() -> None:
    sqs.time = ManualTime()
    sqs._HANDLERS["ChangeMessageVisibility"] = _of_what_is_leased(
        sqs._HANDLERS["ChangeMessageVisibility"]
    )


def _of_what_is_leased(change: Callable[..., Any]) -> Callable[..., Any]:
    """Extend no expired lease: on AWS the message stays visible."""

    def changed(asked: Mapping[str, Any], url: str) -> Any:
        receipt = asked.get("ReceiptHandle")
        messages = sqs._get_q(asked.get("QueueUrl", url))["messages"]
        if any(
            receipt
            and message["receipt_handle"] == receipt
            and message["visible_at"] <= sqs.time.time()
            for message in messages
        ):
            raise sqs._Err(
                "InvalidParameterValue",
                f"Value {receipt} for parameter ReceiptHandle is invalid. Reason: {GONE}",
            )
        return change(asked, url)

    return changed
