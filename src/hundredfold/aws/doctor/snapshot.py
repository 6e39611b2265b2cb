"""The current state of a stack, each part fetched once, when a check first needs it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from botocore.exceptions import ClientError

from ...ports.interfaces import Record
from ..adapters.dynamodb_ledger import DynamoLedger
from ..adapters.errors import error_code
from ..adapters.session import StackResources, client

FUNCTIONS = ("StepFunction", "WorkFunction", "DeadLetterFunction")
NOT_CONFIGURED = {
    "NoSuchLifecycleConfiguration",
    "NoSuchBucketPolicy",
    "NoSuchPublicAccessBlockConfiguration",
}


class StackSnapshot:
    """The current state of a stack and its account. `resources` is None if there is no stack."""

    def __init__(self, stack: str, resources: StackResources | None) -> None:
        self.stack, self._resources = stack, resources

    @property
    def resources(self) -> StackResources:
        assert self._resources is not None, "a check of the stack was called without a stack"
        return self._resources

    @property
    def workers(self) -> int:
        """The maximum number of concurrent workers; without a stack, the default."""
        return self._resources.concurrency if self._resources else 100

    @cached_property
    def outputs(self) -> dict[str, str]:
        found = client("cloudformation").describe_stacks(StackName=self.stack)["Stacks"][0]
        return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}

    @property
    def redeploy(self) -> str:
        return f"hundredfold deploy {self.resources.job} --stack {self.stack}"

    # ---- queues

    @cached_property
    def work_queue(self) -> dict[str, str]:
        return _queue(self.resources.queue)

    @cached_property
    def dead_queue(self) -> dict[str, str]:
        return _queue(self.resources.dead)

    # ---- functions

    @cached_property
    def functions(self) -> dict[str, dict[str, Any]]:
        """The configuration and tags of each function, by the name of its output."""
        found = {}
        for output in FUNCTIONS:
            answer = client("lambda").get_function(FunctionName=self.outputs[output])
            found[output] = answer["Configuration"] | {"Tags": answer.get("Tags", {})}
        return found

    def mapping(self, output: str, queue: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the event source mapping from a queue to a function; None if there is none."""
        found = client("lambda").list_event_source_mappings(
            FunctionName=self.outputs[output], EventSourceArn=queue["QueueArn"]
        )
        return next(iter(found["EventSourceMappings"]), None)

    @cached_property
    def account(self) -> dict[str, dict[str, int]]:
        """Lambda's limits of the account, and the current usage."""
        found = client("lambda").get_account_settings()
        return {"limit": found["AccountLimit"], "usage": found["AccountUsage"]}

    def quota(self, service: str, quota: str) -> float:
        """Return a quota of the account, by its code."""
        return float(
            client("service-quotas").get_service_quota(ServiceCode=service, QuotaCode=quota)[
                "Quota"
            ]["Value"]
        )

    # ---- storage

    @cached_property
    def lifecycle(self) -> list[dict[str, Any]]:
        found = _empty_if_not_configured(
            lambda: client("s3").get_bucket_lifecycle_configuration(Bucket=self.resources.bucket)
        )
        return list(found.get("Rules", []))

    @cached_property
    def bucket_policy(self) -> list[dict[str, Any]]:
        found = _empty_if_not_configured(
            lambda: client("s3").get_bucket_policy(Bucket=self.resources.bucket)
        )
        return statements(found.get("Policy", "{}"))

    @cached_property
    def public_access(self) -> dict[str, bool]:
        found = _empty_if_not_configured(
            lambda: client("s3").get_public_access_block(Bucket=self.resources.bucket)
        )
        return dict(found.get("PublicAccessBlockConfiguration", {}))

    @cached_property
    def runs(self) -> dict[str, Record]:
        return {record.id: record for record in DynamoLedger(self.resources.table).runs()}

    @cached_property
    def glue_tables(self) -> list[str]:
        pages = (
            client("glue")
            .get_paginator("get_tables")
            .paginate(DatabaseName=self.resources.database)
        )
        return [table["Name"] for page in pages for table in page["TableList"]]

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the folders directly below a prefix."""
        pages = (
            client("s3")
            .get_paginator("list_objects_v2")
            .paginate(Bucket=self.resources.bucket, Prefix=prefix, Delimiter="/")
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


def _empty_if_not_configured(ask: Any) -> dict[str, Any]:
    try:
        return dict(ask())
    except ClientError as error:
        if error_code(error) in NOT_CONFIGURED:
            return {}
        raise
