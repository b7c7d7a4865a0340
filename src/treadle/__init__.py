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
    from treadle.client.actors import Actor as Actor
    from treadle.client.actors import ActorFuture as ActorFuture
    from treadle.client.client import Client as Client
    from treadle.client.client import current_client as current_client
    from treadle.client.coordination.event import Event as Event
    from treadle.client.coordination.permits import Lock as Lock
    from treadle.client.coordination.permits import Semaphore as Semaphore
    from treadle.client.coordination.pubsub import Pub as Pub
    from treadle.client.coordination.pubsub import Sub as Sub
    from treadle.client.coordination.queue import Queue as Queue
    from treadle.client.coordination.variable import Variable as Variable
    from treadle.client.executor import Executor as Executor
    from treadle.client.future import Future as Future
    from treadle.client.holding import fire_and_forget as fire_and_forget
    from treadle.client.persisted import futures_of as futures_of
    from treadle.client.persisted import progress as progress
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
    from treadle.integrations.dask import use as use
    from treadle.plugins import SchedulerPlugin as SchedulerPlugin
    from treadle.plugins import WorkerPlugin as WorkerPlugin
    from treadle.scheduling import get as get
    from treadle.tokens import tokenize as tokenize
    from treadle.worker.context import get_client as get_client
    from treadle.worker.context import get_worker as get_worker
    from treadle.worker.context import rejoin as rejoin
    from treadle.worker.context import secede as secede
    from treadle.worker.context import worker_client as worker_client

_MODULES = ("config", "errors", "graph", "multiprocessing", "sync", "threaded")
_HOMES = {
    "Actor": "treadle.client.actors",
    "ActorFuture": "treadle.client.actors",
    "Callback": "treadle.callbacks",
    "Client": "treadle.client.client",
    "Data": "treadle.graph.spec",
    "Delayed": "treadle.deferred",
    "Event": "treadle.client.coordination.event",
    "Executor": "treadle.client.executor",
    "Future": "treadle.client.future",
    "LocalCluster": "treadle.deploy.local",
    "Lock": "treadle.client.coordination.permits",
    "Profiler": "treadle.diagnostics.profiler",
    "ProgressBar": "treadle.diagnostics.progress",
    "Pub": "treadle.client.coordination.pubsub",
    "Queue": "treadle.client.coordination.queue",
    "Ref": "treadle.graph.spec",
    "SchedulerPlugin": "treadle.plugins",
    "Semaphore": "treadle.client.coordination.permits",
    "Sub": "treadle.client.coordination.pubsub",
    "Task": "treadle.graph.spec",
    "Variable": "treadle.client.coordination.variable",
    "WorkerPlugin": "treadle.plugins",
    "as_completed": "treadle.client.waiting",
    "compute": "treadle.deferred",
    "current_client": "treadle.client.client",
    "delayed": "treadle.deferred",
    "fire_and_forget": "treadle.client.holding",
    "futures_of": "treadle.client.persisted",
    "get": "treadle.scheduling",
    "get_client": "treadle.worker.context",
    "get_worker": "treadle.worker.context",
    "progress": "treadle.client.persisted",
    "rejoin": "treadle.worker.context",
    "secede": "treadle.worker.context",
    "tokenize": "treadle.tokens",
    "use": "treadle.integrations.dask",
    "visualize": "treadle.drawing",
    "wait": "treadle.client.waiting",
    "worker_client": "treadle.worker.context",
}

__all__ = [
    "Actor",
    "ActorFuture",
    "Callback",
    "Client",
    "Data",
    "Delayed",
    "Event",
    "Executor",
    "Future",
    "LocalCluster",
    "Lock",
    "Profiler",
    "ProgressBar",
    "Pub",
    "Queue",
    "Ref",
    "SchedulerPlugin",
    "Semaphore",
    "Sub",
    "Task",
    "Variable",
    "WorkerPlugin",
    "__version__",
    "as_completed",
    "compute",
    "config",
    "current_client",
    "delayed",
    "errors",
    "fire_and_forget",
    "futures_of",
    "get",
    "get_client",
    "get_worker",
    "graph",
    "multiprocessing",
    "progress",
    "rejoin",
    "secede",
    "sync",
    "threaded",
    "tokenize",
    "use",
    "visualize",
    "wait",
    "worker_client",
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
