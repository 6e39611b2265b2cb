"""A person comes in here.

Result to stdout, words to stderr; exit 0 = done, 1 = the run failed or is held back, 2 = the words were wrong, 130 = stopped by hand.
What costs time to import is imported by the command that needs it, so that `--help` answers at once, and a run's first
line is reached soon: its `warm` lets processes start while the rest is imported.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from .._package import VERSION
from ..errors import NEW_CODE, PublishRefused, UsageError
from ..workers.start_method import prestart_forkserver
from .aws import COMMANDS
from .options import (
    Group,
    Target,
    argument,
    as_of_option,
    home_option,
    invoke,
    job_argument,
    json_option,
    new_code_option,
    pool_options,
    report_unprinted_result,
    report_write_errors,
    run_argument,
    source_option,
    target_options,
)

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
    if (
        context.invoked_subcommand is None
    ):  # click's own no_args_is_help answers as to an error since 8.2
        click.echo(context.get_help())


@app.command()
@job_argument
@source_option
@target_options
@pool_options
@as_of_option
@click.option("--run-id", metavar="ID", help="The run's id, instead of one made from the time.")
@click.option(
    "--max-rejected",
    multiple=True,
    metavar="NAME=LIMIT",
    help="NAME=LIMIT: so many rows of a source (or such a share, as 0.05) may be rejected.",
)
@click.option(
    "--max-failed",
    metavar="LIMIT",
    help="So many units of a model (or such a share, as 0.01) may fail.",
)
@click.option(
    "--batches",
    type=click.IntRange(min=1),
    metavar="N",
    help="On AWS: about so many batches for each model, instead of as many as pay.",
)
@click.option("--detach", is_flag=True, help="On AWS: begin the run, and do not watch it.")
@json_option
def run(
    job: str,
    source: Sequence[str],
    target: Target,
    max_rejected: Sequence[str],
    max_failed: str | None,
    batches: int | None,
    detach: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a job: validate, prepare, enqueue, work, collect, publish."""
    from ..runs.backend import RunArguments

    backend = target.backend()
    backend.prestart()
    arguments = RunArguments(
        batches=batches,
        wait=not detach,
        max_rejected={
            name: _parse_limit(f"--max-rejected {name}", value)
            for name, value in _parse_pairs("--max-rejected", max_rejected).items()
        },
        max_failed=_parse_limit("--max-failed", max_failed) if max_failed is not None else None,
        **options,
    )
    places = _parse_pairs("--source", source)
    _follow(lambda callbacks: backend.run(job, places, arguments, callbacks), target, as_json)


@app.command()
@run_argument
@target_options
@click.option("--all", "every", is_flag=True, help="List all runs.")
@click.option("--watch", is_flag=True, help="On AWS: follow the run to its end.")
@json_option
def status(run: str | None, target: Target, every: bool, watch: bool, as_json: bool) -> None:
    """Say where a run is, what came of its rows and units, and what to do next."""
    from ..api import open_run
    from ..runs.summary import STOPPED, summarize
    from . import display

    if watch:
        _follow(lambda callbacks: target.backend().watch(run, callbacks), target, as_json)
        return
    home = target.open()
    if every:
        _list_runs(home, as_json)
        return
    found = open_run(run, home=home)
    facts = summarize(found)
    if as_json:
        display.print_json(facts)
        return
    display.show_summary(facts, _validation_results(found), None)
    if facts["state"] in ("new", "running", STOPPED):
        display.stdout.print(
            f"\nat: {facts['step']}"
            + ("" if facts["active"] else "   (no process is at work on it)")
        )
    display.show_next(_next_commands(facts, target, found.home))


@app.command()
@run_argument
@click.option("--model", metavar="MODEL", help="Of this model only.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Show so many at most.",
)
@click.option("--traceback", is_flag=True, help="Show each unit's traceback.")
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
    rows = to_python_rows(found.failures(model).arrow())
    if as_json:
        display.print_json(rows)
        return
    for row in rows[:limit]:
        display.stdout.print(
            f"[bold]{escape(row['model'])}  {escape(row['unit'])}[/]  {row['status']}  {escape(row['error'])}: {escape((row['message'] or '').strip().partition(chr(10))[0])}"
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
                "runs that unit's function here, under the debugger",
            ),
            (
                _command(target, "retry", *older[1:], NEW_CODE),
                f"does the failed units again, once the function is {_when_fixed(target)}",
            ),
        ]
    )


