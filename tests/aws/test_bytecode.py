"""The bytecode of a package's modules: made where the Python of the functions is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hundredfold.aws.archive import fingerprint_of, remove_from_zip, write_zip
from hundredfold.aws.deploy.bytecode import bytecode_owners, compile_modules, find_interpreter
from hundredfold.aws.lambda_platform import BYTECODE_FOLDER

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A folder of modules: one with a set, whose order differs from process to process."""
    folder = tmp_path / "modules"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "__init__.py").write_text("def broken():\n    return 1 / 0\n")
    (folder / "one.py").write_text("def known(x):\n    return x in {'a', 'b', 'c', 'd', 'e'}\n")
    (folder / "no_python.py").write_text("def def def\n")
    return folder


def contents_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_bytecode_is_unchecked_and_the_same_each_time(modules: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "copy"
    shutil.copytree(modules, other)
    for folder in (modules, other):
        compile_modules(folder, find_interpreter(HERE))
    assert contents_of(modules) == contents_of(other)
    compiled = sorted(modules.rglob("*.pyc"))
    assert [path.name.partition(".")[0] for path in compiled] == ["one", "__init__"]
    assert [path.read_bytes()[4:8] for path in compiled] == [bytes([1, 0, 0, 0])] * 2  # PEP 552


def test_python_imports_the_bytecode_and_shows_the_source(modules: Path) -> None:
    compile_modules(modules, find_interpreter(HERE))
    for path in modules.rglob("*.py"):
        os.utime(path, (0, 0))  # as in a zip
    code = "import importlib._bootstrap_external as b, sys; b.SourceLoader.source_to_code = None; "
    code += f"sys.path[:] = [{str(modules)!r}]; import one, deep; deep.broken()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "return 1 / 0" in done.stderr
    assert "ZeroDivisionError" in done.stderr  # and not that it could not compile


def test_a_python_that_is_not_installed_compiles_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    preview = tmp_path / "python3.99"
    preview.write_text("#!/bin/sh\necho cpython 3 99 candidate\n")
    preview.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_interpreter("3.99") == find_interpreter("3.98") == ""
    preview.write_text("#!/bin/sh\necho cpython 3 99 final\n")
    assert find_interpreter("3.99") == str(preview)


def test_bytecode_belongs_to_the_distribution_of_its_module(modules: Path) -> None:
    compile_modules(modules, find_interpreter(HERE))
    owners = {modules / "one.py": ("library", "1.0")}
    (found,) = bytecode_owners(modules, owners).items()
    assert (found[0].parent.parent, found[1]) == (modules, ("library", "1.0"))


def test_a_zip_loses_its_bytecode_only(modules: Path, tmp_path: Path) -> None:
    archive, other = tmp_path / "packed.zip", tmp_path / "plain.zip"
    write_zip(modules, other)
    compile_modules(modules, find_interpreter(HERE))
    write_zip(modules, archive)
    assert archive.read_bytes() != other.read_bytes()
    remove_from_zip(archive, BYTECODE_FOLDER)
    assert archive.read_bytes() == other.read_bytes()


def test_a_fingerprint_is_the_same_with_bytecode_and_without(modules: Path) -> None:
    before = fingerprint_of(modules)
    compile_modules(modules, find_interpreter(HERE))
    assert fingerprint_of(modules) == before
