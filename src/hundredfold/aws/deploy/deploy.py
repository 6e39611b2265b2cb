"""`hundredfold deploy` and `hundredfold destroy`.

deploy packages the job, synthesizes its stack, and passes the assembly to the CDK's own command
line, which uploads and deploys it. So the deployed stack is, byte for byte, the one that `--synth`
writes. destroy needs neither the job nor the CDK: it asks CloudFormation to delete the stack of
that name, and keeps the bucket with the releases.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from botocore.exceptions import BotoCoreError, ClientError

from ... import errors
from ...errors import HundredfoldError, UsageError
from ...runs.job_loader import load_job
from ..adapters.errors import error_code, translate_errors
from ..adapters.session import StackResources, client
from ..stack.settings import DESCRIPTION_PREFIX, STACK_FILE_ENV, Settings
from .dependencies import JobImports, find_imports
from .node import cdk_command, find_node
from .package import ZippedPackage, package

STACK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")
APP_MODULE = "hundredfold.aws.stack.app"
POLL_S = 5.0  # seconds between polls of a stack that is being deleted
MAX_ERROR_LINES = 12  # of the CDK's output, for an error without a message of ours

Report = Callable[[str], None]


class DeployError(HundredfoldError):
    """The stack could not be synthesized, deployed or removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployOptions:
    """The options of a deployment: the settings of the stack, and the contents of its package."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    requirements: Sequence[str] = ()
    leave_out: Sequence[str] = ()
    image: str | None = None  # address of an image in ECR, in place of a package


@dataclass(frozen=True, slots=True)
class Assembly:
    """A stack as the CDK writes it: a folder with its template and the files to upload."""

    stack: str
    folder: Path
    package: ZippedPackage | None


def default_stack(ref: str) -> str:
    """Return the default name of the stack: hundredfold-JOB."""
    return f"hundredfold-{load_job(ref).name.replace('_', '-')}"


def synth(ref: str, folder: Path, *, stack: str, options: DeployOptions | None = None) -> Assembly:
    """Write the package and the assembly into `folder`.

    Nothing else is changed, and no credentials are needed.

    Raises:
        UsageError: an argument or a setting is invalid.
        JobError: the job cannot be imported.
        PackageError, DeployError: the package or the stack cannot be built.
    """
    options = options or DeployOptions()
    _check_arguments(stack, options)
    if importlib.util.find_spec("aws_cdk") is None:
        raise UsageError("the CDK is not installed", hint="pip install 'hundredfold[deploy]'")
    node = find_node()
    found = find_imports(ref)
    settings = Settings.from_mapping({"job": found.ref, **options.settings})
    # check now, before a minute of packaging
    settings.upload_locations([source.name for source in load_job(ref).sources], "")
    packaged = _package(ref, folder, settings, options) if options.image is None else None
    folder.mkdir(parents=True, exist_ok=True)
    assembly, stack_file = folder / "cdk.out", folder / "stack.json"
    shutil.rmtree(assembly, ignore_errors=True)
    code = str(packaged.zip.resolve()) if packaged else options.image
    worker = str(packaged.worker.zip.resolve()) if packaged and packaged.worker else None
    stack_file.write_text(
        json.dumps(
            {"stack": stack, "code": code, "worker_code": worker, "settings": asdict(settings)},
            indent=2,
        ),
        encoding="utf-8",
    )
    environment = node.environment() | {
        STACK_FILE_ENV: str(stack_file.resolve()),
        "CDK_OUTDIR": str(assembly.resolve()),
        "PYTHONPATH": _python_path(found),
    }
    done = subprocess.run(
        [sys.executable, "-m", APP_MODULE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise _synthesis_error(done.stdout, done.stderr)
    return Assembly(stack, assembly, packaged)


def deploy(
    ref: str,
    folder: Path,
    *,
    stack: str,
    options: DeployOptions | None = None,
    bootstrap: bool = False,
    report: Report = lambda _: None,
) -> StackResources:
    """Create or update the stack; return its resources.

    `bootstrap`: first create the resources that the CDK needs in an account and region, once for
    all stacks: a bucket and its roles.
    """
    options = options or DeployOptions()
    image, settings = _by_digest(options.image, report), dict(options.settings)
    if worker := settings.get("worker_image"):
        settings["worker_image"] = _by_digest(worker, report)
    options = replace(options, image=image, settings=settings)
    assembly = synth(ref, folder, stack=stack, options=options)
    if assembly.package:
        sizes = [each.size for each in (assembly.package, assembly.package.worker) if each]
        packages = " and ".join(f"{size / 2**20:.0f} MB" for size in sizes)
        report(f"packaged {packages} (steps, workers); synthesized {assembly.folder}")
    if bootstrap:
        _run_cdk(["bootstrap", _account_address()], assembly, report)
    _run_cdk(
        ["deploy", stack, "--require-approval", "never", "--progress", "events"], assembly, report
    )
    return StackResources.from_stack(stack)


def _by_digest(image: str | None, report: Report) -> str | None:
    """Return an image's address by digest if it is given by tag, as far as these credentials allow.

    A tag can be moved: CloudFormation would then see no change and deploy nothing, and no run could
    record which code executed it.
    """
    named = re.fullmatch(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.[^/]+/([^:@]+):([\w.-]+)", image or "")
    if image is None or named is None:
        return image
    account, _, repository, tag = named.groups()
    try:
        (found,) = client("ecr").describe_images(
            registryId=account, repositoryName=repository, imageIds=[{"imageTag": tag}]
        )["imageDetails"]
    except (BotoCoreError, ClientError, ValueError) as error:
        report(f"{image} is deployed by its tag, since its digest cannot be found: {error}")
        return image
    report(f"{image} is {found['imageDigest']}")
    return f"{image.removesuffix(f':{tag}')}@{found['imageDigest']}"


def destroy(
    stack: str,
    *,
    everything: bool = False,
    report: Report = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Remove a stack that `deploy` created.

    The bucket stays, with its runs and releases, unless `everything` is set. Returns its name, or
    "" if there is none yet.

    Raises:
        UsageError: `deploy` did not create the stack, or its runs are active.
        DeployError: something cannot be deleted.
    """
    with translate_errors(f"the stack {stack}", "removed"):
        found = _stack_of_deploy(stack)
        outputs: dict[str, str] = {
            output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])
        }
        _refuse_while_running(outputs.get("MachineArn", ""), stack)
        client("cloudformation").delete_stack(StackName=stack)
        report(f"removing the stack {stack}")
        _wait_until_gone(found["StackId"], stack, sleep)
        bucket = outputs.get("Bucket", "")
        if everything and bucket:
            report(f"emptying the bucket {bucket}")
            _remove_bucket(bucket)
    return bucket


