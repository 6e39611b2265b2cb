"""The commands that make, examine and remove a stack on AWS: deploy, destroy, package, doctor."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError, needing
from .options import Command, argument, job_argument, json_option, report_write_errors

BUILD_FOLDER = ".hundredfold/aws"  # where packages and assemblies are written
BYTES_PER_MB = 2**20

stack_name_option = click.option(
    "--stack",
    envvar="HUNDREDFOLD_STACK",
    show_envvar=True,
    metavar="NAME",
    help="The stack's name; hundredfold-JOB, if left out.",
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")

# what of a stack can be chosen: the words of the command line for the fields of aws.stack.settings.Settings
SETTINGS: Mapping[str, tuple[str, Any, str]] = {
    "memory": ("MB", int, "Memory of a worker; 1769 MB come with one vCPU. (1769)"),
    "timeout": ("SECONDS", int, "How long one call of a worker may take. (300)"),
    "batch_size": ("N", int, "Messages that one call of a worker takes. (1)"),
    "concurrency": ("N", int, "Workers at once, at most. (100)"),
    "max_receives": ("N", int, "So often is a message handed out before it is dead. (5)"),
    "architecture": ("NAME", click.Choice(["arm64", "x86_64"]), "Of the functions. (arm64)"),
    "python": ("VERSION", str, "Of the functions. (3.14)"),
    "trigger": (
        "NAME",
        click.Choice(["messages", "events"]),
        "Who tells the workers of batches: messages from the manifest, or S3's events. (messages)",
    ),
    "keep_days": ("DAYS", int, "So long are batches and query results kept; releases stay. (7)"),
    "log_days": ("DAYS", int, "So long are logs kept. (30)"),
    "overdue": ("SECONDS", int, "A message that is older raises the alarm. (7200)"),
    "scan_limit": ("BYTES", int, "What one query may scan before Athena cancels it."),
    "alarm_topic": ("ARN", str, "The SNS topic that alarms are sent to."),
    "name_prefix": ("TEXT", str, "Begins every name; without it, CloudFormation makes them up."),
}
REPEATED_SETTINGS: Mapping[str, tuple[str, str, str]] = {
    "sources": (
        "--source-location",
        "s3://BUCKET/PREFIX/",
        "A further place that queries may read; or glue://DATABASE/TABLE (and the place of its files).",
    ),
    "source_keys": ("--source-key", "ARN", "The KMS key that such a place is encrypted with."),
    "layers": (
        "--layer",
        "ARN",
        "A Lambda layer, for what the package is made without (--leave-out).",
    ),
}


def settings_options(command: Any) -> Any:
    """An option for each thing that a stack can be told."""
    for name, (flag, metavar, text) in reversed([*REPEATED_SETTINGS.items()]):
        command = click.option(flag, name, multiple=True, metavar=metavar, help=text)(command)
    for name, (metavar, kind, text) in reversed([*SETTINGS.items()]):
        shown: dict[str, Any] = {} if isinstance(kind, click.Choice) else {"metavar": metavar}
        command = click.option(f"--{name.replace('_', '-')}", name, type=kind, help=text, **shown)(
            command
        )
    return command


def package_options(command: Any) -> Any:
    """--requirement and --leave-out."""
    command = click.option(
        "--leave-out", multiple=True, metavar="NAME", help="A distribution that a layer brings."
    )(command)
    text = "A further package as pip takes it, or a requirements file: what the code loads without importing it."
    return click.option("--requirement", multiple=True, metavar="TEXT", help=text)(command)


@click.command(cls=Command)
@job_argument
@stack_name_option
@settings_options
@click.option(
    "--pollers",
    metavar="LEAST,MOST",
    help="Provisioned pollers instead of --concurrency; each is good for 10 workers.",
)
@click.option(
    "--start-on-upload",
    is_flag=True,
    help="An upload below sources/NAME/ of the bucket starts a run with that file.",
)
@click.option(
    "--tracing/--no-tracing",
    default=True,
    help="X-Ray for the functions and the state machine. (on)",
)
@package_options
@click.option("--image", metavar="ADDRESS", help="A container image in ECR, instead of a package.")
@click.option(
    "--bootstrap",
    is_flag=True,
    help="First prepare the account and region for the CDK, once for all stacks.",
)
@click.option(
    "--synth", metavar="FOLDER", help="Write the assembly into this folder, and touch nothing else."
)
def deploy(
    job: str,
    stack: str | None,
    pollers: str | None,
    start_on_upload: bool,
    tracing: bool,
    requirement: Sequence[str],
    leave_out: Sequence[str],
    image: str | None,
    bootstrap: bool,
    synth: str | None,
    **choices: Any,
) -> None:
    """Put a job on AWS, or bring it up to date: Athena, S3, SQS, Lambda, Step Functions and DynamoDB, made by the CDK."""
    from . import display

    with needing("aws"):
        from ..aws.deploy import deploy as deploying

    settings = {name: value for name, value in choices.items() if value not in (None, ())}
    settings |= {"tracing": tracing, "start_on_upload": start_on_upload}
    if pollers is not None:
        settings["pollers"] = _parse_pair(pollers)
    wish = deploying.DeployOptions(
        settings=settings, requirements=requirement, leave_out=leave_out, image=image
    )
    name = stack or deploying.default_stack(job)
    if synth is not None:
        with report_write_errors("--synth", Path(synth)):
            made = deploying.synth(job, Path(synth), stack=name, options=wish)
        display.stdout.print(f"wrote {made.folder}")
        if made.package is not None:
            _show_sizes(made.package)
        return
    place = deploying.deploy(
        job,
        Path(BUILD_FOLDER) / name,
        stack=name,
        options=wish,
        bootstrap=bootstrap,
        report=lambda line: display.stderr.print(line, style="dim", markup=False, soft_wrap=True),
    )
    display.stdout.print(f"\nthe stack {name} is there; its bucket is {place.bucket}")
    display.show_next(
        [
            (f"hundredfold doctor --backend aws --stack {name}", "looks for what could go wrong"),
            (f"hundredfold run {job} --backend aws --source NAME=s3://...", "runs the job there"),
        ]
    )


@click.command(cls=Command)
@argument("job", "The job, as for deploy; or name the stack with --stack.", required=False)
@stack_name_option
@click.option(
    "--everything", is_flag=True, help="The bucket too, with all runs and published releases."
)
@yes_option
def destroy(job: str | None, stack: str | None, everything: bool, yes: bool) -> None:
    """Remove a job's stack from AWS. Its bucket stays, with the published releases, unless told otherwise."""
    from . import display

    with needing("aws"):
        from ..aws.deploy import deploy as deploying

    if job is None and stack is None:
        raise UsageError("which stack?", hint="hundredfold destroy MODULE:JOB, or --stack NAME")
    name = stack or deploying.default_stack(str(job))
    what = "and its bucket with every run and release" if everything else "but not its bucket"
    if not yes and not _confirm(f"remove the stack {name}, {what}?"):
        raise UsageError("nothing was removed", hint="--yes answers beforehand")
    bucket = deploying.destroy(
        name,
        everything=everything,
        report=lambda line: display.stderr.print(line, style="dim", markup=False, soft_wrap=True),
    )
    display.stdout.print(
        f"the stack {name} is gone"
        + (
            ", and its bucket"
            if everything
            else f"; what it published is in s3://{bucket}/releases/"
        )
    )


