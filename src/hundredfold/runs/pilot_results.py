"""The results of a plan's pilot, in a folder beside the plan, and their reuse by a local run.

A run takes the results of a unit if they are those that it would compute: the code of the job, the
rows of the unit, the column types and nulls of the model, and the results of the models that its
function receives are all equal, to the last bit. Rows are compared by digests that do not depend
on batches, so that another number of workers, or edited rows of other units, prevent nothing.

The units of one outcome of the pilot form a group: the run takes all of them or none, because the
type of a column can depend on all values of an outcome. Units that failed are in no group.

The folder: `pilot.json`, the facts, and `MODEL/000000.arrow`, ...: the seconds, result rows and
keys of units, then their results. All have checksums.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..data.checksums import get_json, get_listed, get_sealed, put_json, put_sealed
from ..data.layout import Layout
from ..data.manifest import Manifest, UnitList, open_units
from ..data.messages import PILOT_ATTEMPT, Batch, Message
from ..data.numpy_columns import UNIT, from_numpy, to_numpy
from ..data.outcomes import pack_results, pack_statuses, unpack_results, unpack_statuses
from ..data.parquet_in_memory import read_row_group
from ..data.row_digests import NoDigest, RowDigest
from ..errors import DamagedFile, HomeError
from ..job import Model
from ..pipeline.coverage import Coverage
from ..pipeline.measured_costs import positions
from ..ports.interfaces import Store

FACTS, FORMAT = "pilot.json", 1
MAX_PART_BYTES = 2**24  # of results in one file
# of many groups, those with less work are not kept: to write their outcomes takes longer
MANY_GROUPS, MIN_GROUP_S = 200, 1e-3
WRITERS = 8  # threads: each waits for the disk
Integers = NDArray[np.int64]


@dataclass(slots=True)
class Group:
    """Units that a run takes together. units: their numbers, ascending."""

    units: Integers
    digest: str = ""
    seconds: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    rows_out: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    tables: Sequence[pa.Table] = ()  # of results; UNIT counts from 0 in the group


def machine() -> str:
    """Return the kind of this machine: another one may compute other bits."""
    return f"{platform.system()} {platform.machine()}"


def keep_pilot(
    code: str, layout: Layout, models: Iterable[Model], store: Store, folder: Store
) -> None:
    """Write the results of a pilot into an empty folder. code: the fingerprint of the job's
    code.
    """
    facts = {"format": FORMAT, "code": code, "machine": machine()}
    put_json(folder, FACTS, {**facts, "models": {}})  # a folder that is not completed has none
    found = {model.name: _keep_model(model, layout, store, folder) for model in models}
    put_json(folder, FACTS, {**facts, "models": found})


def _keep_model(model: Model, layout: Layout, store: Store, folder: Store) -> dict[str, Any]:
    manifest = Manifest.read(layout, model.name, store)
    units = UnitList.read(layout, model.name, store)
    groups = sorted(
        _groups(len(units), layout, model.name, store), key=lambda group: int(group.units[0])
    )
    if len(groups) > MANY_GROUPS:
        groups = [group for group in groups if group.seconds.sum() >= MIN_GROUP_S]
    digests = _digests([group.units for group in groups], manifest, units, layout, store)
    for group, digest in zip(groups, digests, strict=True):
        group.digest = digest
    parts = []
    for number, part in enumerate(_parts([group for group in groups if group.digest])):
        _write_part(part, _part_key(model.name, number), units, folder)
        parts.append([[_ranges(group.units), group.digest] for group in part])
    return {**_model_facts(model, manifest, layout, store), "parts": parts}


def _model_facts(model: Model, manifest: Manifest, layout: Layout, store: Store) -> dict[str, Any]:
    """Return what the results of every unit of a model depend on, beside the code."""
    return {
        "nullable": sorted(manifest.nullable),
        "large": sorted(manifest.large),
        "inputs": {name: _results_digest(layout, name, store) for name in model.inputs or ()},
    }


def _results_digest(layout: Layout, model: str, store: Store) -> str:
    """Return the digest of all results of a model; "" if they have none."""
    data = get_listed(store, layout.results(model), layout.collected(model))
    file, digest = pq.ParquetFile(pa.BufferReader(data)), RowDigest()
    try:
        for group in range(file.num_row_groups):
            digest.add(read_row_group(file, group))
    except NoDigest:
        return ""
    return digest.hexdigest()


def _groups(count: int, layout: Layout, model: str, store: Store) -> Iterator[Group]:
    """Yield the units that are ok, by outcome. count: of all units."""
    left = np.ones(count, bool)  # a unit may have been executed twice
    for key in store.list(layout.outcomes(model) + "/"):
        outcome = layout.parse_outcome_key(key)
        if outcome is None:
            continue
        summary = unpack_statuses(get_sealed(store, key))
        left[[status.unit for status in summary.not_ok]] = False
        own = np.flatnonzero(left[outcome.first : outcome.last + 1])
        left[own + outcome.first] = False
        if len(own):
            place = np.full(outcome.units, -1, np.int64)
            place[own] = np.arange(len(own))
            packed = unpack_results(get_sealed(store, layout.outcome(outcome, "results")))
            tables = [_renumbered(table, place, outcome.first) for table in packed]
            seconds, rows_out = summary.seconds[own], summary.rows_out[own]
            yield Group(own + outcome.first, "", seconds, rows_out, tables)


def _renumbered(table: pa.Table, place: Integers, first: int) -> pa.Table:
    """Return the rows of some units, sorted by unit. place: the new number of each, or -1."""
    unit = place[to_numpy(table.column(UNIT), False) - first]
    kept = np.flatnonzero(unit >= 0)
    order = kept[np.argsort(unit[kept], kind="stable")]
    return _with_units(table.take(from_numpy(order)), unit[order])


def _with_units(table: pa.Table, units: Integers) -> pa.Table:
    return table.set_column(table.schema.get_field_index(UNIT), UNIT, from_numpy(units))


def _parts(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Yield groups that are stored in one file."""
    part: list[Group] = []
    size = 0
    for group in groups:
        own = sum(table.nbytes for table in group.tables)
        if part and size + own > MAX_PART_BYTES:
            yield part
            part, size = [], 0
        part, size = [*part, group], size + own
    if part:
        yield part