# ---- synthesis


def _check_arguments(stack: str, options: DeployOptions) -> None:
    if not STACK_NAME.fullmatch(stack):
        raise UsageError(
            f"{stack!r} is not a valid stack name",
            hint="expected letters, digits and -, beginning with a letter, at most 128",
        )
    if options.image and (
        options.requirements or options.leave_out or options.settings.get("layers")
    ):
        raise UsageError(
            "an image is given together with contents of a package: requirements, leave_out or "
            "layers",
            hint=(
                "an image contains all its dependencies: hundredfold package JOB --image "
                "--requirement ..."
            ),
        )


def _package(ref: str, folder: Path, settings: Settings, options: DeployOptions) -> ZippedPackage:
    return package(
        ref,
        folder,
        architecture=settings.architecture,
        python=settings.python,
        requirements=options.requirements,
        leave_out=options.leave_out,
    )


def _python_path(found: JobImports) -> str:
    """Return the PYTHONPATH with the user's modules, for the app."""
    parents = dict.fromkeys(str(Path(location).parent) for location in found.code.values())
    return os.pathsep.join([*parents, *filter(None, [os.environ.get("PYTHONPATH")])])


def _synthesis_error(stdout: str, stderr: str) -> HundredfoldError:
    """Return the app's own error, or one with the last unindented line of the CDK's output."""
    try:
        error = json.loads(stdout.splitlines()[-1])
        kind = getattr(errors, error["kind"], DeployError)
        return cast(
            HundredfoldError, kind(error["message"], problems=error["problems"], hint=error["hint"])
        )
    except (IndexError, ValueError):
        pass
    findings = re.findall(r"Acknowledge with '([^']+)'", stderr)
    if findings:
        return DeployError(
            "cdk-nag has findings for the stack",
            problems=findings,
            hint="hundredfold's own stack has none; check the constructs that were added to it",
        )
    last = next(
        (line for line in reversed(stderr.splitlines()) if line and not line[0].isspace()), ""
    )
    return DeployError(
        "the stack cannot be synthesized", problems=[last or "the CDK printed nothing"]
    )


