"""Uploads that wait for a run: several that arrive close together start one run.

Each event of an upload starts an execution, and each execution enters its upload into one item of
the table. Whichever execution first finds that no upload was entered during the quiet period takes
all of them: one transaction removes them from the item and creates the record of its run. Every
other execution finds that its upload has been taken, and ends. So an execution that dies leaves its
upload to the others, an event that is delivered twice is entered once, and an upload that arrives
after a run has begun starts the next one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from botocore.exceptions import ClientError

from ...ports.interfaces import Record
from .dynamodb_ledger import CONFLICT, item_of
from .errors import error_code, translate_errors
from .session import client

ITEM = "#uploads"  # no run id can begin with #
# of its length: the quiet period cannot be prolonged further
MAX_QUIET_PERIODS = 10
# events are delivered again for at most 24 hours: EventBridge gives up then
REMEMBERED_S = 26 * 3600
MAX_REMEMBERED = 3000  # an item may have 400 KB
CANCELLED = {*CONFLICT, "TransactionCanceledException", "TransactionInProgressException"}


@dataclass(frozen=True, slots=True)
class Upload:
    """An object that was uploaded for a source.

    `id`         the same for each delivery of its event, and for no other upload
    `time`       when it was uploaded, as S3 reports it
    `sequencer`  orders the uploads of one key, as a hexadecimal number
    `arrived`    when its event was entered, in seconds since 1970
    """

    id: str
    source: str
    address: str
    time: str = ""
    sequencer: str = ""
    arrived: float = 0.0


@dataclass(frozen=True, slots=True)
class WaitingUploads:
    """The uploads that no run has taken yet, in the order of their arrival.

    `taken`   the run that took each of the latest uploads, and when
    `latest`  the latest run that took some
    """

    uploads: Sequence[Upload] = ()
    taken: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    latest: str = ""
    version: int = 0

    def add(self, upload: Upload, now: float) -> WaitingUploads:
        """Return these uploads and one more, unless it is among them or has been taken."""
        known = {each.id for each in self.uploads} | set(self.taken)
        if upload.id in known:
            return self
        return replace(self, uploads=(*self.uploads, replace(upload, arrived=now)))

    def seconds_left(self, quiet: float, now: float) -> float:
        """Return the time until the quiet period is over, if no other upload arrives."""
        first, last = self.uploads[0].arrived, self.uploads[-1].arrived
        return min(last + quiet, first + MAX_QUIET_PERIODS * quiet) - now

    def newest(self) -> dict[str, str]:
        """Return the address of each source's newest upload.

        Times have whole seconds; of uploads of the same second the last to arrive counts.
        """
        found: dict[str, Upload] = {}
        for upload in self.uploads:
            other = found.get(upload.source)
            if other is None or _order(upload, other) >= 0:
                found[upload.source] = upload
        return {source: found[source].address for source in sorted(found)}

    def replaced(self) -> list[str]:
        """Return the addresses of the uploads that a newer one of the same source replaces."""
        used = set(self.newest().values())
        return sorted({upload.address for upload in self.uploads} - used)

    def take(self, run: str, now: float) -> WaitingUploads:
        """Return what remains when a run takes all uploads."""
        remembered = {
            identity: entry
            for identity, entry in self.taken.items()
            if now - entry[1] < REMEMBERED_S
        }
        remembered |= {upload.id: (run, now) for upload in self.uploads}
        kept = sorted(remembered.items(), key=lambda entry: entry[1][1])[-MAX_REMEMBERED:]
        return replace(self, uploads=(), taken=dict(kept), latest=run)


def _order(one: Upload, other: Upload) -> int:
    """Return whether an upload is older (-1) or newer (1) than another, or 0."""
    if one.address == other.address and one.sequencer and other.sequencer:
        mine, others = int(one.sequencer, 16), int(other.sequencer, 16)
    else:
        mine, others = one.time, other.time  # type: ignore[assignment]
    return (mine > others) - (mine < others)


@dataclass(frozen=True, slots=True)
class UploadTable:
    """The item with the waiting uploads, in the table of the runs."""

    table: str

    def read(self) -> WaitingUploads:
        """Return the current content."""
        with self._translate_errors("read"):
            answer = client("dynamodb").get_item(
                TableName=self.table, Key={"id": {"S": ITEM}}, ConsistentRead=True
            )
        if "Item" not in answer:
            return WaitingUploads()
        content = json.loads(answer["Item"]["uploads"]["S"])
        return WaitingUploads(
            tuple(Upload(**each) for each in content["uploads"]),
            {identity: (run, at) for identity, (run, at) in content["taken"].items()},
            content["latest"],
            int(answer["Item"]["version"]["N"]),
        )

    def write(self, waiting: WaitingUploads) -> bool:
        """Write the item over the version that was read; return whether it was that version."""
        return self._accepted(
            lambda: client("dynamodb").put_item(TableName=self.table, **_put(waiting))
        )

    def write_with(self, waiting: WaitingUploads, record: Record) -> bool:
        """Write the item and a new record in one transaction; return whether both were written."""
        new = {"Item": item_of(record), "ConditionExpression": "attribute_not_exists(id)"}
        items = [{"Put": {"TableName": self.table, **put}} for put in (_put(waiting), new)]
        return self._accepted(lambda: client("dynamodb").transact_write_items(TransactItems=items))

    def _accepted(self, call: Any) -> bool:
        with self._translate_errors("written"):
            try:
                call()
            except ClientError as error:
                if error_code(error) not in CANCELLED:
                    raise
                return False
        return True

    def _translate_errors(self, participle: str) -> AbstractContextManager[None]:
        return translate_errors(f"the table {self.table}", participle)


def _put(waiting: WaitingUploads) -> dict[str, Any]:
    content = {
        "uploads": [asdict(upload) for upload in waiting.uploads],
        "taken": waiting.taken,
        "latest": waiting.latest,
    }
    item = {
        "id": {"S": ITEM},
        "uploads": {"S": json.dumps(content)},
        "version": {"N": str(waiting.version + 1)},
    }
    if not waiting.version:
        return {"Item": item, "ConditionExpression": "attribute_not_exists(id)"}
    return {
        "Item": item,
        "ConditionExpression": "version = :version",
        "ExpressionAttributeValues": {":version": {"N": str(waiting.version)}},
    }
