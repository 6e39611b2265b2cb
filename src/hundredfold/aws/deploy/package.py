"""`hundredfold package`: builds the code of a Lambda function, as a folder and a zip, without
Docker.

The package contains Hundredfold, the user's own code, and wheels of their imports for Lambda's
processor, in the versions installed on this machine, so that a function behaves the same on both.
boto3 is left to the runtime, which includes it. The same input gives the same bytes: sorted names,
one date, one mode. It has bytecode where the Python of the functions is installed on this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..._package import FOLDER
from ...errors import HundredfoldError, UsageError
from ..archive import remove_from_zip, seal, sha256_of, write_contents, write_seal, write_zips
from ..lambda_platform import (
    BYTECODE_FOLDER,
    MAX_UNZIPPED_BYTES,
    PACKED_FOLDER,
    PYTHON,
    PYTHONS,
    WHEEL_ARCHITECTURES,
    platforms,
)
from .bytecode import bytecode_owners, compile_modules, find_interpreter, remove_bytecode
from .dependencies import OUR_DISTRIBUTION, JobImports, find_imports
from .distributions import (
    copy_without,
    files_with_distribution,
    pack_distributions,
    required,
    unneeded_by_workers,
)
from .prune import prune
from .secret_files import is_hidden_secret, is_secret
from .uv import uv_command, uv_environment, uv_program

OWN_REQUIREMENTS = (
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
# part of Lambda's own Python runtime
RUNTIME_DISTRIBUTIONS = (
    "boto3",
    "botocore",
    "s3transfer",
    "jmespath",
    "urllib3",
    "awslambdaric",
)
# folders of this package that only a user's machine needs
EXCLUDED_FOLDERS = ("cli/template", "aws/stack", "bench")
DATA_SUFFIXES = {
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
# bytes: larger tables count as rows of a source, smaller ones as lookup data of the code
MAX_DATA_BYTES = 2**20
COMPILED_SUFFIXES = {".so", ".pyd", ".dylib", ".dll"}
USER_CODE = "your code"
RESERVED_BYTES = 4096  # of the limit, for the files that complete a package
PACKED_FRACTION = 0.9  # of the limit, for a package whose distributions are packed
SEAL_FOLDER = "seal"  # beside the package of an image: its fingerprint, for workers
CONTENTS_FILE = "contents.txt"  # beside a package: its files, with their sizes


class PackageError(HundredfoldError):
    """The package cannot be built, or exceeds Lambda's size limit."""


@dataclass(frozen=True, slots=True)
class DistributionSize:
    """The unzipped size of one distribution, in bytes."""

    name: str
    version: str
    size: int


@dataclass(frozen=True, slots=True)
class BuiltPackage:
    """A folder with everything that a function imports.

    `ref`       the job, as it is imported in the package
    `sizes`     the largest first
    `pruned`    bytes that were removed
    `kept`      removable parts that are imported
    `left_out`  files of the user that were left out: large tables, tests, possible secrets
    `owners`    the distribution of each file
    `own`       top-level names of the user's code
    `only_steps`  the distributions that workers do not need
    `compiled_by`  the Python that compiled its modules; "" if it contains no bytecode
    """

    ref: str
    folder: Path
    sizes: tuple[DistributionSize, ...]
    pruned: int
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    owners: Mapping[Path, tuple[str, str]] = field(default_factory=dict, repr=False)
    own: tuple[str, ...] = ()
    only_steps: frozenset[str] = frozenset()
    compiled_by: str = ""

    @property
    def size(self) -> int:
        return sum(part.size for part in self.sizes)


@dataclass(frozen=True, slots=True)
class ZippedPackage(BuiltPackage):
    """The package of the steps with its zip, the zip's SHA-256, and the package of the workers."""

    zip: Path = Path()
    sha256: str = ""
    worker: ZippedPackage | None = None


