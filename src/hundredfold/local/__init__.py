"""This machine: files in a folder, SQLite for the queue and the ledger, DuckDB for SQL, one worker
process per core.
"""
