"""The demo and the tests on every installed Python, with the newest and the lowest dependencies.

    python tests/matrix.py            every Python, both sets of versions
    python tests/matrix.py --short    the demo and a few tests, in two environments
    python tests/matrix.py --python 3.13 --versions lowest -- tests/pipeline -x

The short form takes the lowest versions on the oldest other Python, and the newest versions on the
newest other one. "Lowest" are the lower bounds of pyproject.toml, "newest" is what the package
index has. Each combination has an environment of its own below .venvs-matrix/, made by uv where it
is installed and by pip otherwise.

A table at the end shows what passed and what was not run. The exit code is 1 if something failed.
What could not be tried is reported and is no failure: a Python that is not installed, or a package
index that does not answer. Nothing but Python 3.11 is required.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".venvs-matrix"
BIN = "Scripts" if os.name == "nt" else "bin"
INSTALL_LIMIT_S = 300.0  # with uv, and again with pip
RESOLUTIONS = ("newest", "lowest")
EXTRAS = ("pandas", "polars", "aws", "deploy")
SHORT_EXTRAS = ("pandas", "polars")
UNPINNED_EXTRAS = {"deploy"}  # its lower bounds name no version that exists
TOOLS = ("hypothesis", "ipykernel", "nbclient", "pydantic", "pytest", "pytest-xdist")  # of `dev`
SHOWN = ("numpy", "pandas", "pyarrow", "duckdb", "polars")
HEADER = ("python", "with", *SHOWN, "demo", "pass", "fail", "skip")
TESTS = (
    "tests/pipeline",
    "tests/oracle",
    "tests/cli",
    "tests/ports",
    "tests/notebooks",
    "tests/tariffs/test_price_rule.py",
    "tests/tariffs/test_unit_fit.py",
    "tests/tariffs/test_policy.py",
    "tests/tariffs/test_release_states.py",
)
SMOKE = (
    "tests/oracle/test_whole_runs.py",
    "tests/pipeline/test_numbering_and_order.py",
    "tests/pipeline/test_what_a_function_returns.py",
    "tests/notebooks",
    "tests/faults/test_port_failures.py",
    "tests/faults/test_stops.py",
    "tests/tariffs/test_synthetic.py",
)
# uv trusts its own list otherwise, and not a company's certificate; older uv know the second name
SYSTEM_CERTIFICATES = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
UNREACHABLE = re.compile(  # how pip and uv report a package index that does not answer
    r"timed out|timeout|connection|retrying|network|name resolution|dns error|failed to fetch"
    r"|error sending request|incompleteread|proxyerror|sslerror|certificate|server error"
    r"|too many requests",
    re.IGNORECASE,
)


class NotInstalled(Exception):
    """An environment cannot be filled as declared: a failure."""


class IndexUnreachable(Exception):
    """The package index does not answer: no failure of this project."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table. `note` is printed below it."""

    python: str
    resolution: str = ""
    versions: tuple[str, ...] = ("",) * len(SHOWN)
    demo: str = ""
    counts: tuple[str, str, str] = ("", "", "")
    note: str = ""
    ok: bool = True

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.python, self.resolution, *self.versions, self.demo, *self.counts)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--short", action="store_true", help="a few tests in two environments")
    parser.add_argument("--python", action="append", help="only this version (may be repeated)")
    parser.add_argument("--versions", action="append", choices=RESOLUTIONS, help="only these")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="their folder")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, not the usual tests")
    options = parser.parse_args()
    wanted = tuple(options.python or supported())
    found = {version: python for version in wanted if (python := find_python(version))}
    resolutions = options.versions or RESOLUTIONS
    chosen = short(found) if options.short else [(v, r) for v in found for r in resolutions]
    extras = SHORT_EXTRAS if options.short else EXTRAS
    tests = tuple(options.pytest) or (SMOKE if options.short else TESTS)
    folder = options.environments
    outcomes = [check(found[v], v, resolution, extras, tests, folder) for v, resolution in chosen]
    print_table([*outcomes, *not_chosen(wanted, found, chosen)])
    if not any(outcome.demo for outcome in outcomes):
        report("nothing was run: see the reasons above")
        return 1
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def supported() -> Iterator[str]:
    """Yield the versions of Python that pyproject.toml declares, such as 3.13."""
    for classifier in project()["classifiers"]:
        version = re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier)
        if version:
            yield version[1]