# ---- the CDK's command line


def _run_cdk(arguments: Sequence[str], assembly: Assembly, report: Report) -> None:
    """Run the CDK and report its output line by line; raise DeployError if it fails."""
    node = find_node()
    command = [
        *cdk_command(node),
        *arguments,
        "--app",
        str(assembly.folder.resolve()),
        "--no-notices",
        "--no-version-reporting",
        "--ci",
    ]
    environment = node.environment()
    if "AWS_ENDPOINT_URL" in environment:
        # the CDK uses a separate variable for S3
        environment.setdefault("AWS_ENDPOINT_URL_S3", environment["AWS_ENDPOINT_URL"])
    output = []
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line.rstrip())
            report(output[-1])
    if process.returncode:
        raise _deploy_error(arguments[0], assembly.stack, output)


def _deploy_error(verb: str, stack: str, output: Sequence[str]) -> DeployError:
    text = "\n".join(output)
    message, hint = next(
        (
            (found.expand(message), found.expand(hint))
            for pattern, message, hint in KNOWN_CDK_ERRORS
            if (found := re.search(pattern, text))
        ),
        (f"the stack {stack} cannot be made", None),
    )
    return DeployError(
        message if verb == "deploy" else f"cdk {verb}: {message}",
        problems=_reasons(output),
        hint=hint,
    )


def _reasons(output: Sequence[str]) -> list[str]:
    """Return the failures of CloudFormation, or else the CDK's errors, or else its last lines."""
    failed = [
        " ".join(line.split("|")[-1].split()) for line in output if re.search(r"_FAILED\b", line)
    ]
    errors = [line.strip() for line in output if re.search(r"❌|\berror\b|Error:", line, re.I)]
    return list(dict.fromkeys(failed or errors or filter(None, map(str.strip, output))))[
        -MAX_ERROR_LINES:
    ]


# a pattern of the CDK's output, our message, our hint. Those of Lambda's limits are as many people
# have reported them: the CDK breaks long lines between any two words
BOUND = r"failed to satisfy constraint: Member must have value less than or equal to "
BOUND = BOUND.replace(" ", r"\s+")
KNOWN_CDK_ERRORS = (
    (
        rf"(?i)'MemorySize'\s+(?:value\s+)?{BOUND}(\d+)",
        r"this account allows functions at most \1 MB of memory",
        r"deploy with --memory \1 --step-memory \1, or ask AWS Support for more: the limit of a new"
        r" account is not among the Service Quotas",
    ),
    (
        rf"(?i)'timeout'\s+(?:value\s+)?{BOUND}(\d+)",
        r"this region allows functions at most \1 seconds",
        r"deploy with --timeout \1",
    ),
    (
        r"has not been bootstrapped|has the environment been bootstrapped|/cdk-bootstrap/|No "
        r"bucket named 'cdk-",
        "this account and region are not bootstrapped for the CDK",
        "run the same command with --bootstrap, once for all stacks",
    ),
    (
        r"[Uu]nable to resolve AWS account|no credentials have been configured|could not be used "
        r"to assume|NoCredentials|CredentialsProviderError",
        "found no AWS credentials that may deploy",
        "AWS_PROFILE=... selects a profile; aws sts get-caller-identity prints who you are",
    ),
    (
        r"ExpiredToken|token .*expired",
        "the AWS credentials have expired",
        "aws sso login, or renew them in your usual way",
    ),
    (
        r"ROLLBACK_COMPLETE state and can ?not be updated|is in ROLLBACK_COMPLETE",
        "an earlier attempt to create this stack failed, and its remains have to be removed first",
        "hundredfold destroy; then deploy again",
    ),
    (
        r"already exists",
        "a resource of the same name already exists",
        "choose another --stack or --name-prefix; Glue databases and Athena workgroups are named "
        "after the stack",
    ),
)