def _write_part(part: Sequence[Group], key: str, units: UnitList, folder: Store) -> None:
    """Write the accounts of units, and the tables of their results by columns."""
    numbers = from_numpy(np.concatenate([group.units for group in part]))
    accounts = pa.table(
        {
            **dict(zip(units.keys.column_names, units.keys.take(numbers).columns, strict=True)),
            "seconds": from_numpy(np.concatenate([group.seconds for group in part])),
            "rows_out": from_numpy(np.concatenate([group.rows_out for group in part])),
        }
    )
    by_columns: dict[str, list[pa.Table]] = {}
    first = 0
    for group in part:
        for table in group.tables:
            moved = _with_units(table, to_numpy(table.column(UNIT), False) + first)
            by_columns.setdefault(str(table.schema), []).append(moved)
        first += len(group.units)
    tables = [_sorted(pa.concat_tables(same).combine_chunks()) for same in by_columns.values()]
    put_sealed(folder, key, pack_results([accounts, *tables]))


def _sorted(table: pa.Table) -> pa.Table:
    order = np.argsort(to_numpy(table.column(UNIT), False), kind="stable")
    return table.take(from_numpy(order))


def _read_part(key: str, ranges: Sequence[Any], folder: Store) -> tuple[pa.Table, list[Group]]:
    """Return the keys of the units of a part, and its groups by their numbers in the pilot."""
    accounts, *tables = unpack_results(get_sealed(folder, key))
    seconds, rows_out = (to_numpy(accounts.column(n), False) for n in ("seconds", "rows_out"))
    numbers = [to_numpy(table.column(UNIT), False) for table in tables]
    groups, first = [], 0
    for spans, digest in ranges:
        units = np.concatenate([np.arange(a, b + 1) for a, b in spans])
        end = first + len(units)
        own = []
        for table, unit in zip(tables, numbers, strict=True):
            a, b = np.searchsorted(unit, [first, end]).tolist()
            if b > a:
                own.append(_with_units(table.slice(a, b - a), unit[a:b] - first))
        groups.append(Group(units, digest, seconds[first:end], rows_out[first:end], own))
        first = end
    return accounts.drop_columns(["seconds", "rows_out"]), groups


def _part_key(model: str, number: int) -> str:
    return f"{model}/{number:06d}.arrow"


def _ranges(units: Integers) -> list[tuple[int, int]]:
    """Return ascending numbers as ranges (first, last)."""
    ends = np.flatnonzero(np.diff(units) != 1).tolist()
    return [(int(units[a + 1]), int(units[b])) for a, b in pairwise([-1, *ends, len(units) - 1])]


def _digests(
    groups: Sequence[Integers], manifest: Manifest, units: UnitList, layout: Layout, store: Store
) -> list[str]:
    """Return the digest of the keys and rows of each group of units; "" for one that has none.

    The groups are disjoint. Each batch is read once, and of it only these units.
    """
    digests = [RowDigest() for _ in groups]
    without: set[int] = set()
    numbers = np.concatenate([*groups, np.empty(0, np.int64)])
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    order = np.argsort(numbers, kind="stable")
    numbers, group_of = numbers[order], group_of[order]
    for part in _readable_parts(manifest):
        a, b = np.searchsorted(numbers, [part.first, part.last + 1]).tolist()
        if a == b:
            continue
        opened = open_units(manifest, units, part, numbers[a:b], layout, store)
        cuts = [0, *(np.flatnonzero(np.diff(group_of[a:b])) + 1).tolist(), b - a]
        for first, end in pairwise(cuts):
            group = int(group_of[a + first])
            start, stop = int(opened.offsets[first]), int(opened.offsets[end])
            digests[group].add_numbers("sizes", opened.sizes[first:end].astype(np.int64))
            try:
                digests[group].add(opened.arrow.slice(start, stop - start))
            except NoDigest:
                without.add(group)
    return ["" if n in without else digest.hexdigest() for n, digest in enumerate(digests)]


