"""Which code a run is made by: the job's own modules, its queries, and the versions of what they import.

A module is the job's own if it is reached from the job's functions and contracts by its imports, also by those inside of
functions, and is not installed: a file outside of site-packages, an editable install included.  What is installed counts by
its version.  Functions and classes without a module (of a script, a notebook, a closure) count by their code.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import sys
import time
import types
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from .. import import_times as imported
from .._package import VERSION
from ..errors import JobError
from ..job import Job, Model
from ..sql.queries import FileText, is_file, load_query, query_of
from ..workers.code_snapshot import FileFingerprint, Module, Snapshot, fingerprint_file

if TYPE_CHECKING:
    from importlib.abc import ResourceLoader

GRAIN_NS = 20_000_000  # a file's times may lag behind the clock by so much
DOUBT_NS = 2_000_000_000  # below that, a newer file is compared with what is in memory
MAX_INSTALLED = 400  # own modules of an installed package beyond which its version must do
IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<base>\.*[\w.]*)[ \t]+import[ \t]*(?P<names>\([^)]*\)|[^\n#;]*)|import[ \t]+(?P<plain>[\w. ,\t]+))"
    r"|import_module\([ \t]*[\"'](?P<text>[\w.]+)[\"']",
    re.M,
)
STDLIB = str(Path(os.__file__).parent)
ALIASES = {
    "sklearn": "scikit_learn", "PIL": "pillow", "yaml": "pyyaml", "dateutil": "python_dateutil", "cv2": "opencv_python",
    "bs4": "beautifulsoup4", "skimage": "scikit_image", "attr": "attrs", "dotenv": "python_dotenv",
}  # fmt: skip
CONSTANTS = (staticmethod, classmethod, property, int, float, str, tuple)
MADE = {
    "__module__",
    "__doc__",
    "__qualname__",
    "__static_attributes__",
    "__firstlineno__",
    "__match_args__",
}
OURS = __name__.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Code:
    """The code of a job: its fingerprint, the facts that this is made of, and the job's own modules with their bytes."""

    fingerprint: str
    facts: Mapping[str, Any]
    modules: tuple[Module, ...]
    sources: Mapping[str, bytes]
    commit: str
    taken: int

    def archive(self) -> bytes:
        """Return the facts and the modules as a zip archive; equal code gives equal bytes."""
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr(_entry("facts.json"), json.dumps(self.facts, indent=1, sort_keys=True))
            for name, data in sorted(self.sources.items()):
                file.writestr(_entry(f"modules/{name}"), data)
        return sink.getvalue()

    def snapshot(self, archive: str) -> Snapshot:
        """Return what a worker needs to import this code; `archive` is where `archive()` was written."""
        tops = {
            module.name: module
            for module in self.modules
            if "." not in module.name and module.kind != "namespace"
        }
        roots = {
            os.path.dirname(os.path.dirname(m.origin) if m.locations is not None else m.origin)  # noqa: PTH120
            for m in tops.values()
        }
        return Snapshot(self.modules, archive, tuple(sorted(roots)), self.taken)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def code_of(job: Job, ref: str = "") -> Code:
    """Read the code of a job. `ref` is the name by which the job is imported; "" where it was given as an object.

    Raises: JobError for a module whose file was edited after this process had imported it.
    """
    taken = time.time_ns()
    reached = _Reached()
    for name, thing in _parts(job):
        reached.add(name, thing)
    declaring = _module_of_ref(ref)
    if declaring:
        reached.modules.add(declaring)
    functions = {getattr(_innermost(model.work), "__module__", None) or "" for model in job.models}
    closure = _Closure(
        reached.modules, {name.partition(".")[0] for name in {*functions, declaring}}
    )
    stale = sorted(name for name in closure.modules if _is_stale(name, closure))
    if stale:
        names = ", ".join(stale)
        raise JobError(
            f"{names}: edited after this process imported it, so that workers would run other code than this process",
            problems=[closure.modules[name].origin for name in stale],
            hint=f"in a notebook: importlib.reload({stale[0]}) and make the job anew, or restart the kernel; else start the program again",
        )
    facts = {
        "modules": {
            name: hashlib.sha256(data).hexdigest() for name, data in sorted(closure.sources.items())
        },
        "functions": reached.digests,
        "queries": _queries(job),
        "libraries": {name: closure.versions[name] for name in sorted(closure.versions)},
        "python": platform.python_version(),
        OURS: VERSION,
    }
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    modules = tuple(closure.modules[name] for name in sorted(closure.modules))
    return Code(fingerprint, facts, modules, closure.sources, _commit(job.folder), taken)


