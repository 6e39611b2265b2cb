"""Removes unneeded files from a package: tests, headers, files for type checkers or debuggers, and
rarely used parts of libraries.

Nothing that is needed is removed: no module that a remaining file imports, and no library that a
remaining one is linked with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .elf import linked_libraries, strip_unloaded

UNREAD_SUFFIXES = {
    ".pyi",
    ".pxd",
    ".pyx",
    ".pxi",
    ".h",
    ".hpp",
    ".c",
    ".cc",
    ".cpp",
    ".a",
    ".lib",
    ".cmake",
    ".pyc",
    ".map",
}
# at the top: scripts and manuals that pip installs
FOLDERS_WITHOUT_CODE = {"__pycache__", "bin", "share"}
TEST_FOLDERS = {"tests", "test", "_tests"}
# records of the installation
INSTALL_RECORDS = {
    "RECORD",
    "INSTALLER",
    "REQUESTED",
    "WHEEL",
    "direct_url.json",
    "uv_cache.json",
}
IMPORT_STATEMENT = re.compile(
    rb"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n#]+))",
    re.M,
)


@dataclass(frozen=True, slots=True)
class Part:
    """A self-contained part of a library: its module names, its files, and files that work without
    it.
    """

    modules: tuple[str, ...]
    files: frozenset[Path]
    tried_by: frozenset[Path] = frozenset()

    def holds(self, module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in self.modules)


# modules; globs of their files; files that import them in a `try`, or on access by name
# S3 is accessed with boto3
OPTIONAL_PARTS = (
    (
        ("pyarrow.flight", "pyarrow._flight"),
        ("pyarrow/flight.py", "pyarrow/_flight*", "pyarrow/lib*_flight*"),
        (),
    ),
    (
        ("pyarrow.substrait", "pyarrow._substrait"),
        ("pyarrow/substrait.py", "pyarrow/_substrait*", "pyarrow/libarrow_substrait*"),
        (),
    ),
    (
        ("pyarrow._s3fs",),
        ("pyarrow/_s3fs*", "pyarrow/libarrow_s3*"),
        ("pyarrow/fs.py",),
    ),
    (("pyarrow._pyarrow_cpp_tests",), ("pyarrow/_pyarrow_cpp_tests*",), ()),
    (("numpy.f2py",), ("numpy/f2py/**/*",), ("numpy/__init__.py",)),
)


def prune(folder: Path, *, spare: Iterable[str] = (), own: Iterable[str] = ()) -> tuple[str, ...]:
    """Remove unneeded files from a folder of packages; return the parts that are needed and kept.

    `spare`: modules that are known to be imported; `own`: top-level names that stay unchanged.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    own_names, stubs = set(own), _packages_reading_stubs(folder)
    unneeded = {path for path in files if _is_unneeded(path.relative_to(folder), own_names, stubs)}
    files = [path for path in files if path not in unneeded]
    parts = [*_parts(folder), *_tests(folder, files, own_names), *_duplicate_libraries(files)]
    removed = _removable(parts, files, folder, set(spare))
    for path in unneeded.union(*(part.files for part in removed)):
        path.unlink()
    _strip_symbols(folder, own_names)
    _remove_empty(folder)
    return tuple(part.modules[0] for part in _parts(folder) if part.files)


def _is_unneeded(path: Path, own: set[str], stubs: set[str]) -> bool:
    """Return whether no program opens a file. `stubs`: packages that read their own .pyi."""
    top = path.parts[0]
    if "__pycache__" in path.parts or path.parts == (".lock",):  # of uv
        return True
    if top in own:
        return False
    if top.endswith(".dist-info"):
        return path.name in INSTALL_RECORDS or "sboms" in path.parts
    return top in FOLDERS_WITHOUT_CODE or (
        path.suffix in UNREAD_SUFFIXES and not (path.suffix == ".pyi" and top in stubs)
    )


def _packages_reading_stubs(folder: Path) -> set[str]:
    """Return the packages that load their modules lazily, as listed in their .pyi."""
    return {
        p.relative_to(folder).parts[0]
        for p in folder.rglob("__init__.py")
        if b"attach_stub" in p.read_bytes()
    }


