"""Pickling of a job for other processes."""

from __future__ import annotations

import functools
import io
import pickle
from typing import Any

import cloudpickle

from ..data.result_contract import return_type
from ..errors import JobError
from ..job import Job
from .isolation import format_error
from .protocol import WorkerContext

UNPICKLABLE_HINT = (
    "if a function holds a connection, a lock or an open file, open it inside the function; "
    "what a script or a notebook defines can be put into a module, which each worker imports"
)


def pickle_job(thing: WorkerContext | Job) -> bytes:
    """Return a context or a job in pickled form.

    Raises:
        JobError: a part of it cannot be pickled.
    """
    for model in (thing.job if isinstance(thing, WorkerContext) else thing).models:
        # annotations are evaluated now, while every name in them is defined; the model keeps the
        # result
        return_type(model)
    data = io.BytesIO()
    try:
        _JobPickler(data).dump(thing)
    except Exception as error:  # users' objects may raise any error
        text = f"the job cannot be sent to a worker process: {format_error(error)}"
        raise JobError(text, hint=UNPICKLABLE_HINT) from error
    return data.getvalue()


class _JobPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """A cloudpickle pickler that also handles the functools objects of a script or a notebook.

    A function with a cache starts with an empty one in each worker; a generic function
    (singledispatch) has the same implementations there.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, functools.singledispatchmethod):
            # Python 3.13 keeps a cache of weak references in it
            return _make_dispatching_method, (obj.func, obj.dispatcher)
        if not callable(obj) or not _is_pickled_by_value(obj):
            return super().reducer_override(obj)
        if isinstance(obj, functools._lru_cache_wrapper):
            return _make_cached, (obj.__wrapped__, *obj.cache_parameters().values())
        if getattr(obj, "__code__", None) is SINGLEDISPATCH_CODE:
            registry = dict(obj.registry)
            return (
                _make_dispatcher,
                (registry[object],),
                registry,
                None,
                None,
                _register_implementations,
            )
        return super().reducer_override(obj)


_singledispatch: Any = functools.singledispatch(lambda _: None)
SINGLEDISPATCH_CODE = _singledispatch.__code__


def _is_pickled_by_value(obj: Any) -> bool:
    """Return whether other processes cannot import it: a script's, or local to a function."""
    return getattr(obj, "__module__", None) == "__main__" or "<locals>" in getattr(
        obj, "__qualname__", ""
    )


def _make_dispatcher(function: Any) -> Any:
    return functools.singledispatch(function)


def _register_implementations(generic: Any, registry: dict[type, Any]) -> None:
    """Register the implementations of a generic function, which may call the function."""
    for kind, function in registry.items():
        generic.register(kind, function)


def _make_dispatching_method(function: Any, dispatcher: Any) -> Any:
    made = functools.singledispatchmethod(function)
    made.dispatcher = dispatcher
    return made


def _make_cached(function: Any, size: int | None, typed: bool) -> Any:
    return functools.lru_cache(size, typed)(function)


def unpickle_context(context: bytes) -> WorkerContext:
    """Return the context in this process, which imports the job's modules as they were when the run
    began.
    """
    code, data = pickle.loads(context)
    if code is not None:
        code.install()
    found: WorkerContext = cloudpickle.loads(data)
    return found
