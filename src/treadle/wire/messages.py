"""What a peer may say: every message as it is received, typed and validated.

A message is sent as a plain tuple whose first item names it, ``("want", ["x-1"])``, and received as the struct of that
name. A message may end with fields that this version does not know; rows inside a message have exactly the length
that is given here. ``docs/protocol.md`` tells what each field means.
"""

from __future__ import annotations

import functools
import operator
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from treadle.errors import ProtocolError

__all__ = [
    "FROM_CLIENT",
    "FROM_PEER",
    "FROM_SCHEDULER_TO_CLIENT",
    "FROM_SUPERVISOR",
    "FROM_WORKER",
    "TO_PEER",
    "TO_WORKER",
    "Acquired",
    "Answer",
    "Ask",
    "Cancel",
    "CancelAttempts",
    "Cancelled",
    "ClientMissing",
    "Data",
    "Died",
    "Done",
    "Failed",
    "Fetch",
    "Finished",
    "Functions",
    "Heartbeat",
    "Leaving",
    "Message",
    "MessageDecoder",
    "Missing",
    "Options",
    "Placed",
    "Recall",
    "Release",
    "ReleaseKeys",
    "Remake",
    "Returned",
    "Run",
    "Shutdown",
    "Stopped",
    "Store",
    "Stored",
    "Submit",
    "TasksFailed",
    "Want",
    "Where",
    "WorkerFunctions",
    "shorten",
]

#: A count, a size in bytes, or a number that was given out.
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
#: The number of an attempt; 0 stands for "no attempt" and is never sent.
Attempt: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
#: A duration in seconds, or another measured quantity: finite, not negative.
Measure: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
#: A priority, or the place of a task in the order.
Order: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
Digest: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]

