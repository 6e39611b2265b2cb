"""The job: which rows, which units, which functions, and what is published."""

from hundredfold import Job, Model, Publish, Source

from . import models
from .contracts import RetailerWeek

job = Job(
    name="cheese",
    sources=[Source("cheese", contract=RetailerWeek)],
    models=[
        Model("own", unit=("retailer",), work=models.fit_alone),
        Model(
            "slopes",
            unit=(),
            query="SELECT retailer, weeks, slope, sxx, rss FROM own",
            order_by=("retailer",),
            work=models.fit_slopes,
        ),
        Model("prior", unit=(), order_by=("retailer",), work=models.fit_prior),
        Model(
            "shrunk", unit=("retailer",), work=models.shrink
        ),  # its parameters own, slopes and prior are the models above
    ],
    publish=Publish(
        "elasticities",
        query="queries/elasticities.sql",
        formats=("csv", "parquet"),
        summaries={
            "All retailers": "queries/all_retailers.sql",
            "Five retailers that moved most": "queries/moved_most.sql",
        },
    ),
)
