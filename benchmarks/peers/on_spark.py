"""Spark in local mode: applyInPandas and applyInArrow on a groupBy."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.sql import SparkSession

from benchmarks.peers.asked import BY, CORES, answer, columns, counts, header, of_frame
from benchmarks.workloads import WORKLOADS, Workload


def session() -> SparkSession:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    third = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 3 // 2**20
    return (
        SparkSession.builder.master(f"local[{CORES}]")
        .config("spark.driver.memory", f"{third}m")
        .config(
            "spark.sql.shuffle.partitions", 8 * CORES
        )  # Spark's own 200 are meant for a cluster
        .config("spark.ui.enabled", "false")
        .config("spark.local.dir", tempfile.gettempdir())
        .getOrCreate()
    )


def schema(workload: Workload) -> str:
    results = [
        f"{name} {'bigint' if name in counts(workload) else 'double'}" for name in workload.results
    ]
    return ", ".join(["segment string", "location int", "product int", *results])


def grouped(spark: SparkSession, workload: Workload, source: str) -> Any:
    rows = spark.read.parquet(source)
    return rows.select(*(columns(workload) or rows.columns)).groupBy(*BY)


def pandas(workload: Workload, source: str, target: str) -> None:
    name = workload.name

    def unit(key: tuple[Any, ...], rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame([of_frame(name, key, rows)], columns=header(WORKLOADS[name]))

    spark = session()
    grouped(spark, workload, source).applyInPandas(unit, schema(workload)).write.parquet(target)
    spark.stop()


def arrow(workload: Workload, source: str, target: str) -> None:
    name = workload.name

    def unit(key: tuple[Any, ...], rows: pa.Table) -> pa.Table:
        work = WORKLOADS[name]
        done = work.core(*[rows[column].to_numpy() for column in work.columns])
        return pa.table(
            {column: [value.as_py()] for column, value in zip(BY, key, strict=True)}
            | {n: [v] for n, v in done.items()},
            types,
        )

    number = {
        name: pa.int64() if name in counts(workload) else pa.float64() for name in workload.results
    }
    types = pa.schema(
        {"segment": pa.string(), "location": pa.int32(), "product": pa.int32()} | number
    )
    spark = session()
    grouped(spark, workload, source).applyInArrow(unit, schema(workload)).write.parquet(target)
    spark.stop()


if __name__ == "__main__":
    answer({"pandas": pandas, "arrow": arrow})
