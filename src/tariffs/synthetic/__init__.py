"""Made-up operators: the tables that the tariffs read, with known truth and, if asked, known dirt.

    python -m tariffs.synthetic --size demo --out data/

Counter-based random streams (Philox), one per (seed, table, block): a block of locations comes out the same alone, in any order and on
any machine; the season has a stream of its own, which all blocks share.  Beside the tables lies `truth/`: what each unit's
elasticity is, its best price, and a ledger that names each dirty row, its kind and what should become of it.

Prices are exogenous, weeks independent, products and hours separate, and cells without limit, unless `Switches` say otherwise.
"""

from tariffs.synthetic.calendar import AS_OF
from tariffs.synthetic.scenarios import OFF, Switches
from tariffs.synthetic.sizes import SIZES, Size, size_of
from tariffs.synthetic.write import Paths, generate

__all__ = ["AS_OF", "OFF", "SIZES", "Paths", "Size", "Switches", "generate", "size_of"]
