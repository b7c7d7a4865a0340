"""Static priorities that keep the number of live results low.

The number of results that are held at the same time, at most, is what an order is judged by (the number of pebbles in a
pebble game on the graph). Finding the best order of a general graph is NP-hard; three cheap steps come close:

1. A *base order*: depth first from the outputs, the input with the larger need first. The need of a task is the number
   of results that must be held while it is computed from nothing; on a forest this is the numbering of Sethi and
   Ullman ("The generation of optimal code for arithmetic expressions", JACM 17, 1970) and the order is optimal.
2. A *forward pass* over it: as soon as a task is ready that frees at least as many results as it makes, it runs.
3. A *backward pass*, the same from the end: what is computed from results that are held anyway is moved to just before
   it is needed, so that roots are loaded late and layered graphs run layer by layer.

Steps 2 and 3 are repeated on other bases while the peak is far from what any order needs, and the lowest peak wins. All
is linear in the number of edges, but for sorting the inputs of a task, and keeps its own stacks.

All results count alike, but where two orders have the same peak: then the one wins which holds fewer shared results at
a time. What several tasks depend on is, as a rule, a block of which each makes something smaller, so that all of them
should be done with it before the next one is made.
"""

from __future__ import annotations

from typing import Final

from treadle.graph.node import Node
from treadle.graph.ordering_bases import by_need, roots_first
from treadle.graph.ordering_passes import backward, forward, reader_peak
from treadle.graph.plan import Plan, as_dict, read

__all__ = ["order", "static_order"]

#: A peak that is above the lower bound by no more than its n-th part is not worth the search for a better one.
NEAR: Final = 40


def order(plan: Plan) -> None:
    """Sort ``plan.nodes`` into the order in which one worker should run them, and set each node's ``rank``.

    ``mark`` and ``state`` of the nodes are used as scratch; the other fields are left as they were.
    """
    nodes = plan.nodes
    best = lowest(plan)
    if best is not None:
        nodes[:] = best
    for rank, node in enumerate(nodes):
        node.rank = rank


def static_order(graph: object, keys: object = None) -> dict[object, int]:
    """The order in which one worker would compute ``keys``, as a position from 0 for each task that they need.

    :param graph: a mapping from keys to tasks and values, as for :func:`treadle.get`.
    :param keys: a key, or a list of keys and of such lists. Their results are taken to be held to the end. Default: the
        outputs, which are the tasks that no other task depends on.
    :returns: positions by key. An alias has the position of the task that it stands for. Keys of literals are left out:
        nothing has to run for them.
    :raises GraphError: a cycle, a missing key, a key of the wrong type, or arguments nested too deep.
    """
    tasks = as_dict(graph)
    if keys is None:
        keys = [node.key for node in read(tasks, list(tasks)).nodes if not node.dependents]
    plan = read(tasks, keys)
    order(plan)
    return {key: node.rank for key, node in plan.found.items() if not node.done}


def lowest(plan: Plan) -> list[Node] | None:
    """The order with the lowest peak that was found, or None if that is the one that ``plan.nodes`` are in."""
    nodes = plan.nodes
    targets = [node for node in plan.targets if not node.done]
    bound = len(targets)
    forest = True
    for node in nodes:
        inputs = len(node.deps)
        if inputs >= bound:
            bound = inputs + 1
        if len(node.dependents) > 1:
            forest = False
    if bound == len(nodes):
        return None
    for target in targets:
        if target.dependents:
            forest = False
    if forest:
        return by_need(nodes, targets)
    return searched(nodes, targets, bound)


def searched(nodes: list[Node], targets: list[Node], bound: int) -> list[Node] | None:
    """:func:`lowest` for a graph that is no forest; ``bound`` is a number of results that no order is below."""
    enough = bound + bound // NEAR
    best: list[Node] | None = None
    peak, shared = reader_peak(nodes, targets)
    if peak <= enough:
        return None
    sorted_nodes = by_need(nodes, targets)
    first = nodes if sorted_nodes is None else sorted_nodes
    for attempt in range(2 if sorted_nodes is None else 3):
        base = first if attempt == 0 else roots_first(first) if attempt == 1 else nodes
        early, early_peak, early_shared = forward(base, targets)
        candidate, reached, held = backward(early, targets)
        if early_peak < reached or (early_peak == reached and 2 * early_shared <= held):
            candidate, reached, held = early, early_peak, early_shared
        if reached < peak or (reached == peak and held < shared):
            peak, shared = reached, held
            best = candidate
            if peak <= enough:
                break
    return best
