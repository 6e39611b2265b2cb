"""The dependencies of a job, found by importing it in a process of its own.

The command is `python -m hundredfold.aws.deploy.dependencies JOB`. A process that has done other
work has loaded more modules than the job needs.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import JobError
from ...job import Job
from ...paths import expand_user

OUR_DISTRIBUTION = "hundredfold"
SITE_FOLDERS = {"site-packages", "dist-packages"}


@dataclass(frozen=True, slots=True)
class JobImports:
    """The parts of a job.

    `ref`        the job as module:attribute
    `folder`     the folder of its declaration, to which its queries are relative
    `queries`    the .sql files that it names, relative to `folder`
    `code`       the user's own code: a package's folder or a module's file, by import name
    `installed`  the distributions that this code imports, at once or in a function, with their
                 versions:
                 {"numpy": "2.4.6"}
    `modules`    every module that was loaded
    """

    ref: str
    folder: str
    queries: tuple[str, ...]
    code: dict[str, str]
    installed: dict[str, str]
    modules: tuple[str, ...]


def find_imports(ref: str) -> JobImports:
    """Return the parts of a job; JobError if it cannot be imported on this machine."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, ref], capture_output=True, text=True, check=False
    )
    try:
        reply = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise JobError(
            f"the job {ref} cannot be imported in a process of its own",
            problems=done.stderr.splitlines()[-5:],
            hint=f"hundredfold run {ref}",
        ) from error
    if "error" in reply:
        raise JobError(reply["error"], problems=reply["problems"], hint=reply["hint"])
    facts: dict[str, Any] = {
        name: tuple(fact) if isinstance(fact, list) else fact for name, fact in reply.items()
    }
    return JobImports(**facts)


def _inspect(ref: str) -> JobImports:
    from ...runs.job_loader import load_job

    before = set(sys.modules)
    job = load_job(ref)
    new = {
        name: module
        for name, module in sys.modules.items()
        if name not in before and isinstance(module, ModuleType)
    }
    own = {name: module for name, module in new.items() if _is_user_code(module)}
    tops = {name.partition(".")[0] for name in own}
    return JobImports(
        ref=_module_and_attribute(ref, job, own),
        folder=str(job.folder),
        queries=tuple(dict.fromkeys(_queries(job))),
        code={top: _location_of(sys.modules[top]) for top in sorted(tops)},
        installed=_distributions_of(
            {top for module in own.values() for top in _top_level_imports(module)} - tops
        ),
        modules=tuple(sorted(new)),
    )


def _is_user_code(module: ModuleType) -> bool:
    """Return whether a module is the user's: not of Python, not ours, not installed.

    Modules that the distribution of this package installs next to it count as the user's.
    """
    file = getattr(module, "__file__", None)
    name = module.__name__.partition(".")[0]
    if not file or name in (OUR_DISTRIBUTION, "__main__", "__mp_main__"):
        return False
    path = Path(file)
    if not SITE_FOLDERS.isdisjoint(path.parts):
        return OUR_DISTRIBUTION in _distributions_by_name().get(name, ())
    return not path.is_relative_to(sysconfig.get_path("stdlib"))


def _location_of(module: ModuleType) -> str:
    """Return a package's folder, or a module's file."""
    folders = list(getattr(module, "__path__", ()))
    return str(folders[0] if folders else module.__file__)


def _module_and_attribute(ref: str, job: Job, own: Mapping[str, ModuleType]) -> str:
    """Return a job as module:attribute, from any notation."""
    name, _, attribute = (
        ref.rpartition(":") if ".py:" in ref or not ref.endswith(".py") else (ref, "", "")
    )
    module = name or ref
    if module.endswith(".py"):
        full = expand_user(module).resolve()
        module = next(name for name, m in own.items() if Path(str(m.__file__)).resolve() == full)
    if not name or not attribute:
        attribute = next(key for key, value in vars(sys.modules[module]).items() if value is job)
    return f"{module}:{attribute}"


def _queries(job: Job) -> Iterator[str]:
    texts = (
        [m.query for m in job.models if m.query]
        + [p.query for p in job.releases]
        + [q for p in job.releases for q in p.summaries.values()]
    )
    yield from (text for text in texts if text.rstrip().endswith(".sql") and "\n" not in text)


def _top_level_imports(module: ModuleType) -> set[str]:
    """Return the top-level names of all imports of a module, including those inside of functions.

    An import that works on this machine must work on Lambda too, or the same function would behave
    differently.
    """
    try:
        tree = ast.parse(Path(str(module.__file__)).read_bytes())
    except (SyntaxError, ValueError, OSError):
        return set()  # imports of compiled code cannot be read
    return {name.partition(".")[0] for name in _imported(tree)}


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
        yield node.module
    elif isinstance(node, ast.If) and any(
        word in ast.dump(node.test) for word in ("TYPE_CHECKING", "__main__")
    ):
        return  # these blocks do not run in a function either
    for child in ast.iter_child_nodes(node):
        yield from _imported(child)


def _distributions_of(names: set[str]) -> dict[str, str]:
    """Return the distributions of these names, with their versions."""
    distribution_names = sorted(names - set(sys.stdlib_module_names) - {OUR_DISTRIBUTION})
    return {
        distribution: version(distribution)
        for name in distribution_names
        for distribution in _distributions_by_name().get(name, ())[:1]
        if distribution != OUR_DISTRIBUTION
    }


@cache
def _distributions_by_name() -> Mapping[str, list[str]]:
    """Return the distributions of each import name; slow to compute."""
    return packages_distributions()


def _reply(ref: str) -> dict[str, Any]:
    try:
        return asdict(_inspect(ref))
    except JobError as error:
        return {"error": error.message, "problems": list(error.problems), "hint": error.hint}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_reply(sys.argv[1])) + "\n")
