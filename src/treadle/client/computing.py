"""Delayed values and Dask's collections: what is computed, and what is held, by a client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from treadle.arguments import pack
from treadle.client.calls import LIMIT, options_of
from treadle.client.face import Face
from treadle.client.future import Future
from treadle.client.graphs import Shipment, with_persisted
from treadle.client.latch import run_blocking
from treadle.client.outbox import Options
from treadle.client.running import plan_of
from treadle.client.scattering import place
from treadle.client.tasks import collect as collect_value
from treadle.client.tasks import value_of
from treadle.deferred import Delayed
from treadle.graph.plan import as_dict
from treadle.graph.spec import Ref, Task
from treadle.lineage import collect
from treadle.naming import unique
from treadle.wire.sizes import sizeof

if TYPE_CHECKING:
    from treadle.client.calls import Calls

__all__ = ["Computing"]


class Computing(Face):
    """Computes what is known as a graph."""

    _calls: Calls
    gather: Callable[..., Any]
    submit: Callable[..., Future[Any]]

    def compute(
        self,
        *values: Any,
        sync: bool = False,
        optimize_graph: bool = True,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        retries: int = 0,
        timeout: float | None = None,
    ) -> Any:
        """Start to compute delayed values, and collections of Dask, and return a future for each.

        :param values: delayed values and collections, and lists of such. Anything else is returned as it is.
        :param sync: return the results instead. The other parameters are those of :meth:`submit`.
        :param optimize_graph: have Dask optimize the graphs of its collections.
        :param timeout: how many seconds to wait for the results, if ``sync``.
        :returns: a future for one value, a list of them for a list, and a tuple if there are several ``values``.
        """
        given = {"workers": workers, "resources": resources, "priority": priority, "retries": retries}

        def start(collections: list[Any]) -> Sequence[Any]:
            from treadle.integrations import dask

            return dask.compute(collections, lambda graph, keys: self._hold(graph, keys, given), optimize_graph)

        made = self._apart(values, start, lambda rest: self._start(rest, given))
        return self.gather(made, timeout=timeout) if sync else made

    def persist(
        self,
        *values: Any,
        optimize_graph: bool = True,
        workers: str | Iterable[str] | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        retries: int = 0,
    ) -> Any:
        """Start to compute delayed values, and return delayed values that stand for the results.

        A collection of Dask becomes the same collection, whose tasks are futures of this client as long as it lives.
        Parameters and shape of the result as of :meth:`compute`.
        """
        given = {"workers": workers, "resources": resources, "priority": priority, "retries": retries}

        def hold(graph: Any, keys: list[Any]) -> list[Future[Any]]:
            futures = self._hold(graph, keys, given)
            session = self.session
            with session.lock:
                session.persisted.update(zip(keys, futures))
            return futures

        def start(collections: list[Any]) -> Sequence[Any]:
            from treadle.integrations import dask

            return dask.persist(collections, hold, optimize_graph)

        return self._apart(values, start, lambda rest: [_delay(future) for future in self._start(rest, given)])

    def _apart(
        self,
        values: Sequence[Any],
        of_dask: Callable[[list[Any]], Sequence[Any]],
        of_others: Callable[[list[Any]], list[Any]],
    ) -> Any:
        """Replace values, which may be in lists: Dask's collections at once, and all others at once."""
        spread = [each for value in values for each in (value if type(value) is list else [value])]
        theirs = [hasattr(type(each), "__dask_graph__") and _is_collection(each) for each in spread]
        others = [each for each, foreign in zip(spread, theirs) if not foreign]
        collections = [each for each, foreign in zip(spread, theirs) if foreign]
        made = iter(of_dask(collections)) if collections else iter(())
        rest = iter(of_others(others))
        placed = iter([next(made) if foreign else next(rest) for foreign in theirs])
        shaped = [[next(placed) for _ in value] if type(value) is list else next(placed) for value in values]
        return shaped[0] if len(shaped) == 1 else tuple(shaped)

    def _start(self, values: Sequence[Any], given: Mapping[str, Any]) -> list[Any]:
        """The values with futures in the place of what is delayed."""
        options = options_of(**given)
        found: list[Any] = []
        packed = [pack(value, found) for value in values]
        if not found:
            return list(values)
        keys = list(dict.fromkeys([source._key for source in found]))
        graph = with_persisted(collect(found), self.session)
        futures = dict(zip(keys, self._launch(graph, keys, options, False)))
        return [futures[item.key] if type(item) is Ref else value for item, value in zip(packed, values)]

    def _hold(self, graph: Any, keys: list[Any], given: Mapping[str, Any]) -> list[Future[Any]]:
        """Futures of some keys of a graph of Dask."""
        from treadle.integrations.annotations import heed

        tasks, options = heed(graph, given)
        return self._launch(with_persisted(as_dict(tasks), self.session), keys, options, True)

    def _launch(self, graph: dict[Any, Any], keys: list[Any], options: Options, private: bool) -> list[Future[Any]]:
        """Start to compute some keys of a graph.

        :param private: give the tasks names that no other graph has.
        """
        session = self.session
        plan = plan_of(session, graph, keys)
        shipment = Shipment(session, self._calls, plan, private)
        if shipment.heavy and self._may_wait():
            run_blocking(shipment.lighten)
        else:
            shipment.load()  # what this raises says what to do where nothing can wait
        shipment.send([node for node in plan.targets if not node.done], options)
        session.flush()
        shipment.bind()
        nodes = [plan.found[key] for key in keys]
        return [self._known(node.result) if node.done else shipment.futures[node.rank] for node in nodes]

    def _known(self, value: Any) -> Future[Any]:
        """The future of a value that the graph has already."""
        if sizeof(value) > LIMIT and self._may_wait():
            return run_blocking(place, self.session, {f"{type(value).__name__}-{unique()}": value})[0]
        return self.submit(collect_value, value)

    def _may_wait(self) -> bool:
        return not self.asynchronous and not self.session.in_loop()


def _is_collection(value: Any) -> bool:
    from treadle.integrations import dask

    return dask.is_collection(value)


def _delay(value: Any) -> Any:
    """A delayed value in the place of a future."""
    return Delayed(value.key, Task(value_of, value)) if isinstance(value, Future) else value
