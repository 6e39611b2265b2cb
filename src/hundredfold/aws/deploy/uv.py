"""uv, which installs wheels faster than pip, and knows the Pythons of this machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ..lambda_platform import GLIBC_MINOR, WHEEL_ARCHITECTURES


def uv_program() -> str | None:
    """Return the uv of this environment, or of the PATH."""
    beside = shutil.which("uv", path=str(Path(sys.executable).parent))
    return beside or shutil.which("uv")


def uv_command(uv: str, python: str, architecture: str) -> list[str]:
    """Return the command by which uv installs wheels for a function."""
    platform = f"{WHEEL_ARCHITECTURES[architecture]}-manylinux_2_{GLIBC_MINOR}"
    command = [uv, "pip", "install", "--quiet", "--no-progress", "--only-binary", ":all:"]
    # the Python of this environment: without one, uv looks for an environment in the folder
    interpreter = ["--python", sys.executable]
    return [*command, *interpreter, "--python-platform", platform, "--python-version", python]


def uv_environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which uv uses the index, the certificates and the wheels that are
    named for pip, unless they are named for uv too.
    """
    named = {
        "SSL_CERT_FILE": base.get("PIP_CERT", ""),
        "UV_DEFAULT_INDEX": base.get("PIP_INDEX_URL", ""),
        "UV_INDEX": base.get("PIP_EXTRA_INDEX_URL", ""),
        "UV_FIND_LINKS": ",".join(base.get("PIP_FIND_LINKS", "").split()),
    }
    return {name: value for name, value in named.items() if value} | dict(base)
