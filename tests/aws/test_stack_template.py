"""The synthesized stack: its resources, and the permissions of its roles."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from hundredfold.aws.adapters.session import StackResources
from hundredfold.aws.archive import seal, write_files, write_zip
from hundredfold.aws.fleets.run_fleets import FLEET_QUEUE_ENV, FLEETS_ENV
from hundredfold.aws.functions.starting_workers import (
    DISPATCHER_ENV,
    TIMEOUT_ENV,
    WORK_FUNCTION_ENV,
)
from hundredfold.aws.home import refuse_other_format
from hundredfold.aws.lambda_platform import DIRECT_WORKERS_ENV, FINGERPRINT_FILE, PACKED_FOLDER
from hundredfold.aws.stack.settings import BOUNDS, Settings, SettingsKeywords
from hundredfold.aws.stage_order import ENDED_EXECUTION
from hundredfold.aws.tags import BATCH_TAG_NAME, BATCH_TAG_VALUE
from hundredfold.errors import HomeError, UsageError
from hundredfold.ports.run_facts import HOME_FORMAT
from support.synthesis import JOB, cdk_app, nothing, synthesize

PLAIN: dict[str, Any] = {"job": JOB}
RICH: dict[str, Any] = {
    "job": JOB,
    "trigger": "events",
    "pollers": (2, 5000),
    "batch_size": 20,
    "timeout": 120,
    "max_receives": 7,
    "sources": ("s3://lake/sales/", "glue://lake/orders"),
    "source_keys": ("arn:aws:kms:eu-west-1:123456789012:key/0a",),
    "start_on_upload": ("bundle_sales",),
    "alarm_topic": "arn:aws:sns:eu-west-1:123456789012:operations",
    "scan_limit": 10**12,
    "architecture": "x86_64",
    "subnets": ("subnet-0123456a", "subnet-0123456b"),
    "security_groups": ("sg-0123456c",),
    "permissions_boundary": "arn:aws:iam::123456789012:policy/team",
    "dashboard": True,
}
NAMED: dict[str, Any] = {
    "job": JOB,
    "name_prefix": "acme-pricing",
    "tracing": False,
    "python": "3.13",
    "trigger": "messages",
    "key": "arn:aws:kms:eu-west-1:123456789012:key/0b",
}
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/worker@sha256:" + "ab" * 32
FLEETS: dict[str, Any] = {
    "job": JOB,
    "fleets": ("fargate", "fargate-spot"),
    "worker_image": IMAGE,
    "task_cores": 2,
    "subnets": ("subnet-0123456a", "subnet-0123456b"),
    "security_groups": ("sg-0123456c",),
    "name_prefix": "acme-fleets",
    "dashboard": True,
    "key": "arn:aws:kms:eu-west-1:123456789012:key/0c",
}
INSTANCES: dict[str, Any] = {
    "job": JOB,
    "fleets": ("managed", "batch"),
    "worker_image": IMAGE,
    "subnets": ("subnet-0123456a",),
    "security_groups": ("sg-0123456c",),
    "permissions_boundary": "arn:aws:iam::123456789012:policy/team",
    "batch_cores": 64,
    "vpc": "vpc-0123456d",
    "route_tables": ("rtb-0123456e", "rtb-0123456f"),
    "sources": ("s3://lake/sales/", "glue://lake/orders"),
    "alarm_topic": "arn:aws:sns:eu-west-1:123456789012:operations",
    "monthly_budget": 500,
    "lake_formation": True,
}
RAISED: dict[str, Any] = {"job": JOB, "pollers": (100, 200), "raise_pollers": True}

# of the functions that start workers
STARTING = (
    DIRECT_WORKERS_ENV,
    DISPATCHER_ENV,
    FLEET_QUEUE_ENV,
    FLEETS_ENV,
    TIMEOUT_ENV,
    WORK_FUNCTION_ENV,
)
Template = Mapping[str, Any]


@pytest.fixture(scope="session")
def cdk() -> Iterator[Any]:
    with cdk_app() as app:
        yield app


@pytest.fixture(scope="session")
def templates(cdk: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Template]:
    """Stacks of one account: the default one, one with many settings, one with names, one whose
    runs raise pollers, and two with fleets.
    """
    made: dict[str, Template] = {}
    stacks = {
        "pricing": PLAIN,
        "promotions": RICH,
        "named": NAMED,
        "raised": RAISED,
        "fleets": FLEETS,
        "instances": INSTANCES,
    }
    for stack, settings in stacks.items():
        file = (
            synthesize(cdk, tmp_path_factory.mktemp(stack), stack, settings)
            / f"{stack}.template.json"
        )
        made[stack] = {**json.loads(file.read_text(encoding="utf-8")), "file": str(file)}
    return made


@pytest.fixture(params=["pricing", "promotions", "named", "fleets"])
def template(request: pytest.FixtureRequest, templates: dict[str, Template]) -> Template:
    return templates[request.param]


def of_type(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    """Return the resources of a type, by the readable part of their logical ids."""
    return {
        name: resource["Properties"]
        for name, resource in template["Resources"].items()
        if resource["Type"] == kind
    }


def one(template: Template, kind: str, word: str = "") -> dict[str, Any]:
    found = [
        properties
        for name, properties in of_type(template, kind).items()
        if name.startswith(f"Job{word}")
    ]
    assert len(found) == 1, f"{kind} {word}: {len(found)}"
    return found[0]


def flat(value: Any) -> str:
    """Return a value of a template as one text; a reference is written <Name>."""
    if isinstance(value, str):
        return value
    kind, given = next(iter(value.items()))
    if kind == "Fn::Join":
        return str(given[0]).join(map(flat, given[1]))
    return f"<{given if isinstance(given, str) else '.'.join(given)}>"


def statements(template: Template, role: str = "") -> Iterator[dict[str, Any]]:
    """Return the statements of the roles' policies, with resources as texts."""
    for name, policy in of_type(template, "AWS::IAM::Policy").items():
        if name.startswith(f"Job{role}"):
            for statement in policy["PolicyDocument"]["Statement"]:
                yield {
                    key: [flat(v) if isinstance(v, dict) else v for v in _listed(value)]
                    for key, value in statement.items()
                    if key in ("Action", "Resource")
                }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def machine(template: Template) -> dict[str, Any]:
    text = flat(one(template, "AWS::StepFunctions::StateMachine")["DefinitionString"])
    return dict(json.loads(text))


# ---- the state machine


def test_every_named_state_exists(template: Template) -> None:
    definition = machine(template)
    states = definition["States"]
    named = {definition["StartAt"]} | {
        target for state in states.values() for target in targets(state)
    }
    assert named - set(states) == set()


def test_every_state_is_reachable_and_leads_to_an_end(template: Template) -> None:
    definition = machine(template)
    states, reached, ahead = definition["States"], set(), [definition["StartAt"]]
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += targets(states[name])
    assert reached == set(states)
    assert all(
        targets(state) or state["Type"] in ("Succeed", "Fail") or state.get("End")
        for state in states.values()
    )


def targets(state: Mapping[str, Any]) -> list[str]:
    further = [*state.get("Catch", ()), *state.get("Choices", ())]
    return [
        name
        for name in (state.get("Next"), state.get("Default"), *(each["Next"] for each in further))
        if name
    ]


