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
from .isolation import format_error
from .protocol import WorkerContext

UNSENT = (
    "if a function holds a connection, a lock or an open file, open it inside the function; "
    "what a script or a notebook defines can be put into a module, which each worker imports"
)


def packed(thing: WorkerContext | Job) -> bytes:
    """A context or a job as it is sent to other processes; JobError where something in it cannot be."""
    for model in (thing.job if isinstance(thing, WorkerContext) else thing).models:
        returned_by(
            model
        )  # read here, where every name that an annotation needs is there; the model keeps it
    data = io.BytesIO()
    try:
        _JobPickler(data).dump(thing)
    except Exception as error:  # whatever the user's objects raise is told
        words = f"the job cannot be sent to a worker process: {format_error(error)}"
        raise JobError(words, hint=UNSENT) from error
    return data.getvalue()


class _JobPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle, which also sends what functools makes of the functions of a script or a notebook.

    A function with a cache begins with an empty one in each worker; a generic function (singledispatch)
    has the same implementations there.
    """

    def reducer_override(self, obj: Any) -> Any:
        if not callable(obj) or not _is_sent_by_value(obj):
            return super().reducer_override(obj)
        if isinstance(obj, functools._lru_cache_wrapper):
            return _cached, (obj.__wrapped__, *obj.cache_parameters().values())
        if getattr(obj, "__code__", None) is DISPATCHER:
            registry = dict(obj.registry)
            return _dispatching, (registry[object],), registry, None, None, _register
        return super().reducer_override(obj)


DISPATCHER = functools.singledispatch(lambda _: None).__code__  # type: ignore[attr-defined]  # it is a function


def _is_sent_by_value(obj: Any) -> bool:
    """Return whether no other process can import it: it is a script's, or was made inside a function."""
    return getattr(obj, "__module__", None) == "__main__" or "<locals>" in getattr(
        obj, "__qualname__", ""
    )


def _dispatching(function: Any) -> Any:
    return functools.singledispatch(function)


def _register(generic: Any, registry: dict[type, Any]) -> None:
    """Give a generic function its implementations; later than it, since they may call it."""
    for kind, function in registry.items():
        generic.register(kind, function)


def _cached(function: Any, size: int | None, typed: bool) -> Any:
    return functools.lru_cache(size, typed)(function)


def unpacked(context: bytes) -> WorkerContext:
    """Return the context in this process, which imports the job's modules as they were when the run began."""
    code, data = pickle.loads(context)
    if code is not None:
        code.install()
    found: WorkerContext = cloudpickle.loads(data)
    return found
