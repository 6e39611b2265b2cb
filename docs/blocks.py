"""Runs the code of a page as a reader would, and holds what it prints against what the page shows.

    python docs/blocks.py docs/tutorial.md            # says what differs
    python docs/blocks.py --write docs/tutorial.md    # puts what was really printed into the page

A page is run from its top to its end, in an empty folder, with one Python that keeps its variables, as a notebook does.

    ```python, ```sql, ... with `# path/name.py` or `-- path/name.sql` as the first line    the file is written
    ```python                       it is run; a ```text block right after it is what it prints
    ```console                      lines that begin with `$ ` are run in a shell, each followed by what it prints;
                                    `# exit 1` at the end of a command says that it ends so, instead of with 0

Run ids, times, seconds (and what a bench makes of them) and the folder's place are taken for equal; a line `...` stands for any lines.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"\A(?:#|--) ([\w./-]+\.\w+)\n")
EXPECTED_EXIT = re.compile(r"\s+# exit (\d+)$")
VOLATILE = (
    (re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}"), "RUN"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?"), "TIME"),
    (re.compile(r"\b\d+\.\d+ s\b"), "N s"),
    (
        re.compile(r"(?<=\d)\s+\d+\.\d\d$", re.MULTILINE),
        " N",
    ),  # the table's last column: seconds of work
    (re.compile(r'"seconds": [\d.]+'), '"seconds": N'),
    (re.compile(r"\b(used|had) [\d,.]+ [MG]iB"), r"\1 N MiB"),
    (re.compile(r"0x[0-9a-f]+"), "0xN"),
    (
        re.compile(r"^(\w+): ~?[\d.,]+ (?:us|ms|s|min|h) as .*$", re.MULTILINE),
        r"\1: its times",
    ),  # what a bench says
    (re.compile(r"~?\b[\d.,]+ (?:us|ms|s|min|h)\b"), "N s"),
    (re.compile(r"\b[\d.,]+x(?= |$)", re.MULTILINE), "Nx"),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r" +$", re.MULTILINE), ""),
)
SERVER = """
import sys, traceback
code, sys.argv = compile, [""]
while line := sys.stdin.readline():
    text = sys.stdin.read(int(line))
    try:
        exec(code(text, "<block>", "exec"), globals())
    except BaseException:
        traceback.print_exc()
        print("\\0failed", flush=True)
    else:
        print("\\0done", flush=True)
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, and where the text lies in the page."""

    kind: str
    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a block really printed, beside what the page shows; `start` and `stop` are where the page shows it."""

    shown: str
    found: str
    start: int
    stop: int
    wrong: str = ""

    @property
    def same(self) -> bool:
        return not self.wrong and alike(self.shown, self.found)


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(m[1], m[2], m.start(2), m.end(2)) for m in FENCE.finditer(page)]


def answers(page: str, folder: Path) -> Iterator[Answer]:
    """Run a page's blocks in `folder`; what each of them answered."""
    there = blocks(page)
    with Python(folder) as python:
        for block, after in zip(there, [*there[1:], None], strict=True):
            name = NAMED.match(block.text)
            if name:
                path = folder / name[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text[name.end() :], encoding="utf-8")
            elif block.kind == "console":
                yield console(block, folder)
            elif block.kind == "python":
                found, failed = python.run(block.text)
                beside = (
                    after is not None
                    and after.kind == "text"
                    and page[block.stop : after.start].split() == ["```", "```text"]
                )
                wrong = f"raised:\n{found}" if failed else ""
                yield (
                    Answer(after.text, found, after.start, after.stop, wrong)
                    if after and beside
                    else Answer("", found, 0, 0, wrong)
                )