def facts_of(archive: bytes) -> dict[str, Any]:
    """Return the facts that an archive of code keeps."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        facts: dict[str, Any] = json.loads(file.read("facts.json"))
    return facts


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say, a line for each, what differs between the facts of two codes."""
    lines = []
    for part, what in (("modules", ""), ("functions", ""), ("queries", "")):
        then, now = old.get(part, {}), new.get(part, {})
        for name in sorted({*then, *now}):
            if then.get(name) != now.get(name):
                said = (
                    "edited"
                    if name in then and name in now
                    else "new"
                    if name in now
                    else "not used any more"
                )
                lines.append(f"{what}{name}: {said}")
    versions = [
        {"python": f.get("python"), OURS: f.get(OURS), **f.get("libraries", {})} for f in (old, new)
    ]
    for name in sorted({*versions[0], *versions[1]}):
        if versions[0].get(name) != versions[1].get(name):
            lines.append(
                f"{name}: {versions[0].get(name) or 'not used'} then, {versions[1].get(name) or 'not used'} now"
            )
    return lines


def with_queries(job: Job) -> Job:
    """Return the job with the text of its queries instead of the names of their files: a run reads each file once."""

    def read(query: str) -> str:
        return FileText.read(query, job.folder)

    def own(model: Model) -> Model:
        if not is_file(model.query or ""):
            return model
        read_model = replace(model, query=read(model.query or ""))
        kept = {
            name: value
            for name, value in vars(model).items()
            if name not in model.__dataclass_fields__
        }
        vars(read_model).update(
            kept
        )  # what was found out about its function, where every name was there
        return read_model

    publish = tuple(
        replace(
            p, query=read(p.query), summaries={title: read(q) for title, q in p.summaries.items()}
        )
        for p in job.releases
    )
    return replace(job, models=tuple(map(own, job.models)), publish=publish)


def _queries(job: Job) -> dict[str, str]:
    """The texts of a job's queries, as digests, by what they are."""
    found = {
        _query_name(f"the query of {m.name}", m.query or ""): query_of(m, job) for m in job.models
    }
    for output in job.releases:
        found[_query_name(f"the query of {output.name}", output.query)] = load_query(
            output.query, job.folder
        )
        found |= {
            _query_name(f"the digest {title!r}", query): load_query(query, job.folder)
            for title, query in output.summaries.items()
        }
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in found.items()}


def _query_name(what: str, query: str) -> str:
    return f"{what} ({query.strip()})" if is_file(query) else what


def _parts(job: Job) -> Iterator[tuple[str, Any]]:
    for model in job.models:
        yield f"the function of {model.name}", model.work
        returns = model.annotations.get("return")
        kinds = [
            kind for kind in (returns, *getattr(returns, "__args__", ())) if isinstance(kind, type)
        ]
        declared = [
            list(model.unit),
            list(model.order_by),
            list(model.inputs or ()),
            model.batched,
            model.returns,
            kinds,
        ]
        yield f"the declaration of {model.name}", declared
    for source in job.sources:
        declared = [
            source.contract,
            list(source.unique),
            source.latest,
            dict(source.references),
            list(source.not_future),
            dict(source.clean),
        ]
        yield f"the contract of {source.name}", declared
    for output in job.releases:
        yield f"the contract of {output.name}", [output.contract, list(output.formats)]


def _innermost(work: object) -> Any:
    """The function inside of partials, methods and objects."""
    while isinstance(work, functools.partial):
        work = work.func
    return getattr(work, "__func__", work)


def _module_of_ref(ref: str) -> str:
    """The module that a job's name begins with: module:attribute, or the module that a file was imported as."""
    name = ref.partition(":")[0] if ".py" not in ref else ""
    if name or not ref:
        return name
    file = os.path.realpath(re.sub(r"(\.py):[^:/\\]*$", r"\1", ref))
    base = os.path.basename(file)  # noqa: PTH119
    loaded = [
        (name, getattr(module, "__file__", None) or "")
        for name, module in list(sys.modules.items())
    ]
    return next(
        (name for name, path in loaded if path.endswith(base) and os.path.realpath(path) == file),
        "",
    )


