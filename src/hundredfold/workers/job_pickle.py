"""A job on its way into another process."""

from __future__ import annotations

import functools
import io
import pickle
from typing import Any

import cloudpickle

from ..data.result_contract import returned_by
from ..errors import JobError
from ..job import Job
from .isolation import told
from .protocol import Kit

UNSENT = (
    "if a function holds a connection, a lock or an open file, open it inside the function; "
    "what a script or a notebook defines can be put into a module, which each worker imports"
)


def packed(thing: Kit | Job) -> bytes:
    """A kit or a job as it is sent to other processes; JobError where something in it cannot be."""
    for model in (thing.job if isinstance(thing, Kit) else thing).models:
        returned_by(model)  # read here, where every name that an annotation needs is there; the model keeps it
    data = io.BytesIO()
    try:
        _JobPickler(data).dump(thing)
    except Exception as error:  # whatever the user's objects raise is told
        words = f"the job cannot be sent to a worker process: {told(error)}"
        raise JobError(words, hint=UNSENT) from error
    return data.getvalue()


class _JobPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle, which also sends a function with a cache that a script or a notebook defines; each worker begins with an empty cache."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, functools._lru_cache_wrapper) and getattr(obj, "__module__", None) == "__main__":
            return _cached, (obj.__wrapped__, *obj.cache_parameters().values())
        return super().reducer_override(obj)


def _cached(function: Any, size: int | None, typed: bool) -> Any:
    return functools.lru_cache(size, typed)(function)


def unpacked(kit: bytes) -> Kit:
    """Return the kit in this process, which imports the job's modules as they were when the run began."""
    code, data = pickle.loads(kit)
    if code is not None:
        code.install()
    found: Kit = cloudpickle.loads(data)
    return found
