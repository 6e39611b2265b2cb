"""The work on messages, the same in a Lambda function and in a container, and the container worker.

`processing.py` turns messages into outcomes; the shells decide when to stop: `functions/worker.py`
before the deadline of its call, `container.py` on SIGTERM or when the queue stays empty.
"""
