"""`hundredfold package`: what a Lambda function runs, in one folder and one zip, built without
Docker.

In it: Hundredfold, the user's own code, and wheels of what both import, for Lambda's processor, in
the versions that are installed here, so that a function does there what it does here. boto3 is left
to the runtime, which has it. The same input gives the same bytes: sorted names, one date, one mode,
no bytecode.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path

from ..._package import FOLDER
from ...errors import HundredfoldError, UsageError
from ..lambda_platform import (
    FINGERPRINT_DIGITS,
    MACHINES,
    PYTHON,
    PYTHONS,
    ROOM,
    digest_of,
    platforms,
)
from .dependencies import OURS, Imports, imports_of
from .prune import prune

NEEDED = (
    "annotated-types",
    "aws-lambda-powertools",
    "cloudpickle",
    "duckdb",
    "filelock",
    "numpy",
    "psutil",
    "pyarrow",
    "sqlglot",
)
GIVEN = (
    "boto3",
    "botocore",
    "s3transfer",
    "jmespath",
    "urllib3",
    "awslambdaric",
)  # what Lambda's own Python has
NOT_THERE = ("cli/template", "aws/stack", "bench")  # folders of ours that only a laptop uses
DATA = {
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".feather",
    ".jsonl",
    ".ndjson",
    ".gz",
    ".zip",
    ".xlsx",
    ".pkl",
    ".ipynb",
    ".db",
    ".duckdb",
}
DATA_MOST = (
    2**20
)  # bytes: a table in the code is a source's rows, a small one is something that the code looks up
COMPILED = {".so", ".pyd", ".dylib", ".dll"}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first day that a zip knows
YOURS = "your code"


class PackageError(HundredfoldError):
    """The package cannot be built, or does not fit."""


@dataclass(frozen=True, slots=True)
class Size:
    """What one distribution takes, in bytes on the function's disk."""

    name: str
    version: str
    size: int


@dataclass(frozen=True, slots=True)
class Built:
    """A folder that holds all that a function imports.

    `ref`       the job as it is imported there
    `sizes`     the largest first
    `pruned`    bytes that were done without
    `kept`      what could have been pruned, but is imported
    `left_out`  files of the user's that were left out: large tables, tests
    """

    ref: str
    folder: Path
    sizes: tuple[Size, ...]
    pruned: int
    kept: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.sizes)


@dataclass(frozen=True, slots=True)
class Packaged(Built):
    """The same with its zip, and the zip's SHA-256."""

    zip: Path
    sha256: str


def package(
    ref: str,
    out: Path,
    *,
    architecture: str = "arm64",
    python: str = PYTHON,
    requirements: Sequence[str] = (),
    leave_out: Sequence[str] = (),
) -> Packaged:
    """Build `out/package/` and `out/package.zip`.

    `requirements`  further packages, as pip takes them, or the path of a requirements file: what
                    the code loads by other
                    means than an import, or other versions than are installed here
    `leave_out`     distributions that a layer brings
    PackageError if there is no wheel for one of them, or if it is all too large for a function.
    """
    _check_runtime(architecture, python)
    built = build(
        ref,
        out / "package",
        architecture=architecture,
        python=python,
        requirements=requirements,
        leave_out=leave_out,
    )
    check_room(built, ref)
    archive = out / "package.zip"
    write_zip(built.folder, archive)
    return Packaged(
        built.ref,
        built.folder,
        built.sizes,
        built.pruned,
        built.kept,
        built.left_out,
        archive,
        sha256_of(archive),
    )


def package_image(
    ref: str,
    out: Path,
    *,
    architecture: str = "arm64",
    python: str = PYTHON,
    requirements: Sequence[str] = (),
) -> Built:
    """Build `out/package/` and the Dockerfile that makes an image of it, which may have 10 GB."""
    _check_runtime(architecture, python)
    built = build(
        ref, out / "package", architecture=architecture, python=python, requirements=requirements
    )
    write_dockerfile(out, python)
    return built


def write_dockerfile(out: Path, python: str = PYTHON) -> None:
    """What makes an image of `out/package/`."""
    text = (files(OURS) / "aws" / "Dockerfile").read_text(encoding="utf-8")
    (out / "Dockerfile").write_text(
        text.replace(f"PYTHON={PYTHON}", f"PYTHON={python}"), encoding="utf-8"
    )


