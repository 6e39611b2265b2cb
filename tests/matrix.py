"""The demo and the tests on every Python that is installed, with the newest and with the lowest versions of what we need.

    python tests/matrix.py            every Python, both resolutions
    python tests/matrix.py --short    the demo and a few tests: one other Python with the lowest versions, one with the newest
    python tests/matrix.py --python 3.13 --resolution lowest -- tests/steps -x

Each combination has an environment of its own below .venvs-matrix/, made by uv where it is installed and by pip otherwise.
A table at the end says what passed and what could not be run. The exit code is 1 if anything failed; a Python that is not
installed is reported and is no failure. It needs nothing but Python 3.11.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".venvs-matrix"
MINORS = (11, 12, 13, 14)
RESOLUTIONS = ("newest", "lowest")
EXTRAS = ("pandas", "polars", "aws", "deploy")
TOOLS = ("hypothesis", "ipykernel", "nbclient", "pydantic", "pytest", "pytest-xdist")  # of the extra dev
SHOWN = ("numpy", "pandas", "pyarrow", "duckdb", "polars")
TESTS = (
    "tests/steps",
    "tests/oracle",
    "tests/cli",
    "tests/contract",
    "tests/notebooks",
    "tests/tariffs/test_price_rule.py",
    "tests/tariffs/test_unit_fit.py",
    "tests/tariffs/test_policy.py",
    "tests/tariffs/test_release_states.py",
)
SMOKE = (
    "tests/oracle/test_whole_runs.py",
    "tests/steps/test_numbering_and_order.py",
    "tests/steps/test_what_a_function_returns.py",
    "tests/notebooks",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the table."""

    python: str
    resolution: str
    versions: tuple[str, ...]
    demo: str
    tests: str
    ok: bool

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.python, self.resolution, *(self.versions or ("",) * len(SHOWN)), self.demo, self.tests)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the demo and a few tests in two environments")
    parser.add_argument("--python", action="append", help="only this version, such as 3.13 (may be repeated)")
    parser.add_argument("--resolution", action="append", choices=RESOLUTIONS, help="only this one (may be repeated)")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest instead of the usual tests")
    words = parser.parse_args()
    wanted = tuple(words.python or (f"3.{minor}" for minor in MINORS))
    found = {version: python for version in wanted if (python := find_python(version))}
    chosen = short(found) if words.short else [(v, r) for v in found for r in words.resolution or RESOLUTIONS]
    tests = tuple(words.pytest) or (SMOKE if words.short else TESTS)
    outcomes = [tried(version, found[version], resolution, tests) for version, resolution in chosen]
    missing = [Outcome(v, "", (), "", "not run: this Python is not installed", True) for v in wanted if v not in found]
    print_table([*outcomes, *missing])
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def find_python(version: str) -> str | None:
    """A Python of that version that works; a name on the PATH may be a shim with nothing behind it."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    named = [folder / f"python{version}" for folder in folders]
    managed = [
        path
        for pattern in (f".pyenv/versions/{version}.*/bin/python3", f".local/share/uv/python/cpython-{version}.*/bin/python3")
        for path in sorted(Path.home().glob(pattern), reverse=True)
    ]
    script = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for path in (*named, *managed):
        if path.exists():
            done = subprocess.run([path, "-c", script], capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.strip() == version:
                return str(path)
    return None


def short(found: dict[str, str]) -> list[tuple[str, str]]:
    """The lowest versions on the oldest Python that is not this one, the newest versions on the newest Python."""
    here = f"3.{sys.version_info.minor}"
    others = [version for version in found if version != here] or list(found)
    return [(others[0], "lowest"), (others[-1], "newest")] if others else []


def tried(version: str, python: str, resolution: str, tests: Sequence[str]) -> Outcome:
    """Make the environment, run the demo and the tests in it."""
    say(f"== Python {version} with the {resolution} versions")
    folder = ENVIRONMENTS / f"{version}-{resolution}"
    failed = install(python, folder, resolution)
    if failed:
        return Outcome(version, resolution, (), "", f"not run: {failed}", False)
    inside = folder / ("Scripts" if os.name == "nt" else "bin")
    demo = run_demo(inside)
    counts, passed = run_tests(inside, tests)
    return Outcome(version, resolution, tuple(versions_in(inside)), demo, counts, passed and demo == "ok")


def install(python: str, folder: Path, resolution: str) -> str:
    """Fill a new environment; why that failed, or ''."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    ours = f"-e{ROOT}[{','.join(EXTRAS)}]"
    uv = shutil.which("uv")
    if uv:
        resolved = "lowest-direct" if resolution == "lowest" else "highest"
        commands = [
            [uv, "venv", "--quiet", "--python", python, str(folder)],
            [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "--resolution", resolved,
             "--only-binary", ":all:", "--no-binary", "hundredfold", ours, *tools()],
        ]  # fmt: skip
    else:
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--prefer-binary", ours, *tools()]
        bounds = folder.with_suffix(".constraints.txt")
        bounds.write_text("\n".join(lowest()) + "\n")
        commands = [[python, "-m", "venv", str(folder)], [*pip, "--constraint", str(bounds)] if resolution == "lowest" else pip]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            say(done.stdout + done.stderr)
            return (done.stderr.strip().splitlines() or ["it cannot be installed"])[-1][:100]
    return ""


