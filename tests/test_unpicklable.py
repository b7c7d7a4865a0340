"""What cannot be pickled: the error names the task, and the part of it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import pytest

import treadle
import treadle.multiprocessing
from treadle.errors import NotSerializableError, ResultNotSerializableError, TaskNotSerializableError
from treadle.graph.spec import Task
from treadle.testing.tasks import Boom, Recorder, inc

get = partial(treadle.multiprocessing.get, num_workers=2)


@pytest.fixture(scope="module")
def process_executor() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        yield pool


@pytest.fixture(params=["processes", "executor"])
def pickling_get(request: pytest.FixtureRequest) -> Callable[..., Any]:
    if request.param == "processes":
        return get
    return partial(treadle.get, pool=request.getfixturevalue("process_executor"))


def explode(*args: Any) -> None:
    raise Boom(*args)


class Unreadable:
    """Pickles well and cannot be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ("while it is read",)


class UnreadableElsewhere:
    """Can be read in the process that made it only."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return read_in, (self.pid,)


def read_in(pid: int) -> UnreadableElsewhere:
    if os.getpid() != pid:
        raise Boom("in the wrong process")
    return UnreadableElsewhere()


def sent(*args: Any, **kwargs: Any) -> int:
    return len(args)


LOCK = threading.Lock()

TASKS: dict[str, tuple[dict[Any, Any], str]] = {
    "argument": ({"bad": (sent, 1, LOCK)}, "its argument 2 (a lock)"),
    "keyword": ({"bad": Task(sent, 1, word=LOCK)}, "its argument 'word' (a lock)"),
    "in a container": ({"a": (inc, 1), "bad": (sent, ["a", LOCK])}, "its argument 1 (a container)"),
    "in a plain list": ({"bad": (sent, [1, LOCK])}, "its argument 1 (a list)"),
    "literal": ({"lock": LOCK, "bad": (sent, 1, "lock")}, "its argument 2 ('lock' of the graph, a lock)"),
    "function": ({"bad": (lambda lock=LOCK: lock,)}, "its function '<lambda>'"),
    "nested function": ({"a": (inc, 1), "bad": (sent, (partial(sent, LOCK), "a"))}, "its argument 1 (a container)"),
    "unreadable argument": ({"bad": (sent, 1, Unreadable())}, "its argument 2 (a Unreadable)"),
    "unreadable literal": ({"u": Unreadable(), "bad": (sent, "u")}, "its argument 1 ('u' of the graph, a Unreadable)"),
    "unreadable function": ({"bad": (partial(sent, Unreadable()),)}, "its function 'sent'"),
    "unreadable in a container": ({"a": (inc, 1), "bad": (sent, ["a", Unreadable()])}, "its argument 1 (a container)"),
}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_that_cannot_be_sent(pickling_get: Callable[..., Any], name: str) -> None:
    graph, part = TASKS[name]
    # Others go in the same batch, and are not to blame.
    graph = {**{("x", i): (inc, i) for i in range(50)}, **graph}
    with pytest.raises(TaskNotSerializableError) as caught:
        pickling_get(graph, [*graph])
    assert isinstance(caught.value, NotSerializableError)
    assert (caught.value.key, caught.value.part) == ("bad", part)
    assert f"the task 'bad' cannot be sent to a worker process: {part}" in str(caught.value)
    assert pickling_get({"x": (inc, 1)}, "x") == 2


def make_lock() -> Any:
    return threading.Lock()


def make(kind: Callable[[], Any], *args: Any) -> Any:
    return kind()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(threading.Lock, "pickle"), (Unreadable, "while it is read"), (UnreadableElsewhere, "in the wrong process")],
    ids=["lock", "unreadable", "unreadable elsewhere"],
)
@pytest.mark.parametrize("hook", [False, True])
def test_results_that_cannot_be_brought_back(
    pickling_get: Callable[..., Any], kind: Callable[[], Any], reason: str, hook: bool
) -> None:
    graph = {"a": (inc, 1), "bad": (make, kind, "a"), "c": (sent, "bad")}
    with pytest.raises(ResultNotSerializableError, match=reason) as caught:
        pickling_get(graph, ["c"] if hook else ["c", "bad"], callbacks=[Recorder(needs_results=hook)])
    assert caught.value.key == "bad"
    assert pickling_get({"x": (inc, 1)}, "x") == 2


def test_results_that_need_not_travel() -> None:
    graph = {"a": (make_lock,), "b": (sent, "a", "a"), "c": (UnreadableElsewhere,), "d": (sent, "c")}
    assert treadle.multiprocessing.get(graph, ["b", "d"], num_workers=1) == [2, 1]


def make_big(kind: Callable[[], Any]) -> Any:
    """What takes long enough to make that the other one is made elsewhere."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 50_000)
    return [kind(), bytes(1000)]


@pytest.mark.parametrize("kind", [make_lock, Unreadable, UnreadableElsewhere])
def test_results_that_cannot_move_to_another_process(kind: Callable[[], Any]) -> None:
    """Each of the two is made by another process, and the third task needs both."""
    graph = {"bad": (make_big, kind), "also bad": (make_big, kind), "both": (sent, "bad", "also bad")}
    with pytest.raises(ResultNotSerializableError) as caught:
        get(graph, "both")
    assert caught.value.key in ("bad", "also bad")
    assert get({"x": (inc, 1)}, "x") == 2


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("it is about a lock")
        self.lock = threading.Lock()


def raise_unpicklable() -> None:
    raise Unpicklable


def test_exceptions_that_cannot_be_brought_back(pickling_get: Callable[..., Any]) -> None:
    with pytest.raises(ResultNotSerializableError) as caught:
        pickling_get({"bad": (raise_unpicklable,)}, "bad")
    assert caught.value.key == "bad"
    assert "exception Unpicklable('it is about a lock')" in str(caught.value)
    assert "in raise_unpicklable" in str(caught.value)
