"""Graphs of tasks: their explicit form, passes over them, and the order of their tasks.

Everything public is reached from here and imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle.graph.optimize import cull as cull
    from treadle.graph.optimize import dependencies as dependencies
    from treadle.graph.optimize import fuse as fuse
    from treadle.graph.optimize import inline as inline
    from treadle.graph.ordering import static_order as static_order
    from treadle.graph.spec import Data as Data
    from treadle.graph.spec import Ref as Ref
    from treadle.graph.spec import Task as Task

_HOMES = {
    "Data": "treadle.graph.spec",
    "Ref": "treadle.graph.spec",
    "Task": "treadle.graph.spec",
    "cull": "treadle.graph.optimize",
    "dependencies": "treadle.graph.optimize",
    "fuse": "treadle.graph.optimize",
    "inline": "treadle.graph.optimize",
    "static_order": "treadle.graph.ordering",
}

__all__ = ["Data", "Ref", "Task", "cull", "dependencies", "fuse", "inline", "static_order"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'treadle.graph' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
