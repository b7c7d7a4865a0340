"""Dask's collections on Treadle: on a cluster through the default client, on one machine through :func:`use`.

Nothing of ``distributed`` is imported or needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import treadle.scheduling
from treadle.client import default
from treadle.errors import UserError

if TYPE_CHECKING:
    from treadle.client.future import Future

try:
    # While Dask is being imported there is no more of it than this.
    _config: Any = import_module("dask.config")
except ModuleNotFoundError:
    raise UserError("Dask is not installed here: pip install 'treadle[dask]'") from None

__all__ = ["Scheduler", "adopt", "compute", "is_collection", "persist", "release", "use"]

#: Starts to compute keys of a graph, and returns a future for each.
Launch: TypeAlias = "Callable[[Any, list[Any]], list[Future[Any]]]"

#: What else of Dask's configuration has to be different on a cluster, unless the user has said something. To group and
#: to join by files, which is what Dask does without ``distributed``, works on one machine only.
_SHUFFLE = "dataframe.shuffle.method"


class Scheduler:
    """What Dask is given as its scheduler: hands everything on to the client that is the default at that moment."""

    def __repr__(self) -> str:
        return f"<Treadle's default client, {default.registered()!r}>"

    def __deepcopy__(self, memo: object) -> Scheduler:
        return self  # where all of Dask's configuration is copied

    def get(self, graph: Any, keys: Any, **options: Any) -> Any:
        client: Any = default.registered()
        if client is None or client.asynchronous:  # which is an error that says what to write
            return treadle.scheduling.get(graph, keys, client, **options)
        return client.get(graph, keys, **options)

    def persist(self, collections: Sequence[Any], **options: Any) -> Any:
        client: Any = default.registered()
        if client is None or client.asynchronous:
            return _dask().persist(*collections, scheduler=treadle.scheduling.get, **options)
        return client.persist(list(collections), **options)


class use:
    """Have Dask's collections computed by Treadle: for good when called, or for a block when used with ``with``.

    >>> treadle.use("processes")
    >>> with treadle.use("threads", num_workers=2):
    ...     array.sum().compute()

    Whoever opens a :class:`treadle.Client` needs no ``use``: the default client computes Dask's collections as it is.

    :param scheduler: as of :func:`treadle.get`. Default: the client that is open at the time, else ``"threads"``.
    :param num_workers: how many tasks run at once, on this machine.
    :raises SchedulerError: there is no such scheduler.
    :raises UserError: Dask is not installed.
    """

    def __init__(self, scheduler: Any = None, num_workers: int | None = None) -> None:
        if isinstance(scheduler, str):
            treadle.scheduling.check_name(scheduler)
        self._settings = _config.set({"scheduler": _get_of(scheduler, num_workers)})

    def __repr__(self) -> str:
        return f"<treadle.use, {_config.get('scheduler', None)!r}>"

    def __enter__(self) -> use:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._settings.__exit__(kind, error, traceback)


def _get_of(scheduler: Any, num_workers: int | None) -> Callable[..., Any]:
    if scheduler is None and num_workers is None:
        bound: Callable[..., Any] = Scheduler().get
        return bound
    if hasattr(scheduler, "__treadle_outcome__"):
        own: Callable[..., Any] = scheduler.get
        return own

    def get(graph: Any, keys: Any, **options: Any) -> Any:
        if num_workers is not None:
            options.setdefault("num_workers", num_workers)
        return treadle.scheduling.get(graph, keys, scheduler, **options)

    return get


def _dask() -> Any:
    return import_module("dask")


_lock = threading.Lock()
_scheduler = Scheduler()
#: What the default client has changed in Dask's configuration: the name, the value before, and the value since.
_changed: list[tuple[str, Any, Any]] = []


def adopt() -> None:
    """Have the collections of this program use the default client."""
    with _lock:
        if _changed:
            return
        wanted: dict[str, Any] = {"scheduler": _scheduler.get}
        if _config.get(_SHUFFLE, None) is None:
            wanted[_SHUFFLE] = "tasks"
        for name, value in wanted.items():
            _changed.append((name, _config.get(name, None), value))
        _config.set(wanted)


def release() -> None:
    """There is no default client: undo :func:`adopt`, but not what the user has said since."""
    with _lock:
        for name, before, since in _changed:
            if _config.get(name, None) == since:
                _config.set({name: before})
        _changed.clear()


def is_collection(value: Any) -> bool:
    """Whether this is, or holds, a collection of Dask. Its graph is not made for that where Dask can tell without."""
    return bool(import_module("dask.base").is_dask_collection(value))


def compute(collections: Iterable[Any], launch: Launch, optimize_graph: bool) -> Sequence[Any]:
    """Futures of the values of collections: each is put together on the cluster."""

    def hold(graph: Any, keys: list[Any], **options: Any) -> list[Any]:
        return list(launch(graph, keys))

    # Dask returns what this "scheduler" returns, for whatever kind of collection.
    made: Sequence[Any] = _dask().compute(*collections, traverse=False, optimize_graph=optimize_graph, scheduler=hold)
    return made


def persist(collections: Iterable[Any], launch: Launch, optimize_graph: bool) -> Sequence[Any]:
    """The same collections, whose tasks have been handed to a cluster."""
    persisted = _persisted()

    def hold(graph: Any, keys: list[Any], **options: Any) -> list[Any]:
        return [persisted(*pair) for pair in zip(keys, launch(graph, keys))]

    # Dask puts what this "scheduler" returns in the place of the tasks, for whatever kind of collection.
    made: Sequence[Any] = _dask().persist(*collections, traverse=False, optimize_graph=optimize_graph, scheduler=hold)
    return made


@cache  # what reads graphs remembers each type
def _persisted() -> type:
    from dask._task_spec import TaskRef

    class Persisted(TaskRef):  # type: ignore[misc, unused-ignore]
        """Stands for a result on the cluster, among the tasks of a collection. The future lives as long as it does."""

        __slots__ = ("future",)

        def __init__(self, key: Any, future: Future[Any]) -> None:
            super().__init__(key)
            self.future = future

    return Persisted
