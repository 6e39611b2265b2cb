"""What a job imports, found by importing it in a process of its own: `python -m
hundredfold.aws.deploy.dependencies JOB`.

A process that has done other things has more in memory than the job needs.
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

OURS = "hundredfold"
INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True, slots=True)
class Imports:
    """What a job is made of.

    `ref`        the job as module:attribute
    `folder`     where its declaration lies: what its queries are relative to
    `queries`    the .sql files that it names, relative to `folder`
    `code`       the user's own: a package's folder or a module's file, by the name it is imported
                 by
    `installed`  the packages that this code imports, at once or in a function, with their versions:
                 {"numpy": "2.4.6"}
    `modules`    every module that was loaded
    """

    ref: str
    folder: str
    queries: tuple[str, ...]
    code: dict[str, str]
    installed: dict[str, str]
    modules: tuple[str, ...]


def imports_of(ref: str) -> Imports:
    """What the job of these words is made of; JobError if it cannot be imported here."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, ref], capture_output=True, text=True, check=False
    )
    try:
        told = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise JobError(
            f"the job {ref} cannot be imported in a process of its own",
            problems=done.stderr.splitlines()[-5:],
            hint=f"hundredfold run {ref}",
        ) from error
    if "error" in told:
        raise JobError(told["error"], problems=told["problems"], hint=told["hint"])
    facts: dict[str, Any] = {
        name: tuple(fact) if isinstance(fact, list) else fact for name, fact in told.items()
    }
    return Imports(**facts)


def _look(ref: str) -> Imports:
    from ...runs.job_loader import load_job

    before = set(sys.modules)
    job = load_job(ref)
    new = {
        name: module
        for name, module in sys.modules.items()
        if name not in before and isinstance(module, ModuleType)
    }
    own = {name: module for name, module in new.items() if _is_own(module)}
    tops = {name.partition(".")[0] for name in own}
    return Imports(
        ref=_plain(ref, job, own),
        folder=str(job.folder),
        queries=tuple(dict.fromkeys(_queries(job))),
        code={top: _place(sys.modules[top]) for top in sorted(tops)},
        installed=_installed({top for module in own.values() for top in _asked(module)} - tops),
        modules=tuple(sorted(new)),
    )


def _is_own(module: ModuleType) -> bool:
    """Whether it is the user's: neither Python's, nor ours, nor installed.

    What this package brings beside itself is the user's.
    """
    file = getattr(module, "__file__", None)
    name = module.__name__.partition(".")[0]
    if not file or name in (OURS, "__main__", "__mp_main__"):
        return False
    path = Path(file)
    if not INSTALLED.isdisjoint(path.parts):
        return OURS in _brought().get(name, ())
    return not path.is_relative_to(sysconfig.get_path("stdlib"))


def _place(module: ModuleType) -> str:
    """A package's folder, or a module's file."""
    folders = list(getattr(module, "__path__", ()))
    return str(folders[0] if folders else module.__file__)


def _plain(ref: str, job: Job, own: Mapping[str, ModuleType]) -> str:
    """module:attribute, whatever words were used."""
    words, _, attribute = (
        ref.rpartition(":") if ".py:" in ref or not ref.endswith(".py") else (ref, "", "")
    )
    module = words or ref
    if module.endswith(".py"):
        full = expand_user(module).resolve()
        module = next(name for name, m in own.items() if Path(str(m.__file__)).resolve() == full)
    if not words or not attribute:
        attribute = next(key for key, value in vars(sys.modules[module]).items() if value is job)
    return f"{module}:{attribute}"


def _queries(job: Job) -> Iterator[str]:
    texts = (
        [m.query for m in job.models if m.query]
        + [p.query for p in job.releases]
        + [q for p in job.releases for q in p.summaries.values()]
    )
    yield from (text for text in texts if text.rstrip().endswith(".sql") and "\n" not in text)


def _asked(module: ModuleType) -> set[str]:
    """The top names of all that a module may import when it is used: what can be imported here must
    be there too, or the same function would go another way.
    """
    try:
        tree = ast.parse(Path(str(module.__file__)).read_bytes())
    except (SyntaxError, ValueError, OSError):
        return set()  # compiled code asks for nothing that can be read
    return {name.partition(".")[0] for name in _imported(tree)}


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
        yield node.module
    elif isinstance(node, ast.If) and any(
        word in ast.dump(node.test) for word in ("TYPE_CHECKING", "__main__")
    ):
        return  # what is not run here is not run there
    for child in ast.iter_child_nodes(node):
        yield from _imported(child)


def _installed(names: set[str]) -> dict[str, str]:
    """The distributions that brought them, with their versions."""
    wanted = sorted(names - set(sys.stdlib_module_names) - {OURS})
    return {
        distribution: version(distribution)
        for name in wanted
        for distribution in _brought().get(name, ())[:1]
        if distribution != OURS
    }


@cache
def _brought() -> Mapping[str, list[str]]:
    """The distributions that brought each name: slow to ask."""
    return packages_distributions()


def _told(ref: str) -> dict[str, Any]:
    try:
        return asdict(_look(ref))
    except JobError as error:
        return {"error": error.message, "problems": list(error.problems), "hint": error.hint}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_told(sys.argv[1])) + "\n")
