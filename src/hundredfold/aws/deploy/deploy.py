"""`hundredfold deploy` and `destroy`.

deploy packages the job, synthesizes its stack, and hands the assembly to the CDK's own command
line, which uploads and creates. What is deployed is therefore what `--synth` writes, to the byte.
destroy needs neither the job nor the CDK: it asks CloudFormation to delete the stack of that name,
and lets the bucket with the releases be.
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
from ..adapters.errors import code, in_plain_words
from ..adapters.session import StackResources, client
from ..stack.settings import OURS, TOLD, Settings
from .dependencies import Imports, imports_of
from .node import cdk, find_node
from .package import Packaged, package

STACK = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")
APP = "hundredfold.aws.stack.app"
LOOK = 5.0  # seconds between looks at a stack that is being deleted
TOLD_LINES = 12  # of the CDK's last words, where we have none of our own

Say = Callable[[str], None]


class DeployError(HundredfoldError):
    """The stack could not be synthesized, made or removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployOptions:
    """What is to be deployed: how the stack should be (the fields of `Settings`), and what its
    package should hold.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    requirements: Sequence[str] = ()
    leave_out: Sequence[str] = ()
    image: str | None = None  # the address of an image in ECR, instead of a package


@dataclass(frozen=True, slots=True)
class Assembly:
    """A stack as the CDK writes it: a folder with its template and what is to be uploaded."""

    stack: str
    folder: Path
    package: Packaged | None


def default_stack(ref: str) -> str:
    """The stack's name where none is given: hundredfold-JOB."""
    return f"hundredfold-{load_job(ref).name.replace('_', '-')}"


def synth(ref: str, folder: Path, *, stack: str, wish: DeployOptions | None = None) -> Assembly:
    """Write the package and the assembly into `folder`; nothing else is touched, and no credentials
    are needed.

    UsageError for words that cannot be, JobError for a job that cannot be imported, PackageError,
    DeployError.
    """
    wish = wish or DeployOptions()
    _check_words(stack, wish)
    if importlib.util.find_spec("aws_cdk") is None:
        raise UsageError("the CDK is not installed", hint="pip install 'hundredfold[deploy]'")
    node = find_node()
    found = imports_of(ref)
    settings = Settings.of({"job": found.ref, **wish.settings})
    settings.uploads(
        [source.name for source in load_job(ref).sources], ""
    )  # told now, and not after a minute of packaging
    packaged = _package(ref, folder, settings, wish) if wish.image is None else None
    folder.mkdir(parents=True, exist_ok=True)
    assembly, told = folder / "cdk.out", folder / "stack.json"
    shutil.rmtree(assembly, ignore_errors=True)
    code = str(packaged.zip.resolve()) if packaged else wish.image
    told.write_text(
        json.dumps({"stack": stack, "code": code, "settings": asdict(settings)}, indent=2),
        encoding="utf-8",
    )
    environment = node.environment() | {
        TOLD: str(told.resolve()),
        "CDK_OUTDIR": str(assembly.resolve()),
        "PYTHONPATH": _path(found),
    }
    done = subprocess.run(
        [sys.executable, "-m", APP], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise _not_synthesized(done.stdout, done.stderr)
    return Assembly(stack, assembly, packaged)


def deploy(
    ref: str,
    folder: Path,
    *,
    stack: str,
    wish: DeployOptions | None = None,
    bootstrap: bool = False,
    say: Say = lambda _: None,
) -> StackResources:
    """Make the stack, or bring it up to date; where its things are.

    `bootstrap`: first make what the CDK itself needs in an account and region, once for all stacks:
    a bucket and its roles.
    """
    wish = wish or DeployOptions()
    assembly = synth(
        ref, folder, stack=stack, wish=replace(wish, image=_by_digest(wish.image, say))
    )
    if assembly.package:
        say(f"packaged {assembly.package.size / 2**20:.0f} MB; synthesized {assembly.folder}")
    if bootstrap:
        _cdk(["bootstrap", _account()], assembly, say)
    _cdk(["deploy", stack, "--require-approval", "never", "--progress", "events"], assembly, say)
    return StackResources.of_stack(stack)


def _by_digest(image: str | None, say: Say) -> str | None:
    """Return an image's address by its digest where a tag names it, as far as these credentials may
    look.

    A tag can be moved: CloudFormation would then see no change and deploy nothing, and no run could
    tell by which code it was done.
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
        say(f"{image} is deployed by its tag, since its digest cannot be found: {error}")
        return image
    say(f"{image} is {found['imageDigest']}")
    return f"{image.removesuffix(f':{tag}')}@{found['imageDigest']}"


def destroy(
    stack: str,
    *,
    everything: bool = False,
    say: Say = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Remove a stack that `deploy` made.

    The bucket stays, with its runs and releases, unless `everything`; its name, or "" where there
    is none yet.

    UsageError for a stack that is not ours, or while its runs are going on; DeployError if
    something cannot be deleted.
    """
    with in_plain_words(f"the stack {stack}", "removed"):
        found = _ours(stack)
        outputs: dict[str, str] = {
            output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])
        }
        _refuse_while_running(outputs.get("MachineArn", ""), stack)
        client("cloudformation").delete_stack(StackName=stack)
        say(f"removing the stack {stack}")
        _wait_until_gone(found["StackId"], stack, sleep)
        bucket = outputs.get("Bucket", "")
        if everything and bucket:
            say(f"emptying the bucket {bucket}")
            _remove_bucket(bucket)
    return bucket


