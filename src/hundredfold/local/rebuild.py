"""Rebuilds the records of a home's runs from the runs' folders after the ledger was lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from ..data.checksums import get_json, put_json
from ..data.layout import Layout
from ..data.manifest import Manifest
from ..errors import DamagedFile
from ..pipeline.collect import read_collected
from ..pipeline.releases import releases
from ..pipeline.runner import prepared_counts
from ..pipeline.validation_results import read_validation
from ..ports.interfaces import Record, Store
from ..ports.run_facts import ModelCounts, RunCounts, RunOptions
from ..ports.run_states import State

REBUILT_REASON = (
    "the ledger was lost: this record is rebuilt from the run's folder, and resume continues "
    "from its files"
)


def write_record(record: Record, models: Sequence[str], store: Store) -> None:
    """Write the facts of a record that its files lack beside them, with the order of the models."""
    kept = {"id": record.id, "job": record.job, "ref": record.ref, "created": record.created}
    put_json(
        store, _key(record.id), {**kept, "options": dict(record.options), "models": list(models)}
    )


def rebuild_records(store: Store) -> list[Record]:
    """Return a failed record for each run with a folder, with the counts of its undamaged files."""
    found = [re.fullmatch(r"runs/([^/]+)/record\.json", key) for key in store.list("runs/")]
    return [_rebuild_record(match[1], store) for match in found if match]


def _key(run: str) -> str:
    return f"{Layout(run).root}/record.json"


def _rebuild_record(run: str, store: Store) -> Record:
    try:
        kept = get_json(store, _key(run))
    except DamagedFile as damage:
        return Record(
            run, "unknown", "", State.FAILED, "new", "", "", f"{REBUILT_REASON}; {damage}"
        )
    layout = Layout(run)
    keys = list(store.list(f"{layout.root}/models/"))
    attempts = [
        int(match[1])
        for key in keys
        if (match := re.search(r"/(?:retry-|outcomes/)(\d{3})\b", key))
    ]
    counts: RunCounts = {
        "models": {
            name: found
            for name in kept["models"]
            if (found := _counts_of_model(layout, name, store))
        }
    }
    with suppress(KeyError, DamagedFile):
        counts["sources"] = {v.source: v.counts for v in read_validation(layout, store)}
    for release in releases(kept["job"], store):
        if release.run == run:
            counts["release"] = release.counts
    options: RunOptions = kept["options"]
    options["attempt"] = max([1, *attempts])
    return Record(
        run,
        kept["job"],
        kept["ref"],
        State.FAILED,
        "new",
        kept["created"],
        kept["created"],
        REBUILT_REASON,
        options,
        counts,
    )


def _counts_of_model(layout: Layout, model: str, store: Store) -> ModelCounts:
    counts: ModelCounts = {}
    with suppress(KeyError, DamagedFile):
        manifest = Manifest.read(layout, model, store, settled=True)
        counts.update(prepared_counts(manifest))
        counts.update(read_collected(layout, model, store).counts)
    return counts