def _account_address() -> str:
    with translate_errors("the account", "found"):
        account = client("sts").get_caller_identity()["Account"]
        return f"aws://{account}/{client('sts').meta.region_name}"


# ---- removal


def _stack_of_deploy(stack: str) -> dict[str, Any]:
    """Return the description of a stack that `deploy` created.

    Any other stack, such as one of a team's own app, has to be removed with the tool that created
    it.
    """
    try:
        found = client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if error_code(error) != "ValidationError":
            raise
        raise UsageError(
            f"found no stack {stack!r} that these credentials can see",
            hint="AWS_PROFILE and AWS_REGION select the account and region",
        ) from error
    if (
        not client("cloudformation")
        .get_template_summary(StackName=stack)
        .get("Description", "")
        .startswith(DESCRIPTION_PREFIX)
    ):
        raise UsageError(
            f"the stack {stack} was not created by hundredfold deploy",
            hint="remove it with the tool that created it",
        )
    return dict(found)


def _refuse_while_running(machine: str, stack: str) -> None:
    if not machine:
        return
    active = client("stepfunctions").list_executions(
        stateMachineArn=machine, statusFilter="RUNNING", maxResults=100
    )["executions"]
    if active:
        raise UsageError(
            f"{len(active)} runs of the stack {stack} are active",
            problems=[execution["name"] for execution in active],
            hint="wait for them to end, or cancel them: hundredfold cancel RUN --backend aws",
        )


def _wait_until_gone(identity: str, stack: str, sleep: Callable[[float], None]) -> None:
    while True:
        # a deleted stack is found only by its id
        found = client("cloudformation").describe_stacks(StackName=identity)["Stacks"][0]
        status = found["StackStatus"]
        if status == "DELETE_COMPLETE":
            return
        if not status.endswith("_IN_PROGRESS"):
            raise DeployError(
                f"the stack {stack} is {status}",
                problems=list(_deletion_failures(identity)),
                hint="fix the cause; then hundredfold destroy again",
            )
        sleep(POLL_S)


def _deletion_failures(identity: str) -> Iterator[str]:
    for event in client("cloudformation").describe_stack_events(StackName=identity)["StackEvents"]:
        if event["ResourceStatus"] == "DELETE_FAILED" and event["LogicalResourceId"]:
            yield (
                f"{event['ResourceType']} {event['LogicalResourceId']}: "
                f"{event.get('ResourceStatusReason', '')}"
            )


def _remove_bucket(bucket: str) -> None:
    """Delete every version of every object, and then the bucket."""
    s3 = client("s3")
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        versions = [
            {"Key": v["Key"], "VersionId": v["VersionId"]}
            for kind in ("Versions", "DeleteMarkers")
            for v in page.get(kind, ())
        ]
        if not versions:
            continue
        refused = s3.delete_objects(Bucket=bucket, Delete={"Objects": versions, "Quiet": True}).get(
            "Errors", []
        )
        if refused:
            raise DeployError(
                f"{len(refused)} objects of the bucket {bucket} cannot be deleted",
                problems=[f"{e['Key']}: {e.get('Message', e.get('Code', ''))}" for e in refused],
                hint="the stack is removed; only this bucket is left",
            )
    try:
        s3.delete_bucket(Bucket=bucket)
    except ClientError as error:
        if error_code(error) != "NoSuchBucket":
            raise