def package(
    ref: str,
    out: Path,
    *,
    architecture: str = "arm64",
    python: str = PYTHON,
    requirements: Sequence[str] = (),
    leave_out: Sequence[str] = (),
) -> ZippedPackage:
    """Build `out/package/` and `out/package.zip` for the steps, `out/worker/` and `out/worker.zip`
    for the workers.

    Both hold the same fingerprint. Distributions that make one too large are packed in it, and a
    function unpacks them when it starts.

    `requirements`  further packages, as pip takes them, or the path of a requirements file:
                    packages that
                    the code loads without an import statement, or other versions than installed
    `leave_out`     distributions that a layer contains

    Raises:
        PackageError: a requirement has no wheel, or the package is too large for a function.
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
    seal(built.folder)
    worker = _worker_package(built, out / "worker")
    steps, workers = _zipped([_fitting(built), _fitting(worker)], ref)
    write_contents(built.folder, out / CONTENTS_FILE)
    write_contents(worker.folder, out / f"worker-{CONTENTS_FILE}")
    return replace(steps, worker=workers)


def _worker_package(built: BuiltPackage, folder: Path) -> BuiltPackage:
    """Copy the package of the steps without the distributions that workers do not need."""
    copy_without(built.folder, folder, built.only_steps, built.owners)
    owners = {
        folder / path.relative_to(built.folder): owner for path, owner in built.owners.items()
    }
    return replace(built, folder=folder, sizes=_sizes(folder, owners), owners=owners)


def _fitting(built: BuiltPackage) -> BuiltPackage:
    """Pack the largest distributions of a package that is too large for a function.

    One that is too large even so loses bytecode: first that of the others.
    """
    if built.size <= MAX_UNZIPPED_BYTES - RESERVED_BYTES:
        return built
    pack_distributions(
        built.folder,
        built.owners,
        limit=int(PACKED_FRACTION * MAX_UNZIPPED_BYTES),
        keep=required(built.folder, OWN_REQUIREMENTS),
        own=built.own,
    )
    for archive in (None, *sorted(built.folder.glob(f"{PACKED_FOLDER}/*.zip"))):
        if _total(built.folder) > MAX_UNZIPPED_BYTES - RESERVED_BYTES:
            if archive is None:
                remove_bytecode(built.folder)
            else:
                remove_from_zip(archive, BYTECODE_FOLDER)
    return replace(built, sizes=_sizes(built.folder, built.owners))


def _zipped(packages: Sequence[BuiltPackage], ref: str) -> list[ZippedPackage]:
    """Write the zip of each package beside its folder."""
    for built in packages:
        check_size(built, ref)
    archives = {built.folder: built.folder.with_suffix(".zip") for built in packages}
    write_zips(archives)
    return [_with_zip(built, archives[built.folder]) for built in packages]


def _with_zip(built: BuiltPackage, archive: Path) -> ZippedPackage:
    facts = {each.name: getattr(built, each.name) for each in fields(built)}
    return ZippedPackage(**facts, zip=archive, sha256=sha256_of(archive))


def package_image(
    ref: str,
    out: Path,
    *,
    architecture: str = "arm64",
    python: str = PYTHON,
    requirements: Sequence[str] = (),
) -> BuiltPackage:
    """Build `out/package/` and the Dockerfiles for images of it, which may have 10 GB.

    `out/seal/` has the fingerprint that a zip of the same package has, for workers in containers.
    """
    _check_runtime(architecture, python)
    built = build(
        ref, out / "package", architecture=architecture, python=python, requirements=requirements
    )
    write_dockerfiles(out, python)
    write_seal(built.folder, out / SEAL_FOLDER)
    return built


def write_dockerfiles(out: Path, python: str = PYTHON) -> None:
    """Write the Dockerfiles for images of `out/package/`: of the functions, and of workers.

    The second one is for a folder above, where it finds the packages by processor.
    """
    for name in ("Dockerfile", "Dockerfile.worker"):
        text = (files(OUR_DISTRIBUTION) / "aws" / name).read_text(encoding="utf-8")
        if python != PYTHON:  # that of workers names a patch release
            text = re.sub(r"^ARG PYTHON=.*$", f"ARG PYTHON={python}", text, flags=re.MULTILINE)
        (out / name).write_text(text, encoding="utf-8")


def build(
    ref: str,
    folder: Path,
    *,
    architecture: str = "arm64",
    python: str = PYTHON,
    requirements: Sequence[str] = (),
    leave_out: Sequence[str] = (),
) -> BuiltPackage:
    """Build a folder with everything that a function imports; an existing one is replaced.

    `ref`: the job, in any notation that names one.
    """
    found = find_imports(ref)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # before the wheels: its errors are reported at once, and its names take precedence
    left_out = copy_code(found, folder)
    _copy_hundredfold(folder)
    _install(
        folder, _requirements(found, requirements, leave_out), requirements, architecture, python
    )
    for name in leave_out:
        _uninstall(folder, name)
    owners = dict(files_with_distribution(folder))
    before = _total(folder)
    kept = prune(folder, spare=found.modules, own=found.code)
    pruned = before - _total(folder)
    interpreter = find_interpreter(python)
    if interpreter:
        compile_modules(folder, interpreter)
        owners |= bytecode_owners(folder, owners)
    named = {*found.installed, *_requirement_names(requirements)}
    return BuiltPackage(
        found.ref,
        folder,
        _sizes(folder, owners),
        pruned,
        kept,
        left_out,
        owners,
        tuple(found.code),
        unneeded_by_workers(folder, named, found.modules),
        interpreter,
    )


def check_size(built: BuiltPackage, ref: str) -> None:
    """Raise PackageError, with the sizes of all parts, if the package exceeds Lambda's limit."""
    if built.size <= MAX_UNZIPPED_BYTES:
        return
    parts = [f"{part.name:<24} {part.size / 2**20:6.1f} MB" for part in built.sizes]
    raise PackageError(
        f"{built.folder.name}/, which functions run, takes {built.size / 2**20:.1f} MB unzipped; "
        f"Lambda's limit is {MAX_UNZIPPED_BYTES / 2**20:.0f} MB, layers included",
        problems=parts,
        hint=(
            f"build a container image, which may have 10 GB: hundredfold package {ref} --image; "
            "or leave out dependencies that the functions do not need. A layer with a smaller "
            "build of the same library helps too (--leave-out NAME --layer ARN)"
        ),
    )