@click.command("package", cls=Command)
@job_argument
@click.option(
    "--out", default="build", show_default=True, metavar="FOLDER", help="Where it is written."
)
@click.option(
    "--architecture",
    type=click.Choice(["arm64", "x86_64"]),
    default="arm64",
    show_default=True,
    help="Of the functions.",
)
@click.option("--python", default=None, metavar="VERSION", help="Of the functions. (3.14)")
@package_options
@click.option(
    "--image",
    is_flag=True,
    help="A folder and a Dockerfile for a container image, which may have 10 GB.",
)
@json_option
def package_command(
    job: str,
    out: str,
    architecture: str,
    python: str | None,
    requirement: Sequence[str],
    leave_out: Sequence[str],
    image: bool,
    as_json: bool,
) -> None:
    """Build what the functions on AWS run, without Docker: your code, and wheels for Lambda's processor."""
    from . import display

    with needing("aws"):
        from ..aws.deploy.package import package, package_image
        from ..aws.lambda_platform import PYTHON

    options: dict[str, Any] = {
        "architecture": architecture,
        "python": python or PYTHON,
        "requirements": requirement,
    }
    with report_write_errors("--out", Path(out)):
        built: Any = (
            package_image(job, Path(out), **options)
            if image
            else package(job, Path(out), leave_out=leave_out, **options)
        )
    if as_json:
        facts = {
            "folder": str(built.folder),
            "bytes": built.size,
            "sizes": {part.name: part.size for part in built.sizes},
        }
        display.print_json(
            facts if image else {**facts, "zip": str(built.zip), "sha256": built.sha256}
        )
        return
    _show_sizes(built)
    if image:
        display.show_next(
            [
                (
                    f"docker build --platform linux/{architecture.replace('x86_64', 'amd64')} {out}",
                    "builds the image, where Docker is",
                )
            ]
        )
    else:
        display.stdout.print(f"\n{built.zip}   SHA-256 {built.sha256}")


