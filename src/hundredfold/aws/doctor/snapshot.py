"""What is there of a stack, each thing asked for once and only when a trap wants to know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from botocore.exceptions import ClientError

from ...ports.interfaces import Record
from ..adapters.dynamodb_ledger import DynamoLedger
from ..adapters.errors import code
from ..adapters.session import StackResources, client

FUNCTIONS = ("StepFunction", "WorkFunction", "BuryFunction")
NONE_SET = {
    "NoSuchLifecycleConfiguration",
    "NoSuchBucketPolicy",
    "NoSuchPublicAccessBlockConfiguration",
}


class StackSnapshot:
    """A stack and its account as they are now. `place` is None where there is no stack."""

    def __init__(self, stack: str, place: StackResources | None) -> None:
        self.stack, self._place = stack, place

    @property
    def place(self) -> StackResources:
        assert self._place is not None, "a trap of the stack was asked where there is none"
        return self._place

    @property
    def workers(self) -> int:
        """So many workers can be at work at once; as many as the plain stack has, where there is
        none.
        """
        return self._place.concurrency if self._place else 100

    @cached_property
    def outputs(self) -> dict[str, str]:
        found = client("cloudformation").describe_stacks(StackName=self.stack)["Stacks"][0]
        return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}

    @property
    def redeploy(self) -> str:
        return f"hundredfold deploy {self.place.job} --stack {self.stack}"

    # ---- queues

    @cached_property
    def work_queue(self) -> dict[str, str]:
        return _queue(self.place.queue)

    @cached_property
    def dead_queue(self) -> dict[str, str]:
        return _queue(self.place.dead)

    # ---- functions

    @cached_property
    def functions(self) -> dict[str, dict[str, Any]]:
        """Of each output that names a function: its configuration, with its tags."""
        found = {}
        for output in FUNCTIONS:
            answer = client("lambda").get_function(FunctionName=self.outputs[output])
            found[output] = answer["Configuration"] | {"Tags": answer.get("Tags", {})}
        return found

    def mapping(self, output: str, queue: Mapping[str, str]) -> dict[str, Any] | None:
        """What feeds a function from a queue; None if nothing does."""
        found = client("lambda").list_event_source_mappings(
            FunctionName=self.outputs[output], EventSourceArn=queue["QueueArn"]
        )
        return next(iter(found["EventSourceMappings"]), None)

    @cached_property
    def account(self) -> dict[str, dict[str, int]]:
        """Lambda's limits of the account, and what of them is used."""
        found = client("lambda").get_account_settings()
        return {"limit": found["AccountLimit"], "usage": found["AccountUsage"]}

    def quota(self, service: str, quota: str) -> float:
        """A quota of the account, by its code."""
        return float(
            client("service-quotas").get_service_quota(ServiceCode=service, QuotaCode=quota)[
                "Quota"
            ]["Value"]
        )

    # ---- what is kept

    @cached_property
    def lifecycle(self) -> list[dict[str, Any]]:
        found = _unless_none_set(
            lambda: client("s3").get_bucket_lifecycle_configuration(Bucket=self.place.bucket)
        )
        return list(found.get("Rules", []))

    @cached_property
    def bucket_policy(self) -> list[dict[str, Any]]:
        found = _unless_none_set(lambda: client("s3").get_bucket_policy(Bucket=self.place.bucket))
        return statements(found.get("Policy", "{}"))

    @cached_property
    def public_access(self) -> dict[str, bool]:
        found = _unless_none_set(
            lambda: client("s3").get_public_access_block(Bucket=self.place.bucket)
        )
        return dict(found.get("PublicAccessBlockConfiguration", {}))

    @cached_property
    def runs(self) -> dict[str, Record]:
        return {record.id: record for record in DynamoLedger(self.place.table).runs()}

    @cached_property
    def glue_tables(self) -> list[str]:
        pages = (
            client("glue").get_paginator("get_tables").paginate(DatabaseName=self.place.database)
        )
        return [table["Name"] for page in pages for table in page["TableList"]]

    def folders(self, prefix: str) -> Iterator[str]:
        """The names of the folders right below a prefix."""
        pages = (
            client("s3")
            .get_paginator("list_objects_v2")
            .paginate(Bucket=self.place.bucket, Prefix=prefix, Delimiter="/")
        )
        for page in pages:
            yield from (
                found["Prefix"].removeprefix(prefix).rstrip("/")
                for found in page.get("CommonPrefixes", ())
            )


def statements(policy: str) -> list[dict[str, Any]]:
    found = json.loads(policy).get("Statement", [])
    return found if isinstance(found, list) else [found]


def _queue(url: str) -> dict[str, str]:
    return dict(
        client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    )


def _unless_none_set(ask: Any) -> dict[str, Any]:
    try:
        return dict(ask())
    except ClientError as error:
        if code(error) in NONE_SET:
            return {}
        raise
