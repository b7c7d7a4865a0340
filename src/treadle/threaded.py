"""Run graphs on threads of this process: ``treadle.threaded.get(graph, keys)``."""

from __future__ import annotations

from typing import Any

from treadle.scheduling import outcome

__all__ = ["get"]


def get(graph: Any, keys: Any, *, num_workers: int | None = None, pool: Any = None, **options: Any) -> Any:
    """Compute ``keys`` of ``graph`` on threads. Parameters and errors as of :func:`treadle.get`.

    It can be handed to Dask: ``array.compute(scheduler=treadle.threaded.get)``.
    """
    callbacks = options.pop("callbacks", None)
    done = outcome(graph, keys, "threads", num_workers, pool, callbacks, options)
    if done.error is not None:
        try:
            raise done.error
        finally:
            del done  # it would tie the error, its traceback and this frame into a circle
    return done.value
