"""Finds the damaged files of a finished run, and deletes their causes, so that they are computed
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..data.checksums import get_sealed, keys_to_delete, verify_listed
from ..data.layout import Layout
from ..data.manifest import Manifest
from ..errors import DamagedFile
from ..job import Job
from ..pipeline.releases import read_release, verify_file
from ..pipeline.validation_results import read_validation, verify_accepted
from ..ports.interfaces import Ledger, Record, Store


def restore(record: Record, job: Job, store: Store) -> list[DamagedFile]:
    """Delete the files from which damaged ones are computed again, and return the damage.

    Raises: DamagedFile for one that cannot be computed again.
    """
    found = list(find_damage(record, job, store))
    for one in found:
        if not one.key.startswith("releases/") and not keys_to_delete(one.key):
            raise one
    for one in found:
        for key in keys_to_delete(one.key):
            store.delete(key)
    return found


def note_recomputed(ledger: Ledger, run: str, found: Sequence[DamagedFile]) -> None:
    """Record the damaged files, and the number of units that are done again because of them."""
    counts, layout = ledger.read(run).counts, Layout(run)
    models = {
        layout.model(name): int(model.get("units", 0))
        for name, model in counts.get("models", {}).items()
    }
    keys = [key for one in found for key in keys_to_delete(one.key)]
    slices = [slice_ for slice_ in map(layout.parse_outcome_key, keys) if slice_ is not None]
    units = sum(slice_.units for slice_ in slices) + sum(models.get(key, 0) for key in keys)
    ledger.note(
        run,
        counts={
            "recomputed": [*counts.get("recomputed", []), *map(str, found)],
            "units_recomputed": counts.get("units_recomputed", 0) + units,
        },
    )


def find_damage(record: Record, job: Job, store: Store) -> Iterator[DamagedFile]:
    """Yield an error for each missing or damaged file of a run and its release."""
    layout = Layout(record.id)
    try:
        for result in read_validation(layout, store):
            verify_accepted(result, store)
    except KeyError:
        pass
    except DamagedFile as error:
        yield error
    for model in job.models:
        yield from _of_model(layout, model.name, store)
    published = record.counts.get("release")
    if published:
        try:
            release = read_release(job.name, int(published["version"]), store)
        except DamagedFile as error:
            yield error
            return
        for key in release.files:
            try:
                verify_file(release, key, store)
            except DamagedFile as error:
                yield error


def _of_model(layout: Layout, model: str, store: Store) -> Iterator[DamagedFile]:
    try:
        manifest = Manifest.read(layout, model, store, settled=True)
    except KeyError:
        yield DamagedFile(f"{layout.manifest(model)} is missing", key=layout.manifest(model))
        return
    except DamagedFile as error:
        yield error
        return
    sealed = [
        layout.units(model),
        *(layout.batch(model, batch.number) for batch in manifest.batches if not manifest.files),
    ]
    there = list(store.list(layout.outcomes(model) + "/"))
    for key in [*sealed, *there]:
        try:
            get_sealed(store, key)
        except KeyError:
            yield DamagedFile(f"{key} is missing", key=key)
        except DamagedFile as error:
            yield error
    for key in (layout.results(model), layout.accounts(model)):
        try:
            verify_listed(store, key, layout.collected(model))
        except KeyError:
            yield DamagedFile(f"{layout.collected(model)} is missing", key=layout.collected(model))
        except DamagedFile as error:
            yield error
