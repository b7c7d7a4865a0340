"""Passes over an order that bring its peak of live results down, and the peak itself.

A result is live from when its task has run until its last dependent has run, or to the end if it is a target. A task's
result and its inputs are live at the same time. Shared results, which several tasks depend on, are counted by
themselves, too.
"""

from __future__ import annotations

from typing import Final

from treadle.graph.node import Node

__all__ = ["backward", "forward", "reader_peak"]

#: The life of a node in these passes. Going backward, a result is wanted from its last dependent on.
FRESH: Final = 0
WANTED: Final = 1
PLACED: Final = 2


def reader_peak(nodes: list[Node], targets: list[Node]) -> tuple[int, int]:
    """The peaks of live results, and of shared ones, when ``nodes`` run in their order."""
    for node in nodes:
        node.mark = len(node.dependents)
    for target in targets:
        target.mark += 1
    live = peak = 0
    shared = shared_peak = 0
    for node in nodes:
        live += 1
        if live > peak:
            peak = live
        if len(node.dependents) > 1:
            shared += 1
            if shared > shared_peak:
                shared_peak = shared
        for dep in node.deps:
            users = dep.mark - 1
            dep.mark = users
            if users == 0:
                live -= 1
                if len(dep.dependents) > 1:
                    shared -= 1
    return peak, shared_peak


def forward(base: list[Node], targets: list[Node]) -> tuple[list[Node], int, int]:
    """``base``, with every task that frees at least one result moved forward to where it is ready and does so.

    Such a task makes one result, so the number of live results does not grow by it. ``users`` counts the dependents
    to come, ``mark`` the inputs that the node is the only one to wait for.

    :returns: the new order, its peak of live results, and that of live shared results.
    """
    for node in base:
        node.state = FRESH
        node.mark = 0
        node.users = len(node.dependents)
    for target in targets:
        target.users += 1
    for node in base:
        if node.users == 1 and node.dependents:
            node.dependents[0].mark += 1
    live = peak = 0
    shared = shared_peak = 0
    result: list[Node] = []
    stack: list[Node] = []
    for start in base:
        if start.state == PLACED:
            continue
        stack.append(start)
        while stack:
            node = stack.pop()
            if node.state == PLACED:
                continue
            node.state = PLACED
            result.append(node)
            node.waiting = len(node.deps)
            live += 1
            if live > peak:
                peak = live
            if len(node.dependents) > 1:
                shared += 1
                if shared > shared_peak:
                    shared_peak = shared
            for dep in node.deps:
                users = dep.users - 1
                dep.users = users
                if users == 0:
                    live -= 1
                    if len(dep.dependents) > 1:
                        shared -= 1
                elif users == 1:
                    for user in dep.dependents:
                        if user.state == FRESH:
                            user.mark += 1
                            if user.waiting == 0:
                                stack.append(user)
                            break
            for dependent in node.dependents:
                waiting = dependent.waiting - 1
                dependent.waiting = waiting
                if waiting == 0 and dependent.mark > 0:
                    stack.append(dependent)
    for node in base:
        node.users = 0
    return result, peak, shared_peak


def backward(nodes: list[Node], targets: list[Node]) -> tuple[list[Node], int, int]:
    """:func:`forward` in the other direction.

    Going back in time a task takes its result away and brings the inputs that are not live yet; those that bring at
    most one are placed at once. ``users`` counts the dependents that are not placed, ``mark`` the inputs not wanted.

    :returns: as :func:`forward`.
    """
    for node in nodes:
        node.state = FRESH
        node.mark = len(node.deps)
        node.users = len(node.dependents)
    for target in targets:
        target.state = WANTED
        for dependent in target.dependents:
            dependent.mark -= 1
    live = peak = len(targets)
    shared = shared_peak = 0
    for target in targets:
        if len(target.dependents) > 1:
            shared += 1
    result: list[Node] = []
    stack: list[Node] = []
    for start in reversed(nodes):
        if start.state == PLACED:
            continue
        stack.append(start)
        while stack:
            node = stack.pop()
            if node.state == PLACED:
                continue
            node.state = PLACED
            result.append(node)
            for dep in node.deps:
                if dep.state == FRESH:
                    dep.state = WANTED
                    live += 1
                    if len(dep.dependents) > 1:
                        shared += 1
                    for user in dep.dependents:
                        brings = user.mark - 1
                        user.mark = brings
                        if brings <= 1 and user.users == 0 and user.state == WANTED:
                            stack.append(user)
            if live > peak:
                peak = live
            if shared > shared_peak:
                shared_peak = shared
            live -= 1
            if len(node.dependents) > 1:
                shared -= 1
            for dep in node.deps:
                users = dep.users - 1
                dep.users = users
                if users == 0 and dep.mark <= 1:
                    stack.append(dep)
    result.reverse()
    return result, peak, shared_peak
