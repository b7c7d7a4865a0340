"""Where a call for results is turned into a run: which scheduler, how many workers, which callbacks."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from treadle import config
from treadle.callbacks import Callback
from treadle.client.default import registered
from treadle.errors import UserError
from treadle.local.drive import Driver, Outcome, SyncDriver, execute
from treadle.local.nesting import confined

__all__ = ["SchedulerError", "check_name", "get", "outcome"]

_NAMES = {
    "sync": "sync",
    "synchronous": "sync",
    "single-threaded": "sync",
    "threads": "threads",
    "threaded": "threads",
    "threading": "threads",
    "processes": "processes",
    "multiprocessing": "processes",
    "dask": "dask",
    "distributed": "dask",
    "ray": "ray",
}
#: Those that others have started: see :mod:`treadle.integrations.engines`.
_ENGINES = ("dask", "ray")


class SchedulerError(UserError, ValueError):
    """A scheduler, pool or option that does not exist."""


def get(
    graph: Any,
    keys: Any,
    scheduler: Any = None,
    *,
    num_workers: int | None = None,
    pool: Any = None,
    callbacks: Iterable[Callback] | None = None,
    **options: Any,
) -> Any:
    """Compute some keys of a graph.

    :param graph: a mapping from keys to tasks and values. A tuple headed by a callable is a task, and an argument
        that equals a key stands for its result; :class:`treadle.Task` and :class:`treadle.Ref` say the same explicitly.
    :param keys: a key, or a list of keys (lists may be nested): results come back in the same shape.
    :param scheduler: ``"threads"``, ``"processes"``, ``"sync"``, a :class:`treadle.Client`, an executor or a
        ``multiprocessing`` pool, ``"dask"`` or a client of ``distributed``, ``"ray"``, or another function
        ``get(graph, keys)``. Default: what ``config.set(scheduler=...)`` says, else the client that is open, else
        ``"threads"``.
    :param num_workers: how many tasks run at once. Default: ``config``, else the number of usable cores.
    :param pool: an executor or a ``multiprocessing`` pool to use instead of Treadle's own threads or processes.
    :param callbacks: hooks for this call, besides those whose ``with`` block surrounds it.
    :param options: handed on if ``scheduler`` is a function. Treadle's own schedulers ignore what they do not know,
        because Dask hands them whatever its users give to ``compute``; but a misspelt keyword of ours is an error.
    :raises GraphError: a cycle, a key that does not exist, a value that cannot be a key.
    :raises Exception: whatever a task raises, with a note that names the task's key.
    """
    done = outcome(graph, keys, scheduler, num_workers, pool, callbacks, options)
    if done.error is not None:
        try:
            raise done.error
        finally:
            del done  # it would tie the error, its traceback and this frame into a circle
    return done.value


def outcome(
    graph: Any,
    keys: Any,
    scheduler: Any,
    num_workers: int | None,
    pool: Any,
    callbacks: Iterable[Callback] | None,
    options: dict[str, Any],
) -> Outcome:
    """:func:`get` for callers that raise the error themselves, so that one frame of ours stays in its traceback."""
    if scheduler is None:
        scheduler = config.get("scheduler") or (registered() if pool is None else None) or "threads"
    if hasattr(scheduler, "__treadle_outcome__"):
        _refuse_misspelt(options)
        done: Outcome = scheduler.__treadle_outcome__(graph, keys, callbacks)
        return done
    if callable(scheduler):
        extra = {"num_workers": num_workers, "pool": pool, "callbacks": callbacks, **options}
        return _foreign(scheduler, graph, keys, {word: value for word, value in extra.items() if value is not None})
    _refuse_misspelt(options)
    driver = _driver(scheduler, num_workers, pool)
    return execute(graph, keys, driver, callbacks)


def _foreign(scheduler: Callable[..., Any], graph: Any, keys: Any, extra: dict[str, Any]) -> Outcome:
    try:
        return Outcome(scheduler(graph, keys, **extra), None)
    except BaseException as error:
        traceback = error.__traceback__
        return Outcome(None, error.with_traceback(traceback and traceback.tb_next))  # without this frame


def check_name(scheduler: str) -> None:
    """:raises SchedulerError: there is no scheduler of this name."""
    if scheduler not in _NAMES:
        raise SchedulerError(
            f"there is no scheduler {scheduler!r}; there are 'threads', 'processes' and 'sync', 'dask' and 'ray', "
            "or pass a client, an executor, a multiprocessing pool, or a function get(graph, keys)."
        )


def _driver(scheduler: Any, num_workers: int | None, pool: Any) -> Driver:
    named = isinstance(scheduler, str)
    if named:
        check_name(scheduler)
    kind = _NAMES[scheduler] if named else "threads"
    if kind == "sync" or confined():
        return SyncDriver()
    if kind in _ENGINES or (not named and "distributed" in sys.modules):
        from treadle.integrations.engines import driver_of

        driver = driver_of(scheduler)
        if driver is not None:
            return driver
    if not named:
        pool = scheduler
    if pool is None:
        pool = config.get("pool")
    if pool is not None:
        from treadle.local.pools import driver_for

        return driver_for(pool, num_workers)
    if kind == "threads":
        from treadle.local.drive import ThreadsDriver

        return ThreadsDriver(config.num_workers(num_workers))
    from treadle.local.processes.driver import ProcessesDriver

    return ProcessesDriver(config.num_workers(num_workers))


def _refuse_misspelt(options: dict[str, Any]) -> None:
    """Refuse keywords that look like a misspelt one of ours.

    Any other is left to mean nothing: Dask hands whatever its users give to ``compute`` on to the scheduler.
    """
    for name in options:
        close = difflib.get_close_matches(name, ["num_workers", "pool", "callbacks", "scheduler"], n=1, cutoff=0.8)
        if close:
            raise TypeError(f"get() got an unexpected keyword argument {name!r}. Did you mean {close[0]!r}?")
