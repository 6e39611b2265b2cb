"""Deploys a synthesized CDK assembly to the emulator like the CDK CLI: assets, then the stack.

Only these properties are changed:
- Python functions run under awslambdaric, Lambda's own runtime client, in an interpreter that the
  caller names, with their memory size as a limit. (The emulator's own Python runtime would run them
  in its environment, and gives every error the same name.) So their runtime becomes
  `provided.al2023`, and their zip gets a `bootstrap`.
- `Deny` statements about aws:SecureTransport are left out: the emulator speaks plain HTTP, and they
  would deny everything. A test of the template checks that they are in it.
- The bootstrap stack of the CDK does not exist; its buckets are created when they are named.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from . import ACCOUNT, REGION, Emulator, EmulatorError, wait_until

SITE = Path(__file__).with_name("lambda_site")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip: the same files give the same bytes

BOOTSTRAP = """\
#!/bin/sh
# RLIMIT_DATA is what comes nearest to the memory size: who wants more gets MemoryError or dies
{limit}
# on Lambda each environment has a /tmp of its own, and no home; here TMPDIR sets the folder
TMPDIR=$(mktemp -d)
export TMPDIR HOME=/home/sbx_user1051 TZ=:UTC PYTHONPATH={site}
exec {python} -m awslambdaric "$_HANDLER"
"""
LIMIT = "ulimit -d $((AWS_LAMBDA_FUNCTION_MEMORY_SIZE * 1024))"


class DeployError(EmulatorError):
    """The stack was not created, or not removed; the message contains the events."""


def deploy(
    emulator: Emulator,
    assembly: Path,
    stack: str | None = None,
    *,
    python: Path | str = sys.executable,
    memory_limit: bool = True,
) -> dict[str, str]:
    """Create a stack of an assembly (`cdk.out`); return its outputs.

    Without a name, it is the assembly's only stack.

    `python`        interpreter of the functions, with awslambdaric and the imports of their code
    `memory_limit`  limit each function to its memory size

    Raises:
        DeployError: it cannot be created; the message contains CloudFormation's events.
    """
    name, template_file = _stack(assembly, stack)
    template = _runnable(json.loads((assembly / template_file).read_text(encoding="utf-8")))
    bootstrap = BOOTSTRAP.format(
        limit=LIMIT if memory_limit else ":",
        site=shlex.quote(str(SITE)),
        python=shlex.quote(str(python)),
    )
    url = ""
    for asset, bucket, key in _assets(assembly, template_file):
        if asset["path"] == template_file:
            data = json.dumps(template).encode()
            url = f"{emulator.url}/{bucket}/{key}"
        else:
            data = _data(assembly / asset["path"], asset["packaging"], bootstrap)
        _put(emulator, bucket, key, data)
    emulator.client("ssm").put_parameter(
        Name="/cdk-bootstrap/hnb659fds/version", Value="99", Type="String", Overwrite=True
    )
    formation = emulator.client("cloudformation")
    formation.create_stack(
        StackName=name,
        TemplateURL=url,
        Capabilities=["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    found = _settled(emulator, name)
    if found["StackStatus"] != "CREATE_COMPLETE":
        raise DeployError(
            f"the stack {name} is "
            f"{found['StackStatus']}\n{_events(emulator, name)}\n{emulator.log()}"
        )
    return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}


def delete(emulator: Emulator, stack: str) -> None:
    """Remove a stack and its resources, except those that its template retains."""
    formation = emulator.client("cloudformation")
    # a deleted stack is found by its id only
    identity = formation.describe_stacks(StackName=stack)["Stacks"][0]["StackId"]
    formation.delete_stack(StackName=stack)
    status = _settled(emulator, identity)["StackStatus"]
    if status != "DELETE_COMPLETE":
        raise DeployError(
            f"the stack {stack} is {status}\n{_events(emulator, identity)}\n{emulator.log()}"
        )


def _stack(assembly: Path, stack: str | None) -> tuple[str, str]:
    """Return a stack's name and the file of its template."""
    artifacts = json.loads((assembly / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
    stacks: dict[str, str] = {
        artifact["properties"].get("stackName", identity): artifact["properties"]["templateFile"]
        for identity, artifact in artifacts.items()
        if artifact["type"] == "aws:cloudformation:stack"
    }
    if stack is None and len(stacks) == 1:
        return next(iter(stacks.items()))
    if stack is None or stack not in stacks:
        raise DeployError(
            f"wanted the stack {stack or 'that is alone'}, found "
            f"{', '.join(sorted(stacks)) or 'none'} in {assembly}"
        )
    return stack, stacks[stack]


def _assets(assembly: Path, template_file: str) -> Iterator[tuple[dict[str, str], str, str]]:
    """Yield the assets to upload: (source, bucket, key)."""
    manifest = assembly / template_file.replace(".template.json", ".assets.json")
    assets = json.loads(manifest.read_text(encoding="utf-8"))
    if assets.get("dockerImages"):
        raise DeployError(f"{manifest} has container images, which the emulator cannot run")
    for asset in assets["files"].values():
        for destination in asset["destinations"].values():
            yield asset["source"], _named(destination["bucketName"]), destination["objectKey"]


def _named(bucket: str) -> str:
    names = {"${AWS::AccountId}": ACCOUNT, "${AWS::Region}": REGION, "${AWS::Partition}": "aws"}
    for variable, value in names.items():
        bucket = bucket.replace(variable, value)
    return bucket


def _put(emulator: Emulator, bucket: str, key: str, data: bytes) -> None:
    s3 = emulator.client("s3")
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=data)
    except s3.exceptions.NoSuchBucket:
        s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key=key, Body=data)


