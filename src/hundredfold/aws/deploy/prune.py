"""What a package can do without: tests, headers, what only a type checker or a debugger reads, and
parts of libraries that few use.

Nothing that is asked for goes: neither a module that anything which stays imports, nor a library
that any which stays is linked with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .elf import as_loaded, linked_with

NEVER_READ = {
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
NO_CODE = {"__pycache__", "bin", "share"}  # at the top: pip's scripts and manuals
TESTS = {"tests", "test", "_tests"}
RECORDS = {
    "RECORD",
    "INSTALLER",
    "REQUESTED",
    "WHEEL",
    "direct_url.json",
    "uv_cache.json",
}  # of an installation, not of the package
STATEMENT = re.compile(
    rb"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n#]+))",
    re.M,
)


@dataclass(frozen=True, slots=True)
class Part:
    """Something of a library that is whole in itself: what it is imported as, its files, and the
    files that do without it.
    """

    modules: tuple[str, ...]
    files: frozenset[Path]
    tried_by: frozenset[Path] = frozenset()

    def holds(self, module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in self.modules)


# modules; globs of their files; files that import them in a `try`, or when they are asked for by
# name
PARTS = (
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
    ),  # S3 is reached with boto3
    (("pyarrow._pyarrow_cpp_tests",), ("pyarrow/_pyarrow_cpp_tests*",), ()),
    (("numpy.f2py",), ("numpy/f2py/**/*",), ("numpy/__init__.py",)),
)


def prune(folder: Path, *, spare: Iterable[str] = (), own: Iterable[str] = ()) -> tuple[str, ...]:
    """Remove from a folder of packages what can be done without.

    `spare`: modules that are known to be imported; `own`: top names that are left as they are. The
    parts that were kept after all, because something asks for them.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    mine, stubs = set(own), _reads_its_stubs(folder)
    needless = {path for path in files if _is_needless(path.relative_to(folder), mine, stubs)}
    files = [path for path in files if path not in needless]
    parts = [*_parts(folder), *_tests(folder, files, mine), *_twins(files)]
    going = _not_asked_for(parts, files, folder, set(spare))
    for path in needless.union(*(part.files for part in going)):
        path.unlink()
    _slim(folder, mine)
    _remove_empty(folder)
    return tuple(part.modules[0] for part in _parts(folder) if part.files)


def _is_needless(path: Path, own: set[str], stubs: set[str]) -> bool:
    """Files that no program opens. `stubs`: packages that read their own .pyi."""
    top = path.parts[0]
    if "__pycache__" in path.parts:
        return True
    if top in own:
        return False
    if top.endswith(".dist-info"):
        return path.name in RECORDS or "sboms" in path.parts
    return top in NO_CODE or (
        path.suffix in NEVER_READ and not (path.suffix == ".pyi" and top in stubs)
    )


def _reads_its_stubs(folder: Path) -> set[str]:
    """Packages whose modules are loaded lazily by what their .pyi says."""
    return {
        p.relative_to(folder).parts[0]
        for p in folder.rglob("__init__.py")
        if b"attach_stub" in p.read_bytes()
    }


def _parts(folder: Path) -> Iterator[Part]:
    for modules, globs, tried_by in PARTS:
        files = frozenset(path for glob in globs for path in folder.glob(glob) if path.is_file())
        yield Part(modules, files, frozenset(folder / path for path in tried_by))


def _tests(folder: Path, files: Iterable[Path], own: set[str]) -> Iterator[Part]:
    """Each file of the tests of an installed package, by itself: some packages import one of
    theirs.
    """
    for path in files:
        inside = path.relative_to(folder)
        if inside.parts[0] in own or inside.parts[0].endswith(".dist-info"):
            continue
        if not TESTS.isdisjoint(inside.parts[1:-1]) or (
            inside.name == "conftest.py" and len(inside.parts) > 1
        ):
            dotted = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
            yield Part((dotted,), frozenset([path]))


def _twins(files: Iterable[Path]) -> Iterator[Part]:
    """A wheel holds no links: a library lies there once for each of its names, and is loaded by one
    of them.
    """
    alike: dict[tuple[Path, int], list[Path]] = {}
    for path in files:
        if path.name.startswith("lib") and ".so" in path.name:
            alike.setdefault((path.parent, path.stat().st_size), []).append(path)
    for group in alike.values():
        if len(group) > 1 and len({path.read_bytes() for path in group}) == 1:
            yield from (Part((), frozenset([path])) for path in group)


def _not_asked_for(
    parts: list[Part], files: Iterable[Path], folder: Path, spare: set[str]
) -> list[Part]:
    """The parts that can go, when all that can go has gone: what stays asks for more, until nobody
    asks for anything.
    """
    while True:
        leaving = frozenset().union(*(part.files for part in parts))
        staying = [path for path in files if path not in leaving]
        asking = [(path, _imported_by(path, folder)) for path in staying if path.suffix == ".py"]
        modules = spare.union(*(names for _, names in asking))
        libraries = {name for path in staying if ".so" in path.name for name in linked_with(path)}
        kept = [
            p
            for p in parts
            if _is_asked_for(p, modules, asking, spare)
            or any(path.name in libraries for path in p.files)
        ]
        if not kept:
            return parts
        parts = [part for part in parts if part not in kept]


def _is_asked_for(
    part: Part, modules: set[str], asking: list[tuple[Path, frozenset[str]]], spare: set[str]
) -> bool:
    if (
        len(part.files) == 1 and not part.tried_by
    ):  # a test: there are thousands, and each is one module
        return not modules.isdisjoint(part.modules)
    wanted = (
        modules
        if not part.tried_by
        else spare.union(*(names for path, names in asking if path not in part.tried_by))
    )
    return any(part.holds(name) for name in wanted)


@cache
def _imported_by(path: Path, folder: Path) -> frozenset[str]:
    return frozenset(imported(path.read_bytes(), path.relative_to(folder)))


def imported(text: bytes, path: Path) -> Iterator[str]:
    """The modules that a file's import statements may name; of `from a import b`: a and a.b.

    `path` begins at the top package.
    """
    package = path.parent.parts
    for base, names, plain in STATEMENT.findall(text):
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


def _slim(folder: Path, own: set[str]) -> None:
    """Symbols are for debuggers, and are a tenth of some libraries."""
    for path in folder.rglob("*.so*"):
        if path.is_file() and path.relative_to(folder).parts[0] not in own:
            data = path.read_bytes()
            smaller = as_loaded(data)
            if len(smaller) < len(data):
                path.write_bytes(smaller)


def _remove_empty(folder: Path) -> None:
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
        if not any(path.iterdir()):
            path.rmdir()
