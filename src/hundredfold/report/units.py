"""The units of the models by status, and the failures grouped by their error."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.manifest import key_text
from ..figures import counted
from ..ports.run_facts import ModelCounts
from .charts import Segment, bar, legend
from .html import Content, Markup, element
from .run_files import RunFiles
from .tables import command, cut, details, seconds, table

MAX_GROUPS = 50  # of failures
MAX_KEYS = 25  # shown of a group
MAX_TRACEBACK_CHARACTERS = 6_000
KINDS = (("good", "ok"), ("bad", "failed"), ("worse", "crashed"), ("calm", "not done"))
# numbers differ between messages of one error: only the text around them groups
PATTERN = (
    "regexp_replace(split_part(trim(coalesce(message, '')), chr(10), 1), "
    "'[0-9]+([.][0-9]+)?', '#', 'g')"
)


def units_section(files: RunFiles) -> Markup | None:
    """Return the units of each model by status, and the groups of failures."""
    models = files.summary["models"]
    if not models:
        return None
    lines = [_model(name, counts) for name, counts in models.items()]
    heads = ("model", "units", "planned", "ok", "failed", "crashed", "rows", "results", "work")
    parts = [legend(KINDS), table("Units of each model", heads, lines, _note(models))]
    failed = sum(each.get("failed", 0) + each.get("crashed", 0) for each in models.values())
    if failed:
        parts.append(_failures(files, failed))
    return Markup("".join(parts))


def _model(name: str, counts: ModelCounts) -> Sequence[object]:
    planned = counts.get("units", 0)
    ok = counts.get("ok", counts.get("done", 0))
    failed, crashed = counts.get("failed", 0), counts.get("crashed", 0)
    rest = max(planned - ok - failed - crashed, 0)
    values = zip((ok, failed, crashed, rest), KINDS, strict=True)
    segments = [Segment(value, kind, f"{value:,} {text}") for value, (kind, text) in values]
    work = seconds(counts.get("seconds"))
    results = counts.get("rows_out")
    return (
        name,
        bar(segments, planned),
        planned,
        ok,
        failed,
        crashed,
        counts.get("rows_in"),
        results,
        work,
    )


def _note(models: Mapping[str, ModelCounts]) -> str:
    """Return where units of the models come from, if not from this run's own work."""
    notes = [
        f"From the pilot of the plan: {counted(counts['pilot_units'], 'unit')} of {name}."
        for name, counts in models.items()
        if counts.get("pilot_units")
    ]
    return " ".join(notes)


def _failures(files: RunFiles, failed: int) -> Markup:
    """Return the failures, grouped by model, status, error and message."""
    groups = files.query(
        f"SELECT position, any_value(model) AS model, status, error, {PATTERN} AS pattern, "
        "count(*) AS units, min(unit) AS first, arg_min(message, unit) AS message, "
        f"arg_min(traceback, unit) AS traceback, min_by(unit, unit, {MAX_KEYS}) AS some "
        f"FROM {files.units} WHERE status <> 'ok' GROUP BY ALL "
        f"ORDER BY units DESC, position, first LIMIT {MAX_GROUPS + 1}"
    )
    shown = groups[:MAX_GROUPS]
    seen = sum(group["units"] for group in shown)
    left = f"Left out: {counted(failed - seen, 'unit')} of further errors." if seen < failed else ""
    return element(
        "section",
        element("h3", f"Failures: {counted(failed, 'unit')}"),
        element(
            "p",
            "Units are grouped by model, error and message, in which numbers may differ. All of "
            "them: ",
            command(_command(files, "failures", files.run.id)),
        ),
        [_group(files, group) for group in shown],
        element("p", left, class_="note") if left else None,
    )


def _group(files: RunFiles, group: Mapping[str, Any]) -> Markup:
    named = files.unit_keys(group["model"], sorted(group["some"]))
    first = "" if named[0] == key_text(()) else named[0]
    message = (group["message"] or "").strip()
    line, _, rest = message.partition("\n")
    more = group["units"] - len(named)
    texts: list[Content] = [
        element("p", element("strong", group["error"]), f": {cut(line, 600)}"),
        details("The whole message", element("pre", cut(rest, MAX_TRACEBACK_CHARACTERS)))
        if rest.strip()
        else None,
        element(
            "p",
            "units: ",
            [[element("code", cut(key, 120)), " "] for key in named],
            f"and {more:,} more" if more else None,
        ),
        element(
            "p",
            command(
                _command(files, "replay", group["model"], first, "--run", files.run.id, "--pdb")
            ),
        ),
    ]
    if group["traceback"]:
        trace = group["traceback"][-MAX_TRACEBACK_CHARACTERS:]
        texts.append(details(f"Traceback of {named[0]}", element("pre", trace)))
    count = f"{counted(group['units'], 'unit')} of {group['model']}"
    return element("article", element("h4", f"{count} {group['status']}"), texts, class_="failure")


def _command(files: RunFiles, *parts: str) -> str:
    """Return a command of this run, as a shell reads it."""
    return shlex.join(["hundredfold", *parts, *files.options])
