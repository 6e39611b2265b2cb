"""SQL that fails while it runs, on a value that no check foresees: the error names its query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import hundredfold
from hundredfold import Job, Model, Publish, Source
from hundredfold.errors import QueryError

SALES = pa.table({"shop": ["1", "x"], "price": ["1", "2.5"]})
FINE, FAILS = "SELECT shop, price FROM", "SELECT cast(shop AS INT) AS shop, price FROM"


def same(rows: Any) -> dict[str, float]:
    return {"price": float(rows["price"][0])}


def go(home: Path, *queries: str, formats: Any = ("csv",), summary: str = "SELECT 1 AS one") -> Any:
    first, second, out = queries
    models = [
        Model("prices", ("shop",), same, query=first),
        Model("second", ("shop",), same, query=second),
    ]
    published = Publish("sheet", query=out, formats=formats, summaries={"Ten": summary})
    job = Job("j", sources=[Source("sales")], models=models, publish=[published])
    return hundredfold.run(job, {"sales": SALES}, home=home, workers=1)


WHOLE = (f"{FINE} sales", f"{FINE} prices", f"{FINE} second")


def test_the_queries_of_these_tests_run_where_they_do_not_cast(tmp_path: Path) -> None:
    assert go(tmp_path, *WHOLE).state == "done"


JOINED = "SELECT cast(s.shop AS INT) AS shop, s.price FROM sales AS s JOIN sales AS t USING (shop)"
WRONG = [
    ((f"{FAILS} sales", *WHOLE[1:]), {}, "the query of model prices"),
    ((JOINED, *WHOLE[1:]), {}, "the query of model prices"),
    ((WHOLE[0], f"{FAILS} prices", WHOLE[2]), {}, "the query of model second"),
    ((*WHOLE[:2], f"{FAILS} second"), {}, "the query of sheet"),
    ((*WHOLE[:2], f"{FAILS} second"), {"formats": ("parquet",)}, "the query of sheet"),
    ((*WHOLE[:2], f"{FAILS} second"), {"formats": ("jsonl",)}, "the query of sheet"),
    (WHOLE, {"summary": f"{FAILS} sheet"}, "the summary 'Ten' of sheet"),
]


@pytest.mark.parametrize(("queries", "how", "names"), WRONG, ids=range(len(WRONG)))
def test_a_query_that_fails_on_a_value_names_whose_it_is(
    tmp_path: Path, queries: tuple[str, str, str], how: dict[str, Any], names: str
) -> None:
    with pytest.raises(QueryError) as raised:
        go(tmp_path, *queries, **how)
    message = str(raised.value)
    assert message.startswith(names)
    assert message.count(names) == 1
    assert "Could not convert string 'x' to INT32" in message
    assert hundredfold.open_run(home=tmp_path).record.reason == message
