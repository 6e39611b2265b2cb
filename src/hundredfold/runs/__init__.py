"""Use cases that every backend shares: loading a job, checking arguments, naming a run, and reading
it afterwards.
"""
