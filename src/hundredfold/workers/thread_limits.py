"""One thread for each child's BLAS and OpenMP: unpinned, N children start N threads each and fight over the cores.

The server that forks children imports this first of all, before any library that reads these names.  They are set there and
not in the driver, where a thread that changes the environment while DuckDB or the C library reads it ends the process.
"""

import os

from .start import THREAD_ENV

os.environ.update(THREAD_ENV)
