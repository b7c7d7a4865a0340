"""Passes that make a graph smaller or its tasks fewer. Each is on its own, and running a graph needs none of them.

A pass takes a graph of any form (plain, explicit, task objects of Dask, in any mixture) and the keys that are wanted,
and returns a new dict. What it does not have to change are the same objects as before; what it changes comes out in
explicit form. Each takes linear time, and a chain of a million tasks is as good as a short one.
"""

from __future__ import annotations

from treadle.graph.optimize.culling import cull, dependencies
from treadle.graph.optimize.fusing import fuse
from treadle.graph.optimize.inlining import inline

__all__ = ["cull", "dependencies", "fuse", "inline"]
