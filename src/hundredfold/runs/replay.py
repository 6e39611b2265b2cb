"""Replays one unit in this process: with its rows and parameters, and the function as it is now."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from ..data.batch import row_form
from ..data.layout import Layout
from ..data.manifest import Manifest, UnitList, key_text, open_batch
from ..data.numpy_columns import to_python_list
from ..data.upstream import UpstreamResults
from ..errors import StateError, UsageError
from ..job import Job
from ..ports.interfaces import RunHome
from ..runs.job_loader import job_of
from ..runs.run import find_run


def replay_unit(
    model: str,
    key: str,
    home: RunHome,
    *,
    run_id: str | None = None,
    job: Job | None = None,
    call: Callable[..., Any] | None = None,
) -> Any:
    """Call a model's function on one unit, with its rows and earlier results, and return the
    result.

    key: as `failures` prints it, such as "PREMIUM,Accra,1GB". call: the caller, such as pdb's
    runcall.
    """
    record = find_run(home, run_id)
    job = job or job_of(home, record)
    declared, layout = job.model(model), Layout(record.id)
    try:
        manifest = Manifest.read(layout, model, home.store)
    except KeyError:
        raise StateError(
            f"run {record.id} has not prepared {model} yet; it is {record.state.value}",
            hint=f"hundredfold status {record.id}",
        ) from None
    units = UnitList.read(layout, model, home.store)
    number = find_unit(units, key, model)
    batch = open_batch(manifest, units, manifest.batch_of(number), layout, home.store)
    own = number - batch.first
    given = {
        name: UpstreamResults(name, declared, job.model(name), layout, home.store)
        for name in declared.inputs or ()
    }
    form = row_form(declared)
    rows = batch.units(form, own, own) if declared.batched else batch.unit_rows(form, own)
    keys = batch.keys.slice(own, 1)
    values = {
        name: g.for_many(keys) if declared.batched else g.for_units(batch.keys)(own)
        for name, g in given.items()
    }
    return (call or _plain_call)(declared.work, rows, **values)


def find_unit(units: UnitList, key: str, model: str) -> int:
    """Return the number of a unit by its key. Raises: UsageError, which names similar keys."""
    columns = [to_python_list(column) for column in units.keys.columns]
    texts = [key_text(parts) for parts in zip(*columns, strict=True)] if columns else [key_text(())]
    wanted = key if columns else key_text(())
    if wanted in texts:
        return texts.index(wanted)
    import difflib  # slow to import, and only for this error

    near = difflib.get_close_matches(wanted, texts[:100_000], 3)
    names = ", ".join(units.keys.column_names)
    raise UsageError(
        f"{model} has no unit {key!r}; a unit is written as its {names}, joined by commas",
        problems=[f"near it: {text}" for text in near],
        hint=f"such as {shlex.quote((near or texts)[0])}",
    )


def _plain_call(work: Callable[..., Any], *args: object, **kwargs: object) -> Any:
    return work(*args, **kwargs)
