"""The traps of AWS, one a function: what is so, what comes of it, how it is mended.

None of them changes anything.
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
from .snapshot import StackSnapshot, statements

WRONG, RISK, NOTE = Level.WRONG, Level.RISK, Level.NOTE
TIMES = 6  # the timeout of a function: so long should its messages stay hidden
RECEIVES = 5  # AWS advises at least so many
FULL = 0.9  # of a limit: time to say something
KEPT_DAYS = 7  # where no lifecycle rule says it
ENDED = {State.DONE, State.CANCELLED}
BATCH_OF_TABLES = 100  # that one call may delete
ATHENA_DML, LAMBDA_CONCURRENCY = "L-FC5F6546", "L-B99A9384"  # as Service Quotas names them
FEW_QUERIES = 20  # at once: what a region with small quotas has


def version(seen: StackSnapshot) -> Iterator[Finding]:
    """The stack's version. A stack is made by one version and used by another."""
    theirs = seen.outputs.get("Version", "?")
    if theirs != VERSION:
        yield Finding(
            NOTE,
            f"the stack was made by version {theirs}, and this is {VERSION}",
            "its functions run the older code",
            seen.redeploy,
        )


def visibility(seen: StackSnapshot) -> Iterator[Finding]:
    """How long a message handed out stays hidden."""
    for output, queue, url in (
        ("WorkFunction", seen.work_queue, seen.place.queue),
        ("BuryFunction", seen.dead_queue, seen.place.dead),
    ):
        timeout, hidden = int(seen.functions[output]["Timeout"]), int(queue["VisibilityTimeout"])
        window = int((seen.mapping(output, queue) or {}).get("MaximumBatchingWindowInSeconds") or 0)
        wanted = TIMES * timeout + window
        if hidden < wanted:
            yield Finding(
                WRONG if hidden < timeout else RISK,
                f"a message of {name_of(url)} stays hidden for {hidden} s, and its function may "
                f"take {timeout} s",
                "a message is handed to a second worker while the first is still at it"
                if hidden < timeout
                else (
                    "where calls are throttled, Lambda gives up before the lease ends, and each "
                    "try counts as a receive"
                ),
                aws(
                    "sqs",
                    "set-queue-attributes",
                    "--queue-url",
                    url,
                    "--attributes",
                    f"VisibilityTimeout={wanted}",
                ),
            )


def receives(seen: StackSnapshot) -> Iterator[Finding]:
    """How often a message is handed out before it is dead."""
    policy = json.loads(seen.work_queue.get("RedrivePolicy", "{}"))
    count = int(policy.get("maxReceiveCount", 0))
    mended = json.dumps(
        {"deadLetterTargetArn": seen.dead_queue["QueueArn"], "maxReceiveCount": str(RECEIVES)}
    )
    command = aws(
        "sqs",
        "set-queue-attributes",
        "--queue-url",
        seen.place.queue,
        "--attributes",
        json.dumps({"RedrivePolicy": mended}, separators=(",", ":")),
    )
    if not count:
        yield Finding(
            WRONG,
            "the work queue gives up no message",
            "one that kills its worker comes back for days, and its run does not end",
            command,
        )
    elif policy.get("deadLetterTargetArn") != seen.dead_queue["QueueArn"]:
        yield Finding(
            WRONG,
            f"dead letters go to {policy['deadLetterTargetArn']}",
            "nothing buries them, and their run does not end",
            command,
        )
    elif count < RECEIVES:
        yield Finding(
            RISK,
            f"a message is dead after {count} receives",
            "a throttled call counts as one: good work is given up, and no log tells of it",
            command,
        )


def retention(seen: StackSnapshot) -> Iterator[Finding]:
    """How long messages and dead letters are kept."""
    work, dead = (
        int(seen.work_queue["MessageRetentionPeriod"]),
        int(seen.dead_queue["MessageRetentionPeriod"]),
    )
    if dead <= work:
        yield Finding(
            RISK,
            f"a dead letter is kept for {dead // 86_400} days, and a message for {work // 86_400}",
            "its age counts from when it was first sent: it can vanish as soon as it is dead",
            aws(
                "sqs",
                "set-queue-attributes",
                "--queue-url",
                seen.place.dead,
                "--attributes",
                "MessageRetentionPeriod=1209600",
            ),
        )


