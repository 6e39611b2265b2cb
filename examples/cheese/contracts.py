"""What must be true of a row: one retailer, one week."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, MinLen


@dataclass
class RetailerWeek:
    retailer: Annotated[str, MinLen(1)]
    volume: Annotated[float, Gt(0)]  # units sold
    disp: Annotated[float, Ge(0), Le(1)]  # how much of the range was on display
    price: Annotated[float, Gt(0), Lt(10)]  # dollars
