"""The releases of a job in the store: how a version is claimed, read, made current and rolled back.

    releases/JOB/claims/000007.json    which run makes version 7: written once, and never removed
    releases/JOB/000007/               the files of version 7; release.json is written last
    releases/JOB/current.json          the pointer to the current version
    releases/JOB/claims/first.json     that there is a pointer: written once, after the first
    releases/JOB/claims/rollbacks/000001.json   that a rollback was made, or begun: never removed

Any number of runs may publish at once, on one machine or on many. A version belongs to the run
whose claim was written first (`Store.put_if_absent`), and only that run writes in its folder; on
AWS, only that execution of the run, since a call of a function can outlive an execution that was
stopped. The pointer is moved with `Store.put_if_match`: a run that read it before another run moved
it cannot overwrite it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ..data.checksums import damage_error, get_json, make_json, missing_error, parse_json, require
from ..data.layout import releases_of
from ..errors import DamagedFile, StateError
from ..ports.interfaces import Store
from ..ports.run_facts import ReleaseCounts

MAX_VERSIONS = 10**9  # of a job: a rollback is later than all of them before it


@dataclass(frozen=True, slots=True)
class Release:
    """One version of what a job publishes. `files` maps the key of each file to its SHA-256."""

    job: str
    version: int
    parent: int | None
    run: str
    attempt: int
    as_of: str
    rows: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    summaries: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    code: Mapping[str, Mapping[str, int]] = field(
        default_factory=dict
    )  # units of each model by the fingerprint of their code
    # by output, the table of another system that gets its rows
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def counts(self) -> ReleaseCounts:
        """The counts of the release, as the run's record holds them."""
        return ReleaseCounts(version=self.version, rows=dict(self.rows), files=list(self.files))


@dataclass(frozen=True, slots=True)
class Pointer:
    """The current version (0 before the first), and the versions that were rolled back.

    A version that was rolled back does not become current again by itself. `etag` is that of the
    pointer's object, None where there is none. `rollbacks` is the number of the last rollback.
    """

    version: int = 0
    withdrawn: tuple[int, ...] = ()
    etag: str | None = None
    rollbacks: int = 0

    @property
    def order(self) -> int:
        """A number that grows with each move of the pointer: versions grow between rollbacks."""
        return self.rollbacks * MAX_VERSIONS + self.version


@dataclass(frozen=True, slots=True)
class Claimant:
    """An attempt of a run that makes a release after its parent; on AWS, in an execution.

    Two calls with equal claims write the same bytes.
    """

    run: str
    attempt: int
    execution: str = ""
    parent: int | None = None

    @property
    def claim(self) -> dict[str, Any]:
        """The content of its claims."""
        content: dict[str, Any] = {
            "run": self.run,
            "attempt": self.attempt,
            "parent": self.parent,
        }
        return {**content, "execution": self.execution} if self.execution else content


def releases(job: str, store: Store) -> list[Release]:
    """Return all releases of a job, oldest first, without those whose release.json is damaged."""
    found = []
    for version in versions(job, store):
        with suppress(DamagedFile):
            found.append(read_release(job, version, store))
    return found


def releases_made(job: str, maker: Claimant, store: Store) -> list[Release]:
    """Return the releases that an attempt of a run has made, oldest first."""
    made_by = (maker.run, maker.attempt)
    return [r for r in releases(job, store) if (r.run, r.attempt) == made_by]


def versions(job: str, store: Store) -> list[int]:
    """Return the versions of a job that have a release.json, damaged or not, in order."""
    pattern = re.compile(re.escape(releases_of(job)) + r"/(\d+)/release\.json")
    return sorted(
        int(found[1])
        for key in store.list(releases_of(job) + "/")
        if (found := pattern.fullmatch(key))
    )


def read_release(job: str, version: int, store: Store) -> Release:
    """Return a release of a job. Raises: DamagedFile if its release.json is missing or damaged."""
    key = f"{release_folder(job, version)}/release.json"
    return Release(**parse_json(store, key, require(store, key).to_pybytes()))


def verify_file(release: Release, key: str, store: Store) -> None:
    """Raise DamagedFile if a file of a release is missing or its SHA-256 differs."""
    if sha256(require(store, key)) != release.files[key]:
        raise damage_error(store, key, "does not have the SHA-256 with which it was published")


def sha256(data: pa.Buffer) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(memoryview(data)).hexdigest()


def release_folder(job: str, version: int) -> str:
    """Return the prefix of the keys of a release's files."""
    return f"{releases_of(job)}/{version:06d}"


def claim(job: str, claimant: Claimant, version: int, store: Store) -> bool:
    """Claim a version for an attempt of a run; False if it belongs to another.

    A claim is never removed. A version whose run is killed or refused before its release is whole
    is left out, unless that run goes on.
    """
    key = _claim_key(job, version)
    return store.put_if_absent(key, make_json(key, claimant.claim)) or bool(
        get_json(store, key) == claimant.claim
    )


def version_to_make(job: str, claimant: Claimant, pointer: Pointer, store: Store) -> int:
    """Return the version that a claimant has, if newer than the current one; else the first free
    one.
    """
    taken = sorted(_taken(job, store))
    for version in reversed(taken):
        if version <= pointer.version or version in pointer.withdrawn:
            break
        with suppress(KeyError, DamagedFile):
            if get_json(store, _claim_key(job, version)) == claimant.claim:
                return version
    return max([*taken, pointer.version], default=0) + 1


def _taken(job: str, store: Store) -> Iterator[int]:
    """Yield each version that has a claim or files."""
    pattern = re.compile(re.escape(releases_of(job)) + r"/(?:claims/)?(\d+)(?:\.json|/.*)")
    for key in store.list(releases_of(job) + "/"):
        if found := pattern.fullmatch(key):
            yield int(found[1])


