"""The size of functions, signatures and files. The lists of exceptions may only shrink."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 7
MAX_FILE_LINES = 400
MAX_LONG_FILE_LINES = 1000

# With more parameters than allowed: positional ones of any function, and all of a private one. The
# keyword-only ones of a public function are the interface of its users, and so are the options of
# a command, which click passes by name: neither is counted.
LONG_SIGNATURES = {
    "hundredfold/aws/adapters/sources.py _read_files",
    "hundredfold/aws/adapters/sources.py _read_locally",
    "hundredfold/aws/adapters/sources.py _stage",
}
# Files with one subject that is long, or with two that nobody has split yet.
LONG_FILES = {
    "hundredfold/aws/adapters/athena.py",
    "hundredfold/aws/adapters/s3_store.py",
    "hundredfold/aws/adapters/sources.py",
    "hundredfold/aws/backend.py",
    "hundredfold/aws/deploy/deploy.py",
    "hundredfold/aws/deploy/package.py",
    "hundredfold/aws/doctor/checks.py",
    "hundredfold/aws/functions/stage_execution.py",
    "hundredfold/aws/stack/settings.py",
    "hundredfold/cli/aws.py",
    "hundredfold/cli/display.py",
    "hundredfold/cli/main.py",
    "hundredfold/cli/options.py",
    "hundredfold/contract.py",
    "hundredfold/data/arrow_columns.py",
    "hundredfold/data/batch.py",
    "hundredfold/data/results.py",
    "hundredfold/job.py",
    "hundredfold/pipeline/collect.py",
    "hundredfold/pipeline/prepare.py",
    "hundredfold/pipeline/validate.py",
    "hundredfold/pipeline/work.py",
    "hundredfold/ports/interfaces.py",
    "hundredfold/sql/athena/unsupported.py",
    "hundredfold/sql/sources/csv_dialect.py",
    "hundredfold/sql/sources/csv_records.py",
    "hundredfold/sql/sources/json_lines.py",
    "hundredfold/workers/pool.py",
    "hundredfold/workers/unit_runner.py",
}


def files() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each module; templates of projects are not modules."""
    for path in sorted(SOURCE.rglob("*.py")):
        if "template" not in path.parts:
            yield path.relative_to(SOURCE).as_posix(), path.read_text(encoding="utf-8")


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, text in files():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name} {node.name}", node


def counted_parameters(name: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    found = [*arguments.posonlyargs, *arguments.args]
    if function.name.startswith("_") and not function.name.startswith("__"):
        found += arguments.kwonlyargs
    if any("click." in ast.unparse(decorator) for decorator in function.decorator_list):
        return 0
    return sum(argument.arg not in ("self", "cls") for argument in found)


def test_no_function_is_longer_than_a_screen() -> None:
    assert [
        f"{name}: {lines}"
        for name, function in functions()
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    ] == []


def test_no_signature_outside_of_the_list_is_long() -> None:
    found = {
        name
        for name, function in functions()
        if counted_parameters(name, function) > MAX_PARAMETERS
    }
    assert sorted(found - LONG_SIGNATURES) == []
    assert sorted(LONG_SIGNATURES - found) == []  # it is short now: take it off the list


def test_no_file_grows_beyond_its_limit() -> None:
    lines = {name: text.count("\n") for name, text in files()}
    assert [
        f"{name}: {count}"
        for name, count in lines.items()
        if count > (MAX_LONG_FILE_LINES if name in LONG_FILES else MAX_FILE_LINES)
    ] == []
    # it is short now: take it off the list
    assert [name for name in LONG_FILES if lines.get(name, 0) <= MAX_FILE_LINES] == []
