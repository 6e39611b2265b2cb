"""What must be true of a row: one brand, in one store, in one week."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

Price = Annotated[float, Gt(0), Lt(1)]  # dollars an ounce


@dataclass
class StoreWeek:
    store: Annotated[int, Gt(0)]
    brand: Annotated[int, Ge(1), Le(11)]
    week: Annotated[int, Gt(0)]
    logmove: Annotated[float, Gt(0), Lt(20)]  # log of the units sold of this brand
    price1: Price  # of brand 1, in this store and week; and so on
    price2: Price
    price3: Price
    price4: Price
    price5: Price
    price6: Price
    price7: Price
    price8: Price
    price9: Price
    price10: Price
    price11: Price
    deal: Literal[0, 1]  # this brand had an in-store coupon
    feat: Annotated[float, Ge(0), Le(1)]  # this brand was advertised
