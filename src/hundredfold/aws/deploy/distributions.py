"""The distributions in a folder of installed packages: their files, and what they require."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..archive import write_files
from ..lambda_platform import PACKED_FOLDER

# imported by the steps of a run only
STEP_DISTRIBUTIONS = ("duckdb", "sqlglot")
MIN_PACKED_BYTES = 2**20  # smaller distributions are not worth a zip


def files_with_distribution(folder: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Yield each file with the (name, version) of its distribution."""
    for info in sorted(folder.glob("*.dist-info")):
        name, _, version = info.name.removesuffix(".dist-info").partition("-")
        for line in (info / "RECORD").read_text(encoding="utf-8").splitlines():
            yield folder / line.rsplit(",", 2)[0].strip('"'), (canonicalize_name(name), version)


def required(folder: Path, names: Iterable[str]) -> set[str]:
    """Return distributions of a folder, with all that they require."""
    requirements = dict(_requirements(folder))
    needed: set[str] = set()
    waiting: list[str] = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += requirements.get(name, ())
    return needed


def _requirements(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each distribution, with the names that it requires without extras."""
    for path in folder.glob("*.dist-info/METADATA"):
        metadata = HeaderParser().parsestr(path.read_text(encoding="utf-8", errors="replace"))
        found = []
        for text in metadata.get_all("Requires-Dist") or ():
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue  # it was installed all the same
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                found.append(str(canonicalize_name(requirement.name)))
        yield canonicalize_name(str(metadata["Name"])), found


def unneeded_by_workers(
    folder: Path, named: Iterable[str], modules: Collection[str]
) -> frozenset[str]:
    """Return the distributions that only the steps of a run need.

    `named`: those that the user's code imports or requires; `modules`: every module that it loads.
    """
    others = {name for name, _ in _requirements(folder)} - set(STEP_DISTRIBUTIONS)
    needed = required(folder, {*others, *map(canonicalize_name, named)})
    return frozenset(
        name for name in STEP_DISTRIBUTIONS if name not in needed and name not in modules
    )


def copy_without(
    folder: Path, target: Path, names: Collection[str], owners: Mapping[Path, tuple[str, str]]
) -> None:
    """Copy a folder of packages without some distributions; the copies are links if possible."""
    shutil.rmtree(target, ignore_errors=True)
    for path in folder.rglob("*"):
        if path.is_file() and owners.get(path, ("", ""))[0] not in names:
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, copy)
            except OSError:  # the file system has no links
                shutil.copyfile(path, copy)


def pack_distributions(
    folder: Path,
    owners: Mapping[Path, tuple[str, str]],
    *,
    limit: int,
    keep: Collection[str],
    own: Collection[str],
) -> None:
    """Replace the largest distributions of a folder by zips, until it takes at most `limit` bytes.

    `keep`: distributions that are imported before a function has unpacked them; `own`: top-level
    names of the user's code.
    """
    files: dict[str, list[Path]] = {}
    tops: dict[str, set[str]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = owners.get(path, ("", ""))[0]
        files.setdefault(name, []).append(path)
        tops.setdefault(path.relative_to(folder).parts[0], set()).add(name)
    shared = {name for top, names in tops.items() if len(names) > 1 or top in own for name in names}
    sizes = {name: sum(path.stat().st_size for path in paths) for name, paths in files.items()}
    total = sum(sizes.values())
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if total <= limit:
            return
        if name and name not in keep and name not in shared and sizes[name] >= MIN_PACKED_BYTES:
            archive = folder / PACKED_FOLDER / f"{name}.zip"
            archive.parent.mkdir(exist_ok=True)
            write_files(folder, files[name], archive)
            for path in files[name]:
                path.unlink()
            total += archive.stat().st_size - sizes[name]
