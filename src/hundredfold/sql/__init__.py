"""SQL and the engine that runs it: queries, DuckDB, source files, and the translation to Athena."""
