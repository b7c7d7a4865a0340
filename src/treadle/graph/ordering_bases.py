"""Orders to start from: depth first from the outputs, and depth first from the roots."""

from __future__ import annotations

from treadle.graph.node import Node

__all__ = ["by_need", "roots_first"]


def by_need(nodes: list[Node], targets: list[Node]) -> list[Node] | None:
    """``nodes`` depth first from the outputs, what has the larger need first; None if they are in that order already.

    :param nodes: depth first from ``targets``, in the order in which these and the inputs of each node are listed.
    """
    inputs_of = input_order(nodes)
    outputs = [target for target in targets if not target.dependents]
    if inputs_of is None:
        if falling(outputs):
            return None
        inputs_of = [node.deps for node in nodes]
    return postorder(largest_first(outputs), inputs_of)


def input_order(nodes: list[Node]) -> list[list[Node]] | None:
    """The inputs of each node, those with the larger need first; None if all of them are in that order already.

    ``nodes`` come after their inputs; what is returned is by position among them, and each node's ``rank`` is set to
    its position. A node's need is left in ``mark``: how many results are held, at most, while it is computed from
    nothing. Inputs that are shared with other nodes are counted as if they were not.
    """
    changed = False
    inputs_of: list[list[Node]] = []
    for node in nodes:
        node.rank = len(inputs_of)
        inputs = node.deps
        count = len(inputs)
        if count == 0:
            node.mark = 1
        elif count == 1:
            need = inputs[0].mark
            node.mark = need if need > 1 else 2
        else:
            if not falling(inputs):
                inputs = largest_first(inputs)
                changed = True
            node.mark = need_of(inputs)
        inputs_of.append(inputs)
    return inputs_of if changed else None


def falling(nodes: list[Node]) -> bool:
    """True if no node has a larger ``mark`` than the one before it."""
    if not nodes:
        return True
    before = nodes[0].mark
    for node in nodes:
        if node.mark > before:
            return False
        before = node.mark
    return True


def need_of(inputs: list[Node]) -> int:
    """How many results are held, at most, while ``inputs`` and then their dependent are computed in turn."""
    need = len(inputs) + 1
    for held, dep in enumerate(inputs):
        if dep.mark + held > need:
            need = dep.mark + held
    return need


def largest_first(nodes: list[Node]) -> list[Node]:
    """``nodes`` by falling ``mark``; those of equal mark stay in their order."""
    count = len(nodes)
    # Mark and position in one number: sorting numbers needs no key function.
    codes = [position - node.mark * count for position, node in enumerate(nodes)]
    codes.sort()
    return [nodes[code % count] for code in codes]


def postorder(outputs: list[Node], inputs_of: list[list[Node]]) -> list[Node]:
    """Depth first from ``outputs``, inputs in the order of ``inputs_of``, which is by ``rank``."""
    for inputs in inputs_of:
        for dep in inputs:
            dep.mark = -1
    result: list[Node] = []
    for output in outputs:
        output.mark = 0
        stack: list[Node] = [output]
        while stack:
            node = stack[-1]
            inputs = inputs_of[node.rank]
            # ``mark`` is -1 before a node is met, then the number of its inputs that have been looked at.
            looked = node.mark
            count = len(inputs)
            descended = False
            while looked < count:
                dep = inputs[looked]
                looked += 1
                if dep.mark < 0:
                    node.mark = looked
                    dep.mark = 0
                    stack.append(dep)
                    descended = True
                    break
            if not descended:
                result.append(node)
                stack.pop()
    return result


def roots_first(base: list[Node]) -> list[Node]:
    """Depth first from the roots, taken in the order of ``base``: whatever a task makes ready runs right after it."""
    result: list[Node] = []
    stack = [node for node in reversed(base) if not node.deps]
    while stack:
        node = stack.pop()
        result.append(node)
        node.waiting = len(node.deps)
        for dependent in reversed(node.dependents):
            waiting = dependent.waiting - 1
            dependent.waiting = waiting
            if waiting == 0:
                stack.append(dependent)
    return result
