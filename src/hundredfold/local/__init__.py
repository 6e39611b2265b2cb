"""The local backend: files in a folder, SQLite for queue and ledger, DuckDB for SQL, worker
processes.
"""
