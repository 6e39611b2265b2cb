"""Bytecode of a package's modules, so that a function does not compile them when it starts.

Lambda keeps no bytecode from one environment to the next: its disk cannot be written where the
package is. Bytecode belongs to one minor version of Python, so that an interpreter of the version
of the functions must be installed here. It is unchecked: files of a package never change, and no
function needs to read the source. The same modules give the same bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..lambda_platform import BYTECODE_FOLDER
from .uv import uv_program

PACKAGE_ROOT = "/var/task"  # where a function finds its package: tracebacks show it
# prints the version of a final release of CPython, whose bytecode is that of Lambda
_VERSION = (
    "import sys; i = sys.implementation; "
    "print(i.name, *sys.version_info[:2], sys.version_info.releaselevel)"
)
_COMPILE = """
import compileall, os, py_compile, sys, warnings
warnings.simplefilter("ignore")
folder, root = sys.argv[1:]
for path, folders, files in os.walk(folder):
    folders.sort()
    for name in sorted(files):
        if name.endswith(".py"):
            compileall.compile_file(
                os.path.join(path, name), quiet=2, stripdir=folder, prependdir=root,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
"""


def find_interpreter(python: str) -> str:
    """Return a program of CPython `python` (such as "3.14") on this machine; "" if there is none.

    That of this process, one on the PATH, or one that uv has installed. None is downloaded.
    """
    return next((each for each in _candidates(python) if _is_final(each, python)), "")


def _candidates(python: str) -> Iterator[str]:
    yield sys.executable
    yield shutil.which(f"python{python}") or ""
    if uv := uv_program():
        command = [uv, "python", "find", "--no-python-downloads", python]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        yield done.stdout.strip() if done.returncode == 0 else ""


def _is_final(program: str, python: str) -> bool:
    """Return whether a program is CPython of that version, and no preview of it."""
    if not program:
        return False
    done = subprocess.run(
        [program, "-I", "-c", _VERSION], capture_output=True, text=True, check=False
    )
    return done.stdout.split() == ["cpython", *python.split("."), "final"]


def compile_modules(folder: Path, interpreter: str) -> None:
    """Write the bytecode of each module of a folder; files that are no valid Python get none."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONHASHSEED"] = "0"
    command = [interpreter, "-s", "-c", _COMPILE, str(folder), PACKAGE_ROOT]
    subprocess.run(command, env=environment, check=True)


def bytecode_owners(
    folder: Path, owners: Mapping[Path, tuple[str, str]]
) -> dict[Path, tuple[str, str]]:
    """Return the distribution of each file with bytecode: that of its module."""
    found = {}
    for path in folder.rglob(f"{BYTECODE_FOLDER}/*.pyc"):
        module = path.parent.parent / f"{path.name.partition('.')[0]}.py"
        if module in owners:
            found[path] = owners[module]
    return found


def remove_bytecode(folder: Path) -> None:
    """Remove the bytecode of all modules of a folder."""
    for path in list(folder.rglob(BYTECODE_FOLDER)):
        shutil.rmtree(path)
