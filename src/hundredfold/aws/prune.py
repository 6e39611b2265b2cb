"""What a package can do without: tests, headers, what only a type checker reads, and parts of pyarrow that nothing here uses.

Nothing that is asked for goes: neither a module that anything which stays imports, nor a library that any which stays is linked with.
"""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

NEVER_READ = {".pyi", ".pxd", ".pyx", ".pxi", ".h", ".hpp", ".c", ".cc", ".cpp", ".a", ".lib", ".cmake", ".pyc", ".map"}
NO_CODE = {"__pycache__", "bin", "share"}  # at the top, pip's scripts and manuals
TESTS = {"tests", "test", "_tests", "conftest"}
RECORDS = {"RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json", "uv_cache.json"}  # of the installation, not of the package
STATEMENT = re.compile(rb"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n#]+))", re.M)


@dataclass(frozen=True, slots=True)
class Part:
    """Something of a library that is whole in itself: what it is imported as, and its files."""

    modules: tuple[str, ...]
    globs: tuple[str, ...]


PARTS = (
    Part(
        ("pyarrow.flight", "pyarrow._flight"),
        ("pyarrow/flight.py", "pyarrow/_flight*", "pyarrow/libarrow_flight.*", "pyarrow/libarrow_python_flight.*"),
    ),
    Part(("pyarrow.substrait", "pyarrow._substrait"), ("pyarrow/substrait.py", "pyarrow/_substrait*", "pyarrow/libarrow_substrait.*")),
    Part(("pyarrow.orc", "pyarrow._orc"), ("pyarrow/orc.py", "pyarrow/_orc*")),
    Part(("pyarrow.cuda", "pyarrow._cuda"), ("pyarrow/cuda.py", "pyarrow/_cuda*")),
    Part(("pyarrow.interchange",), ("pyarrow/interchange/**/*",)),
    Part(("pyarrow.include", "pyarrow.includes", "pyarrow.src"), ("pyarrow/include/**/*", "pyarrow/includes/**/*", "pyarrow/src/**/*")),
    Part(("numpy.f2py",), ("numpy/f2py/**/*",)),
)


def prune(folder: Path, *, spare: Iterable[str] = (), own: Iterable[str] = ()) -> tuple[str, ...]:
    """Remove what can be done without from a folder of packages. `spare`: modules that are known to be imported; `own`: top
    names that are not touched. What was kept after all, because something asks for it."""
    mine = set(own)
    _remove(path for path in folder.rglob("*") if path.is_file() and _is_never_read(path.relative_to(folder), mine))
    tests = tuple(_tests(folder, mine))
    asked = set(spare) | set(_asked(folder, leaving=[*PARTS, *tests]))
    kept = []
    for part in (*PARTS, *tests):
        files = [path for glob in part.globs for path in folder.glob(glob) if path.is_file()]
        if any(_asks_for(part, name) for name in asked):
            kept += [part.modules[0]] if files else []
        else:
            _remove(files)
    kept += _put_back_linked(folder)
    _remove_empty(folder)
    return tuple(kept)


def _is_never_read(path: Path, own: set[str]) -> bool:
    if path.parts[0] in own:
        return "__pycache__" in path.parts
    info = path.parts[0].endswith(".dist-info")
    return (
        path.parts[0] in NO_CODE
        or "__pycache__" in path.parts
        or path.suffix in NEVER_READ
        or (info and path.name in RECORDS)
        or (info and "sboms" in path.parts)
    )


def _tests(folder: Path, own: set[str]) -> Iterator[Part]:
    """Each folder of tests of an installed package, and its conftest.py."""
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if inside.parts[0] in own or inside.parts[0].endswith(".dist-info") or path.stem not in TESTS or len(inside.parts) < 2:
            continue
        if path.is_dir() and not any(part in TESTS for part in inside.parts[:-1]):
            yield Part((".".join(inside.parts),), (f"{inside.as_posix()}/**/*",))
        elif path.name == "conftest.py":
            yield Part((".".join(inside.with_suffix("").parts),), (inside.as_posix(),))


def _asked(folder: Path, leaving: Sequence[Part]) -> Iterator[str]:
    """Every module that the Python files which stay import, in whatever place of theirs."""
    going = {path for part in leaving for glob in part.globs for path in folder.glob(glob)}
    for path in folder.rglob("*.py"):
        if path not in going:
            yield from imported(path.read_bytes(), path.relative_to(folder))


def imported(text: bytes, path: Path) -> Iterator[str]:
    """The modules that a file's import statements may name; of `from a import b`, a and a.b. `path`: below the top folder."""
    package = path.parent.parts
    for base, names, plain in STATEMENT.findall(text):
        if plain:
            yield from (name.split(b" as ")[0].strip().decode() for name in plain.split(b","))
            continue
        dotted = base.decode()
        level = len(dotted) - len(dotted.lstrip("."))
        parts = [*package[: len(package) - level + 1], *filter(None, [dotted[level:]])] if level else [dotted]
        above = ".".join(parts)
        yield above
        yield from (f"{above}.{name.decode()}" for name in re.findall(rb"(\w+)(?:[ \t]+as[ \t]+\w+)?", names))


def _asks_for(part: Part, name: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in part.modules)


def _put_back_linked(folder: Path) -> list[str]:
    return []


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink()


def _remove_empty(folder: Path) -> None:
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
        if not any(path.iterdir()):
            path.rmdir()
