"""The change that a table promised in total: the units' changes, less the optimism of its moves.

A release's totals subtract the optimism of chosen moves (`tariffs.pricing.optimism`).  Here the
share of it is read back from them, so that a measurement compares with the promise that was
approved, also where only some of the units are compared (a canary's locations, a cell's hours).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hundredfold.releases import Store
from tariffs.contracts import TOTALS_TITLE
from tariffs.release import repository
from tariffs.release.decision_log import Table
from tariffs.release.tables import Bools, Floats, floats, is_voice

MONEY_AND_VOLUME = ("volume", "revenue", "margin")
MIN_SHARE = 1e-6  # of the changes: a smaller one is rounding
Optimism = Mapping[tuple[str, str], float]  # by kind ("bundles", "voice") and figure


def optimism_of(table: Table, store: Store) -> Optimism:
    """Return the share of the absolute changes that the release's totals subtracted.

    It is empty for prices that no model promised anything about (the rule's, or frozen ones), and
    for releases without totals.
    """
    if table.derived:
        return {}
    release = Table(table.version if table.canary is None else table.canary)
    found = repository.load_verified(release.version, store).release
    totals = found.summaries.get(TOTALS_TITLE, ()) if found else ()
    return shares(repository.read_rows(release, store), totals) if totals else {}


def shares(rows: pa.Table, totals: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Return, for each kind and figure, the part of the changes' sizes that its total lacks."""
    voice, found = is_voice(rows), {}
    for total in totals:
        kind, here = ("voice", voice) if total["line"] == "voice" else ("bundles", ~voice)
        for name in MONEY_AND_VOLUME:
            change = np.nan_to_num(floats(rows, f"expected_{name}_delta")[here])
            size, wanted = float(np.abs(change).sum()), total.get(name)
            if isinstance(wanted, int | float) and np.isfinite(wanted) and size > 0:
                share = (float(change.sum()) - wanted) / size
                found[kind, name] = share if share > MIN_SHARE else 0.0
    return found


def promised_share(
    rows: pa.Table, name: str, here: Bools, price: Floats | float, optimism: float
) -> float:
    """Return the promised change of volume, revenue or margin of some units, relative to now.

    price  by which expected volumes are multiplied: the price, the margin of a unit sold, or 1
    """
    change = floats(rows, f"expected_{name}_delta")[here]
    now = float((floats(rows, "expected_volume") * price)[here].sum())
    total = float(change.sum()) - optimism * float(np.abs(change).sum())
    return total / now if now else float("nan")
