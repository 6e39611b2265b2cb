"""The rule table: the prices that would be asked without the model, as a table that charging can use at once.

They are the release's own `champion_price`, for the same units and times, with two exceptions.  A control unit keeps its price: nobody moves
those.  And where the rule would give voice away (an empty cell), the deepest discount that billing knows is taken: a free minute is a
class that charging does not have.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tariffs.release.tables import MONEY_DIGITS, Floats, bools, floats, is_voice, tariff

REASON = "FALLBACK_RULE"
DEEPEST = 95  # percent: the last discount class
EXPLAINED = (  # what the model said of its own price, and nobody says of this one
    "constraint_bound", "p_gain", "elasticity", "se", "credible_lo", "credible_hi", "shrink_weight",
    "expected_volume", "expected_volume_delta", "expected_revenue_delta", "expected_margin_delta",
    "expected_blocked_minutes", "expected_blocked_minutes_delta",
    "expected_volume_delta_lo", "expected_volume_delta_hi", "expected_revenue_delta_lo", "expected_revenue_delta_hi",
    "expected_margin_delta_lo", "expected_margin_delta_hi", "opportunity_cost", "capacity_price", "explore_flag", "explore_draw",
)  # fmt: skip


def rule_table(table: pa.Table) -> pa.Table:
    """The same columns, types and rows, at the rule's prices; what explained the model's prices is null."""
    price, discount = _prices(table)
    new = {
        "price": pa.array(price, pa.float64()),
        "discount_class": pa.array(np.where(is_voice(table), discount, 0).astype(np.int64), pa.int64(), mask=~is_voice(table)),
        "status": pa.array(["approved"] * table.num_rows, pa.string()),  # with the release whose rule it is
        "model_version": pa.array(["rule"] * table.num_rows, pa.string()),
        "reason_code": pa.array([REASON] * table.num_rows, pa.string()),
    }
    columns = [_column(table, field, new) for field in table.schema]
    return pa.table(columns, schema=table.schema)


def _prices(table: pa.Table) -> tuple[Floats, Floats]:
    """Price and discount class of each unit; the class is 0 for a bundle."""
    champion, current, full, voice = floats(table, "champion_price"), floats(table, "current_price"), tariff(table), is_voice(table)
    price = np.where(bools(table, "control_flag"), current, champion)
    discount = np.where(voice, np.round(100.0 * (1.0 - price / np.where(voice, full, 1.0))), 0.0)
    free = voice & (discount > DEEPEST)
    discount = np.where(free, DEEPEST, discount)
    return np.where(free, np.round(full * (1.0 - DEEPEST / 100.0), MONEY_DIGITS), price), discount


def _column(table: pa.Table, field: pa.Field, new: dict[str, pa.Array]) -> pa.Array:
    if field.name in new:
        return new[field.name].cast(field.type)
    return pa.nulls(table.num_rows, field.type) if field.name in EXPLAINED else table[field.name]
