"""What simulated tasks do: how long they take, whether they fail, how big their results are and what their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from zlib import crc32

__all__ = ["Behaviour", "Graph", "Run", "checksum", "constant", "pack", "table", "unpack"]


#: For each key the name of its function and the keys of its dependencies.
Graph = Mapping[str, tuple[str, Sequence[str]]]


class Run(NamedTuple):
    """One run of one task."""

    #: How long it occupies its thread.
    seconds: float
    #: The size of its result.
    nbytes: int = 28
    #: The text of the exception that it raises, or None.
    error: str | None = None
    #: True if its process dies of it, at the end of ``seconds``.
    kills: bool = False
    #: In the middle of ``seconds`` it gives up its thread for so long, or until the tasks of ``children`` are over,
    #: which it submits then, whatever becomes of them.
    aside: float = 0.0
    children: Graph = MappingProxyType({})
    #: Whether it then has a thread again for the rest of ``seconds``.
    rejoins: bool = True


#: What a task will do, given its key, the name of its function, and which run of it this is (from 1).
Behaviour = Callable[[str, str, int], Run]


def constant(seconds: float, nbytes: int = 28) -> Behaviour:
    """Every task takes so long and has a result of that size."""
    run = Run(seconds, nbytes)
    return lambda key, function, number: run


def table(runs: Mapping[str, Run], default: Run | None = None) -> Behaviour:
    """Tasks behave as a table says: by their key, else by their function, else as ``default``.

    :raises KeyError: when a task starts that is in no table, and there is no default.
    """

    def behaviour(key: str, function: str, number: int) -> Run:
        run = runs.get(key) or runs.get(function) or default
        if run is None:
            raise KeyError(f"nothing says what the task {key!r} (function {function!r}) does")
        return run

    return behaviour


def checksum(key: str, inputs: Sequence[Any]) -> int:
    """A value that tells which task it came from and what its inputs were."""
    return crc32(repr((key, list(inputs))).encode())


def pack(value: int) -> bytes:
    """An integer from 0 as a packed value: the form in which small results ride along."""
    return b"\xcf" + value.to_bytes(8, "big")


def unpack(packed: bytes) -> int:
    """The integer that :func:`pack` was given."""
    return int.from_bytes(packed[1:], "big")
