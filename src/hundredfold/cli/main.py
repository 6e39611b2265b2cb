"""The command `hundredfold`.

Results go to stdout, messages to stderr. Exit status: 0 done, 1 the run failed or is held, 2 usage
error, 130 interrupted. A command imports slow modules itself, so that `--help` answers at once; a
run starts its worker processes (`prestart`) while the rest is imported.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from .._package import VERSION
from ..errors import NEW_CODE, HundredfoldError, PublishRefused, UsageError
from ..workers.start_method import prestart_forkserver
from .aws import COMMANDS
from .clean import clean
from .diff import diff
from .options import (
    Group,
    Target,
    argument,
    as_of_option,
    budget_option,
    fleet_option,
    home_option,
    importing,
    invoke,
    job_argument,
    json_option,
    new_code_option,
    parse_pairs,
    pool_options,
    prices_option,
    report_option,
    report_unprinted_result,
    report_write_errors,
    run_argument,
    source_option,
    target_options,
)
from .plan import plan
from .report import report, report_at_end
from .run_list import list_command
from .worker import worker

if TYPE_CHECKING:
    from ..ports.interfaces import RunHome
    from ..runs.summary import RunSummary


@click.group(
    cls=Group,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(
    VERSION, message="hundredfold %(version)s", help="Print the version and exit."
)
@click.pass_context
def app(context: click.Context) -> None:
    """Run a Python function over every unit of a table, in parallel, as a dependable pipeline."""
    if context.invoked_subcommand is None:  # click's no_args_is_help is a usage error since 8.2
        click.echo(context.get_help())


max_failed_option = click.option(
    "--max-failed",
    metavar="LIMIT",
    help="Maximum failed units of a model: a count (3) or a fraction (0.01).",
)


@app.command()
@job_argument
@source_option
@target_options
@pool_options
@as_of_option
@click.option(
    "--run-id", metavar="ID", show_default="made from the time", help="Id of the new run."
)
@click.option(
    "--max-rejected",
    multiple=True,
    metavar="NAME=LIMIT",
    help="Maximum rejected rows of a source: a count (3) or a fraction (0.05). Repeatable.",
)
@max_failed_option
@budget_option
@prices_option
@click.option(
    "--batches",
    type=click.IntRange(min=1),
    metavar="N",
    help="On AWS: approximate number of batches per model, instead of the cheapest number.",
)
@click.option(
    "--warehouse",
    type=click.Choice(["auto", "duckdb", "athena"]),
    show_default="auto: by the size of the sources",
    help="On AWS: where queries run: in Athena, or at once in one function (duckdb).",
)
@fleet_option(default="lambda")
@click.option(
    "--plan",
    metavar="FILE",
    help="Take the workers and the pilot's results, or on AWS the batches, of the plan of "
    "hundredfold plan JOB --out FILE.",
)
@click.option(
    "--confirm-above",
    type=click.FloatRange(min=0),
    metavar="DOLLARS",
    help="On AWS, with --plan: ask before a run that may cost more.",
)
@click.option("--detach", is_flag=True, help="On AWS: start the run and return.")
@report_option
@json_option
def run(
    job: str,
    source: Sequence[str],
    target: Target,
    max_rejected: Sequence[str],
    max_failed: str | None,
    batches: int | None,
    warehouse: str | None,
    confirm_above: float | None,
    detach: bool,
    report: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a job: validate, prepare, enqueue, work, collect, publish."""
    target.prestart()
    backend = target.backend()
    from ..runs.backend import RunArguments

    arguments = RunArguments(
        batches=batches,
        warehouse=warehouse,
        wait=not detach,
        max_rejected={
            name: _parse_limit(f"--max-rejected {name}", value)
            for name, value in parse_pairs("--max-rejected", max_rejected).items()
        },
        max_failed=_parse_limit("--max-failed", max_failed) if max_failed is not None else None,
        **options,
    )
    if confirm_above is not None:
        from .confirmation import confirm_cost

        confirm_cost(arguments, confirm_above, on_aws=target.name == "aws")
    locations = parse_pairs("--source", source)
    _follow(
        lambda callbacks: backend.run(job, locations, arguments, callbacks),
        target,
        as_json,
        report=report,
    )


