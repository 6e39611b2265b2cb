"""Errors of importing a job file: one error with the line in the user's code and a correction."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from hundredfold.errors import JobError
from hundredfold.runs.job_loader import load_job

NUMBERS = itertools.count()
HEAD = "from hundredfold import Csv, Job, Model, Publish, Source\ndef work(rows): return {'a': 1}\n"


def load_error(folder: Path, text: str) -> JobError:
    """Write a job file with `text` from line 3 on, and return the error of importing it."""
    path = folder / f"fails_{next(NUMBERS)}.py"
    path.write_text(HEAD + dedent(text).strip() + "\n")
    with pytest.raises(JobError) as raised:
        load_job(str(path))
    error = raised.value
    error.add_note(str(path))
    return error


MODEL = 'Model("m", unit=("shop",), work=work)'
DECLARATIONS = {
    'Model("m", unit="shop", work=work)': (
        "unit is the text 'shop', wanted a tuple of names",
        "write unit=('shop',)",
    ),
    'Csv(delimiter="ab")': ("delimiter is 'ab', wanted one ASCII character", "such as Csv("),
    'Source("Sales")': ("source name 'Sales' cannot be used", "the name becomes a table in SQL"),
    'Model("m", unit=(), work=lambda: 1)': (
        "its function has no parameter",
        "write def price(rows)",
    ),
    f'Job("j", sources=[], models=[{MODEL}])': (
        "job j has no source",
        'add sources=[Source("sales")]',
    ),
    f'Job("j", sources=[Source("m")], models=[{MODEL}])': (
        "the name m is used twice",
        "correct the declaration in fails_",
    ),
    'Publish("p", query="SELECT 1", formats=("xml",))': (
        "formats ['xml'] are not among",
        "correct the declaration in fails_",
    ),
}


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_a_wrong_declaration_shows_its_line_and_a_correction(
    tmp_path: Path, declaration: str
) -> None:
    message, hint = DECLARATIONS[declaration]
    error = load_error(tmp_path, f"made = {declaration}")
    assert message in str(error)
    assert "cannot be imported" not in error.message
    assert error.problems[-1] == f"at {error.__notes__[-1]}, line 3: made = {declaration}"
    assert (error.hint or "").startswith(hint)


def test_a_wrong_declaration_in_a_helper_shows_the_helpers_line(tmp_path: Path) -> None:
    (tmp_path / "helping.py").write_text(HEAD + 'MODEL = Model("m", unit="shop", work=work)\n')
    error = load_error(tmp_path, "from helping import MODEL")
    assert error.problems == (
        f'at {tmp_path / "helping.py"}, line 3: MODEL = Model("m", unit="shop", work=work)',
    )


RAISING = """
class Silent(Exception):
    def __str__(self): raise ValueError("no words")
raise Silent
"""


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (RAISING, "Silent: (Silent, whose __str__ raises ValueError)", "line 5: raise Silent"),
        ("raise KeyError('\\udcff')", r"KeyError: '\udcff'", "line 3: raise KeyError('\\udcff')"),
        (
            "raise ValueError('\\udcff')",
            r"ValueError: \udcff",
            "line 3: raise ValueError('\\udcff')",
        ),
        ("raise SystemExit(3)", "SystemExit: 3", "line 3: raise SystemExit(3)"),
        ("x = = 1", "SyntaxError: invalid syntax", "line 3: x = = 1"),
        ("Model('m')", "TypeError", "line 3: Model('m')"),
        ("import json\njson.loads('{')", "JSONDecodeError", "json/decoder.py"),
    ],
)
def test_any_exception_of_a_job_file_is_one_error_with_a_line(
    tmp_path: Path, text: str, message: str, line: str
) -> None:
    error = load_error(tmp_path, text)
    assert message in error.message
    assert error.message.startswith("the module fails_")
    assert line in str(error)
    str(error).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nul.py", b"x = 1\0\n", "null byte"),
        ("latin.py", b"x = '\xff'\n", "SyntaxError: "),
        ("deep.py", b"x = " + b"(" * 5000 + b")" * 5000, "cannot be imported: "),
    ],
)
def test_a_file_that_is_not_python_is_reported(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JobError) as raised:
        load_job(str(tmp_path / name))
    assert message in str(raised.value)
    assert "None" not in str(raised.value)


@pytest.mark.parametrize("ref", [".:job", "..x:job", "a..b", ":job", "", "a\0b", "a\0b.py", "x:"])
def test_an_invalid_reference_is_refused(ref: str) -> None:
    with pytest.raises(JobError, match="does not name a job"):
        load_job(ref)


@pytest.mark.parametrize("ref", ["~nobody-here/x.py", "x" * 300 + ".py", "loop.py", "folder.py"])
def test_a_path_that_cannot_exist_is_reported_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(JobError, match="there is no file"):
        load_job(ref)


def test_the_command_line_prints_the_line_and_the_hint(tmp_path: Path) -> None:
    (tmp_path / "unitstr.py").write_text(
        HEAD + 'job = Job("j", Source("s"), Model("m", unit="shop", work=work))\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "hundredfold", "run", "unitstr.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: unit is the text 'shop', wanted a tuple of names",
        f"  at {tmp_path}/unitstr.py, line 3: "
        'job = Job("j", Source("s"), Model("m", unit="shop", work=work))',
        "hint: write unit=('shop',)",
    ]
