"""Loads a job by its name, `module:attribute` or `path/to/file.py:attribute`."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

import cloudpickle

from .._package import FOLDER
from ..data.checksums import get_sealed
from ..data.layout import Layout
from ..errors import HundredfoldError, JobError, StateError, error_text
from ..job import Job
from ..paths import expand_user
from ..ports.interfaces import Record, RunHome

FILE_REF = re.compile(r"(?P<path>.+\.py)(?::(?P<attribute>[^:/\\]*))?")
REF_HINT = (
    "wanted module:attribute or path/to/file.py:attribute, such as my_job.job:job or my_job/job.py"
)


def load_job(ref: str) -> Job:
    """Return the job of a module or a file. Modules are also searched in the current folder.

    Without an attribute, it is the only job in the module. Raises: JobError with the reason.
    """
    file = FILE_REF.fullmatch(ref)
    name, _, attribute = (file["path"], "", file["attribute"] or "") if file else ref.partition(":")
    if (
        not name
        or (":" in ref and not attribute)
        or not (file or all(name.split(".")))
        or "\0" in ref
    ):
        raise JobError(f"{ref!r} does not name a job", hint=REF_HINT)
    return _find_job(
        _import_file(Path(name))
        if file
        else _import(name, Path.cwd(), f"python -c 'import {name}'"),
        name,
        attribute,
    )


def absolute_ref(ref: str) -> str:
    """Return the name in a form that is valid in any folder: the path of a file is made
    absolute.
    """
    file = FILE_REF.fullmatch(ref)
    return str(expand_user(file["path"]).absolute()) + ref[file.end("path") :] if file else ref


def _import_file(path: Path) -> ModuleType:
    """Import the module of a file. Its folder comes first on the path, as for `python file.py`.

    A file of a package is imported as a part of it, from the folder that contains the package.
    """
    # Path.resolve raises for links that lead to each other
    full = Path(os.path.realpath(expand_user(path)))
    try:
        found = full.is_file()
    except OSError:  # for example, a name that is too long
        found = False
    if not found:
        raise JobError(f"there is no file {full}", hint=REF_HINT)
    names, folder = [full.stem], full.parent
    above = _relative_import_depth(full)
    while (folder / "__init__.py").is_file() or len(names) <= above:
        names.insert(0, folder.name)
        folder = folder.parent
    dotted = ".".join(names)
    module = _import(
        dotted, folder, f"python -c 'import {dotted}'" if len(names) > 1 else f"python {path}"
    )
    if Path(getattr(module, "__file__", None) or "").resolve() != full:
        raise JobError(
            f"{full} cannot be imported: the name {module.__name__} belongs to "
            f"{getattr(module, '__file__', None) or 'Python itself'}",
            hint="rename the file",
        )
    return module


def _relative_import_depth(path: Path) -> int:
    """Return the number of enclosing packages that a file's relative imports need.

    It is one for `from .model import fit`.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return 0  # the import reports it
    return max(
        (node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0
    )


def _import(name: str, folder: Path, again: str) -> ModuleType:
    if str(folder) not in sys.path:  # workers receive this path
        sys.path.insert(0, str(folder))
    try:
        # stdout is reserved for the result
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise JobError(
                f"there is no module {error.name!r} in {folder} or among the installed packages",
                hint="run this in the folder of the module, or install its package",
            ) from error
        raise _import_error(name, error, again) from error
    except (Exception, SystemExit) as error:  # reported with the user's line
        raise _import_error(name, error, again) from error


def _find_job(module: ModuleType, name: str, attribute: str) -> Job:
    jobs = {key: value for key, value in vars(module).items() if isinstance(value, Job)}
    if not attribute and len({id(job) for job in jobs.values()}) == 1:
        return next(iter(jobs.values()))
    job = getattr(module, attribute, None) if attribute else None
    if isinstance(job, Job):
        return job
    what = (
        (f"holds {len(jobs)} jobs" if jobs else "holds no job")
        if not attribute
        else f"has no {attribute!r}"
        if job is None
        else f"has, but not as a Job ({type(job).__name__}), {attribute!r}"
    )
    raise JobError(
        f"{name} {what}",
        hint=f"it has {', '.join(f'{name}:{key}' for key in jobs)}"
        if jobs
        else "declare one: job = Job(...)",
    )


def _import_error(module: str, error: BaseException, again: str) -> JobError:
    """Return the error for a failed import, with the user's line that raised it.

    One of this package's own errors keeps its hint.
    """
    where = _user_line(error)
    if isinstance(error, HundredfoldError):
        return JobError(
            error.message,
            problems=[*error.problems, *where],
            hint=error.hint or f"correct the declaration in {module}",
        )
    reason = f"{type(error).__name__}: {error_text(error)}".rstrip(": ")
    return JobError(
        f"the module {module} cannot be imported: {reason}",
        problems=where,
        hint=f"{again} shows the whole traceback",
    )


def _user_line(error: BaseException) -> list[str]:
    """Return the innermost line of the user's own code that led to an error."""
    if isinstance(error, SyntaxError) and error.filename:
        return [
            f"at {error.filename}, line {error.lineno}"
            + (f": {error.text.strip()}" if error.text else "")
        ]
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "importlib" not in f.filename and f.filename != __file__
    ]
    own = [f for f in frames if not f.filename.startswith((FOLDER, "<"))] or frames
    return [f"at {f.filename}, line {f.lineno}: {f.line}" for f in own[-1:]]


def job_of(home: RunHome, record: Record) -> Job:
    """Return the job of a run: imported again by its name, so that corrections apply; else as it
    was kept.
    """
    if record.ref:
        return load_job(record.ref)
    try:
        kept = get_sealed(home.store, Layout(record.id).job())
    except KeyError:
        raise StateError(
            f"run {record.id} ended before its job was kept", hint="run the job again"
        ) from None
    home.check_writers(Layout(record.id).job())
    try:
        job = cloudpickle.loads(kept.to_pybytes())
    except Exception as error:  # reported below
        raise JobError(
            f"the job of run {record.id} cannot be loaded: {type(error).__name__}: "
            f"{error_text(error)}",
            hint="in Python, pass the job: hundredfold.resume(run_id, job=job)",
        ) from error
    if not isinstance(job, Job):
        raise JobError(f"run {record.id} kept an object that is not a job")
    return job
