"""The command `worker`: work on the messages of a stack, on any machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError, needing
from .options import Command, pool_options

# settings that the Lambda workers have in their environment: metavar and help
SETTINGS = {
    "job": ("MODULE:JOB", "The job; it must be importable."),
    "queue": ("URL", "Queue of the messages."),
    "dead": ("URL", "Dead-letter queue, for messages that cannot be processed."),
    "bucket": ("NAME", "Bucket of the runs."),
    "table": ("NAME", "Table with the records of the runs."),
    "code": ("TEXT", "Fingerprint of this worker's code; messages of other code are returned."),
}
SECONDS = click.FloatRange(min=0)


def environment_name(option: str) -> str:
    """Return the variable that has the value of an option: HUNDREDFOLD_JOB for job."""
    return f"HUNDREDFOLD_{option.upper()}"


def settings_options(command: Any) -> Any:
    """Add an option for each setting of a Lambda worker."""
    for name, (metavar, text) in reversed(SETTINGS.items()):
        command = click.option(
            f"--{name}",
            metavar=metavar,
            envvar=environment_name(name),
            show_envvar=True,
            help=text,
        )(command)
    return command


@click.command(cls=Command)
@settings_options
@click.option(
    "--stack",
    envvar="HUNDREDFOLD_STACK",
    show_envvar=True,
    metavar="NAME",
    help="Stack that has the settings above, for those that are not given.",
)
@click.option(
    "--settings",
    is_flag=True,
    help="Print the settings of the stack as environment variables, and exit.",
)
@pool_options
@click.option(
    "--scratch",
    envvar="HUNDREDFOLD_SCRATCH",
    show_envvar=True,
    metavar="FOLDER",
    default=".hundredfold/worker",
    show_default=True,
    help="The only folder that is written to.",
)
@click.option(
    "--idle",
    envvar="HUNDREDFOLD_IDLE",
    show_envvar=True,
    type=SECONDS,
    metavar="SECONDS",
    default=120,
    show_default=True,
    help="Time that the queue stays empty before the worker ends.",
)
@click.option(
    "--lease",
    envvar="HUNDREDFOLD_LEASE",
    show_envvar=True,
    type=click.FloatRange(min=3, max=43_200),
    metavar="SECONDS",
    default=120,
    show_default=True,
    help="Time after which the messages of a killed worker come back; extended meanwhile.",
)
@click.option(
    "--grace",
    envvar="HUNDREDFOLD_GRACE",
    show_envvar=True,
    type=SECONDS,
    metavar="SECONDS",
    default=5,
    show_default=True,
    help="Time for the units at work to end after SIGTERM.",
)
@click.option(
    "--hourly-price",
    envvar="HUNDREDFOLD_HOURLY_PRICE",
    show_envvar=True,
    type=click.FloatRange(min=0),
    metavar="DOLLARS",
    help="Price of this machine for an hour; needed for runs with a budget.",
)
def worker(
    stack: str | None,
    settings: bool,
    workers: int | None,
    memory: str | None,
    scratch: str,
    **given: Any,
) -> None:
    """Work on the messages of a stack beside its Lambda workers, until the queue stays empty.

    Exit status: 0 the queue stayed empty, 1 failed, 2 usage error, 143 SIGTERM, 130 Ctrl-C.

    The log on stdout is one JSON object a line.
    """
    with needing("aws"):
        from ..aws.adapters.session import StackResources, sealed_code
        from ..aws.work.container import ContainerSettings, run_worker
    from ..runs.resources import choose_resources

    if stack is not None and (settings or not all(given[name] for name in SETTINGS)):
        found = StackResources.from_stack(stack)
        given |= {name: given[name] or getattr(found, name) for name in SETTINGS}
    elif settings and stack is None:
        raise UsageError("--settings needs a stack", hint="name it with --stack")
    given["code"] = sealed_code() or given["code"] or ""
    missing = [f"--{name}" for name in SETTINGS if name != "code" and not given[name]]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            hint="name the stack with --stack, or set the variables that this prints: hundredfold "
            "worker --stack NAME --settings",
        )
    if settings:
        for name in SETTINGS:
            click.echo(f"{environment_name(name)}={given[name]}")
        return
    resources = choose_resources(workers, memory)
    sys.exit(
        run_worker(
            ContainerSettings(scratch=Path(scratch).absolute(), **given),
            resources,
        )
    )
