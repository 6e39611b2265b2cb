"""The repository of releases: releases, decision log and active pointer, as objects of a store.

    releases/tariffs/000003/...              a release, as the job published it; never changed here
    releases/tariffs/decisions/000007.json   the log: write-once objects, numbered without a gap
    releases/tariffs/active.json             the active table; derived from the log, and written
                                             again whenever it is older
    releases/tariffs/rule/000003/...         the rule table of a release, and the steps towards it
    releases/tariffs/unchanged/000003/...    the prices of a release, frozen
    releases/tariffs/canary/...              a table with another release's rows in some locations
    releases/tariffs/deltas/...              deltas between two tables

An entry is a decision, valid from its writing.  The pointer follows it, so a reader may see the
previous table for a moment, and never a mixture of two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from hundredfold.errors import HomeError, StateError, UsageError
from hundredfold.releases import Release, Store, parse_release, release_folder, releases_folder
from tariffs.release.decision_log import (
    LOG_FORMAT,
    BrokenLog,
    DecisionLog,
    LogEntry,
    OtherFormat,
    Table,
    encode,
)
from tariffs.release.guards.context import Limits
from tariffs.release.rule import frozen_table, step_to_rule
from tariffs.release.tables import NAME, in_published_order, read_parquet, to_csv, to_parquet

JOB = "tariffs"
ROOT = releases_folder(JOB)
LOG = f"{ROOT}/decisions"
OLD_LOG = f"{ROOT}/approvals"  # of format 1
POINTER = f"{ROOT}/active.json"


class PutIfAbsent(Protocol):
    """Conditional writing of log entries: an object is never replaced."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object if the key is free, whole and durable on return; else return False."""


@dataclass(frozen=True, slots=True)
class StoredRelease:
    """A release in the store.

    digest  the SHA-256 of its release.json, which lists those of its files
    damage  the faults; if there are any, the other facts are missing or doubtful
    """

    version: int
    release: Release | None
    digest: str = ""
    damage: tuple[str, ...] = ()


def stored_releases(store: Store) -> list[StoredRelease]:
    """Return every release, intact or not, oldest first; its files are not read."""
    prefix = f"{ROOT}/"
    versions = {key.removeprefix(prefix).split("/")[0] for key in store.list(prefix)}
    return [
        stored_release(int(version), store) for version in sorted(versions) if version.isdigit()
    ]


def stored_release(version: int, store: Store) -> StoredRelease:
    """Return a release from its release.json."""
    data = _read_or_none(store, f"{release_folder(JOB, version)}/release.json")
    if data is None:
        return StoredRelease(version, None, damage=("release.json is missing",))
    try:
        release = parse_release(store, JOB, version, data)
    except ValueError as error:
        return StoredRelease(version, None, damage=(f"release.json cannot be read: {error}",))
    return StoredRelease(version, release, hashlib.sha256(data).hexdigest())


def verified(version: int, store: Store) -> StoredRelease:
    """Return a release after verifying that every file exists as it was published."""
    found = stored_release(version, store)
    if found.release is None:
        return found
    damage = [
        words
        for key, wanted in found.release.files.items()
        if (words := _file_damage(key, wanted, store))
    ]
    if f"{release_folder(JOB, version)}/{NAME}.parquet" not in found.release.files:
        damage.append(f"it has no {NAME}.parquet")
    return StoredRelease(version, found.release, found.digest, tuple(damage))


def load_verified(version: int, store: Store) -> StoredRelease:
    """Return an intact release; UsageError for an unknown version, StateError for a damaged one."""
    found = verified(version, store)
    if found.release is None and not any(s.version == version for s in stored_releases(store)):
        there = ", ".join(str(s.version) for s in stored_releases(store)) or "none yet"
        raise UsageError(
            f"there is no release {version} of the price table; there is {there}",
            hint="tariffs status",
        )
    if found.damage:
        raise StateError(
            f"release {version} is not what was published",
            problems=found.damage,
            hint="run the job again: hundredfold run tariffs.job:job",
        )
    return found


def read_rows(table: Table, store: Store, columns: tuple[str, ...] | None = None) -> pa.Table:
    """Return the rows of a table; StateError if they cannot be read."""
    data = _read_or_none(store, f"{table_folder(table)}/{NAME}.parquet")
    if data is None:
        raise StateError(
            f"{table} has no {NAME}.parquet in {table_folder(table)}", hint="tariffs status"
        )
    try:
        return read_parquet(data, columns)
    except (pa.ArrowException, OSError) as error:
        raise StateError(f"{table} cannot be read: {error}", hint="tariffs status") from error


