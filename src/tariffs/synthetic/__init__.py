"""Synthetic operators: the source tables with known truth and, if asked, known dirt.

    python -m tariffs.synthetic --size demo --out data/

Counter-based random streams (Philox), one per (seed, table, block): a block of locations is the
same alone, in any order and on any machine; the season has a stream of its own, which all blocks
share. The folder `truth/` beside the tables has each unit's elasticity and its best price, and a
ledger of each dirty row with its kind and its expected treatment.

Prices are exogenous, weeks independent, products and hours separate, and cells without limit,
unless `Switches` are set.
"""

from tariffs.synthetic.calendar import AS_OF
from tariffs.synthetic.scenarios import OFF, Switches
from tariffs.synthetic.sizes import SIZES, Size, size_of
from tariffs.synthetic.write import Paths, generate

__all__ = ["AS_OF", "OFF", "SIZES", "Paths", "Size", "Switches", "generate", "size_of"]