def find_python(version: str) -> str | None:
    """Return a working Python of a version; a name on the PATH can be a shim without a Python.

    Looks where this Python is, on the PATH, beside this one (a manager of versions keeps one folder
    for each), and where pyenv and uv keep theirs.
    """
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    named = [folder / name for name in (f"python{version}", "python3") for folder in folders]
    places = (
        (Path(sys.base_prefix).parent, f"{version}.*/bin/python3"),
        (Path(sys.base_prefix).parent, f"cpython-{version}.*/bin/python3"),
        (Path.home() / ".pyenv/versions", f"{version}.*/bin/python3"),
        (Path.home() / ".local/share/uv/python", f"cpython-{version}.*/bin/python3"),
    )
    managed = [
        path for folder, pattern in places for path in sorted(folder.glob(pattern), reverse=True)
    ]
    script = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for path in (Path(sys.executable), *named, *managed):
        if path.exists():
            done = subprocess.run([path, "-c", script], capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.strip() == version:
                return str(path)
    return None


def short(found: dict[str, str]) -> list[tuple[str, str]]:
    """Return the lowest versions on the oldest other Python, the newest on the newest other one."""
    running = f"3.{sys.version_info.minor}"
    others = [version for version in found if version != running] or list(found)
    return [(others[0], "lowest"), (others[-1], "newest")] if others else []


def not_chosen(
    wanted: Sequence[str],
    found: dict[str, str],
    chosen: Sequence[tuple[str, str]],
) -> Iterator[Outcome]:
    for version in wanted:
        if version not in found:
            yield Outcome(version, note="not run: this Python is not installed, or has no venv")
        elif version not in {tried for tried, _ in chosen}:
            yield Outcome(version, note="not run: left out of the short form")


def check(
    python: str,
    version: str,
    resolution: str,
    extras: Sequence[str],
    tests: Sequence[str],
    environments: Path,
) -> Outcome:
    """Create the environment, and run the demo and the tests in it."""
    report(f"== Python {version} with the {resolution} versions: installing")
    folder = environments / f"{version}-{resolution}"
    began = time.monotonic()
    try:
        install(python, folder, resolution, extras)
        call([str(folder / BIN / "python"), "-m", "compileall", "-q", str(ROOT / "src")])
    except NotInstalled as error:
        return Outcome(version, resolution, note=f"failed to install: {error}", ok=False)
    except IndexUnreachable as error:
        return Outcome(version, resolution, note=f"not run: {error}")
    report(f"== installed in {time.monotonic() - began:.0f} s; the demo and the tests are next")
    inside = folder / BIN
    demo = run_demo(inside)
    counts, problem = run_tests(inside, tests)
    report(f"== Python {version} with the {resolution} versions: {time.monotonic() - began:.0f} s")
    ok = not problem and demo == "ok"
    return Outcome(version, resolution, versions_in(inside), demo, counts, problem, ok)


def install(python: str, folder: Path, resolution: str, extras: Sequence[str]) -> None:
    """Fill a new environment.

    Raises:
        NotInstalled: It cannot be installed as pyproject.toml declares it.
        IndexUnreachable: The package index does not answer, or not in time.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    inside = str(folder / BIN / "python")
    wanted = [f"--editable={ROOT}[{','.join(extras)}]", *tools()]
    if resolution == "lowest":
        bounds = folder.with_name(f"{folder.name}.constraints.txt")
        bounds.write_text("\n".join(lower_bounds()) + "\n")
        wanted += ["--constraint", str(bounds)]
    shutil.rmtree(folder, ignore_errors=True)
    uv = find_uv()
    if uv:
        with suppress(IndexUnreachable):  # pip may be configured for another index
            call([uv, "venv", "--quiet", "--python", python, str(folder)])
            call([uv, "pip", "install", "--quiet", "--python", inside, *wanted])
            return
        shutil.rmtree(folder, ignore_errors=True)
    call([python, "-m", "venv", str(folder)])
    call([inside, "-m", "pip", "install", "--quiet", "--prefer-binary", *wanted])


def find_uv() -> str | None:
    """Return the path of a working uv; a name on the PATH can be a shim without it."""
    for uv in (Path(sys.executable).with_name("uv"), shutil.which("uv")):
        if uv and Path(uv).exists():
            done = subprocess.run([uv, "--version"], capture_output=True, check=False)
            if done.returncode == 0:
                return str(uv)
    return None


def call(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**SYSTEM_CERTIFICATES, **os.environ},
            timeout=INSTALL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        limit = f"the packages did not arrive within {INSTALL_LIMIT_S:.0f} s"
        raise IndexUnreachable(f"{limit}: the package index is slow; try again later") from None
    if done.returncode == 0:
        return
    report(done.stdout + done.stderr)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if any(map(UNREACHABLE.search, lines)):
        raise IndexUnreachable("the package index does not answer (see above); try again later")
    errors = [line for line in lines if "error" in line.lower()]
    raise NotInstalled(errors[-1] if errors else "see above")


def project() -> dict[str, Any]:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = declared["project"]
    return found


def requirements(extra: str = "") -> list[str]:
    """Return the requirements of an extra, or those of the project itself."""
    found = project()["optional-dependencies"][extra] if extra else project()["dependencies"]
    return [str(requirement) for requirement in found]


def tools() -> list[str]:
    return [requirement for requirement in requirements("dev") if name_of(requirement) in TOOLS]


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0]


def lower_bounds() -> Iterator[str]:
    """Yield the lower bounds as constraints; the last declared bound that applies counts."""
    bounded = ("", *(extra for extra in EXTRAS if extra not in UNPINNED_EXTRAS))
    everything = [*(r for extra in bounded for r in requirements(extra)), *tools()]
    seen: dict[str, list[tuple[str, str]]] = {}
    for requirement in everything:
        found = re.search(r"[>~]=\s*([0-9][^,;\s]*)", requirement)
        if found:
            marker = requirement.partition(";")[2].strip()
            seen.setdefault(name_of(requirement), []).append((found[1], marker))
    for name, bounds in seen.items():
        for number, (bound, marker) in enumerate(bounds):
            later = [f"({negated(other)})" for _, other in bounds[number + 1 :] if other]
            clauses = [*([f"({marker})"] if marker else []), *later]
            yield f"{name}=={bound}" + (f"; {' and '.join(clauses)}" if clauses else "")


def negated(marker: str) -> str:
    """Return the negation of a marker of the form python_version >= 'X'."""
    assert ">=" in marker, marker
    return marker.replace(">=", "<")


def versions_in(inside: Path) -> tuple[str, ...]:
    script = f"from importlib.metadata import version; print(*map(version, {SHOWN!r}))"
    command = [str(inside / "python"), "-c", script]
    return tuple(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def run_demo(inside: Path) -> str:
    command = [str(inside / "hundredfold"), "demo"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        report(done.stdout[-2000:] + done.stderr[-3000:])
    return "fail" if done.returncode else "ok"


def run_tests(inside: Path, tests: Sequence[str]) -> tuple[tuple[str, str, str], str]:
    """Return the numbers of passed, failed and skipped tests; and the problem, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [str(inside / "python"), "-m", "pytest", "-p", "no:cacheprovider", "-n", "2"]
        done = subprocess.run([*command, f"--junitxml={report}", *tests], cwd=ROOT, check=False)
        if not report.exists():
            return ("", "", ""), f"pytest ended with exit code {done.returncode}"
        suite = next(ET.parse(report).getroot().iter("testsuite"))
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    counts = (str(total - bad - skipped), str(bad), str(skipped))
    if done.returncode:
        return counts, "tests failed (see above)" if bad else f"pytest: exit {done.returncode}"
    return counts, ""


def print_table(outcomes: Sequence[Outcome]) -> None:
    rows = [HEADER, *(outcome.cells for outcome in outcomes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    report("")
    for row in rows:
        report(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    for outcome in outcomes:
        if outcome.note:
            note = f"{outcome.python} {outcome.resolution}".rstrip() + f": {outcome.note}"
            report(textwrap.fill(note, width=80, subsequent_indent="  "))


def report(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