def _claim_key(job: str, version: int) -> str:
    return f"{releases_of(job)}/claims/{version:06d}.json"


def current_version(job: str, store: Store) -> int | None:
    """Return the version that the pointer names.

    None before the first release. Raises: DamagedFile if there are releases and no pointer.
    """
    return read_pointer(job, store).version or None


def read_pointer(job: str, store: Store) -> Pointer:
    """Return the pointer of a job. Raises: DamagedFile if it is damaged."""
    key = pointer_key(job)
    try:
        data, etag = store.get_with_etag(key)
    except KeyError:
        return Pointer()
    content = parse_json(store, key, data.to_pybytes())
    withdrawn = tuple(content.get("withdrawn", ()))
    return Pointer(int(content["version"]), withdrawn, etag, int(content.get("rollbacks", 0)))


def current_release(job: str, store: Store) -> Release | None:
    """Return the release that the pointer names; None if there is none, or it cannot be read."""
    with suppress(DamagedFile):
        version = current_version(job, store)
        return None if version is None else read_release(job, version, store)
    return None


def move_pointer(job: str, pointer: Pointer, store: Store) -> bool:
    """Replace the pointer by this one, if it is still the one that had its entity tag.

    One object is replaced: a reader sees the old version or the new one. False, and nothing
    changes, where another run or a rollback moved the pointer since it was read.
    """
    folder = release_folder(job, pointer.version)
    content: dict[str, Any] = {"version": pointer.version, "folder": folder}
    if pointer.withdrawn:
        content["withdrawn"] = sorted(pointer.withdrawn)
    if pointer.rollbacks:
        content["rollbacks"] = pointer.rollbacks
    key = pointer_key(job)
    data = make_json(key, content)
    if pointer.etag is None:
        return store.put_if_absent(key, data)
    return store.put_if_match(key, data, pointer.etag)


def _claim_rollback(job: str, store: Store) -> int:
    """Return a number that no rollback of the job has had.

    The pointer alone would lose it where it is damaged, and written again.
    """
    folder = f"{releases_of(job)}/claims/rollbacks/"
    number = sum(1 for _ in store.list(folder)) + 1
    while True:
        key = f"{folder}{number:06d}.json"
        if store.put_if_absent(key, make_json(key, {"rollback": number})):
            return number
        number += 1


def pointer_key(job: str) -> str:
    """Return the key of the pointer to the current release of a job."""
    return f"{releases_of(job)}/current.json"


def record_first_release(job: str, store: Store) -> None:
    """Record that the job has a pointer, for the case that the pointer is lost."""
    key = _first_key(job)
    store.put_if_absent(key, make_json(key, {"pointer": pointer_key(job)}))


def had_pointer(job: str, store: Store) -> bool:
    """Return whether the job had a pointer once.

    A job with whole releases may have none yet, while its first ones are made at the same time.
    """
    if any(release.parent is not None for release in releases(job, store)):
        return True
    try:
        store.get(_first_key(job))
    except KeyError:
        return False
    return read_pointer(job, store).etag is None


def _first_key(job: str) -> str:
    return f"{releases_of(job)}/claims/first.json"


def was_current(job: str, version: int, pointer: Pointer, store: Store) -> bool:
    """Return whether a version is the current one, or was current once."""
    return version in pointer.withdrawn or version in _lineage(job, [version], pointer, store)


def _lineage(job: str, of: Sequence[int], pointer: Pointer, store: Store) -> set[int]:
    """Return which of some versions are the current one or its ancestors.

    Each release names its parent, the version that was current before it. Where the chain of
    parents cannot be read to its end, older versions count as ancestors.
    """
    found, ancestors = pointer.version, set[int]()
    while found and found >= min(of, default=found):
        ancestors.add(found)
        try:
            found = read_release(job, found, store).parent or 0
        except DamagedFile:
            return {v for v in of if v in ancestors or v < found}
    return ancestors.intersection(of)


def rollback(job: str, store: Store, to: int | None = None) -> Release:
    """Move the pointer to the parent of the current release, or to version `to`.

    Raises: StateError if there is no such release, or if the pointer is moved at the same time.
    """
    known = versions(job, store)
    try:
        pointer = read_pointer(job, store)
    except DamagedFile:
        if to is None:
            raise
        # the pointer is written again: only its entity tag is used
        pointer = Pointer(to, etag=store.get_with_etag(pointer_key(job))[1])
    if not pointer.version and known and to is None:
        raise missing_error(store, pointer_key(job))
    if not known:
        raise StateError(
            f"{job} has no release, so there is nothing to roll back", hint="hundredfold status"
        )
    target = to if to is not None else read_release(job, pointer.version, store).parent
    if target is not None and to is None:
        read_release(job, target, store)  # raises an error that names its missing file
    if target is None or target not in known:
        others = ", ".join(str(v) for v in known if v != pointer.version) or "no other"
        wanted = f"no version {to}" if to is not None else "no release before it"
        raise StateError(
            f"version {pointer.version or None} of {job} is current, and there is {wanted}; there "
            f"is {others}",
            hint=f"hundredfold rollback {job} --to VERSION",
        )
    release = read_release(job, target, store)
    for key in release.files:
        verify_file(release, key, store)
    newer = [v for v in known if v > target]
    withdrawn = {v for v in pointer.withdrawn if v > target}
    withdrawn |= _lineage(job, newer, pointer, store)
    moved = Pointer(target, tuple(withdrawn), pointer.etag, _claim_rollback(job, store))
    if not move_pointer(job, moved, store):
        raise StateError(
            f"the current release of {job} was changed at the same time, and is not rolled back",
            hint="look at it, then run it again: hundredfold status   and: hundredfold rollback "
            f"{job}",
        )
    return release
