"""deploy and destroy, with the CDK's own command line, in an emulated account."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hundredfold.aws.adapters.session import StackResources, client, image_digest
from hundredfold.aws.archive import fingerprint_of
from hundredfold.aws.deploy.deploy import (
    DeployError,
    DeployOptions,
    _by_digest,
    _deploy_error,
    default_stack,
    deploy,
    destroy,
    synth,
)
from hundredfold.aws.deploy.node import NodeError, cdk_command, find_node, node_on_path
from hundredfold.errors import JobError, UsageError
from support.emulator import Emulator
from support.emulator import deploy as emulated
from support.synthesis import JOB, cdk_app, synthesize

STACK = "removed"
IMAGE = DeployOptions(
    image="123456789012.dkr.ecr.us-east-1.amazonaws.com/pricing:7",
    settings={"concurrency": 8, "memory": 2048},
)


def usable_cdk() -> bool:
    try:
        find_node()
    except NodeError:
        return False
    return find_spec("aws_cdk") is not None


needs_cdk = pytest.mark.skipif(
    not usable_cdk(), reason="the CDK is not installed: pip install 'hundredfold[deploy]'"
)


# ---- synth


@needs_cdk
@pytest.mark.slow
def test_synth_writes_the_stack_without_calling_aws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    assembly = synth(JOB, tmp_path, stack="pricing", options=IMAGE)
    template = json.loads((assembly.folder / "pricing.template.json").read_text())
    functions = [
        r["Properties"]
        for r in template["Resources"].values()
        if r["Type"] == "AWS::Lambda::Function"
    ]
    assert sorted(function["ImageConfig"]["Command"][0] for function in functions) == [
        f"hundredfold.aws.functions.{module}.{name}"
        for module, name in (
            ("handlers", "dead_letter"),
            ("handlers", "work"),
            ("starting_workers", "dispatch"),
            ("step_handler", "step"),
        )
    ]
    assert {function["PackageType"] for function in functions} == {"Image"}
    assert all("Runtime" not in function for function in functions)
    assert assembly.package is None


@needs_cdk
@pytest.mark.parametrize(
    ("ref", "stack", "settings", "message"),
    [
        (JOB, "2nd", {}, "'2nd' is not a valid stack name"),
        (JOB, "pricing", {"memory": 1}, "memory is 1, expected 128"),
        (JOB, "pricing", {"start_on_upload": ("costs",)}, "start_on_upload names costs"),
        ("tariffs.job:nothing", "pricing", {}, "has no 'nothing'"),
    ],
)
def test_invalid_arguments_are_reported_before_anything_is_built(
    tmp_path: Path, ref: str, stack: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, JobError), match=message):
        synth(ref, tmp_path / "out", stack=stack, options=DeployOptions(settings=settings))
    assert not (tmp_path / "out").exists()


def test_a_stack_is_named_after_its_job() -> None:
    assert default_stack(JOB) == "hundredfold-tariffs"


# ---- Node


def test_an_old_or_missing_node_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="which was not found") as caught:
        node_on_path({"PATH": str(tmp_path)})
    assert "hundredfold[deploy]" in str(caught.value.hint)
    for output, message in (("v18.20.1", "is v18.20.1"), ("", "is not executable")):
        (tmp_path / "node").write_text(f"#!/bin/sh\necho {output}\n")
        (tmp_path / "node").chmod(0o755)
        with pytest.raises(NodeError, match=message):
            node_on_path({"PATH": str(tmp_path)})


def test_node_on_the_path_is_used_with_its_npm(tmp_path: Path) -> None:
    (tmp_path / "node").write_text("#!/bin/sh\necho v22.11.0\n")
    (tmp_path / "node").chmod(0o755)
    with pytest.raises(NodeError, match="no npm next to it"):
        node_on_path({"PATH": str(tmp_path)})
    (tmp_path / "npm").write_text("#!/bin/sh\n")
    (tmp_path / "npm").chmod(0o755)
    assert node_on_path({"PATH": str(tmp_path)}).npm == (str(tmp_path / "npm"),)


# ---- destroy


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with cdk_app() as app:
        return synthesize(app, tmp_path_factory.mktemp("removed"), STACK, {"job": JOB})


@pytest.fixture
def resources(aws_env: Emulator, assembly: Path) -> Iterator[StackResources]:
    emulated.deploy(aws_env, assembly)
    yield StackResources.from_stack(STACK)
    with pytest.raises(UsageError) if STACK not in stacks() else nullcontext():
        destroy(STACK)


def stacks() -> list[str]:
    return [
        s["StackName"]
        for s in client("cloudformation").describe_stacks()["Stacks"]
        if s["StackStatus"] != "DELETE_COMPLETE"
    ]


def buckets() -> list[str]:
    return [bucket["Name"] for bucket in client("s3").list_buckets()["Buckets"]]


def test_destroy_keeps_the_bucket_with_its_releases(resources: StackResources) -> None:
    client("s3").put_object(
        Bucket=resources.bucket, Key="releases/tariffs/current.json", Body=b"{}"
    )
    assert destroy(STACK, sleep=lambda _: None) == resources.bucket
    assert STACK not in stacks()
    assert (
        client("s3")
        .get_object(Bucket=resources.bucket, Key="releases/tariffs/current.json")["Body"]
        .read()
        == b"{}"
    )


def test_destroy_everything_deletes_all_versions_of_all_objects(
    resources: StackResources,
) -> None:
    client("s3").put_bucket_versioning(
        Bucket=resources.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    for body in (b"1", b"2"):
        client("s3").put_object(
            Bucket=resources.bucket, Key="releases/tariffs/current.json", Body=body
        )
    client("s3").delete_object(Bucket=resources.bucket, Key="releases/tariffs/current.json")
    destroy(STACK, everything=True, sleep=lambda _: None)
    assert resources.bucket not in buckets()


def test_destroy_is_refused_while_a_run_is_active(resources: StackResources) -> None:
    waiting = {"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 600, "End": True}}}
    client("stepfunctions").update_state_machine(
        stateMachineArn=resources.machine, definition=json.dumps(waiting)
    )
    run = client("stepfunctions").start_execution(
        stateMachineArn=resources.machine, name="20261122-101112-ab3"
    )["executionArn"]
    with pytest.raises(UsageError, match="1 runs of the stack removed are active") as caught:
        destroy(STACK)
    assert caught.value.problems == ("20261122-101112-ab3",)
    assert STACK in stacks()
    client("stepfunctions").stop_execution(executionArn=run)


def test_destroy_removes_only_stacks_created_by_deploy(aws_env: Emulator) -> None:
    template = {"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}
    client("cloudformation").create_stack(StackName="theirs", TemplateBody=json.dumps(template))
    with pytest.raises(UsageError, match="the stack theirs was not created by hundredfold deploy"):
        destroy("theirs")
    with pytest.raises(UsageError, match="found no stack 'nowhere'"):
        destroy("nowhere")
    client("cloudformation").delete_stack(StackName="theirs")


# ---- the whole deployment, with the command line of the CDK


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the CDK's command line if npm can: from the registry in the user's own settings, or
    the public one.
    """
    monkeypatch.setenv("npm_config_fetch_retries", "0")  # otherwise npm retries for minutes
    try:
        cdk_command(find_node())
    except NodeError as error:
        pytest.skip(f"deploy is not tried: {error}")


