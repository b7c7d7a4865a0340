"""Hooks around a run and around each of its tasks: what progress bars, profilers and caches are made of.

A callback is active inside its ``with`` block, for runs that the same thread (or asynchronous task) starts, or for
one call that is given ``callbacks=[...]``. Runs that a task starts in turn are part of that task: they do not
report to the callbacks around the outer run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar, Token
from typing import Any, NamedTuple, TypeVar

__all__ = ["Callback", "RunInfo", "TaskRecord", "active_callbacks", "unwatched"]

_Self = TypeVar("_Self", bound="Callback")


class RunInfo(NamedTuple):
    """What is known of a run when it starts."""

    #: The number of tasks that will run.
    total: int
    #: The name of each task's function, in the order of the static priorities.
    names: list[str]
    #: Which scheduler runs it: ``"sync"``, ``"threads"``, ``"processes"``, ``"executor"``, ``"cluster"``, ``"dask"`` or
    #: ``"ray"``.
    scheduler: str
    #: How many tasks can run at the same time.
    num_workers: int


class TaskRecord(NamedTuple):
    """One task that has run. Times are in seconds, by ``time.perf_counter`` of the calling process."""

    key: Any
    #: The name of the task's function.
    name: str
    #: Which thread or process ran it: ``"thread-1"``, ``"process-2"``, ``"sync"``.
    worker: str
    started: float
    stopped: float
    #: The number of results held when the task had been accounted for, its own among them.
    live: int


class Callback:
    """Base class for hooks: override what is needed.

    The hooks of one run are never called at the same time, though each call may come from another thread. An
    exception in a hook ends the run and reaches the caller. For every task, ``before`` precedes ``after``; a task that
    fails, or is handed out and never started because another one failed, has no ``after``.
    """

    #: True if :meth:`after` needs the results of tasks. Where tasks run in other processes this makes every result
    #: travel; when it is False, ``result`` is None.
    needs_results: bool = False

    def known(self, graph: Mapping[Any, Any], keys: Any) -> Mapping[Any, Any] | None:
        """Results that need not be computed: a mapping from keys of ``graph`` to values. Called first."""
        return None

    def start(self, info: RunInfo) -> None:
        """The run is about to start."""

    def before(self, key: Any, worker: str) -> None:
        """A task has been handed to ``worker``."""

    def after(self, record: TaskRecord, result: Any) -> None:
        """A task has ended well."""

    def finish(self, error: BaseException | None) -> None:
        """The run is over; ``error`` is what its caller is about to see, if it failed."""

    def __enter__(self: _Self) -> _Self:
        tokens: list[Token[tuple[Callback, ...]]] = self.__dict__.setdefault("_tokens", [])
        tokens.append(_ACTIVE.set((*_ACTIVE.get(), self)))
        return self

    def __exit__(self, *exc_info: object) -> None:
        _ACTIVE.reset(self.__dict__["_tokens"].pop())


_ACTIVE: ContextVar[tuple[Callback, ...]] = ContextVar("treadle_callbacks", default=())


class unwatched:
    """While a run goes on: what surrounds it does not watch the runs that its tasks start in this thread."""

    def __enter__(self) -> None:
        self._token = _ACTIVE.set(())

    def __exit__(self, *exc_info: object) -> None:
        _ACTIVE.reset(self._token)


def active_callbacks(extra: Iterable[Callback] | None = None) -> list[Callback]:
    """The callbacks around the caller, then ``extra``."""
    callbacks = list(_ACTIVE.get())
    for callback in extra or ():
        if callback not in callbacks:
            callbacks.append(callback)
    return callbacks
