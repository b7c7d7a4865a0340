"""The futures behind what was persisted: Dask's collections, and delayed values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from treadle.client import meters
from treadle.client.future import Future
from treadle.client.gathering import listed
from treadle.client.tasks import value_of
from treadle.deferred import Delayed
from treadle.errors import UserError
from treadle.graph.foreign import REFERENCE, foreign_kind
from treadle.graph.spec import Task
from treadle.lineage import collect

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["futures_of", "progress"]


def futures_of(value: Any) -> list[Future[Any]]:
    """The futures behind persisted collections and delayed values, each once.

    >>> held = client.persist(array)
    >>> wait(futures_of(held))

    :param value: a collection of Dask, a delayed value or a future, or lists, tuples, sets and dicts of such, nested in
        any way. What was made of something persisted, and not persisted itself, has the futures of that.
    :returns: in the order in which they are met; none for what is not on a cluster.
    """
    found: dict[int, Future[Any]] = {}
    stack: list[Any] = [listed(value)]
    while stack:
        item = stack.pop()
        if isinstance(item, Future):
            found.setdefault(id(item), item)
        elif isinstance(item, dict):
            stack.extend(reversed(item.values()))
        elif isinstance(item, (list, tuple)):
            stack.extend(reversed(item))
        elif isinstance(item, (set, frozenset)):
            stack.extend(item)
        elif isinstance(item, Delayed):
            stack.extend(reversed(list(_held(collect([item])))))
        elif not isinstance(item, type) and hasattr(item, "__dask_graph__"):
            graph = item.__dask_graph__()
            stack.extend(reversed(list(_held(graph))) if graph is not None else ())
    return list(found.values())


def _held(graph: Mapping[Any, Any]) -> Iterator[Future[Any]]:
    for value in graph.values():
        held: Any = value
        if type(value) is Task and value.func is value_of:
            held = value.args[0]
        elif foreign_kind(type(value)) == REFERENCE:
            held = getattr(value, "future", None)  # see treadle.integrations.dask.persist
        if isinstance(held, Future):
            yield held


def progress(
    *futures: Any, notebook: bool = False, console: Console | None = None, timeout: float | None = None
) -> Any:
    """Show a live bar for each group of tasks, until some futures have ended. Ctrl-C ends only the display.

    A group is all tasks that call the same function. There is a bar for each that the cluster has something to do for,
    so also for tasks that the futures only depend on. Where the console is no terminal nothing is drawn; one plain line
    for each group says at the end what was done in which time.

    With an asynchronous client this has to be awaited.

    :param futures: of one client, or whatever else :func:`futures_of` takes.
    :param notebook: False. There is no widget that goes on while the notebook does something else.
    :param console: a ``rich`` console to draw on. Default: standard error.
    :param timeout: seconds to wait at most.
    :raises concurrent.futures.TimeoutError: the futures have not ended in time.
    :raises UserError: nothing of this is on a cluster, or the futures belong to several clients.
    """
    if notebook:
        raise UserError("progress() draws text and waits, in notebooks too: leave out notebook=True")
    found = futures_of(futures)
    if not found:
        raise UserError("progress() needs futures to wait for: persist or compute a collection with the client first")
    return meters.show_progress(found, console, timeout)
