"""The code of a job: its own modules, its queries, and the versions of the libraries that it
imports.

A module is the job's own if the imports of the job's functions and contracts reach it, imports
inside of functions included, and if it is not installed: a file outside of site-packages, or of an
editable install. Installed code counts by its version. Functions and classes without a module (of a
script, a notebook, a closure) count by their code.

`code_history` keeps the code with a run; `workers.code_snapshot` lets workers import it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import platform
import re
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._package import VERSION
from ..errors import JobError
from ..job import Job, Model
from ..sql.queries import FileText, is_file, load_query, query_of
from ..workers.code_snapshot import Module, Snapshot
from ..workers.interrupts import defer_interrupts
from .module_closure import ModuleClosure
from .stale_modules import is_stale
from .value_digests import ValueDigests

PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True, slots=True)
class JobCode:
    """The code of a job: a fingerprint, the facts that it is computed from, and the job's own
    modules.
    """

    fingerprint: str
    facts: Mapping[str, Any]
    modules: tuple[Module, ...]
    sources: Mapping[str, bytes]
    commit: str
    taken: int

    @defer_interrupts()
    def archive(self) -> bytes:
        """Return the facts and the modules as a zip archive; equal code gives equal bytes."""
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr(_entry("facts.json"), json.dumps(self.facts, indent=1, sort_keys=True))
            for name, data in sorted(self.sources.items()):
                file.writestr(_entry(f"modules/{name}"), data)
        return sink.getvalue()

    def snapshot(self, archive: str) -> Snapshot:
        """Return the snapshot that a worker imports. archive: where `archive()` was written."""
        tops = {
            module.name: module
            for module in self.modules
            if "." not in module.name and module.kind != "namespace"
        }
        roots = {
            os.path.dirname(  # noqa: PTH120
                os.path.dirname(m.origin) if m.locations is not None else m.origin  # noqa: PTH120
            )
            for m in tops.values()
        }
        return Snapshot(self.modules, archive, tuple(sorted(roots)), self.taken)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def read_job_code(job: Job, ref: str = "") -> JobCode:
    """Read the code of a job. ref: the name that the job is imported by; "" for an object.

    Raises: JobError for a module whose file was edited after this process imported it.
    """
    taken = time.time_ns()
    reached = ValueDigests()
    for name, thing in _parts(job):
        reached.add(name, thing)
    declaring = _module_of_ref(ref)
    if declaring:
        reached.modules.add(declaring)
    functions = {getattr(_innermost(model.work), "__module__", None) or "" for model in job.models}
    closure = ModuleClosure(
        reached.modules, {name.partition(".")[0] for name in {*functions, declaring}}
    )
    stale = sorted(name for name in closure.modules if is_stale(name, closure))
    if stale:
        names = ", ".join(stale)
        raise JobError(
            f"{names}: edited after this process imported it, so that workers would run other "
            "code than this process",
            problems=[closure.modules[name].origin for name in stale],
            hint=f"in a notebook: importlib.reload({stale[0]}) and create the job again, or "
            "restart the kernel; else start the program again",
        )
    facts = {
        "modules": {
            name: hashlib.sha256(data).hexdigest() for name, data in sorted(closure.sources.items())
        },
        "functions": reached.digests,
        "queries": _queries(job),
        "libraries": {name: closure.versions[name] for name in sorted(closure.versions)},
        "python": platform.python_version(),
        PACKAGE: VERSION,
    }
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    modules = tuple(closure.modules[name] for name in sorted(closure.modules))
    return JobCode(fingerprint, facts, modules, closure.sources, _commit(job.folder), taken)


@defer_interrupts()
def facts_of(archive: bytes) -> dict[str, Any]:
    """Return the facts in an archive of code."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        facts: dict[str, Any] = json.loads(file.read("facts.json"))
    return facts


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describe the differences between the facts of two codes, one a line."""
    lines = []
    for part, what in (("modules", ""), ("functions", ""), ("queries", "")):
        then, now = old.get(part, {}), new.get(part, {})
        for name in sorted({*then, *now}):
            if then.get(name) != now.get(name):
                change = (
                    "edited"
                    if name in then and name in now
                    else "new"
                    if name in now
                    else "no longer used"
                )
                lines.append(f"{what}{name}: {change}")
    versions = [
        {"python": f.get("python"), PACKAGE: f.get(PACKAGE), **f.get("libraries", {})}
        for f in (old, new)
    ]
    for name in sorted({*versions[0], *versions[1]}):
        if versions[0].get(name) != versions[1].get(name):
            lines.append(
                f"{name}: {versions[0].get(name) or 'not used'} then, "
                f"{versions[1].get(name) or 'not used'} now"
            )
    return lines


def with_queries(job: Job) -> Job:
    """Return the job with the texts of its query files, so that a run reads each file only once."""

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
        # the results of inspecting its function, while every name was available
        vars(read_model).update(kept)
        return read_model

    publish = tuple(
        replace(
            p, query=read(p.query), summaries={title: read(q) for title, q in p.summaries.items()}
        )
        for p in job.releases
    )
    return replace(job, models=tuple(map(own, job.models)), publish=publish)


def _queries(job: Job) -> dict[str, str]:
    """Return the digests of a job's queries, by title."""
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
    """Return the function inside of partials, methods and objects."""
    while isinstance(work, functools.partial):
        work = work.func
    return getattr(work, "__func__", work)


def _module_of_ref(ref: str) -> str:
    """Return the module of a job's name: that of module:attribute, or the one that a file was
    imported as.
    """
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


def _commit(folder: Path | None) -> str:
    """Return the commit that is checked out in a folder's Git repository; "" if there is none."""
    for parent in (folder, *folder.parents) if folder is not None else ():
        git = parent / ".git"
        try:
            if git.is_file():  # a worktree
                git = (parent / git.read_text().removeprefix("gitdir:").strip()).resolve()
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
    for parent in (git, shared):
        if (parent / ref).is_file():
            return (parent / ref).read_text().strip()
    packed = shared / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {ref}")), "")