@click.command(cls=Command)
@click.option(
    "--backend",
    type=click.Choice(["aws"]),
    default="aws",
    show_default=True,
    help="What is examined.",
)
@click.option(
    "--stack",
    envvar="HUNDREDFOLD_STACK",
    show_envvar=True,
    metavar="NAME",
    help="The stack; the only one, if left out.",
)
@json_option
def doctor(backend: str, stack: str | None, as_json: bool) -> None:  # noqa: ARG001  # one place so far
    """Look for what could lose work, stop it or let it crawl: each with its consequence and the command that mends it."""
    from . import display

    with needing("aws"):
        from ..aws.doctor.doctor import examine
        from ..aws.doctor.finding import Level
        from ..aws.home import find_stack_name

    found = examine(find_stack_name(None, stack))
    if as_json:
        display.print_json(
            [
                {
                    "level": f.level.value,
                    "what": f.what,
                    "consequence": f.consequence,
                    "command": f.command,
                }
                for f in found
            ]
        )
    else:
        for finding in found:
            style = {Level.WRONG: "bold red", Level.RISK: "yellow", Level.NOTE: "dim"}[
                finding.level
            ]
            display.stdout.print(f"[{style}]{finding.level.value:<5}[/] ", end="")
            display.stdout.print(
                f"{finding.what}\n      so {finding.consequence}\n      {finding.command}\n",
                markup=False,
                soft_wrap=True,
            )
        worst = sum(f.level is not Level.NOTE for f in found)
        display.stdout.print("nothing wrong was found" if not worst else f"{worst} things to mend")
    if any(f.level is Level.WRONG for f in found):
        sys.exit(1)


def _show_sizes(built: Any) -> None:
    """What takes the room, against what Lambda gives."""
    from ..aws.lambda_platform import MAX_UNZIPPED_BYTES
    from . import display

    for part in built.sizes:
        if part.size >= BYTES_PER_MB / 10:
            display.stdout.print(
                f"  {part.name:<26} {part.version:<14} {part.size / BYTES_PER_MB:7.1f} MB",
                markup=False,
            )
    display.stdout.print(
        f"  {'together':<26} {'':<14} {built.size / BYTES_PER_MB:7.1f} MB of {MAX_UNZIPPED_BYTES / BYTES_PER_MB:.0f}   ({built.pruned / BYTES_PER_MB:.0f} MB were pruned)",
        markup=False,
    )
    for name in built.left_out:
        display.stderr.print(f"left out: {name}", style="dim", markup=False, soft_wrap=True)


def _confirm(question: str) -> bool:
    """What a person answers; no, where there is nobody to ask."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        return False


def _parse_pair(text: str) -> tuple[int, int]:
    least, _, most = text.partition(",")
    if not (least.isdigit() and most.isdigit()):
        raise UsageError(
            f"--pollers is {text!r}, wanted two numbers", hint="such as --pollers 2,100"
        )
    return int(least), int(most)


COMMANDS = (deploy, destroy, package_command, doctor)
