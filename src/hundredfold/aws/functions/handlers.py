"""The Lambda handlers of the workers: `work` processes messages, `dead_letter` records units as
crashed after their message was dead-lettered.

Each may be called again with the same event, and may be interrupted at any time: it finds work that
is already done, and does not repeat it. Neither imports DuckDB or sqlglot, which the package of the
workers does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..adapters.dynamodb_ledger import DynamoLedger
from ..adapters.s3_store import S3Store
from ..adapters.session import StackResources
from ..work.json_log import log
from ..work.messages import SqsMessage
from ..work.slices import record_crashed_units
from ..work.sources import DeliveredMessages, TakenMessages
from .invocation import SCRATCH_FOLDER, emit_metrics, set_log_keys, work_queue
from .packed import unpack_distributions
from .worker import Deadline, processor_of_call, pull

unpack_distributions()


def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Process messages of the queue with the job's function; return those to be delivered again.

    A call that the run started itself takes its messages from the queue.
    """
    set_log_keys(context)
    resources = StackResources.from_environment()
    queue = work_queue(resources)
    deadline = Deadline(lambda: context.get_remaining_time_in_millis() / 1000)
    taken = TakenMessages(queue, may_take=deadline.may_pull)
    processor = processor_of_call(
        resources,
        queue,
        taken if "pull" in event else DeliveredMessages(),
        deadline,
        SCRATCH_FOLDER / "work",
    )
    try:
        if "pull" in event:
            pull(processor, taken, event["pull"])
            return {}
        return _batch_item_failures(processor.process(event["Records"]))
    finally:
        counts = processor.counts
        emit_metrics(
            resources.job,
            UnitsDone=counts.done,
            UnitsFailed=counts.failed,
            UnitsRequeued=counts.requeued,
            MessagesDeadLettered=counts.dead_lettered,
        )


def dead_letter(event: dict[str, Any], context: Any = None) -> dict[str, Any]:
    """Record the units of dead-lettered messages as crashed, so that the run can end.

    Messages that this package did not write stay in the dead-letter queue.
    """
    set_log_keys(context)
    resources = StackResources.from_environment()
    store, ledger = S3Store(resources.bucket), DynamoLedger(resources.table)
    left, crashed_units = [], 0
    for record in event["Records"]:
        try:
            crashed_units += record_crashed_units(
                SqsMessage.parse(record, resources.bucket), _reason_of(record), store, ledger
            )
        except ValueError as error:
            left.append(str(record["messageId"]))
            log.error(
                "invalid dead-lettered message", reason=str(error), message_id=record["messageId"]
            )
    emit_metrics(resources.job, UnitsCrashed=crashed_units, MessagesLeft=len(left))
    return _batch_item_failures(left)


def _reason_of(record: Mapping[str, Any]) -> str:
    """Return why a worker dead-lettered the message; "" if the queue did."""
    return str(record.get("messageAttributes", {}).get("reason", {}).get("stringValue", ""))


def _batch_item_failures(ids: Iterable[str]) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": name} for name in ids]}
