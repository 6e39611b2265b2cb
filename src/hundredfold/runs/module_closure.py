"""The modules that belong to a job: those that the imports of its functions reach."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import JobError
from ..workers.code_snapshot import FileFingerprint, Module, fingerprint_file

if TYPE_CHECKING:
    from importlib.abc import ResourceLoader

PACKAGE = __name__.partition(".")[0]
MAX_INSTALLED_MODULES = 400  # in larger installed packages, the version represents the rest
IMPORT_STATEMENT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<base>\.*[\w.]*)[ \t]+import[ \t]*(?P<names>\([^)]*\)|[^\n#;]*)"
    r"|import[ \t]+(?P<plain>[\w. ,\t]+))"
    r"|import_module\([ \t]*[\"'](?P<text>[\w.]+)[\"']",
    re.M,
)
STDLIB = str(Path(os.__file__).parent)
DISTRIBUTION_OF = {
    "sklearn": "scikit_learn",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "dateutil": "python_dateutil",
    "cv2": "opencv_python",
    "bs4": "beautifulsoup4",
    "skimage": "scikit_image",
    "attr": "attrs",
    "dotenv": "python_dotenv",
}


class ModuleClosure:
    """The job's own modules, reached by imports, and the versions of the libraries that they
    import.
    """

    def __init__(self, roots: set[str], tops: set[str]) -> None:
        """Read the modules. tops: top-level names that are own even if installed: those of the
        functions.
        """
        self.modules: dict[str, Module] = {}
        self.sources: dict[str, bytes] = {}
        self.versions: dict[str, str] = {}
        self._kinds: dict[str, bool] = {}
        self._known = _known_versions()
        self._tops = tops
        self._installed = 0
        todo = sorted(roots)
        while todo:
            for name in self._read(todo.pop()):
                if name not in self.modules:
                    todo.append(name)

    def _read(self, name: str) -> Sequence[str]:
        """Read a module if it is the job's own, and return the modules that it imports and its
        parents.
        """
        if name in self.modules or not self._is_own(name.partition(".")[0]):
            return ()
        found = _locate(name)
        if found is None:
            return ()
        module, data = found
        if _is_installed(module.origin):
            self._installed += 1
            if self._installed > MAX_INSTALLED_MODULES:
                return ()
        self.modules[name] = module
        self.sources[name] = data
        parents = [name.rpartition(".")[0]] if "." in name else []
        return [*parents, *(_imports(module, data) if module.kind == "source" else _loaded(module))]

    def _is_own(self, top: str) -> bool:
        """Return whether a top-level name is the job's own; record the version of a library."""
        own = self._kinds.get(top)
        if own is None:
            own = self._kinds[top] = self._classify(top)
        return own

    def _classify(self, top: str) -> bool:
        if (
            top in sys.stdlib_module_names
            or top in sys.builtin_module_names
            or top in (PACKAGE, "__main__", "__mp_main__", "")
        ):
            return False
        found = _location(top)
        if found is None:
            return False
        if not _is_installed(found):
            return True
        version = self._known.get(_normal(DISTRIBUTION_OF.get(top, top))) or _metadata_version(top)
        if version:
            self.versions[top] = version
        return top in self._tops or not version


@functools.cache
def _metadata_version(top: str) -> str:
    """Return the version of the distribution with a top-level name; slow: reads all metadata."""
    names = _distributions().get(top, ())
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names)))


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _known_versions() -> dict[str, str]:
    """Return the versions of installed distributions, by normalised name, from the names of
    folders.
    """
    found: dict[str, str] = {}
    for folder in reversed(sys.path):
        try:
            names = os.listdir(folder or ".")  # noqa: PTH208
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                distribution, _, version = name.rpartition(".")[0].partition("-")
                if version:
                    found[_normal(distribution)] = version.partition("-")[0]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _is_installed(path: str) -> bool:
    """Return whether a file belongs to Python or was installed into it."""
    parts = Path(path).parts
    return (
        "site-packages" in parts
        or "dist-packages" in parts
        or path.startswith(STDLIB + os.sep)
        or _is_target(path)
    )


def _is_target(path: str) -> bool:
    """Return whether a file is in a folder that pip installed into (pip install --target)."""
    return any(
        _holds_distributions(folder)
        for folder in sys.path
        if folder and path.startswith(folder.rstrip(os.sep) + os.sep)
    )


@functools.cache
def _holds_distributions(folder: str) -> bool:
    try:
        return any(name.endswith(".dist-info") for name in os.listdir(folder))  # noqa: PTH208
    except OSError:
        return False


