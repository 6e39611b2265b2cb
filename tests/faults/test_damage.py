"""Files of a home that are flipped, truncated, emptied or removed: the right value, or an error
that names the file.

A home is prepared once for each stage at which a driver may have died, and copied for each damage.
The actions of drivers and workers are performed in this process; no process is started. All
combinations: python -m pytest -m drill tests/faults/test_damage.py
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

import hundredfold
from hundredfold import open_run
from hundredfold.api import replay
from hundredfold.errors import DamagedFile, HomeError, HundredfoldError, StateError
from hundredfold.local.home import Home
from hundredfold.pipeline.runner import NullCallbacks
from hundredfold.ports.interfaces import Record
from hundredfold.ports.run_facts import HOME_FORMAT
from hundredfold.ports.run_states import State
from hundredfold.runs.run import Run
from hundredfold.runs.summary import summarize
from support.in_process_pool import published_bytes
from support.two_model_runs import (
    HELD,
    JOB,
    STAGES,
    begin,
    drive,
    publish,
    resume,
    retry,
    tried,
    write_sales,
)

SEED = 4711


class Killed(BaseException):
    """What ends a driver as a kill does: nothing is written down."""


@dataclass(frozen=True)
class KilledAt(NullCallbacks):
    """Ends the driver where a stage would begin."""

    last: str

    def stage_started(self, stage: Any) -> None:
        if str(stage) == self.last:
            raise Killed


@dataclass(frozen=True)
class Prepared:
    """Homes by the stage before which their run was stopped, and what each action leaves where
    nothing is damaged.
    """

    homes: dict[str, Path]
    wanted: dict[str, dict[str, bytes]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    write_sales(folder / "sales.csv")
    first = Home(folder / "first")
    begin(first, JOB, "older")  # so that there is a release to go back to
    drive(first, JOB, run="older")
    homes = {}
    for name in (*STAGES, "done", "held"):
        homes[name] = folder / name.replace(" ", "-")
        shutil.copytree(first.folder, homes[name])
        home, job = Home(homes[name]), HELD if name == "held" else JOB
        begin(home, job, "r")
        with suppress(Killed, HundredfoldError):
            drive(home, job, callbacks=KilledAt(name))
        assert home.ledger.read("r").state.value == (
            name if name in ("done", "held") else "running"
        )
    wanted = {"resume": published_bytes(homes["done"])}
    for name, action, begun in (("retry", retry, "done"), ("publish", publish, "held")):
        action(copied(homes[begun], folder / f"wanted-{name}"))
        wanted[name] = published_bytes(folder / f"wanted-{name}")
    assert wanted["publish"] == wanted["resume"]
    assert wanted["retry"] != wanted["resume"]
    return Prepared(homes, wanted)


def copied(home: Path, to: Path) -> Path:
    shutil.copytree(home, to)
    return to


def files(home: Path) -> list[str]:
    """Every file of a home, by its place in it."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def kind(name: str) -> str:
    """The kind of a file: its place without run, model, numbers."""
    return (
        re.sub(r"\d+", "N", re.sub(r"^runs/(older|r)/", "runs/R/", name))
        .replace("worth", "M")
        .replace("mean", "M")
    )


DAMAGES = ("start", "middle", "end", "anywhere", "half", "less", "emptied", "removed")


