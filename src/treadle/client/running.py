"""``get(graph, keys)`` on a cluster: what a local scheduler does, with futures."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from treadle.callbacks import Callback, TaskRecord, active_callbacks
from treadle.client.calls import LIMIT
from treadle.client.excepting import make_exception
from treadle.client.future import Failure, Future
from treadle.client.gathering import fill_in, futures_in
from treadle.client.graphs import APART, Shipment, with_persisted
from treadle.client.latch import Stream
from treadle.client.outbox import Options
from treadle.client.session import sessions
from treadle.errors import MissingDependencyError, TreadleError, UserError
from treadle.graph.node import NO_NODES, Node
from treadle.graph.ordering import order
from treadle.graph.plan import Plan, as_dict, read
from treadle.local.drive import Outcome
from treadle.local.hooks import Hooks, function_name
from treadle.local.run import Run
from treadle.local.trim import forget_frames

if TYPE_CHECKING:
    from treadle.client.calls import Calls
    from treadle.client.session import Session

__all__ = ["compute", "plan_of"]

#: What callbacks are told.
_SCHEDULER: Final = "cluster"
#: Seconds between two looks whether the tasks that were running when another one failed have ended.
_PAUSE: Final = 0.01


async def compute(
    session: Session, calls: Calls, graph: Any, keys: Any, callbacks: Iterable[Callback] | None, options: Options
) -> Outcome:
    """Steps: the results of some keys of a graph, or the error that its caller should see."""
    active = active_callbacks(callbacks)
    hooks = Hooks(active) if active else None
    value: Any = None
    error: BaseException | None = None
    try:
        session.check()
        with _undisturbed():
            tasks = with_persisted(as_dict(graph), session)
            if hooks is not None:
                tasks = hooks.known(tasks, keys)
            plan = plan_of(session, tasks, keys)
        await _resolve(session, plan)
        error = await _run(session, calls, plan, hooks, options)
        _take_apart(plan)
        if error is None:
            value = plan.results(graph)
    except BaseException as raised:
        error = forget_frames(raised)
    if hooks is not None:
        error = hooks.finish(error)
    try:
        return Outcome(value, error)
    finally:
        del error  # see treadle.local.drive.execute


def plan_of(session: Session, graph: dict[Any, Any], keys: Any) -> Plan:
    """A graph that was read, in the order in which its tasks are to run.

    :raises UserError: it needs what another client has persisted.
    """
    try:
        plan = read(graph, keys)
    except MissingDependencyError as error:
        key = error.dependency
        owner = next((each for each in sessions() if each is not session and key in each.persisted), None)
        if owner is None:
            raise
        state = "open" if owner.ended is None else "closed"
        raise UserError(
            f"the task {error.key!r} needs {key!r}, persisted by the client {owner.ident} ({state}), and this is the "
            f"client {session.ident}. Compute it with the client that has persisted it, "
            "`with client.as_current():`, or persist it again."
        ) from None
    order(plan)
    return plan


async def _run(
    session: Session, calls: Calls, plan: Plan, hooks: Hooks | None, options: Options
) -> BaseException | None:
    """Steps: run a graph. Returns the error that ended it early, if one did.

    Big values are sent apart. If one is lost with a worker, everything that the scheduler can keep travels with the
    tasks: it repeats what has to be, and knows when a task kills its workers. Callbacks are not told of tasks twice.
    """
    error = None
    for allowed in (APART, LIMIT):
        with _undisturbed():
            shipment = Shipment(session, calls, plan, True, allowed)
        await shipment.lighten()
        error = await _GraphRun(session, plan, shipment, hooks).drive(options)
        if hooks is not None or not shipment.missed(error):
            break
    return error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the garbage collector, which would look at all of a graph, again and again while it grows.

    What is made meanwhile counts as old afterwards: it would be looked at once more, all at once, as long as it is new.
    """
    if not gc.isenabled():
        yield
        return
    try:
        gc.disable()
        yield
    finally:
        if gc.get_freeze_count() == 0:  # what somebody else has frozen has to stay so
            gc.freeze()
            gc.unfreeze()
        gc.enable()


def _take_apart(plan: Plan) -> None:
    """Let go of everything: nodes and their dependents hold one another."""
    for node in plan.nodes:
        node.args = ()
        node.kwargs = None
        node.deps = NO_NODES
        node.dependents = NO_NODES


