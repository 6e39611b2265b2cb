"""Worker processes that run the user's function: the pool, the processes' start and end, and the child's side."""
