"""Worker processes: how they are started, supervised, and execute units.

The processes, each started by the one to its left, and the module that each runs:

    driver           fork server      supervisor       worker
    pool.py          forkserver.py    supervisor.py    worker_main.py
    launcher.py                                        unit_runner.py
    start_method.py

The driver keeps a pool of workers (pool.py). It starts each of them (launcher.py) by the start
method of the platform (start_method.py), and exchanges events with it (protocol.py) over a socket
(channel.py). A worker loads the job (loading.py, job_pickle.py, code_snapshot.py), isolates the
user's code (isolation.py, memory.py, thread_limits.py) and calls it for each unit (unit_runner.py).
"""