def project() -> dict[str, list[str]]:
    """The requirements of the project, and of each extra."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": declared["dependencies"], **declared["optional-dependencies"]}


def tools() -> list[str]:
    return [requirement for requirement in project()["dev"] if name_of(requirement) in TOOLS]


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0]


def lowest() -> Iterator[str]:
    """The lower bounds as constraints for pip. Of several bounds of a package on one Python, the last one declared counts."""
    bounded = [extra for extra in ("", *EXTRAS) if extra != "deploy"]  # whose bounds name no version that exists
    everything = [r for extra in bounded for r in project()[extra]] + tools()
    seen: dict[str, list[tuple[str, str]]] = {}
    for requirement in everything:
        bound = re.search(r"[>~]=\s*([0-9][^,;\s]*)", requirement)
        if bound:
            marker = requirement.partition(";")[2].strip()
            seen.setdefault(name_of(requirement), []).append((bound[1], marker))
    for name, bounds in seen.items():
        for number, (bound, marker) in enumerate(bounds):
            later = [f"({negated(other)})" for _, other in bounds[number + 1 :] if other]
            clauses = [*([f"({marker})"] if marker else []), *later]
            yield f"{name}=={bound}" + (f"; {' and '.join(clauses)}" if clauses else "")


def negated(marker: str) -> str:
    """Where a marker of the form python_version >= 'X' does not hold."""
    assert ">=" in marker, marker
    return marker.replace(">=", "<")


def versions_in(inside: Path) -> list[str]:
    script = f"from importlib.metadata import version; print(*map(version, {SHOWN!r}))"
    return subprocess.run([inside / "python", "-c", script], capture_output=True, text=True, check=True).stdout.split()


def run_demo(inside: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([inside / "hundredfold", "demo"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        say(done.stderr[-3000:])
    return "failed" if done.returncode else "ok"


def run_tests(inside: Path, tests: Sequence[str]) -> tuple[str, bool]:
    """The counts in words, and whether all is well."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [str(inside / "python"), "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
        done = subprocess.run(command, cwd=ROOT, check=False)
        if not report.exists():
            return f"pytest ended with {done.returncode}", False
        suite = next(ET.parse(report).getroot().iter("testsuite"))
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return f"{total - bad - skipped} passed, {bad} failed, {skipped} skipped", done.returncode == 0


def print_table(outcomes: Sequence[Outcome]) -> None:
    rows = [("python", "versions", *SHOWN, "demo", "tests"), *(outcome.cells for outcome in outcomes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    say("")
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