def read_log(store: Store) -> DecisionLog:
    """Return the log; HomeError if it is not as it was written, or has another format."""
    if (old := next(iter(store.list(f"{OLD_LOG}/")), None)) is not None:
        raise _other_format(f"found {old}")
    decisions = DecisionLog()
    for key in store.list(f"{LOG}/"):
        try:
            decisions = decisions.then(store.get(key).to_pybytes())
        except OtherFormat as error:
            raise _other_format(f"{key}: {error}") from error
        except BrokenLog as error:
            raise HomeError(
                f"the decision log cannot be trusted: {error}",
                problems=[f"at {key}"],
                hint="restore the entry from a backup (on AWS, the bucket keeps replaced objects)",
            ) from error
    return decisions


def _other_format(found: str) -> HomeError:
    return HomeError(
        f"the decision log has another format than {LOG_FORMAT}, which this program reads: {found}",
        hint="use the version of tariffs that wrote it; or keep its releases as they are, and begin"
        " a log in a new home: --home FOLDER, or another stack",
    )


def append(entry: LogEntry, log_writer: PutIfAbsent) -> bool:
    """Write an entry to the log; False if another process wrote its number first."""
    return log_writer.put_if_absent(f"{LOG}/{entry.number:06d}.json", encode(entry))


def repair_pointer(store: Store) -> bool:
    """Update the pointer from the log; return whether it was older.

    After writing the pointer, the log is read again: so the last writer has written the state of
    the log, in whatever order.
    """
    lagged = False
    while True:
        pointed, decisions = (
            _pointer_entry(store),
            read_log(store),
        )  # in this order: the log only grows
        if pointed >= decisions.next:
            raise HomeError(
                f"the decision log ends with entry {decisions.next - 1}, and {POINTER} was made"
                f" from entry {pointed}: entries are missing",
                hint="restore them from a backup (on AWS, the bucket keeps deleted objects)",
            )
        since = decisions.since()
        if since is None or pointed == since.number:
            return lagged
        store.put(POINTER, json.dumps(pointer_content(decisions, store), indent=1).encode())
        lagged = True


def pointer_content(decisions: DecisionLog, store: Store) -> dict[str, Any]:
    """Return the active table, its files with their SHA-256, since when, and the deciding entry."""
    since = decisions.since()
    assert since is not None
    assert since.active is not None
    table = since.active
    return {
        "entry": since.number,
        **asdict(table),
        "folder": table_folder(table),
        "files": _checksums(table, store),
        "since": since.attribution.at,
        "author": since.attribution.author,
    }


def prepare_rule_table(version: int, store: Store, limits: Limits) -> Table:
    """Write the first step to the rule's prices, so that the kill switch only moves the pointer."""
    for table in (Table(version, rule=True, step=1), Table(version, rule=True)):
        if _derived_is_complete(table, store, limits):
            return table
    return prepare_step(Table(version), store, limits)


def prepare_step(start: Table, store: Store, limits: Limits) -> Table:
    """Write the next step from the active table to the rule's prices; return the table."""
    table, made = next_step(start, store, limits)
    if not _derived_is_complete(table, store, limits):
        _write_table(table_folder(table), "rule.json", made, _step_facts(table, limits), store)
    return table


def next_step(start: Table, store: Store, limits: Limits) -> tuple[Table, pa.Table]:
    """Return the next step from a table to the rule's prices, and its rows; write nothing."""
    made, last = step_to_rule(read_rows(start, store), limits, start.version)
    after = (
        start.after if start.rule and start.canary is None else _origin(start)
    )  # continue a way, or begin one
    return Table(start.version, rule=True, step=0 if last else start.step + 1, after=after), made


def prepare_frozen(start: Table, store: Store) -> Table:
    """Write the present prices as a table of their own; return the table.

    It is always written again, since steps of the same name may have been made with other limits;
    charging does not read it yet.
    """
    table, made = frozen_prices(start, store)
    _write_table(table_folder(table), "rule.json", made, {"version": start.version}, store)
    return table


def frozen_prices(start: Table, store: Store) -> tuple[Table, pa.Table]:
    """Return the table with the present prices, and its rows; write nothing."""
    return Table(start.version, unchanged=True, after=_origin(start)), frozen_table(
        read_rows(start, store)
    )


def _origin(start: Table) -> str:
    """Return the origin of a derived table, as `Table.after`: "" for the release's own table."""
    return (
        ""
        if start == Table(start.version)
        else table_folder(start).removeprefix(f"{ROOT}/").replace("/", "-")
    )