def _location(name: str) -> str | None:
    """Return the file of a module, or the folder of a namespace package; None if there is none."""
    module = sys.modules.get(name)
    if module is not None:
        return getattr(module, "__file__", None) or next(
            iter(getattr(module, "__path__", ())), None
        )
    return next(_candidates(name, sys.path), (None,))[0]


def _candidates(last: str, folders: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """Yield the files that a module's name can mean in these folders, with the folders of a
    package.
    """
    for folder in folders:
        # os.path is quicker, and this runs for every import of every module
        base = os.path.join(folder or os.getcwd(), last)  # noqa: PTH118, PTH109
        if os.path.isfile(f"{base}/__init__.py"):  # noqa: PTH113
            yield f"{base}/__init__.py", (base,)
        elif os.path.isfile(f"{base}.py"):  # noqa: PTH113
            yield f"{base}.py", None


def _locate(name: str) -> tuple[Module, bytes] | None:
    """Return a module and its bytes: as it was imported, or as it would be."""
    loaded = sys.modules.get(name)
    if loaded is None:
        parent = name.rpartition(".")[0]
        above = _locate(parent) if parent else None
        if parent and (above is None or above[0].locations is None):
            return None
        found = next(
            _candidates(name.rpartition(".")[2], above[0].locations or () if above else sys.path),
            None,
        )
        if found is None:
            return None
        origin, locations, loader = *found, None
    else:
        origin, loader = (
            getattr(loaded, "__file__", None) or "",
            getattr(loaded, "__loader__", None),
        )
        locations = tuple(map(str, loaded.__path__)) if hasattr(loaded, "__path__") else None
    if not origin:
        return (Module(name, "", "", None, "namespace", locations), b"") if locations else None
    archive = getattr(loader, "archive", "")
    kind = (
        "bytecode"
        if origin.endswith(".pyc")
        else "source"
        if origin.endswith(".py")
        else "extension"
    )
    found_print, data = _read_file(archive or origin, origin, loader if archive else None)
    return Module(name, origin, archive or origin, found_print, kind, locations), data


_read_before: dict[
    str, tuple[FileFingerprint, bytes]
] = {}  # a process reads an unchanged file once


def _read_file(
    watched: str, origin: str, loader: ResourceLoader | None
) -> tuple[FileFingerprint | None, bytes]:
    """Return the bytes of a module, and its file's fingerprint, unchanged before and after the
    read.
    """
    before = fingerprint_file(watched)
    kept = _read_before.get(origin)
    if before is not None and kept is not None and kept[0] == before:
        return kept
    while before is not None:
        try:
            data = (
                bytes(loader.get_data(origin)) if loader is not None else Path(origin).read_bytes()
            )
        except OSError:
            break
        after = fingerprint_file(watched)
        if after == before:
            _read_before[origin] = before, data
            return before, data
        before = after
    raise JobError(
        f"{origin} was imported, and is missing now: workers could not import it",
        hint="restore it, or start the program again",
    )


@functools.lru_cache(maxsize=4096)
def _imports(module: Module, data: bytes) -> Sequence[str]:
    """Return the names that a module may import anywhere; sometimes more than it does."""
    text = data.decode("utf-8", "replace")
    package = module.name if module.locations is not None else module.name.rpartition(".")[0]
    names: dict[str, None] = {}
    for found in IMPORT_STATEMENT.finditer(text):
        if found["text"]:
            names[found["text"]] = None
        elif found["plain"]:
            names |= dict.fromkeys(
                part.split()[0] for part in found["plain"].split(",") if part.split()
            )
        else:
            base = _absolute(found["base"], package)
            if base:
                parts = re.sub(r"#[^\n]*", "", found["names"]).strip("() \t\n\\").split(",")
                names |= {base: None} | {
                    f"{base}.{part.split()[0]}": None
                    for part in parts
                    if part.split() and part.strip() != "*"
                }
    return tuple(names)


def _loaded(module: Module) -> Sequence[str]:
    """Return the loaded modules that a module without source uses.

    They are those of its package, and those of the objects in its namespace.
    """
    package = module.name if module.locations is not None else module.name.rpartition(".")[0]
    names = [name for name in sys.modules if package and name.startswith(f"{package}.")]
    values = list(vars(sys.modules[module.name]).values()) if module.name in sys.modules else []
    named = [
        value.__name__
        if isinstance(value, types.ModuleType)
        else getattr(value, "__module__", None)
        for value in values
    ]
    return [*names, *(name for name in named if isinstance(name, str))]


def _absolute(base: str, package: str) -> str:
    """Return the full name of `base` in `from base import`, inside of a package."""
    level = len(base) - len(base.lstrip("."))
    if not level:
        return base
    parts = package.split(".")
    above = parts[: len(parts) - level + 1]
    return ".".join([*above, *([base[level:]] if base[level:] else [])])
