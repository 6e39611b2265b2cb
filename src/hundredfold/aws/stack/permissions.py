"""The permissions of each role, by name.

Each `*` in a resource carries the reason why no name fits.

step         everything of a run: its files, its tables, its record; it writes what is published
work         reads the prepared data of a run, and writes outcomes only
dead_letter  records the units of dead-lettered messages
dispatch     invokes work, with the trigger "direct"
task         the worker of a fleet: the permissions of work; task start: pulls its image
machine      calls step, runs queries with its own permissions, and records failures
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import Arn, ArnComponents, ArnFormat, Stack, aws_iam
from constructs import Construct

from ...job import Job
from ..lambda_platform import SPENT_PREFIX
from .nag_suppressions import LOGS_REASON, TRACES_REASON, accept_wildcard
from .settings import Settings

KEYS_REASON = "keys are created during a run: the prefix is the name"
OUTCOMES_REASON = (
    "the runs and their models are not known yet: only outcomes can be written below them"
)
BATCHES_REASON = "the runs and their models are not known yet: only batches can be tagged"
TABLES_REASON = "a run's tables are created during the run, and this database holds no others"
NETWORK_REASON = (
    "Lambda creates the network interfaces of a function, whose names are not known before"
)
SOURCES_REASON = "the owner of the stack named this location, and its files change"

READ_GLUE = (
    "glue:GetTable",
    "glue:GetTables",
    "glue:GetPartition",
    "glue:GetPartitions",
    "glue:BatchGetPartition",
)


@dataclass(frozen=True, slots=True)
class Grant:
    """One statement of a policy; `why` gives the reason for a * in its resources."""

    name: str
    actions: Sequence[str]
    resources: Sequence[str]
    reason: str = ""
    conditions: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """The stack's own resources, as CDK objects, which the permissions refer to."""

    scope: Construct
    settings: Settings
    bucket: Any
    table: Any
    queue: Any
    dead: Any
    database: str
    workgroup: str
    further_queues: tuple[Any, ...] = ()  # that a worker takes messages from

    def keys(self, *patterns: str) -> list[str]:
        return [self.bucket.arn_for_objects(pattern) for pattern in patterns]

    def arn(self, service: str, resource: str, name: str | None = None) -> str:
        form = ArnFormat.SLASH_RESOURCE_NAME if name is not None else ArnFormat.NO_RESOURCE_NAME
        return str(
            Arn.format(
                ArnComponents(
                    service=service, resource=resource, resource_name=name, arn_format=form
                ),
                Stack.of(self.scope),
            )
        )


def role(scope: Construct, name: str, service: Any) -> Any:
    """Create a role without managed policies."""
    return aws_iam.Role(scope, name, assumed_by=service)


def allow(role: Any, grants: Iterable[Grant]) -> None:
    """Grant permissions to a role, and accept their wildcards for the given reasons."""
    for grant in grants:
        role.add_to_policy(
            aws_iam.PolicyStatement(
                sid=grant.name,
                actions=list(grant.actions),
                resources=list(grant.resources),
                conditions=grant.conditions,
            )
        )
        for resource in grant.resources if grant.reason else ():
            accept_wildcard(role, resource, grant.reason)


def accept_tracing_wildcard(role: Any) -> None:
    accept_wildcard(role, "*", TRACES_REASON)


def accept_machine_wildcard(role: Any) -> None:
    accept_wildcard(role, "*", f"{LOGS_REASON}; {TRACES_REASON}")


