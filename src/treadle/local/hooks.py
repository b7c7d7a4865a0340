"""The callbacks of one run, called one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

from treadle.callbacks import Callback, RunInfo, TaskRecord
from treadle.graph.node import Node
from treadle.graph.spec import Data

__all__ = ["Hooks", "function_name"]


class Hooks:
    """Passes what happens in a run to its callbacks."""

    def __init__(self, callbacks: list[Callback]) -> None:
        self._callbacks = callbacks
        self._lock = Lock()
        self._started: list[Callback] = []
        self.needs_results = any(callback.needs_results for callback in callbacks)

    def known(self, graph: dict[object, object], keys: object) -> dict[object, object]:
        """``graph`` with the results that a callback knows already put in place of their tasks."""
        for callback in self._callbacks:
            results: Mapping[Any, Any] | None = callback.known(graph, keys)
            if results:
                graph = {**graph, **{key: Data(value) for key, value in results.items() if key in graph}}
        return graph

    def start(self, nodes: list[Node], scheduler: str, num_workers: int) -> None:
        info = RunInfo(len(nodes), [function_name(node.func) for node in nodes], scheduler, num_workers)
        for callback in self._callbacks:
            self._started.append(callback)
            callback.start(info)

    def before(self, key: object, worker: str) -> None:
        with self._lock:
            for callback in self._callbacks:
                callback.before(key, worker)

    def after(self, record: TaskRecord, result: Any) -> None:
        with self._lock:
            for callback in self._callbacks:
                callback.after(record, result if callback.needs_results else None)

    def finish(self, error: BaseException | None) -> BaseException | None:
        """Tell all that were started that the run is over. Returns ``error``, or the first that a callback raises.

        A task that outlives an interrupted run reports to nobody.
        """
        with self._lock:
            self._callbacks = []
        while self._started:
            try:
                self._started.pop().finish(error)
            except BaseException as raised:
                error = raised if error is None else error
        return error


def function_name(func: Any) -> str:
    """A short name for what a task calls, for people to read."""
    if func is None:
        return "collect"
    inner = getattr(func, "func", None)  # functools.partial and its like
    name = getattr(func, "__name__", None) or getattr(inner, "__name__", None)
    return str(name) if name else type(func).__name__
