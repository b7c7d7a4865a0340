"""What the conformance suite runs as tasks: functions of a module, which any process can import."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from operator import add, mul
from pathlib import Path
from typing import Any, NamedTuple

import treadle
from treadle.callbacks import Callback, RunInfo, TaskRecord

__all__ = [
    "CALLED",
    "Boom",
    "Counted",
    "OddInit",
    "Pair",
    "Recorder",
    "add",
    "boom",
    "called_with",
    "count_down",
    "eventually",
    "fail_after",
    "inc",
    "linger",
    "meet",
    "mul",
    "pipes",
    "same",
    "simulated_live",
    "total",
    "watched_inside",
]


class Pair(NamedTuple):
    """A named tuple, as a container and as a result."""

    left: Any
    right: Any


class Boom(Exception):
    """What failing tasks raise."""


class OddInit(Exception):
    """An exception whose arguments are not those of its constructor."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.detail = detail


def same(value: Any) -> Any:
    return value


def inc(value: Any) -> Any:
    return value + 1


def total(values: Sequence[Any]) -> Any:
    return sum(values)


#: The result of :func:`called_with`: positional arguments, then keywords.
CALLED = tuple[tuple[Any, ...], dict[str, Any]]


def called_with(*args: Any, **kwargs: Any) -> CALLED:
    return args, kwargs


def boom(*args: Any) -> Any:
    """Fails, with its arguments in the exception."""
    raise Boom(*args)


def count_down(depth: int, scheduler: str | None) -> int:
    """Compute ``depth`` by as many nested runs; each has a task beside the one that goes deeper."""
    if depth == 0:
        return 0
    graph = {"deeper": (count_down, depth - 1, scheduler), "one": (same, 1), "sum": (add, "deeper", "one")}
    result: int = treadle.get(graph, "sum", scheduler)
    return result


def watched_inside(callback: Recorder) -> tuple[int, int]:
    """How many tasks ``callback`` sees of a run inside its block, and of one outside."""
    treadle.get({"a": (inc, 1), "b": (inc, "a")}, "b", "threads")
    outside = len(callback.records)
    with callback:
        treadle.get({"a": (inc, 1), "b": (inc, "a")}, "b", "threads")
    return len(callback.records) - outside, outside


# Tasks that run at the same time, perhaps in different processes, tell one another by named pipes.


def meet(ours: str, theirs: str, value: Any = None) -> Any:
    """Return once a task in another worker has called ``meet(theirs, ours)``."""
    # Opening a pipe waits for its other end, so one of the two must begin to write.
    ends = [(ours, "wb"), (theirs, "rb")]
    for path, mode in ends if ours < theirs else reversed(ends):
        with open(path, mode):
            pass
    return value


def fail_after(ours: str, theirs: str) -> None:
    """Fail while a task that calls ``linger(theirs, ours, …)`` runs."""
    meet(ours, theirs)
    raise Boom("first")


def linger(ours: str, theirs: str, done: str) -> str:
    """Go on for a while after :func:`meet`, and leave the file ``done`` behind."""
    meet(ours, theirs)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 600_000)
    Path(done).touch()
    return done


def pipes(folder: Path, count: int) -> list[str]:
    """The names of new named pipes."""
    names = [str(folder / f"pipe-{index}") for index in range(count)]
    for name in names:
        os.mkfifo(name)
    return names


class Counted:
    """A value that counts how many of its kind are alive. Only for tasks that run in the test's process."""

    def __init__(self, counter: list[int]) -> None:
        self.counter = counter
        counter[0] += 1

    def __del__(self) -> None:
        self.counter[0] -= 1


class Recorder(Callback):
    """Writes down what happens in a run.

    :param fail_in: the name of the hook that is to raise :class:`Boom`.
    """

    def __init__(self, needs_results: bool = False, fail_in: str = "", known: dict[Any, Any] | None = None) -> None:
        self.needs_results = needs_results
        self.fail_in = fail_in
        self.results = known
        #: The names of the hooks that were called, with the keys of tasks.
        self.events: list[tuple[str, Any]] = []
        self.info: RunInfo | None = None
        self.records: list[TaskRecord] = []
        self.values: dict[Any, Any] = {}
        self.errors: list[BaseException | None] = []
        self.inside = 0
        self.overlaps = 0

    def known(self, graph: Any, keys: Any) -> dict[Any, Any] | None:
        self._note("known", keys)
        return self.results

    def start(self, info: RunInfo) -> None:
        self.info = info
        self._note("start", None)

    def before(self, key: Any, worker: str) -> None:
        self.inside += 1
        self.overlaps += self.inside != 1
        self._note("before", key)
        self.inside -= 1

    def after(self, record: TaskRecord, result: Any) -> None:
        self.inside += 1
        self.overlaps += self.inside != 1
        self.records.append(record)
        self.values[record.key] = result
        self._note("after", record.key)
        self.inside -= 1

    def finish(self, error: BaseException | None) -> None:
        self.errors.append(error)
        self._note("finish", None)

    def keys(self, hook: str) -> list[Any]:
        """The keys that a hook was called with, in order."""
        return [key for name, key in self.events if name == hook]

    def _note(self, hook: str, key: Any) -> None:
        self.events.append((hook, key))
        if hook == self.fail_in:
            self.inside = 0
            raise Boom(hook)


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return when ``condition`` holds, which is about to happen in another thread."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "what had to happen has not happened"
        os.sched_yield()


def simulated_live(graph: dict[Any, list[Any]], order: Sequence[Any], wanted: Sequence[Any]) -> list[int]:
    """How many results are held after each task, if each is dropped when its last user has run.

    :param graph: the dependencies of each task.
    :param order: the order in which the tasks ran.
    """
    users = dict.fromkeys(graph, 0)
    for deps in graph.values():
        for dep in set(deps):
            users[dep] += 1
    for key in set(wanted):
        users[key] += 1
    held: set[Any] = set()
    counts: list[int] = []
    for key in order:
        held.add(key)
        for dep in set(graph[key]):
            users[dep] -= 1
            if users[dep] == 0:
                held.discard(dep)
        counts.append(len(held))
    return counts
