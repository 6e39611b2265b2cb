"""Run the code of a page as a reader would, and compare its output with the page.

    python docs/blocks.py docs/tutorial.md            # prints the differences
    python docs/blocks.py --write docs/tutorial.md    # writes the real output into the page

A page is run from top to bottom, in an empty folder, with one Python that keeps its variables, as
in a notebook.

    ```python, ```sql, ...  if the first line is `# path/name.py` or `-- path/name.sql`: write
                            the file
    ```python               run it; a ```text block directly after it shows its output
    ```console              run each line that begins with `$ ` in a shell; the other lines are its
                            output. `# exit 1` at the end of a command is its exit status, if not 0

Run ids, times, seconds (and figures of a bench computed from them) and the path of the folder are
ignored in the comparison; a line `...` matches any lines.
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
from itertools import zip_longest
from pathlib import Path
from subprocess import PIPE, STDOUT

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"\A(?:#|--) ([\w./-]+\.\w+)\n")
EXPECTED_EXIT = re.compile(r"\s+# exit (\d+)$")
VOLATILE = (
    (re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}"), "RUN"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?"), "TIME"),
    (re.compile(r"\befficiency \d+ %: at best .+"), "efficiency N %"),
    (re.compile(r"\b\d+\.\d+ s\b"), "N s"),
    # the last column of the table: seconds of work
    (re.compile(r"(?<=\d)\s+\d+\.\d\d$", re.MULTILINE), " N"),
    (re.compile(r'"seconds": [\d.]+'), '"seconds": N'),
    (re.compile(r"\b(used|had) [\d,.]+ [MG]iB"), r"\1 N MiB"),
    (re.compile(r"0x[0-9a-f]+"), "0xN"),
    # the headline of a bench
    (re.compile(r"^(\w+): ~?[\d.,]+ (?:us|ms|s|min|h) as .*$", re.MULTILINE), r"\1: its times"),
    (re.compile(r"~?\b[\d.,]+ (?:us|ms|s|min|h)\b"), "N s"),
    # shown where units took long enough in an earlier run, such as on a busy machine
    (re.compile(r"^ *batches by the seconds of run .*\n", re.MULTILINE), ""),
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
    """A fenced block: its language, its text, and the position of the text in the page."""

    kind: str
    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Output:
    """The real output of a block, and the output in the page, from `start` to `stop`."""

    shown: str
    found: str
    start: int
    stop: int
    wrong: str = ""

    @property
    def same(self) -> bool:
        return not self.wrong and alike(self.shown, self.found)


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [Block(m[1], m[2], m.start(2), m.end(2)) for m in FENCE.finditer(page)]


def outputs(page: str, folder: Path) -> Iterator[Output]:
    """Run the blocks of a page in `folder`, and yield the output of each."""
    found_blocks = blocks(page)
    with Python(folder) as python:
        for block, after in zip_longest(found_blocks, found_blocks[1:]):
            name = NAMED.match(block.text)
            if name:
                path = folder / name[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text[name.end() :], encoding="utf-8")
            elif block.kind == "console":
                yield console(block, folder)
            elif block.kind == "python":
                found, failed = python.run(block.text)
                shows_output = (
                    after is not None
                    and after.kind == "text"
                    and page[block.stop : after.start].split() == ["```", "```text"]
                )
                wrong = f"raised:\n{found}" if failed else ""
                yield (
                    Output(after.text, found, after.start, after.stop, wrong)
                    if after and shows_output
                    else Output("", found, 0, 0, wrong)
                )


def console(block: Block, folder: Path) -> Output:
    """Run each command of a block; return the commands with their stdout and stderr."""
    lines, wrong = [], ""
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
        lines.append(
            f"{line}\n{done.stdout}"
            + ("" if not done.stdout or done.stdout.endswith("\n") else "\n")
        )
        if done.returncode != (int(wanted[1]) if wanted else 0):
            wrong = f"{command} ended with exit status {done.returncode}:\n{done.stdout}"
    return Output(block.text, relative("".join(lines), folder), block.start, block.stop, wrong)


class Python:
    """A Python process in the folder, which keeps its variables between blocks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Python:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.communicate("")

    def run(self, text: str) -> tuple[str, bool]:
        """Return the output of a program, and whether it raised."""
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
    """Return the environment of a terminal of 100 columns without colour.

    `hundredfold` and `python` are those of this virtual environment.
    """
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
    """Return the text with paths relative to the folder."""
    short = text.replace(f"{folder.resolve()}/", "").replace(str(folder.resolve()), ".")
    return re.sub(r" +$", "", short, flags=re.MULTILINE)


def alike(shown: str, found: str) -> bool:
    """Return whether a page shows the output, except values that differ between runs.

    A line `...` matches any lines.
    """
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
    """Return the text without values that differ between runs."""
    for found, instead in VOLATILE:
        text = found.sub(instead, text)
    return text.strip()


def difference(output: Output) -> str:
    """Return the difference between the page and the output."""
    if output.wrong:
        return output.wrong
    shown, found = settled(output.shown).splitlines(), settled(output.found).splitlines()
    return "\n".join(difflib.unified_diff(shown, found, "the page", "the output", lineterm=""))


def check(path: Path) -> list[str]:
    """Run a page and return its problems."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            difference(output)
            for output in outputs(path.read_text(encoding="utf-8"), Path(folder).resolve())
            if not output.same
        ]


def write(path: Path) -> list[str]:
    """Run a page, write its real output into it, and return unexpected exit statuses."""
    page = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        results = list(outputs(page, Path(folder).resolve()))
    for output in reversed(results):
        if output.stop and (not output.same or not output.shown):
            page = page[: output.start] + output.found + page[output.stop :]
    path.write_text(page, encoding="utf-8", newline="\n")
    return [output.wrong for output in results if output.wrong]


if __name__ == "__main__":
    action = write if "--write" in sys.argv else check
    wrong = [
        f"{name}:\n{text}"
        for name in sys.argv[1:]
        if name != "--write"
        for text in action(Path(name))
    ]
    sys.stdout.write("\n\n".join(wrong) + "\n" * bool(wrong))
    sys.exit(bool(wrong))
