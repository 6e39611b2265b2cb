"""Checks of SQL and of state machines by programs of others, for Node.js.

dt-sql-parser has a grammar of Trino, and asl-validator the schema of Amazon States Language.
`python -m support.javascript` installs both, from npm; `make test` does it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hundredfold.aws.deploy.node import find_node

HERE = Path(__file__).parent
FOLDER = Path(__file__).parents[3] / ".venv-node"
DONE = FOLDER / "done"


def install() -> bool:
    """Install the packages in the versions of package.json, from the registry of npm; return
    whether that succeeded.
    """
    node = find_node()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    shutil.copyfile(HERE / "package.json", FOLDER / "package.json")
    options = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock")
    patience = ("--fetch-retries=1", "--fetch-timeout=30000")
    done = subprocess.run(
        [*node.npm, "install", "--loglevel=error", *options, *patience],
        cwd=FOLDER,
        env={**_certificates(), **node.environment()},
        check=False,
    )
    if done.returncode == 0:
        DONE.touch()
    return done.returncode == 0


def _certificates() -> dict[str, str]:
    """Return the certificates that this machine names for pip, in the words of Node.js."""
    named = (os.environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"))
    return {"NODE_EXTRA_CA_CERTS": found} if (found := next(filter(None, named), "")) else {}


def problems_of(
    statements: Sequence[str] = (), machines: Sequence[Mapping[str, Any]] = ()
) -> dict[str, list[str]]:
    """Return the statements and machines with problems, as text, by one process."""
    if not DONE.exists():
        pytest.skip(f"the checkers are not installed ({DONE} is not there): make .venv-node/done")
    done = subprocess.run(
        [str(find_node().node), str(HERE / "check.mjs"), str(FOLDER)],
        input=json.dumps({"statements": list(statements), "machines": list(machines)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    checked = [*statements, *(json.dumps(machine, indent=1) for machine in machines)]
    pairs = zip(checked, json.loads(done.stdout), strict=True)
    return {text: found for text, found in pairs if found}


_checked_shapes: set[str] = set()  # of statements that this process has checked


def check_statements(statements: Iterable[str]) -> None:
    """Compare one statement of each new shape with the grammar of Trino, where it is installed.

    A shape is new to this process, so that a test and its module do not both pay for a statement.
    """
    new = {shape_of(sql): sql for sql in statements}
    for shape in _checked_shapes & new.keys():
        del new[shape]
    if new and DONE.exists():
        assert problems_of(sorted(new.values())) == {}
        _checked_shapes.update(new)


def shape_of(sql: str) -> str:
    """Return a statement without its literals, and without the digits of its names."""
    return re.sub(r"\b[0-9a-f]{8,}\b|\d+", "0", re.sub(r"'(?:[^']|'')*'", "''", sql))
