"""Zips of packages, whose bytes depend on names and contents only, and their fingerprints."""

from __future__ import annotations

import filecmp
import hashlib
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from ..workers.interrupts import defer_interrupts
from .lambda_platform import (
    BYTECODE_FOLDER,
    FINGERPRINT_DIGITS,
    FINGERPRINT_FILE,
    PACKED_FOLDER,
    digest_in_address,
)

ZIP_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can store


def write_zip(folder: Path, archive: Path) -> None:
    """Write a folder as a zip whose bytes depend only on the files' names and contents."""
    write_files(folder, _files(folder), archive)


def write_zips(archives: Mapping[Path, Path]) -> None:
    """Write several folders as such zips, `{folder: archive}`; files that all have come first.

    Those are compressed once, which takes longest.
    """
    first, *others = archives
    shared = {
        path.relative_to(first)
        for path in _files(first)
        if all(_is_same(path, other / path.relative_to(first)) for other in others)
    }
    base = archives[first].with_suffix(".shared")
    try:
        write_files(first, (first / name for name in shared), base)
        for folder, archive in archives.items():
            shutil.copyfile(base, archive)
            own = (path for path in _files(folder) if path.relative_to(folder) not in shared)
            write_files(folder, own, archive, mode="a")
    finally:
        base.unlink(missing_ok=True)


def write_files(
    folder: Path, paths: Iterable[Path], archive: Path, *, mode: Literal["w", "a"] = "w"
) -> None:
    """Write some files of a folder as such a zip, or add them to one."""
    with _open_zip(archive, mode) as file:
        for path in sorted(paths, key=lambda p: p.relative_to(folder).as_posix()):
            _add_to_zip(file, path, path.relative_to(folder).as_posix())


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two files exist and have the same content, as links to one file have."""
    return other.is_file() and (one.samefile(other) or filecmp.cmp(one, other, shallow=False))


@defer_interrupts()
def remove_from_zip(archive: Path, folder: str) -> None:
    """Remove the files in folders of that name from a zip."""
    fresh = archive.with_suffix(".new")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(fresh, "w") as new:
        for entry in old.infolist():
            if folder not in entry.filename.split("/")[:-1]:
                with old.open(entry) as source, new.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, 2**20)
    fresh.replace(archive)


@defer_interrupts()
def _open_zip(archive: Path, mode: Literal["w", "a"]) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive, mode, zipfile.ZIP_DEFLATED, compresslevel=6)


@defer_interrupts()
def _add_to_zip(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    entry = zipfile.ZipInfo(name, ZIP_TIMESTAMP)
    entry.create_system, entry.external_attr = 3, 0o100644 << 16
    entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, path.stat().st_size
    with archive.open(entry, "w") as target, path.open("rb") as source:
        shutil.copyfileobj(source, target, 2**20)


def write_contents(folder: Path, target: Path) -> None:
    """Write a list of all files of a package, each with its size in bytes."""
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = [f"{(folder / path).stat().st_size:>12,}  {path}\n" for path in paths]
    target.write_text("".join(lines), encoding="utf-8")


def seal(folder: Path) -> None:
    """Write the fingerprint of a package into it.

    A function reads it there. Lambda changes the code of a function before its environment, so
    that for a moment new code runs in an environment that names the old one.
    """
    (folder / FINGERPRINT_FILE).unlink(missing_ok=True)
    (folder / FINGERPRINT_FILE).write_text(_content_digest(folder), encoding="ascii")


def write_seal(folder: Path, target: Path) -> None:
    """Write the fingerprint that `seal` would write into a package, into another folder."""
    target.mkdir(parents=True, exist_ok=True)
    (target / FINGERPRINT_FILE).write_text(_content_digest(folder), encoding="ascii")


def fingerprint_of(code: object) -> str:
    """Return the fingerprint of a package (a folder or its zip) or of an image given by digest.

    "" for code of another kind. A package that `seal` has not completed has different fingerprints
    as a folder and as a zip.
    """
    path = Path(code) if isinstance(code, str | Path) else None
    if path is not None and path.is_dir():
        sealed = path / FINGERPRINT_FILE
        return sealed.read_text(encoding="ascii") if sealed.is_file() else _content_digest(path)
    if path is not None and path.is_file():
        return _sealed_in_zip(path) or sha256_of(path)[:FINGERPRINT_DIGITS]
    return digest_in_address(str(code))


def _content_digest(folder: Path) -> str:
    """Return the fingerprint of a folder's files without bytecode, which not every machine writes.

    It follows from the modules.
    """
    digest = hashlib.sha256()
    for file in sorted(
        (p for p in folder.rglob("*") if p.is_file() and p.parent.name != BYTECODE_FOLDER),
        key=lambda p: p.relative_to(folder).as_posix(),
    ):
        digest.update(f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n".encode())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


@defer_interrupts()
def _sealed_in_zip(archive: Path) -> str:
    if not zipfile.is_zipfile(archive):
        return ""
    with zipfile.ZipFile(archive) as file:
        sealed = FINGERPRINT_FILE in file.namelist()
        return file.read(FINGERPRINT_FILE).decode("ascii") if sealed else ""


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpacked_bytes(code: Path) -> int:
    """Return the bytes that a function unpacks when it starts, of a package's folder or zip."""
    if code.is_dir():
        return sum(_zip_content(path) for path in code.glob(f"{PACKED_FOLDER}/*.zip"))
    return _packed_in_zip(code)


@defer_interrupts()
def _zip_content(archive: Path) -> int:
    with zipfile.ZipFile(archive) as file:
        return sum(entry.file_size for entry in file.infolist())


@defer_interrupts()
def _packed_in_zip(archive: Path) -> int:
    total = 0
    with zipfile.ZipFile(archive) as outer:
        for name in outer.namelist():
            if name.startswith(f"{PACKED_FOLDER}/"):
                with outer.open(name) as packed, zipfile.ZipFile(packed) as inner:
                    total += sum(entry.file_size for entry in inner.infolist())
    return total