async def _resolve(session: Session, plan: Plan) -> None:
    """Steps: put results in the place of futures in those values of the graph that are asked for themselves."""
    for node in plan.targets:
        if node.done:
            futures = futures_in(node.result)
            if futures:
                await session.obtain(futures)
                node.result = fill_in(node.result)


class _GraphRun:
    """One graph, from the moment in which it is packed."""

    def __init__(self, session: Session, plan: Plan, shipment: Shipment, hooks: Hooks | None) -> None:
        self._session = session
        self._plan = plan
        self._shipment = shipment
        self._hooks = hooks
        self._targets = [node for node in plan.targets if not node.done]

    async def drive(self, options: Options) -> BaseException | None:
        """Steps: run it. Returns the error that ended it early, if one did."""
        failed: Future[Any] | None
        try:
            if self._hooks is None:
                self._shipment.send(self._targets, options)
            else:
                failed = await self._watch(self._hooks, options)
                if failed is not None:
                    return await self._fail(failed)
            futures = self._shipment.futures
            failed = await self._session.obtain([futures[node.rank] for node in self._targets], eager=True)
            if failed is not None:
                return await self._fail(failed)
            for node in self._targets:
                node.result = futures[node.rank].result()
                node.done = True
        except BaseException:
            self._cancel()
            raise
        return None

    def _cancel(self) -> None:
        self._session.cancel(self._shipment.own())

    async def _fail(self, failed: Future[Any]) -> BaseException:
        """Steps: start nothing more, let come to its end what runs, and say what was wrong."""
        self._cancel()
        await self._stop()
        held = failed._held
        if type(held) is Failure:
            key_of = self._shipment.key_of
            return make_exception(held.error, key_of(failed.key), key_of(held.culprit))
        failed._unpack()
        return failed._exception or UserError(f"the task {self._shipment.key_of(failed.key)!r} was cancelled")

    async def _stop(self) -> None:
        """Steps: wait until none of the graph's tasks occupies a thread."""
        names = self._shipment.names()
        while True:
            try:
                running = await self._session.ask("stopping")
            except TreadleError:
                return  # the scheduler is gone, or does not tell
            if names.isdisjoint(running):
                return
            await self._session.sleep(_PAUSE)

    # With callbacks every task is watched.

    async def _watch(self, hooks: Hooks, options: Options) -> Future[Any] | None:
        """Steps: run everything and call the hooks. Returns the first future that did not succeed."""
        session, plan, shipment = self._session, self._plan, self._shipment
        run = Run(plan)
        info = await session.ask("info")
        names = {ident: worker["name"] for ident, worker in info["workers"].items()}
        hooks.start(plan.nodes, _SCHEDULER, sum(worker["nthreads"] for worker in info["workers"].values()))
        shipment.send(plan.nodes, options)
        futures = shipment.futures
        ranks = {id(future): rank for rank, future in futures.items()}
        functions = [function_name(node.func) for node in plan.nodes]
        stream = Stream()
        stream.watch(list(futures.values()))
        session.flush()
        self._hand_out(run, hooks)
        started = dict.fromkeys(names, perf_counter())
        kept = {node.rank for node in self._targets}
        while run.unfinished:
            await stream.ready()
            batch = stream.take()
            stopped = perf_counter()
            succeeded = [future for future in batch if future._succeeded()]
            if hooks.needs_results:
                await session.obtain(succeeded, eager=True)
            future: Future[Any]
            for future in batch:
                if not future._succeeded():
                    return future
                rank = ranks[id(future)]
                node = plan.nodes[rank]
                worker = future._worker
                value = future.result() if hooks.needs_results else None
                deps = node.deps
                run.settle(node, value, [])
                record = TaskRecord(
                    node.key,
                    functions[rank],
                    names.get(worker, _SCHEDULER),
                    started.get(worker, stopped),
                    stopped,
                    run.live,
                )
                started[worker] = stopped
                hooks.after(record, value)
                for used in (node, *deps):
                    if used.users == 0 and used.rank not in kept:
                        self._release(used, futures)
                self._hand_out(run, hooks)
        return None

    def _release(self, node: Node, futures: dict[int, Future[Any]]) -> None:
        if node.rank not in self._shipment.given:
            futures[node.rank].release()

    def _hand_out(self, run: Run, hooks: Hooks) -> None:
        """Tell of the tasks that are ready: the scheduler has them."""
        while True:
            node = run.take()
            if node is None:
                break
            hooks.before(node.key, _SCHEDULER)