def _check_runtime(architecture: str, python: str) -> None:
    if architecture not in WHEEL_ARCHITECTURES or python not in PYTHONS:
        raise UsageError(
            f"Hundredfold does not support Python {python} on {architecture} in Lambda",
            hint=f"expected {' or '.join(WHEEL_ARCHITECTURES)}, and Python {', '.join(PYTHONS)}",
        )


# ---- wheels


def _requirements(found: JobImports, given: Sequence[str], leave_out: Sequence[str]) -> list[str]:
    """Return the distributions to install: our own needs and the imports of the code, without the
    exceptions.
    """
    without = {canonicalize_name(name) for name in (*RUNTIME_DISTRIBUTIONS, *leave_out)} | set(
        _requirement_names(given)
    )
    return [
        name
        for name in dict.fromkeys(map(canonicalize_name, (*OWN_REQUIREMENTS, *found.installed)))
        if name not in without
    ]


def _install(
    folder: Path, names: Sequence[str], given: Sequence[str], architecture: str, python: str
) -> None:
    """Install wheels for Lambda's processor and Python, in the versions installed locally."""
    exceptions = set(_requirement_names(given))
    installed_versions = {
        canonicalize_name(d.name): d.version
        for d in distributions()
        if d.name and "+" not in d.version
    }
    pins = [
        f"{name}=={version}"
        for name, version in sorted(installed_versions.items())
        if name not in exceptions and name != OUR_DISTRIBUTION
    ]
    wanted = [*names, *(word for text in given for word in _requirement_words(text))]
    with tempfile.TemporaryDirectory(prefix="hundredfold-") as scratch:
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
        site = Path(scratch) / "site"
        # uv is faster; pip is what most people have configured, and its errors are known
        uv = uv_program()
        commands = [uv_command(uv, python, architecture)] if uv else []
        environment = uv_environment(os.environ)
        for command in [*commands, pip_command(python, architecture)]:
            shutil.rmtree(site, ignore_errors=True)
            done = subprocess.run(
                [*command, "--target", str(site), "--constraint", str(constraints), *wanted],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if not done.returncode:
                _move_new(site, folder)
                return
    raise _pip_error(done.stderr, architecture, python)


def _move_new(site: Path, folder: Path) -> None:
    """Move what was installed into the package, where the user's own code takes precedence."""
    for path in site.iterdir():
        if not (folder / path.name).exists():
            shutil.move(path, folder / path.name)


def _requirement_words(text: str) -> tuple[str, ...]:
    return ("--requirement", text) if _is_file(text) else (text,)


def pip_command(python: str, architecture: str) -> list[str]:
    """Return the command by which pip installs wheels for a function."""
    command = [sys.executable, "-m", "pip", "install", "--no-compile", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", python, "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "--no-warn-conflicts"]
    return command + [word for tag in platforms(architecture) for word in ("--platform", tag)]


def _pip_error(output: str, architecture: str, python: str) -> PackageError:
    lines = [
        line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR")
    ]
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if "No module named pip" in output:
        return PackageError(
            "wheels are fetched with uv or pip: uv is missing or failed, and there is no pip",
            hint=f"{sys.executable} -m ensurepip",
        )
    if missing:
        return PackageError(
            f"{missing[1]} has no wheel for Python {python} on {architecture}",
            hint=(
                "select a version that has one: --requirement "
                f"'{re.split('[=<>!~]', missing[1])[0]}==...'; or another --python or "
                "--architecture; or build it in a container image (--image)"
            ),
        )
    return PackageError(
        "pip could not fetch the packages", problems=lines or output.splitlines()[-5:]
    )


def _requirement_names(given: Iterable[str]) -> Iterator[str]:
    """Yield the names of the packages in requirements, or in requirements files."""
    for text in given:
        if not _is_file(text):
            yield from _requirement_name(text)
            continue
        for line in Path(text).read_text(encoding="utf-8").splitlines():
            bare = re.sub(r"(^|\s)#.*", "", line).strip()
            other = re.match(r"(?:-r|--requirement)[ =]*(\S+)", bare)
            if other:  # relative to the file that names it
                yield from _requirement_names([str(Path(text).parent / other[1])])
            elif bare and not bare.startswith("-"):
                yield from _requirement_name(re.split(r"\s--?\w", bare)[0].rstrip("\\ "))


def _requirement_name(text: str) -> Iterator[str]:
    """Yield the name in a requirement, such as NAME[extra]>=1; that of a path is a wheel's."""
    try:
        yield canonicalize_name(Requirement(text).name)
    except InvalidRequirement:
        wheel = text.partition("#")[0].rpartition("/")[2]
        if wheel.endswith(".whl"):
            yield canonicalize_name(wheel.partition("-")[0])


def _is_file(text: str) -> bool:
    return text.endswith(".txt")


def _uninstall(folder: Path, name: str) -> None:
    """Remove a distribution that a dependency has installed, but a layer contains."""
    for path, (owner, _) in list(files_with_distribution(folder)):
        if owner == canonicalize_name(name):
            path.unlink(missing_ok=True)


# ---- code


def copy_code(found: JobImports, folder: Path) -> tuple[str, ...]:
    """Copy the user's modules and the queries of the job; return the files that were left out.

    Raises:
        PackageError: a file cannot run on Lambda.
    """
    left_out: list[str] = []
    for name, location in found.code.items():
        if Path(location).is_file():
            shutil.copyfile(location, folder / Path(location).name)
        else:
            left_out += _copy_package(Path(location), folder / name)
    _copy_queries(found, folder)
    return tuple(left_out)


def _copy_package(source: Path, target: Path) -> Iterator[str]:
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if _is_tool_file(inside):
            if is_hidden_secret(inside) and path.is_file():
                yield f"{target.name}/{inside.as_posix()} (may hold a secret)"
            continue
        _refuse_link(path, source)
        if not path.is_file():
            continue
        if path.suffix in COMPILED_SUFFIXES:
            raise PackageError(
                f"{path} is compiled for this machine, and cannot run on Lambda",
                hint=(
                    "build a manylinux wheel of it, and name it with --requirement; or use a "
                    "container image (--image)"
                ),
            )
        if is_secret(path, source):
            yield f"{target.name}/{inside.as_posix()} (may hold a secret)"
        elif _is_left_out(path):
            yield f"{target.name}/{inside.as_posix()}"
        else:
            _copy(path, target / inside)


def _refuse_link(path: Path, source: Path) -> None:
    """Raise PackageError for a link that leaves the package, or to a folder, which is not followed.

    The content outside would be deployed with the code, and differs between machines.
    """
    if not path.is_symlink():
        return
    inside = path.resolve().is_relative_to(source.resolve())
    if not inside or path.is_dir():
        raise PackageError(
            f"{path} is a link to {path.resolve()}, "
            f"{'a folder' if inside else 'outside of the package'}",
            hint="put a copy in its place, or remove the link",
        )


def _is_tool_file(path: Path) -> bool:
    """Return whether a file was left by an editor, a tool or Python itself."""
    return any(
        part.startswith(".")
        or part in ("__pycache__", "node_modules", "build", "dist")
        or part.endswith(".egg-info")
        for part in path.parts
    )


def _is_left_out(path: Path) -> bool:
    """Return whether a file is a test, or a table of rows, which belongs in S3."""
    test = (
        path.name.startswith("test_") or path.name == "conftest.py" or path.parent.name == "tests"
    )
    return test or (path.suffix in DATA_SUFFIXES and path.stat().st_size > MAX_DATA_BYTES)


def _copy_queries(found: JobImports, folder: Path) -> None:
    """Copy the job's .sql files to their paths relative to its file."""
    home = _job_folder_in_package(found)
    for query in found.queries:
        target = Path(*_resolve_parents((folder / home / query).relative_to(folder).parts))
        if ".." in target.parts:
            raise PackageError(
                f"the query {query} is outside of the folders that the job imports",
                hint="keep queries below the folder of the job's file",
            )
        if not (folder / target).exists():
            _refuse_link(Path(found.folder) / query, Path(found.folder))
            _copy(Path(found.folder) / query, folder / target)


def _job_folder_in_package(found: JobImports) -> Path:
    """Return the path of the job's folder within the package."""
    for name, location in found.code.items():
        if Path(location).is_dir() and Path(found.folder).is_relative_to(location):
            return Path(name) / Path(found.folder).relative_to(location)
    return Path()


def _resolve_parents(parts: Iterable[str]) -> list[str]:
    """Return a path with its `..` resolved as far as possible."""
    kept: list[str] = []
    for part in parts:
        if part == ".." and kept and kept[-1] != "..":
            kept.pop()
        else:
            kept.append(part)
    return kept


def _copy_hundredfold(folder: Path) -> None:
    installed_versions = Path(FOLDER)
    # including the text files that our modules read
    for path in sorted(
        path for path in installed_versions.rglob("*") if path.suffix in (".py", ".txt")
    ):
        inside = path.relative_to(installed_versions)
        if not any(inside.is_relative_to(excluded) for excluded in EXCLUDED_FOLDERS):
            _copy(path, folder / OUR_DISTRIBUTION / inside)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


# ---- the result


def _sizes(folder: Path, owners: Mapping[Path, tuple[str, str]]) -> tuple[DistributionSize, ...]:
    sums: dict[tuple[str, str], int] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            top = path.relative_to(folder).parts[0].removesuffix(".py")
            own = (OUR_DISTRIBUTION, "") if top == OUR_DISTRIBUTION else (USER_CODE, "")
            if top == PACKED_FOLDER:
                own = (f"{path.stem} (packed)", "")
            owner = owners.get(path, own)
            sums[owner] = sums.get(owner, 0) + path.stat().st_size
    return tuple(
        sorted(
            (DistributionSize(name, version, size) for (name, version), size in sums.items()),
            key=lambda part: (-part.size, part.name),
        )
    )


def _total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
