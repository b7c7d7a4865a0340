"""Run graphs on processes of this machine: ``treadle.multiprocessing.get(graph, keys)``."""

from __future__ import annotations

from typing import Any

from treadle.scheduling import outcome

__all__ = ["get"]


def get(graph: Any, keys: Any, *, num_workers: int | None = None, pool: Any = None, **options: Any) -> Any:
    """Compute ``keys`` of ``graph`` on processes. Parameters and errors as of :func:`treadle.get`.

    Functions, arguments and results are pickled (with cloudpickle, so lambdas and functions of the main script are
    fine, and no ``if __name__ == "__main__"`` guard is needed). A result stays in the process that made it until
    another process, or the caller, needs it.
    """
    callbacks = options.pop("callbacks", None)
    done = outcome(graph, keys, "processes", num_workers, pool, callbacks, options)
    if done.error is not None:
        try:
            raise done.error
        finally:
            del done  # it would tie the error, its traceback and this frame into a circle
    return done.value
