"""The queue of messages and its dead-letter queue."""

from __future__ import annotations

from typing import Any

from aws_cdk import Duration, Stack, aws_iam, aws_sqs
from constructs import Construct

from .encryption import key_of
from .settings import Settings

DEAD_LETTER_TIMEOUT_S = 60  # seconds


TASK_LEASE_S = 120  # of a message that a task takes, which extends it


def make_queues(
    scope: Construct, settings: Settings, names: tuple[str | None, str | None]
) -> tuple[Any, Any]:
    """Create the queue of messages and its dead-letter queue."""
    key = key_of(scope, settings)
    kinds = aws_sqs.QueueEncryption
    encryption = kinds.KMS if key else kinds.SQS_MANAGED
    # the maximum; the age of a message counts from when it was first sent
    dead = aws_sqs.Queue(
        scope,
        "DeadQueue",
        queue_name=names[1],
        retention_period=Duration.days(14),
        visibility_timeout=Duration.seconds(6 * DEAD_LETTER_TIMEOUT_S),
        receive_message_wait_time=Duration.seconds(20),
        encryption=encryption,
        encryption_master_key=key,
        enforce_ssl=True,
    )
    work = aws_sqs.Queue(
        scope,
        "WorkQueue",
        queue_name=names[0],
        retention_period=Duration.days(4),  # so that a dead-lettered message still has ten days
        visibility_timeout=Duration.seconds(settings.visibility_timeout_s),
        receive_message_wait_time=Duration.seconds(20),
        encryption=encryption,
        encryption_master_key=key,
        enforce_ssl=True,
        dead_letter_queue=aws_sqs.DeadLetterQueue(
            queue=dead, max_receive_count=settings.max_receives
        ),
    )
    return work, dead


def make_fleet_queue(scope: Construct, settings: Settings, dead: Any, name: str | None) -> Any:
    """Create the queue of runs whose workers are tasks alone: no mapping invokes functions by it.

    Its messages have the same dead-letter queue.
    """
    key = key_of(scope, settings)
    kinds = aws_sqs.QueueEncryption
    return aws_sqs.Queue(
        scope,
        "FleetQueue",
        queue_name=name,
        retention_period=Duration.days(4),
        visibility_timeout=Duration.seconds(TASK_LEASE_S),
        receive_message_wait_time=Duration.seconds(20),
        encryption=kinds.KMS if key else kinds.SQS_MANAGED,
        encryption_master_key=key,
        enforce_ssl=True,
        dead_letter_queue=aws_sqs.DeadLetterQueue(
            queue=dead, max_receive_count=settings.max_receives
        ),
    )


def allow_s3_to_send(queue: Any) -> None:
    """Allow S3 to send to the queue, for buckets of this account.

    A single bucket cannot be named: the bucket depends on this policy.
    """
    stack = Stack.of(queue)
    queue.add_to_resource_policy(
        aws_iam.PolicyStatement(
            sid="Notices",
            principals=[aws_iam.ServicePrincipal("s3.amazonaws.com")],
            actions=["sqs:SendMessage"],
            resources=[queue.queue_arn],
            conditions={
                "StringEquals": {"aws:SourceAccount": stack.account},
                "ArnLike": {"aws:SourceArn": f"arn:{stack.partition}:s3:::*"},
            },
        )
    )
