"""The states of a task on the scheduler, and every way from one to another.

This table is the only place that says which transitions there are: the picture in the documentation is drawn from
it, and a transition that is not in it is an :class:`~treadle.errors.InternalError`.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ERRED",
    "FORGOTTEN",
    "MEMORY",
    "NAMES",
    "PROCESSING",
    "QUEUED",
    "RELEASED",
    "STATES",
    "TRANSITIONS",
    "WAITING",
    "allowed",
]

RELEASED: Final = 0
WAITING: Final = 1
QUEUED: Final = 2
PROCESSING: Final = 3
MEMORY: Final = 4
ERRED: Final = 5
FORGOTTEN: Final = 6

STATES: Final = 7

NAMES: Final = ["released", "waiting", "queued", "processing", "memory", "erred", "forgotten"]

#: (from, to, what makes it happen)
TRANSITIONS: Final = [
    (RELEASED, WAITING, "a client or a dependent needs the result"),
    (RELEASED, MEMORY, "a client has scattered the value"),
    (RELEASED, ERRED, "a dependency has failed, or a value that was scattered is lost"),
    (RELEASED, FORGOTTEN, "nobody needs it, and no dependent could need it again"),
    (WAITING, QUEUED, "all dependencies are in memory"),
    (WAITING, MEMORY, "a worker turns out to hold a copy"),
    (WAITING, ERRED, "a dependency has failed"),
    (WAITING, RELEASED, "nobody needs it any more"),
    (QUEUED, PROCESSING, "it is sent to a worker"),
    (QUEUED, WAITING, "a dependency was lost"),
    (QUEUED, MEMORY, "a worker turns out to hold a copy"),
    (QUEUED, ERRED, "a dependency has failed"),
    (QUEUED, RELEASED, "nobody needs it any more"),
    (PROCESSING, MEMORY, "the worker has finished it"),
    (PROCESSING, QUEUED, "the worker has given it back, or is gone"),
    (PROCESSING, WAITING, "the worker could not get a dependency, or it is tried again"),
    (PROCESSING, ERRED, "it raised, or it killed too many workers"),
    (PROCESSING, RELEASED, "nobody needs it any more"),
    (MEMORY, RELEASED, "nobody needs the result any more, or its last holder is gone"),
    (ERRED, RELEASED, "nobody needs it any more, or it is tried again"),
]


def _table() -> list[bool]:
    table = [False] * (STATES * STATES)
    for source, target, _ in TRANSITIONS:
        table[source * STATES + target] = True
    return table


_ALLOWED: Final = _table()


def allowed(source: int, target: int) -> bool:
    return _ALLOWED[source * STATES + target]
