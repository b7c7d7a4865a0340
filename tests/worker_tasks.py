"""Tasks for tests of worker processes, which import this module."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any


def block(path: str) -> None:
    """Say so through a named pipe, and never end."""
    with open(path, "w") as pipe:
        pipe.write("started")
    threading.Event().wait()


def end_process(status: int) -> None:
    os._exit(status)


def kill_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_lock() -> Any:
    return threading.Lock()


def repeated(char: str, count: int) -> str:
    return char * count


def describe(*args: Any, **kwargs: Any) -> str:
    return f"{args} {kwargs}"


def fail() -> None:
    deeper()


def deeper() -> None:
    raise ValueError("so deep")


def interrupt(kind: str) -> None:
    raise {"SystemExit": SystemExit(3), "KeyboardInterrupt": KeyboardInterrupt()}[kind]


def nested(depth: int) -> Any:
    """Runs a graph that runs a graph and so on."""
    import treadle

    if depth == 0:
        return threading.current_thread().name
    return treadle.get({"x": (nested, depth - 1)}, "x")


class Nameless(Exception):
    """Can neither be pickled nor be shown."""

    def __reduce__(self) -> Any:
        raise TypeError("not this one")

    def __str__(self) -> str:
        raise RuntimeError("nor this")

    __repr__ = __str__


def fail_oddly(kind: str) -> None:
    raise ValueError("caf\udce9") if kind == "surrogate" else Nameless


class Unreadable:
    """Can be pickled, and not be read back."""

    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise ImportError("not here")


def make_unreadable() -> Any:
    return Unreadable()


def measure(*values: Any, **more: Any) -> list[int]:
    return [len(value) for value in (*values, *more.values())]


def die(calls: str, times: int, value: Any) -> int:
    """Kill the worker that runs this, the first times that it is called; the file ``calls`` counts them."""
    with open(calls, "a") as file:
        file.write(".")
    if os.path.getsize(calls) <= times:
        kill_process()
    return len(value)