class _Reached:
    """Digests of what travels by value, and the modules of what is imported by name."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.digests: dict[str, str] = {}

    def add(self, name: str, thing: object) -> None:
        self._sum, self._seen = hashlib.sha256(), {}  # type: ignore[var-annotated]
        self._value(thing)
        self.digests[name] = self._sum.hexdigest()

    def _text(self, *parts: object) -> None:
        for part in parts:
            self._sum.update(f"{part!r};".encode("utf-8", "backslashreplace"))

    def _value(self, value: object) -> None:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            self._text(type(value).__name__, value)
            return
        if id(value) in self._seen:
            self._text("again", self._seen[id(value)][0])
            return
        self._seen[id(value)] = len(self._seen), value  # the value too: its id must stay its own
        match value:
            case list() | tuple():
                self._text(type(value).__name__, len(value))
                for item in value:
                    self._value(item)
            case set() | frozenset():
                self._text(
                    "set",
                    sorted(map(repr, value))
                    if all(isinstance(v, str | int | float) for v in value)
                    else len(value),
                )
            case dict():
                self._text("dict", len(value))
                for key, item in value.items():
                    self._value(key)
                    self._value(item)
            case functools.partial():
                self._value([value.func, list(value.args), dict(value.keywords)])
            case types.MethodType():
                self._value([value.__func__, value.__self__])
            case types.ModuleType():
                self._text("module", value.__name__)
                self.modules.add(value.__name__)
            case staticmethod() | classmethod():
                self._value(value.__func__)
            case property():
                self._value([value.fget, value.fset])
            case types.FunctionType() | type():
                self._named(value)
            case types.CodeType():
                self._code(value)
            case _:
                self._object(value)

    def _named(self, value: type | types.FunctionType) -> None:
        """A function or a class: by its name where it can be imported, else by what it is made of."""
        self._value(getattr(value, "__wrapped__", None))
        self._text(value.__qualname__)
        if value.__module__ and value.__module__ != "__main__":
            self.modules.add(value.__module__)
            if _found(value.__module__, value.__qualname__) is value:
                self._text(value.__module__)
                return
        if isinstance(value, type):
            self._class(value)
        else:
            self._function(value)

    def _function(self, value: types.FunctionType) -> None:
        self._code(value.__code__)
        self._value([list(value.__defaults__ or ()), dict(value.__kwdefaults__ or {})])
        for cell in value.__closure__ or ():
            try:
                self._value(cell.cell_contents)
            except ValueError:  # not bound yet
                self._text("empty")
        for name in sorted(set(_names(value.__code__))):
            if name in value.__globals__:
                self._text(name)
                self._value(value.__globals__[name])
            elif name in sys.modules:
                self.modules.add(name)

    def _class(self, value: type) -> None:
        for base in value.__bases__:
            self._value(base)
        annotations = vars(value).get("__annotations__", {})
        self._text(
            sorted(
                (name, kind if isinstance(kind, str) else getattr(kind, "__qualname__", str(kind)))
                for name, kind in annotations.items()
            )
        )
        for kind in annotations.values():
            for each in (kind, *getattr(kind, "__args__", ())):
                if isinstance(each, type):
                    self._value(each)
        for name, item in sorted(vars(value).items()):
            code = getattr(getattr(item, "__func__", item), "__code__", None)
            own = code is not None and code.co_filename[:1] != "<"  # not made by dataclass
            if (own or isinstance(item, CONSTANTS)) and name not in MADE:
                self._text(name)
                self._value(item)

    def _code(self, code: types.CodeType) -> None:
        self._text(
            code.co_name,
            code.co_code,
            code.co_names,
            code.co_varnames,
            code.co_freevars,
            code.co_cellvars,
            code.co_flags,
        )
        for const in code.co_consts:
            self._value(const)

    def _object(self, value: object) -> None:
        self._value(type(value))
        if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tobytes"):
            array: Any = value
            self._text(str(array.dtype), array.shape)
            if array.dtype != object:
                import numpy as np

                self._sum.update(
                    np.asarray(value).tobytes()
                )  # np.ma.masked has no tobytes that works
                if isinstance(value, np.ma.MaskedArray):
                    self._sum.update(np.ma.getmaskarray(value).tobytes())
        elif isinstance(state := getattr(value, "__dict__", None), dict):
            self._value(state)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _found(module: str, qualname: str) -> Any:
    """What a module has under a name, as an unpickler looks for it."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


