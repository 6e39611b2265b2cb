"""The checks of a stack and its account, one function each: fact, consequence, and command to fix
it.

The first sentence of a docstring names the subject in the report. No check changes anything.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..._package import VERSION
from ...ports.run_states import State
from ..adapters.session import client
from .finding import Finding, Level, aws
from .fleets import fleets
from .snapshot import StackSnapshot, statements
from .timeouts import timeouts

WRONG, RISK, NOTE = Level.WRONG, Level.RISK, Level.NOTE
VISIBILITY_FACTOR = 6  # times the timeout of a function: how long a message should stay hidden
MIN_RECEIVES = 5  # the minimum that AWS recommends
WARNING_FRACTION = 0.9  # of a limit: above it, a check warns
DEFAULT_RETENTION_DAYS = 7  # without a lifecycle rule
FINAL_STATES = {State.DONE, State.CANCELLED}
MAX_TABLES_PER_DELETE = 100  # that one call may delete
ATHENA_DML, LAMBDA_CONCURRENCY = "L-FC5F6546", "L-B99A9384"  # codes of Service Quotas
MIN_QUERY_QUOTA = 20  # concurrent: the quota of a small region


def version(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The stack's version. It may differ from the version that is used with it."""
    stack_version = snapshot.outputs.get("Version", "?")
    if stack_version != VERSION:
        yield Finding(
            NOTE,
            f"the stack was deployed by version {stack_version}, and this is {VERSION}",
            "its functions run the other version",
            snapshot.redeploy,
        )


