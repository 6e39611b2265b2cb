"""Use cases shared by every backend: load a job, check arguments, name a run, plan a retry, read a
run.
"""
