"""A benchmark of a job: runs of the engine, and the loops that it replaces."""
