"""S3 event notifications at their worst: duplicated, late, in any order, and lost (which AWS rules
out, but which happens).

The test sets the rates (`Emulator.settings`), and reads what happened (`Emulator.faults`).
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_plus

from ministack.services import s3

from . import FOLDER, need, setting

need(s3, "_deliver_event_to_sqs", "_fire_s3_event")

writing = threading.Lock()  # of faults.jsonl


def fill() -> None:
    s3._deliver_event_to_sqs = Delivery(s3._deliver_event_to_sqs)


class Delivery:
    """Delivers the notifications of S3 to a queue."""

    def __init__(self, deliver: Callable[..., None]) -> None:
        self.deliver = deliver
        self.later = Later()

    def __call__(self, arn: str, event: Mapping[str, Any], *more: Any, **named: Any) -> None:
        key = (
            unquote_plus(event["Records"][0]["s3"]["object"]["key"]) if "Records" in event else None
        )
        if key is None or not key.startswith(str(setting("notice_prefix", ""))):
            self.deliver(arn, event, *more, **named)
            return
        # the same for a key, whatever else is delivered in between
        chance = random.Random(f"{setting('seed', 0)}/{key}")
        if chance.random() < float(setting("notice_losses", 0)):
            _note("loss", key)
            return
        twice = chance.random() < float(setting("notice_duplicates", 0))
        if twice:
            _note("duplicate", key)
        for _ in range(1 + twice):
            delay = chance.random() * float(setting("notice_delay", 0))
            if delay:
                _note("delay", key)
                self.later.do(delay, lambda: self.deliver(arn, event, *more, **named))
            else:
                self.deliver(arn, event, *more, **named)


class Later:
    """Runs actions at their time, in one thread, each as the account that requested it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, int, contextvars.Context, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None

    def do(self, delay: float, action: Callable[[], None]) -> None:
        with self.changed:
            heapq.heappush(
                self.waiting,
                (time.monotonic() + delay, next(self.numbers), contextvars.copy_context(), action),
            )
            self.changed.notify()
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, daemon=True, name="late notices")
                self.thread.start()

    def _run(self) -> None:
        while True:
            with self.changed:
                while not self.waiting or self.waiting[0][0] > time.monotonic():
                    self.changed.wait(
                        max(self.waiting[0][0] - time.monotonic(), 0) if self.waiting else None
                    )
                _, _, context, action = heapq.heappop(self.waiting)
            context.run(action)


def _note(fault: str, key: str) -> None:
    with writing, (FOLDER / "faults.jsonl").open("a") as file:
        file.write(json.dumps({"fault": fault, "key": key}) + "\n")