def _data(source: Path, packaging: str, bootstrap: str) -> bytes:
    """Return an asset's bytes. A zip is not packed again: `bootstrap` is added at its end."""
    if packaging == "zip":
        data = _zipped(source)
    elif source.suffix == ".zip":
        data = source.read_bytes()
    else:
        return source.read_bytes()
    buffer = io.BytesIO()
    buffer.write(data)
    with zipfile.ZipFile(buffer, "a") as archive:
        _add(archive, "bootstrap", bootstrap.encode(), executable=True)
    return buffer.getvalue()


def _zipped(folder: Path) -> bytes:
    """Return a folder as a zip without compression, since only the next process reads it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                _add(
                    archive,
                    path.relative_to(folder).as_posix(),
                    path.read_bytes(),
                    executable=bool(path.stat().st_mode & 0o111),
                )
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes, *, executable: bool) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    archive.writestr(entry, data)


def _runnable(template: dict[str, Any]) -> dict[str, Any]:
    """Return the template in a form that the emulator can run."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::Lambda::Function" and "S3Key" in properties.get("Code", {}):
            if properties.get("Layers"):
                raise DeployError(
                    f"the function {name} has layers, which the emulator does not give to such "
                    "functions: put all into its zip"
                )
            if str(properties.get("Runtime", "")).startswith("python"):
                properties["Runtime"] = "provided.al2023"
        document = properties.get("PolicyDocument")
        if document:
            document["Statement"] = [s for s in document["Statement"] if not _about_transport(s)]
    return _without(
        template,
        {name for name, resource in template["Resources"].items() if _is_left_out(resource)},
    )


def _is_left_out(resource: Mapping[str, Any]) -> bool:
    return resource.get("Properties", {}).get("PolicyDocument", {}).get("Statement") == []


def _about_transport(statement: Mapping[str, Any]) -> bool:
    return statement["Effect"] == "Deny" and "aws:SecureTransport" in json.dumps(
        statement.get("Condition", {})
    )


def _without(template: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return the template without some resources and the dependencies on them."""
    template["Resources"] = {
        name: resource for name, resource in template["Resources"].items() if name not in names
    }
    for resource in template["Resources"].values():
        waits = resource.get("DependsOn", [])
        kept = [
            name for name in ([waits] if isinstance(waits, str) else waits) if name not in names
        ]
        resource.pop("DependsOn", None)
        if kept:
            resource["DependsOn"] = kept
    return template


def _settled(emulator: Emulator, stack: str) -> dict[str, Any]:
    """Wait until a stack is no longer in progress; return it."""
    formation = emulator.client("cloudformation")
    found: dict[str, Any] = {}

    def settled() -> bool:
        found.update(formation.describe_stacks(StackName=stack)["Stacks"][0])
        return not found["StackStatus"].endswith("_IN_PROGRESS")

    wait_until(
        settled,
        lambda: (
            f"the stack {stack} is still "
            f"{found['StackStatus']}\n{_events(emulator, stack)}\n{emulator.log()}"
        ),
    )
    return found


def _events(emulator: Emulator, stack: str) -> str:
    """Return the failures of a stack, oldest first, or all its events if none has failed."""
    try:
        events = emulator.client("cloudformation").describe_stack_events(StackName=stack)[
            "StackEvents"
        ][::-1]
    except ClientError as error:
        return f"(no events: {error})"
    failed = [
        event
        for event in events
        if "FAILED" in event["ResourceStatus"] or "ROLLBACK" in event["ResourceStatus"]
    ]
    return "\n".join(
        f"  {event['ResourceStatus']:<20} {event['ResourceType']} {event['LogicalResourceId']}: "
        f"{event.get('ResourceStatusReason', '')}"
        for event in failed or events
    )