class _Closure:
    """The own modules that are reached by imports, and the versions of the libraries that they import."""

    def __init__(self, roots: set[str], tops: set[str]) -> None:
        """`tops` are own also where they are installed: the packages of the job's functions."""
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
        """Take a module in, if it is the job's own; the modules that it imports, its parents among them."""
        if name in self.modules or not self._is_own(name.partition(".")[0]):
            return ()
        found = _locate(name)
        if found is None:
            return ()
        module, data = found
        if _is_installed(module.origin):
            self._installed += 1
            if self._installed > MAX_INSTALLED:
                return ()
        self.modules[name] = module
        self.sources[name] = data
        parents = [name.rpartition(".")[0]] if "." in name else []
        return [*parents, *(_imports(module, data) if module.kind == "source" else _loaded(module))]

    def _is_own(self, top: str) -> bool:
        """Whether a top name is the job's own; of a library, the version is noted."""
        own = self._kinds.get(top)
        if own is None:
            own = self._kinds[top] = self._judge(top)
        return own

    def _judge(self, top: str) -> bool:
        if (
            top in sys.stdlib_module_names
            or top in sys.builtin_module_names
            or top in (OURS, "__main__", "__mp_main__", "")
        ):
            return False
        found = _place(top)
        if found is None:
            return False
        if not _is_installed(found):
            return True
        version = self._known.get(_normal(ALIASES.get(top, top))) or _slow_version(top)
        if version:
            self.versions[top] = version
        return top in self._tops or not version


@functools.cache
def _slow_version(top: str) -> str:
    """The version of the distribution that brings a name: asks all of them."""
    names = _distributions().get(top, ())
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names)))


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _known_versions() -> dict[str, str]:
    """The versions of what is installed, by the normal form of its name, from the names of folders."""
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
    """Whether a file belongs to Python or was installed beside it."""
    parts = Path(path).parts
    return (
        "site-packages" in parts
        or "dist-packages" in parts
        or path.startswith(STDLIB + os.sep)
        or _is_target(path)
    )


def _is_target(path: str) -> bool:
    """Whether a file is below a folder that pip installed into (pip install --target)."""
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


def _place(name: str) -> str | None:
    """The file of a module, or the folder of a namespace package; None if there is none."""
    module = sys.modules.get(name)
    if module is not None:
        return getattr(module, "__file__", None) or next(
            iter(getattr(module, "__path__", ())), None
        )
    return next(_files(name, sys.path), (None,))[0]


def _files(last: str, folders: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """The files that the name of a module may mean in these folders, and the folders of a package."""
    for folder in folders:
        base = os.path.join(folder or os.getcwd(), last)  # noqa: PTH118, PTH109  # quick: asked for every import of every module
        if os.path.isfile(f"{base}/__init__.py"):  # noqa: PTH113
            yield f"{base}/__init__.py", (base,)
        elif os.path.isfile(f"{base}.py"):  # noqa: PTH113
            yield f"{base}.py", None


def _locate(name: str) -> tuple[Module, bytes] | None:
    """A module of the job with its bytes: as it was imported, or as it would be."""
    loaded = sys.modules.get(name)
    if loaded is None:
        parent = name.rpartition(".")[0]
        above = _locate(parent) if parent else None
        if parent and (above is None or above[0].locations is None):
            return None
        found = next(
            _files(name.rpartition(".")[2], above[0].locations or () if above else sys.path),
            None,
        )
        if found is None:
            return None
        origin, places, loader = *found, None
    else:
        origin, loader = (
            getattr(loaded, "__file__", None) or "",
            getattr(loaded, "__loader__", None),
        )
        places = tuple(map(str, loaded.__path__)) if hasattr(loaded, "__path__") else None
    if not origin:
        return (Module(name, "", "", None, "namespace", places), b"") if places else None
    archive = getattr(loader, "archive", "")
    kind = (
        "bytecode"
        if origin.endswith(".pyc")
        else "source"
        if origin.endswith(".py")
        else "extension"
    )
    found_print, data = _bytes_of(archive or origin, origin, loader if archive else None)
    return Module(name, origin, archive or origin, found_print, kind, places), data


_read_before: dict[
    str, tuple[FileFingerprint, bytes]
] = {}  # a process reads an unchanged file once


def _bytes_of(
    watched: str, origin: str, loader: ResourceLoader | None
) -> tuple[FileFingerprint | None, bytes]:
    """The bytes of a module, and the print of its file that was the same before and after they were read."""
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
        f"{origin} was imported, and is gone: workers could not import it",
        hint="put it back, or start the program again",
    )


