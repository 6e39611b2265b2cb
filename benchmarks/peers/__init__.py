"""The peers: one program for each tool, written as a good user of that tool would write it.

    # in the environment that has Dask
    python -m benchmarks.peers.on_dask apply W1 IN.parquet OUT

Each reads the Parquet file itself, calls the workload's function once per unit, and writes the keys
and the results as Parquet. The names begin with `on_`, so that a tool that puts this folder on the
path of its workers finds its own package, not our program.
"""