def damaged(path: Path, how: str, chance: Random) -> bool:
    """Damage a file; whether that changed anything."""
    data = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
        return True
    if not data:
        return False
    if how in ("half", "less", "emptied"):
        path.write_bytes(data[: {"half": len(data) // 2, "less": len(data) - 1, "emptied": 0}[how]])
        return True
    at = {"start": 0, "middle": len(data) // 2, "end": len(data) - 1}.get(
        how, chance.randrange(len(data))
    )
    data[at] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return True


def reads(home: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What a person looks at in a run that is done, by its name."""

    def run() -> Run:
        return open_run("r", home=home)

    for model in ("mean", "worth"):
        yield (
            f"results {model}",
            partial(lambda model: run().results(model).to_arrow(), model),
        )
        yield (
            f"units {model}",
            partial(lambda model: run().units(model).to_arrow().drop_columns(["seconds"]), model),
        )
        yield (
            f"replay {model}",
            partial(lambda model: replay(model, "1", run_id="r", home=home, job=JOB), model),
        )
    yield "failures", lambda: run().failures().to_arrow().drop_columns(["seconds"])
    for source in ("sales", "costs"):
        yield (
            f"rejects {source}",
            partial(lambda source: run().rejects(source).to_arrow(), source),
        )
        yield (
            f"repairs {source}",
            partial(lambda source: run().repairs(source).to_arrow(), source),
        )
    yield "table", lambda: run().published_rows().to_arrow()
    for format in ("csv", "parquet", "jsonl"):
        yield (
            f"published {format}",
            partial(lambda format: run().published(format=format).read_bytes(), format),
        )
    yield (
        "status",
        lambda: {k: v for k, v in summarize(run()).items() if k not in ("folder", "release")},
    )
    yield (
        "runs",
        lambda: [
            (record.id, record.state, record.counts)
            for record in Home(home, make=False).ledger.runs()
        ],
    )


@pytest.fixture(scope="module")
def seen(prepared: Prepared) -> dict[str, Any]:
    return {name: read() for name, read in reads(prepared.homes["done"])}


# kinds of files whose damage is no damage: nothing is read from them but words for people
HARMLESS = re.compile(r"\.lock$|\.publish$|driver\.txt$|\.gitignore$|^scratch/|/logs/")


def check_reads(home: Path, name: str, how: str, seen: dict[str, Any]) -> None:
    for what, read in reads(home):
        found, error = tried(read)
        if error is not None:
            assert not HARMLESS.search(name), (name, how, what, error)
            assert error.hint, (name, how, what, error)
            continue
        rebuilt = name == "ledger.sqlite" and what in (
            "status",
            "runs",
        )  # its records say that they are
        assert found == seen[what] or (
            rebuilt and "rebuilt" in open_run("r", home=home).record.reason
        ), (name, how, what)


def check_action(
    home: Path, action: Callable[[Path], None], name: str, how: str, wanted: dict[str, bytes]
) -> None:
    """An action on a home with a damaged file ends with the right bytes, or with an error that is
    on the record.
    """
    where = (action.__name__, name, how)
    _, error = tried(lambda: action(home))
    if error is not None:
        assert not HARMLESS.search(name), (*where, error)
        assert error.hint, (*where, error)
        record, unread = tried(lambda: Home(home, make=False).ledger.read("r"))
        assert unread is not None or record.state is not State.RUNNING, (
            *where,
            error,
        )  # it is the ledger or the mark itself
        return
    found, other = (
        published_bytes(home),
        name.partition(": ")[2],
    )  # a file of the older release is not this run's to make anew
    assert {key: found.get(key) for key in wanted if key != other} == {
        key: wanted[key] for key in wanted if key != other
    }, where
    assert open_run("r", home=home).state == "done", where


ACTIONS = {"resume": resume, "retry": retry, "publish": publish}


def cases(prepared: Prepared) -> list[tuple[str, str, str, str]]:
    """Each (action, home, file, damage) that there is."""
    found = []
    for stage, home in prepared.homes.items():
        actions = {"done": ("retry", "resume"), "held": ("publish",)}.get(stage, ("resume",))
        for action in actions:
            found += [(action, stage, name, how) for name in files(home) for how in DAMAGES]
    return found


def few(
    found: list[tuple[str, str, str, str]], each: int, chance: Random
) -> list[tuple[str, str, str, str]]:
    """A few cases of each kind of file and damage, at different stages."""
    chance.shuffle(found)
    counted: dict[tuple[str, str], int] = {}
    chosen = []
    for case in found:
        key = kind(case[2]), "flipped" if case[3] in DAMAGES[:4] else case[3]
        counted[key] = counted.get(key, 0) + 1
        if counted[key] <= each and not HARMLESS.search(case[2]):
            chosen.append(case)
    return chosen


def run_cases(chosen: list[tuple[str, str, str, str]], prepared: Prepared, folder: Path) -> None:
    for number, (action, stage, name, how) in enumerate(chosen):
        home = copied(prepared.homes[stage], folder / str(number))
        if damaged(home / name, how, Random(f"{SEED} {name} {how}")):
            check_action(home, ACTIONS[action], f"{stage}: {name}", how, prepared.wanted[action])
        shutil.rmtree(home)


def test_whatever_is_damaged_an_action_ends_with_the_same_bytes_or_fails(
    prepared: Prepared, tmp_path: Path
) -> None:
    run_cases(few(cases(prepared), 1, Random(SEED)), prepared, tmp_path)


@pytest.mark.drill
def test_each_action_from_each_stage_with_each_file_damaged_in_each_way(
    prepared: Prepared, tmp_path: Path
) -> None:
    run_cases(cases(prepared), prepared, tmp_path)


@pytest.mark.parametrize(
    "hows",
    [("anywhere", "half", "emptied", "removed"), pytest.param(DAMAGES, marks=pytest.mark.drill)],
)
def test_whatever_is_damaged_what_is_read_is_right_or_refused(
    prepared: Prepared, seen: dict[str, Any], tmp_path: Path, hows: Any
) -> None:
    for number, (name, how) in enumerate(
        (name, how) for name in files(prepared.homes["done"]) for how in hows
    ):
        if "older" in name:
            continue
        home = copied(prepared.homes["done"], tmp_path / str(number))
        if damaged(home / name, how, Random(f"{SEED} {name} {how}")):
            check_reads(home, name, how, seen)
        shutil.rmtree(home)


def test_a_rollback_to_a_damaged_release_is_refused_and_names_the_file(
    prepared: Prepared, tmp_path: Path
) -> None:
    there = prepared.homes["done"]
    chosen = [name for name in files(there) if name.startswith("releases/")]
    for number, (name, how) in enumerate(
        (name, how) for name in chosen for how in ("anywhere", "half", "emptied", "removed")
    ):
        home = copied(there, tmp_path / str(number))
        damaged(home / name, how, Random(number))
        pointer = (
            (home / "releases/j/current.json").read_bytes()
            if not name.endswith("current.json")
            else b""
        )
        done, error = tried(partial(hundredfold.rollback, "j", home=home))
        if error is None:
            assert done.version == 1
            assert name.startswith(("releases/j/000002/out.", "releases/j/claims/")), (name, how)
        else:
            assert str(home / name) in str(error), (name, how)
            assert error.hint, (name, how)
            assert not pointer or (home / "releases/j/current.json").read_bytes() == pointer


def test_a_ledger_that_is_damaged_is_rebuilt_from_the_runs_folders(
    prepared: Prepared, seen: dict[str, Any], tmp_path: Path
) -> None:
    home = copied(prepared.homes["done"], tmp_path / "home")
    ledger = home / "ledger.sqlite"
    damaged(ledger, "start", Random(1))
    with pytest.raises(DamagedFile, match=re.escape(f"{ledger} is damaged")) as error:
        open_run("r", home=home)
    assert f"mv {ledger} {ledger}.damaged" in (error.value.hint or "")
    ledger.rename(f"{ledger}.damaged")
    assert sorted((record.id, record.state.value) for record in Home(home).ledger.runs()) == [
        ("older", "failed"),
        ("r", "failed"),
    ]
    run = open_run("r", home=home)
    assert "rebuilt from the run's folder" in run.record.reason
    assert run.results().to_arrow() == seen["results worth"]
    assert run.release is not None
    assert run.release.version == 2
    resume(home)
    assert run.state == "done"
    assert published_bytes(home) == prepared.wanted["resume"]


def test_a_run_that_is_done_is_made_whole_by_resume(prepared: Prepared, tmp_path: Path) -> None:
    names = [
        "runs/r/models/mean/results.parquet",
        "runs/r/models/worth/units.parquet",
        "runs/r/models/worth/batches/000000.arrow",
        "releases/j/000002/out.csv",
        "releases/j/000002/out.parquet",
    ]
    for number, name in enumerate(names):
        home = copied(prepared.homes["done"], tmp_path / str(number))
        damaged(home / name, "middle", Random(number))
        resume(home)
        assert published_bytes(home) == prepared.wanted["resume"], name
        assert str(home / name) in open_run("r", home=home).counts["recomputed"][
            0
        ] or name.startswith("runs"), name
    with pytest.raises(StateError, match="it is done"):
        resume(prepared.homes["done"])


def test_a_home_of_an_older_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    Home(tmp_path)
    (tmp_path / "format").write_text(f"{HOME_FORMAT - 1}\n")
    with pytest.raises(
        HomeError, match=f"has format {HOME_FORMAT - 1}, of an older hundredfold"
    ) as refused:
        Home(tmp_path)
    assert "--home" in (refused.value.hint or "")


def test_a_run_of_an_older_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    made = "2026-11-22T10:00:00.000+00:00"
    Home(tmp_path).ledger.create(Record("r", "j", "jobs:job", State.DONE, "done", made, made))
    for read in (open_run, hundredfold.resume):
        with pytest.raises(StateError, match="run r has format 3, and this program") as refused:
            read("r", home=tmp_path)
        assert "hundredfold run jobs:job" in (refused.value.hint or "")
