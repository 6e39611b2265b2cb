"""SQS: errors and tolerances of AWS, and one lock around a queue's messages.

MiniStack changes a queue's list on its loop and in threads (deliveries to functions, S3's
notifications); a list that is filtered in one place while another appends loses a message. On AWS
none is lost.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ministack.services import s3, sqs

from . import held, need

need(
    sqs,
    "_HANDLERS",
    "_queues",
    "_queues_lock",
    "_get_q",
    "_Err",
    "_dlq_sweep",
    "_collect_msgs",
    "_expire_retained",
)
need(s3, "_deliver_event_to_sqs")

CHANGING = (
    "SendMessage",
    "SendMessageBatch",
    "DeleteMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch",
)
LONGEST_POLL = 20  # seconds
POLL_INTERVAL_S = 0.05  # seconds between polls of a long poll


def fill() -> None:
    sqs._queues_lock = lock = threading.RLock()
    for name in ("_dlq_sweep", "_collect_msgs", "_expire_retained"):
        setattr(sqs, name, held(lock, getattr(sqs, name)))
    s3._deliver_event_to_sqs = held(lock, s3._deliver_event_to_sqs)
    sqs._HANDLERS["DeleteMessage"] = _forgiving_delete(sqs._HANDLERS["DeleteMessage"])
    sqs._HANDLERS["DeleteMessageBatch"] = _forgiving_batch(sqs._HANDLERS["DeleteMessageBatch"])
    for name in CHANGING:
        sqs._HANDLERS[name] = held(lock, sqs._HANDLERS[name])
    sqs._HANDLERS["ReceiveMessage"] = _polite_receive(sqs._HANDLERS["ReceiveMessage"])


def _forgiving_delete(delete: Callable[..., Any]) -> Callable[..., Any]:
    """Let a call with a receipt of an earlier delivery succeed, and keep the message."""

    def deleted(asked: Mapping[str, Any], url: str) -> Any:
        try:
            return delete(asked, url)
        except sqs._Err as error:
            if error.code != "ReceiptHandleIsInvalid":
                raise
            return {}

    return deleted


def _forgiving_batch(delete: Callable[..., Any]) -> Callable[..., Any]:
    def deleted(asked: Mapping[str, Any], url: str) -> Any:
        answer = delete(asked, url)
        stale = [entry for entry in answer["Failed"] if entry["Code"] == "ReceiptHandleIsInvalid"]
        return {
            "Successful": [*answer["Successful"], *({"Id": entry["Id"]} for entry in stale)],
            "Failed": [entry for entry in answer["Failed"] if entry not in stale],
        }

    return deleted


def _polite_receive(receive: Callable[..., Any]) -> Callable[..., Any]:
    """Poll long by the world's clock: the queue's own may be stopped."""

    async def received(asked: Mapping[str, Any], url: str) -> Any:
        attributes = sqs._get_q(asked.get("QueueUrl", url))["attributes"]
        requested = asked.get("WaitTimeSeconds")
        wait = int(
            attributes.get("ReceiveMessageWaitTimeSeconds", 0) if requested is None else requested
        )
        if not 0 <= wait <= LONGEST_POLL:
            raise sqs._Err(
                "InvalidParameterValue",
                f"Value {wait} for parameter WaitTimeSeconds is invalid. Reason: Must be >= 0 and "
                f"<= {LONGEST_POLL}, if provided.",
            )
        end = time.monotonic() + wait
        while True:
            answer = await receive({**asked, "WaitTimeSeconds": 0}, url)
            left = end - time.monotonic()
            if answer.get("Messages") or left <= 0:
                return answer
            await asyncio.sleep(min(POLL_INTERVAL_S, left))

    return received