#: Kind, blob, text, info: see :func:`treadle.wire.values.unpack_error`.
Error: TypeAlias = tuple[str, bytes, str, dict[str, Any]]
#: A key, the size of its value, and who holds it: (ident, address) of each.
Location: TypeAlias = tuple[str, Count, list[tuple[str, str]]]


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all messages."""


class Options(msgspec.Struct, frozen=True, gc=False):
    """What a submit asks for beyond the tasks themselves. Fields that this version does not know are ignored."""

    priority: Order = 0
    workers: list[str] | None = None
    resources: dict[str, Measure] | None = None
    retries: Count = 0


# From a client to the scheduler.


class Functions(Message, frozen=True, tag="functions"):
    #: Number (the client's own), digest, display name, blob, pure.
    rows: list[tuple[Count, Digest, str, bytes, bool]]


class Submit(Message, frozen=True, tag="submit"):
    keys: list[str]
    functions: list[Count]
    payloads: list[bytes]
    #: Empty if no task has any; else, for each task, indices into ``keys`` or keys of earlier tasks.
    deps: list[list[Count | str]]
    #: None: all.
    wanted: list[Count] | None = None
    options: Options | None = None


class Want(Message, frozen=True, tag="want"):
    keys: list[str]


class Release(Message, frozen=True, tag="release"):
    keys: list[str]


class Cancel(Message, frozen=True, tag="cancel"):
    keys: list[str]


class Placed(Message, frozen=True, tag="placed"):
    #: Key, bytes, ident of the worker.
    rows: list[tuple[str, Count, str]]


class ClientMissing(Message, frozen=True, tag="missing"):
    #: Key, ident of the worker from which it could not be fetched.
    rows: list[tuple[str, str]]


class Ask(Message, frozen=True, tag="ask"):
    id: Count
    topic: str
    argument: Any = None


# From the scheduler to a client.


class Done(Message, frozen=True, tag="done"):
    #: Key, bytes, packed result if it is small, ident and address of a worker that holds it.
    rows: list[tuple[str, Count, bytes | None, str, str]]


class TasksFailed(Message, frozen=True, tag="failed"):
    #: Key, key of the task that failed, error.
    rows: list[tuple[str, str, Error]]


class Cancelled(Message, frozen=True, tag="cancelled"):
    keys: list[str]
    reason: str


class Answer(Message, frozen=True, tag="answer"):
    id: Count
    ok: bool
    value: Any = None


# From the scheduler to a worker.


class WorkerFunctions(Message, frozen=True, tag="functions"):
    #: Number (the scheduler's), display name, blob.
    rows: list[tuple[Count, str, bytes]]


class Run(Message, frozen=True, tag="run"):
    #: Attempt, key, order, number of the function, payload, keys of the dependencies, flags.
    rows: list[tuple[Attempt, str, Order, Count, bytes, list[str], Count]]
    where: list[Location]


class Remake(Message, frozen=True, tag="remake"):
    #: Key, order, number of the function, payload.
    rows: list[tuple[str, Order, Count, bytes]]


class Where(Message, frozen=True, tag="where"):
    rows: list[Location]


class Recall(Message, frozen=True, tag="recall"):
    attempts: list[Attempt]


class CancelAttempts(Message, frozen=True, tag="cancel"):
    attempts: list[Attempt]


class ReleaseKeys(Message, frozen=True, tag="release"):
    keys: list[str]


class Shutdown(Message, frozen=True, tag="shutdown"):
    reason: str


# From a worker to the scheduler.


class Finished(Message, frozen=True, tag="finished"):
    #: Attempt, bytes of the result, seconds, packed result if it is small and was asked for.
    rows: list[tuple[Attempt, Count, Measure, bytes | None]]


class Failed(Message, frozen=True, tag="failed"):
    attempt: Attempt
    seconds: Measure
    error: Error


class Acquired(Message, frozen=True, tag="acquired"):
    #: Key, bytes.
    rows: list[tuple[str, Count]]


class Missing(Message, frozen=True, tag="missing"):
    #: Key, ident of the worker from which it could not be fetched.
    rows: list[tuple[str, str]]


class Returned(Message, frozen=True, tag="returned"):
    attempts: list[Attempt]


class Stopped(Message, frozen=True, tag="stopped"):
    attempts: list[Attempt]


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    rss: Count
    cpu: Measure
    fetched_bytes: Count
    fetch_seconds: Measure


class Leaving(Message, frozen=True, tag="leaving"):
    pass


# Between whoever dials a worker's data port and that worker.


class Fetch(Message, frozen=True, tag="fetch"):
    id: Count
    keys: list[str]


class Store(Message, frozen=True, tag="store"):
    id: Count
    #: Key, how many of the frame's buffers are its value.
    rows: list[tuple[str, Count]]


class Data(Message, frozen=True, tag="data"):
    id: Count
    #: Key, how many of the frame's buffers are its value; 0: not held.
    rows: list[tuple[str, Count]]


class Stored(Message, frozen=True, tag="stored"):
    id: Count
    #: Key, bytes.
    rows: list[tuple[str, Count]]


# From a supervisor to the scheduler.


class Died(Message, frozen=True, tag="died"):
    ident: str
    pid: Count
    #: None if nobody saw it end.
    exitcode: Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31)] | None
    executing: list[Attempt]
    host: str
    log: str


def shorten(error: BaseException) -> str:
    """What is wrong with something received. Some of it may be the sender's own words, which are for no log."""
    text = str(error)
    text = text if len(text) <= 200 else f"{text[:200]}…"
    return text if text.isprintable() else ascii(text)


class MessageDecoder:
    """Decodes the control parts of the frames of one direction."""

    def __init__(self, *types: type[Message]) -> None:
        self.types: Final = types
        union: Any = functools.reduce(operator.or_, types)
        self._decode = msgspec.msgpack.Decoder(list[union]).decode

    def __repr__(self) -> str:
        return f"<MessageDecoder of {', '.join(kind.__name__ for kind in self.types)}>"

    def decode(self, control: bytes | bytearray | memoryview) -> list[Any]:
        """The messages of one control part.

        :raises ProtocolError: it holds something else than messages of these types.
        """
        try:
            return self._decode(control)
        except (msgspec.MsgspecError, RecursionError, MemoryError, ValueError) as error:
            raise ProtocolError(f"what it sent is no message: {shorten(error)}") from None


FROM_CLIENT: Final = MessageDecoder(Functions, Submit, Want, Release, Cancel, Placed, ClientMissing, Ask)
FROM_SCHEDULER_TO_CLIENT: Final = MessageDecoder(Done, TasksFailed, Cancelled, Answer)
TO_WORKER: Final = MessageDecoder(WorkerFunctions, Run, Remake, Where, Recall, CancelAttempts, ReleaseKeys, Shutdown)
FROM_WORKER: Final = MessageDecoder(Finished, Failed, Acquired, Missing, Returned, Stopped, Heartbeat, Leaving)
FROM_PEER: Final = MessageDecoder(Fetch, Store)
TO_PEER: Final = MessageDecoder(Data, Stored)
FROM_SUPERVISOR: Final = MessageDecoder(Died)
