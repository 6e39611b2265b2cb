"""Starts moto's server on a free port of 127.0.0.1, in the environment of the emulators.

`FOLDER/port` gets the port. `FOLDER/settings.json` may set the time of SQS (`queue_time`), so that
a test ends leases. The server ends when its standard input is closed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from itertools import count
from pathlib import Path

FOLDER = Path(sys.argv[1])


calls = count(1)


def queue_time() -> float:
    """Return the time of SQS in seconds, a little later at each call.

    moto ends a lease after its last millisecond, and SQS at it.
    """
    try:
        now = json.loads((FOLDER / "settings.json").read_text()).get("queue_time")
    except (OSError, ValueError):
        now = None
    return (time.time() if now is None else float(now)) + next(calls) * 1e-6


def follow_the_time_of_tests() -> None:
    """Let moto's SQS take its time from the settings."""
    from moto.sqs import models

    replaced = 0
    for name, value in {
        "unix_time": queue_time,
        "unix_time_millis": lambda: queue_time() * 1000,
    }.items():
        if hasattr(models, name):
            setattr(models, name, value)
            replaced += 1
    if not replaced:
        raise SystemExit("moto's SQS has another clock in this version")


def end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    follow_the_time_of_tests()
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    application = DomainDispatcherApplication(create_backend_app)
    # one request at a time: moto does not make conditional writes atomic between threads
    server = make_server("127.0.0.1", 0, application, threaded=False)
    fresh = FOLDER / "port.new"
    fresh.write_text(str(server.port))
    fresh.replace(FOLDER / "port")
    server.serve_forever()


main()