@app.command()
@argument("model", "The model.")
@argument(
    "key",
    'The unit\'s key, such as "PREMIUM,Accra,1GB"; "" for a model of one unit.',
    may_be_empty=True,
)
@click.option("--run", metavar="RUN", help="A run's id; the newest run, if left out.")
@click.option(
    "--pdb",
    is_flag=True,
    help="Under the debugger: stop at the first line; without it, nothing stops.",
)
@target_options
def replay(model: str, key: str, run: str | None, pdb: bool, target: Target) -> None:
    """Call a model's function here on one unit, with the rows it had in the run."""
    from ..api import replay as replay_unit
    from . import display

    call = _call_under_debugger if pdb else _call
    display.stdout.print(
        repr(replay_unit(model, key, run_id=run, home=target.open(), call=call)), markup=False
    )


def _call(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a user's function; print what it raises as Python does, and end with exit status 1."""
    try:
        return work(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  # an error of theirs, which is what they asked to see
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
@target_options
@pool_options
@json_option
def retry(run: str | None, target: Target, as_json: bool, **crew: Any) -> None:
    """Do the failed and crashed units again, and the models that build on them; then go on to publish."""
    from ..runs.backend import RunArguments

    backend = target.backend()
    backend.prestart()
    _follow(lambda callbacks: backend.retry(run, RunArguments(**crew), callbacks), target, as_json)


@app.command()
@run_argument
@source_option
@new_code_option
@target_options
@pool_options
@json_option
def resume(
    run: str | None, source: Sequence[str], target: Target, as_json: bool, **crew: Any
) -> None:
    """Go on with a run that was stopped, or whose driver died. What is done is kept.

    --source names the place of a source whose files were moved.
    """
    from ..runs.backend import RunArguments

    backend = target.backend()
    backend.prestart()
    places = _parse_pairs("--source", source)
    _follow(
        lambda callbacks: backend.resume(run, RunArguments(**crew), callbacks, sources=places),
        target,
        as_json,
    )


@app.command()
@run_argument
@target_options
def cancel(run: str | None, target: Target) -> None:
    """End a run for good. What was done stays readable."""
    from . import display

    record = target.backend().cancel(run)
    display.stdout.print(f"run {record.id} is cancelled; its files stay until you remove them")


@app.command()
@run_argument
@click.option(
    "--max-failed",
    metavar="LIMIT",
    help="So many units of a model (or such a share) may have failed.",
)
@click.option(
    "--replace-newer", is_flag=True, help="Replace the current release even if a newer run made it."
)
@new_code_option
@target_options
@json_option
def publish(
    run: str | None, max_failed: str | None, target: Target, as_json: bool, **decisions: Any
) -> None:
    """Publish a run that its limits held back."""
    from ..runs.backend import RunArguments

    backend = target.backend()
    limit = _parse_limit("--max-failed", max_failed) if max_failed is not None else None
    _follow(
        lambda callbacks: backend.publish(
            run, RunArguments(max_failed=limit, **decisions), callbacks
        ),
        target,
        as_json,
    )


@app.command()
@argument("job", "The job's name.")
@click.option(
    "--to",
    type=int,
    metavar="VERSION",
    help="The version to go to; the one that the current was built upon, if left out.",
)
@target_options
def rollback(job: str, to: int | None, target: Target) -> None:
    """Let the release that the current one replaced, or another, be the current one."""
    from ..api import rollback as roll_back
    from . import display

    release = roll_back(job, home=target.open(job), to=to)
    display.stdout.print(
        f"release {release.version} of {job} is current again (run {release.run}, {', '.join(f'{n:,} rows of {name}' for name, n in release.rows.items())})"
    )


@app.command()
@job_argument
@source_option
@click.option("--model", metavar="MODEL", help="This model only; those before it run, untimed.")
@pool_options
@as_of_option
@click.option(
    "--seconds",
    type=float,
    default=60.0,
    show_default=True,
    metavar="N",
    help="So long may the run here take; the other timings together as long again. Beyond it: extrapolated.",
)
@json_option
def bench(job: str, source: Sequence[str], as_json: bool, **options: Any) -> None:
    """Is it worth it? Time a job here, and as the loops that it replaces. Nothing is kept."""
    prestart_forkserver()
    from ..bench.compare import compare
    from . import bench as comparison
    from . import display

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    places = _parse_pairs("--source", source)
    with display.TimingDisplay() as listener:
        try:
            facts = compare(job, places, listener=listener, **options)
        except KeyboardInterrupt:
            listener.progress_bars.stop()
            display.stderr.print("stopped; nothing is kept")
            sys.exit(130)
    if as_json:
        display.print_json(facts)
    else:
        comparison.show_comparison(facts)


@app.command()
@argument("name", "A name for the new package, such as my_job.")
def init(name: str) -> None:
    """Make a small working project of your own: a model, a query, a contract, sample data, a test."""
    from . import display
    from .init import scaffold

    folder = scaffold(name)
    display.stdout.print(f"made {display.relative_path(folder)}")
    display.show_next(
        [
            (f"hundredfold run {name}.job:job", "runs it"),
            (f"python -m pytest {name}", "tests its function (with pytest installed)"),
            (f"{name}/README.md", "says what to change first"),
        ]
    )


@app.command()
@click.option(
    "--size", default="demo", show_default=True, metavar="SIZE", help="demo, medium or large."
)
@click.option(
    "--name",
    default="tariffs",
    show_default=True,
    metavar="NAME",
    help="Which of the installed demos.",
)
@click.option(
    "--data", metavar="FOLDER", help="The folder for the demo's data; below the home, if left out."
)
@home_option
@pool_options
@json_option
def demo(size: str, name: str, data: str | None, home: str, as_json: bool, **crew: Any) -> None:
    """Make a mobile operator's data with known truth and realistic dirt, and price all of it."""
    target = Target(home)
    target.backend().prestart()
    from .. import api
    from ..local.home import Home
    from . import display
    from .demo import find_demo

    found = find_demo(name)
    found.check(size)
    Home(home)  # before anything is put into that folder
    folder = found.folder(data, home, size)
    with report_write_errors("--data", folder):
        folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    display.stderr.print(f"making the data of size {size} in {folder}", style="dim")
    with report_write_errors("--data", folder):
        places = found.make(size, folder)
    display.stderr.print(f"made in {time.monotonic() - began:.1f} s", style="dim")
    _follow(
        lambda callbacks: api.run(
            found.job, places, home=home, as_of=found.as_of, callbacks=callbacks, **crew
        ),
        target,
        as_json,
        found.next(target.cli_options),
    )


for _command_of_a_stack in COMMANDS:
    app.add_command(_command_of_a_stack)


def _follow(
    action: Callable[[Any], Any],
    target: Target,
    as_json: bool,
    more: Sequence[tuple[str, str]] = (),
) -> None:
    """Do something long under a bar, and say at its end what has come of it; `more`: next commands beside the usual ones."""
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
        except KeyboardInterrupt:
            live.progress_bars.stop()
            _exit_interrupted(live, target)
        else:
            held = None
    facts = summarize(found)
    if as_json:
        display.print_json(facts)
    else:
        display.show_summary(
            {**facts, "reason": ""} if held else facts,
            _validation_results(found),
            time.monotonic() - began,
        )
        if held is None:
            display.show_next([*_next_commands(facts, target, found.home), *more])
    _report_unwritten(facts, target)
    if held is not None:
        raise held


def _report_unwritten(facts: RunSummary, target: Target) -> None:
    """Say on stderr what became of a run whose summary could not be printed."""
    release = facts["release"]
    published = f", release {release['version']} is published" if release else ""
    outcome = f"run {facts['run']} is {facts['state']}{published}"
    report_unprinted_result(outcome, _command(target, "status", facts["run"]))


def _interrupt_on_signals() -> None:
    """Answer SIGTERM, and the loss of the terminal, like Ctrl-C. What the caller ignores (nohup) stays ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def _exit_interrupted(live: Any, target: Target) -> None:
    """Ctrl-C: say that nothing is lost, and how to go on."""
    from . import display

    done = (
        f"; {live.last.done:,} of {live.last.units:,} units of {live.last.model} are done"
        if live.last
        else ""
    )
    if not live.run:
        display.stderr.print("stopped before a run had begun")
    else:
        interruption = target.backend().interruption(live.run)
        display.stderr.print(f"{interruption.message}{done}")
        display.stderr.print(
            f"hint: {'   or end it: '.join(_command(target, *parts) for parts in interruption.commands)}"
        )
    sys.exit(130)


def _next_commands(facts: RunSummary, target: Target, home: RunHome) -> list[tuple[str, str]]:
    """The commands that make sense now."""
    run, state = facts["run"], facts["state"]
    bad = sum(m.get("failed", 0) + m.get("crashed", 0) for m in facts["models"].values())
    from ..runs.summary import STOPPED

    told = []
    if state in ("new", "running"):
        told.append(
            (
                _command(target, "status", run, *target.backend().watch_options),
                "shows how far it is by then",
            )
        )
        told.append((_command(target, "cancel", run), "ends it for good"))
    if state == STOPPED:
        told.append((_command(target, "resume", run), "goes on where the driver stopped"))
    if state == "failed":
        told.append((_command(target, "resume", run), "goes on, once the cause is mended"))
    if bad:
        told.append((_command(target, "failures", run), f"shows why {bad:,} units failed"))
        told.append(
            (
                _command(target, "retry", run, NEW_CODE),
                f"does them again, once the function is {_when_fixed(target)}",
            )
        )
    if state == "held" and "made by a newer run" in facts["reason"]:
        told.append(
            (
                _command(target, "publish", run, "--replace-newer"),
                "replaces the newer run's release all the same",
            )
        )
    elif state == "held" and bad and any(m.get("ok") for m in facts["models"].values()):
        told.append(
            (_command(target, "publish", run, "--max-failed", str(bad)), "publishes without them")
        )
    elif state == "held" and not bad:
        told.append(
            (
                _command(target, "resume", run),
                "publishes, once the query or the contract of what is published is mended",
            )
        )
    if facts["release"] and facts["release"]["current"] and facts["release"]["parent"] is not None:
        told.append(
            (
                _command(target, "rollback", facts["job"]),
                f"makes release {facts['release']['parent']} the current one again",
            )
        )
    if state == "done":
        told.append((_command(target, "status", run), "shows this again"))
    if facts["sample"]:
        told.append(
            (
                _command(target, "replay", *facts["sample"], *_run_option(run, home)),
                "runs one unit's function here, with the rows it had (--pdb: under the debugger)",
            )
        )
    return told


def _run_option(run: str, home: RunHome) -> list[str]:
    """The option that names a run, where leaving it out would name a newer one."""
    from ..runs.run import newest_run

    return [] if newest_run(home).id == run else ["--run", run]


def _when_fixed(target: Target) -> str:
    return target.backend().fixed


def _command(target: Target, *parts: str) -> str:
    import shlex

    return shlex.join(["hundredfold", *parts, *target.cli_options])


def _validation_results(found: Any) -> Any:
    from ..pipeline.validate import read_validation

    try:
        return read_validation(found.layout, found.home.store)
    except KeyError:
        return []


def _list_runs(home: RunHome, as_json: bool) -> None:
    from dataclasses import asdict

    from ..ports.run_states import State
    from ..runs.summary import state_shown
    from . import display

    records = home.ledger.runs()
    states = [
        state_shown(r, r.state not in (State.NEW, State.RUNNING) or home.is_active(r.id))
        for r in records
    ]
    if as_json:
        facts = [{k: v for k, v in asdict(r).items() if k != "version"} for r in records]
        display.print_json(
            [fact | {"state": state} for fact, state in zip(facts, states, strict=True)]
        )
        return
    for record, state in zip(records, states, strict=True):
        display.stdout.print(
            f"{record.id}  {record.job}  [bold]{state}[/]  {record.step}  {record.updated}"
        )


def _parse_pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, several of them; UsageError for what is not."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(
                f"{option} is {text!r}, wanted NAME=VALUE",
                hint=f"such as {option} sales=data/sales.csv"
                if option == "--source"
                else f"such as {option} sales=0.05",
            )
        if name in pairs:
            raise UsageError(
                f"{option} names {name} twice: {pairs[name]} and {value}",
                hint="name one place; a glob in quotes or a folder can be many files",
            )
        pairs[name] = value
    return pairs


def _parse_limit(what: str, text: str) -> float:
    """A count or a share."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise UsageError(f"{what} is {text!r}, wanted a count such as 3, or a share such as 0.05")
    return share


def main() -> None:
    """The command `hundredfold`."""
    invoke(app, "hundredfold")
