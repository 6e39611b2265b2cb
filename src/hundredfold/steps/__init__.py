"""The steps, one verb a file, in the order of pipeline.py: validate, prepare, enqueue, work, collect, publish."""
