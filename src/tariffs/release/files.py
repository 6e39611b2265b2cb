"""Files for other systems: deltas and exports."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from hundredfold.errors import StateError, UsageError
from hundredfold.releases import RunHome, Store
from tariffs.contracts import CHARGING_COLUMNS
from tariffs.release import repository, tmf620
from tariffs.release.decision_log import DecisionLog, Table
from tariffs.release.delta import Delta, InvalidTable, delta, to_json
from tariffs.release.states import State
from tariffs.release.tables import to_csv, to_parquet

DELTA_FILE = "price_delta"


@dataclass(frozen=True, slots=True)
class WrittenDelta:
    """A delta from one table to another, its files, and the number of rows of the new table."""

    old: Table
    new: Table
    change: Delta
    rows: int
    files: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        return {
            "from": str(self.old),
            "to": str(self.new),
            **self.change.counts(),
            "facts": to_json(self.change.facts),
            "files": self.files,
        }


def resolve_table(word: str, decisions: DecisionLog, store: Store) -> Table:
    """Return the table of a word: a version, or 'active'; UsageError if there is none."""
    if word == "active":
        if decisions.active is None:
            raise UsageError("no table is active", hint="name a version: tariffs status")
        return decisions.active
    if not word.isdigit():
        raise UsageError(
            f"{word!r} is no table, wanted a version such as 3, or 'active'", hint="tariffs status"
        )
    repository.load_verified(int(word), store)
    return Table(int(word))


def write_delta(new: str, old: str, home: RunHome, out: str | None, *, whole: bool) -> WrittenDelta:
    """Compute a delta and write it as CSV, Parquet, and its facts as JSON."""
    decisions = repository.read_log(home.store)
    after, before = (
        resolve_table(new, decisions, home.store),
        resolve_table(old, decisions, home.store),
    )
    if after == before:
        raise UsageError(
            f"{after} is compared with itself",
            hint=f"name the table before it: tariffs delta {new} --against VERSION",
        )
    rows, was = repository.read_rows(after, home.store), repository.read_rows(before, home.store)
    try:
        change = delta(was, rows, rows.column_names if whole else CHARGING_COLUMNS)
    except InvalidTable as error:
        raise StateError(
            f"there is no delta from {before} to {after}: {error}",
            hint=f"tariffs check {after.version}",
        ) from error
    files = {
        f"{DELTA_FILE}.csv": to_csv(change.rows),
        f"{DELTA_FILE}.parquet": to_parquet(change.rows),
    }
    facts = {
        "from": {"version": before.version, "rule": before.rule},
        "to": {"version": after.version, "rule": after.rule},
        **change.counts(),
        "facts": to_json(change.facts),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    files[f"{DELTA_FILE}.json"] = json.dumps(facts, indent=1).encode() + b"\n"
    paths = (
        _write_to_folder(files, Path(out))
        if out
        else _write_to_store(files, repository.delta_folder(before, after, whole=whole), home)
    )
    return WrittenDelta(before, after, change, rows.num_rows, tuple(paths))


def export(word: str, format: str, home: RunHome, out: Path | None, base: str | None) -> int:
    """Write a table for another system, with its present state; return the number of prices."""
    decisions = repository.read_log(home.store)
    table = resolve_table(word, decisions, home.store)
    rows = repository.read_rows(table, home.store)
    state = _state(table, decisions)
    if format in ("csv", "parquet"):
        made = _with_status(rows, state)
        data = to_csv(made) if format == "csv" else to_parquet(made)
        if format == "parquet" and out is None:
            raise UsageError(
                "Parquet cannot be written to a terminal",
                hint="name a file: --out price_table.parquet",
            )
        _write_bytes(iter([data]), out)
    else:
        standing = publication_status(table, decisions, base)
        lines = (
            tmf620.as_array(rows, standing)
            if format == "tmf620"
            else tmf620.as_lines(rows, standing)
        )
        _write_bytes((line.encode() for line in lines), out)
    return int(rows.num_rows)


def publication_status(
    table: Table, decisions: DecisionLog, base: str | None = None
) -> tmf620.PublicationStatus:
    """Return the facts that all prices of a table share, for TMF620."""
    about, since = decisions.entries_of(table.version), decisions.since()
    used = decisions.active == table
    brought = (
        used and since is not None and since.action == "kill"
    )  # its own times are those of the week for which it was made
    changed = since if used else about[-1] if about else None
    return tmf620.PublicationStatus(
        tmf620.life_cycle(_state(table, decisions), decisions.was_used(table.version)),
        changed.attribution.at if changed else None,
        since.attribution.at if brought and since else None,
        base,
    )


def _state(table: Table, decisions: DecisionLog) -> State:
    """Return a release's state; a derived table is active while charging uses it."""
    if table.derived or table.canary is not None:
        return State.ACTIVE if decisions.active == table else State.APPROVED
    return decisions.state(table.version)


def _with_status(rows: pa.Table, state: State) -> pa.Table:
    if state is State.CANARY:
        state = State.APPROVED  # the whole table; `export active` has the canary's locations
    return rows.set_column(
        rows.schema.get_field_index("status"),
        "status",
        pa.array([state.value] * rows.num_rows, pa.string()),
    )


def _write_to_folder(files: dict[str, bytes], folder: Path) -> Iterator[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
            yield str(folder / name)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written: {error.strerror or error}",
            hint="name another folder with --out",
        ) from error


def _write_to_store(files: dict[str, bytes], folder: str, home: RunHome) -> Iterator[str]:
    for name, data in files.items():
        home.store.put(f"{folder}/{name}", data)
        yield home.where(f"{folder}/{name}")


def _write_bytes(parts: Iterator[bytes], out: Path | None) -> None:
    if out is None:
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.flush()
        return
    half = out.with_name(f".{out.name}.half")
    try:
        with half.open("wb") as file:
            file.writelines(parts)
        half.replace(out)  # complete, or absent
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written: {error.strerror or error}",
            hint="name another file with --out",
        ) from error
    finally:
        half.unlink(missing_ok=True)