@needs_cdk
@pytest.mark.slow
def test_deploy_reports_a_missing_bootstrap_bootstraps_and_deploys(
    command_line: None, tmp_path: Path
) -> None:
    output: list[str] = []
    with Emulator() as account, account.reached():
        with pytest.raises(DeployError, match="not bootstrapped for the CDK") as caught:
            deploy(JOB, tmp_path, stack="pricing", options=IMAGE, report=output.append)
        assert "--bootstrap" in str(caught.value.hint)
        resources = deploy(
            JOB, tmp_path, stack="pricing", options=IMAGE, bootstrap=True, report=output.append
        )
        assert (resources.job, resources.concurrency) == (JOB, 8)
        alarms = client("cloudwatch").describe_alarms()["MetricAlarms"]
        assert any("WorkErrors" in alarm["AlarmName"] for alarm in alarms)
        again = deploy(JOB, tmp_path, stack="pricing", options=IMAGE, report=output.append)
        assert again == resources
        assert destroy("pricing", sleep=lambda _: None) == resources.bucket
    assert any("bootstrapped" in line for line in output)


MANIFEST = json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:1"}, "layers": []})


def test_an_image_given_by_tag_is_deployed_by_its_digest(
    aws_env: Emulator, name_of: Callable[[str], str]
) -> None:
    repository, output = name_of("repository"), list[str]()
    client("ecr").create_repository(repositoryName=repository)
    kept = client("ecr").put_image(repositoryName=repository, imageManifest=MANIFEST, imageTag="7")[
        "image"
    ]
    tagged = f"{kept['registryId']}.dkr.ecr.us-east-1.amazonaws.com/{repository}:7"
    found = _by_digest(tagged, output.append)
    assert found == f"{tagged.removesuffix(':7')}@{kept['imageId']['imageDigest']}"
    assert output == [f"{tagged} is {kept['imageId']['imageDigest']}"]
    assert _by_digest(found, output.append) == found
    assert fingerprint_of(found) == kept["imageId"]["imageDigest"].removeprefix("sha256:")[:16]
    function = name_of("function")
    client("lambda").create_function(
        FunctionName=function,
        PackageType="Image",
        Code={"ImageUri": found},
        Role="arn:aws:iam::000000000000:role/r",
    )
    assert image_digest(function) == fingerprint_of(found)
    assert image_digest(name_of("none")) == ""


def test_an_image_without_a_known_digest_is_deployed_by_its_tag(aws_env: Emulator) -> None:
    output: list[str] = []
    assert _by_digest(IMAGE.image, output.append) == IMAGE.image
    assert "is deployed by its tag, since its digest cannot be found" in output[0]


MEMORY = """\
chatbot: creating CloudFormation changeset...
9:51:46 PM | CREATE_FAILED        | AWS::Lambda::Function                       | Step9B8BCF65
Resource handler returned message: "'MemorySize' value failed to satisfy constraint: Member must
                                       have value less than or equal to 3008 (Service: Lambda,
Status Code: 400, Request ID: 4954a967) " (RequestToken: 88050a3b, HandlerErrorCode: InvalidRequest)
"""
TIMEOUT = """\
1 validation error detected: Value '1800' at 'timeout' failed to satisfy constraint: Member must \
have value less than or equal to 900 (Service: AWSLambdaInternal; Status Code: 400)
"""


@pytest.mark.parametrize(
    ("output", "message", "hint"),
    [
        (MEMORY, "functions at most 3008 MB of memory", "--memory 3008 --step-memory 3008"),
        (MEMORY.replace("3008", "512"), "at most 512 MB", "--memory 512 --step-memory 512"),
        (TIMEOUT, "this region allows functions at most 900 seconds", "--timeout 900"),
    ],
)
def test_a_limit_of_lambda_is_named_with_the_option_to_change(
    output: str, message: str, hint: str
) -> None:
    """The texts are those that people have reported."""
    error = _deploy_error("deploy", "prices", output.splitlines())
    assert message in error.message
    assert hint in (error.hint or "")