def step_permissions(resources: Resources) -> Iterator[Grant]:
    own = resources.keys("runs/*", "processing/*", "athena/*", "releases/*")
    yield Grant(
        "Files",
        ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"),
        own,
        KEYS_REASON,
    )
    # batches that DuckDB wrote expire by a tag
    yield Grant(
        "Tags",
        ("s3:PutObjectTagging",),
        resources.keys("runs/*/models/*/batches/*"),
        BATCHES_REASON,
    )
    yield Grant("Sources", ("s3:GetObject",), resources.keys("sources/*"), KEYS_REASON)
    yield Grant(
        "Listing", ("s3:ListBucket", "s3:GetBucketLocation"), (resources.bucket.bucket_arn,)
    )
    yield from _source_permissions(resources)
    yield from _query_permissions(resources)
    yield Grant(
        "Record",
        ("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"),
        (resources.table.table_arn,),
    )
    yield Grant(
        "Records",
        ("dynamodb:Query",),
        [f"{resources.table.table_arn}/index/{name}" for name in ("by_job", "by_time")],
    )
    yield Grant("Send", ("sqs:SendMessage", "sqs:GetQueueAttributes"), (resources.queue.queue_arn,))
    yield Grant("Dead", ("sqs:GetQueueAttributes",), (resources.dead.queue_arn,))
    yield from _key_permissions(resources)


def publish_permissions(resources: Resources, job: Job) -> Iterator[Grant]:
    """Yield the permission of step to write the rows of releases to the tables that the job
    names.
    """
    tables = sorted({output.to.table for output in job.releases if output.to is not None})
    if tables:
        yield Grant(
            "PublishedRows",
            (
                "dynamodb:DescribeTable",
                "dynamodb:GetItem",
                "dynamodb:PutItem",
                "dynamodb:DeleteItem",
                "dynamodb:Scan",
            ),
            [resources.arn("dynamodb", "table", name) for name in tables],
        )


def _query_permissions(resources: Resources) -> Iterator[Grant]:
    yield Grant(
        "Tables",
        (
            *READ_GLUE,
            "glue:GetDatabase",
            "glue:CreateTable",
            "glue:UpdateTable",
            "glue:DeleteTable",
            "glue:BatchDeleteTable",
        ),
        _own_tables(resources),
        TABLES_REASON,
    )
    yield Grant(
        "Queries",
        (
            "athena:GetQueryExecution",
            "athena:GetQueryResults",
            # for the reason of a failed query whose error is too long for a state
            "athena:ListQueryExecutions",
        ),
        (resources.arn("athena", "workgroup", resources.workgroup),),
    )


def network_permissions() -> Iterator[Grant]:
    """Yield the permissions by which Lambda connects a function with subnets."""
    yield Grant(
        "Network",
        (
            "ec2:CreateNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "ec2:DeleteNetworkInterface",
            "ec2:AssignPrivateIpAddresses",
            "ec2:UnassignPrivateIpAddresses",
        ),
        ("*",),
        NETWORK_REASON,
    )


def _key_permissions(resources: Resources) -> Iterator[Grant]:
    """Yield the permission to use the key of the stack's data, if it has one of its own."""
    if resources.settings.key:
        yield Grant(
            "Key",
            (
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ),
            (resources.settings.key,),
        )


def start_permissions(function_arn: str) -> Iterator[Grant]:
    """Yield the permission to start workers: of step for a dispatcher, of that for a worker."""
    yield Grant("StartWorkers", ("lambda:InvokeFunction",), (function_arn,))


def poller_permissions(mapping_arn: str) -> Iterator[Grant]:
    """Yield the permission of step to raise and lower the pollers of the queue's mapping."""
    yield Grant("Pollers", ("lambda:UpdateEventSourceMapping",), (mapping_arn,))


def work_permissions(resources: Resources) -> Iterator[Grant]:
    yield from _outcome_permissions(resources)
    yield Grant(
        "Messages",
        (
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:ChangeMessageVisibility",
            "sqs:GetQueueAttributes",
            "sqs:SendMessage",
        ),
        [queue.queue_arn for queue in (resources.queue, *resources.further_queues)],
    )
    yield Grant("Refuse", ("sqs:SendMessage",), (resources.dead.queue_arn,))
    # only the items with the dollars of runs that have a budget
    yield Grant(
        "Spent",
        ("dynamodb:UpdateItem",),
        (resources.table.table_arn,),
        conditions={"ForAllValues:StringLike": {"dynamodb:LeadingKeys": [f"{SPENT_PREFIX}*"]}},
    )


def dead_letter_permissions(resources: Resources) -> Iterator[Grant]:
    yield from _outcome_permissions(resources)
    yield Grant(
        "DeadLetters",
        (
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:ChangeMessageVisibility",
            "sqs:GetQueueAttributes",
        ),
        (resources.dead.queue_arn,),
    )


