"""The units of a batch, read by their range of bytes from the list of all units."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hundredfold.data.checksums import put_sealed
from hundredfold.data.layout import Layout
from hundredfold.data.manifest import ROWS_COLUMN, Manifest, UnitList
from hundredfold.data.messages import Batch
from hundredfold.data.unit_slices import UnitSlices, open_units, pack_unit_slices
from hundredfold.errors import DamagedFile
from hundredfold.local.filesystem import FileStore

LAYOUT = Layout("r")
KEY = LAYOUT.units("m")
KEYS = {
    "text": st.text(max_size=20) | st.none(),
    "number": st.integers(-(2**62), 2**62),
    "day": st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1)),
}


READ: list[int] = []  # the sizes of all ranges that were read


class RangeFiles(FileStore):
    """Files of which ranges can be read, as of objects in S3."""

    def get_range(self, key: str, first: int, last: int) -> pa.Buffer:
        whole = self.get(key)
        found = whole.slice(first, max(0, min(last + 1, whole.size) - first))
        READ.append(found.size)
        return found


def stored(folder: Path, units: pa.Table, cuts: list[int]) -> tuple[RangeFiles, Manifest]:
    """Return a store with a list of units in batches that begin at `cuts`, and its manifest."""
    store = RangeFiles(folder)
    firsts = [0, *cuts]
    lasts = [*(cut - 1 for cut in cuts), units.num_rows - 1]
    rows = units.column(ROWS_COLUMN).to_pylist()
    batches = tuple(
        Batch(number, first, last, sum(rows[first : last + 1]), 1)
        for number, (first, last) in enumerate(zip(firsts, lasts, strict=True))
    )
    packed, ends, checksums = pack_unit_slices(KEY, units, batches)
    put_sealed(store, KEY, packed)
    unit = tuple(units.column_names[:-1])
    manifest = Manifest(
        "m",
        unit,
        (),
        units.num_rows,
        sum(rows),
        (),
        batches,
        unit_ends=ends,
        unit_checksums=checksums,
    )
    store.put(LAYOUT.manifest("m"), manifest.text(LAYOUT.manifest("m")))
    return store, Manifest.read(LAYOUT, "m", store)


@st.composite
def lists_of_units(draw: st.DrawFn) -> tuple[pa.Table, list[int]]:
    size = draw(st.integers(1, 30))
    names = draw(st.lists(st.sampled_from(sorted(KEYS)), unique=True))
    columns: dict[str, Any] = {
        name: pa.array(draw(st.lists(KEYS[name], min_size=size, max_size=size))) for name in names
    }
    rows = draw(st.lists(st.integers(1, 2**40), min_size=size, max_size=size))
    units = pa.table({**columns, ROWS_COLUMN: pa.array(rows, pa.int64())})
    chunk = draw(st.integers(1, size))
    units = pa.concat_tables([units.slice(0, chunk), units.slice(chunk)])
    cuts = draw(st.sets(st.integers(1, size - 1))) if size > 1 else set()
    return units, sorted(cuts)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_list=lists_of_units(), data=st.data())
def test_units_of_a_batch_are_those_of_the_whole_list(
    tmp_path_factory: pytest.TempPathFactory,
    given_list: tuple[pa.Table, list[int]],
    data: st.DataObject,
) -> None:
    store, manifest = stored(tmp_path_factory.mktemp("units"), *given_list)
    whole, slices = UnitList.read(LAYOUT, "m", store), open_units(manifest, LAYOUT, store)
    assert isinstance(slices, UnitSlices)
    batch = data.draw(st.sampled_from(manifest.batches))
    first = data.draw(st.integers(batch.first, batch.last))
    last = data.draw(st.integers(first, batch.last))
    assert slices.sizes(first, last).tolist() == whole.sizes(first, last).tolist()
    assert slices.key(first) == whole.key(first)
    (keys, sizes), (all_keys, all_sizes) = slices.slice(first, last), whole.slice(first, last)
    assert keys.equals(all_keys)
    assert sizes.tolist() == all_sizes.tolist()


def test_a_batch_of_many_reads_its_own_units_alone(tmp_path: Path) -> None:
    units = pa.table({"k": [f"{n:06d}" for n in range(50_000)], ROWS_COLUMN: [1] * 50_000})
    store, manifest = stored(tmp_path, units, list(range(100, 50_000, 100)))
    slices = open_units(manifest, LAYOUT, store)
    READ.clear()
    for _ in range(2):
        assert slices.key(25_017) == ("025017",)
    assert slices.sizes(25_000, 25_099).sum() == 100
    assert 100 * 6 < sum(READ) < 5_000


def test_a_store_without_ranges_reads_the_whole_list(tmp_path: Path) -> None:
    _, manifest = stored(tmp_path, pa.table({"k": [1, 2], ROWS_COLUMN: [1, 1]}), [1])
    assert isinstance(open_units(manifest, LAYOUT, FileStore(tmp_path)), UnitList)


def read_all(manifest: Manifest, store: RangeFiles) -> None:
    slices = open_units(manifest, LAYOUT, store)
    for batch in manifest.batches:
        slices.slice(batch.first, batch.last)


def test_a_damaged_list_of_units_is_never_read_as_another(tmp_path: Path) -> None:
    units = pa.table({"k": ["a", "b", "c"], ROWS_COLUMN: [1, 2, 3]})
    store, manifest = stored(tmp_path, units, [1, 2])
    intact = store.get(KEY).to_pybytes()
    end = manifest.unit_ends[-1]
    changes = [intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :] for at in range(end)]
    changes += [intact[: end // 2], intact[: manifest.unit_ends[0] - 1], b""]
    for changed in changes:
        store.put(KEY, changed)
        with pytest.raises(DamagedFile):
            read_all(manifest, store)
    store.delete(KEY)
    with pytest.raises(DamagedFile, match="is missing"):
        open_units(manifest, LAYOUT, store).key(0)
