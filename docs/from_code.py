"""Write the table of states and the tree of errors into their pages. `make docs` runs it.

how-it-works.md has the table of run_states.TABLE, which every ledger uses; reference.md has the
tree at the top of errors.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from hundredfold import errors
from hundredfold.ports.run_states import TABLE, Event, State

HERE = Path(__file__).parent


def states() -> str:
    """Return a table of states and events: the next state, or a dash if the event is refused."""
    head = [
        "| | " + " | ".join(event.value for event in Event) + " |",
        "|---" * (len(Event) + 1) + "|",
    ]
    return "\n".join([*head, *(_row(state) for state in State)])


def tree() -> str:
    """Return the tree of errors from the docstring of errors.py."""
    lines = (errors.__doc__ or "").splitlines()
    drawn = [line for line in lines if line.startswith("    ")]
    return "\n".join(drawn)


PAGES: dict[str, tuple[str, Callable[[], str]]] = {
    "how-it-works.md": ("states", states),
    "reference.md": ("errors", tree),
}


def page(name: str, text: str) -> str:
    """Return a page with its generated part up to date."""
    part, made = PAGES[name]
    section = re.compile(
        rf"(<!-- {part}: written by docs/from_code.py -->\n).*?(<!-- end of {part} -->)", re.DOTALL
    )
    return section.sub(lambda found: f"{found[1]}\n{made()}\n\n{found[2]}", text)


def _row(state: State) -> str:
    answers = [TABLE[state, event] for event in Event]
    return (
        f"| **{state.value}** | "
        + " | ".join(a.value if isinstance(a, State) else "—" for a in answers)
        + " |"
    )


def main() -> None:
    for name in PAGES:
        path = HERE / name
        path.write_text(
            page(name, path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n"
        )


if __name__ == "__main__":
    main()
