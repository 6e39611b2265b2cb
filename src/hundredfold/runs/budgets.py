"""The budget that a user gives to a run: core time locally, dollars on AWS."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ..errors import UsageError
from ..ports.run_facts import BudgetFacts
from .prices import Prices

SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
ARCHITECTURES = ("arm64", "x86_64")  # of Lambda


def parse_time(option: str, text: str) -> float:
    """Return the seconds of 30s, 1.5m, 1h, 7d or a number. Raises: UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(s|m|min|h|d)?\s*", text)
    if found is None or not float(found[1]):
        raise UsageError(f"{option} is {text!r}, wanted a time", hint="such as 30s, 5m, 1h or 7d")
    return float(found[1]) * SECONDS[found[2] or "s"]


def core_time_budget(given: str | float) -> BudgetFacts:
    """Return the budget of a local run. Raises: UsageError for a number without a unit of time."""
    text = str(given)
    if not text.strip()[-1:].isalpha():
        raise UsageError(
            f"--budget is {text!r}, wanted core time: a local run costs no dollars",
            hint="such as --budget 30m: all units together take at most that on one core",
        )
    return {"limit": parse_time("--budget", text), "unit": "core-seconds"}


def dollar_budget(given: str | float, prices: Prices) -> BudgetFacts:
    """Return the budget of a run on AWS, with the prices of its workers.

    Raises: UsageError for anything but dollars, and for a missing price.
    """
    try:
        dollars = float(given)
    except ValueError:
        dollars = math.nan
    if not 0 < dollars < math.inf:
        raise UsageError(
            f"--budget is {str(given)!r}, wanted dollars above 0", hint="such as --budget 2.50"
        )
    gb_second: Mapping[str, float] = {
        name: prices.usd(f"lambda_{name}_gb_s") for name in ARCHITECTURES
    }
    return {
        "limit": dollars,
        "unit": "dollars",
        "gb_second": dict(gb_second),
        "call": prices.usd("lambda_request"),
    }
