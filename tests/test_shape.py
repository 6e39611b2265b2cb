"""The shape of the house: imports run downwards only, and what is heavy stays behind its door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
HOUSE = SOURCE / "hundredfold"

# who may import whom: only what stands on a lower floor, or on the same one
FLOORS = [
    {
        "annotations",
        "channel",
        "errors",
        "forking",
        "forkserver",
        "imported",
        "job",
        "pinned",
        "snapshot",
        "states",
        "streams",
        "supervisor",
    },
    {"ports", "keys", "checksums", "records", "contract", "checks", "query", "dialect", "load", "listing", "names"},
    {
        "arrays",
        "batch",
        "columns",
        "fingerprint",
        "given",
        "manifest",
        "members",
        "nesting",
        "order",
        "outcome",
        "results",
        "returns",
        "rowgroups",
        "sizes",
        "upstream",
    },
    {"crew", "desk", "guarding", "launching", "loading", "memory"},
    {"steps"},
    {"pipeline", "walk"},
    {"local", "aws"},
    {"testing", "cli", "cloud", "options", "streams", "display", "comparison", "demo", "scaffold", "plan", "report", "ui"},
]
HEAVY = {
    "duckdb": {"local"},
    "sqlite3": {"local"},
    "sqlglot": {"dialect"},
    "aws_cdk": {"aws"},
    "boto3": {"aws"},
    "botocore": {"aws"},
    "s3transfer": {"aws"},
    "click": {"cli", "cloud", "options"},
    "rich": {"cli", "cloud", "options", "display", "comparison", "demo", "scaffold"},
}


def files() -> list[Path]:
    return sorted(path for path in HOUSE.rglob("*.py") if "template" not in path.parts)


def room(path: Path) -> str:
    """The first part of a file's name in the house: `steps` for steps/work.py."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, in full: hundredfold.steps.work. What only a type checker reads is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    package = ["hundredfold", *path.relative_to(HOUSE).parts[:-1]]
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" if not node.module else module for alias in node.names)


def floor(name: str) -> int:
    return next((number for number, rooms in enumerate(FLOORS) if name in rooms), -1)


def test_every_room_stands_on_a_floor() -> None:
    assert sorted({room(path) for path in files()} - {"__init__", "__main__"} - set().union(*FLOORS)) == []


def test_imports_run_downwards_only() -> None:
    upward = [
        f"{path.relative_to(SOURCE)} imports {module}"
        for path in files()
        if room(path) not in ("__init__", "__main__")
        for module in imports(path)
        if module.startswith("hundredfold.") and floor(module.split(".")[1]) > floor(room(path))
    ]
    assert upward == []


@pytest.mark.parametrize("library", HEAVY)
def test_a_heavy_library_stays_in_its_room(library: str) -> None:
    strangers = {room(path) for path in files() if any(module.split(".")[0] == library for module in imports(path))}
    assert strangers <= HEAVY[library]


def test_the_engine_does_not_know_the_application() -> None:
    assert [path for path in files() if any(m.split(".")[0] == "tariffs" for m in imports(path))] == []


def test_one_file_of_the_model_knows_the_engine() -> None:
    """Beside it, only what handles the runs and the releases that the engine made, and the rows that it left out, does."""
    knowing = [
        p.relative_to(SOURCE).as_posix()
        for p in sorted((SOURCE / "tariffs").rglob("*.py"))
        if "hundredfold" in {m.split(".")[0] for m in _plain(p)}
    ]
    assert [
        name for name in knowing if not name.startswith(("tariffs/cli.py", "tariffs/dirt/", "tariffs/release/", "tariffs/evidence/"))
    ] in (
        [],
        ["tariffs/job.py"],
    )


@pytest.mark.parametrize("library", ["boto3", "botocore", "s3transfer"])
def test_the_application_reaches_aws_through_the_engine_only(library: str) -> None:
    assert [p for p in sorted((SOURCE / "tariffs").rglob("*.py")) if library in {module.split(".")[0] for module in _plain(p)}] == []


def _plain(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import hundredfold; hundredfold.Job, hundredfold.Source", {"pyarrow", "duckdb", "pandas", "polars", "numpy", "click", "rich"}),
        ("import hundredfold.desk", {"duckdb", "pandas", "polars", "pydantic", "click", "rich"}),
        ("import hundredfold; hundredfold.run", {"pandas", "polars", "pydantic", "click"}),
        ("import hundredfold.cli", {"pyarrow", "duckdb", "pandas", "polars", "numpy", "pydantic", "rich"}),
    ],
)
def test_importing_costs_little(statement: str, heavy: set[str]) -> None:
    told = subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout
    assert sorted(heavy & set(told.split())) == []
