"""Source files: which files are data, and how CSV, JSON lines and Parquet are read."""
