"""The results of validating the sources of a run, and their object in the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..data.checksums import get_json, put_json, verify
from ..data.layout import Layout
from ..errors import SourceError
from ..ports.interfaces import Fingerprint, Store
from ..ports.run_facts import SourceCounts


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule: the number of rows, and the first of them."""

    column: str
    message: str
    rows: int
    file: str
    row: int  # 0 where the rows of the files have no order
    value: str


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The result of validating one source.

    The accepted rows are an object of the store, or are read in place by `select` from `files`.
    """

    source: str
    rows: int
    accepted: int
    rejected: int
    copies: int = 0
    superseded: int = 0
    repaired: int = 0
    findings: tuple[Finding, ...] = ()
    accepted_key: str = ""
    select: str = ""
    files: list[Fingerprint] = field(default_factory=list)  # the files that `select` reads in place
    # of the objects that validation wrote, by key
    checksums: Mapping[str, str] = field(default_factory=dict)
    csv: list[dict[str, Any]] = field(default_factory=list)  # the dialect of each CSV file

    @property
    def dropped(self) -> int:
        return self.copies + self.superseded

    @property
    def counts(self) -> SourceCounts:
        """The counts of the source, as the run's record holds them."""
        return SourceCounts(
            rows=self.rows,
            accepted=self.accepted,
            rejected=self.rejected,
            dropped=self.dropped,
            repaired=self.repaired,
        )


def verify_accepted(result: ValidationResult, store: Store) -> None:
    """Raise DamagedFile if the accepted rows are an object of the store that has changed."""
    if result.accepted_key in result.checksums:
        verify(store, result.accepted_key, result.checksums[result.accepted_key])


def read_validation(layout: Layout, store: Store) -> list[ValidationResult]:
    """Return the results of validation. Raises: KeyError if there are none yet."""
    return _read_results(layout.validation_result(), store)


def move_source(
    source: str,
    files: Sequence[Sequence[Any]],
    named: Callable[[str], str],
    layout: Layout,
    store: Store,
) -> None:
    """Let a run that has validated a source read the same files in another place.

    files: fingerprints of the files in the new place, in the order of their names. named: returns a
    path as a query names it.

    Raises: SourceError for files whose size or modification time differ from the validated ones.
    """
    results = read_results(layout.validation_result(), store)
    old = next((result for result in results if result.source == source), None)
    if old is None or not old.files:  # not validated yet, or the run has a copy of the rows
        return
    other = [
        new[0]
        for then, new in zip(old.files, files, strict=False)
        if list(then[1:3]) != list(new[1:3])
    ]
    if other or len(files) != len(old.files):
        raise SourceError(
            f"{source}: these are not the files that the run validated: their number, size or "
            "modification time differs",
            problems=other,
            hint="copy them with their times (cp -p), or run the job again",
        )
    select = old.select
    for then, new in zip(old.files, files, strict=True):
        select = select.replace(named(then[0]), named(new[0]))
    moved = replace(old, select=select, files=[list(entry) for entry in files])
    write_results(
        [moved if result is old else result for result in results],
        layout.validation_result(),
        store,
    )


def _read_results(key: str, store: Store) -> list[ValidationResult]:
    found = get_json(store, key)["results"]
    return [
        ValidationResult(**{**fields, "findings": tuple(Finding(**f) for f in fields["findings"])})
        for fields in found
    ]


def read_results(key: str, store: Store) -> list[ValidationResult]:
    try:
        return _read_results(key, store)
    except KeyError:
        return []


def write_results(results: Sequence[ValidationResult], key: str, store: Store) -> None:
    put_json(store, key, {"results": [asdict(v) for v in results]})
