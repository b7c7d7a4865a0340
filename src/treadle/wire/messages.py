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
    "Acquire",
    "Acquired",
    "Answer",
    "Ask",
    "Call",
    "Cancel",
    "CancelAttempts",
    "Cancelled",
    "ClientMissing",
    "Data",
    "Died",
    "Done",
    "Event",
    "Failed",
    "Fence",
    "Fetch",
    "Finished",
    "Functions",
    "Heartbeat",
    "Leaving",
    "Logs",
    "Message",
    "MessageDecoder",
    "Missing",
    "Options",
    "Placed",
    "Ready",
    "Recall",
    "Rejoined",
    "Release",
    "ReleaseKeys",
    "Remake",
    "Reply",
    "Retry",
    "Returned",
    "Run",
    "Seceded",
    "Setup",
    "Shutdown",
    "Started",
    "Stopped",
    "Store",
    "Stored",
    "Submit",
    "TasksFailed",
    "TasksStarted",
    "Teardown",
    "Unusable",
    "Want",
    "Where",
    "Withdraw",
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
    #: Number (the client's own), digest, display name, blob, and what kind of function it is: a sum of
    #: 1 (pure), 2 (asynchronous), 4 (tell when it starts) and 8 (makes an actor).
    rows: list[tuple[Count, Digest, str, bytes, Count]]


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
    #: Also if others want it: then it fails for them.
    force: bool = False


class Retry(Message, frozen=True, tag="retry"):
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


class Withdraw(Message, frozen=True, tag="withdraw"):
    """Nobody waits for the answer to a question any more; if it was a grant, it is given back."""

    id: Count


# From a client to the scheduler, and back.


class Fence(Message, frozen=True, tag="fence"):
    """What is said after it, was said when all before it was known."""

    number: Count


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


class TasksStarted(Message, frozen=True, tag="started"):
    keys: list[str]


class Event(Message, frozen=True, tag="event"):
    topic: str
    #: Number, seconds since the epoch, packed value.
    rows: list[tuple[Count, Measure, bytes]]


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


class Acquire(Message, frozen=True, tag="acquire"):
    """Fetch these and keep them, whether or not a task here needs them."""

    rows: list[Location]


class Setup(Message, frozen=True, tag="setup"):
    #: Number, name, blob.
    rows: list[tuple[Count, str, bytes]]


class Teardown(Message, frozen=True, tag="teardown"):
    numbers: list[Count]


class Shutdown(Message, frozen=True, tag="shutdown"):
    reason: str
    #: True: the parent of the process is to start another one in its place.
    again: bool = False


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


class Unusable(Message, frozen=True, tag="unusable"):
    """It was to acquire these, and never can: they cannot be pickled where they are, or unpickled here."""

    keys: list[str]


class Returned(Message, frozen=True, tag="returned"):
    attempts: list[Attempt]


class Stopped(Message, frozen=True, tag="stopped"):
    attempts: list[Attempt]


class Seceded(Message, frozen=True, tag="seceded"):
    """These have given up their threads while they wait for something."""

    attempts: list[Attempt]


class Rejoined(Message, frozen=True, tag="rejoined"):
    attempts: list[Attempt]


class Started(Message, frozen=True, tag="started"):
    attempts: list[Attempt]


class Logs(Message, frozen=True, tag="logs"):
    #: Attempt (0 for what belongs to no task), key, seconds since the epoch, "stdout", "stderr" or the level of a log
    #: record, and the text. "dropped", and a number of lines as text, where some of it was left out.
    rows: list[tuple[Count, str, Measure, str, str]]


class Ready(Message, frozen=True, tag="ready"):
    """What has become of one row of a "setup"."""

    number: Count
    error: Error | None = None


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
    #: The values are to come as msgpack, without pickles.
    plain: bool = False


class Store(Message, frozen=True, tag="store"):
    id: Count
    #: Key, how many of the frame's buffers are its value.
    rows: list[tuple[str, Count]]


class Call(Message, frozen=True, tag="call"):
    id: Count
    #: What is to be done, and with what: ``"actor"`` and the key of an actor, for example.
    topic: str
    target: str
    #: How many of the frame's buffers are the packed argument; 0 if it is small and stands here.
    count: Count
    packed: bytes = b""


class Reply(Message, frozen=True, tag="reply"):
    id: Count
    error: Error | None
    #: How many of the frame's buffers are the packed value; 0 if it is small and stands here.
    count: Count
    packed: bytes = b""


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


FROM_CLIENT: Final = MessageDecoder(
    Functions, Submit, Want, Release, Cancel, Retry, Placed, ClientMissing, Ask, Withdraw, Fence
)
FROM_SCHEDULER_TO_CLIENT: Final = MessageDecoder(Done, TasksFailed, Cancelled, TasksStarted, Event, Answer, Fence)
TO_WORKER: Final = MessageDecoder(
    WorkerFunctions,
    Run,
    Remake,
    Where,
    Acquire,
    Recall,
    CancelAttempts,
    ReleaseKeys,
    Setup,
    Teardown,
    Shutdown,
)
FROM_WORKER: Final = MessageDecoder(
    Finished,
    Failed,
    Acquired,
    Missing,
    Unusable,
    Returned,
    Stopped,
    Seceded,
    Rejoined,
    Started,
    Logs,
    Ready,
    Heartbeat,
    Leaving,
)
FROM_PEER: Final = MessageDecoder(Fetch, Store, Call)
TO_PEER: Final = MessageDecoder(Data, Stored, Reply)
FROM_SUPERVISOR: Final = MessageDecoder(Died)