# ---- synthesis


def _check_words(stack: str, wish: DeployOptions) -> None:
    if not STACK.fullmatch(stack):
        raise UsageError(
            f"{stack!r} cannot be a stack's name",
            hint="wanted letters, digits and -, beginning with a letter, at most 128",
        )
    if wish.image and (wish.requirements or wish.leave_out or wish.settings.get("layers")):
        raise UsageError(
            "an image is given, and also what goes into a package: requirements, leave_out or "
            "layers",
            hint=(
                "an image holds all that it needs: hundredfold package JOB --image --requirement "
                "..."
            ),
        )


def _package(ref: str, folder: Path, settings: Settings, wish: DeployOptions) -> Packaged:
    return package(
        ref,
        folder,
        architecture=settings.architecture,
        python=settings.python,
        requirements=wish.requirements,
        leave_out=wish.leave_out,
    )


def _path(found: Imports) -> str:
    """Where the app finds the user's modules."""
    parents = dict.fromkeys(str(Path(place).parent) for place in found.code.values())
    return os.pathsep.join([*parents, *filter(None, [os.environ.get("PYTHONPATH")])])


def _not_synthesized(told: str, said: str) -> HundredfoldError:
    """The app's own error, or what CDK said: its last line without a margin."""
    try:
        error = json.loads(told.splitlines()[-1])
        kind = getattr(errors, error["kind"], DeployError)
        return cast(
            HundredfoldError, kind(error["message"], problems=error["problems"], hint=error["hint"])
        )
    except (IndexError, ValueError):
        pass
    findings = re.findall(r"Acknowledge with '([^']+)'", said)
    if findings:
        return DeployError(
            "cdk-nag finds fault with the stack",
            problems=findings,
            hint="hundredfold's own stack has none: is it extended?",
        )
    last = next(
        (line for line in reversed(said.splitlines()) if line and not line[0].isspace()), ""
    )
    return DeployError("the stack cannot be synthesized", problems=[last or "the CDK said nothing"])


# ---- the CDK's command line


def _cdk(words: Sequence[str], assembly: Assembly, say: Say) -> None:
    """Run it, and hand on what it says, line by line; DeployError with its reason in plain words."""
    node = find_node()
    command = [
        *cdk(node),
        *words,
        "--app",
        str(assembly.folder.resolve()),
        "--no-notices",
        "--no-version-reporting",
        "--ci",
    ]
    environment = node.environment()
    if "AWS_ENDPOINT_URL" in environment:
        environment.setdefault(
            "AWS_ENDPOINT_URL_S3", environment["AWS_ENDPOINT_URL"]
        )  # it asks for S3's by itself
    said = []
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
            said.append(line.rstrip())
            say(said[-1])
    if process.returncode:
        raise _not_deployed(words[0], assembly.stack, said)


def _not_deployed(verb: str, stack: str, said: Sequence[str]) -> DeployError:
    text = "\n".join(said)
    message, hint = next(
        ((m, h) for pattern, m, h in _KNOWN if re.search(pattern, text)),
        (f"the stack {stack} cannot be made", None),
    )
    return DeployError(
        message if verb == "deploy" else f"cdk {verb}: {message}",
        problems=_reasons(said),
        hint=hint,
    )


