"""A person comes in here.

Result to stdout, words to stderr; exit 0 = done, 1 = the run failed or is held back, 2 = the words were wrong, 130 = stopped by hand.
What costs time to import is imported by the command that needs it, so that `--help` answers at once; and annotations are
read as they stand here (no future import), since typer would evaluate the texts of all of them at every start.
"""

import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .errors import HundredfoldError, PublishRefused, UsageError
from .forking import warm

app = typer.Typer(
    name="hundredfold",
    help="Run a Python function over every unit of a table, in parallel, as a dependable pipeline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JobArgument = Annotated[
    str,
    typer.Argument(
        help="The job, as module:attribute or path/to/file.py:attribute, such as my_job.job:job. The attribute can be left out where there is one job."
    ),
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        "-s",
        help="NAME=PATH: where a source's rows are (a file, a glob in quotes, a folder). Can be given again.",
        show_default=False,
    ),
]
AsOfOption = Annotated[
    str | None, typer.Option("--as-of", help="What counts as now, in UTC: 2026-06-30 or 2026-06-30T12:00.", show_default=False)
]
HomeOption = Annotated[str, typer.Option("--home", envvar="HUNDREDFOLD_HOME", help="The folder that keeps the runs.")]
RunArgument = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's id; the newest run, if left out.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, for a script.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Worker processes; one for each core, if left out.", show_default=False)
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory", help="Memory for all processes together, such as 2GB; 70 % of the machine's, if left out.", show_default=False
    ),
]
KEPT = ".hundredfold"


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from . import __version__

        typer.echo(f"hundredfold {__version__}")
        raise typer.Exit


