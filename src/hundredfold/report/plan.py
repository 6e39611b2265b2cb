"""The prediction of the plan that a run took, beside the measured times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..figures import duration, money
from .charts import Segment, bar, legend
from .html import Markup, element, join
from .run_files import RunFiles
from .tables import Quantity, seconds, table


def plan_section(files: RunFiles) -> Markup | None:
    """Return the comparison of the plan with the run; None for a run without a plan."""
    way: Mapping[str, Any] | None = files.record.options.get("plan")
    measured = files.summary["efficiency"]
    if way is None:
        return None
    if measured is None:
        return element("p", "The run took a plan, and its times are not known.")
    # its imports are many, and few runs take a plan
    from ..planning.comparison import compare_stages, executed_shares

    facts = compare_stages(way, measured["stages"], executed_shares(files.record))
    low, middle, high = facts["predicted"]
    where = "inside" if facts["inside"] else "outside"
    text = (
        f"Predicted by the plan that the run took ({facts['title']}): {duration(middle)}, with "
        f"80 % probability {duration(low)} to {duration(high)}. All steps took "
        f"{duration(facts['measured'])}, {where} the interval."
    )
    return join([element("p", text), _stages(facts["stages"]), _dollars(files, way)])


def _stages(stages: list[dict[str, Any]]) -> Markup:
    most = max(
        (each[name] or 0.0 for each in stages for name in ("predicted", "measured")), default=0.0
    )
    rows = [
        (
            each["stage"],
            _pair(each["predicted"] or 0.0, each["measured"] or 0.0, most),
            seconds(each["predicted"]),
            seconds(each["measured"]),
            _ratio(each["predicted"], each["measured"]),
        )
        for each in stages
    ]
    heads = ("step", "time", "predicted", "measured", "measured / predicted")
    kinds = [("calm", "predicted"), ("c0 thin", "measured")]
    return join([legend(kinds), table("Plan and run, step by step", heads, rows)])


def _pair(predicted: float, measured: float, most: float) -> Markup:
    """Return the bar of a step: the measured time is a thin line over the predicted one."""
    return bar(
        [
            Segment(predicted, "calm", f"predicted {duration(predicted)}"),
            Segment(measured, "c0 thin", f"measured {duration(measured)}", 0),
        ],
        most,
    )


def _ratio(predicted: float | None, measured: float | None) -> Quantity | None:
    if not predicted or measured is None:
        return None
    return Quantity(measured / predicted, f"{measured / predicted:.2f}")


def _dollars(files: RunFiles, way: Mapping[str, Any]) -> Markup | None:
    """Return the predicted and the spent dollars of a run on AWS."""
    budget, spent = files.record.options.get("budget"), files.record.counts.get("spent")
    predicted = way.get("dollars")
    if not predicted or spent is None or (budget or {}).get("unit") != "dollars":
        return None
    figures = predicted if isinstance(predicted, list) else [predicted]
    text = " to ".join(money(float(figure)) for figure in (figures[0], figures[-1]))
    return element("p", f"Dollars: predicted {text}, spent {money(float(spent))}.")
