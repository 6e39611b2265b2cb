"""One thread for the BLAS and OpenMP of each worker: without it, N workers start N threads each and
compete for the cores.

The fork server imports this module first, before any library that reads these variables. They are
set there and not in the driver: a thread that changes the environment while DuckDB or the C library
reads it crashes the process.
"""

import os

from .start_method import THREAD_ENV

os.environ.update(THREAD_ENV)
