"""The work queue and the dead-letter queue."""

from __future__ import annotations

from typing import Any

from aws_cdk import Duration, Stack, aws_iam, aws_sqs
from constructs import Construct

from .settings import Settings

BURY_TIMEOUT = 60  # seconds


def make_queues(
    scope: Construct, settings: Settings, names: tuple[str | None, str | None]
) -> tuple[Any, Any]:
    """(work, dead)."""
    dead = aws_sqs.Queue(
        scope,
        "DeadQueue",
        queue_name=names[1],
        retention_period=Duration.days(
            14
        ),  # the longest there is; a letter's age counts from when it was first sent
        visibility_timeout=Duration.seconds(6 * BURY_TIMEOUT),
        receive_message_wait_time=Duration.seconds(20),
        encryption=aws_sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=True,
    )
    work = aws_sqs.Queue(
        scope,
        "WorkQueue",
        queue_name=names[0],
        retention_period=Duration.days(4),  # so that a dead letter still has ten days
        visibility_timeout=Duration.seconds(settings.visibility),
        receive_message_wait_time=Duration.seconds(20),
        encryption=aws_sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=True,
        dead_letter_queue=aws_sqs.DeadLetterQueue(
            queue=dead, max_receive_count=settings.max_receives
        ),
    )
    return work, dead


def let_s3_send(queue: Any) -> None:
    """S3 may send to the queue, for buckets of this account.

    Which one cannot be said: the bucket waits for this policy.
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
