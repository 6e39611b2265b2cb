"""Expected volume at a new price: level and elasticity are estimated from the same weeks.

Sales determine a unit's volume best at the mean price that they were made at, the centre c (in
current prices; today's is 1).  Away from it an error e of the elasticity turns the demand curve
around c: the volume at r is the volume at the mode times exp(e (r - c)).  With e ~ N(0, s^2) its
expectation is exp(s^2 (r - c)^2 / 2) (the mean of a lognormal variable), so that the expected
volume changes, beyond the change at the mode, by the factor

    exp(s^2 [(r - c)^2 - (1 - c)^2] / 2).

It is below 1 for a move towards the centre: the volume that the move is compared with, at today's
price, is the less certain one of the two, and its errors are those that make the move look good.
The posterior computed on a grid, with the level at each elasticity, has the same mean
(`tests/tariffs/test_expected_volume.py`).
"""

from __future__ import annotations

import numpy as np

from tariffs.columns import Floats
from tariffs.optimise.rule import COVERAGE_90, LEAST_ELASTIC, MOST_ELASTIC

# its 90 % interval is as wide as all plausible elasticities; more is only found without a prior
MAX_SD = (LEAST_ELASTIC - MOST_ELASTIC) / (2.0 * COVERAGE_90)


def expected_log_change(price: Floats, current: Floats, centre: Floats, sd: Floats) -> Floats:
    """Return the log of the factor; all arguments broadcast.

    price, current, centre  money;  sd  of the elasticity at the current price, at most `MAX_SD`
    """
    known = np.minimum(sd, MAX_SD)
    from_centre, today = (price - centre) / current, (current - centre) / current
    return 0.5 * known * known * (from_centre * from_centre - today * today)
