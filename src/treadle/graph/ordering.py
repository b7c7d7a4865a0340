"""Static priorities that keep the number of live results low."""

from __future__ import annotations

from treadle.graph.plan import Plan

__all__ = ["order"]


def order(plan: Plan) -> None:
    """Sort ``plan.nodes`` into the order in which one worker should run them, and set each node's ``rank``."""
    for rank, node in enumerate(plan.nodes):
        node.rank = rank