def polling(seen: StackSnapshot) -> Iterator[Finding]:
    """Whether the queues are polled long."""
    for queue, url in ((seen.work_queue, seen.place.queue), (seen.dead_queue, seen.place.dead)):
        if int(queue.get("ReceiveMessageWaitTimeSeconds", 0)) < 10:
            yield Finding(
                NOTE,
                f"{name_of(url)} is polled short",
                "empty answers are paid for, and a message may be missed by a poll",
                aws(
                    "sqs",
                    "set-queue-attributes",
                    "--queue-url",
                    url,
                    "--attributes",
                    "ReceiveMessageWaitTimeSeconds=20",
                ),
            )


def dead_letters(seen: StackSnapshot) -> Iterator[Finding]:
    """Dead letters that nobody buried."""
    waiting = int(seen.dead_queue["ApproximateNumberOfMessages"])
    if waiting:
        group = (
            seen.functions["BuryFunction"]
            .get("LoggingConfig", {})
            .get("LogGroup", f"/aws/lambda/{seen.outputs['BuryFunction']}")
        )
        yield Finding(
            RISK,
            f"{waiting:,} dead letters wait",
            "they are not this stack's, or cannot be written into their runs, which then do not "
            "end",
            aws("logs", "tail", group, "--since", "1d"),
        )


def mappings(seen: StackSnapshot) -> Iterator[Finding]:
    """What feeds the functions from their queues."""
    for output, queue in (("WorkFunction", seen.work_queue), ("BuryFunction", seen.dead_queue)):
        found = seen.mapping(output, queue)
        name = seen.outputs[output]
        if found is None:
            yield Finding(
                WRONG,
                f"nothing feeds {name} from its queue",
                "messages lie there, and no run goes on",
                seen.redeploy,
            )
            continue
        update = ("lambda", "update-event-source-mapping", "--uuid", found["UUID"])
        if found.get("State") in ("Disabled", "Disabling"):
            yield Finding(
                WRONG,
                f"the queue of {name} is switched off",
                "messages lie there, and no run goes on",
                aws(*update, "--enabled"),
            )
        if "ReportBatchItemFailures" not in found.get("FunctionResponseTypes", []):
            yield Finding(
                WRONG,
                f"{name} cannot say which message failed",
                "what it hands back is taken for done: work is lost",
                aws(*update, "--function-response-types", "ReportBatchItemFailures"),
            )


def concurrency(seen: StackSnapshot) -> Iterator[Finding]:
    """How many workers the functions may have."""
    for output, wanted in (
        ("WorkFunction", seen.place.concurrency),
        ("BuryFunction", 2),
        ("StepFunction", 2),
    ):
        name = seen.outputs[output]
        reserved = (
            client("lambda")
            .get_function_concurrency(FunctionName=name)
            .get("ReservedConcurrentExecutions")
        )
        if reserved is not None and reserved < wanted:
            yield Finding(
                WRONG if reserved == 0 else RISK,
                f"{name} has {reserved} executions reserved, and up to {wanted} are wanted",
                "no call of it is answered"
                if reserved == 0
                else "what is over is throttled, and each throttled message counts as received",
                aws("lambda", "delete-function-concurrency", "--function-name", name),
            )


