"""The state of one run of a graph, without threads, processes, clocks or callbacks.

States of a node: *waiting* (``waiting > 0``), *ready* (in the heap, or a root that was not handed out yet),
*running* (handed out by :meth:`Run.take`), *done* (``done`` is set and ``result`` holds the value), and
*released* (the last user is done and nobody asked for the result: the value is dropped).

Events: :meth:`Run.take` hands out the best ready task, :meth:`Run.settle` takes its result, :meth:`Run.stop`
ends the run early. Each costs time in proportion to the edges of the task (and a heap operation), whatever the
size of the graph. Whoever drives a run from several threads holds one lock around each event.

Invariants, checked by :meth:`Run.sanity_check`:

- ``waiting`` equals the number of a node's dependencies that are not done, ``users`` the number of its
  dependents that are not done, plus one if the caller asked for it.
- ``live`` equals the number of results that are held.
- ``unfinished`` equals the number of nodes that are not done, ``running`` those handed out and not settled.
- Unless the run was stopped, it has tasks ready or running until ``unfinished`` is 0.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any, Final, final

from treadle.errors import InternalError
from treadle.graph.node import NO_NODES, Node
from treadle.graph.plan import Plan

__all__ = ["Run"]


@final
class Run:
    """Runs the nodes of a plan in the order of their ranks as far as their dependencies allow."""

    def __init__(self, plan: Plan) -> None:
        nodes = plan.nodes
        #: All nodes; ``nodes[i].rank == i``.
        self.nodes: Final = nodes
        #: Ranks of the tasks without dependencies, ascending, and how many of them were handed out.
        self.roots: list[int] = []
        self.next_root: int = 0
        #: Ranks of the other tasks that are ready: a heap.
        self.heap: list[int] = []
        self.unfinished: int = len(nodes)
        self.running: int = 0
        #: How many results are held now, and at most so far.
        self.live: int = 0
        self.peak: int = 0
        self.stopped: bool = False
        #: The tasks whose results the caller asked for.
        self.targets: Final = [node for node in plan.targets if not node.done]
        for node in nodes:
            if node.waiting == 0:
                self.roots.append(node.rank)
            node.users = len(node.dependents)
        for node in self.targets:
            node.users += 1

    def __repr__(self) -> str:
        return (
            f"<Run {len(self.nodes) - self.unfinished}/{len(self.nodes)} done, {self.running} running, "
            f"{self.available()} ready, {self.live} live{', stopped' if self.stopped else ''}>"
        )

    def available(self) -> int:
        """How many tasks could be handed out now."""
        if self.stopped:
            return 0
        return len(self.heap) + len(self.roots) - self.next_root

    def over(self) -> bool:
        """True if nothing is running and nothing will be handed out."""
        return self.running == 0 and (self.unfinished == 0 or self.stopped)

    def take(self) -> Node | None:
        """Hand out the ready task with the lowest rank, or None if no task is ready."""
        if self.stopped:
            return None
        heap = self.heap
        roots = self.roots
        cursor = self.next_root
        if cursor < len(roots):
            rank = roots[cursor]
            if heap and heap[0] < rank:
                rank = heappop(heap)
            else:
                self.next_root = cursor + 1
        elif heap:
            rank = heappop(heap)
        else:
            return None
        self.running += 1
        return self.nodes[rank]

    def settle(self, node: Node, result: Any, garbage: list[Any]) -> None:
        """Take the result of a task that was handed out.

        Results that nobody needs any more are moved to ``garbage``, for the caller to drop once it has left its
        lock: dropping a value can take long and run anybody's code.
        """
        self.running -= 1
        self.unfinished -= 1
        node.done = True
        if node.users:
            node.result = result
            self.live += 1
            if self.live > self.peak:
                self.peak = self.live
        else:
            garbage.append(result)
        for dependent in node.dependents:
            waiting = dependent.waiting - 1
            dependent.waiting = waiting
            if waiting == 0:
                heappush(self.heap, dependent.rank)
        for dep in node.deps:
            users = dep.users - 1
            dep.users = users
            if users == 0:
                garbage.append(dep.result)
                dep.result = None
                self.live -= 1
        # The arguments may be big, and the links to dependents would keep the finished graph alive in a circle.
        node.args = ()
        node.kwargs = None
        node.dependents = NO_NODES

    def put_back(self, node: Node) -> None:
        """Undo :meth:`take`: the task was handed out but has not been started."""
        self.running -= 1
        heappush(self.heap, node.rank)

    def drop(self) -> None:
        """Account for a task that was handed out and will never be settled, because it failed or was lost."""
        self.running -= 1

    def stop(self) -> None:
        """Hand out nothing any more."""
        self.stopped = True

    def dismantle(self) -> None:
        """After a run that ended early, let go of everything: nodes and their dependents hold one another.

        Nothing may be running any more.
        """
        for node in self.nodes:
            node.args = ()
            node.kwargs = None
            node.deps = NO_NODES
            node.dependents = NO_NODES
            node.result = None

    def sanity_check(self) -> None:
        """Check every invariant, in time proportional to the size of the graph.

        :raises InternalError: one does not hold.
        """
        done = live = 0
        for rank, node in enumerate(self.nodes):
            _check(node.rank == rank, "ranks are positions", node)
            waiting = 0
            for dep in node.deps:
                if not dep.done:
                    waiting += 1
            _check(node.waiting == waiting, "waiting counts the dependencies to come", node)
            users = 0
            for dependent in node.dependents:
                if not dependent.done:
                    users += 1
            if node.done:
                done += 1
                live += node.users > 0
                _check(node.users > 0 or node.result is None, "a result without users is dropped", node)
            else:
                _check(node.users - users in (0, 1), "users counts dependents and the caller", node)
        _check(self.unfinished == len(self.nodes) - done, "unfinished counts what is not done", self)
        _check(self.live == live, "live counts the results held", self)
        if self.unfinished and not self.stopped:
            _check(self.running + self.available() > 0, "an unfinished run has something to do", self)


def _check(holds: bool, rule: str, subject: object) -> None:
    if not holds:
        raise InternalError(f"broken invariant ({rule}): {subject!r}")