def _readable_parts(manifest: Manifest) -> Iterator[Batch]:
    """Yield the batches, or the parts of one that is too large to be read at once."""
    for batch in manifest.batches:
        for first, end in pairwise([batch.first, *batch.cuts, batch.last + 1]):
            yield Batch(batch.number, first, end - 1, batch.rows, batch.cost)


def reuse_pilot(
    model: Model, manifest: Manifest, code: str, layout: Layout, store: Store, folder: Store
) -> str:
    """Store the pilot's results of a model's units as outcomes of a run, where they are valid.

    code: the fingerprint of the run's code. Outcomes that exist are kept: a driver that was killed
    here is continued by the next. Returns the reason why results were not taken, or "".
    """
    try:
        facts = get_json(folder, FACTS)
        reason = _refusal(facts, model, manifest, code, layout, store)
        if reason:
            return reason
        parts = facts["models"][model.name]["parts"]
        counts = [
            _reuse_part(_part_key(model.name, number), ranges, manifest, (layout, store), folder)
            for number, ranges in enumerate(parts)
        ]
    except KeyError as missing:
        return f"{missing.args[0]} of its folder is missing"
    except (DamagedFile, HomeError) as error:
        return str(error)
    taken, other = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    if not other:
        return "" if taken else "the pilot completed no unit that is worth storing"
    return f"{other:,} units are new or have other rows than in the pilot"


def _refusal(
    facts: Mapping[str, Any],
    model: Model,
    manifest: Manifest,
    code: str,
    layout: Layout,
    store: Store,
) -> str:
    """Return the reason why no result of a model is valid, or ""."""
    if facts["format"] != FORMAT:
        return "it was written by another version of hundredfold"
    if facts["code"] != code:
        return "the code is not that of the plan"
    if facts["machine"] != machine():
        return f"it ran on another kind of machine: {facts['machine']}"
    then = facts["models"].get(model.name)
    if then is None:
        return "the pilot did not reach it"
    now = _model_facts(model, manifest, layout, store)
    for name, digest in now["inputs"].items():
        if not digest or then["inputs"].get(name) != digest:
            return f"the results of {name} are not those of the pilot"
    if any(then[name] != now[name] for name in ("nullable", "large")):
        return "other columns have nulls, or large integers, than in the pilot"
    return ""


def _reuse_part(
    key: str,
    ranges: Sequence[Any],
    manifest: Manifest,
    place: tuple[Layout, Store],
    folder: Store,
) -> tuple[int, int]:
    """Store the valid results of a file; return how many units are taken, and how many are not."""
    layout, store = place
    units = UnitList.read(layout, manifest.model, store)
    keys, before = _read_part(key, ranges, folder)
    groups = _moved(keys, before, units)
    digests = _digests([group.units for group in groups], manifest, units, layout, store)
    valid = [g for g, digest in zip(groups, digests, strict=True) if digest and digest == g.digest]
    done = Coverage.read(manifest.units, layout, manifest.model, None, store)
    todo = [
        (group, span) for group in valid for span in _ranges(group.units) if not done.covers(*span)
    ]
    with ThreadPoolExecutor(WRITERS) as writers:
        list(
            writers.map(lambda each: _store(each[0], each[1], manifest, place), todo)
        )  # raises their errors
    taken = sum(len(group.units) for group in valid)
    return taken, sum(len(group.units) for group in before) - taken


def _moved(keys: pa.Table, groups: Sequence[Group], units: UnitList) -> list[Group]:
    """Return the groups whose units are all in the run, by their numbers there."""
    if keys.schema.types != units.keys.schema.types:
        return []
    numbers = np.concatenate([group.units for group in groups])
    same = numbers[-1] < len(units) and units.keys.take(from_numpy(numbers)).equals(keys)
    if keys.num_columns and not same:
        numbers = positions(units.keys, keys)
    found, first = [], 0
    for group in groups:
        own = numbers[first : first + len(group.units)].astype(np.int64)
        first += len(group.units)
        if len(own) and (own >= 0).all():
            found.append(Group(own, group.digest, group.seconds, group.rows_out, group.tables))
    return found


def _store(
    group: Group, span: tuple[int, int], manifest: Manifest, place: tuple[Layout, Store]
) -> None:
    """Store the outcome of a range of a group's units; the statuses are the commit."""
    layout, store = place
    first, last = span
    start = int(np.searchsorted(group.units, first))
    own = slice(start, start + last - first + 1)
    tables = []
    for table in group.tables:
        unit = to_numpy(table.column(UNIT), False)
        a, b = np.searchsorted(unit, [own.start, own.stop]).tolist()
        if b > a:
            tables.append(_with_units(table.slice(a, b - a), unit[a:b] - own.start + first))
    batch = manifest.batch_of(first).number
    message = Message(layout.run, manifest.model, batch, first, last, PILOT_ATTEMPT)
    put_sealed(store, layout.outcome(message, "results"), pack_results(tables))
    statuses = pack_statuses(message, group.seconds[own], group.rows_out[own], (), tables)
    put_sealed(store, layout.outcome(message, "status"), statuses)
