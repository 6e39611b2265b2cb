"""From `module:attribute` to the job that it names."""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from pathlib import Path

from .errors import JobError
from .job import Job


def load_job(ref: str) -> Job:
    """The job that `package.module:attribute` names, looked for in the current folder too; JobError says why there is none."""
    module_name, _, attribute = ref.partition(":")
    if not module_name or not attribute or module_name.endswith(".py"):
        raise JobError(f"{ref!r} names no job", hint="wanted module:attribute, such as my_job.job:job")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a module says on import is words, not the result
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise JobError(
                f"there is no module {error.name!r} in {Path.cwd()} or among the installed packages",
                hint="run this where the module is, or install its package",
            ) from error
        raise _failed(module_name, error) from error
    except (Exception, SystemExit) as error:  # whatever the user's module raises is told
        raise _failed(module_name, error) from error
    job = getattr(module, attribute, None)
    if not isinstance(job, Job):
        jobs = [name for name, value in vars(module).items() if isinstance(value, Job)]
        what = "has no" if job is None else f"has, but not as a Job ({type(job).__name__}),"
        raise JobError(
            f"{module_name} {what} {attribute!r}",
            hint=f"it has {', '.join(f'{module_name}:{name}' for name in jobs)}" if jobs else "declare one: job = Job(...)",
        )
    return job


def _failed(module: str, error: BaseException) -> JobError:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename and f.filename != __file__]
    where = f" at {frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
    if isinstance(error, SyntaxError):
        where = f" at {error.filename}, line {error.lineno}: {(error.text or '').strip()}"
    return JobError(
        f"the module {module} cannot be imported: {type(error).__name__}: {error}",
        problems=[where.strip()] if where else [],
        hint=f"python -c 'import {module}' shows all of it",
    )
