"""`hundredfold plan --compare RUN`: the predicted times of a run beside the measured ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..figures import duration

if TYPE_CHECKING:
    from ..planning.plan import PlanOptions
    from .options import Target

Facts = Mapping[str, Any]


def show_comparison(run: str, target: Target, options: PlanOptions, as_json: bool) -> None:
    """Compare a run with its prediction, and print it."""
    from ..planning.comparison import compare_run
    from . import display

    home = target.open()
    with display.timing_display() as listener:
        facts = compare_run(home, run, options, listener)
    if as_json:
        display.print_json(facts)
    else:
        _show(facts)


def _show(facts: Facts) -> None:
    from rich.markup import escape

    from . import display

    display.stdout.print(f"[bold]{escape(facts['job'])}[/]  run {facts['run']}")
    display.stdout.print()
    total = {
        "stage": "all steps",
        "predicted": facts["predicted"][1],
        "measured": facts["measured"],
    }
    rows = [*facts["stages"], total]
    of_numbers = display.TableColumn.of_numbers
    display.print_columns(
        [
            display.TableColumn("step", [row["stage"] for row in rows]),
            of_numbers("predicted", [duration(row["predicted"]) for row in rows]),
            of_numbers("measured", [duration(row["measured"]) for row in rows]),
            of_numbers("ratio", [_ratio(row) for row in rows]),
        ]
    )
    display.stdout.print()
    for line in _lines(facts):
        display.print_indented("", line)


def _ratio(row: Facts) -> str:
    """Return measured / predicted; "" where either is missing."""
    predicted, measured = row["predicted"], row["measured"]
    return f"{measured / predicted:.2f}" if predicted and measured is not None else ""


def _lines(facts: Facts) -> Iterator[str]:
    low, _, high = facts["predicted"]
    where = "inside" if facts["inside"] else "outside"
    yield (
        f"All steps took {duration(facts['measured'])}, {where} the interval of 80 %: "
        f"{duration(low)} to {duration(high)}."
    )
    if facts["from_pilot"]:
        yield (
            f"{facts['from_pilot']:,} units were taken from the pilot of the plan; the prediction "
            "is of the others."
        )
    yield (
        f"Predicted by the plan that the run took: {facts['title']}."
        if facts["taken"]
        else f"Predicted now, by a pilot after the run: {facts['title']}. "
        "hundredfold run --plan FILE keeps the prediction that was made before."
    )