@app.command()
@run_argument
@target_options
@click.option("--watch", is_flag=True, help="On AWS: show progress until the run ends.")
@json_option
def status(run: str | None, target: Target, watch: bool, as_json: bool) -> None:
    """Show the state of a run, counts of its rows and units, and the next commands."""
    from ..api import open_run
    from ..runs.summary import STOPPED, summarize
    from . import display

    if watch:
        _follow(lambda callbacks: target.backend().watch(run, callbacks), target, as_json)
        return
    found = open_run(run, home=target.open())
    facts = summarize(found)
    if as_json:
        display.print_json(facts)
        return
    display.show_summary(facts, _validation_results(found), None)
    if facts["state"] in ("new", "running", STOPPED):
        display.stdout.print(
            f"\nat: {facts['step']}"
            + ("" if facts["active"] else "   (no process is executing it)")
        )
    display.show_next(_next_commands(facts, target, found.home))


@app.command()
@run_argument
@click.option("--model", metavar="MODEL", help="Only this model.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Maximum number to show.",
)
@click.option("--traceback", is_flag=True, help="Show the traceback of each unit.")
@target_options
@json_option
def failures(
    run: str | None, model: str | None, limit: int, traceback: bool, target: Target, as_json: bool
) -> None:
    """List the units that failed or crashed, each with its reason."""
    from rich.markup import escape

    from ..api import open_run
    from ..data.numpy_columns import to_python_rows
    from . import display

    found = open_run(run, home=target.open())
    rows = to_python_rows(found.failures(model).to_arrow())
    if as_json:
        display.print_json(rows)
        return
    for row in rows[:limit]:
        first_line = (row["message"] or "").strip().partition("\n")[0]
        display.stdout.print(
            f"[bold]{escape(row['model'])}  {escape(row['unit'])}[/]  {row['status']}  "
            f"{escape(row['error'])}: {escape(first_line)}"
        )
        if traceback and row["traceback"]:
            display.stdout.print(escape(row["traceback"]))
    if len(rows) > limit:
        display.stdout.print(f"and {len(rows) - limit:,} more")
    if not rows:
        display.stdout.print("no unit failed")
        return
    first, older = rows[0], _run_option(found.id, found.home)
    display.show_next(
        [
            (
                _command(target, "replay", first["model"], first["unit"], *older, "--pdb"),
                "calls the function on that unit, under the debugger",
            ),
            (
                _command(target, "retry", *older[1:], NEW_CODE),
                f"retries the failed units, once the function is {_when_fixed(target)}",
            ),
        ]
    )


@app.command()
@argument("model", "Name of the model.")
@argument(
    "key",
    'Key of the unit, such as "PREMIUM,Accra,1GB"; "" for a model with one unit.',
    may_be_empty=True,
)
@click.option("--run", metavar="RUN", help="Id of the run; the newest run if omitted.")
@click.option(
    "--pdb",
    is_flag=True,
    help="Stop in the debugger at the first line of the function.",
)
@target_options
def replay(model: str, key: str, run: str | None, pdb: bool, target: Target) -> None:
    """Call a model's function in this process on one unit, with the rows it had in the run."""
    from ..api import replay as replay_unit
    from . import display

    call = _call_under_debugger if pdb else _call
    display.stdout.print(
        repr(replay_unit(model, key, run_id=run, home=target.open(), call=call)), markup=False
    )