def _parts(folder: Path) -> Iterator[Part]:
    for modules, globs, tried_by in OPTIONAL_PARTS:
        files = frozenset(path for glob in globs for path in folder.glob(glob) if path.is_file())
        yield Part(modules, files, frozenset(folder / path for path in tried_by))


def _tests(folder: Path, files: Iterable[Path], own: set[str]) -> Iterator[Part]:
    """Yield each test file of an installed package as a part: some packages import their own."""
    for path in files:
        inside = path.relative_to(folder)
        if inside.parts[0] in own or inside.parts[0].endswith(".dist-info"):
            continue
        if not TEST_FOLDERS.isdisjoint(inside.parts[1:-1]) or (
            inside.name == "conftest.py" and len(inside.parts) > 1
        ):
            dotted = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
            yield Part((dotted,), frozenset([path]))


def _duplicate_libraries(files: Iterable[Path]) -> Iterator[Part]:
    """Yield the copies of a library as parts.

    A wheel contains no links: a library is stored once for each of its names, and loaded by one of
    them.
    """
    alike: dict[tuple[Path, int], list[Path]] = {}
    for path in files:
        if path.name.startswith("lib") and ".so" in path.name:
            alike.setdefault((path.parent, path.stat().st_size), []).append(path)
    for group in alike.values():
        if len(group) > 1 and len({path.read_bytes() for path in group}) == 1:
            yield from (Part((), frozenset([path])) for path in group)


def _removable(
    parts: list[Part], files: Iterable[Path], folder: Path, spare: set[str]
) -> list[Part]:
    """Return the parts that no remaining file needs.

    A part that is kept may need others, so this repeats until no more part is needed.
    """
    while True:
        leaving = frozenset().union(*(part.files for part in parts))
        staying = [path for path in files if path not in leaving]
        importing = [(path, _imported_by(path, folder)) for path in staying if path.suffix == ".py"]
        modules = spare.union(*(names for _, names in importing))
        libraries = {
            name for path in staying if ".so" in path.name for name in linked_libraries(path)
        }
        kept = [
            p
            for p in parts
            if _is_needed(p, modules, importing, spare)
            or any(path.name in libraries for path in p.files)
        ]
        if not kept:
            return parts
        parts = [part for part in parts if part not in kept]


def _is_needed(
    part: Part, modules: set[str], importing: list[tuple[Path, frozenset[str]]], spare: set[str]
) -> bool:
    # a test: there are thousands, each of one module
    if len(part.files) == 1 and not part.tried_by:
        return not modules.isdisjoint(part.modules)
    needed = (
        modules
        if not part.tried_by
        else spare.union(*(names for path, names in importing if path not in part.tried_by))
    )
    return any(part.holds(name) for name in needed)


@cache
def _imported_by(path: Path, folder: Path) -> frozenset[str]:
    return frozenset(imported(path.read_bytes(), path.relative_to(folder)))


def imported(text: bytes, path: Path) -> Iterator[str]:
    """Yield the modules that a file's import statements may name; for `from a import b`: a and a.b.

    `path` begins at the top-level package.
    """
    package = path.parent.parts
    for base, names, plain in IMPORT_STATEMENT.findall(text):
        if plain:
            yield from (
                name.split(b" as ")[0].strip().decode("utf-8", "replace")
                for name in plain.split(b",")
            )
            continue
        dotted = base.decode("utf-8", "replace")
        level = len(dotted) - len(dotted.lstrip("."))
        parts = (
            [*package[: len(package) - level + 1], *filter(None, [dotted[level:]])]
            if level
            else [dotted]
        )
        above = ".".join(parts)
        yield above
        yield from (f"{above}.{name.decode()}" for name in re.findall(rb"\w+", names))


def _strip_symbols(folder: Path, own: set[str]) -> None:
    """Remove symbols, which only debuggers use, and which are a tenth of some libraries."""
    for path in folder.rglob("*.so*"):
        if path.is_file() and path.relative_to(folder).parts[0] not in own:
            data = path.read_bytes()
            smaller = strip_unloaded(data)
            if len(smaller) < len(data):
                path.write_bytes(smaller)


def _remove_empty(folder: Path) -> None:
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
        if not any(path.iterdir()):
            path.rmdir()
