"""The persistent resources: the bucket, the table of runs, and the Athena and Glue resources."""

from __future__ import annotations

from typing import Any

from aws_cdk import Duration, RemovalPolicy, Stack, aws_athena, aws_dynamodb, aws_glue, aws_s3
from constructs import Construct

from ..tags import BATCH_TAG_NAME, BATCH_TAG_VALUE
from .encryption import key_of
from .nag_suppressions import accept_finding
from .settings import Settings

EXPIRING_PREFIXES = ("processing/", "athena/")  # objects that a run no longer needs after its end
# batches, among all objects that Athena writes
EVENT_PREFIX, EVENT_SUFFIX = (
    "processing/",
    ".batch.parquet",
)


def make_bucket(scope: Construct, settings: Settings) -> Any:
    """Create the bucket: encrypted, TLS only, never public.

    It outlives the stack, to keep the releases.
    """
    days = Duration.days(settings.keep_days)
    key, kinds = key_of(scope, settings), aws_s3.BucketEncryption
    bucket = aws_s3.Bucket(
        scope,
        # never named: a fixed name would conflict with the next stack, since the bucket is retained
        "Bucket",
        encryption=kinds.KMS if key else kinds.S3_MANAGED,
        encryption_key=key,
        bucket_key_enabled=True if key else None,
        enforce_ssl=True,
        block_public_access=aws_s3.BlockPublicAccess.BLOCK_ALL,
        object_ownership=aws_s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        # a release deleted by mistake, and its previous pointer, can be restored for keep_days
        versioned=True,
        lifecycle_rules=[
            *(
                aws_s3.LifecycleRule(
                    id=f"expire-{prefix.rstrip('/')}", prefix=prefix, expiration=days
                )
                for prefix in EXPIRING_PREFIXES
            ),
            aws_s3.LifecycleRule(
                id="expire-batches",
                tag_filters={BATCH_TAG_NAME: BATCH_TAG_VALUE},
                expiration=days,
            ),
            aws_s3.LifecycleRule(
                id="expire-replaced-versions",
                noncurrent_version_expiration=days,
                abort_incomplete_multipart_upload_after=Duration.days(1),
                expired_object_delete_marker=True,
            ),
        ],
        # but not if the creation of the stack failed
        removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
    )
    accept_finding(
        bucket,
        "S1",
        "only the stack's own roles reach the bucket; whether an organisation keeps access logs "
        "is decided for all its buckets, in CloudTrail",
    )
    return bucket


def configure_notifications(bucket: Any, queue: Any | None, *, event_bridge: bool) -> None:
    """Make S3 notify a queue of each batch that is written, and EventBridge of every upload.

    The configuration is set on the bucket itself: CDK's own way is one more function, which may
    change the notifications of every bucket.
    """
    queues = []
    if queue is not None:
        rules = [
            aws_s3.CfnBucket.FilterRuleProperty(name=n, value=v)
            for n, v in (("prefix", EVENT_PREFIX), ("suffix", EVENT_SUFFIX))
        ]
        key = aws_s3.CfnBucket.S3KeyFilterProperty(rules=rules)
        queues.append(
            aws_s3.CfnBucket.QueueConfigurationProperty(
                event="s3:ObjectCreated:*",
                queue=queue.queue_arn,
                filter=aws_s3.CfnBucket.NotificationFilterProperty(s3_key=key),
            )
        )
        # S3 tests the queue when this is set
        bucket.node.default_child.node.add_dependency(queue.node.find_child("Policy"))
    if queues or event_bridge:
        bucket.node.default_child.notification_configuration = (
            aws_s3.CfnBucket.NotificationConfigurationProperty(
                queue_configurations=queues or None,
                event_bridge_configuration=aws_s3.CfnBucket.EventBridgeConfigurationProperty(
                    event_bridge_enabled=True
                )
                if event_bridge
                else None,
            )
        )


def make_table(scope: Construct, settings: Settings, name: str | None) -> Any:
    """Create the table of the runs' records, with indexes by job and by time."""
    text = aws_dynamodb.AttributeType.STRING
    key = key_of(scope, settings)
    table = aws_dynamodb.Table(
        scope,
        "Runs",
        table_name=name,
        partition_key=aws_dynamodb.Attribute(name="id", type=text),
        billing_mode=aws_dynamodb.BillingMode.PAY_PER_REQUEST,
        point_in_time_recovery_specification=aws_dynamodb.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=True
        ),
        encryption=aws_dynamodb.TableEncryption.CUSTOMER_MANAGED if key else None,
        encryption_key=key,
        # point-in-time recovery keeps a copy of a deleted table for 35 days
        removal_policy=RemovalPolicy.DESTROY,
    )
    for index, attribute in (("by_job", "job"), ("by_time", "kind")):
        table.add_global_secondary_index(
            index_name=index,
            partition_key=aws_dynamodb.Attribute(name=attribute, type=text),
            sort_key=aws_dynamodb.Attribute(name="created", type=text),
        )
    return table


def make_database(scope: Construct, name: str) -> Any:
    """Create the Glue database of the runs' tables."""
    return aws_glue.CfnDatabase(
        scope,
        "Database",
        catalog_id=Stack.of(scope).account,
        database_input=aws_glue.CfnDatabase.DatabaseInputProperty(
            name=name, description="Tables of Hundredfold's runs"
        ),
    )


def make_workgroup(scope: Construct, name: str, bucket: Any, settings: Settings) -> None:
    """Create the Athena workgroup.

    It must not enforce its own output location: CREATE TABLE AS names one, and would be rejected.
    """
    aws_athena.CfnWorkGroup(
        scope,
        "Workgroup",
        name=name,
        description="Queries of Hundredfold's runs",
        recursive_delete_option=True,
        work_group_configuration=aws_athena.CfnWorkGroup.WorkGroupConfigurationProperty(
            enforce_work_group_configuration=False,
            engine_version=aws_athena.CfnWorkGroup.EngineVersionProperty(
                selected_engine_version="Athena engine version 3"
            ),
            publish_cloud_watch_metrics_enabled=True,
            bytes_scanned_cutoff_per_query=settings.scan_limit,
            result_configuration=aws_athena.CfnWorkGroup.ResultConfigurationProperty(
                output_location=f"s3://{bucket.bucket_name}/athena/",
                encryption_configuration=aws_athena.CfnWorkGroup.EncryptionConfigurationProperty(
                    encryption_option="SSE_KMS" if settings.key else "SSE_S3",
                    kms_key=settings.key,
                ),
            ),
        ),
    )