def _call(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a user's function; print the traceback of an exception and exit with status 1."""
    try:
        return work(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  # replay exists to show it
        import bdb
        import traceback

        frames = error.__traceback__.tb_next if error.__traceback__ else None  # without this one
        while frames is not None and frames.tb_frame.f_code.co_filename == bdb.__file__:
            frames = frames.tb_next
        sys.stderr.write("".join(traceback.format_exception(type(error), error, frames)))
        sys.exit(1)


def _call_under_debugger(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a user's function under the debugger."""
    from pdb import Pdb

    return _call(Pdb().runcall, work, *args, **kwargs)


@app.command()
@run_argument
@new_code_option
@fleet_option(default="those of the run")
@prices_option
@target_options
@pool_options
@report_option
@json_option
def retry(run: str | None, target: Target, report: bool, as_json: bool, **options: Any) -> None:
    """Retry the failed and crashed units and the models that depend on them, then publish."""
    target.prestart()
    backend = target.backend()
    from ..runs.backend import RunArguments

    _follow(
        lambda callbacks: backend.retry(run, RunArguments(**options), callbacks),
        target,
        as_json,
        report=report,
    )


@app.command()
@run_argument
@source_option
@new_code_option
@fleet_option(default="those of the run")
@budget_option
@prices_option
@target_options
@pool_options
@report_option
@json_option
def resume(
    run: str | None,
    source: Sequence[str],
    target: Target,
    report: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Resume a run that was stopped or whose driver died. Completed work is kept.

    --source gives the new location of a source whose files were moved.
    """
    target.prestart()
    backend = target.backend()
    from ..runs.backend import RunArguments

    locations = parse_pairs("--source", source)
    _follow(
        lambda callbacks: backend.resume(
            run, RunArguments(**options), callbacks, sources=locations
        ),
        target,
        as_json,
        report=report,
    )


@app.command()
@run_argument
@target_options
def cancel(run: str | None, target: Target) -> None:
    """Cancel a run permanently. Its results so far stay readable."""
    from . import display

    record = target.backend().cancel(run)
    display.stdout.print(f"run {record.id} is cancelled; its files remain until you remove them")


@app.command()
@run_argument
@max_failed_option
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="N",
    help="On AWS: maximum number of concurrent workers of the stack, until it is deployed again.",
)
@target_options
def adjust(
    run: str | None, max_failed: str | None, concurrency: int | None, target: Target
) -> None:
    """Change the limits of a run while it goes on."""
    from . import display

    limit = _parse_limit("--max-failed", max_failed) if max_failed is not None else None
    record = target.backend().adjust(run, limit, concurrency)
    changes = {"max_failed": limit, "concurrency": concurrency}
    text = ", ".join(f"{name} {value}" for name, value in changes.items() if value is not None)
    display.stdout.print(f"run {record.id}: {text}")


@app.command()
@run_argument
@max_failed_option
@click.option(
    "--replace-newer",
    is_flag=True,
    help="Replace the current release even if a newer run published it.",
)
@new_code_option
@target_options
@report_option
@json_option
def publish(
    run: str | None,
    max_failed: str | None,
    target: Target,
    report: bool,
    as_json: bool,
    **decisions: Any,
) -> None:
    """Publish a run that is held because it exceeded a limit."""
    from ..runs.backend import RunArguments

    backend = target.backend()
    limit = _parse_limit("--max-failed", max_failed) if max_failed is not None else None
    _follow(
        lambda callbacks: backend.publish(
            run, RunArguments(max_failed=limit, **decisions), callbacks
        ),
        target,
        as_json,
        report=report,
    )


@app.command()
@argument("job", "Name of the job.")
@click.option(
    "--to",
    type=int,
    metavar="VERSION",
    help="Version to make current; the parent of the current release if omitted.",
)
@target_options
def rollback(job: str, to: int | None, target: Target) -> None:
    """Make the parent of the current release, or another version, the current release."""
    from ..api import rollback as roll_back
    from . import display

    release = roll_back(job, home=target.open(job), to=to)
    rows = ", ".join(f"{count:,} rows of {name}" for name, count in release.rows.items())
    display.stdout.print(
        f"release {release.version} of {job} is current again (run {release.run}, {rows})"
    )


@app.command()
@job_argument
@source_option
@click.option("--model", metavar="MODEL", help="Time only this model; earlier models run untimed.")
@pool_options
@as_of_option
@click.option(
    "--seconds",
    type=float,
    default=60.0,
    show_default=True,
    metavar="N",
    help="Time limit for the run, and again for all other timings together. Longer ones are "
    "extrapolated.",
)
@json_option
def bench(job: str, source: Sequence[str], as_json: bool, **options: Any) -> None:
    """Compare the time of a job on this machine with the loops that it replaces. Keeps nothing."""
    prestart_forkserver()
    from ..bench.compare import compare
    from . import bench as comparison
    from . import display

    locations = parse_pairs("--source", source)
    with display.timing_display() as listener:
        facts = compare(job, locations, listener=listener, **options)
    if as_json:
        display.print_json(facts)
    else:
        comparison.show_comparison(facts)


@app.command()
@argument("name", "Name of the new package, such as my_job.")
def init(name: str) -> None:
    """Create a small working project: a model, a query, a contract, sample data and a test."""
    from . import display
    from .init import scaffold

    folder = scaffold(name)
    display.stdout.print(f"created {display.relative_path(folder)}")
    display.show_next(
        [
            (f"hundredfold run {name}.job:job", "runs it"),
            (f"python -m pytest {name}", "tests its function (with pytest installed)"),
            (f"{name}/README.md", "describes the first changes to make"),
        ]
    )


@app.command()
@click.option(
    "--size", default="demo", show_default=True, metavar="SIZE", help="Size: demo, medium or large."
)
@click.option(
    "--name",
    default="tariffs",
    show_default=True,
    metavar="NAME",
    help="Name of an installed demo.",
)
@click.option(
    "--data", metavar="FOLDER", show_default="below the home", help="Folder for the data."
)
@home_option
@pool_options
@report_option
@json_option
def demo(
    size: str,
    name: str,
    data: str | None,
    home: str,
    report: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate a mobile operator's data, with realistic errors and known truth, and price it."""
    target = Target(home)
    target.prestart()
    with importing():
        from .. import api
    from ..local.home import Home
    from . import display
    from .demo import find_demo

    found = find_demo(name)
    found.check(size)
    Home(home)  # refuses a folder that cannot be a home before anything is written to it
    folder = found.folder(data, home, size)
    with report_write_errors("--data", folder):
        folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    display.stderr.print(f"generating the data of size {size} in {folder}", style="dim")
    with report_write_errors("--data", folder):
        locations = found.make(size, folder)
    display.stderr.print(f"generated in {time.monotonic() - began:.1f} s", style="dim")
    _follow(
        lambda callbacks: api.run(
            found.job, locations, home=home, as_of=found.as_of, callbacks=callbacks, **options
        ),
        target,
        as_json,
        found.next(target.cli_options),
        report=report,
    )


for _command_of_a_module in (list_command, clean, diff, plan, report, *COMMANDS, worker):
    app.add_command(_command_of_a_module)


def _follow(
    action: Callable[[Any], Any],
    target: Target,
    as_json: bool,
    extra: Sequence[tuple[str, str]] = (),
    *,
    report: bool = True,
) -> None:
    """Execute a long action with a progress bar, print the summary of its run, make its report.

    extra  next commands to show after the usual ones
    """
    with importing():
        from ..api import open_run
        from ..runs.summary import summarize
        from . import display

    _interrupt_on_signals()
    began = time.monotonic()
    with display.ProgressDisplay() as live:
        try:
            found = action(live)
        except PublishRefused as refusal:
            held: PublishRefused | None = refusal
            found = open_run(live.run, home=target.open())
        except HundredfoldError:
            _report_failed(live.run, target, wanted=report)
            raise
        except KeyboardInterrupt:
            live.progress_bars.stop()
            _exit_interrupted(live, target)
        else:
            held = None
    facts = summarize(found)
    if as_json:
        display.print_json(facts)
    else:
        shown: RunSummary = {**facts, "reason": ""} if held else facts
        display.show_summary(shown, _validation_results(found), time.monotonic() - began)
    place = report_at_end(found, facts, target) if report else None
    if place is not None and not as_json:
        display.show_report(place)
    if held is None and not as_json:
        display.show_next([*_next_commands(facts, target, found.home), *extra])
    _report_unwritten(facts, target)
    if held is not None:
        raise held


def _report_failed(run: str, target: Target, *, wanted: bool) -> None:
    """Make the report of a run that failed, if it was created, and print its path."""
    from ..api import open_run
    from ..runs.summary import summarize
    from . import display

    if not (run and wanted):
        return
    with suppress(Exception):  # whatever it is: the error that failed the run is the one to print
        found = open_run(run, home=target.open())
        if (place := report_at_end(found, summarize(found), target)) is not None:
            display.stderr.print(f"report: {display.relative_path(place)}", markup=False)


def _report_unwritten(facts: RunSummary, target: Target) -> None:
    """Report on stderr the outcome of a run whose summary could not be printed."""
    release = facts["release"]
    published = f", release {release['version']} is published" if release else ""
    outcome = f"run {facts['run']} is {facts['state']}{published}"
    report_unprinted_result(outcome, _command(target, "status", facts["run"]))


def _interrupt_on_signals() -> None:
    """Treat SIGTERM and SIGHUP like Ctrl-C, unless the caller ignores them (nohup)."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def _exit_interrupted(live: Any, target: Target) -> None:
    """Report after Ctrl-C that nothing is lost and how to continue, and exit."""
    from . import display

    done = (
        f"; {live.last.done:,} of {live.last.units:,} units of {live.last.model} are done"
        if live.last
        else ""
    )
    if not live.run:
        display.stderr.print("stopped before a run had started")
    else:
        interruption = target.backend().interruption(live.run)
        display.stderr.print(f"{interruption.message}{done}")
        commands = (_command(target, *parts) for parts in interruption.commands)
        display.stderr.print(f"hint: {'   or end it: '.join(commands)}")
    sys.exit(130)


def _next_commands(facts: RunSummary, target: Target, home: RunHome) -> list[tuple[str, str]]:
    """Return the commands that make sense in the run's state, each with its effect."""
    run, state = facts["run"], facts["state"]
    commands = [*_commands_to_continue(facts, target), *_commands_for_failures(facts, target)]
    if state == "held":
        commands += _commands_to_publish(facts, target)
    release = facts["release"]
    if release and release["current"] and release["parent"] is not None:
        effect = f"makes release {release['parent']} current again"
        commands.append((_command(target, "rollback", facts["job"]), effect))
    if state == "done":
        commands.append((_command(target, "status", run), "shows this summary again"))
    if facts["sample"]:
        replay = _command(target, "replay", *facts["sample"], *_run_option(run, home))
        effect = "calls the function on one unit, with the rows it had (--pdb: in the debugger)"
        commands.append((replay, effect))
    return commands


def _commands_to_continue(facts: RunSummary, target: Target) -> Iterator[tuple[str, str]]:
    from ..runs.summary import STOPPED

    run, state = facts["run"], facts["state"]
    if state in ("new", "running"):
        watch = _command(target, "status", run, *target.backend().watch_options)
        yield watch, "shows the progress"
        yield _command(target, "cancel", run), "ends the run permanently"
    elif state == STOPPED:
        yield _command(target, "resume", run), "continues where the driver stopped"
    elif state == "failed":
        yield _command(target, "resume", run), "continues, once the cause is fixed"


def _commands_for_failures(facts: RunSummary, target: Target) -> Iterator[tuple[str, str]]:
    run, not_ok = facts["run"], _units_not_ok(facts)
    if not_ok:
        yield (
            _command(target, "failures", run),
            f"shows why {not_ok:,} unit{'s' if not_ok > 1 else ''} failed",
        )
        yield (
            _command(target, "retry", run, NEW_CODE),
            f"retries them, once the function is {_when_fixed(target)}",
        )


def _commands_to_publish(facts: RunSummary, target: Target) -> Iterator[tuple[str, str]]:
    """Yield the command that publishes a held run."""
    run, not_ok, newer = facts["run"], _units_not_ok(facts), facts["newer_release"]
    some_ok = any(counts.get("ok") for counts in facts["models"].values())
    options = [
        *(["--max-failed", str(not_ok)] if not_ok else []),
        *(["--replace-newer"] if newer else []),
    ]
    if newer and some_ok:
        effect = f"replaces release {newer}, which a newer run made"
        yield _command(target, "publish", run, *options), effect
    elif not not_ok:
        effect = "publishes, once the query or the contract of the release is fixed"
        yield _command(target, "resume", run), effect
    elif some_ok:
        yield _command(target, "publish", run, *options), "publishes without them"


def _units_not_ok(facts: RunSummary) -> int:
    """Return the number of units that failed or crashed."""
    return sum(
        counts.get("failed", 0) + counts.get("crashed", 0) for counts in facts["models"].values()
    )


def _run_option(run: str, home: RunHome) -> list[str]:
    """Return the option that names a run; none for the newest run, which is the default."""
    from ..runs.run import newest_run

    return [] if newest_run(home).id == run else ["--run", run]


def _when_fixed(target: Target) -> str:
    return target.backend().fixed


def _command(target: Target, *parts: str) -> str:
    import shlex

    return shlex.join(["hundredfold", *parts, *target.cli_options])


def _validation_results(found: Any) -> Any:
    from ..pipeline.validation_results import read_validation

    try:
        return read_validation(found.layout, found.home.store)
    except KeyError:
        return []


def _parse_limit(option: str, text: str) -> float:
    """Parse a limit: a count, or a fraction between 0 and 1."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if not 0.0 <= fraction <= 1.0:
        raise UsageError(
            f"{option} is {text!r}, wanted a count such as 3, or a fraction such as 0.05"
        )
    return fraction


def main() -> None:
    """Run the command `hundredfold`."""
    invoke(app, "hundredfold")
