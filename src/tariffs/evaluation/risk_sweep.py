"""The effect of other settings of the risk dial: the whole job with another z in the policy.

So every limit of the job is included: steps, price points, ladders, control group, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hundredfold.errors import UsageError
from tariffs.evaluation.product_lines import BUNDLE, LINES, Line
from tariffs.evaluation.run_data import FinishedRun, columns, query, scratch_folder
from tariffs.evaluation.true_value import best_prices, market

SETTINGS = (0.0, 0.5, 0.84, 1.28, 1.96)


@dataclass(frozen=True, slots=True)
class TrueGain:
    """Results that need the truth.

    lift      of the true margin, as a share of it
    harmed    share of units that lose by their move;  realised  share of moves that gain
    """

    lift: float
    harmed: float
    realised: float


@dataclass(frozen=True, slots=True)
class Setting:
    """One line's table at one z.

    promised  the expected lift in margin, as a share of it
    moved     share of units;  p_gain  mean of the moves
    """

    line: str
    z: float
    moved: float
    promised: float
    p_gain: float
    truly: TrueGain | None


@dataclass(frozen=True, slots=True)
class Dial:
    """All settings.

    oracle  the true lift of bundles with known elasticities, within the same limits; None without
            a truth
    """

    settings: tuple[Setting, ...]
    oracle: float | None


def sweep(finished: FinishedRun, settings: Sequence[float], report: Callable[[str], None]) -> Dial:
    """Run the job once for each setting of z; `report` is called before each run."""
    bad = [z for z in settings if not 0 <= z <= 5]
    if bad:
        raise UsageError(
            f"z is {', '.join(map(str, bad))}, wanted 0 to 5",
            hint="such as --z 0 --z 0.84 --z 1.96",
        )
    found: list[Setting] = []
    policy = finished.policy()
    for z in sorted(set(settings)):
        report(f"the job with z = {z:g}")
        with scratch_folder(finished) as folder:
            turned = finished.again(_with_z(policy, z), str(Path(folder)))
            found += [_setting(turned, line, z) for line in LINES]
    return Dial(tuple(found), _oracle(finished))


def _with_z(policy: pa.Table, z: float) -> pa.Table:
    return policy.set_column(
        policy.column_names.index("z"), "z", pa.array(np.full(policy.num_rows, z))
    )


def _setting(turned: FinishedRun, line: Line, z: float) -> Setting:
    t = columns(
        query(
            f"""SELECT
              avg(CASE WHEN price <> current_price THEN 1 ELSE 0 END) AS moved,
              sum(expected_margin_delta) AS promised,
              avg(CASE WHEN price <> current_price THEN p_gain END) AS p_gain
            FROM prices WHERE kind = '{line.kind}'""",
            prices=turned.prices(),
        )
    )
    today = columns(
        query(
            "SELECT sum(expected_volume * (current_price - unit_cost)) AS margin"
            f" FROM prices WHERE kind = '{line.kind}'",
            prices=turned.prices(),
        )
    )
    promised = float(t["promised"][0] / today["margin"][0])
    return Setting(
        line.kind,
        z,
        float(t["moved"][0]),
        promised,
        float(t["p_gain"][0]),
        _true_gain(turned, line),
    )


def _true_gain(turned: FinishedRun, line: Line) -> TrueGain | None:
    if turned.truth is None:
        return None
    there = market(turned, line)
    gain, moved = there.gain(), there.moved
    realised = float((gain[moved] > 0).mean()) if moved.any() else float("nan")
    return TrueGain(
        float(gain.sum() / there.margin(there.current).sum()),
        float((moved & (gain < 0)).mean()),
        realised,
    )


def _oracle(finished: FinishedRun) -> float | None:
    if finished.truth is None:
        return None
    there = market(finished, BUNDLE)
    ladders = pa.table({name: pa.array(values) for name, values in _ladders(finished).items()})
    before = there.margin(there.current).sum()
    return float(there.margin(best_prices(there, ladders)).sum() / before - 1.0)


def _ladders(finished: FinishedRun) -> dict[str, np.ndarray]:
    """Return ladder, rung and volume of each unit, from the rows of the model `ladder`."""
    names = ("segment", "location", "product", "ladder", "rung", "volume_mb")
    parts = list(finished.batches("ladder"))
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
