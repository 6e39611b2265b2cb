"""The architecture: no import runs upwards, no cycles, and heavy libraries in one package each."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import hundredfold

SOURCE = Path(__file__).parents[2] / "src"
ENGINE = SOURCE / "hundredfold"

# From bottom to top. A module may import its own package and lower layers, and no package of its
# own layer.
LAYERS: list[set[str]] = [
    {"_package", "errors", "figures", "import_times"},
    {"release_tables"},
    {"annotations", "html_tables", "paths", "sql_types"},
    {"contract", "job"},
    {"ports"},
    {"data"},
    {"sql"},
    {"workers"},
    {"pipeline"},
    {"runs", "testing"},
    {"local", "aws"},
    {"api", "finished_runs", "releases"},
    {"mapping"},
    {"bench"},
    {"planning"},
    {"report"},
    {"cli"},
    {"__init__", "__main__"},
]
HEAVY = {
    "duckdb": "sql",
    "sqlite3": "local",
    "sqlglot": "sql/athena",
    "aws_cdk": "aws/stack",
    "boto3": "aws",
    "botocore": "aws",
    "s3transfer": "aws",
    "click": "cli",
    "rich": "cli",
}
PUBLIC = [
    "Csv",
    "DynamoDB",
    "HundredfoldError",
    "Job",
    "Model",
    "Publish",
    "Rows",
    "Run",
    "Source",
    "Unit",
    "Units",
    "adjust",
    "cancel",
    "clean",
    "diff",
    "map",
    "open_run",
    "publish",
    "replay",
    "resume",
    "retry",
    "rollback",
    "run",
    "write_report",
]
# What an application may import of the engine, besides PUBLIC. The last two are for its commands.
PUBLIC_MODULES = {
    "hundredfold.errors": None,
    "hundredfold.finished_runs": [
        "Record",
        "Run",
        "RunHome",
        "ValidationResult",
        "Warehouse",
        "accepted_source",
        "find_run",
        "given_source",
        "input_select",
        "input_source",
        "job_of",
        "open_warehouse",
        "staged_source",
        "unit_batches",
        "unit_keys",
        "upstream_value",
        "validation_results",
    ],
    "hundredfold.releases": [
        "Release",
        "RunHome",
        "Stamp",
        "Store",
        "Written",
        "parse_release",
        "release_folder",
        "releases_folder",
        "write_to_table",
    ],
    "hundredfold.cli.options": None,
    "hundredfold.cli.display": None,
}


def modules(package: Path) -> Mapping[str, Path]:
    """Return the modules below a package's folder by their full name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        if "template" not in path.parts:
            parts = path.relative_to(SOURCE).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Yield the full names that a file imports, anywhere in it, except under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    package = path.relative_to(SOURCE).parts[:-1]
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def graph() -> Mapping[str, set[str]]:
    """Return the modules of both packages, each with those that it imports."""
    known = {**modules(ENGINE), **modules(SOURCE / "tariffs")}
    edges = {}
    for name, path in known.items():
        found = (n if n in known else n.rpartition(".")[0] for n in imported(path))
        edges[name] = {n for n in found if n in known} - {name}
    return edges


def part(module: str) -> str:
    """Return the package of the engine that has a module: `pipeline` for pipeline.work."""
    return module.split(".")[1] if "." in module else "__init__"


def layer(module: str) -> int:
    return next((number for number, parts in enumerate(LAYERS) if part(module) in parts), -1)


def test_every_module_belongs_to_a_layer() -> None:
    assert [module for module in modules(ENGINE) if layer(module) < 0] == []


def test_imports_run_downwards_only() -> None:
    upward = [
        f"{module} imports {other}"
        for module, others in graph().items()
        if module.startswith("hundredfold.")
        for other in sorted(others)
        if other.startswith("hundredfold")
        and part(other) != part(module)
        and layer(other) >= layer(module)
    ]
    assert upward == []


def test_no_file_is_part_of_a_cycle() -> None:
    """Imports inside of functions count, too: a cycle that is hidden in a function is one."""
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def folder(module: str) -> str:
    """Return the package that has a module: `aws.stack` for aws.stack.construct."""
    path = {**modules(ENGINE), **modules(SOURCE / "tariffs")}[module]
    return ".".join(path.relative_to(SOURCE).parts[:-1])


def test_packages_do_not_import_each_other() -> None:
    """Only a package and one inside it may: an adapter uses its backend's constants, say."""
    arrows = {(folder(a), folder(b)) for a, others in graph().items() for b in others}
    assert [
        (one, other)
        for one, other in sorted(arrows)
        if one < other and (other, one) in arrows and not other.startswith(f"{one}.")
    ] == []


@pytest.mark.parametrize("library", HEAVY)
def test_a_heavy_library_stays_in_its_package(library: str) -> None:
    home = ENGINE / HEAVY[library]
    users = [
        path
        for path in modules(ENGINE).values()
        if any(n.split(".")[0] == library for n in imported(path))
    ]
    assert [path for path in users if not path.is_relative_to(home)] == []


def test_the_public_names_are_these() -> None:
    assert sorted(hundredfold.__all__) == sorted(PUBLIC)
    assert [name for name in PUBLIC if not hasattr(hundredfold, name)] == []


def test_no_module_of_the_root_bears_a_public_name() -> None:
    """Importing such a module would put it in the place of the public name that is loaded later."""
    assert {path.stem for path in ENGINE.iterdir()} & set(PUBLIC) == set()


def test_the_engine_does_not_know_the_application() -> None:
    assert [
        path
        for path in modules(ENGINE).values()
        if any(n.split(".")[0] == "tariffs" for n in imported(path))
    ] == []


def is_public(name: str) -> bool:
    """Return whether an application may import what has this full name."""
    module, _, attribute = name.rpartition(".")
    if name in PUBLIC_MODULES or name == "hundredfold":
        return True
    if module == "hundredfold":
        return attribute in (*PUBLIC, "__version__")
    if module not in PUBLIC_MODULES or attribute.startswith("_"):
        return False
    names = PUBLIC_MODULES[module]
    return names is None or attribute in names


def test_the_application_imports_public_names_only() -> None:
    assert [
        f"{module} imports {name}"
        for module, path in modules(SOURCE / "tariffs").items()
        for name in imported(path)
        if name.split(".")[0] == "hundredfold" and not is_public(name)
    ] == []


def test_the_public_modules_export_these_names() -> None:
    for module, names in PUBLIC_MODULES.items():
        if names is not None:
            assert sorted(import_module(module).__all__) == sorted(names)


@pytest.mark.parametrize("library", ["boto3", "botocore", "s3transfer"])
def test_the_application_reaches_aws_through_the_engine_only(library: str) -> None:
    application = modules(SOURCE / "tariffs").values()
    assert [
        path for path in application if any(n.split(".")[0] == library for n in imported(path))
    ] == []


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        (
            "import hundredfold; hundredfold.Job, hundredfold.Source",
            {"pyarrow", "duckdb", "pandas", "polars", "numpy", "click", "rich"},
        ),
        (
            "import hundredfold.workers.unit_runner",
            {"duckdb", "pandas", "polars", "pydantic", "click", "rich"},
        ),
        ("import hundredfold; hundredfold.run", {"pandas", "polars", "pydantic", "click"}),
        (
            "import hundredfold.cli.main",
            {"pyarrow", "duckdb", "pandas", "polars", "numpy", "pydantic", "rich"},
        ),
    ],
)
def test_importing_costs_little(statement: str, heavy: set[str]) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert sorted(heavy & set(printed.split())) == []