def recursion(seen: StackSnapshot) -> Iterator[Finding]:
    """The guard against loops."""
    name = seen.outputs["WorkFunction"]
    if (
        client("lambda").get_function_recursion_config(FunctionName=name)["RecursiveLoop"]
        != "Allow"
    ):
        yield Finding(
            WRONG,
            f"{name} is stopped when it sends to the queue that feeds it",
            "a batch that is halved, or handed on before the deadline, is dropped after about 16 "
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


def workgroup(seen: StackSnapshot) -> Iterator[Finding]:
    """The Athena workgroup."""
    name = seen.place.workgroup
    found = client("athena").get_work_group(WorkGroup=name)["WorkGroup"]
    update = ("athena", "update-work-group", "--work-group", name)
    if found.get("State") == "DISABLED":
        yield Finding(
            WRONG,
            f"the workgroup {name} is switched off",
            "no query runs",
            aws(*update, "--state", "ENABLED"),
        )
    configuration = found.get("Configuration", {})
    if configuration.get("EnforceWorkGroupConfiguration"):
        yield Finding(
            WRONG,
            f"the workgroup {name} enforces its own settings",
            "every CREATE TABLE AS that says where its files go is refused: no run can be prepared",
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


def policies(seen: StackSnapshot) -> Iterator[Finding]:
    """Who may reach the queues and the bucket."""
    about = (
        (name_of(seen.place.queue), _of(seen.work_queue)),
        (name_of(seen.place.dead), _of(seen.dead_queue)),
        (seen.place.bucket, seen.bucket_policy),
    )
    for name, found in about:
        if not any(_wants_tls(statement) for statement in found):
            yield Finding(
                RISK,
                f"{name} can be reached without TLS",
                "messages or files can be read on their way",
                seen.redeploy,
            )
        if any(_is_open(statement) for statement in found):
            yield Finding(
                WRONG,
                f"{name} is open to strangers",
                "anyone's messages are worked on, or files are read, at this account's cost",
                seen.redeploy,
            )
    closed = seen.public_access
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
            f"public access to {seen.place.bucket} is not blocked",
            "one careless policy makes its files public",
            aws(
                "s3api",
                "put-public-access-block",
                "--bucket",
                seen.place.bucket,
                "--public-access-block-configuration",
                settings,
            ),
        )


def notices(seen: StackSnapshot) -> Iterator[Finding]:
    """Whether S3 tells of batches, where events are the trigger."""
    if seen.place.trigger != "events":
        return
    may_send = any(
        "s3.amazonaws.com" in json.dumps(s.get("Principal", "")) and s["Effect"] == "Allow"
        for s in _of(seen.work_queue)
    )
    told = (
        client("s3")
        .get_bucket_notification_configuration(Bucket=seen.place.bucket)
        .get("QueueConfigurations", [])
    )
    if not may_send or not any(each["QueueArn"] == seen.work_queue["QueueArn"] for each in told):
        yield Finding(
            RISK,
            f"S3 {'does not tell' if may_send else 'may not tell'} the work queue of new batches",
            "no worker hears of them until the sweep sends them as messages, minutes later",
            seen.redeploy,
        )


def lifecycle(seen: StackSnapshot) -> Iterator[Finding]:
    """What the bucket forgets."""
    expiring = {
        rule.get("Filter", {}).get("Prefix") or rule.get("Prefix")
        for rule in seen.lifecycle
        if rule.get("Expiration", {}).get("Days")
    }
    if "processing/" not in expiring:
        yield Finding(
            NOTE,
            f"batches in {seen.place.bucket} never expire",
            "the bucket grows with every run",
            seen.redeploy,
        )
    if not any("AbortIncompleteMultipartUpload" in rule for rule in seen.lifecycle):
        yield Finding(
            NOTE,
            "unfinished uploads are kept",
            "they are paid for, and no listing shows them",
            seen.redeploy,
        )


def table(seen: StackSnapshot) -> Iterator[Finding]:
    """The table of runs."""
    name = seen.place.table
    found = client("dynamodb").describe_table(TableName=name)["Table"]
    missing = {"by_job", "by_time"} - {
        index["IndexName"] for index in found.get("GlobalSecondaryIndexes", [])
    }
    if missing:
        yield Finding(
            WRONG,
            f"the table {name} lacks the index {', '.join(sorted(missing))}",
            "runs cannot be listed",
            seen.redeploy,
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
            f"the table {name} cannot be had back as it was before a mistake",
            "the records of all runs can be lost",
            aws(
                "dynamodb",
                "update-continuous-backups",
                "--table-name",
                name,
                "--point-in-time-recovery-specification",
                "PointInTimeRecoveryEnabled=true",
            ),
        )


def package(seen: StackSnapshot) -> Iterator[Finding]:
    """The functions' code."""
    for name, found in ((seen.outputs[output], found) for output, found in seen.functions.items()):
        if found.get("LastUpdateStatus") == "Failed" or found.get("State") == "Failed":
            reason = (
                found.get("LastUpdateStatusReason")
                or found.get("StateReason")
                or "no reason is given"
            )
            yield Finding(
                WRONG,
                f"{name} could not be brought up to date: {reason}",
                "it runs older code, or none",
                seen.redeploy,
            )
    work, room = seen.functions["WorkFunction"], seen.account["limit"]["CodeSizeUnzipped"]
    taken = int(work["Tags"].get("hundredfold:unzipped", 0))
    if taken > FULL * room:
        yield Finding(
            RISK,
            f"the package takes {taken / 2**20:.0f} of {room / 2**20:.0f} MB",
            "the next library, or the next version of one, does not fit",
            f"hundredfold package {seen.place.job} --image",
        )


def orphans(seen: StackSnapshot) -> Iterator[Finding]:
    """What is left of runs that ended long ago, or that nobody knows."""
    live = {
        _slug(run)
        for run, record in seen.runs.items()
        if not _is_over(record.state, record.updated, _kept_days(seen))
    }
    left = [
        name
        for name in seen.glue_tables
        if (found := re.match(r"run_(.+?)__", name)) and found[1] not in live
    ]
    for first in range(0, len(left), BATCH_OF_TABLES):
        some = left[first : first + BATCH_OF_TABLES]
        yield Finding(
            NOTE,
            f"{len(some)} tables in {seen.place.database} belong to no run that could go on, such "
            f"as {some[0]}",
            "they clutter the catalogue; their files are gone, or expire",
            aws(
                "glue",
                "batch-delete-table",
                "--database-name",
                seen.place.database,
                "--tables-to-delete",
                *some,
            ),
        )
    for prefix in ("runs/", "processing/"):
        for run in [run for run in seen.folders(prefix) if run not in seen.runs][:10]:
            yield Finding(
                NOTE,
                f"{prefix}{run}/ holds files of a run that has no record",
                "nobody can go on with it, and its files are paid for",
                aws("s3", "rm", "--recursive", f"s3://{seen.place.bucket}/{prefix}{run}/"),
            )


def account_concurrency(seen: StackSnapshot) -> Iterator[Finding]:
    """How many functions of the account may run at once."""
    free = int(seen.account["limit"]["UnreservedConcurrentExecutions"])
    if free < seen.workers:
        yield Finding(
            RISK,
            f"the account lets {free:,} functions run at once, and up to {seen.workers:,} workers "
            "are wanted",
            "what is over is throttled; a job takes longer than its plan, and other functions of "
            "the account suffer with it",
            _increase("lambda", LAMBDA_CONCURRENCY, max(1000, 2 * seen.workers)),
        )


def code_storage(seen: StackSnapshot) -> Iterator[Finding]:
    """The room for code in the account."""
    used, limit = seen.account["usage"]["TotalCodeSize"], seen.account["limit"]["TotalCodeSize"]
    if used > FULL * limit:
        yield Finding(
            RISK,
            f"code of all functions takes {used / 2**30:.0f} of {limit / 2**30:.0f} GB",
            "soon nothing can be deployed in this region",
            aws(
                "lambda",
                "list-functions",
                "--query",
                "Functions[].[FunctionName,CodeSize]",
                "--output",
                "text",
            ),
        )


def queries(seen: StackSnapshot) -> Iterator[Finding]:
    """How many queries Athena lets the account have at once."""
    found = seen.quota("athena", ATHENA_DML)
    if found < FEW_QUERIES:
        yield Finding(
            NOTE,
            f"the account may have {found:.0f} queries at once",
            "runs wait for one another",
            _increase("athena", ATHENA_DML, 2 * FEW_QUERIES),
        )


STACK = (
    version, visibility, receives, retention, polling, dead_letters, mappings, concurrency, recursion, workgroup, policies, notices, lifecycle, table,
    package, orphans,
)  # fmt: skip
ACCOUNT = (account_concurrency, code_storage, queries)


def name_of(url: str) -> str:
    """A queue's name, from its URL."""
    return url.rpartition("/")[2]


def _of(queue: Mapping[str, str]) -> list[dict[str, Any]]:
    return statements(queue.get("Policy", "{}"))


def _wants_tls(statement: Mapping[str, Any]) -> bool:
    return statement["Effect"] == "Deny" and "aws:SecureTransport" in json.dumps(
        statement.get("Condition", {})
    )


def _is_open(statement: Mapping[str, Any]) -> bool:
    """Whether it lets in whoever asks, on no condition."""
    who = statement.get("Principal")
    named = who.get("AWS", []) if isinstance(who, dict) else who
    return (
        statement["Effect"] == "Allow"
        and "*" in ([named] if isinstance(named, str) else named or [])
        and not statement.get("Condition")
    )


def _kept_days(seen: StackSnapshot) -> int:
    rules = [
        r
        for r in seen.lifecycle
        if "processing/" in (r.get("Filter", {}).get("Prefix"), r.get("Prefix"))
    ]
    return int(
        next(
            (
                rule["Expiration"]["Days"]
                for rule in rules
                if rule.get("Expiration", {}).get("Days")
            ),
            KEPT_DAYS,
        )
    )


def _is_over(state: State, updated: str, days: int) -> bool:
    """Whether a run cannot go on: it ended, or what it needs has expired."""
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(updated)
    return state in ENDED or (state is not State.RUNNING and age > dt.timedelta(days=days))


def _slug(run: str) -> str:
    """A run as it stands in the names of its tables."""
    return re.sub(r"[^a-z0-9]", "_", run.lower())


def _increase(service: str, quota: str, wanted: int) -> str:
    return aws(
        "service-quotas",
        "request-service-quota-increase",
        "--service-code",
        service,
        "--quota-code",
        quota,
        "--desired-value",
        str(wanted),
    )
