"""Who may do what: one role each, by name.  Wherever a `*` stands, a line says why no name can.

step     everything of a run: its files, its tables, its record; it writes what is published
work     reads what a run prepared, writes outcomes, and nothing else
bury     writes the outcomes of dead letters
machine  calls step, runs queries with its own rights, and writes a failure into the record
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import Arn, ArnComponents, ArnFormat, Stack, aws_iam
from constructs import Construct

from .nag_suppressions import LOGS, TRACES, reviewed_wildcard
from .settings import Settings

KEYS = "keys are made while a run goes on: the prefix is the name"
OUTCOMES = (
    "the runs and their models are not known yet: outcomes are all that can be written below any "
    "of them"
)
TABLES = "a run's tables are made while it goes on, and this database holds no others"
FURTHER = "the owner of the stack named this place, and its files come and go"

READ_GLUE = (
    "glue:GetTable",
    "glue:GetTables",
    "glue:GetPartition",
    "glue:GetPartitions",
    "glue:BatchGetPartition",
)


@dataclass(frozen=True, slots=True)
class Grant:
    """One statement of a policy; `why` there is a * in its resources."""

    name: str
    actions: Sequence[str]
    resources: Sequence[str]
    why: str = ""
    conditions: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What rights are about: the stack's own things, as CDK has them."""

    scope: Construct
    settings: Settings
    bucket: Any
    table: Any
    queue: Any
    dead: Any
    database: str
    workgroup: str

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
    """A role without any managed policy."""
    return aws_iam.Role(scope, name, assumed_by=service)


def allow(role: Any, grants: Iterable[Grant]) -> None:
    """Give rights to a role, and accept their wildcards for the reasons given."""
    for grant in grants:
        role.add_to_policy(
            aws_iam.PolicyStatement(
                sid=grant.name,
                actions=list(grant.actions),
                resources=list(grant.resources),
                conditions=grant.conditions,
            )
        )
        for resource in grant.resources if grant.why else ():
            reviewed_wildcard(role, resource, grant.why)


def review_tracing(role: Any) -> None:
    reviewed_wildcard(role, "*", TRACES)


def review_machine(role: Any) -> None:
    reviewed_wildcard(role, "*", f"{LOGS}; {TRACES}")


def of_step(things: Resources) -> Iterator[Grant]:
    own = things.keys("runs/*", "processing/*", "athena/*", "releases/*")
    yield Grant(
        "Files",
        ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"),
        own,
        KEYS,
    )
    yield Grant("Sources", ("s3:GetObject",), things.keys("sources/*"), KEYS)
    yield Grant("Listing", ("s3:ListBucket", "s3:GetBucketLocation"), (things.bucket.bucket_arn,))
    yield from _further(things)
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
        _own_tables(things),
        TABLES,
    )
    yield Grant(
        "Queries",
        ("athena:GetQueryExecution", "athena:GetQueryResults"),
        (things.arn("athena", "workgroup", things.workgroup),),
    )
    yield Grant(
        "Record",
        ("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"),
        (things.table.table_arn,),
    )
    yield Grant(
        "Records",
        ("dynamodb:Query",),
        [f"{things.table.table_arn}/index/{name}" for name in ("by_job", "by_time")],
    )
    yield Grant("Send", ("sqs:SendMessage", "sqs:GetQueueAttributes"), (things.queue.queue_arn,))
    yield Grant("Dead", ("sqs:GetQueueAttributes",), (things.dead.queue_arn,))


def of_work(things: Resources) -> Iterator[Grant]:
    yield from _outcomes(things)
    yield Grant(
        "Messages",
        (
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:ChangeMessageVisibility",
            "sqs:GetQueueAttributes",
            "sqs:SendMessage",
        ),
        (things.queue.queue_arn,),
    )
    yield Grant("Refuse", ("sqs:SendMessage",), (things.dead.queue_arn,))


def of_bury(things: Resources) -> Iterator[Grant]:
    yield from _outcomes(things)
    yield Grant(
        "DeadLetters",
        (
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:ChangeMessageVisibility",
            "sqs:GetQueueAttributes",
        ),
        (things.dead.queue_arn,),
    )


def of_machine(things: Resources, step_arn: str) -> Iterator[Grant]:
    """Athena reads and writes with the rights of whoever starts a query: this role."""
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
            things.arn("athena", "workgroup", things.workgroup),
            things.arn("athena", "datacatalog", "AwsDataCatalog"),
        ),
    )
    yield Grant("Read", ("s3:GetObject",), things.keys("runs/*", "sources/*"), KEYS)
    yield Grant(
        "Write",
        ("s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"),
        things.keys("processing/*", "athena/*"),
        KEYS,
    )
    yield Grant(
        "Listing",
        ("s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"),
        (things.bucket.bucket_arn,),
    )
    yield from _further(things)
    yield Grant(
        "Tables",
        (
            *READ_GLUE,
            "glue:GetDatabase",
            "glue:GetDatabases",
            "glue:CreateTable",
            "glue:DeleteTable",
        ),
        _own_tables(things),
        TABLES,
    )
    yield Grant(
        "DefaultDatabase",  # Athena looks at the database of this name before every query
        ("glue:GetDatabase", "glue:GetDatabases"),
        (things.arn("glue", "catalog"), things.arn("glue", "database", "default")),
    )
    yield Grant("Failure", ("dynamodb:UpdateItem",), (things.table.table_arn,))


def _outcomes(things: Resources) -> Iterator[Grant]:
    """What a worker reads of a run, and the outcomes that it writes."""
    yield Grant("Read", ("s3:GetObject",), things.keys("runs/*", "processing/*"), KEYS)
    yield Grant(
        "Listing",
        ("s3:ListBucket",),
        (things.bucket.bucket_arn,),
        conditions={"StringLike": {"s3:prefix": ["runs/*", "processing/*"]}},
    )
    yield Grant("Outcomes", ("s3:PutObject",), things.keys("runs/*/models/*/outcomes/*"), OUTCOMES)
    yield Grant("Record", ("dynamodb:GetItem",), (things.table.table_arn,))
    yield Grant(
        "Records", ("dynamodb:Query",), (f"{things.table.table_arn}/index/by_time",)
    )  # of a run that is not there, which are?


def _further(things: Resources) -> Iterator[Grant]:
    """What the owner lets be read beside the stack's own bucket."""
    for number, place in enumerate(
        dict.fromkeys([*things.settings.locations, *things.settings.watched.values()])
    ):
        bucket = f"arn:{Stack.of(things.scope).partition}:s3:::{place.bucket}"
        yield Grant(f"Further{number}", ("s3:GetObject",), (f"{bucket}/{place.prefix}*",), FURTHER)
        yield Grant(f"FurtherListing{number}", ("s3:ListBucket", "s3:GetBucketLocation"), (bucket,))
    if things.settings.source_keys:
        yield Grant("FurtherKeys", ("kms:Decrypt",), things.settings.source_keys)
    for number, (database, name) in enumerate(things.settings.tables):
        yield Grant(
            f"FurtherTable{number}",
            (*READ_GLUE, "glue:GetDatabase"),
            (
                things.arn("glue", "catalog"),
                things.arn("glue", "database", database),
                things.arn("glue", "table", f"{database}/{name}"),
            ),
        )


def _own_tables(things: Resources) -> list[str]:
    return [
        things.arn("glue", "catalog"),
        things.arn("glue", "database", things.database),
        things.arn("glue", "table", f"{things.database}/*"),
    ]