def build(
    ref: str,
    folder: Path,
    *,
    architecture: str = "arm64",
    python: str = PYTHON,
    requirements: Sequence[str] = (),
    leave_out: Sequence[str] = (),
) -> Built:
    """All that a function imports, in `folder`, which is made anew.

    `ref`: the job, in any words that name one.
    """
    found = imports_of(ref)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    left_out = copy_code(
        found, folder
    )  # before the wheels: what is wrong with it is told at once, and its names come first
    _copy_ours(folder)
    _install(
        folder, _requirements(found, requirements, leave_out), requirements, architecture, python
    )
    for name in leave_out:
        _uninstall(folder, name)
    owners = dict(_owners(folder))
    before = _total(folder)
    kept = prune(folder, spare=found.modules, own=found.code)
    return Built(found.ref, folder, _sizes(folder, owners), before - _total(folder), kept, left_out)


def check_room(built: Built, ref: str) -> None:
    """PackageError with what takes the room, if there is not enough of it."""
    if built.size <= ROOM:
        return
    parts = [f"{part.name:<24} {part.size / 2**20:6.1f} MB" for part in built.sizes]
    raise PackageError(
        f"the package takes {built.size / 2**20:.1f} MB unzipped, and Lambda takes "
        f"{ROOM / 2**20:.0f} MB, layers included",
        problems=parts,
        hint=f"put it into a container image, which may have 10 GB: hundredfold package {ref} --image; or leave out what the "
        "functions do not need. A layer with a smaller build of the same library helps too (--leave-out NAME --layer ARN)",
    )


def _check_runtime(architecture: str, python: str) -> None:
    if architecture not in MACHINES or python not in PYTHONS:
        raise UsageError(
            f"there is no Lambda function of Python {python} on {architecture} that Hundredfold "
            "could run on",
            hint=f"wanted {' or '.join(MACHINES)}, and Python {', '.join(PYTHONS)}",
        )


# ---- wheels


def _requirements(found: Imports, given: Sequence[str], leave_out: Sequence[str]) -> list[str]:
    """What pip is asked for: what we need and what the code imports, but for what is told
    otherwise.
    """
    without = {_same(name) for name in (*GIVEN, *leave_out)} | set(_named(given))
    return [
        name
        for name in dict.fromkeys(map(_same, (*NEEDED, *found.installed)))
        if name not in without
    ]


def _install(
    folder: Path, wanted: Sequence[str], given: Sequence[str], architecture: str, python: str
) -> None:
    """Wheels for Lambda's processor and Python; those installed here in the same versions."""
    named = set(_named(given))
    here = {_same(d.name): d.version for d in distributions() if d.name and "+" not in d.version}
    pins = [
        f"{name}=={version}"
        for name, version in sorted(here.items())
        if name not in named and name != OURS
    ]
    with tempfile.TemporaryDirectory(prefix="hundredfold-") as scratch:
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--target",
            str(folder),
            "--no-compile",
            "--only-binary=:all:",
        ]
        command += [
            "--implementation",
            "cp",
            "--python-version",
            python,
            "--constraint",
            str(constraints),
        ]
        command += ["--no-input", "--disable-pip-version-check", "--quiet", "--no-warn-conflicts"]
        command += [word for tag in platforms(architecture) for word in ("--platform", tag)]
        command += [
            *wanted,
            *(
                word
                for text in given
                for word in (("--requirement", text) if _is_file(text) else (text,))
            ),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _refused(done.stderr, architecture, python)


def _refused(said: str, architecture: str, python: str) -> PackageError:
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR")]
    missing = re.search(r"No matching distribution found for (\S+)", said)
    if "No module named pip" in said:
        return PackageError(
            "wheels are fetched with pip, and this environment has none",
            hint=f"{sys.executable} -m ensurepip",
        )
    if missing:
        return PackageError(
            f"{missing[1]} has no wheel for Python {python} on {architecture}",
            hint=f"name a version that has one: --requirement '{re.split('[=<>!~]', missing[1])[0]}==...'; or another --python or "
            "--architecture; or put it all into a container image (--image), where it can be built",
        )
    return PackageError(
        "pip could not fetch the packages", problems=lines or said.splitlines()[-5:]
    )


def _named(given: Iterable[str]) -> Iterator[str]:
    """The names of the packages in requirements, or in files of them."""
    for text in given:
        lines = Path(text).read_text(encoding="utf-8").splitlines() if _is_file(text) else [text]
        for line in lines:
            name = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line)
            if name:
                yield _same(name[1])


def _is_file(text: str) -> bool:
    return text.endswith(".txt")


