"""Is it worth it: the loop that a job replaces, timed beside a run of the job, on this machine and for these functions."""
