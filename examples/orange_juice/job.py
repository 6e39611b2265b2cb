"""The job: which rows, which units, which functions, and what is published.

Two units of different size: `prior` sees a brand in all stores, and `elasticity` sees it in one,
given its brand's prior.
"""

from hundredfold import Job, Model, Publish, Source

from .contracts import StoreWeek
from .models import fit_prior, fit_store

job = Job(
    name="orange_juice",
    sources=[Source("yx", contract=StoreWeek, unique=("store", "brand", "week"))],
    models=[
        Model("prior", unit=("brand",), order_by=("store", "week"), work=fit_prior),
        Model("elasticity", unit=("store", "brand"), order_by=("week",), work=fit_store),
    ],
    publish=Publish(
        "elasticities",
        query="queries/elasticities.sql",
        formats=("csv", "parquet"),
        summaries={
            "Own-price elasticity by brand, over its stores": "queries/by_brand.sql",
            "Stores that cannot be trusted alone: the five that moved "
            "most": "queries/moved_most.sql",
        },
    ),
)
