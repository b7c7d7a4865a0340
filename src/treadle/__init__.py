"""Treadle runs graphs of Python tasks: in one thread, on threads, on processes, or on a cluster.

Everything public is reached from here and imported when it is first used, so that ``import treadle`` costs next
to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from treadle._version import __version__

if TYPE_CHECKING:
    from treadle import config as config
    from treadle import errors as errors
    from treadle import graph as graph
    from treadle import multiprocessing as multiprocessing
    from treadle import sync as sync
    from treadle import threaded as threaded
    from treadle.callbacks import Callback as Callback
    from treadle.client.client import Client as Client
    from treadle.client.future import Future as Future
    from treadle.client.meters import progress as progress
    from treadle.client.waiting import as_completed as as_completed
    from treadle.client.waiting import wait as wait
    from treadle.deferred import Delayed as Delayed
    from treadle.deferred import compute as compute
    from treadle.deferred import delayed as delayed
    from treadle.deploy.local import LocalCluster as LocalCluster
    from treadle.diagnostics.profiler import Profiler as Profiler
    from treadle.diagnostics.progress import ProgressBar as ProgressBar
    from treadle.drawing import visualize as visualize
    from treadle.graph.spec import Data as Data
    from treadle.graph.spec import Ref as Ref
    from treadle.graph.spec import Task as Task
    from treadle.scheduling import get as get
    from treadle.tokens import tokenize as tokenize

_MODULES = ("config", "errors", "graph", "multiprocessing", "sync", "threaded")
_HOMES = {
    "Callback": "treadle.callbacks",
    "Client": "treadle.client.client",
    "Data": "treadle.graph.spec",
    "Delayed": "treadle.deferred",
    "Future": "treadle.client.future",
    "LocalCluster": "treadle.deploy.local",
    "Profiler": "treadle.diagnostics.profiler",
    "ProgressBar": "treadle.diagnostics.progress",
    "Ref": "treadle.graph.spec",
    "Task": "treadle.graph.spec",
    "as_completed": "treadle.client.waiting",
    "compute": "treadle.deferred",
    "delayed": "treadle.deferred",
    "get": "treadle.scheduling",
    "progress": "treadle.client.meters",
    "tokenize": "treadle.tokens",
    "visualize": "treadle.drawing",
    "wait": "treadle.client.waiting",
}

__all__ = [
    "Callback",
    "Client",
    "Data",
    "Delayed",
    "Future",
    "LocalCluster",
    "Profiler",
    "ProgressBar",
    "Ref",
    "Task",
    "__version__",
    "as_completed",
    "compute",
    "config",
    "delayed",
    "errors",
    "get",
    "graph",
    "multiprocessing",
    "progress",
    "sync",
    "threaded",
    "tokenize",
    "visualize",
    "wait",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(import_module(home), name)
    elif name in _MODULES:
        value = import_module(f"treadle.{name}")
    else:
        raise AttributeError(f"module 'treadle' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
