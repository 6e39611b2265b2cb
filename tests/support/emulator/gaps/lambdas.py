"""Lambda: a batch with an unknown reply has failed, messages are received with the function's own
permissions, and an environment ends with all processes that it started.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import Any

import psutil
from ministack.core import lambda_runtime
from ministack.services import lambda_svc

from . import need, setting
from .rights import DeniedError, acting_as, check

log = logging.getLogger("bench.lambda")
need(
    lambda_svc,
    "_run_sqs_batch",
    "_execute_function",
    "_sqs_esm_concurrency",
    "_ESM_BACKOFF_SECONDS",
    "_update_esm",
    "_esms",
)
need(lambda_runtime, "_signal", "ProvidedWorker")

# seconds without receives after a call that failed: this mapping has one poller, on AWS at least
# five
BACKOFF = 0.1
POLLING = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
# mappings whose missing permissions are logged already: they are checked many times a second
logged: set[str] = set()
here = threading.local()  # .messages: of the batch that this thread passes to a function


def fill() -> None:
    lambda_svc._ESM_BACKOFF_SECONDS = BACKOFF
    lambda_svc._execute_function = _judged(lambda_svc._execute_function)
    lambda_svc._run_sqs_batch = _remembered(lambda_svc._run_sqs_batch)
    lambda_svc._sqs_esm_concurrency = _none_without_rights(lambda_svc._sqs_esm_concurrency)
    lambda_svc._update_esm = _with_pollers(lambda_svc._update_esm)
    lambda_runtime._signal = _with_its_children(lambda_runtime._signal)


def _with_pollers(update: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the provisioned pollers of a mapping; {} removes them, and a limit excludes them."""

    def updated(mapping: str, change: Mapping[str, Any]) -> Any:
        known = lambda_svc._esms.get(mapping)
        if known is not None and "ProvisionedPollerConfig" in change:
            scaling = change.get("ScalingConfig", known.get("ScalingConfig"))
            if change["ProvisionedPollerConfig"] and scaling:
                raise AssertionError("Lambda allows no limit of a mapping with pollers")
            known["ProvisionedPollerConfig"] = change["ProvisionedPollerConfig"]
        return update(mapping, change)

    return updated


def is_understood(answer: Any, messages: set[str]) -> bool:
    """Return whether Lambda accepts a reply to a batch: nothing, an empty object or list, or ids of
    its messages.
    """
    if answer in (None, "", {}):
        return True
    failures = answer.get("batchItemFailures", ()) if isinstance(answer, dict) else ()
    if failures is None or failures == []:
        return True
    return isinstance(failures, list) and all(
        isinstance(one, dict) and one.get("itemIdentifier") in messages for one in failures
    )


def _judged(execute: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Keep a batch with an unknown reply: MiniStack deletes its messages, AWS takes all of them as
    failed.
    """

    def executed(*arguments: Any, **named: Any) -> dict[str, Any]:
        answer = execute(*arguments, **named)
        messages = getattr(here, "messages", None)
        if messages is None or answer.get("error") or is_understood(answer.get("body"), messages):
            return answer
        error = {
            "errorType": "MalformedBatchResponse",
            "errorMessage": f"not a batch response: {str(answer.get('body'))[:200]}",
        }
        return {"error": True, "body": error, "log": answer.get("log", "")}

    return executed


def _remembered(run: Callable[..., None]) -> Callable[..., None]:
    def ran(
        mapping: Mapping[str, Any],
        function: Any,
        event: Any,
        batch: list[dict[str, Any]],
        *more: Any,
    ) -> None:
        partial = "ReportBatchItemFailures" in (mapping.get("FunctionResponseTypes") or [])
        here.messages = {message["id"] for message in batch} if partial else None
        try:
            run(mapping, function, event, batch, *more)
        finally:
            here.messages = None
            if setting("ended_leases", 0):
                for message in batch:  # completed ones are no longer in the queue
                    message["visible_at"] = 0.0

    return ran


def _none_without_rights(concurrency: Callable[..., int]) -> Callable[..., int]:
    """Receive no message for a function whose role may not receive it."""

    def allowed(mapping: Mapping[str, Any], function: Mapping[str, Any], *more: Any) -> int:
        try:
            with acting_as(function["config"]["Role"]):
                for action in POLLING:
                    check(action, mapping["EventSourceArn"])
        except DeniedError as error:
            if mapping["UUID"] not in logged:
                logged.add(mapping["UUID"])
                log.warning("messages are left alone: %s", error)
            return 0
        return concurrency(mapping, function, *more)

    return allowed


def _with_its_children(signal: Callable[..., None]) -> Callable[..., None]:
    """End all processes of an environment with it, as Lambda does."""

    def signalled(process: subprocess.Popen[bytes] | None) -> None:
        children = []
        if process is not None and process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(process.pid).children(recursive=True)
        signal(process)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    return signalled