def _reasons(said: Sequence[str]) -> list[str]:
    """What CloudFormation could not do, or else what the CDK calls an error, or else its last
    words.
    """
    failed = [
        " ".join(line.split("|")[-1].split()) for line in said if re.search(r"_FAILED\b", line)
    ]
    errors = [line.strip() for line in said if re.search(r"❌|\berror\b|Error:", line, re.I)]
    return list(dict.fromkeys(failed or errors or filter(None, map(str.strip, said))))[-TOLD_LINES:]


_KNOWN = (  # what the CDK says; what it means; what to do
    (
        r"has not been bootstrapped|has the environment been bootstrapped|/cdk-bootstrap/|No "
        r"bucket named 'cdk-",
        "this account and region are not prepared for the CDK",
        "once for all stacks: the same command with --bootstrap",
    ),
    (
        r"[Uu]nable to resolve AWS account|no credentials have been configured|could not be used "
        r"to assume|NoCredentials|CredentialsProviderError",
        "there are no AWS credentials that may do this",
        "AWS_PROFILE=... names a profile; aws sts get-caller-identity shows who you are",
    ),
    (
        r"ExpiredToken|token .*expired",
        "the AWS credentials have expired",
        "aws sso login, or whatever brings you new ones",
    ),
    (
        r"ROLLBACK_COMPLETE state and can ?not be updated|is in ROLLBACK_COMPLETE",
        "an earlier try to make this stack failed, and what is left of it has to go first",
        "hundredfold destroy; then deploy again",
    ),
    (
        r"already exists",
        "something of the same name is there already",
        "another --stack, or another --name-prefix; Glue databases and Athena workgroups are "
        "named after the stack",
    ),
)


def _account() -> str:
    with in_plain_words("the account", "found"):
        return f"aws://{client('sts').get_caller_identity()['Account']}/{client('sts').meta.region_name}"


# ---- removal


def _ours(stack: str) -> dict[str, Any]:
    """The stack, if `deploy` made it: any other, a team's own app among them, is removed with what
    made it.
    """
    try:
        found = client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if code(error) != "ValidationError":
            raise
        raise UsageError(
            f"there is no stack {stack!r} that these credentials can see",
            hint="AWS_PROFILE and AWS_REGION say where",
        ) from error
    if (
        not client("cloudformation")
        .get_template_summary(StackName=stack)
        .get("Description", "")
        .startswith(OURS)
    ):
        raise UsageError(
            f"the stack {stack} was not made by hundredfold deploy",
            hint="remove it with what made it",
        )
    return dict(found)


def _refuse_while_running(machine: str, stack: str) -> None:
    if not machine:
        return
    going = client("stepfunctions").list_executions(
        stateMachineArn=machine, statusFilter="RUNNING", maxResults=100
    )["executions"]
    if going:
        raise UsageError(
            f"{len(going)} runs of the stack {stack} are going on",
            problems=[execution["name"] for execution in going],
            hint="let them end, or hundredfold cancel RUN --backend aws",
        )


def _wait_until_gone(identity: str, stack: str, sleep: Callable[[float], None]) -> None:
    while True:
        found = client("cloudformation").describe_stacks(StackName=identity)["Stacks"][
            0
        ]  # a deleted stack is found by its id only
        status = found["StackStatus"]
        if status == "DELETE_COMPLETE":
            return
        if not status.endswith("_IN_PROGRESS"):
            raise DeployError(
                f"the stack {stack} is {status}",
                problems=list(_failures(identity)),
                hint="mend that; then hundredfold destroy again",
            )
        sleep(LOOK)


def _failures(identity: str) -> Iterator[str]:
    for event in client("cloudformation").describe_stack_events(StackName=identity)["StackEvents"]:
        if event["ResourceStatus"] == "DELETE_FAILED" and event["LogicalResourceId"]:
            yield (
                f"{event['ResourceType']} {event['LogicalResourceId']}: "
                f"{event.get('ResourceStatusReason', '')}"
            )


def _remove_bucket(bucket: str) -> None:
    """Every version of every object, and then the bucket."""
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
                hint="the stack itself is gone; what is left is this bucket",
            )
    try:
        s3.delete_bucket(Bucket=bucket)
    except ClientError as error:
        if code(error) != "NoSuchBucket":
            raise