def visibility(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The visibility timeout. A delivered message stays hidden for that long."""
    for output, queue, url in (
        ("WorkFunction", snapshot.work_queue, snapshot.resources.queue),
        ("DeadLetterFunction", snapshot.dead_queue, snapshot.resources.dead),
    ):
        timeout, hidden = (
            int(snapshot.functions[output]["Timeout"]),
            int(queue["VisibilityTimeout"]),
        )
        window = int(
            (snapshot.mapping(output, queue) or {}).get("MaximumBatchingWindowInSeconds") or 0
        )
        expected = VISIBILITY_FACTOR * timeout + window
        if hidden < expected:
            yield Finding(
                WRONG if hidden < timeout else RISK,
                f"a message of {queue_name(url)} stays hidden for {hidden} s, but its function may "
                f"take {timeout} s",
                "a message is delivered to a second worker while the first one still processes it"
                if hidden < timeout
                else (
                    "when calls are throttled, Lambda gives up before the lease ends, and each "
                    "attempt counts as a receive"
                ),
                aws(
                    "sqs",
                    "set-queue-attributes",
                    "--queue-url",
                    url,
                    "--attributes",
                    f"VisibilityTimeout={expected}",
                ),
            )


def receives(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The maximum number of receives. After it, a message is dead-lettered."""
    policy = json.loads(snapshot.work_queue.get("RedrivePolicy", "{}"))
    count = int(policy.get("maxReceiveCount", 0))
    redrive_policy = json.dumps(
        {
            "deadLetterTargetArn": snapshot.dead_queue["QueueArn"],
            "maxReceiveCount": str(MIN_RECEIVES),
        }
    )
    command = aws(
        "sqs",
        "set-queue-attributes",
        "--queue-url",
        snapshot.resources.queue,
        "--attributes",
        json.dumps({"RedrivePolicy": redrive_policy}, separators=(",", ":")),
    )
    if not count:
        yield Finding(
            WRONG,
            "the work queue dead-letters no message",
            "a message that kills its worker comes back for days, and its run does not end",
            command,
        )
    elif policy.get("deadLetterTargetArn") != snapshot.dead_queue["QueueArn"]:
        yield Finding(
            WRONG,
            f"dead-lettered messages go to {policy['deadLetterTargetArn']}",
            "no function processes them, and their runs do not end",
            command,
        )
    elif count < MIN_RECEIVES:
        yield Finding(
            RISK,
            f"a message is dead-lettered after {count} receives",
            "a throttled call counts as one: valid work is dead-lettered, and no log mentions it",
            command,
        )


def retention(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The retention of messages and dead-lettered messages."""
    work, dead = (
        int(snapshot.work_queue["MessageRetentionPeriod"]),
        int(snapshot.dead_queue["MessageRetentionPeriod"]),
    )
    if dead <= work:
        yield Finding(
            RISK,
            f"a dead-lettered message is kept for {dead // 86_400} days, and a queued one for "
            f"{work // 86_400}",
            "its age counts from when it was first sent: it can expire as soon as it is "
            "dead-lettered",
            aws(
                "sqs",
                "set-queue-attributes",
                "--queue-url",
                snapshot.resources.dead,
                "--attributes",
                "MessageRetentionPeriod=1209600",
            ),
        )


def polling(snapshot: StackSnapshot) -> Iterator[Finding]:
    """Long polling of the queues."""
    for queue, url in (
        (snapshot.work_queue, snapshot.resources.queue),
        (snapshot.dead_queue, snapshot.resources.dead),
    ):
        if int(queue.get("ReceiveMessageWaitTimeSeconds", 0)) < 10:
            yield Finding(
                NOTE,
                f"{queue_name(url)} uses short polling",
                "empty replies are billed, and a poll may miss a message",
                aws(
                    "sqs",
                    "set-queue-attributes",
                    "--queue-url",
                    url,
                    "--attributes",
                    "ReceiveMessageWaitTimeSeconds=20",
                ),
            )


def dead_letters(snapshot: StackSnapshot) -> Iterator[Finding]:
    """Dead-lettered messages that were not processed."""
    waiting = int(snapshot.dead_queue["ApproximateNumberOfMessages"])
    if waiting:
        group = (
            snapshot.functions["DeadLetterFunction"]
            .get("LoggingConfig", {})
            .get("LogGroup", f"/aws/lambda/{snapshot.outputs['DeadLetterFunction']}")
        )
        yield Finding(
            RISK,
            f"{waiting:,} dead-lettered messages are waiting",
            "they do not belong to this stack, or cannot be recorded in their runs, which then do "
            "not end",
            aws("logs", "tail", group, "--since", "1d"),
        )


def mappings(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The event source mappings. They invoke the functions from their queues."""
    for output, queue in (
        ("WorkFunction", snapshot.work_queue),
        ("DeadLetterFunction", snapshot.dead_queue),
    ):
        found = snapshot.mapping(output, queue)
        name = snapshot.outputs[output]
        if found is None:
            yield Finding(
                WRONG,
                f"no event source mapping invokes {name} from its queue",
                "messages stay in the queue, and no run continues",
                snapshot.redeploy,
            )
            continue
        update = ("lambda", "update-event-source-mapping", "--uuid", found["UUID"])
        if found.get("State") in ("Disabled", "Disabling"):
            yield Finding(
                WRONG,
                f"the event source mapping of {name} is disabled",
                "messages stay in the queue, and no run continues",
                aws(*update, "--enabled"),
            )
        if "ReportBatchItemFailures" not in found.get("FunctionResponseTypes", []):
            yield Finding(
                WRONG,
                f"{name} cannot report which message failed",
                "messages that it returns count as processed: work is lost",
                aws(*update, "--function-response-types", "ReportBatchItemFailures"),
            )


def concurrency(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The reserved concurrency of the functions."""
    for output, expected in (
        ("WorkFunction", snapshot.resources.concurrency),
        ("DeadLetterFunction", 2),
        ("StepFunction", 2),
    ):
        name = snapshot.outputs[output]
        reserved = (
            client("lambda")
            .get_function_concurrency(FunctionName=name)
            .get("ReservedConcurrentExecutions")
        )
        if reserved is not None and reserved < expected:
            yield Finding(
                WRONG if reserved == 0 else RISK,
                f"{name} has {reserved} executions reserved, but needs up to {expected}",
                "every call of it is rejected"
                if reserved == 0
                else "further calls are throttled, and each throttled message counts as received",
                aws("lambda", "delete-function-concurrency", "--function-name", name),
            )


def recursion(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The loop detection of Lambda."""
    name = snapshot.outputs["WorkFunction"]
    if (
        client("lambda").get_function_recursion_config(FunctionName=name)["RecursiveLoop"]
        != "Allow"
    ):
        yield Finding(
            WRONG,
            f"{name} is stopped when it sends to the queue that invokes it",
            "a batch that is halved, or sent back before the deadline, is dropped after about 16 "
            "times",
            aws(
                "lambda",
                "put-function-recursion-config",
                "--function-name",
                name,
                "--recursive-loop",
                "Allow",
            ),
        )


def workgroup(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The Athena workgroup."""
    name = snapshot.resources.workgroup
    found = client("athena").get_work_group(WorkGroup=name)["WorkGroup"]
    update = ("athena", "update-work-group", "--work-group", name)
    if found.get("State") == "DISABLED":
        yield Finding(
            WRONG,
            f"the workgroup {name} is disabled",
            "no query runs",
            aws(*update, "--state", "ENABLED"),
        )
    configuration = found.get("Configuration", {})
    if configuration.get("EnforceWorkGroupConfiguration"):
        yield Finding(
            WRONG,
            f"the workgroup {name} enforces its own settings",
            "every CREATE TABLE AS with a location is rejected: no run can be prepared",
            aws(*update, "--configuration-updates", "EnforceWorkGroupConfiguration=false"),
        )
    engine = configuration.get("EngineVersion", {})
    chosen = engine.get("EffectiveEngineVersion") or engine.get("SelectedEngineVersion", "")
    if chosen.endswith("version 2"):
        yield Finding(
            RISK,
            f"the workgroup {name} runs {chosen}",
            "queries are written for version 3",
            aws(
                *update,
                "--configuration-updates",
                json.dumps({"EngineVersion": {"SelectedEngineVersion": "Athena engine version 3"}}),
            ),
        )


def policies(snapshot: StackSnapshot) -> Iterator[Finding]:
    """Access to the queues and the bucket."""
    about = (
        (queue_name(snapshot.resources.queue), _policy_of(snapshot.work_queue)),
        (queue_name(snapshot.resources.dead), _policy_of(snapshot.dead_queue)),
        (snapshot.resources.bucket, snapshot.bucket_policy),
    )
    for name, found in about:
        if not any(_requires_tls(statement) for statement in found):
            yield Finding(
                RISK,
                f"{name} can be accessed without TLS",
                "messages or files can be read in transit",
                snapshot.redeploy,
            )
        if any(_is_public(statement) for statement in found):
            yield Finding(
                WRONG,
                f"{name} is publicly accessible",
                "anyone can have messages processed, or read files, at this account's cost",
                snapshot.redeploy,
            )
    closed = snapshot.public_access
    if not closed or not all(closed.values()):
        settings = ",".join(
            f"{name}=true"
            for name in (
                "BlockPublicAcls",
                "IgnorePublicAcls",
                "BlockPublicPolicy",
                "RestrictPublicBuckets",
            )
        )
        yield Finding(
            RISK,
            f"public access to {snapshot.resources.bucket} is not blocked",
            "one wrong policy makes its files public",
            aws(
                "s3api",
                "put-public-access-block",
                "--bucket",
                snapshot.resources.bucket,
                "--public-access-block-configuration",
                settings,
            ),
        )


def notifications(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The event notifications of S3. They announce batches if events are the trigger."""
    if snapshot.resources.trigger != "events":
        return
    may_send = any(
        "s3.amazonaws.com" in json.dumps(s.get("Principal", "")) and s["Effect"] == "Allow"
        for s in _policy_of(snapshot.work_queue)
    )
    configured = (
        client("s3")
        .get_bucket_notification_configuration(Bucket=snapshot.resources.bucket)
        .get("QueueConfigurations", [])
    )
    if not may_send or not any(
        each["QueueArn"] == snapshot.work_queue["QueueArn"] for each in configured
    ):
        yield Finding(
            RISK,
            f"S3 {'does not notify' if may_send else 'may not notify'} the work queue of new "
            "batches",
            "no worker gets them until they are sent again as messages, minutes later",
            snapshot.redeploy,
        )


def lifecycle(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The lifecycle of the bucket."""
    expiring = {
        rule.get("Filter", {}).get("Prefix") or rule.get("Prefix")
        for rule in snapshot.lifecycle
        if rule.get("Expiration", {}).get("Days")
    }
    if "processing/" not in expiring:
        yield Finding(
            NOTE,
            f"batches in {snapshot.resources.bucket} never expire",
            "the bucket grows with every run",
            snapshot.redeploy,
        )
    if not any("AbortIncompleteMultipartUpload" in rule for rule in snapshot.lifecycle):
        yield Finding(
            NOTE,
            "incomplete uploads are kept",
            "they are billed, and no listing shows them",
            snapshot.redeploy,
        )


def table(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The table of runs."""
    name = snapshot.resources.table
    found = client("dynamodb").describe_table(TableName=name)["Table"]
    missing = {"by_job", "by_time"} - {
        index["IndexName"] for index in found.get("GlobalSecondaryIndexes", [])
    }
    if missing:
        yield Finding(
            WRONG,
            f"the table {name} lacks the index {', '.join(sorted(missing))}",
            "runs cannot be listed",
            snapshot.redeploy,
        )
    backups = client("dynamodb").describe_continuous_backups(TableName=name)[
        "ContinuousBackupsDescription"
    ]
    if (
        backups.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus")
        != "ENABLED"
    ):
        yield Finding(
            RISK,
            f"the table {name} has no point-in-time recovery",
            "the records of all runs can be lost by a mistake",
            aws(
                "dynamodb",
                "update-continuous-backups",
                "--table-name",
                name,
                "--point-in-time-recovery-specification",
                "PointInTimeRecoveryEnabled=true",
            ),
        )


def package(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The functions' code."""
    for name, found in (
        (snapshot.outputs[output], found) for output, found in snapshot.functions.items()
    ):
        if found.get("LastUpdateStatus") == "Failed" or found.get("State") == "Failed":
            reason = (
                found.get("LastUpdateStatusReason") or found.get("StateReason") or "no reason given"
            )
            yield Finding(
                WRONG,
                f"{name} could not be updated: {reason}",
                "it runs older code, or none",
                snapshot.redeploy,
            )
    limit = snapshot.account["limit"]["CodeSizeUnzipped"]
    taken = max(
        int(found["Tags"].get("hundredfold:unzipped", 0)) for found in snapshot.functions.values()
    )
    if taken > WARNING_FRACTION * limit:
        yield Finding(
            RISK,
            f"the package takes {taken / 2**20:.0f} of {limit / 2**20:.0f} MB",
            "the next library, or the next version of one, will not fit",
            f"hundredfold package {snapshot.resources.job} --image",
        )


def orphans(snapshot: StackSnapshot) -> Iterator[Finding]:
    """Remains of runs that ended long ago, or are unknown."""
    live = {
        _slug(run)
        for run, record in snapshot.runs.items()
        if not _is_over(record.state, record.updated, _retention_days(snapshot))
    }
    left = [
        name
        for name in snapshot.glue_tables
        if (found := re.match(r"run_(.+?)__", name)) and found[1] not in live
    ]
    for first in range(0, len(left), MAX_TABLES_PER_DELETE):
        chunk = left[first : first + MAX_TABLES_PER_DELETE]
        yield Finding(
            NOTE,
            f"{len(chunk)} tables in {snapshot.resources.database} belong to no run that could "
            f"continue, such as {chunk[0]}",
            "they clutter the catalogue; their files are gone, or will expire",
            aws(
                "glue",
                "batch-delete-table",
                "--database-name",
                snapshot.resources.database,
                "--tables-to-delete",
                *chunk,
            ),
        )
    for prefix in ("runs/", "processing/"):
        for run in [run for run in snapshot.folders(prefix) if run not in snapshot.runs][:10]:
            yield Finding(
                NOTE,
                f"{prefix}{run}/ holds files of a run without a record",
                "the run cannot be continued, and its files are billed",
                aws("s3", "rm", "--recursive", f"s3://{snapshot.resources.bucket}/{prefix}{run}/"),
            )


def account_concurrency(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The concurrency limit of the account."""
    free = int(snapshot.account["limit"]["UnreservedConcurrentExecutions"])
    if free < snapshot.workers:
        yield Finding(
            RISK,
            f"the account allows {free:,} concurrent executions, but up to {snapshot.workers:,} "
            "workers are configured",
            "further calls are throttled; a job takes longer than planned, and so do other "
            "functions of the account",
            _quota_increase("lambda", LAMBDA_CONCURRENCY, max(1000, 2 * snapshot.workers)),
        )


def code_storage(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The code storage of the account."""
    used, limit = (
        snapshot.account["usage"]["TotalCodeSize"],
        snapshot.account["limit"]["TotalCodeSize"],
    )
    if used > WARNING_FRACTION * limit:
        yield Finding(
            RISK,
            f"the code of all functions takes {used / 2**30:.0f} of {limit / 2**30:.0f} GB",
            "soon nothing more can be deployed in this region",
            aws(
                "lambda",
                "list-functions",
                "--query",
                "Functions[].[FunctionName,CodeSize]",
                "--output",
                "text",
            ),
        )


def queries(snapshot: StackSnapshot) -> Iterator[Finding]:
    """The quota of concurrent Athena queries."""
    found = snapshot.quota("athena", ATHENA_DML)
    if found < MIN_QUERY_QUOTA:
        yield Finding(
            NOTE,
            f"the account may run {found:.0f} queries at once",
            "runs wait for one another",
            _quota_increase("athena", ATHENA_DML, 2 * MIN_QUERY_QUOTA),
        )


STACK_CHECKS = (
    version,
    visibility,
    timeouts,
    receives,
    retention,
    polling,
    dead_letters,
    mappings,
    concurrency,
    recursion,
    workgroup,
    policies,
    notifications,
    lifecycle,
    table,
    package,
    orphans,
    fleets,
)
ACCOUNT_CHECKS = (account_concurrency, code_storage, queries)


def queue_name(url: str) -> str:
    """Return a queue's name, from its URL."""
    return url.rpartition("/")[2]


def _policy_of(queue: Mapping[str, str]) -> list[dict[str, Any]]:
    return statements(queue.get("Policy", "{}"))


def _requires_tls(statement: Mapping[str, Any]) -> bool:
    return statement["Effect"] == "Deny" and "aws:SecureTransport" in json.dumps(
        statement.get("Condition", {})
    )


def _is_public(statement: Mapping[str, Any]) -> bool:
    """Return whether a statement allows every principal, without a condition."""
    principal = statement.get("Principal")
    named = principal.get("AWS", []) if isinstance(principal, dict) else principal
    return (
        statement["Effect"] == "Allow"
        and "*" in ([named] if isinstance(named, str) else named or [])
        and not statement.get("Condition")
    )


def _retention_days(snapshot: StackSnapshot) -> int:
    rules = [
        r
        for r in snapshot.lifecycle
        if "processing/" in (r.get("Filter", {}).get("Prefix"), r.get("Prefix"))
    ]
    return int(
        next(
            (
                rule["Expiration"]["Days"]
                for rule in rules
                if rule.get("Expiration", {}).get("Days")
            ),
            DEFAULT_RETENTION_DAYS,
        )
    )


def _is_over(state: State, updated: str, days: int) -> bool:
    """Return whether a run cannot continue: it ended, or its data has expired."""
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(updated)
    return state in FINAL_STATES or (state is not State.RUNNING and age > dt.timedelta(days=days))


def _slug(run: str) -> str:
    """Return a run as part of the names of its tables."""
    return re.sub(r"[^a-z0-9]", "_", run.lower())


def _quota_increase(service: str, quota: str, expected: int) -> str:
    return aws(
        "service-quotas",
        "request-service-quota-increase",
        "--service-code",
        service,
        "--quota-code",
        quota,
        "--desired-value",
        str(expected),
    )
