"""The declaration of the job: its sources, its models, and its publication.

`job` prices whole batches of units at once; `per_unit` prices one unit at a time, with results that
are equal to the last bit.
"""

from __future__ import annotations

from hundredfold import Job, Model, Publish, Source
from tariffs.cleaning import (
    SCOPE_OF,
    TIDY_CAPACITY,
    TIDY_LOCATION,
    TIDY_NAME,
    TIDY_PRICE,
    TIDY_PRODUCT,
    TIDY_SHARE,
    tidy,
)
from tariffs.contracts import (
    LIMITS_TITLE,
    TOTALS_TITLE,
    BundleSales,
    CellLoad,
    Location,
    Policy,
    PriceRow,
    Product,
    VoiceUsage,
)
from tariffs.pricing import bundles, hourly, locations, portfolio_limits, totals, voice
from tariffs.query_files import query_text

SOURCES = (
    Source(
        "locations",
        contract=Location,
        unique=("location",),
        clean={"name": TIDY_NAME.format(column="name")},
    ),
    Source("product_catalog", contract=Product, unique=("product",)),
    Source(
        "policy",
        contract=Policy,
        unique=("kind", "scope"),
        references={"region": "locations.region"},
        clean={"segment": SCOPE_OF.format(kind="bundle"), "region": SCOPE_OF.format(kind="voice")},
    ),
    Source(
        "bundle_sales",
        contract=BundleSales,
        unique=("segment", "location", "product", "week"),
        latest="loaded_at",
        references={"location": "locations.location", "product": "product_catalog.product"},
        not_future=("week",),
        clean=tidy("segment")
        | {"location": TIDY_LOCATION, "product": TIDY_PRODUCT, "price": TIDY_PRICE, "week": "week"}
        | {"loaded_at": "loaded_at"},  # weeks and timestamps may be text
        max_rejected=0.05,
        max_replaced=0.25,
    ),
    Source(
        "cell_load",
        contract=CellLoad,
        unique=("cell", "hour"),
        references={"location": "locations.location"},
        clean={"capacity_minutes": TIDY_CAPACITY},
        max_rejected=0.05,
    ),
    Source(
        "voice_usage",
        contract=VoiceUsage,
        unique=("cell", "hour", "day_type", "week"),
        latest="loaded_at",
        references={"cell": "cell_load.cell"},
        not_future=("week",),
        clean={
            column: TIDY_SHARE.format(column=column) for column in ("discount", "posted_discount")
        },
        max_rejected=0.05,
        max_replaced=0.25,
    ),
)

PRIOR = Model(
    "prior",
    unit=(),
    order_by=(*bundles.UNIT, "week"),
    query=query_text("prior"),
    work=bundles.fit_prior,
)
VOICE_PRIOR = Model(
    "voice_prior",
    unit=(),
    order_by=(*voice.UNIT, "week"),
    query=query_text("voice_prior"),
    work=voice.fit_voice_prior,
)
LADDER = Model(
    "ladder",
    unit=("location",),
    order_by=("segment", "ladder", "rung"),
    query="queries/ladder.sql",
    work=locations.optimise_location,
)
VOICE_DAY = Model(
    "voice_day",
    unit=("cell", "day_type"),
    order_by=("hour",),
    query="queries/voice_day.sql",
    work=hourly.smooth_day,
)
PORTFOLIO = Model(
    "portfolio",
    unit=("kind",),
    order_by=("chain", "position"),
    query="queries/portfolio.sql",
    work=portfolio_limits.apply_portfolio_limits,
    returns=portfolio_limits.Limited,
)
TOTALS = Model(
    "totals",
    unit=("kind",),
    order_by=("first", "second", "third", "unit"),
    query="queries/totals.sql",
    work=totals.total,
)

PRICE_TABLE = Publish(
    "price_table",
    query="queries/price_table.sql",
    contract=PriceRow,
    formats=("csv", "parquet"),
    summaries={
        "Prices, and expected volume a week": "queries/summary_outcome.sql",
        TOTALS_TITLE: "queries/summary_totals.sql",
        "Expected revenue and margin a week (GHS)": "queries/summary_money.sql",
        "Units that gain and lose margin a week (GHS)": "queries/summary_losers.sql",
        LIMITS_TITLE: "queries/summary_limits.sql",
        "Why each price is what it is": "queries/summary_reasons.sql",
        "The moves with the most margin a week (GHS): five that gain, five that lose": (
            "queries/summary_moves.sql"
        ),
    },
)

job = Job(
    name="tariffs",
    sources=SOURCES,
    models=(
        PRIOR,
        Model(
            "bundles",
            unit=bundles.UNIT,
            order_by=("week",),
            query=query_text("bundles"),
            work=bundles.price_bundles,
            batched=True,
        ),
        LADDER,
        VOICE_PRIOR,
        Model(
            "voice",
            unit=voice.UNIT,
            order_by=("week",),
            query=query_text("voice"),
            work=voice.price_voices,
            batched=True,
        ),
        VOICE_DAY,
        PORTFOLIO,
        TOTALS,
    ),
    publish=PRICE_TABLE,
)

per_unit = Job(
    name="tariffs",
    sources=SOURCES,
    models=(
        PRIOR,
        Model(
            "bundles",
            unit=bundles.UNIT,
            order_by=("week",),
            query=query_text("bundles"),
            work=bundles.price_bundle,
        ),
        LADDER,
        VOICE_PRIOR,
        Model(
            "voice",
            unit=voice.UNIT,
            order_by=("week",),
            query=query_text("voice"),
            work=voice.price_voice,
        ),
        VOICE_DAY,
        PORTFOLIO,
        TOTALS,
    ),
    publish=PRICE_TABLE,
)
