"""Run graphs in the calling thread, one task at a time: ``treadle.sync.get(graph, keys)``."""

from __future__ import annotations

from typing import Any

from treadle.scheduling import outcome

__all__ = ["get"]


def get(graph: Any, keys: Any, **options: Any) -> Any:
    """Compute ``keys`` of ``graph`` in this thread. Parameters and errors as of :func:`treadle.get`.

    The debugger stops where the task is, and the profiler sees it. ``num_workers`` and ``pool`` mean nothing here.
    """
    callbacks = options.pop("callbacks", None)
    options = {word: value for word, value in options.items() if word not in ("num_workers", "pool")}
    done = outcome(graph, keys, "sync", None, None, callbacks, options)
    if done.error is not None:
        try:
            raise done.error
        finally:
            del done  # it would tie the error, its traceback and this frame into a circle
    return done.value