@app.command()
def run(
    job: JobArgument,
    source: SourceOption = None,
    home: HomeOption = KEPT,
    workers: WorkersOption = None,
    memory: MemoryOption = None,
    as_of: AsOfOption = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", help="The run's id, instead of one made from the time.", show_default=False)
    ] = None,
    max_rejected: Annotated[
        list[str] | None,
        typer.Option(
            "--max-rejected", help="NAME=LIMIT: so many rows of a source (or such a share, as 0.05) may be rejected.", show_default=False
        ),
    ] = None,
    max_failed: Annotated[
        str | None, typer.Option("--max-failed", help="So many units of a model (or such a share, as 0.01) may fail.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a job: validate, prepare, enqueue, work, collect, publish."""
    warm()
    from .local import verbs

    limits = {name: _limit(f"--max-rejected {name}", value) for name, value in _pairs("--max-rejected", max_rejected).items()}
    failed = _limit("--max-failed", max_failed) if max_failed is not None else None
    places = _pairs("--source", source)
    _watched(
        lambda watcher: verbs.run(
            job,
            places,
            home=home,
            workers=workers,
            memory=memory,
            as_of=as_of,
            run_id=run_id,
            max_rejected=limits,
            max_failed=failed,
            watcher=watcher,
        ),
        home,
        as_json,
    )


@app.command()
def status(
    run: RunArgument = None,
    home: HomeOption = KEPT,
    every: Annotated[bool, typer.Option("--all", help="List all runs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say where a run is, what came of its rows and units, and what to do next."""
    from . import display
    from .local import runs

    if every:
        _list_runs(home, as_json)
        return
    found = runs.open_run(run, home=home)
    facts = runs.summary(found)
    if as_json:
        display.print_json(facts)
        return
    display.show_summary(facts, _verdicts(found), None)
    if facts["state"] == "running":
        display.result.print(f"\nat: {facts['step']}" + ("" if facts["driven"] else "   (but no driver is at work on it)"))
    display.show_next(_next(facts, home))


@app.command()
def failures(
    run: RunArgument = None,
    model: Annotated[str | None, typer.Option("--model", help="Of this model only.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", help="Show so many at most.")] = 20,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show each unit's traceback.")] = False,
    home: HomeOption = KEPT,
    as_json: JsonOption = False,
) -> None:
    """List the units that failed or died, each with its reason."""
    from rich.markup import escape

    from . import display
    from .local import runs

    rows = runs.open_run(run, home=home).failures(model).arrow().to_pylist()
    if as_json:
        display.print_json(rows)
        return
    for row in rows[:limit]:
        display.result.print(
            f"[bold]{escape(row['model'])}  {escape(row['unit'])}[/]  {row['status']}  {escape(row['error'])}: {escape((row['message'] or '').strip())}"
        )
        if traceback and row["traceback"]:
            display.result.print(escape(row["traceback"]))
    if len(rows) > limit:
        display.result.print(f"and {len(rows) - limit:,} more")
    if not rows:
        display.result.print("no unit failed")
        return
    first = rows[0]
    display.show_next(
        [
            (_command(home, "replay", first["model"], first["unit"], "--pdb"), "runs that unit's function here, under the debugger"),
            (_command(home, "retry"), "does the failed units again, once the function is mended"),
        ]
    )


@app.command()
def replay(
    model: Annotated[str, typer.Argument(help="The model.")],
    key: Annotated[str, typer.Argument(help='The unit\'s key, such as "PREMIUM,Accra,1GB"; "" for a model of one unit.')],
    run: Annotated[str | None, typer.Option("--run", help="A run's id; the newest run, if left out.", show_default=False)] = None,
    pdb: Annotated[bool, typer.Option("--pdb", help="Under the debugger: stop at the first line; without it, nothing stops.")] = False,
    home: HomeOption = KEPT,
) -> None:
    """Call a model's function here on one unit, with the rows it had in the run."""
    from . import display
    from .local.replay import replay as replay_unit

    if not pdb:
        display.result.print(repr(replay_unit(model, key, run_id=run, home=home)), markup=False)
        return
    from pdb import Pdb

    value = replay_unit(model, key, run_id=run, home=home, call=Pdb().runcall)
    display.result.print(repr(value), markup=False)


@app.command()
def retry(
    run: RunArgument = None,
    home: HomeOption = KEPT,
    workers: WorkersOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do the failed and dead units again, and the models that build on them; then go on to publish."""
    warm()
    from .local import verbs

    _watched(lambda watcher: verbs.retry(run, home=home, watcher=watcher, workers=workers, memory=memory), home, as_json)


@app.command()
def resume(
    run: RunArgument = None,
    home: HomeOption = KEPT,
    workers: WorkersOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that was stopped, or whose driver died. What is done is kept."""
    warm()
    from .local import verbs

    _watched(lambda watcher: verbs.resume(run, home=home, watcher=watcher, workers=workers, memory=memory), home, as_json)


@app.command()
def cancel(run: RunArgument = None, home: HomeOption = KEPT) -> None:
    """End a run for good. What was done stays readable."""
    from . import display
    from .local import verbs

    record = verbs.cancel(run, home=home)
    display.result.print(f"run {record.id} is cancelled; its files stay until you remove them")


@app.command()
def publish(
    run: RunArgument = None,
    max_failed: Annotated[
        str | None, typer.Option("--max-failed", help="So many units of a model (or such a share) may have failed.", show_default=False)
    ] = None,
    home: HomeOption = KEPT,
    as_json: JsonOption = False,
) -> None:
    """Publish a run that its limits held back."""
    from .local import verbs

    limit = _limit("--max-failed", max_failed) if max_failed is not None else None
    _watched(lambda watcher: verbs.publish(run, home=home, max_failed=limit, watcher=watcher), home, as_json)


@app.command()
def rollback(
    job: Annotated[str, typer.Argument(help="The job's name.")],
    to: Annotated[
        int | None,
        typer.Option("--to", help="The version to go to; the one that the current was built upon, if left out.", show_default=False),
    ] = None,
    home: HomeOption = KEPT,
) -> None:
    """Let the release that the current one replaced, or another, be the current one."""
    from . import display
    from .local import verbs

    release = verbs.rollback(job, home=home, to=to)
    display.result.print(
        f"release {release.version} of {job} is current again (run {release.run}, {', '.join(f'{n:,} rows of {name}' for name, n in release.rows.items())})"
    )


@app.command()
def bench(
    job: JobArgument,
    source: SourceOption = None,
    model: Annotated[str | None, typer.Option("--model", help="This model only; those before it run, untimed.", show_default=False)] = None,
    workers: WorkersOption = None,
    memory: MemoryOption = None,
    as_of: AsOfOption = None,
    seconds: Annotated[
        float,
        typer.Option("--seconds", help="So long may the run here take; the other timings together as long again. Beyond it: extrapolated."),
    ] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Is it worth it? Time a job here, and as the loops that it replaces. Nothing is kept."""
    from .forking import warm

    warm()
    from . import comparison, display

    warm()
    from .local.bench.compare import compare

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    places = _pairs("--source", source)
    with display.Timing() as listener:
        try:
            facts = compare(job, places, model=model, workers=workers, memory=memory, as_of=as_of, seconds=seconds, listener=listener)
        except KeyboardInterrupt:
            listener.bars.stop()
            display.words.print("stopped; nothing is kept")
            raise typer.Exit(130) from None
    if as_json:
        display.print_json(facts)
    else:
        comparison.show_comparison(facts)


@app.command()
def init(name: Annotated[str, typer.Argument(help="A name for the new package, such as my_job.")]) -> None:
    """Make a small working project of your own: a model, a query, a contract, sample data, a test."""
    from . import display
    from .scaffold import scaffold

    folder = scaffold(name)
    display.result.print(f"made {display.near(folder)}")
    display.show_next(
        [
            (f"hundredfold run {name}.job:job", "runs it"),
            (f"python -m pytest {name}", "tests its function (with pytest installed)"),
            (f"{name}/README.md", "says what to change first"),
        ]
    )


@app.command()
def demo(
    size: Annotated[str, typer.Option("--size", help="demo, medium or large.")] = "demo",
    name: Annotated[str, typer.Option("--name", help="Which of the installed demos.")] = "tariffs",
    data: Annotated[
        str | None, typer.Option("--data", help="The folder for the demo's data; below the home, if left out.", show_default=False)
    ] = None,
    home: HomeOption = KEPT,
    workers: WorkersOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a mobile operator's data with known truth and realistic dirt, and price all of it."""
    warm()
    from . import display
    from .demo import find_demo
    from .local import verbs

    found = find_demo(name)
    found.check(size)
    folder = found.folder(data, home, size)
    began = time.monotonic()
    display.words.print(f"making the data of size {size} in {folder}", style="dim")
    places = found.make(size, folder)
    display.words.print(f"made in {time.monotonic() - began:.1f} s", style="dim")
    _watched(
        lambda watcher: verbs.run(found.job, places, home=home, workers=workers, memory=memory, as_of=found.as_of, watcher=watcher),
        home,
        as_json,
    )


def _watched(action: Callable[[Any], Any], home: str, as_json: bool) -> None:
    """Do something long under a bar, and say at its end what has come of it."""
    from . import display
    from .local import runs

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is answered like Ctrl-C
    began = time.monotonic()
    with display.Live() as live:
        try:
            found = action(live)
        except PublishRefused as refusal:
            held: PublishRefused | None = refusal
            found = runs.open_run(live.run, home=home)
        except KeyboardInterrupt:
            live.bars.stop()
            _stopped(live, home)
        else:
            held = None
    facts = runs.summary(found)
    if as_json:
        display.print_json(facts)
    else:
        display.show_summary({**facts, "reason": ""} if held else facts, _verdicts(found), time.monotonic() - began)
        if held is None:
            display.show_next(_next(facts, home))
    if held is not None:
        raise held


def _stopped(live: Any, home: str) -> None:
    """Ctrl-C: say that nothing is lost, and how to go on."""
    from . import display

    done = f"; {live.last.done:,} of {live.last.units:,} units of {live.last.model} are done" if live.last else ""
    if not live.run:
        display.words.print("stopped before a run had begun")
    else:
        display.words.print(f"stopped: nothing is lost{done}")
        display.words.print(f"hint: {_command(home, 'resume', live.run)}")
    raise typer.Exit(130)


def _next(facts: dict[str, Any], home: str) -> list[tuple[str, str]]:
    """The commands that make sense now."""
    run, state = facts["run"], facts["state"]
    bad = sum(m.get("failed", 0) + m.get("dead", 0) for m in facts["models"].values())
    told = []
    if state == "running" and facts["driven"]:
        told.append((_command(home, "status", run), "shows how far it is by then"))
        told.append((_command(home, "cancel", run), "ends it for good"))
    if state in ("new", "running") and not facts["driven"]:
        told.append((_command(home, "resume", run), "goes on where the driver stopped"))
    if state == "failed":
        told.append((_command(home, "resume", run), "goes on, once the cause is mended"))
    if bad:
        told.append((_command(home, "failures", run), f"shows why {bad:,} units failed"))
        told.append((_command(home, "retry", run), "does them again, once the function is mended"))
    if state == "held" and bad:
        told.append((_command(home, "publish", run, "--max-failed", str(bad)), "publishes without them"))
    if state == "held" and not bad:
        told.append((_command(home, "resume", run), "publishes, once the query or the contract of what is published is mended"))
    if facts["release"] and facts["release"]["current"] and facts["release"]["parent"] is not None:
        told.append((_command(home, "rollback", facts["job"]), f"makes release {facts['release']['parent']} the current one again"))
    if state == "done":
        told.append((_command(home, "status", run), "shows this again"))
    if facts["sample"]:
        told.append(
            (_command(home, "replay", *facts["sample"]), "runs one unit's function here, with the rows it had (--pdb: under the debugger)")
        )
    return told


def _command(home: str, *parts: str) -> str:
    import shlex

    return shlex.join(["hundredfold", *parts, *(["--home", home] if home != KEPT else [])])


def _verdicts(found: Any) -> Any:
    from .steps.validate import read_verdicts

    try:
        return read_verdicts(found.layout, found.home.store)
    except KeyError:
        return []


def _list_runs(home: str, as_json: bool) -> None:
    from dataclasses import asdict

    from . import display
    from .local.home import Home

    records = Home(home, make=False).ledger.runs()
    if as_json:
        display.print_json([{k: v for k, v in asdict(r).items() if k != "version"} for r in records])
        return
    for record in records:
        display.result.print(f"{record.id}  {record.job}  [bold]{record.state.value}[/]  {record.step}  {record.updated}")


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """NAME=VALUE, several of them; UsageError for what is not."""
    pairs: dict[str, str] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(
                f"{option} is {text!r}, wanted NAME=VALUE",
                hint=f"such as {option} sales=data/sales.csv" if option == "--source" else f"such as {option} sales=0.05",
            )
        if name in pairs:
            raise UsageError(
                f"{option} names {name} twice: {pairs[name]} and {value}",
                hint="name one place; a glob in quotes or a folder can be many files",
            )
        pairs[name] = value
    return pairs


def _limit(what: str, text: str) -> float:
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
    try:
        app()
    except HundredfoldError as error:
        from . import display

        display.show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone, as `head` does
        sys.exit(0)
