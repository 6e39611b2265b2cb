"""What is compared: each engine's name, what it hands to the function, and the command that runs it
on a workload.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.workloads import Workload

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".venvs"
REQUIREMENTS = HERE / "peers" / "requirements"
ALL = frozenset({"tiny", "W1", "W2", "W3", "W4", "wide"})
OURS, FLOOR, VECTORISED, PEER = "ours", "floor", "vectorised", "peer"


@dataclass(frozen=True)
class Engine:
    """`environment` is a folder under .venvs, or "" for the one that this runs in. `program` is a
    module and its variant.
    """

    name: str
    title: str
    form: str
    program: tuple[str, ...]
    environment: str = ""
    kind: str = PEER
    workloads: frozenset[str] = ALL
    pinned: bool = True

    @property
    def python(self) -> Path | None:
        """The interpreter that runs it, or None where its environment is not installed."""
        if self.environment and (ENVIRONMENTS / self.environment / "done").exists():
            return ENVIRONMENTS / self.environment / "bin" / "python"
        return (
            Path(sys.executable) if self.environment in ("", "base") else None
        )  # `base` is in the environment of `make bench` too

    def command(self, workload: Workload, folder: Path) -> list[str]:
        """The words that run it.  What it makes is found by `answer`."""
        assert self.python is not None
        if self.kind == OURS:
            job = f"benchmarks.jobs:{workload.name.lower()}{''.join(self.program)}"
            return [
                str(self.python.parent / "hundredfold"),
                "run",
                job,
                "--home",
                str(folder / "home"),
            ]
        module, *variant = self.program
        return [
            str(self.python),
            "-m",
            module,
            *variant,
            workload.name,
            str(workload.path),
            str(folder / "out.parquet"),
        ]

    def answer(self, folder: Path) -> list[str]:
        """The Parquet files that it wrote."""
        if self.kind == OURS:
            return [
                str(path) for path in (folder / "home" / "releases").glob("*/000001/table.parquet")
            ]
        out = folder / "out.parquet"
        return [str(out)] if out.is_file() else sorted(str(path) for path in out.rglob("*.parquet"))


def _peer(name: str, title: str, form: str, variant: str, environment: str = "base") -> Engine:
    module, _, variant = variant.partition(":")
    return Engine(name, title, form, (f"benchmarks.peers.on_{module}", variant), environment)


_MEANS = frozenset({"tiny", "W1", "W4"})
_TABLE = (
    Engine("hundredfold", "Hundredfold", "arrays", (), kind=OURS),
    Engine("hundredfold-pandas", "Hundredfold, pandas form", "pandas", ("_pandas",), kind=OURS),
    Engine("bare", "bare prototype", "arrays", ("benchmarks.bare",), kind=FLOOR),
    Engine(
        "numpy",
        "vectorised: NumPy",
        "all units",
        ("benchmarks.vectorised", "numpy"),
        kind=VECTORISED,
        workloads=_MEANS | {"W2"},
    ),
    Engine(
        "polars",
        "vectorised: polars",
        "all units",
        ("benchmarks.vectorised", "polars"),
        kind=VECTORISED,
        workloads=_MEANS,
    ),
    Engine(
        "sql",
        "vectorised: DuckDB",
        "all units",
        ("benchmarks.vectorised", "sql"),
        kind=VECTORISED,
        workloads=_MEANS,
    ),
    _peer("duckdb-lists", "DuckDB lists + fork + NumPy slices", "arrays", "duckdb:lists"),
    _peer("duckdb-buckets", "DuckDB buckets + Pool + pandas", "pandas", "duckdb:buckets"),
    _peer("pandas", "pandas, loop over groupby", "pandas", "pandas:iterate"),
    _peer("pandas-apply", "pandas groupby.apply", "pandas", "pandas:apply"),
    _peer("pandas-filter", "pandas, filter per unit", "pandas", "pandas:filtered"),
    _peer("polars-loop", "polars, loop over group_by", "polars", "polars:iterate"),
    _peer("polars-map", "polars map_groups", "polars", "polars:map_groups"),
    _peer("pool-shares", "Pool, one frame a process", "pandas", "processes:shares"),
    _peer("pool", "Pool.map over groupby", "pandas", "processes:pool"),
    _peer("executor-chunks", "ProcessPoolExecutor, chunks", "pandas", "processes:chunks"),
    _peer("executor", "ProcessPoolExecutor.map", "pandas", "processes:executor"),
    _peer("joblib", "joblib over groupby", "pandas", "joblib:parallel"),
    _peer("dask-partitions", "Dask shuffle + map_partitions", "pandas", "dask:partitions", "dask"),
    _peer("dask-apply", "Dask groupby.apply", "pandas", "dask:apply", "dask"),
    _peer("ray-tasks", "DuckDB buckets + Ray tasks", "pandas", "ray:tasks", "ray"),
    _peer("ray-data-numpy", "Ray Data map_groups, NumPy", "arrays", "ray:data_numpy", "ray"),
    _peer("ray-data", "Ray Data map_groups, pandas", "pandas", "ray:data", "ray"),
    _peer("spark-arrow", "Spark applyInArrow", "Arrow", "spark:arrow", "spark"),
    _peer("spark-pandas", "Spark applyInPandas", "pandas", "spark:pandas", "spark"),
    _peer("lithops", "DuckDB buckets + Lithops", "pandas", "lithops:localhost", "lithops"),
    _peer("metaflow", "DuckDB buckets + Metaflow", "pandas", "metaflow:foreach", "metaflow"),
    _peer("daft", "Daft map_groups", "arrays", "daft:map_groups", "daft"),
    _peer("fugue", "Fugue on pandas", "pandas", "fugue:native", "fugue"),
    _peer("fugue-dask", "Fugue on Dask", "pandas", "fugue:dask", "fugue"),
)
ENGINES = {engine.name: engine for engine in _TABLE}
_HERE = (
    "hundredfold",
    "hundredfold-pandas",
    "bare",
    "sql",
    "duckdb-lists",
    "duckdb-buckets",
    "pandas",
    "polars-loop",
    "pool-shares",
)
QUICK = (*_HERE, "dask-partitions", "ray-tasks", "metaflow")
REFERENCE = ENGINES["pandas"]


def versions(engines: Sequence[Engine]) -> dict[str, str]:
    """The version of each package that these engines are said to need, of Hundredfold, and of Java
    where Spark runs.
    """
    found: dict[str, str] = {}
    for environment, python in sorted(
        {(engine.environment, engine.python) for engine in engines if engine.python}
    ):
        wanted = requirements(environment) | (
            {"hundredfold"} if python == Path(sys.executable) else set()
        )
        here = {
            dist.name.lower(): dist.version
            for dist in distributions(
                path=[str(next((python.parent.parent / "lib").glob("python*/site-packages")))]
            )
        }
        for name in sorted(wanted & here.keys()):
            other = found.setdefault(name, here[name])
            if other != here[name]:
                found[f"{name} for {environment}"] = here[name]
    return found


def requirements(environment: str) -> set[str]:
    path = REQUIREMENTS / f"{environment or 'base'}.txt"
    return {line.partition("==")[0].partition("[")[0] for line in path.read_text().split()}