def prepare_canary(table: Table, store: Store) -> None:
    """Write the table with a canary: charging reads one table, not knowing that it is of two."""
    assert table.canary is not None
    base, new = read_rows(table.base, store), read_rows(Table(table.canary), store)
    locations = pa.array(table.locations, pa.string())
    here, there = (pc.is_in(part["location"], value_set=locations) for part in (new, base))
    made = in_published_order(
        pa.concat_tables(
            [
                base.filter(pc.invert(there)),
                new.filter(here).select(base.column_names).cast(base.schema),
            ]
        )
    )
    _write_table(table_folder(table), "canary.json", made, asdict(table), store)


def derived_folder(table: Table) -> str:
    after = f"-after-{table.after}" if table.after else ""
    if table.unchanged:
        return f"{ROOT}/unchanged/{table.version:06d}{after}"
    return f"{ROOT}/rule/{table.version:06d}{after}" + (
        f"/step-{table.step:02d}" if table.step else ""
    )


def table_folder(table: Table) -> str:
    """Return the folder of a table's files."""
    if table.canary is not None:
        locations = hashlib.sha256("\n".join(table.locations).encode()).hexdigest()[:12]
        return f"{ROOT}/canary/{table.canary:06d}-upon-{_slug(table.base)}-{locations}"
    return derived_folder(table) if table.derived else release_folder(JOB, table.version)


def delta_folder(old: Table, new: Table, *, whole: bool) -> str:
    return f"{ROOT}/deltas/{_slug(new)}-against-{_slug(old)}{'-whole' if whole else ''}"


def _slug(table: Table) -> str:
    canary = f"-canary-{table.canary:06d}" if table.canary is not None else ""
    step = f"-step-{table.step:02d}" if table.step else ""
    after = f"-after-{table.after}" if table.after else ""
    kind = f"{'-rule' if table.rule else ''}{'-unchanged' if table.unchanged else ''}"
    return f"{table.version:06d}{kind}{step}{after}{canary}"


def _write_table(
    folder: str, name: str, made: pa.Table, facts: Mapping[str, Any], store: Store
) -> None:
    """Write a derived table: its files, and then the object that lists their checksums."""
    files = {}
    for format, data in (("csv", to_csv(made)), ("parquet", to_parquet(made))):
        key = f"{folder}/{NAME}.{format}"
        store.put(key, data)
        files[key] = hashlib.sha256(data).hexdigest()
    store.put(
        f"{folder}/{name}",
        json.dumps({**facts, "rows": made.num_rows, "files": files}, indent=1).encode(),
    )


def _checksums(table: Table, store: Store) -> dict[str, str]:
    if table.canary is not None:
        return dict(
            json.loads(store.get(f"{table_folder(table)}/canary.json").to_pybytes())["files"]
        )
    if not table.derived:
        found = stored_release(table.version, store)
        return dict(found.release.files) if found.release else {}
    return dict(json.loads(store.get(f"{derived_folder(table)}/rule.json").to_pybytes())["files"])


def _step_facts(table: Table, limits: Limits) -> dict[str, Any]:
    """Return the parameters of a step: with other limits it is made again."""
    used = {
        name: getattr(limits, name)
        for name in ("bundle_step", "voice_step", "voice_cliff", "share_changed")
    }
    return {"version": table.version, "step": table.step, "limits": used}


def _derived_is_complete(table: Table, store: Store, limits: Limits) -> bool:
    """Return whether a derived table is complete, and made within these limits."""
    data = _read_or_none(store, f"{derived_folder(table)}/rule.json")
    try:
        facts = json.loads(data) if data is not None else {}
        files = dict(facts.get("files", {}))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False  # incomplete: it is made again
    if facts.get("limits") != _step_facts(table, limits)["limits"]:
        return False
    return bool(files) and not any(
        _file_damage(key, wanted, store) for key, wanted in files.items()
    )


def _file_damage(key: str, wanted: str, store: Store) -> str:
    """Return the damage of a file, "" for none."""
    name = key.rsplit("/", 1)[-1]
    try:
        data = store.get(key)
    except KeyError:
        return f"{name} is missing"
    return (
        ""
        if hashlib.sha256(memoryview(data)).hexdigest() == wanted
        else f"{name} is not what was published: its SHA-256 differs"
    )


def _pointer_entry(store: Store) -> int:
    """Return the entry from which the pointer was made; 0 if it is missing or unreadable."""
    data = _read_or_none(store, POINTER)
    try:
        return int(json.loads(data)["entry"]) if data is not None else 0
    except (ValueError, KeyError, TypeError):
        return 0


def _read_or_none(store: Store, key: str) -> bytes | None:
    try:
        return bytes(store.get(key).to_pybytes())
    except KeyError:
        return None