def console(block: Block, folder: Path) -> Answer:
    """Each command of the block with what it prints, stdout and stderr together."""
    told, wrong = [], ""
    for line in block.text.splitlines():
        if not line.startswith("$ "):
            continue
        wanted = EXPECTED_EXIT.search(line)
        command = EXPECTED_EXIT.sub("", line[2:])
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=environment(),
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            check=False,
        )
        told.append(
            f"{line}\n{done.stdout}"
            + ("" if not done.stdout or done.stdout.endswith("\n") else "\n")
        )
        if done.returncode != (int(wanted[1]) if wanted else 0):
            wrong = f"{command} ended with exit status {done.returncode}:\n{done.stdout}"
    return Answer(block.text, relative("".join(told), folder), block.start, block.stop, wrong)


class Python:
    """One Python in the folder, which keeps its variables from block to block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Python:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.communicate("")

    def run(self, text: str) -> tuple[str, bool]:
        """What the text prints, and whether it raised."""
        if self.process is None:
            command = [sys.executable, "-c", SERVER]
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment(),
                stdin=PIPE,
                stdout=PIPE,
                stderr=STDOUT,
                text=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{len(text)}\n{text}")
        self.process.stdin.flush()
        lines: list[str] = []
        for line in self.process.stdout:
            if line.startswith("\0"):
                return relative("".join(lines), self.folder), line.startswith("\0failed")
            lines.append(line)
        return "".join(lines), True


def environment() -> dict[str, str]:
    """A terminal of 100 columns without colour, in which `hundredfold` and `python` are those of this environment."""
    bin_ = str(Path(sys.executable).parent)
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("HUNDREDFOLD", "PYTEST", "PYTHON", "FORCE_COLOR"))
    }
    path = os.pathsep.join([bin_, os.environ.get("PATH", "")])
    return {
        **kept,
        "PATH": path,
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def relative(text: str, folder: Path) -> str:
    """Paths below the folder as a reader who stands in it would write them."""
    short = text.replace(f"{folder.resolve()}/", "").replace(str(folder.resolve()), ".")
    return re.sub(r" +$", "", short, flags=re.MULTILINE)


def alike(shown: str, found: str) -> bool:
    """Whether a page's text is what was printed, but for what changes from run to run. '...' on a line stands for any lines."""
    pattern = "".join(
        "(?:.*\n)*?" if line.strip() == "..." else re.escape(line) + "\n"
        for line in settled(shown).splitlines()
    )
    return (
        not shown
        or re.fullmatch(pattern, "".join(f"{line}\n" for line in settled(found).splitlines()))
        is not None
    )


def settled(text: str) -> str:
    """The text without what changes from run to run."""
    for found, instead in VOLATILE:
        text = found.sub(instead, text)
    return text.strip()


def difference(answer: Answer) -> str:
    """What differs, in words for a person."""
    if answer.wrong:
        return answer.wrong
    shown, found = settled(answer.shown).splitlines(), settled(answer.found).splitlines()
    return "\n".join(
        difflib.unified_diff(shown, found, "the page", "what was printed", lineterm="")
    )


def check(path: Path) -> list[str]:
    """Run a page; what is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            difference(answer)
            for answer in answers(path.read_text(encoding="utf-8"), Path(folder).resolve())
            if not answer.same
        ]


def write(path: Path) -> list[str]:
    """Run a page and put what was printed into it, but where it says so already; what ended otherwise than the page says."""
    page = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        told = list(answers(page, Path(folder).resolve()))
    for answer in reversed(told):
        if answer.stop and (not answer.same or not answer.shown):
            page = page[: answer.start] + answer.found + page[answer.stop :]
    path.write_text(page, encoding="utf-8", newline="\n")
    return [answer.wrong for answer in told if answer.wrong]


if __name__ == "__main__":
    doing = write if "--write" in sys.argv else check
    wrong = [
        f"{name}:\n{text}"
        for name in sys.argv[1:]
        if name != "--write"
        for text in doing(Path(name))
    ]
    sys.stdout.write("\n\n".join(wrong) + "\n" * bool(wrong))
    sys.exit(bool(wrong))
