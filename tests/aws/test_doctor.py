"""Each fault that the doctor knows: caused, found, and fixed by the reported command.

In an emulated account.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from hundredfold.aws.adapters.dynamodb_ledger import DynamoLedger
from hundredfold.aws.adapters.session import StackResources, client
from hundredfold.aws.doctor.doctor import examine
from hundredfold.aws.doctor.finding import Finding, Level
from hundredfold.aws.doctor.snapshot import StackSnapshot
from hundredfold.aws.doctor.timeouts import is_allowed, timeouts
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_states import State
from support.emulator import Emulator
from support.emulator.deploy import delete, deploy
from support.synthesis import JOB, cdk_app, synthesize

STACK = "examined"


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with cdk_app() as app:
        return synthesize(
            app,
            tmp_path_factory.mktemp("examined"),
            STACK,
            {"job": JOB, "trigger": "events", "concurrency": 20},
        )


@pytest.fixture
def outputs(aws_env: Emulator, assembly: Path) -> Iterator[dict[str, str]]:
    """A healthy stack."""
    found = deploy(aws_env, assembly)
    complete(found)
    yield found
    delete(aws_env, STACK)


def complete(outputs: dict[str, str]) -> None:
    """Set the properties of the template that the emulator's CloudFormation ignores."""
    client("lambda").put_function_recursion_config(
        FunctionName=outputs["WorkFunction"], RecursiveLoop="Allow"
    )
    client("dynamodb").update_continuous_backups(
        TableName=outputs["Table"],
        PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
    )
    rules = [
        {
            "ID": "p",
            "Filter": {"Prefix": "processing/"},
            "Status": "Enabled",
            "Expiration": {"Days": 7},
        },
        {
            "ID": "u",
            "Filter": {"Prefix": ""},
            "Status": "Enabled",
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        },
    ]
    client("s3").put_bucket_lifecycle_configuration(
        Bucket=outputs["Bucket"], LifecycleConfiguration={"Rules": rules}
    )
    client("s3").put_public_access_block(
        Bucket=outputs["Bucket"],
        PublicAccessBlockConfiguration=dict.fromkeys(
            ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"),
            True,
        ),
    )
    client("s3").put_bucket_policy(
        Bucket=outputs["Bucket"],
        Policy=json.dumps({"Version": "2012-10-17", "Statement": [tls("s3:*")]}),
    )
    for key in ("QueueUrl", "DeadUrl"):
        set_policy(outputs[key], [*policy_of(outputs[key]), tls("sqs:*")])
    client("sqs").purge_queue(QueueUrl=outputs["QueueUrl"])  # S3 has sent its test event


def tls(actions: str) -> dict[str, Any]:
    condition = {"Bool": {"aws:SecureTransport": "false"}}
    return {
        "Effect": "Deny",
        "Principal": "*",
        "Action": actions,
        "Resource": "*",
        "Condition": condition,
    }


def policy_of(url: str) -> list[dict[str, Any]]:
    found = client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return list(json.loads(found.get("Policy", "{}")).get("Statement", []))


def set_policy(url: str, statements: list[dict[str, Any]]) -> None:
    client("sqs").set_queue_attributes(
        QueueUrl=url,
        Attributes={"Policy": json.dumps({"Version": "2012-10-17", "Statement": statements})},
    )


def attributes(url: str, **values: str) -> None:
    client("sqs").set_queue_attributes(QueueUrl=url, Attributes=values)


def found(*fragment: str) -> list[Finding]:
    """Return the findings, without those about services that the emulator lacks."""
    findings = [
        finding
        for finding in examine(STACK)
        if "quota of concurrent athena queries" not in finding.what
    ]
    return (
        [finding for finding in findings if all(word in finding.what for word in fragment)]
        if fragment
        else findings
    )


def the(*fragment: str) -> Finding:
    (finding,) = found(*fragment)
    return finding


# ---- no findings, and no stack


def test_a_healthy_stack_has_no_findings(outputs: dict[str, str]) -> None:
    assert found() == []


def test_a_check_that_cannot_run_is_a_finding(outputs: dict[str, str]) -> None:
    # the emulator has no Service Quotas
    (note,) = [finding for finding in examine(STACK) if "could not be checked" in finding.what]
    assert note.level is Level.NOTE
    assert note.what.startswith("the quota of concurrent athena queries: could not be checked")
    assert note.consequence == "this was not checked"