def test_every_arn_is_of_the_partition_of_the_stack(template: Template) -> None:
    """The same template works in aws-us-gov and aws-cn."""
    resources = [s["Resource"] for s in machine(template)["States"].values() if "Resource" in s]
    assert resources
    assert all(each.startswith("arn:<AWS::Partition>:states:::") for each in resources)


def test_the_state_machine_logs_everything_and_traces(templates: dict[str, Template]) -> None:
    properties = one(templates["pricing"], "AWS::StepFunctions::StateMachine")
    assert properties["LoggingConfiguration"]["Level"] == "ALL"
    assert properties["TracingConfiguration"] == {"Enabled": True}


def test_the_state_machine_calls_only_what_its_role_allows(template: Template) -> None:
    allowed = [
        resource
        for statement in statements(template, "MachineRole")
        if "lambda:InvokeFunction" in statement["Action"]
        for resource in statement["Resource"]
    ]
    called = {
        state["Parameters"]["FunctionName"]
        for state in machine(template)["States"].values()
        if "FunctionName" in state.get("Parameters", {})
    }
    assert called == set(allowed)


# ---- queues and event source mappings


def test_a_message_is_hidden_for_six_times_the_timeout_of_its_function(template: Template) -> None:
    for function, queue in (("Work", "WorkQueue"), ("DeadLetter", "DeadQueue")):
        timeout = one(template, "AWS::Lambda::Function", function)["Timeout"]
        window = one(template, "AWS::Lambda::EventSourceMapping", function).get(
            "MaximumBatchingWindowInSeconds", 0
        )
        assert one(template, "AWS::SQS::Queue", queue)["VisibilityTimeout"] >= 6 * timeout + window


def test_a_message_is_delivered_five_times_by_default(
    templates: dict[str, Template],
) -> None:
    receives = [
        one(templates[name], "AWS::SQS::Queue", "WorkQueue")["RedrivePolicy"]["maxReceiveCount"]
        for name in ("pricing", "promotions")
    ]
    assert receives == [5, 7]


def test_queues_use_long_polling_and_keep_dead_letters_longer(
    template: Template,
) -> None:
    work, dead = (
        one(template, "AWS::SQS::Queue", "WorkQueue"),
        one(template, "AWS::SQS::Queue", "DeadQueue"),
    )
    assert work["ReceiveMessageWaitTimeSeconds"] == dead["ReceiveMessageWaitTimeSeconds"] == 20
    assert (work["MessageRetentionPeriod"], dead["MessageRetentionPeriod"]) == (
        4 * 86_400,
        14 * 86_400,
    )


def test_only_the_failed_message_of_a_batch_is_delivered_again(template: Template) -> None:
    mappings = of_type(template, "AWS::Lambda::EventSourceMapping")
    assert [m["FunctionResponseTypes"] for m in mappings.values()] == [
        ["ReportBatchItemFailures"]
    ] * 2


def test_a_mapping_has_a_concurrency_or_pollers_but_never_both(
    templates: dict[str, Template],
) -> None:
    plain, rich = (
        one(templates[name], "AWS::Lambda::EventSourceMapping", "Work")
        for name in ("named", "promotions")
    )
    assert plain["ScalingConfig"] == {"MaximumConcurrency": 300}
    assert "ProvisionedPollerConfig" not in plain
    assert rich["ProvisionedPollerConfig"] == {"MinimumPollers": 2, "MaximumPollers": 5000}
    assert "ScalingConfig" not in rich


def test_large_batches_are_gathered_in_a_window(templates: dict[str, Template]) -> None:
    windows = [
        one(templates[name], "AWS::Lambda::EventSourceMapping", "Work")[
            "MaximumBatchingWindowInSeconds"
        ]
        for name in ("pricing", "promotions")
    ]
    assert windows == [0, 1]


def test_the_worker_may_send_to_its_own_queue(template: Template) -> None:
    assert {
        name: one(template, "AWS::Lambda::Function", name).get("RecursiveLoop")
        for name in ("Step", "Work", "DeadLetter")
    } == {
        "Step": None,
        "Work": "Allow",
        "DeadLetter": None,
    }


def test_s3_sends_batch_events_only_with_the_events_trigger(
    templates: dict[str, Template],
) -> None:
    plain, rich = (one(templates[name], "AWS::S3::Bucket") for name in ("pricing", "promotions"))
    assert "NotificationConfiguration" not in plain
    (settings,) = rich["NotificationConfiguration"]["QueueConfigurations"]
    assert settings["Event"] == "s3:ObjectCreated:*"
    assert settings["Filter"]["S3Key"]["Rules"] == [
        {"Name": "prefix", "Value": "processing/"},
        {"Name": "suffix", "Value": ".batch.parquet"},
    ]