def _same(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _owners(folder: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Whose each file is: (name, version) of its distribution."""
    for info in sorted(folder.glob("*.dist-info")):
        name, _, version = info.name.removesuffix(".dist-info").partition("-")
        for line in (info / "RECORD").read_text(encoding="utf-8").splitlines():
            yield folder / line.rsplit(",", 2)[0].strip('"'), (_same(name), version)


def _uninstall(folder: Path, name: str) -> None:
    """Take away what another package has brought along, but a layer has."""
    for path, (owner, _) in list(_owners(folder)):
        if owner == _same(name):
            path.unlink(missing_ok=True)


# ---- code


def copy_code(found: Imports, folder: Path) -> tuple[str, ...]:
    """Copy the user's modules, and the queries of the job; the files that were left out.

    PackageError for what cannot run there.
    """
    left_out: list[str] = []
    for name, place in found.code.items():
        if Path(place).is_file():
            shutil.copyfile(place, folder / Path(place).name)
        else:
            left_out += _copy_package(Path(place), folder / name)
    _copy_queries(found, folder)
    return tuple(left_out)


def _copy_package(source: Path, target: Path) -> Iterator[str]:
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if not path.is_file() or _is_nobodys(inside):
            continue
        if path.suffix in COMPILED:
            raise PackageError(
                f"{path} is compiled for this machine, and cannot run on Lambda",
                hint=(
                    "build a wheel of it for manylinux, and name it with --requirement; or use a "
                    "container image (--image)"
                ),
            )
        if _is_left_out(path):
            yield f"{target.name}/{inside.as_posix()}"
        else:
            _copy(path, target / inside)


def _is_nobodys(path: Path) -> bool:
    """What editors, tools and Python leave lying about."""
    return any(
        part.startswith(".")
        or part in ("__pycache__", "node_modules", "build", "dist")
        or part.endswith(".egg-info")
        for part in path.parts
    )


def _is_left_out(path: Path) -> bool:
    """Tests, and tables of rows, which belong into S3."""
    test = (
        path.name.startswith("test_") or path.name == "conftest.py" or path.parent.name == "tests"
    )
    return test or (path.suffix in DATA and path.stat().st_size > DATA_MOST)


def _copy_queries(found: Imports, folder: Path) -> None:
    """The job's .sql files, to where they lie relative to its file."""
    home = _landing(found)
    for query in found.queries:
        target = Path(*_resolved((folder / home / query).relative_to(folder).parts))
        if ".." in target.parts:
            raise PackageError(
                f"the query {query} lies outside of what the job imports",
                hint="keep queries below the folder of the job's file",
            )
        if not (folder / target).exists():
            _copy(Path(found.folder) / query, folder / target)


def _landing(found: Imports) -> Path:
    """Where the folder of the job's file comes to lie."""
    for name, place in found.code.items():
        if Path(place).is_dir() and Path(found.folder).is_relative_to(place):
            return Path(name) / Path(found.folder).relative_to(place)
    return Path()


def _resolved(parts: Iterable[str]) -> list[str]:
    """A path without its `..`, as far as it can do without."""
    kept: list[str] = []
    for part in parts:
        if part == ".." and kept and kept[-1] != "..":
            kept.pop()
        else:
            kept.append(part)
    return kept


def _copy_ours(folder: Path) -> None:
    here = Path(FOLDER)
    for path in sorted(
        path for path in here.rglob("*") if path.suffix in (".py", ".txt")
    ):  # with the texts that our modules read
        inside = path.relative_to(here)
        if not any(inside.is_relative_to(room) for room in NOT_THERE):
            _copy(path, folder / OURS / inside)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


# ---- the whole


def _sizes(folder: Path, owners: Mapping[Path, tuple[str, str]]) -> tuple[Size, ...]:
    sums: dict[tuple[str, str], int] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            top = path.relative_to(folder).parts[0].removesuffix(".py")
            own = (OURS, "") if top == OURS else (YOURS, "")
            owner = owners.get(path, own)
            sums[owner] = sums.get(owner, 0) + path.stat().st_size
    return tuple(
        sorted(
            (Size(name, version, size) for (name, version), size in sums.items()),
            key=lambda part: (-part.size, part.name),
        )
    )


def _total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_zip(folder: Path, archive: Path) -> None:
    """A folder as a zip whose bytes depend on nothing but the files' names and contents."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
        for path in sorted(
            (p for p in folder.rglob("*") if p.is_file()),
            key=lambda p: p.relative_to(folder).as_posix(),
        ):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, path.stat().st_size
            with file.open(entry, "w") as target, path.open("rb") as source:
                shutil.copyfileobj(source, target, 2**20)


def fingerprint_of(code: object) -> str:
    """Return the fingerprint of a package, a folder or a zip of one, or of an image named by its
    digest; "" for code of another kind.

    A folder and its zip have different ones: a stack is deployed from one or the other.
    """
    path = Path(code) if isinstance(code, str | Path) else None
    if path is not None and path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(
            (p for p in path.rglob("*") if p.is_file()),
            key=lambda p: p.relative_to(path).as_posix(),
        ):
            digest.update(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n".encode())
        return digest.hexdigest()[:FINGERPRINT_DIGITS]
    if path is not None and path.is_file():
        return sha256_of(path)[:FINGERPRINT_DIGITS]
    return digest_of(str(code))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
