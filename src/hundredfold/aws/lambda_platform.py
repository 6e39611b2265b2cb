"""The platform of the functions: Python versions, processors, the size limit of a package, and the
defaults that the stack and its functions share.
"""

from __future__ import annotations

import os
import re

# the newest that Lambda offers: fewest wheels are too old for it, and it is supported longest
PYTHON = "3.14"
PYTHONS = ("3.12", "3.13", "3.14")  # those on Amazon Linux 2023
GLIBC_MINOR = 34  # Amazon Linux 2023 has glibc 2.34: it runs wheels for 2.17 to 2.34
# Lambda's name of a processor to the one in wheels
WHEEL_ARCHITECTURES = {"arm64": "aarch64", "x86_64": "x86_64"}
METRICS_NAMESPACE = "Hundredfold"  # of the metrics that functions emit
DEFAULT_MEMORY_MB = 2048  # outside of Lambda
MB_PER_VCPU = 1769  # memory that comes with one whole vCPU
# of all sources that one function reads itself, for each MB of its memory (decision 0061), of which
# the number of its cores follows
MAX_SOURCE_BYTES_PER_MB = 2**20 // 12
FINGERPRINT_FILE = "hundredfold.fingerprint"  # in a package: the fingerprint of its other files
BYTECODE_FOLDER = "__pycache__"  # beside modules
PACKED_FOLDER = "hundredfold-packed"  # in a package: distributions as zips
WORKERS_PER_POLLER = 10  # workers that one provisioned poller can keep busy
DIRECT_WORKERS_ENV = "HUNDREDFOLD_DIRECT_WORKERS"  # of `step`: the workers that a run starts
MAPPED_FRACTION = 10  # one worker in this many belongs to the mapping, where runs start workers
FINGERPRINT_DIGITS = 16  # of a SHA-256 of code
DEFAULT_QUIET_S = 60  # without another upload, before a run starts
SPENT_PREFIX = "spent#"  # of the item of the table with the dollars of a run, beside its record
MAX_UNZIPPED_BYTES = 250 * 2**20  # code and layers together, unzipped


def platforms(architecture: str) -> list[str]:
    """Return the platform tags of compatible wheels, the newest first."""
    machine = WHEEL_ARCHITECTURES[architecture]
    older = [f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1")]
    return [*(f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 4, -1)), *older]


def worker_shares(workers: int) -> tuple[int, int]:
    """Return the workers of the queue's mapping, and those that runs start, for "direct".

    A mapping has at least two.
    """
    mapped = max(2, workers // MAPPED_FRACTION)
    return mapped, max(1, workers - mapped)


def function_memory_mb() -> int:
    """Return the memory of this function in MB."""
    return int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", DEFAULT_MEMORY_MB))


def cores_of(memory_mb: int) -> int:
    """Return the whole cores that come with this memory, at least 1."""
    return max(1, memory_mb // MB_PER_VCPU)


def digest_in_address(image: str) -> str:
    """Return the fingerprint of an image given by its digest; "" for another address."""
    found = re.search(r"@sha256:([0-9a-f]{64})$", image)
    return found[1][:FINGERPRINT_DIGITS] if found else ""