def test_s3_may_send_to_the_queue_for_this_account_only(
    templates: dict[str, Template],
) -> None:
    rich = templates["promotions"]
    (name, policy) = next(
        (n, p)
        for n, p in of_type(rich, "AWS::SQS::QueuePolicy").items()
        if n.startswith("JobWorkQueue")
    )
    (allowed,) = [s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Allow"]
    assert allowed["Principal"] == {"Service": "s3.amazonaws.com"}
    assert allowed["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
    bucket = next(r for r in rich["Resources"].values() if r["Type"] == "AWS::S3::Bucket")
    assert bucket["DependsOn"] == [name]


def test_the_stack_has_no_other_functions(template: Template) -> None:
    # CDK's own way to set notifications would be another
    assert len(of_type(template, "AWS::Lambda::Function")) == functions_of(template)


def functions_of(template: Template) -> int:
    """Return the number of functions of a stack: one more where runs start workers."""
    return 4 if flat(template["Outputs"]["Trigger"]["Value"]) == "direct" else 3


# ---- storage


def test_the_bucket_is_encrypted_private_and_outlives_the_stack(template: Template) -> None:
    bucket = one(template, "AWS::S3::Bucket")
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert "BucketName" not in bucket
    resource = next(r for r in template["Resources"].values() if r["Type"] == "AWS::S3::Bucket")
    assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == (
        "RetainExceptOnCreate",
        "Retain",
    )


def test_data_of_runs_expires_and_releases_do_not(template: Template) -> None:
    rules = one(template, "AWS::S3::Bucket")["LifecycleConfiguration"]["Rules"]
    expiring = {rule["Prefix"]: rule["ExpirationInDays"] for rule in rules if "Prefix" in rule}
    tagged = [rule for rule in rules if "TagFilters" in rule]
    assert expiring == {"processing/": 7, "athena/": 7}
    assert [(rule["TagFilters"], rule["ExpirationInDays"]) for rule in tagged] == [
        ([{"Key": BATCH_TAG_NAME, "Value": BATCH_TAG_VALUE}], 7)
    ]
    (rest,) = [rule for rule in rules if "Prefix" not in rule and rule not in tagged]
    assert rest["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}


def test_the_bucket_and_queues_require_tls(template: Template) -> None:
    policies = [
        *of_type(template, "AWS::S3::BucketPolicy").values(),
        *of_type(template, "AWS::SQS::QueuePolicy").values(),
    ]
    assert len(policies) == 3 + len(of_type(template, "AWS::ECS::Cluster"))  # with a queue
    for policy in policies:
        denies = [s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Deny"]
        assert [s["Condition"] for s in denies] == [{"Bool": {"aws:SecureTransport": "false"}}]


def test_the_table_of_runs_has_indexes_and_point_in_time_recovery(template: Template) -> None:
    table = one(template, "AWS::DynamoDB::Table")
    keys = {
        index["IndexName"]: [key["AttributeName"] for key in index["KeySchema"]]
        for index in table["GlobalSecondaryIndexes"]
    }
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["id"]
    assert keys == {"by_job": ["job", "created"], "by_time": ["kind", "created"]}
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["BillingMode"] == "PAY_PER_REQUEST"


def test_the_workgroup_does_not_enforce_its_location(template: Template) -> None:
    configuration = one(template, "AWS::Athena::WorkGroup")["WorkGroupConfiguration"]
    assert configuration["EnforceWorkGroupConfiguration"] is False


def test_every_function_has_a_log_group_with_a_retention(
    template: Template,
) -> None:
    groups = [
        function["LoggingConfig"]["LogGroup"]["Ref"]
        for function in of_type(template, "AWS::Lambda::Function").values()
    ]
    assert len(set(groups)) == functions_of(template)
    assert {
        group["RetentionInDays"] for group in of_type(template, "AWS::Logs::LogGroup").values()
    } == {30}


# ---- permissions


def test_each_function_has_a_role_of_its_own_without_managed_policies(template: Template) -> None:
    roles = of_type(template, "AWS::IAM::Role")
    used = [
        flat(function["Role"]) for function in of_type(template, "AWS::Lambda::Function").values()
    ]
    assert len(set(used)) == functions_of(template)
    assert [role for role in roles.values() if "ManagedPolicyArns" in role] == []


def test_no_action_has_a_star(template: Template) -> None:
    assert [
        action
        for statement in statements(template)
        for action in statement["Action"]
        if "*" in action
    ] == []


NETWORK = {
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
}
NAMELESS = NETWORK | {  # permissions that AWS grants for all resources or none
    "ecr:GetAuthorizationToken",
    "ecs:ListTasks",  # a condition names the cluster
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
    "xray:GetSamplingRules",
    "xray:GetSamplingTargets",
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
}


def test_only_permissions_without_resources_apply_to_everything(template: Template) -> None:
    wide = {
        action
        for statement in statements(template)
        if "*" in statement["Resource"]
        for action in statement["Action"]
    }
    assert wide <= NAMELESS


def test_wildcards_in_permissions_are_below_a_prefix(template: Template) -> None:
    many = {
        resource
        for statement in statements(template)
        for resource in statement["Resource"]
        if "*" in resource and resource != "*"
    }
    known = (
        "<JobBucket*.Arn>/*/[*]",
        "*:glue:*:table/*/[*]",
        "arn:*:s3:::lake/sales/[*]",
        "arn:*:ecs:*:task/<JobCluster*>/[*]",
    )
    assert [
        resource
        for resource in many
        if not any(fnmatchcase(resource, pattern) for pattern in known)
    ] == []


def test_the_worker_may_write_outcomes_only(template: Template) -> None:
    for role in ("WorkRole", "DeadLetterRole"):
        writing = [
            (action, resource)
            for statement in statements(template, role)
            for action in statement["Action"]
            for resource in statement["Resource"]
            if action.startswith(("s3:", "dynamodb:", "glue:", "athena:"))
            and not action.partition(":")[2].startswith(("Get", "List", "Query"))
        ]
        # a worker adds to the dollars of a run with a budget, which are no part of a record
        allowed = ["s3:PutObject", "dynamodb:UpdateItem"][: 2 if role == "WorkRole" else 1]
        assert [action for action, _ in writing] == allowed
        assert writing[0][1].endswith("/runs/*/models/*/outcomes/*")


def test_the_worker_may_change_no_record_of_a_run(template: Template) -> None:
    (policy,) = [
        p for n, p in of_type(template, "AWS::IAM::Policy").items() if n.startswith("JobWorkRole")
    ]
    (changing,) = [
        s for s in policy["PolicyDocument"]["Statement"] if s["Action"] == "dynamodb:UpdateItem"
    ]
    only = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["spent#*"]}}
    assert changing["Condition"] == only


def test_the_worker_may_not_list_or_read_releases(template: Template) -> None:
    reading = [
        r
        for s in statements(template, "WorkRole")
        if "s3:GetObject" in s["Action"]
        for r in s["Resource"]
    ]
    assert [resource.rpartition(">")[2] for resource in reading] == ["/runs/*", "/processing/*"]
    (policy,) = [
        p for n, p in of_type(template, "AWS::IAM::Policy").items() if n.startswith("JobWorkRole")
    ]
    (listing,) = [
        s for s in policy["PolicyDocument"]["Statement"] if s["Action"] == "s3:ListBucket"
    ]
    assert listing["Condition"] == {"StringLike": {"s3:prefix": ["runs/*", "processing/*"]}}


def test_queries_may_not_write_releases_or_runs(template: Template) -> None:
    writing = [
        r
        for s in statements(template, "MachineRole")
        if "s3:PutObject" in s["Action"]
        for r in s["Resource"]
    ]
    assert [resource.rpartition(">")[2] for resource in writing] == ["/processing/*", "/athena/*"]
    assert not [s for s in statements(template, "MachineRole") if "s3:DeleteObject" in s["Action"]]


def test_further_source_locations_are_read_only(templates: dict[str, Template]) -> None:
    about = [
        s
        for s in statements(templates["promotions"])
        if any(":s3:::lake" in r or ":table/lake/" in r for r in s["Resource"])
    ]
    verbs = {action.partition(":")[2] for statement in about for action in statement["Action"]}
    assert verbs == {
        "GetObject",
        "ListBucket",
        "GetBucketLocation",
        "GetTable",
        "GetTables",
        "GetPartition",
        "GetPartitions",
        "BatchGetPartition",
        "GetDatabase",
    }


# ---- fleets


def test_a_stack_has_no_fleet_unless_it_was_asked_for(templates: dict[str, Template]) -> None:
    for name in ("pricing", "promotions", "named"):
        kinds = {resource["Type"] for resource in templates[name]["Resources"].values()}
        assert not [kind for kind in kinds if kind.startswith(("AWS::ECS::", "AWS::Batch::"))]
        assert "Fleets" not in templates[name]["Outputs"]


def conditions(template: Template, role: str) -> dict[str, Any]:
    """Return the condition of each statement of a role that has one, by its name."""
    return {
        statement["Sid"]: statement["Condition"]
        for name, policy in of_type(template, "AWS::IAM::Policy").items()
        if name.startswith(f"Job{role}")
        for statement in policy["PolicyDocument"]["Statement"]
        if "Condition" in statement
    }


def test_a_task_is_the_worker_of_the_page(templates: dict[str, Template]) -> None:
    task = one(templates["fleets"], "AWS::ECS::TaskDefinition", "Task")
    assert (task["Cpu"], task["Memory"], task["NetworkMode"]) == ("2048", "4096", "awsvpc")
    assert task["RuntimePlatform"] == {
        "CpuArchitecture": "ARM64",
        "OperatingSystemFamily": "LINUX",
    }
    [container] = task["ContainerDefinitions"]
    assert container["Image"] == IMAGE
    assert container["ReadonlyRootFilesystem"] is True
    assert container["MountPoints"][0]["ContainerPath"] == "/scratch"
    variables = {each["Name"]: each["Value"] for each in container["Environment"]}
    assert int(variables["HUNDREDFOLD_GRACE"]) < container["StopTimeout"] <= 120
    assert variables["HUNDREDFOLD_QUEUE"]["Ref"].startswith("JobFleetQueue")
    names = {"JOB", "BUCKET", "TABLE", "DEAD", "CODE", "IDLE", "SCRATCH"}
    assert names <= {name.removeprefix("HUNDREDFOLD_") for name in variables}
    assert variables["LAMBDA_TASK_ROOT"] == "/opt/hundredfold"  # the fingerprint of the image
    assert container["LogConfiguration"]["Options"]["awslogs-group"]["Ref"].startswith("JobTask")


def test_a_task_has_the_rights_of_the_worker_on_both_queues(
    templates: dict[str, Template],
) -> None:
    fleets = templates["fleets"]

    def rights(role: str) -> set[tuple[str, str]]:
        return {
            (action, resource)
            for statement in statements(fleets, role)
            for action in statement["Action"]
            for resource in statement["Resource"]
        }

    of_function = {each for each in rights("WorkRole") if not each[0].startswith(NOT_OF_TASKS)}
    more = rights("TaskRole") - of_function
    assert of_function <= rights("TaskRole")
    assert {resource.split("<Job")[1][:10] for _, resource in more} == {"FleetQueue"}
    assert {action.partition(":")[0] for action, _ in more} == {"sqs"}
    assert conditions(fleets, "TaskRole")["Spent"] == conditions(fleets, "WorkRole")["Spent"]


# Lambda's own logs, traces and network
NOT_OF_TASKS = ("logs:", "xray:", "ec2:")


def test_step_starts_and_stops_the_tasks_of_its_cluster_only(
    templates: dict[str, Template],
) -> None:
    fleets = templates["fleets"]
    rights = {
        action: statement["Resource"]
        for statement in statements(fleets, "StepRole")
        for action in statement["Action"]
        if action.startswith(("ecs:", "iam:"))
    }
    assert set(rights) == {
        "ecs:RunTask",
        "ecs:ListTasks",
        "ecs:DescribeTasks",
        "ecs:StopTask",
        "iam:PassRole",
    }
    assert [r.rstrip("0123456789ABCDEF>") for r in rights["ecs:RunTask"]] == ["<JobTask"]
    assert all(re.search(r":task/<JobCluster\w*>/\*$", each) for each in rights["ecs:StopTask"])
    found = conditions(fleets, "StepRole")
    for name in ("StartTasks", "ListTasks", "StopTasks"):
        (cluster,) = found[name]["ArnEquals"].values()
        assert flat(cluster).startswith("<JobCluster")
    passed = {each.split("<Job")[1].split("Role")[0] for each in rights["iam:PassRole"]}
    assert passed == {"Task", "TaskStart"}
    assert found["PassRoles"] == {
        "StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
    }


def test_a_task_is_started_by_pulling_one_image_and_writing_one_log(
    templates: dict[str, Template],
) -> None:
    rights = {
        action: statement["Resource"]
        for statement in statements(templates["fleets"], "TaskStartRole")
        for action in statement["Action"]
    }
    image = ["arn:<AWS::Partition>:ecr:eu-west-1:123456789012:repository/team/worker"]
    assert rights.pop("ecr:GetAuthorizationToken") == ["*"]
    assert {a for a, r in rights.items() if r == image} == {
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:GetDownloadUrlForLayer",
    }
    logs = {action for action in rights if action.startswith("logs:")}
    assert logs == {"logs:CreateLogStream", "logs:PutLogEvents"}
    for name in ("TaskRole", "TaskStartRole"):
        role = one(templates["fleets"], "AWS::IAM::Role", name)
        (trusted,) = role["AssumeRolePolicyDocument"]["Statement"]
        assert trusted["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert trusted["Condition"]["StringEquals"]["aws:SourceAccount"]


def test_the_queue_of_tasks_invokes_no_function_and_has_dead_letters(
    templates: dict[str, Template],
) -> None:
    fleets = templates["fleets"]
    queue = one(fleets, "AWS::SQS::Queue", "FleetQueue")
    dead = queue["RedrivePolicy"]
    assert dead == one(fleets, "AWS::SQS::Queue", "WorkQueue")["RedrivePolicy"]
    mapped = {
        flat(mapping["EventSourceArn"])
        for mapping in of_type(fleets, "AWS::Lambda::EventSourceMapping").values()
    }
    assert not [arn for arn in mapped if arn.startswith("<JobFleetQueue")]
    step = one(fleets, "AWS::Lambda::Function", "Step")["Environment"]["Variables"]
    found = json.loads(flat(step[FLEETS_ENV]))
    assert found["cores"] == 2
    assert {name: fleet["providers"] for name, fleet in found["fleets"].items()} == {
        "fargate": ["FARGATE"],
        "fargate-spot": ["FARGATE_SPOT", "FARGATE"],
    }
    assert {tuple(fleet["subnets"]) for fleet in found["fleets"].values()} == {FLEETS["subnets"]}
    assert fleets["Outputs"]["Fleets"]["Value"] == "fargate,fargate-spot"
    assert fleets["Outputs"]["TaskSize"]["Value"] == "2,4096,arm64"
    assert machine(fleets)["States"]["Record the failure"]["Next"] == "Release the workers"


def test_instances_are_there_for_tasks_only(templates: dict[str, Template]) -> None:
    found = templates["instances"]
    managed = one(found, "AWS::ECS::CapacityProvider")["ManagedInstancesProvider"]
    assert managed["InfrastructureOptimization"] == {"ScaleInAfter": 60}
    launched = managed["InstanceLaunchTemplate"]
    assert launched["InstanceRequirements"] == {
        "VCpuCount": {"Min": 1},
        "MemoryMiB": {"Min": 2048},
        "CpuManufacturers": ["amazon-web-services"],
    }
    assert launched["NetworkConfiguration"]["Subnets"] == ["subnet-0123456a"]
    task = one(found, "AWS::ECS::TaskDefinition")
    assert task["RequiresCompatibilities"] == ["MANAGED_INSTANCES"]
    cluster = one(found, "AWS::ECS::ClusterCapacityProviderAssociations")
    assert [re.sub(r"[0-9A-F]{8}>$", "", flat(each)) for each in cluster["CapacityProviders"]] == [
        "FARGATE",
        "FARGATE_SPOT",
        "<JobManagedProvider",
    ]
    computing = one(found, "AWS::Batch::ComputeEnvironment")["ComputeResources"]
    assert (computing["Type"], computing["MinvCpus"], computing["MaxvCpus"]) == ("SPOT", 0, 64)
    assert all(family.endswith("g") for family in computing["InstanceTypes"])  # arm64
    job = one(found, "AWS::Batch::JobDefinition")["ContainerProperties"]
    variables = {each["Name"]: each["Value"] for each in job["Environment"]}
    assert int(variables["HUNDREDFOLD_GRACE"]) < 30  # until Batch kills a job
    assert (job["Image"], job["ReadonlyRootFilesystem"]) == (IMAGE, True)
    step = one(found, "AWS::Lambda::Function", "Step")["Environment"]["Variables"]
    fleets = json.loads(flat(step[FLEETS_ENV]))["fleets"]
    assert set(fleets) == {"managed", "batch"}
    assert fleets["batch"]["queue"].startswith("<JobBatchQueue")


def test_instances_have_the_policies_of_aws_and_the_boundary(
    templates: dict[str, Template],
) -> None:
    found = templates["instances"]
    roles = of_type(found, "AWS::IAM::Role")
    policies = {
        name.removeprefix("Job").rstrip("0123456789ABCDEF"): [
            flat(each).rpartition("/")[2] for each in role["ManagedPolicyArns"]
        ]
        for name, role in roles.items()
        if "ManagedPolicyArns" in role
    }
    assert policies == {
        "ManagedInstanceRole": ["AmazonECSInstanceRolePolicyForManagedInstances"],
        "ManagedInfrastructureRole": ["AmazonECSInfrastructureRolePolicyForManagedInstances"],
        "BatchInstanceRole": ["AmazonEC2ContainerServiceforEC2Role"],
    }
    assert {role["PermissionsBoundary"] for role in roles.values()} == {
        INSTANCES["permissions_boundary"]
    }
    passed = [
        s["Resource"]
        for s in statements(found, "ManagedInfrastructureRole")
        if s["Action"] == ["iam:PassRole"]
    ]
    assert [flat(r).startswith("<JobManagedInstanceRole") for (r,) in passed] == [True]


def test_step_submits_and_terminates_jobs(templates: dict[str, Template]) -> None:
    rights = {
        action: [r.rstrip("0123456789ABCDEF>").partition(".")[0] for r in statement["Resource"]]
        for statement in statements(templates["instances"], "StepRole")
        for action in statement["Action"]
        if action.startswith("batch:")
    }
    assert set(rights) == {"batch:SubmitJob", "batch:ListJobs", "batch:TerminateJob"}
    assert [r.startswith("<JobBatch") for r in rights["batch:SubmitJob"]] == [True, True]
    assert rights["batch:ListJobs"] == ["*"]
    assert rights["batch:TerminateJob"][0].endswith(":job/*")


# ---- the whole stack


def test_two_stacks_of_one_account_share_no_name(templates: dict[str, Template]) -> None:
    names = [set(physical_names(template)) for template in templates.values()]
    assert names[0] & names[1] == names[0] & names[2] == names[1] & names[2] == set()


def physical_names(template: Template) -> Iterator[tuple[str, str]]:
    keys = (
        "FunctionName",
        "QueueName",
        "TableName",
        "StateMachineName",
        "LogGroupName",
        "RoleName",
        "BucketName",
        "RuleName",
        "AlarmName",
        "ClusterName",
    )
    for resource in template["Resources"].values():
        properties = resource.get("Properties", {})
        yield from (
            (resource["Type"], properties[key])
            for key in keys
            if isinstance(properties.get(key), str)
        )
        if (
            resource["Type"] in ("AWS::Athena::WorkGroup", "AWS::Events::Rule")
            and "Name" in properties
        ):
            yield resource["Type"], properties["Name"]
        if resource["Type"] == "AWS::Glue::Database":
            yield resource["Type"], properties["DatabaseInput"]["Name"]


def test_a_name_prefix_applies_to_every_name(templates: dict[str, Template]) -> None:
    names = [name for _, name in physical_names(templates["named"])]
    assert len(names) >= 9
    assert [
        name
        for name in names
        if not name.replace("_", "-")
        .removeprefix("/aws/vendedlogs/states/")
        .startswith("acme-pricing")
    ] == []


def test_outputs_and_environments_have_the_same_values(template: Template) -> None:
    outputs = {name.lower(): flat(output["Value"]) for name, output in template["Outputs"].items()}
    renamed = {"queue": "queueurl", "dead": "deadurl"}
    for function in of_type(template, "AWS::Lambda::Function").values():
        known = {
            name.removeprefix("HUNDREDFOLD_").lower(): flat(value)
            for name, value in function["Environment"]["Variables"].items()
            if name.startswith("HUNDREDFOLD_") and name not in STARTING
        }
        assert set(known) == {
            "job",
            "bucket",
            "table",
            "queue",
            "dead",
            "database",
            "workgroup",
            "concurrency",
            "cores",
            "trigger",
            "quiet",
            "code",
        }
        assert known == {name: outputs[renamed.get(name, name)] for name in known}
    assert {"machinearn", "stepfunction", "workfunction", "deadletterfunction", "version"} <= set(
        outputs
    )
    assert outputs["format"] == str(HOME_FORMAT)


def test_a_stack_that_writes_runs_of_an_older_format_is_refused() -> None:
    names = ("job", "bucket", "table", "queue", "dead", "database", "workgroup")
    resources = StackResources(*names, concurrency=2, trigger="messages")  # without that output
    with pytest.raises(HomeError, match="the stack s writes runs in format 3, and") as refused:
        refuse_other_format("s", resources)
    assert "hundredfold deploy MODULE:JOB" in (refused.value.hint or "")
    refuse_other_format("s", replace(resources, format=HOME_FORMAT))


def test_pollers_determine_the_concurrency(templates: dict[str, Template]) -> None:
    assert [
        templates[name]["Outputs"]["Concurrency"]["Value"] for name in ("pricing", "promotions")
    ] == ["300", "50000"]


def invoked_by(template: Template, role: str) -> list[str]:
    """Return the functions that a role may invoke."""
    return [
        resource.split("<Job")[1].removesuffix(".Arn>").rstrip("0123456789ABCDEF")
        for statement in statements(template, role)
        if statement["Action"] == ["lambda:InvokeFunction"]
        for resource in statement["Resource"]
        if resource.endswith(".Arn>")
    ]


def test_a_run_starts_workers_through_dispatchers(templates: dict[str, Template]) -> None:
    direct, plain = templates["pricing"], templates["named"]
    assert invoked_by(direct, "StepRole") == ["Dispatch"]
    assert invoked_by(direct, "DispatchRole") == ["Work"]
    assert invoked_by(plain, "StepRole") == invoked_by(direct, "WorkRole") == []
    handler = one(direct, "AWS::Lambda::Function", "Dispatch")["Handler"]
    assert handler == "hundredfold.aws.functions.starting_workers.dispatch"
    for name in ("Work", "Dispatch"):  # a start that fails is dropped: the queue has the messages
        config = one(direct, "AWS::Lambda::EventInvokeConfig", name)
        assert (config["MaximumRetryAttempts"], config["MaximumEventAgeInSeconds"]) == (0, 60)
    mapping = one(direct, "AWS::Lambda::EventSourceMapping", "Work")
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 30}
    step = one(direct, "AWS::Lambda::Function", "Step")["Environment"]["Variables"]
    assert step[DIRECT_WORKERS_ENV] == "270"


def test_a_run_may_raise_the_pollers_of_its_mapping_only(templates: dict[str, Template]) -> None:
    raised = templates["raised"]
    mapping = one(raised, "AWS::Lambda::EventSourceMapping", "Work")
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 1000}
    assert "ProvisionedPollerConfig" not in mapping
    rights = [
        resource
        for template in templates.values()
        for statement in statements(template)
        if "lambda:UpdateEventSourceMapping" in statement["Action"]
        for resource in statement["Resource"]
    ]
    assert len(rights) == 1
    assert re.search(r":event-source-mapping:<JobWorkMapping\w*>$", rights[0])
    assert raised["Outputs"]["Pollers"]["Value"] == "100,200"
    states = machine(raised)["States"]
    assert states["Record the failure"]["Next"] == "Release the workers"
    assert states["Release the workers"]["Next"] == "Broken"


def test_an_upload_starts_a_run_with_that_file_as_its_source(
    templates: dict[str, Template],
) -> None:
    assert [
        name for name in of_type(templates["pricing"], "AWS::Events::Rule") if "Up" in name
    ] == []
    rule = one(templates["promotions"], "AWS::Events::Rule", "Upload")
    assert rule["EventPattern"]["detail"]["object"] == {
        "key": [{"prefix": "sources/bundle_sales/"}]
    }
    template = rule["Targets"][0]["InputTransformer"]["InputTemplate"]
    quoted = re.sub(r":(<[\w-]+>)", r':"\1"', template)  # EventBridge adds the quotes itself
    assert json.loads(quoted) == {
        "run": "upload-<id>",
        "sources": {"bundle_sales": "s3://<detail-bucket-name>/<detail-object-key>"},
        "time": "<time>",
        "sequencer": "<detail-object-sequencer>",
    }
    assert (
        one(templates["promotions"], "AWS::S3::Bucket")["NotificationConfiguration"][
            "EventBridgeConfiguration"
        ]["EventBridgeEnabled"]
        is True
    )


def test_executions_that_ended_before_their_run_are_recorded_by_step(template: Template) -> None:
    rule = one(template, "AWS::Events::Rule", "EndedExecutions")
    pattern = rule["EventPattern"]
    assert (pattern["source"], pattern["detail-type"]) == (["aws.states"], [ENDED_EXECUTION])
    (machine_arn,) = pattern["detail"]["stateMachineArn"]
    assert flat(machine_arn).startswith("<JobMachine")  # those of other stacks are not its own
    assert pattern["detail"]["status"] == ["ABORTED", "FAILED", "TIMED_OUT"]
    (target,) = rule["Targets"]
    assert flat(target["Arn"]).startswith("<JobStep")
    allowed = one(template, "AWS::Lambda::Permission", "EndedExecutions")
    assert allowed["FunctionName"] == target["Arn"]
    assert allowed["Principal"] == "events.amazonaws.com"
    assert flat(allowed["SourceArn"]).startswith("<JobEndedExecutions")


def test_alarms_have_a_description_and_notify_the_topic(templates: dict[str, Template]) -> None:
    plain, rich = (
        of_type(templates[name], "AWS::CloudWatch::Alarm") for name in ("pricing", "promotions")
    )
    assert len(plain) == 7
    assert len(rich) == 8  # and one for the rule
    assert all(len(alarm["AlarmDescription"]) > 40 for alarm in (plain | rich).values())
    assert all("AlarmActions" not in alarm for alarm in plain.values())
    assert all(alarm["AlarmActions"] == [RICH["alarm_topic"]] for alarm in rich.values())
    assert {alarm["TreatMissingData"] for alarm in (plain | rich).values()} == {"notBreaching"}


def test_an_alarm_counts_failed_calls_against_all_calls(templates: dict[str, Template]) -> None:
    alarm = one(templates["pricing"], "AWS::CloudWatch::Alarm", "WorkErrors")
    (formula,) = [each["Expression"] for each in alarm["Metrics"] if "Expression" in each]
    assert formula == "IF(calls > 0, 100 * errors / calls, 0)"
    assert alarm["Threshold"] == 1
    found = {e["Id"]: e["MetricStat"]["Metric"] for e in alarm["Metrics"] if "MetricStat" in e}
    assert {name: metric["MetricName"] for name, metric in found.items()} == {
        "errors": "Errors",
        "calls": "Invocations",
    }


def test_functions_run_in_the_given_subnets_only(templates: dict[str, Template]) -> None:
    for name, inside in (("promotions", True), ("pricing", False)):
        functions = of_type(templates[name], "AWS::Lambda::Function").values()
        network = {
            "SubnetIds": ["subnet-0123456a", "subnet-0123456b"],
            "SecurityGroupIds": ["sg-0123456c"],
        }
        assert all(f.get("VpcConfig") == (network if inside else None) for f in functions)
        allowed = {a for s in statements(templates[name]) for a in s["Action"]}
        assert allowed & NETWORK == (NETWORK if inside else set())
    of_machine = statements(templates["promotions"], "Machine")
    assert not {action for each in of_machine for action in each["Action"]} & NETWORK


def test_a_boundary_bounds_every_role(templates: dict[str, Template]) -> None:
    for name, boundary in (("promotions", RICH["permissions_boundary"]), ("pricing", None)):
        roles = of_type(templates[name], "AWS::IAM::Role").values()
        assert {role.get("PermissionsBoundary") for role in roles} == {boundary}


def test_a_key_of_the_customer_encrypts_all_data(templates: dict[str, Template]) -> None:
    named, key = templates["named"], NAMED["key"]
    (bucket,) = one(named, "AWS::S3::Bucket")["BucketEncryption"][
        "ServerSideEncryptionConfiguration"
    ]
    by_default = bucket["ServerSideEncryptionByDefault"]
    assert (by_default["SSEAlgorithm"], by_default["KMSMasterKeyID"]) == ("aws:kms", key)
    assert bucket["BucketKeyEnabled"]
    queues = of_type(named, "AWS::SQS::Queue").values()
    assert [queue["KmsMasterKeyId"] for queue in queues] == [key, key]
    table = one(named, "AWS::DynamoDB::Table")["SSESpecification"]
    assert table == {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": key}
    logs = of_type(named, "AWS::Logs::LogGroup").values()
    assert {group["KmsKeyId"] for group in logs} == {key}
    results = one(named, "AWS::Athena::WorkGroup")["WorkGroupConfiguration"]["ResultConfiguration"]
    assert results["EncryptionConfiguration"] == {"EncryptionOption": "SSE_KMS", "KmsKey": key}
    for role in ("StepRole", "WorkRole", "DeadLetterRole", "MachineRole"):
        (used,) = [s for s in statements(named, role) if "kms:Decrypt" in s["Action"]]
        assert used["Resource"] == [key]
    assert not any("kms" in a for s in statements(templates["pricing"]) for a in s["Action"])


def test_endpoints_are_in_the_subnets_and_route_tables(templates: dict[str, Template]) -> None:
    found: dict[str, set[str]] = {}
    for endpoint in of_type(templates["instances"], "AWS::EC2::VPCEndpoint").values():
        assert endpoint["VpcId"] == INSTANCES["vpc"]
        service = flat(endpoint["ServiceName"]).partition(">.")[2]
        found.setdefault(endpoint["VpcEndpointType"], set()).add(service)
        if endpoint["VpcEndpointType"] == "Gateway":
            assert endpoint["RouteTableIds"] == list(INSTANCES["route_tables"])
        else:
            assert endpoint["SubnetIds"] == list(INSTANCES["subnets"])
            assert endpoint["SecurityGroupIds"] == list(INSTANCES["security_groups"])
            assert endpoint["PrivateDnsEnabled"] is True
    tasks, jobs = {"ecr.api", "ecr.dkr", "ecs"}, {"ecs-agent", "ecs-telemetry", "batch"}
    functions = {"sqs", "athena", "glue", "lambda", "logs", "xray"}
    assert found == {"Gateway": {"s3", "dynamodb"}, "Interface": functions | tasks | jobs}
    assert of_type(templates["promotions"], "AWS::EC2::VPCEndpoint") == {}


def test_costs_of_a_month_notify_the_topic(templates: dict[str, Template]) -> None:
    budget = one(templates["instances"], "AWS::Budgets::Budget")
    assert budget["Budget"]["BudgetLimit"] == {"Amount": 500, "Unit": "USD"}
    assert budget["Budget"]["CostFilters"] == {"TagKeyValue": ["user:hundredfold:stack$instances"]}
    kinds = [
        (each["Notification"]["NotificationType"], each["Notification"]["Threshold"])
        for each in budget["NotificationsWithSubscribers"]
    ]
    assert kinds == [("ACTUAL", 80), ("FORECASTED", 100)]
    notified = [each["Subscribers"] for each in budget["NotificationsWithSubscribers"]]
    assert notified == [[{"SubscriptionType": "SNS", "Address": INSTANCES["alarm_topic"]}]] * 2
    assert of_type(templates["promotions"], "AWS::Budgets::Budget") == {}


def test_lake_formation_grants_tables_to_the_roles_that_query(
    templates: dict[str, Template],
) -> None:
    grants = of_type(templates["instances"], "AWS::LakeFormation::PrincipalPermissions").values()
    found = {
        (
            flat(grant["Principal"]["DataLakePrincipalIdentifier"])[4:].partition("Role")[0],
            next(iter(grant["Resource"])),
            str(grant["Resource"].get("Table", {}).get("Name", "")),
        ): grant["Permissions"]
        for grant in grants
    }
    for role in ("Step", "Machine"):
        assert found[(role, "Table", "orders")] == ["SELECT", "DESCRIBE"]  # a source: read only
        assert found[(role, "Table", "")] == ["SELECT", "DESCRIBE", "ALTER", "DROP"]
        assert found[(role, "Database", "")] == ["CREATE_TABLE", "DESCRIBE"]
    assert len(found) == 6
    assert all(grant["PermissionsWithGrantOption"] == [] for grant in grants)
    others = of_type(templates["promotions"], "AWS::LakeFormation::PrincipalPermissions")
    assert others == {}


def test_a_dashboard_shows_this_stack_only(templates: dict[str, Template]) -> None:
    assert of_type(templates["pricing"], "AWS::CloudWatch::Dashboard") == {}
    text = flat(one(templates["promotions"], "AWS::CloudWatch::Dashboard")["DashboardBody"])
    body = json.loads(text)
    shown = [metric for widget in body["widgets"] for metric in widget["properties"]["metrics"]]
    assert {metric[0] for metric in shown} == {"AWS/SQS", "AWS/Lambda", "AWS/States"}
    assert all(metric[2] in ("QueueName", "FunctionName", "StateMachineArn") for metric in shown)


def test_a_dashboard_shows_the_tasks_of_each_fleet_and_their_queue(
    templates: dict[str, Template],
) -> None:
    template = templates["fleets"]
    text = flat(one(template, "AWS::CloudWatch::Dashboard")["DashboardBody"])
    shown = {
        widget["properties"]["title"]: widget["properties"]["metrics"]
        for widget in json.loads(text)["widgets"]
    }
    tasks = shown["Tasks of each fleet"]
    assert [metric[:2] for metric in tasks] == [["Hundredfold", "RunningTasks"]] * 2
    assert [metric[2:4] for metric in tasks] == [["fleet", "fargate"], ["fleet", "fargate-spot"]]
    [queue] = {metric[3] for metric in shown["Age of the oldest message for tasks, seconds"]}
    assert {metric[3] for metric in shown["Messages for tasks: waiting, and with tasks"]} == {queue}
    assert queue not in {metric[3] for metric in shown["Age of the oldest message, seconds"]}


def test_every_resource_has_tags_of_its_job_and_stack(template: Template) -> None:
    for name in (
        "AWS::S3::Bucket",
        "AWS::DynamoDB::Table",
        "AWS::SQS::Queue",
        "AWS::Lambda::Function",
        "AWS::StepFunctions::StateMachine",
    ):
        for properties in of_type(template, name).values():
            assert {"Key": "hundredfold:job", "Value": JOB} in properties["Tags"]


@pytest.mark.slow
def test_cfn_lint_has_no_findings(templates: dict[str, Template]) -> None:
    api = pytest.importorskip("cfnlint.api")
    # CDK lists a dependency that a reference already implies
    ignored = api.ManualArgs(ignore_checks=["W3005"])
    assert [
        str(match)
        for template in templates.values()
        for match in api.lint_file(Path(template["file"]), ignored)
    ] == []


def test_cdk_nag_is_active(cdk: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The synthesis of the three stacks shows that cdk-nag had no findings for them."""
    from aws_cdk import aws_s3

    app = cdk.make_app(
        {"stack": "pricing", "code": str(nothing(tmp_path / "code")), "settings": PLAIN},
        outdir=str(tmp_path / "out"),
    )
    aws_s3.Bucket(app.node.find_child("pricing"), "Bare")
    with pytest.raises(RuntimeError, match="ValidationFailed") as caught:
        app.synth()
    # on a terminal, the finding is printed next to the error
    assert "pricing/Bare/Resource" in f"{caught.value}{capfd.readouterr().err}"


def test_a_stack_holds_one_job(cdk: Any, tmp_path: Path) -> None:
    from hundredfold.aws.stack.construct import Hundredfold

    app = cdk.make_app(
        {"stack": "pricing", "code": str(nothing(tmp_path / "code")), "settings": PLAIN},
        outdir=str(tmp_path / "out"),
    )
    with pytest.raises(UsageError, match="already has a Hundredfold"):
        Hundredfold(app.node.find_child("pricing"), "Second", code=str(tmp_path / "code"), job=JOB)


PUBLISHING = """
from hundredfold import DynamoDB, Job, Model, Publish, Source
job = Job("shelf", [Source("costs")], [Model("prices", unit=("product",), work=len)],
    publish=[Publish("a", "SELECT * FROM prices", to=DynamoDB("prices", key="product")),
             Publish("b", "SELECT * FROM prices", to=DynamoDB("shelf.b", key="product")),
             Publish("c", "SELECT * FROM prices")])
"""


def test_step_alone_may_write_to_the_tables_to_which_the_job_publishes(
    cdk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "publishing_shelf.py").write_text(PUBLISHING)
    monkeypatch.syspath_prepend(tmp_path)
    settings = {**PLAIN, "job": "publishing_shelf:job"}
    folder = synthesize(cdk, tmp_path / "out", "shelf", settings)
    template = json.loads((folder / "shelf.template.json").read_text())
    granted = {
        name: statement
        for name, policy in of_type(template, "AWS::IAM::Policy").items()
        for statement in policy["PolicyDocument"]["Statement"]
        if "dynamodb:Scan" in str(statement["Action"])
    }
    ((name, statement),) = granted.items()
    assert "Step" in name
    assert [arn["Fn::Join"][1][-1] for arn in statement["Resource"]] == [
        ":table/prices",
        ":table/shelf.b",
    ]
    assert sorted(statement["Action"]) == [
        f"dynamodb:{each}" for each in ("DeleteItem", "DescribeTable", "GetItem", "PutItem", "Scan")
    ]


def test_workers_have_a_package_of_their_own(cdk: Any, tmp_path: Path) -> None:
    """Of the same build, and with space on the disk for what it unpacks."""
    code, worker = nothing(tmp_path / "code"), nothing(tmp_path / "worker")
    (code / "only_steps.py").write_text("1")
    packages = {"code": str(code), "worker_code": str(worker)}
    with pytest.raises(UsageError, match="code and worker_code are of different builds"):
        cdk.make_app({"stack": "one", **packages, "settings": PLAIN}, outdir=str(tmp_path / "one"))
    seal(code)
    shutil.copy(code / FINGERPRINT_FILE, worker)
    (worker / "lib.py").write_bytes(b"x" * 3 * 2**20)
    (worker / PACKED_FOLDER).mkdir()
    write_files(worker, [worker / "lib.py"], worker / PACKED_FOLDER / "lib.zip")
    write_zip(worker, tmp_path / "worker.zip")
    packages["worker_code"] = str(tmp_path / "worker.zip")
    settings = {"stack": "two", **packages, "settings": PLAIN}
    cdk.make_app(settings, outdir=str(tmp_path / "two")).synth()
    template = json.loads((tmp_path / "two" / "two.template.json").read_text())
    functions = of_type(template, "AWS::Lambda::Function")
    keys = {
        f["Handler"].rpartition(".")[2]: (str(f["Code"]["S3Key"]), f["EphemeralStorage"]["Size"])
        for f in functions.values()
    }
    assert len({key for key, _ in keys.values()}) == 2
    assert keys["work"][0] == keys["dead_letter"][0] == keys["dispatch"][0] != keys["step"][0]
    assert [keys[name][1] for name in ("work", "dead_letter", "step")] == [515, 515, 4096]


# ---- settings of a stack


def test_all_invalid_settings_are_reported_at_once() -> None:
    wrong = {
        "memory": 5,
        "timeout": "9",
        "sources": ("lake/sales",),
        "pollers": (50, 2),
        "concurrency": 7,
        "trigger": "both",
        "log_days": 6,
    }
    with pytest.raises(UsageError) as caught:
        Settings.from_mapping({"job": JOB, **wrong})
    assert len(caught.value.problems) == 7
    assert "memory is 5, expected 128 to 10,240 MB" in caught.value.problems


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("job", "tariffs/job.py"),
        ("sources", ("s3://lake/*.parquet",)),
        ("sources", ("s3://UPPER/",)),
        ("sources", ("glue://lake",)),
        ("name_prefix", "Acme"),
        ("alarm_topic", "operations"),
        ("architecture", "arm"),
        ("python", "3.9"),
        ("pollers", (2, 3, 4)),
        ("batch_size", True),
        ("tracing", 1),
        ("raise_pollers", True),  # which pollers
        ("start_on_upload", {"sales": "lake/"}),
        ("layers", ("AWSSDKPandas",)),
        ("subnets", ("subnet-0123456a",)),  # without security groups
        ("subnets", ("vpc-0123456a",)),
        ("key", "alias/own"),
        ("permissions_boundary", "team"),
        ("dashboard", "yes"),
        ("vpc", "vpc-0123456d"),  # without route tables and subnets
        ("route_tables", ("rtb-0123456e",)),  # without a VPC
        ("monthly_budget", 100),  # without a topic
        ("lake_formation", "yes"),
        ("fleets", ("fargate",)),  # without an image and a network
        ("worker_image", IMAGE),  # without fleets
        ("worker_image", "docker.io/worker"),
        ("task_cores", 3),
        ("task_memory", 9216),  # for one core
        ("task_memory", 2500),
    ],
)
def test_an_invalid_setting_is_rejected(name: str, value: Any) -> None:
    with pytest.raises(UsageError):
        Settings.from_mapping({"job": JOB, name: value})


@pytest.mark.parametrize(
    ("settings", "messages"),
    [({}, 5), ({"memory": 1024}, 1), ({"memory": 10_240}, 5), ({"batch_size": 2}, 2)],
)
def test_a_worker_takes_a_message_for_each_core_by_default(
    settings: dict[str, int], messages: int
) -> None:
    assert Settings.from_mapping({"job": JOB, **settings}).messages_per_call == messages


def test_an_unknown_setting_is_rejected() -> None:
    with pytest.raises(UsageError, match="unknown settings of a stack: memroy"):
        Settings.from_mapping({"job": JOB, "memroy": 2048})


def test_an_upload_can_only_be_a_source_of_the_job() -> None:
    with pytest.raises(
        UsageError, match="names costs, which are not sources of the job; its sources are sales"
    ):
        Settings(job=JOB, start_on_upload=("costs",)).upload_locations(["sales"], "bucket")


def test_settings_survive_json() -> None:
    from dataclasses import asdict

    for values in (PLAIN, RICH, NAMED, FLEETS, INSTANCES):
        settings = Settings.from_mapping(values)
        assert Settings.from_mapping(json.loads(json.dumps(asdict(settings)))) == settings


def test_the_typed_keywords_are_the_fields_of_the_settings() -> None:
    assert set(SettingsKeywords.__annotations__) | {"job"} == {
        field.name for field in fields(Settings)
    }
    assert {bounds.name for bounds in BOUNDS} <= set(SettingsKeywords.__annotations__)


def test_a_template_contains_nothing_of_this_machine(template: Template) -> None:
    text = json.dumps({key: value for key, value in template.items() if key != "file"})
    assert str(Path.cwd()) not in text


def test_a_timeout_that_only_some_regions_allow_is_no_finding(cdk: Any, tmp_path: Path) -> None:
    settings = {"job": JOB, "timeout": 1800}
    folder = synthesize(cdk, tmp_path, "long", settings)
    template = json.loads((folder / "long.template.json").read_text())
    functions = of_type(template, "AWS::Lambda::Function").values()
    assert 1800 in {function["Timeout"] for function in functions}
    report = json.loads((folder / "validation-report.json").read_text())
    [accepted] = [
        finding["ruleName"]
        for plugin in report["pluginReports"]
        for finding in plugin["suppressedViolations"]
        if plugin["pluginName"] == "CloudFormation Validate"
    ]
    assert accepted == "E3717"
    assert [finding for plugin in report["pluginReports"] for finding in plugin["violations"]] == []
