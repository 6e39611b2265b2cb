"""What the functions run on: the Python, the processors, and the room that Lambda gives a package."""

from __future__ import annotations

import re

# the newest that Lambda offers: the oldest wheels it cannot take are the rarest, and it is
# supported the longest
PYTHON = "3.14"
PYTHONS = ("3.12", "3.13", "3.14")  # those on Amazon Linux 2023
GLIBC = 34  # Amazon Linux 2023 has glibc 2.34: wheels for 2.17 to 2.34 run there
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}  # as Lambda and as wheels call a processor
FINGERPRINT_DIGITS = 16  # of a SHA-256 of code
ROOM = 250 * 2**20  # bytes that code and layers may take together, unzipped


def platforms(architecture: str) -> list[str]:
    """The tags of the wheels that run there, the newest first."""
    machine = MACHINES[architecture]
    older = [f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1")]
    return [*(f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 4, -1)), *older]


def digest_of(image: str) -> str:
    """Return the fingerprint of an image that is named by its digest; "" for another address."""
    found = re.search(r"@sha256:([0-9a-f]{64})$", image)
    return found[1][:FINGERPRINT_DIGITS] if found else ""
