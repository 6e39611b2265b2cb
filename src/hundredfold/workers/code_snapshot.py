"""The job's own modules as they were when a run began, for processes that start later.

A module whose file is unchanged is imported as usual, including its compiled bytecode. A module
whose file was edited, replaced or removed meanwhile is loaded from the source that the run keeps,
so that all workers run one version.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import marshal
import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

FileFingerprint = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the job.

    `name`         its full name
    `origin`       its file, as in its `__file__`
    `watched`      the file that is compared: the same, or the archive that holds it; "" for a
                   namespace package, which has no file
    `fingerprint`  size, times and inode of that file
    `kind`         source, bytecode, extension or namespace
    `locations`    the folders of a package; None for any other module
    """

    name: str
    origin: str
    watched: str
    fingerprint: FileFingerprint | None
    kind: str
    locations: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The modules of a job, the archive that keeps their sources, and the folders of the job's
    code.
    """

    modules: tuple[Module, ...]
    archive: str
    roots: tuple[str, ...]
    taken: int  # ns since the epoch

    def install(self) -> None:
        """Import these modules, in this process, as they were when the run began."""
        importlib.machinery.PathFinder.invalidate_caches()
        sys.meta_path.insert(0, SnapshotFinder(self))


def fingerprint_file(path: str) -> FileFingerprint | None:
    """Return size, times and inode of a file; None if it is gone."""
    try:
        found = os.stat(path)  # noqa: PTH116  # called for every import
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


class SnapshotFinder(MetaPathFinder):
    """Finds the modules of a snapshot, and rejects modules of the job that were added or edited
    later.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.modules = {module.name: module for module in snapshot.modules}
        self.top_level_names = {name.partition(".")[0] for name in self.modules}

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        module = self.modules.get(name)
        if module is None:
            self._refuse_newer(name, path)
            return None
        if module.kind == "namespace":
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = list(module.locations or ())
            return spec
        same = fingerprint_file(module.watched) == module.fingerprint
        if module.kind == "extension" and not same:
            raise ImportError(
                f"{module.watched} has changed since the run began:"
                " a compiled module cannot be kept with the run",
                name=name,
            )
        if same and module.kind != "source":
            return None
        if same and module.watched == module.origin:
            loader: Loader = VerifyingLoader(module, self.snapshot.archive)
        elif same:
            return None
        else:
            loader = SnapshotLoader(module, self.snapshot.archive)
        locations = list(module.locations) if module.locations is not None else None
        return importlib.util.spec_from_file_location(
            name, module.origin, loader=loader, submodule_search_locations=locations
        )

    def _refuse_newer(self, name: str, path: Sequence[str] | None) -> None:
        """Raise ImportError for a module in the job's folders that is newer than the run."""
        last = name.rpartition(".")[2]
        for folder in (
            self.snapshot.roots
            if path is None
            else [p for p in path if str(p).startswith(self.snapshot.roots)]
        ):
            for file in (f"{folder}/{last}.py", f"{folder}/{last}/__init__.py"):
                found = fingerprint_file(file)
                if found is not None and max(found[1], found[2]) > self.snapshot.taken:
                    raise ImportError(
                        f"{file} has changed since the run began, and the run keeps no copy of it",
                        name=name,
                    )


class VerifyingLoader(importlib.machinery.SourceFileLoader):
    """Loads a module from its file, unless the file changes at this moment."""

    def __init__(self, module: Module, archive: str) -> None:
        super().__init__(module.name, module.origin)
        self.module, self.archive = module, archive

    def get_code(self, fullname: str) -> CodeType | None:
        code = super().get_code(fullname)
        return (
            code
            if fingerprint_file(self.module.watched) == self.module.fingerprint
            else snapshot_code(self.module, self.archive)
        )


class SnapshotLoader(Loader):
    """Loads a module from the source that the run keeps."""

    def __init__(self, module: Module, archive: str) -> None:
        self.module, self.archive = module, archive

    def create_module(self, spec: ModuleSpec) -> None:  # noqa: ARG002
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(snapshot_code(self.module, self.archive), module.__dict__)

    def get_source(self, fullname: str) -> str | None:  # noqa: ARG002
        """Return the source that is running, for tracebacks."""
        data = snapshot_bytes(self.module, self.archive)
        return importlib.util.decode_source(data) if self.module.kind == "source" else None

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002
        return self.module.locations is not None


def snapshot_code(module: Module, archive: str) -> CodeType:
    """Compile the source that a run keeps of a module."""
    data = snapshot_bytes(module, archive)
    if module.kind == "bytecode":
        code: Any = marshal.loads(data[16:])  # after the header of a .pyc file
        return code  # type: ignore[no-any-return]
    return compile(data, module.origin, "exec", dont_inherit=True)


def snapshot_bytes(module: Module, archive: str) -> bytes:
    try:
        with zipfile.ZipFile(archive) as file:
            return file.read(f"modules/{module.name}")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ImportError(
            f"{module.origin} has changed since the run began,"
            f" and the copy that the run keeps cannot be read: {error}",
            name=module.name,
        ) from error