@functools.lru_cache(maxsize=4096)
def _imports(module: Module, data: bytes) -> Sequence[str]:
    """The names that a module may import anywhere in it; more than it does, at times."""
    text = data.decode("utf-8", "replace")
    package = module.name if module.locations is not None else module.name.rpartition(".")[0]
    names: dict[str, None] = {}
    for found in IMPORT.finditer(text):
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
    """The modules that a module without source uses, as far as they are loaded: those of its package, and those of what it names."""
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
    """The full name in `from base import`, inside of a package."""
    level = len(base) - len(base.lstrip("."))
    if not level:
        return base
    parts = package.split(".")
    above = parts[: len(parts) - level + 1]
    return ".".join([*above, *([base[level:]] if base[level:] else [])])


def _is_stale(name: str, closure: _Closure) -> bool:
    """Whether a module's file was edited after this process had imported it."""
    module, print_ = closure.modules[name], closure.modules[name].fingerprint
    if name not in sys.modules or print_ is None or module.kind == "namespace":
        return False
    _, mtime, ctime, _ = print_
    earliest, latest = _imported(name)
    grain = (
        DOUBT_NS if ctime % 1_000_000_000 == 0 else GRAIN_NS
    )  # some file systems know whole seconds only
    if max(mtime, ctime) < earliest - grain:
        return False
    if mtime > latest + DOUBT_NS:
        return True
    return module.kind == "source" and _differs(
        sys.modules[name], closure.sources[name], module.origin
    )


def _imported(name: str) -> tuple[int, int]:
    """The earliest and the latest time at which a module may have been imported."""
    known = imported.TIMES.get(name)
    if known is not None:
        return known, known
    return _started(), imported.SINCE


@functools.cache
def _started() -> int:
    return int(psutil.Process().create_time() * 1e9)


def _differs(module: types.ModuleType, data: bytes, origin: str) -> bool:
    """Whether a module in memory is not what its source would give, as far as functions, classes and plain constants show."""
    if type(module.__loader__).__name__ != "SourceFileLoader":  # something rewrites it on import
        return False
    try:
        tree = ast.parse(data)
        code = compile(tree, origin, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return True
    known = set(_nested(code))
    if any(
        own.co_filename == origin and own not in known
        for own in _codes(vars(module), module.__name__)
    ):
        return True
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) and statement.name not in vars(
            module
        ):
            return True
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _other_constant(
                name, value, module, tree
            ):
                return True
    return False


def _other_constant(name: str, value: ast.expr, module: types.ModuleType, tree: ast.Module) -> bool:
    """Whether a constant of the source has another value in memory; what the program itself assigns again does not count."""
    try:
        wanted = ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    stores = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store | ast.Del)
    ]
    if len(stores) != 1 or (isinstance(wanted, list | dict | set) and not wanted):
        return False
    return repr(vars(module).get(name)) != repr(wanted)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield const
            yield from _nested(const)


def _codes(names: Mapping[str, Any], module: str) -> Iterator[types.CodeType]:
    """The code of the functions of a module, methods included."""
    for value in list(names.values()):
        if getattr(value, "__module__", module) != module:
            continue
        if isinstance(value, type):
            yield from _codes(
                {k: v for k, v in vars(value).items() if not isinstance(v, type)}, module
            )
        function = getattr(value, "__func__", getattr(value, "fget", value))
        while function is not None:
            if isinstance(code := getattr(function, "__code__", None), types.CodeType):
                yield code
            function = getattr(function, "__wrapped__", None)


def _commit(folder: Path | None) -> str:
    """The commit that is checked out in a folder's git repository; "" if there is none."""
    for place in (folder, *folder.parents) if folder is not None else ():
        git = place / ".git"
        try:
            if git.is_file():  # a worktree
                git = (place / git.read_text().removeprefix("gitdir:").strip()).resolve()
            if git.is_dir():
                return _head(git)
        except OSError:
            return ""
    return ""


def _head(git: Path) -> str:
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return head
    ref = head.removeprefix("ref:").strip()
    common = git / "commondir"
    shared = (git / common.read_text().strip()).resolve() if common.is_file() else git
    for place in (git, shared):
        if (place / ref).is_file():
            return (place / ref).read_text().strip()
    packed = shared / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {ref}")), "")
