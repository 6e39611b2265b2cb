"""One fact, one home: what several callers need is defined once, where the page says.

The page is docs/architecture.md, "Facts that have one home each".
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "hundredfold"
HOMES = {
    # the rule for run ids
    "check_run_id": "runs/names.py",
    "check_aws_run_id": "runs/names.py",
    "MAX_RUN_ID_CHARACTERS": "runs/names.py",
    # limits: their form, their meaning, and those of one run
    "check_limit": "job.py",
    "allowed": "job.py",
    "with_limits": "runs/start.py",
    "check_limits": "pipeline/publish.py",
    # a run that a command continues: its state, its code, the units to do again
    "check_held": "runs/start.py",
    "check_code": "runs/code_history.py",
    "after": "ports/run_states.py",
    "plan_retry_of_run": "runs/retry.py",
    # stored objects, and the order of the steps
    "Layout": "data/layout.py",
    "stages": "pipeline/stages.py",
    "RunOptions": "ports/run_facts.py",
    "RunCounts": "ports/run_facts.py",
}
# modules in which a command of a backend opens a run that exists, each in one function
OPENINGS = {"local/backend.py": "_open_to_continue", "aws/backend.py": "_open_to_continue"}


def defined(tree: ast.Module) -> set[str]:
    """Return the names that the top level of a module defines."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def homes() -> dict[str, list[str]]:
    """Return the modules that define each name."""
    found = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for name in defined(ast.parse(path.read_text(encoding="utf-8"))):
            found[name].append(path.relative_to(SOURCE).as_posix())
    return found


def test_facts_that_several_callers_need_are_defined_once() -> None:
    found = homes()
    assert {name: found[name] for name in HOMES} == {name: [home] for name, home in HOMES.items()}


@pytest.mark.parametrize("module", OPENINGS)
def test_resume_and_retry_open_a_run_by_one_function(module: str) -> None:
    tree = ast.parse((SOURCE / module).read_text(encoding="utf-8"))
    methods = {
        node.name: {call.func.attr for call in calls(node) if isinstance(call.func, ast.Attribute)}
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    for verb in ("resume", "retry"):
        assert OPENINGS[module] in methods[verb]


def calls(node: ast.AST) -> list[ast.Call]:
    return [each for each in ast.walk(node) if isinstance(each, ast.Call)]