def machine_permissions(resources: Resources, step_arn: str) -> Iterator[Grant]:
    """Yield the permissions of the state machine: Athena acts with those of the role that starts a
    query.
    """
    yield Grant("Step", ("lambda:InvokeFunction",), (step_arn,))
    yield Grant(
        "Queries",
        (
            "athena:StartQueryExecution",
            "athena:StopQueryExecution",
            "athena:GetQueryExecution",
            "athena:GetDataCatalog",
        ),
        (
            resources.arn("athena", "workgroup", resources.workgroup),
            resources.arn("athena", "datacatalog", "AwsDataCatalog"),
        ),
    )
    yield Grant("Read", ("s3:GetObject",), resources.keys("runs/*", "sources/*"), KEYS_REASON)
    yield Grant(
        "Write",
        ("s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"),
        resources.keys("processing/*", "athena/*"),
        KEYS_REASON,
    )
    yield Grant(
        "Listing",
        ("s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"),
        (resources.bucket.bucket_arn,),
    )
    yield from _source_permissions(resources)
    yield Grant(
        "Tables",
        (
            *READ_GLUE,
            "glue:GetDatabase",
            "glue:GetDatabases",
            "glue:CreateTable",
            "glue:DeleteTable",
        ),
        _own_tables(resources),
        TABLES_REASON,
    )
    yield Grant(
        "DefaultDatabase",  # Athena reads the database of this name before every query
        ("glue:GetDatabase", "glue:GetDatabases"),
        (resources.arn("glue", "catalog"), resources.arn("glue", "database", "default")),
    )
    yield Grant("Failure", ("dynamodb:UpdateItem",), (resources.table.table_arn,))
    yield from _key_permissions(resources)


def _outcome_permissions(resources: Resources) -> Iterator[Grant]:
    """Yield the permissions to read the data of a run, and to write outcomes."""
    yield Grant("Read", ("s3:GetObject",), resources.keys("runs/*", "processing/*"), KEYS_REASON)
    yield Grant(
        "Listing",
        ("s3:ListBucket",),
        (resources.bucket.bucket_arn,),
        conditions={"StringLike": {"s3:prefix": ["runs/*", "processing/*"]}},
    )
    yield Grant(
        "Outcomes", ("s3:PutObject",), resources.keys("runs/*/models/*/outcomes/*"), OUTCOMES_REASON
    )
    yield Grant("Record", ("dynamodb:GetItem",), (resources.table.table_arn,))
    # for the error that lists the runs if one is not found
    yield Grant("Records", ("dynamodb:Query",), (f"{resources.table.table_arn}/index/by_time",))
    yield from _key_permissions(resources)


def _source_permissions(resources: Resources) -> Iterator[Grant]:
    """Yield the permissions to read the locations outside the stack's own bucket."""
    for number, location in enumerate(
        dict.fromkeys(
            [*resources.settings.locations, *resources.settings.watched_locations.values()]
        )
    ):
        bucket = f"arn:{Stack.of(resources.scope).partition}:s3:::{location.bucket}"
        yield Grant(
            f"Further{number}", ("s3:GetObject",), (f"{bucket}/{location.prefix}*",), SOURCES_REASON
        )
        yield Grant(f"FurtherListing{number}", ("s3:ListBucket", "s3:GetBucketLocation"), (bucket,))
    if resources.settings.source_keys:
        yield Grant("FurtherKeys", ("kms:Decrypt",), resources.settings.source_keys)
    for number, (database, name) in enumerate(resources.settings.tables):
        yield Grant(
            f"FurtherTable{number}",
            (*READ_GLUE, "glue:GetDatabase"),
            (
                resources.arn("glue", "catalog"),
                resources.arn("glue", "database", database),
                resources.arn("glue", "table", f"{database}/{name}"),
            ),
        )


def _own_tables(resources: Resources) -> list[str]:
    return [
        resources.arn("glue", "catalog"),
        resources.arn("glue", "database", resources.database),
        resources.arn("glue", "table", f"{resources.database}/*"),
    ]
