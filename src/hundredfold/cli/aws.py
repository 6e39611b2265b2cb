"""Commands that create, examine and remove a stack on AWS: deploy, destroy, package, doctor."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError, needing
from .options import Command, argument, job_argument, json_option, report_write_errors

if TYPE_CHECKING:
    from ..aws.deploy.deploy import DeployOptions

BUILD_FOLDER = ".hundredfold/aws"  # receives packages and assemblies
BYTES_PER_MB = 2**20

stack_name_option = click.option(
    "--stack",
    envvar="HUNDREDFOLD_STACK",
    show_envvar=True,
    metavar="NAME",
    help="Name of the stack; hundredfold-JOB if omitted.",
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")

# fields of aws.stack.settings.Settings: metavar, type, default (None without one) and help
SETTINGS: Mapping[str, tuple[str, Any, str | None, str]] = {
    "memory": ("MB", int, "8845", "Memory of a worker; each 1769 MB come with one core."),
    "step_memory": (
        "MB",
        int,
        "3008",
        "Memory of the function that runs the queries of small sources.",
    ),
    "timeout": ("SECONDS", int, "300", "Time limit of one invocation of a worker."),
    "batch_size": ("N", int, "one a core", "Messages per invocation of a worker."),
    "concurrency": ("N", int, "300", "Maximum number of concurrent workers."),
    "max_receives": ("N", int, "5", "Deliveries of a message before it is dead-lettered."),
    "architecture": (
        "NAME",
        click.Choice(["arm64", "x86_64"]),
        "arm64",
        "Processor architecture of the functions.",
    ),
    "python": ("VERSION", str, "3.14", "Python version of the functions."),
    "trigger": (
        "NAME",
        click.Choice(["messages", "events", "direct"]),
        "direct, or messages with --pollers",
        "Start of the workers: by messages, by S3's event notifications, or directly by the run.",
    ),
    "upload_quiet": (
        "SECONDS",
        int,
        "60",
        "Time without another upload after which a run starts with all that arrived.",
    ),
    "keep_days": (
        "DAYS",
        int,
        "7",
        "Retention of batches and query results; releases do not expire.",
    ),
    "log_days": ("DAYS", int, "30", "Retention of logs."),
    "overdue": ("SECONDS", int, "7200", "Age of the oldest message that raises the alarm."),
    "scan_limit": ("BYTES", int, None, "Bytes that a query may scan before Athena cancels it."),
    "alarm_topic": ("ARN", str, None, "SNS topic that receives the alarms."),
    "name_prefix": (
        "TEXT",
        str,
        None,
        "Prefix of every name; CloudFormation makes names if omitted.",
    ),
    "key": ("ARN", str, None, "KMS key that encrypts all data of the stack."),
    "permissions_boundary": ("ARN", str, None, "Policy that bounds the permissions of all roles."),
    "worker_image": ("ADDRESS", str, None, "Container image in ECR of the workers of fleets."),
    "task_cores": ("N", int, "1", "Cores of a task of a fleet."),
    "task_memory": ("MB", int, "2048 a core", "Memory of a task of a fleet."),
    "vpc": ("ID", str, None, "VPC of the subnets, in which endpoints are created."),
    "monthly_budget": (
        "DOLLARS",
        int,
        None,
        "Costs of a month above which the alarm topic is notified.",
    ),
    "batch_cores": ("N", int, "256", "Maximum cores of all jobs of the fleet batch."),
}
REPEATED_SETTINGS: Mapping[str, tuple[str, str, str]] = {
    "sources": (
        "--source-location",
        "s3://BUCKET/PREFIX/",
        "Another location that queries may read. For glue://DATABASE/TABLE, add the location of "
        "its files. Repeatable.",
    ),
    "source_keys": ("--source-key", "ARN", "KMS key that encrypts such a location. Repeatable."),
    "subnets": ("--subnet", "ID", "Private subnet in which the functions run. Repeatable."),
    "security_groups": (
        "--security-group",
        "ID",
        "Security group of the functions in those subnets. Repeatable.",
    ),
    "route_tables": (
        "--route-table",
        "ID",
        "Route table of those subnets, for endpoints in --vpc. Repeatable.",
    ),
    "fleets": (
        "--fleet",
        "NAME",
        "Fleet of containers that runs may ask for, with --worker-image and --subnet: fargate, "
        "fargate-spot, managed (ECS Managed Instances) or batch (EC2 Spot). Repeatable.",
    ),
    "layers": (
        "--layer",
        "ARN",
        "Lambda layer with the distributions that --leave-out omits. Repeatable.",
    ),
}


def settings_options(command: Any) -> Any:
    """Add an option for each setting of a stack."""
    for name, (flag, metavar, text) in reversed([*REPEATED_SETTINGS.items()]):
        command = click.option(flag, name, multiple=True, metavar=metavar, help=text)(command)
    for name, (metavar, kind, default, text) in reversed([*SETTINGS.items()]):
        shown: dict[str, Any] = {} if isinstance(kind, click.Choice) else {"metavar": metavar}
        command = click.option(
            f"--{name.replace('_', '-')}",
            name,
            type=kind,
            help=text,
            show_default=default or False,
            **shown,
        )(command)
    return command


def package_options(command: Any) -> Any:
    """Add --requirement and --leave-out."""
    command = click.option(
        "--leave-out",
        multiple=True,
        metavar="NAME",
        help="Distribution to omit because a layer has it. Repeatable.",
    )(command)
    text = (
        "Additional package as pip accepts it, or a requirements file: for modules that the code "
        "loads without an import statement. Repeatable."
    )
    return click.option("--requirement", multiple=True, metavar="TEXT", help=text)(command)


@click.command(cls=Command)
@job_argument
@stack_name_option
@settings_options
@click.option(
    "--pollers",
    metavar="MIN,MAX",
    help="Provisioned pollers instead of --concurrency; each serves up to 10 workers.",
)
@click.option(
    "--raise-pollers",
    is_flag=True,
    help="Let each run raise the pollers and lower them at its end: none are billed between runs.",
)
@click.option(
    "--start-on-upload",
    is_flag=True,
    help="Start a run for each file uploaded below sources/NAME/ of the bucket.",
)
@click.option(
    "--tracing/--no-tracing",
    default=True,
    show_default=True,
    help="Trace the functions and the state machine with X-Ray.",
)
@click.option(
    "--lake-formation",
    is_flag=True,
    help="Grant the tables of the stack and of glue:// sources in Lake Formation.",
)
@click.option("--dashboard", is_flag=True, help="Create a dashboard of CloudWatch for the runs.")
@package_options
@click.option("--image", metavar="ADDRESS", help="Container image in ECR, instead of a package.")
@click.option(
    "--bootstrap",
    is_flag=True,
    help="First prepare the account and region for the CDK; needed once for all stacks.",
)
@click.option(
    "--synth", metavar="FOLDER", help="Only write the assembly into this folder; deploy nothing."
)
def deploy(
    job: str,
    stack: str | None,
    pollers: str | None,
    requirement: Sequence[str],
    leave_out: Sequence[str],
    image: str | None,
    bootstrap: bool,
    synth: str | None,
    **choices: Any,
) -> None:
    """Deploy a job to AWS, or update it.

    The CDK creates a stack of Athena, S3, SQS, Lambda, Step Functions and DynamoDB.
    """
    from . import display

    with needing("aws"):
        from ..aws.deploy import deploy as deploying

    settings = {name: value for name, value in choices.items() if value not in (None, ())}
    if pollers is not None:
        settings["pollers"] = _parse_pair(pollers)
    options = deploying.DeployOptions(
        settings=settings, requirements=requirement, leave_out=leave_out, image=image
    )
    name = stack or deploying.default_stack(job)
    if synth is not None:
        _write_assembly(job, name, options, Path(synth))
        return
    resources = deploying.deploy(
        job,
        Path(BUILD_FOLDER) / name,
        stack=name,
        options=options,
        bootstrap=bootstrap,
        report=lambda line: display.stderr.print(line, style="dim", markup=False, soft_wrap=True),
    )
    display.stdout.print(f"\nthe stack {name} is deployed; its bucket is {resources.bucket}")
    display.show_next(
        [
            (f"hundredfold doctor --backend aws --stack {name}", "checks the stack for problems"),
            (f"hundredfold run {job} --backend aws --source NAME=s3://...", "runs the job on AWS"),
        ]
    )


def _write_assembly(job: str, stack: str, options: DeployOptions, folder: Path) -> None:
    """Write the assembly of a stack into a folder, and show the sizes of its package."""
    from ..aws.deploy.deploy import synth
    from . import display

    with report_write_errors("--synth", folder):
        made = synth(job, folder, stack=stack, options=options)
    display.stdout.print(f"wrote {made.folder}")
    if made.package is not None:
        _show_sizes(made.package)


@click.command(cls=Command)
@argument("job", "The job, as for deploy; or --stack names the stack.", required=False)
@stack_name_option
@click.option(
    "--everything", is_flag=True, help="Also remove the bucket, with all runs and releases."
)
@yes_option
def destroy(job: str | None, stack: str | None, everything: bool, yes: bool) -> None:
    """Remove a job's stack from AWS.

    The bucket with the published releases remains, unless --everything is given.
    """
    from . import display

    with needing("aws"):
        from ..aws.deploy import deploy as deploying

    if job is None and stack is None:
        raise UsageError(
            "no stack is named, wanted a job or --stack",
            hint="hundredfold destroy MODULE:JOB, or --stack NAME",
        )
    name = stack or deploying.default_stack(str(job))
    bucket_too = "and its bucket with every run and release" if everything else "but not its bucket"
    if not yes and not _confirm(f"remove the stack {name}, {bucket_too}?"):
        raise UsageError("nothing was removed", hint="--yes removes it without a question")
    bucket = deploying.destroy(
        name,
        everything=everything,
        report=lambda line: display.stderr.print(line, style="dim", markup=False, soft_wrap=True),
    )
    display.stdout.print(
        f"the stack {name} is removed"
        + (
            ", and its bucket"
            if everything
            else f"; its releases remain in s3://{bucket}/releases/"
        )
    )


@click.command("package", cls=Command)
@job_argument
@click.option("--out", default="build", show_default=True, metavar="FOLDER", help="Output folder.")
@click.option(
    "--architecture",
    type=click.Choice(["arm64", "x86_64"]),
    default="arm64",
    show_default=True,
    help="Processor architecture of the functions.",
)
@click.option(
    "--python", metavar="VERSION", show_default="3.14", help="Python version of the functions."
)
@package_options
@click.option(
    "--image",
    is_flag=True,
    help="Write a folder with Dockerfiles for container images of up to 10 GB instead of a zip.",
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
    """Build the package of the functions on AWS, without Docker: your code, wheels for Lambda."""
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
        display.print_json(_package_facts(built, image))
        return
    _show_sizes(built)
    if image:
        platform = architecture.replace("x86_64", "amd64")
        command = f"docker build --platform linux/{platform} {out}"
        display.show_next([(command, "builds the image (with Docker installed)")])
    else:
        for each, of in ((built, "steps"), (built.worker, "workers")):
            size = f"{each.size / 2**20:.1f} MB unzipped"
            display.stdout.print(f"\n{each.zip}   {of}, {size}   SHA-256 {each.sha256}")
        contents = built.zip.with_name("contents.txt")
        display.stdout.print(f"every file is listed in {contents}, and worker-contents.txt")


def _package_facts(built: Any, image: bool) -> dict[str, Any]:
    """Return the facts about a package or the folder of an image, as --json prints them."""
    facts = {
        "folder": str(built.folder),
        "bytes": built.size,
        "sizes": {part.name: part.size for part in built.sizes},
    }
    if image:
        return facts
    facts |= {"zip": str(built.zip), "sha256": built.sha256}
    return facts | ({"worker": _package_facts(built.worker, image)} if built.worker else {})


@click.command(cls=Command)
@click.option(
    "--backend",
    type=click.Choice(["aws"]),
    default="aws",
    show_default=True,
    help="Backend to examine.",
)
@click.option(
    "--stack",
    envvar="HUNDREDFOLD_STACK",
    show_envvar=True,
    metavar="NAME",
    help="Stack to examine; the only one if omitted.",
)
@json_option
def doctor(backend: str, stack: str | None, as_json: bool) -> None:  # noqa: ARG001  # one so far
    """Check a stack for problems: each with its consequence and the command that fixes it."""
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
        display.stdout.print("no problem was found" if not worst else f"{worst} problems to fix")
    if any(f.level is Level.WRONG for f in found):
        sys.exit(1)


def _show_sizes(built: Any) -> None:
    """Print the sizes of a package's parts, and their sum against Lambda's limit."""
    from ..aws.lambda_platform import MAX_UNZIPPED_BYTES
    from . import display

    for part in built.sizes:
        if part.size >= BYTES_PER_MB / 10:
            display.stdout.print(
                f"  {part.name:<26} {part.version:<14} {part.size / BYTES_PER_MB:7.1f} MB",
                markup=False,
            )
    display.stdout.print(
        f"  {'total':<26} {'':<14} {built.size / BYTES_PER_MB:7.1f} MB "
        f"of {MAX_UNZIPPED_BYTES / BYTES_PER_MB:.0f}   "
        f"({built.pruned / BYTES_PER_MB:.0f} MB were pruned)",
        markup=False,
    )
    if not built.compiled_by:
        display.stderr.print(
            "without bytecode, so that functions start slower: the Python of the functions is not "
            "installed here",
            style="dim",
            markup=False,
            soft_wrap=True,
        )
    for name in built.left_out:
        display.stderr.print(f"left out: {name}", style="dim", markup=False, soft_wrap=True)


def _confirm(question: str) -> bool:
    """Ask for confirmation; False without a terminal."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        return False


def _parse_pair(text: str) -> tuple[int, int]:
    least, _, most = text.partition(",")
    if not (least.isdigit() and most.isdigit()):
        raise UsageError(
            f"--pollers is {text!r}, wanted two numbers, MIN,MAX", hint="such as --pollers 2,100"
        )
    return int(least), int(most)


COMMANDS = (deploy, destroy, package_command, doctor)
