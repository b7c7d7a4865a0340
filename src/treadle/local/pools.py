"""Pools that the caller brings: executors and ``multiprocessing`` pools of any kind."""

from __future__ import annotations

import multiprocessing.pool
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from treadle import config
from treadle.errors import UserError
from treadle.local.drive import Driver, ThreadsDriver

__all__ = ["PoolError", "driver_for"]


class PoolError(UserError, TypeError):
    """Something that is not a pool was given as one."""


def driver_for(pool: Any, num_workers: int | None) -> Driver:
    """The way to run tasks in ``pool``, whose kind decides: threads schedule themselves, others are sent batches."""
    if isinstance(pool, ThreadPoolExecutor):
        return ThreadsDriver(_size(pool, "_max_workers", num_workers), pool.submit)
    if isinstance(pool, multiprocessing.pool.ThreadPool):
        return ThreadsDriver(_size(pool, "_processes", num_workers), pool.apply_async)

    from treadle.local.executor import ExecutorDriver

    if isinstance(pool, multiprocessing.pool.Pool):
        return ExecutorDriver(_PoolExecutor(pool), _size(pool, "_processes", num_workers), pickled=True)
    if isinstance(pool, Executor):
        # Other libraries have their own; only the names of their classes say that tasks go to other processes.
        pickled = any("Process" in cls.__name__ for cls in type(pool).__mro__)
        return ExecutorDriver(pool, _size(pool, "_max_workers", num_workers), pickled=pickled)
    raise PoolError(
        f"{pool!r} is not a pool: pass a concurrent.futures.Executor, a multiprocessing pool, or the number of "
        "workers as num_workers."
    )


def _size(pool: Any, attribute: str, given: int | None) -> int:
    size = getattr(pool, attribute, None)
    if not isinstance(size, int) or size < 1:
        return config.num_workers(given)
    return size if given is None else min(given, size)


class _PoolExecutor(Executor):
    """A ``multiprocessing`` pool with the one method of an executor that is needed."""

    def __init__(self, pool: multiprocessing.pool.Pool) -> None:
        self._pool = pool

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._pool.apply_async(fn, args, kwargs, future.set_result, future.set_exception)
        return future
