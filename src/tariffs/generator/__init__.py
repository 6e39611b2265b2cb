"""Made-up operators: the tables that the tariffs read, with known truth and, if asked, known dirt.

    python -m tariffs.generator --size demo --out data/

Counter-based random streams (Philox), one per (seed, table, block): a block of locations comes out the same alone, in any order and on
any machine; the season has a stream of its own, which all blocks share.  Beside the tables lies `truth/`: what each unit's
elasticity is, its best price, and a ledger that names each dirty row, its kind and what should become of it.

Prices here are exogenous: campaigns and logged exploration, never an answer to demand.  Estimates on real data have no such luck.
"""

from tariffs.generator.calendar import AS_OF
from tariffs.generator.sizes import SIZES, Size
from tariffs.generator.write import Paths, generate

__all__ = ["AS_OF", "SIZES", "Paths", "Size", "generate"]