def test_a_missing_stack_is_reported_with_findings_of_the_account(aws_env: Emulator) -> None:
    first, *_ = examine("no-such-stack")
    assert first.level is Level.WRONG
    assert "found no stack 'no-such-stack'" in first.what
    assert first.command == "hundredfold deploy MODULE:JOB"


# ---- faults that an AWS command fixes: caused, found, fixed by that command, no longer found


# by name: how to cause the fault, its level, and a fragment of the finding
FAULTS: dict[str, tuple[Callable[[dict[str, str]], object], Level, str]] = {
    "visibility below the timeout": (
        lambda o: attributes(o["QueueUrl"], VisibilityTimeout="30"),
        Level.WRONG,
        "stays hidden for 30 s",
    ),
    "visibility below six timeouts": (
        lambda o: attributes(o["QueueUrl"], VisibilityTimeout="900"),
        Level.RISK,
        "stays hidden for 900 s",
    ),
    "one receive": (lambda o: redrive(o, 1), Level.RISK, "dead-lettered after 1 receives"),
    "no redrive": (
        lambda o: attributes(o["QueueUrl"], RedrivePolicy=""),
        Level.WRONG,
        "dead-letters no message",
    ),
    "dead letters that vanish": (
        lambda o: attributes(o["DeadUrl"], MessageRetentionPeriod="345600"),
        Level.RISK,
        "kept for 4 days",
    ),
    "short polls": (
        lambda o: attributes(o["QueueUrl"], ReceiveMessageWaitTimeSeconds="0"),
        Level.NOTE,
        "uses short polling",
    ),
    "too little reserved": (
        lambda o: reserve(o, 3),
        Level.RISK,
        "has 3 executions reserved, but needs up to 20",
    ),
    "nothing reserved": (lambda o: reserve(o, 0), Level.WRONG, "has 0 executions reserved"),
    "the guard against loops": (
        lambda o: client("lambda").put_function_recursion_config(
            FunctionName=o["WorkFunction"], RecursiveLoop="Terminate"
        ),
        Level.WRONG,
        "stopped when it sends to the queue",
    ),
    "a workgroup that enforces": (
        lambda o: client("athena").update_work_group(
            WorkGroup=o["Workgroup"], ConfigurationUpdates={"EnforceWorkGroupConfiguration": True}
        ),
        Level.WRONG,
        "enforces its own settings",
    ),
    "a workgroup switched off": (
        lambda o: client("athena").update_work_group(WorkGroup=o["Workgroup"], State="DISABLED"),
        Level.WRONG,
        "is disabled",
    ),
    "a mapping switched off": (
        lambda o: update_mapping(o, Enabled=False),
        Level.WRONG,
        "is disabled",
    ),
    "no partial answers": (
        lambda o: update_mapping(o, FunctionResponseTypes=[]),
        Level.WRONG,
        "cannot report which message failed",
    ),
    "a bucket not closed": (
        lambda o: client("s3").delete_public_access_block(Bucket=o["Bucket"]),
        Level.RISK,
        "public access to",
    ),
    "no way back in time": (
        lambda o: client("dynamodb").update_continuous_backups(
            TableName=o["Table"],
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": False},
        ),
        Level.RISK,
        "no point-in-time recovery",
    ),
    "tables of a run that is gone": (
        lambda o: make_table(o, "run_20200101_000000_abc__sales"),
        Level.NOTE,
        "belong to no run",
    ),
    "files of a run that is gone": (
        lambda o: client("s3").put_object(
            Bucket=o["Bucket"], Key="processing/20200101-000000-abc/x.parquet", Body=b""
        ),
        Level.NOTE,
        "processing/20200101-000000-abc/ holds files",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_its_command_fixes_it(outputs: dict[str, str], name: str) -> None:
    breaking, level, fragment = FAULTS[name]
    breaking(outputs)
    finding = the(fragment)
    assert finding.level is level
    assert len(finding.consequence) > 10
    assert found() == [finding]
    execute(finding.command)
    assert found() == []


def redrive(outputs: dict[str, str], receives: int) -> None:
    arn = client("sqs").get_queue_attributes(
        QueueUrl=outputs["DeadUrl"], AttributeNames=["QueueArn"]
    )["Attributes"]["QueueArn"]
    attributes(
        outputs["QueueUrl"],
        RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": str(receives)}),
    )


def reserve(outputs: dict[str, str], executions: int) -> None:
    client("lambda").put_function_concurrency(
        FunctionName=outputs["WorkFunction"], ReservedConcurrentExecutions=executions
    )


def update_mapping(outputs: dict[str, str], **changes: Any) -> None:
    (mapping,) = client("lambda").list_event_source_mappings(FunctionName=outputs["WorkFunction"])[
        "EventSourceMappings"
    ]
    client("lambda").update_event_source_mapping(UUID=mapping["UUID"], **changes)


def make_table(outputs: dict[str, str], name: str) -> None:
    client("glue").create_table(
        DatabaseName=outputs["Database"],
        TableInput={"Name": name, "StorageDescriptor": {"Columns": []}},
    )


# ---- faults that are fixed by deploying again, or by hand


def test_a_queue_with_public_write_access_is_found(outputs: dict[str, str]) -> None:
    stranger = {
        "Effect": "Allow",
        "Principal": {"AWS": "*"},
        "Action": "sqs:SendMessage",
        "Resource": "*",
    }
    set_policy(outputs["QueueUrl"], [*policy_of(outputs["QueueUrl"]), stranger])
    finding = the("is publicly accessible")
    assert (finding.level, finding.command) == (
        Level.WRONG,
        f"hundredfold deploy {JOB} --stack {STACK}",
    )


def test_a_queue_without_required_tls_is_found(outputs: dict[str, str]) -> None:
    set_policy(outputs["DeadUrl"], [])
    assert the("can be accessed without TLS").level is Level.RISK


def test_missing_event_notifications_are_found(outputs: dict[str, str]) -> None:
    client("s3").put_bucket_notification_configuration(
        Bucket=outputs["Bucket"], NotificationConfiguration={}
    )
    assert "minutes later" in the("S3 does not notify the work queue").consequence


def test_a_missing_permission_for_event_notifications_is_found(outputs: dict[str, str]) -> None:
    set_policy(outputs["QueueUrl"], [tls("sqs:*")])
    assert the("S3 may not notify the work queue").level is Level.RISK


def test_a_bucket_without_lifecycle_rules_is_found(outputs: dict[str, str]) -> None:
    client("s3").delete_bucket_lifecycle(Bucket=outputs["Bucket"])
    assert {finding.level for finding in found()} == {Level.NOTE}
    assert len(found("never expire")) == len(found("incomplete uploads")) == 1


def test_a_missing_event_source_mapping_is_found(outputs: dict[str, str]) -> None:
    (mapping,) = client("lambda").list_event_source_mappings(
        FunctionName=outputs["DeadLetterFunction"]
    )["EventSourceMappings"]
    client("lambda").delete_event_source_mapping(UUID=mapping["UUID"])
    assert the("no event source mapping invokes").level is Level.WRONG


def test_waiting_dead_lettered_messages_are_found(outputs: dict[str, str]) -> None:
    (mapping,) = client("lambda").list_event_source_mappings(
        FunctionName=outputs["DeadLetterFunction"]
    )["EventSourceMappings"]
    client("lambda").update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
    client("sqs").send_message(QueueUrl=outputs["DeadUrl"], MessageBody="{}")
    finding = the("1 dead-lettered messages are waiting")
    assert finding.command.startswith("aws logs tail ")


def test_a_package_near_the_size_limit_is_found(outputs: dict[str, str]) -> None:
    arn = client("lambda").get_function(FunctionName=outputs["WorkFunction"])["Configuration"][
        "FunctionArn"
    ]
    client("lambda").tag_resource(Resource=arn, Tags={"hundredfold:unzipped": str(240 * 2**20)})
    finding = the("the package takes 240 of 250 MB")
    assert finding.command == f"hundredfold package {JOB} --image"


def test_findings_are_sorted_by_severity(outputs: dict[str, str]) -> None:
    attributes(outputs["QueueUrl"], ReceiveMessageWaitTimeSeconds="0", VisibilityTimeout="900")
    update_mapping(outputs, FunctionResponseTypes=[])
    assert [finding.level for finding in found()] == [Level.WRONG, Level.RISK, Level.NOTE]


# ---- orphaned tables and files


@pytest.mark.parametrize(
    ("state", "days", "orphan"),
    [
        (State.RUNNING, 30, False),
        (State.FAILED, 1, False),  # it may be resumed, and its data is still valid
        (State.FAILED, 30, True),  # its data has expired
        (State.HELD, 30, True),
        (State.DONE, 0, True),
        (State.CANCELLED, 0, True),
    ],
)
def test_tables_of_a_run_that_can_continue_are_not_orphans(
    outputs: dict[str, str], state: State, days: int, orphan: bool
) -> None:
    then = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="milliseconds")
    run = Record("20261122-101112-ab3", "tariffs", JOB, state, "prepare bundles", then, then)
    DynamoLedger(outputs["Table"]).create(run)
    make_table(outputs, "run_20261122_101112_ab3__prepared")
    client("s3").put_object(
        Bucket=outputs["Bucket"], Key=f"runs/{run.id}/validation.json", Body=b"{}"
    )
    assert bool(found("belong to no run")) is orphan
    assert found("holds files") == []


def test_a_low_concurrency_limit_of_the_account_is_found(outputs: dict[str, str]) -> None:
    from hundredfold.aws.doctor.checks import account_concurrency
    from hundredfold.aws.doctor.snapshot import StackSnapshot

    snapshot = StackSnapshot(STACK, replace(StackResources.from_stack(STACK), concurrency=100_000))
    (finding,) = account_concurrency(snapshot)
    assert "up to 100,000 workers are configured" in finding.what
    assert finding.command == (
        "aws service-quotas request-service-quota-increase --service-code lambda --quota-code "
        "L-B99A9384 --desired-value 200000"
    )


# ---- the AWS CLI, as far as these commands need it


def execute(command: str) -> None:
    """Execute a command of the AWS CLI by its own rules: options are the names of an operation's
    members.
    """
    _, service, operation, *fragment = shlex.split(command)
    if (service, operation) == ("s3", "rm"):
        bucket, _, prefix = fragment[-1].removeprefix("s3://").partition("/")
        boto3.resource("s3").Bucket(bucket).objects.filter(Prefix=prefix).delete()
        return
    client_ = client({"s3api": "s3"}.get(service, service))
    method = operation.replace("-", "_")
    members = client_.meta.service_model.operation_model(
        client_.meta.method_to_api_mapping[method]
    ).input_shape.members
    names = {"--" + boto3.session.botocore.xform_name(name, "-"): name for name in members}
    options: dict[str, list[str]] = {}
    for word in fragment:
        if word.startswith("--"):
            options[word] = []
        else:
            options[list(options)[-1]].append(word)
    getattr(client_, method)(
        **{
            names[option]: value_of(members[names[option]], given)
            for option, given in options.items()
        }
    )


def value_of(shape: Any, given: list[str]) -> Any:
    match shape.type_name:
        case "structure" | "map" if given[0].startswith("{"):
            return json.loads(given[0])
        case "structure" | "map":
            pairs = dict(pair.split("=", 1) for pair in given[0].split(","))
            kinds = (
                shape.members
                if shape.type_name == "structure"
                else dict.fromkeys(pairs, shape.value)
            )
            return {name: value_of(kinds[name], [value]) for name, value in pairs.items()}
        case "list":
            return given
        case "boolean":
            return given in ([], ["true"])
        case "integer":
            return int(given[0])
        case _:
            return given[0]


@pytest.mark.parametrize(
    ("refusal", "allowed"),
    [("ResourceNotFoundException", True), ("InvalidParameterValueException", False)],
)
def test_the_longest_timeout_of_the_region_is_found_out(
    aws_env: Emulator, refusal: str, allowed: bool
) -> None:
    with Stubber(client("lambda")) as replies:
        replies.add_client_error("update_function_configuration", refusal)
        assert is_allowed(1800) is allowed


def test_a_worker_at_the_common_timeout_may_have_a_longer_one(outputs: dict[str, str]) -> None:
    def found() -> list[Finding]:
        return list(timeouts(StackSnapshot(STACK, StackResources.from_stack(STACK))))

    assert found() == []
    work = outputs["WorkFunction"]
    client("lambda").update_function_configuration(FunctionName=work, Timeout=900)
    (note,) = found()
    assert note.level is Level.NOTE
    assert note.command.endswith("--timeout 1800")
