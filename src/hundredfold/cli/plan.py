"""The command `hundredfold plan`: time and dollars of a run before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from ..errors import UsageError
from ..figures import counted, duration, money
from ..workers.start_method import prestart_forkserver
from .comparison import show_comparison
from .options import (
    Command,
    Target,
    argument,
    as_of_option,
    complete_files,
    json_option,
    parse_pairs,
    pool_options,
    prices_option,
    source_option,
    target_options,
)
from .plan_plot import check_plot_file, plot_lines, write_plot

Facts = Mapping[str, Any]


@click.command(cls=Command)
@argument(
    "job",
    "The job, as for hundredfold run; left out with --compare.",
    required=False,
    shell_complete=complete_files,
)
@source_option
@pool_options
@as_of_option
@click.option(
    "--pilot-seconds",
    type=float,
    default=60.0,
    show_default=True,
    metavar="N",
    help="Time for the pilot, which runs a sample of the units.",
)
@click.option(
    "--deadline", metavar="TIME", help="Choose the cheapest way within it: 30s, 5m or 1h."
)
@click.option(
    "--budget",
    type=float,
    metavar="DOLLARS",
    help="Choose the fastest way, or with --deadline the cheapest, within it.",
)
@click.option(
    "--quota",
    multiple=True,
    metavar="NAME=N",
    help="Quota of the account: lambda (concurrent calls), fargate, fargate-spot or ec2 (vCPU). "
    "Repeatable.",
)
@click.option(
    "--region",
    default="us-east-1",
    envvar="AWS_REGION",
    show_default=True,
    show_envvar=True,
    metavar="NAME",
    help="Region of the prices.",
)
@prices_option
@click.option(
    "--architecture",
    type=click.Choice(["arm64", "x86_64"]),
    default="arm64",
    show_default=True,
    help="Processor architecture on AWS.",
)
@click.option(
    "--out",
    "output",
    metavar="FILE",
    help="Write the plan to a file, for hundredfold run --plan, and the results of the pilot to a "
    "folder beside it.",
)
@click.option("--plot", is_flag=True, help="Plot time and dollars in the terminal.")
@click.option(
    "--plot-file",
    metavar="FILE",
    help="Write the plot to a file that ends with .svg, .html or .png.",
)
@click.option(
    "--compare",
    metavar="RUN",
    help="Show the predicted times of a run that has ended beside the measured ones.",
)
@target_options
@json_option
def plan(
    job: str | None,
    source: Sequence[str],
    deadline: str | None,
    quota: Sequence[str],
    plot: bool,
    plot_file: str | None,
    compare: str | None,
    target: Target,
    as_json: bool,
    **options: Any,
) -> None:
    """Show the time and the dollars of a run before it, on this machine and on AWS.

    Executes a sample of the units on this machine, and simulates the rest. Calls no service.
    """
    prestart_forkserver()
    from ..planning.plan import PlanOptions, plan_run
    from . import display

    chosen = PlanOptions(
        deadline=parse_duration(deadline) if deadline is not None else None,
        quotas={name: _count(name, text) for name, text in parse_pairs("--quota", quota).items()},
        **options,
    )
    if plot_file is not None:
        check_plot_file(plot_file)
    if compare is not None:
        _refuse_with_compare(job, source, chosen.output)
        show_comparison(compare, target, chosen, as_json)
        return
    if job is None:
        raise UsageError("no job is given", hint="such as hundredfold plan my_job.job:job")
    locations = parse_pairs("--source", source)
    with display.timing_display() as listener:
        listener.timing(f"a sample of the units, up to {chosen.pilot_seconds:g} s")
        facts = plan_run(job, locations, chosen, listener)
    if plot_file is not None:
        write_plot(facts, plot_file)
    if as_json:
        display.print_json(facts)
    else:
        sourced = [f"--source={pair}" for pair in source]
        taken = [] if chosen.output is None else [f"--plan={chosen.output}"]
        show_plan(facts, ["hundredfold", "run", job, *sourced, *taken], plot=plot)


def _refuse_with_compare(job: str | None, source: Sequence[str], output: object) -> None:
    if output is not None:
        raise UsageError("--out is for the plan of a job, and --compare makes none to keep")
    if job is not None or source:
        raise UsageError(
            "--compare takes the job and the sources of the run",
            hint="leave out JOB and --source: hundredfold plan --compare RUN",
        )


def parse_duration(text: str) -> float:
    """Return the seconds of 30s, 1.5m, 1h or a number. Raises: UsageError."""
    from ..runs.budgets import parse_time

    return parse_time("--deadline", text)


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise UsageError(f"--quota {name} is {text!r}, wanted a whole number above 0")
    return int(text)


def show_plan(facts: Facts, run: Sequence[str], *, plot: bool = False) -> None:
    """Print the plan: the work, a table of ways, the best of them, a plot if asked, and notes."""
    from rich.markup import escape

    from . import display

    display.stdout.print(f"[bold]{escape(facts['job'])}[/]")
    for model in facts["models"]:
        display.print_indented("  ", _describe_model(model))
    display.stdout.print()
    display.print_columns(_columns(facts))
    display.stdout.print()
    for name, way in _highlights(facts):
        display.stdout.print(name)
        display.print_indented("  ", _describe_way(way))
    if facts["choice"] is None and (facts["deadline"] or facts["budget"] is not None):
        display.print_indented("", f"no way fulfils {_wishes(facts)}")
    if plot:
        display.stdout.print()
        for line in plot_lines(facts, display.stdout.width):
            display.stdout.print(escape(line))
    display.stdout.print()
    for note in _notes(facts):
        display.print_indented("", note, style="dim")
    display.show_next(_next(facts, run))


def _describe_model(model: Facts) -> str:
    units, timed = model["units"], model["timed"]
    sample = "all timed" if timed == units else f"{timed:,} timed"
    failed = f", {model['failed']:,} failed" if model["failed"] else ""
    first = f"; the first call of a process {duration(model['first_call'])}"
    return (
        f"{model['model']}: {counted(units, 'unit')}, {counted(model['rows'], 'row')}, "
        f"{sample}{failed}; "
        f"{duration(model['seconds'])} of work on one core, the longest unit "
        f"{duration(model['longest'])}{first if model['first_call'] else ''}"
    )


def _columns(facts: Facts) -> list[Any]:
    from .display import TableColumn

    rows = facts["ways"]
    of_numbers = TableColumn.of_numbers
    return [
        TableColumn("where", [_title(way) for way in rows]),
        of_numbers("time (80 %)", [_time(way) for way in rows]),
        of_numbers("dollars", [_dollars(way) for way in rows]),
        of_numbers("cores", [f"{way['cores']:,}" if way["wall"] else "" for way in rows]),
        of_numbers("batches", [f"{way['batches']:,}" if way["wall"] else "" for way in rows]),
        of_numbers("MB", [f"{way['memory']:,}" if way["memory"] else "" for way in rows]),
        of_numbers("timeout", [f"{way['timeout']} s" if way["timeout"] else "" for way in rows]),
        TableColumn("limited by", [way["limit"] or way["why"] for way in rows]),
    ]


def _title(way: Facts) -> str:
    return f"{way['title']}{'' if way['deployable'] else ' *'}"


def _time(way: Facts) -> str:
    if not way["wall"]:
        return "-"
    low, middle, high = map(duration, way["wall"])
    number, _, unit = low.partition(" ")
    return f"{middle} ({number if high.endswith(f' {unit}') else low}-{high})"


def _dollars(way: Facts) -> str:
    if way["way"] == "local":
        return "-"
    return money(way["dollars"][1]) if way["dollars"] else "?"


def _highlights(facts: Facts) -> Iterator[tuple[str, Facts]]:
    """Yield the best ways: fastest, cheapest on AWS, and the one that fulfils the wishes."""
    timed = [way for way in facts["ways"] if way["wall"] and not way["dead_letters"]]
    able = [way for way in timed if way["deployable"]]
    yield "fastest that can be deployed", min(able, key=lambda way: way["wall"][1])
    if priced := [way for way in able if way["dollars"]]:
        yield "cheapest of those on AWS", min(priced, key=_price_then_time)
    for way in facts["ways"]:
        if way["way"] == facts["choice"]:
            yield f"within {_wishes(facts)}", way


def _price_then_time(way: Facts) -> tuple[float, float]:
    """Return the dollars to two digits, so that of equally cheap ways the faster is first."""
    return float(f"{way['dollars'][1]:.2g}"), way["wall"][1]


def _wishes(facts: Facts) -> str:
    deadline = [duration(facts["deadline"])] if facts["deadline"] else []
    budget = [f"{money(facts['budget'])} dollars"] if facts["budget"] is not None else []
    return " and ".join([*deadline, *budget])


def _describe_way(way: Facts) -> str:
    items = ", ".join(
        f"{name} {money(dollars)}"
        for name, dollars in sorted((way["items"] or {}).items(), key=lambda item: -item[1])
        if round(dollars, 6)
    )
    price = f", {_dollars(way)} dollars ({items})" if way["dollars"] else ""
    return f"{_title(way)}, {_time(way)}{price}"


def excluded_lines(facts: Facts) -> Iterator[str]:
    """Yield a line for each reason that excludes ways, with the longest unit and the other ways."""
    able = [way["title"] for way in facts["ways"] if way["wall"] and way["way"] != "local"]
    longest = max(facts["models"], key=lambda model: float(model["longest"]))
    for reason in dict.fromkeys(way["why"] for way in facts["ways"] if not way["wall"]):
        names = [way["title"] for way in facts["ways"] if way["why"] == reason and not way["wall"]]
        unit = f"the unit {longest['longest_unit']} of {longest['model']}"
        about = reason.replace("a unit", unit, 1) if reason.startswith("a unit takes") else reason
        others = f"these can execute it: {', '.join(able)}" if able else "no way on AWS can"
        yield f"Not on {', '.join(names)}: {about}; {others}."


def _notes(facts: Facts) -> Iterator[str]:
    yield from excluded_lines(facts)
    if not all(way["deployable"] for way in facts["ways"]):
        yield (
            "* simulated; a stack has no such workers. Lambda Managed Instances: without the "
            "instances that run between runs."
        )
    yield (
        f"All times are simulated, from units that ran on this machine with {facts['workers']} "
        f"workers; the speed of a core on AWS is assumed to be within 20 % of it. Prices of "
        f"{facts['region']}, {facts['architecture']}, without the free tier and discounts."
    )
    quotas = ", ".join(f"{name} {count:,}" for name, count in facts["quotas"].items())
    yield f"Quotas: {quotas}. The defaults are not those of your account: --quota NAME=N."
    if facts["unconfirmed"]:
        yield f"Prices that no price list confirms: {', '.join(facts['unconfirmed'])}."
    missing = sorted({way["why"] for way in facts["ways"] if way["wall"] and way["why"]})
    if missing:
        yield f"Dollars are missing (?): {'; '.join(missing)}: add it to a file, --prices FILE."
    if facts["left_out"]:
        yield (
            f"Not in the plan: {', '.join(facts['left_out'])}, which the pilot did not reach; "
            "--pilot-seconds allows more time."
        )
    for model in facts["models"]:
        if model["running"]:
            yield (
                f"A unit of {model['model']} had run for {duration(model['running'])} when the "
                "time of the pilot was over, and counts with these seconds: all times are at least "
                "the ones above. --pilot-seconds allows more time."
            )
    if facts["rejected"]:
        yield (
            f"{facts['rejected']:,} rows break their contract and were left out; "
            "hundredfold run shows why."
        )
    if facts["refused"]:
        yield facts["refused"]


def _next(facts: Facts, run: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the commands that execute the job, here and on the best stack."""
    import shlex

    from ..runs.plans import deploy_options, fleet_arguments, recommended

    taken = " and takes the results of the pilot that are still valid" if facts["pilot"] else ""
    yield shlex.join(run), f"runs the job on this machine{taken}"
    best = recommended(facts)
    if best is None:
        return
    deploy = ["hundredfold", "deploy", run[2], *deploy_options(best)]
    yield shlex.join(deploy), f"makes the stack of {best['title']}"
    per_model = best["batches"] // len(facts["models"])
    aws = ["hundredfold", "run", run[2], "--backend", "aws", "--batches", str(per_model)]
    aws += [option for fleet in fleet_arguments(best) for option in ("--fleet", fleet)]
    yield shlex.join(aws), "runs the job there, with sources of S3 or Glue"
