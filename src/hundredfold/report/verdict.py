"""The head of a report: the verdict on the run, its main figures, and where it comes from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ..errors import DamagedFile
from ..figures import counted, duration
from ..runs.job_code import facts_of
from .html import Content, Markup, element
from .run_files import RunFiles
from .tables import cut, details, facts, table

LOOKS = {"done": "good", "held": "warn", "failed": "bad", "cancelled": "warn", "stopped": "warn"}
STATES = {
    "done": "The run is done",
    "held": "The run is held: nothing is published",
    "failed": "The run failed",
    "cancelled": "The run was cancelled",
    "stopped": "The run was stopped, and can be resumed",
    "running": "The run is in progress",
    "new": "The run has not begun",
}
MAX_FILES = 50  # of a source


def verdict(files: RunFiles) -> Markup:
    """Return the header of the page: the state in a sentence, the reason, and the main figures."""
    summary = files.summary
    state = summary["state"]
    title = element(
        "h1",
        summary["job"],
        element("span", state, class_=f"state {LOOKS.get(state, 'calm')}"),
    )
    reason = summary["reason"] if state not in ("done", "running") else ""
    tiles = [_tile(*each) for each in _figures(files)]
    return element(
        "header",
        title,
        element("p", sentence(files), class_="verdict"),
        element("pre", cut(reason, 4_000), class_="reason") if reason else None,
        element("dl", tiles, class_="tiles") if tiles else None,
    )


def sentence(files: RunFiles) -> str:
    """Return the verdict in one sentence or two."""
    summary, release = files.summary, files.summary["release"]
    text = STATES.get(summary["state"], summary["state"])
    if release is not None:
        rows = ", ".join(
            f"{counted(count, 'row')} of {name}" for name, count in release["rows"].items()
        )
        current = (
            "which is current"
            if release["current"]
            else f"and release {release['current_version']} is current"
        )
        text += f": it published {rows} as release {release['version']}, {current}"
    bad = sum(m.get("failed", 0) + m.get("crashed", 0) for m in summary["models"].values())
    lost = sum(source["rejected"] for source in summary["sources"].values())
    notes = [f"{counted(bad, 'unit')} failed"] if bad else []
    notes += [f"{counted(lost, 'row')} {'was' if lost == 1 else 'were'} rejected"] if lost else []
    return f"{text}. {' and '.join(notes)}." if notes else f"{text}."


def _tile(name: str, value: str, note: str) -> Markup:
    return element(
        "div",
        element("dt", name),
        element("dd", value, element("span", note, class_="of") if note else None),
    )


def _figures(files: RunFiles) -> Iterator[tuple[str, str, str]]:
    """Yield the main figures: a name, a value, and a note."""
    summary = files.summary
    sources, models = summary["sources"].values(), summary["models"].values()
    if sources:
        rows = sum(each["rows"] for each in sources)
        accepted = sum(each["accepted"] for each in sources)
        yield "rows accepted", f"{accepted:,}", f"of {rows:,}"
    if models:
        units = sum(each.get("units", 0) for each in models)
        ok = sum(each.get("ok", each.get("done", 0)) for each in models)
        yield "units ok", f"{ok:,}", f"of {units:,}"
        work = sum(each.get("seconds", 0.0) for each in models)
        yield "work", duration(work), "of one core"
    found = summary["efficiency"]
    if found is not None:
        yield "steps", duration(found["wall"]), f"at best {duration(found['best'])}"
        yield "efficiency", f"{100 * found['share']:.0f} %", f"on {found['cores']:,} cores"
    release = summary["release"]
    if release is not None:
        note = "current" if release["current"] else "not current"
        yield "release", f"{release['version']}", note


def provenance(files: RunFiles) -> Markup:
    """Return where the results come from: run, code, versions, sources."""
    record, summary = files.record, files.summary
    place = str(files.run.home.description)
    pairs: list[tuple[str, Content]] = [
        ("run", element("code", record.id)),
        ("job", record.ref or record.job),
        ("kept in", place),
        ("started", _moment(record.created)),
        ("last change", _moment(record.updated)),
        ("as of", f"{summary['as_of']} UTC" if summary["as_of"] else None),
        ("attempts", f"{record.attempt:,}" if record.attempt > 1 else None),
        ("budget", summary["spent"]),
        ("queries", summary["warehouse"]),
        ("workers replaced", _replaced(summary["workers_replaced"])),
        ("recomputed", _recomputed(files)),
    ]
    return Markup(facts(pairs) + _code(files) + _sources(files) + _options(files) + _history(files))


def _moment(text: str) -> str:
    with suppress(ValueError):
        found = dt.datetime.fromisoformat(text).astimezone(dt.UTC)
        return f"{found:%Y-%m-%d %H:%M:%S} UTC"
    return text


def _replaced(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} x {reason}" for reason, count in counts.items())


def _recomputed(files: RunFiles) -> str:
    damaged = files.summary["recomputed"]
    if not damaged:
        return ""
    units = counted(files.summary["units_recomputed"], "unit")
    return f"{units}, for {len(damaged):,} damaged files; the first: {damaged[0]}"


def _code(files: RunFiles) -> Markup:
    """Return the code of each attempt, and the versions of the newest."""
    rows = []
    versions: dict[str, Any] = {}
    for entry in files.record.code:
        found = _versions(files, entry["fingerprint"])
        versions = found or versions
        rows.append(
            (
                entry["attempt"],
                element("code", entry["fingerprint"]),
                element("code", entry["commit"][:12]) if entry["commit"] else "no Git repository",
                found.get("python", "-"),
                found.get("hundredfold", "-"),
            )
        )
    if not rows:
        return Markup()
    heads = ("from attempt", "fingerprint", "commit", "Python", "hundredfold")
    libraries = sorted(versions.get("libraries", {}).items())
    return Markup(
        table("Code", heads, rows)
        + (
            details(
                f"Versions of {len(libraries):,} libraries that the job uses",
                table("Libraries", ("library", "version"), libraries),
            )
            if libraries
            else ""
        )
    )


def _versions(files: RunFiles, fingerprint: str) -> dict[str, Any]:
    """Return the facts in the archive of the code; none if it is gone or damaged."""
    run = files.run
    try:
        return facts_of(run.home.store.get(run.layout.code(fingerprint)).to_pybytes())
    except (KeyError, ValueError, OSError, DamagedFile):
        return {}


def _sources(files: RunFiles) -> Markup:
    """Return the address of each source, and the marks of its files."""
    staged = files.record.options.get("staged", {})
    addresses = files.record.source_addresses
    marks = {found.source: found for found in files.validation}
    rows, folded = [], []
    for name, address in addresses.items():
        found = marks.get(name)
        listed = found.files if found is not None else []
        digest = next((crc for key, crc in staged.items() if key.endswith(f"/{name}.parquet")), "")
        rows.append((name, address, len(listed) or None, digest or None))
        if listed:
            lines = [_file(each) for each in listed[:MAX_FILES]]
            left = len(listed) - len(lines)
            note = f"{left:,} more files are left out." if left else ""
            heads = ("file", "size or mark", "further marks")
            folded.append(
                details(f"Files of {name}", table(f"Files of {name}", heads, lines, note))
            )
    if not rows:
        return Markup()
    titles = ("source", "address", "files read in place", "checksum of the kept table")
    return Markup(table("Sources", titles, rows) + "".join(folded))


def _file(fingerprint: list[Any]) -> tuple[object, ...]:
    """Return a file with the facts that change with its content: size, times, or an ETag."""
    name, *marks = fingerprint
    return str(name), str(marks[0]) if marks else "-", " ".join(map(str, marks[1:]))


def _options(files: RunFiles) -> Markup:
    """Return the settings that the run was given."""
    options = files.record.options
    shown: list[tuple[str, object]] = [
        (name.replace("_", " "), options.get(name))
        for name in ("workers", "memory", "max_failed", "batches", "batch_bytes", "stack")
    ]
    shown += [(f"max rejected, {k}", v) for k, v in options.get("max_rejected", {}).items()]
    shown += [("fleet", fleet["name"]) for fleet in options.get("fleets", [])]
    given = [(name, value) for name, value in shown if value is not None]
    if not given:
        return Markup()
    return details("Settings of the run", table("Settings", ("setting", "value"), given))


def _history(files: RunFiles) -> Markup:
    """Return each state and step of the run with its time."""
    rows = [(_moment(t["at"]), t["state"], t["step"]) for t in files.record.history]
    return details(
        f"History: {len(rows):,} changes of state or step",
        table("History", ("time", "state", "step"), rows),
    )
