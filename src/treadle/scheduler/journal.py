"""What has come and gone: what is needed to tell the story of a task, kept until there is too much of it.

Nothing is looked at when it happens. Batches of messages are put by, and notes are taken of many at a time. A message
leaves a note that refers to what it held in columns (keys, attempts, durations), without arguments and results; which
task an attempt belonged to is found out when somebody asks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec

from treadle.scheduler.keeping import read
from treadle.scheduler.services import Ask, Inquiry, Service
from treadle.wire import messages

if TYPE_CHECKING:
    import asyncio

    from treadle.scheduler.members import Member
    from treadle.scheduler.services import Hub

__all__ = ["LIMIT", "Journal"]

#: Bytes that all notes may take, as they are reckoned here.
LIMIT: Final = 64 << 20
#: Bytes of a note, and of each task in it: its key, an attempt, two numbers, and their places in lists.
_NOTE: Final = 300
_ROW: Final = 200
#: Batches wait for notes to be taken of them until there are so many, or one is about more than a few tasks (whose
#: arguments and results are not to be kept), or so many seconds have passed.
FRESH: Final = 64
FEW: Final = 8
PAUSE: Final = 0.25
#: Seconds within which two looks at clocks count as one.
_AT_ONCE: Final = 0.001
#: Seconds for which a search may hold up everything else.
_SLICE: Final = 0.005
#: Characters that are kept of an error.
_SHOWN: Final = 300


#: What is kept of one message: the fields of a :class:`Note`. Lists are those of the message where it has them.
_Raw: TypeAlias = "tuple[float, tuple[str, str, int], str, Sequence[Any], Sequence[Any], Sequence[Any]]"
#: The last four of them.
_Read: TypeAlias = "tuple[str, Sequence[Any], Sequence[Any], Sequence[Any]]"


class Note(NamedTuple):
    """One message, to be looked at."""

    now: float
    #: Ident and name of the member, and how many tasks it executes at the same time (1 for a client).
    who: tuple[str, str, int]
    #: What has happened.
    what: str
    #: Keys, or attempts of the worker.
    names: Sequence[Any]
    #: More about each of them.
    more: Sequence[Any]
    other: Sequence[Any]


def _finished(message: messages.Finished) -> _Read:
    attempts, nbytes, seconds, _ = zip(*message.rows) if message.rows else ((), (), (), ())
    return "finished", attempts, nbytes, seconds


def _failed(message: messages.Failed) -> _Read:
    lines = message.error[2].strip().splitlines()
    about = lines[-1][:_SHOWN] if lines else message.error[0]
    return "failed", (message.attempt,), (about,), (message.seconds,)


def _keys(what: str) -> Callable[[Any], _Read]:
    return lambda message: (what, message.keys, (), ())


def _attempts(what: str) -> Callable[[Any], _Read]:
    return lambda message: (what, message.attempts, (), ())


def _rows(what: str) -> Callable[[Any], _Read]:
    return lambda message: (what, tuple([row[0] for row in message.rows]), (), ())


#: What is worth a note of what comes.
_CAME: Final[Mapping[type, Callable[[Any], _Read]]] = {
    messages.Submit: _keys("submitted"),
    messages.Want: _keys("wanted"),
    messages.Release: _keys("released"),
    messages.Cancel: _keys("cancelled"),
    messages.Retry: _keys("retried"),
    messages.Placed: _rows("scattered"),
    messages.Finished: _finished,
    messages.Failed: _failed,
    messages.Stopped: _attempts("stopped"),
    messages.Returned: _attempts("given back"),
    messages.Started: _attempts("started"),
    messages.Seceded: _attempts("seceded"),
    messages.Rejoined: _attempts("rejoined"),
    messages.Acquired: _rows("copied"),
}


def _sent(rows: Sequence[tuple[Any, ...]]) -> _Read:
    first, last = rows[0][0], rows[-1][0]
    # A worker's attempts are numbered one after another.
    attempts = range(first, last + 1) if last - first == len(rows) - 1 else [row[0] for row in rows]
    return "sent", attempts, [row[1] for row in rows], ()


def _doomed(rows: Sequence[tuple[Any, ...]]) -> _Read:
    return "doomed", tuple([row[0] for row in rows]), tuple([row[1] for row in rows]), ()


#: What is worth a note of what goes, by the name of the message; its rows.
_WENT: Final[Mapping[str, Callable[[Any], _Read]]] = {
    "run": _sent,
    "failed": _doomed,
    "release": lambda keys: ("dropped", keys, (), ()),
    "recall": lambda attempts: ("recalled", attempts, (), ()),
    "cancel": lambda attempts: ("told to stop", attempts, (), ()),
}


class _Kinds(Protocol):
    """How to read the messages of one direction."""

    def size(self, message: Any) -> int:
        """About how many tasks a message is about."""

    def read(self, message: Any) -> _Read | None: ...


class _Came:
    def size(self, message: Any) -> int:
        return len(message.keys) if type(message) is messages.Submit else 0

    def read(self, message: Any) -> _Read | None:
        take = _CAME.get(type(message))
        return None if take is None else take(message)


class _Went:
    def size(self, message: Any) -> int:
        return len(message[1]) if message[0] == "run" else 0

    def read(self, message: Any) -> _Read | None:
        put = _WENT.get(message[0])
        return None if put is None else put(message[1])


_CAME_KINDS: Final = _Came()
_WENT_KINDS: Final = _Went()

#: What names attempts.
_OF_ATTEMPTS: Final = frozenset(
    ("finished", "failed", "stopped", "given back", "started", "seceded", "rejoined", "recalled", "told to stop")
)
#: What ends an attempt.
_ENDS: Final = frozenset(("finished", "failed", "stopped", "given back"))


class _Span(msgspec.Struct):
    """The argument of ``task_stream``."""

    start: float | None = None
    stop: float | None = None
    count: messages.Count | None = None


class Journal(Service):
    """Takes notes, and answers ``story`` and ``task_stream`` from them."""

    def __init__(self, hub: Hub, limit: int = LIMIT) -> None:
        super().__init__(hub)
        self._limit: Final = limit
        self._notes: Final[deque[_Raw]] = deque()
        self._size = 0
        #: Batches of which no notes were taken yet, and when that will be done at the latest.
        self._fresh: list[tuple[float, tuple[str, str, int], Sequence[Any], _Kinds]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._who: Final[dict[Member, tuple[str, str, int]]] = {}
        #: What to add to our clock to get seconds since the epoch: looked up often, since that clock may be set.
        self._epoch = 0.0
        while not self._set_clock():
            pass

    def __repr__(self) -> str:
        return f"<Journal of {len(self._notes)} messages, about {self._size} bytes>"

    # Notes

    def came(self, member: Member, received: Sequence[Any], now: float) -> None:
        """Messages of a member have come."""
        self._put_by(now, member, received, _CAME_KINDS)

    def went(self, member: Member, rows: Sequence[tuple[Any, ...]], now: float) -> None:
        """The core had something to say to a member."""
        self._put_by(now, member, rows, _WENT_KINDS)

    def _put_by(self, now: float, member: Member, batch: Sequence[Any], kinds: _Kinds) -> None:
        """Keep a batch as it is until there is time: whoever waits for an answer to it waits no longer for this."""
        self._fresh.append((now, self._who[member], batch, kinds))
        for message in batch:
            if kinds.size(message) > FEW:
                self._digest()
                return
        if len(self._fresh) >= FRESH:
            self._digest()
        elif self._timer is None:
            self._timer = self.hub.loop.call_later(PAUSE, self._digest)

    def _digest(self) -> None:
        """Make notes of what was put by."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._set_clock()
        fresh, self._fresh = self._fresh, []
        for now, who, batch, kinds in fresh:
            for message in batch:
                read = kinds.read(message)
                if read is not None:
                    self._note(now, who, read)

    def _set_clock(self) -> bool:
        """Compare the clocks. False if this process was held up in between, so that nothing can be said."""
        before, wall, after = self.hub.now(), time.time(), self.hub.now()
        if after - before > _AT_ONCE:
            return False
        self._epoch = wall - after
        return True

    def _note(self, now: float, who: tuple[str, str, int], read: _Read) -> None:
        self._notes.append((now, who, *read))
        self._size += _NOTE + _ROW * len(read[1])
        while self._size > self._limit:
            self._size -= _NOTE + _ROW * len(self._notes.popleft()[3])

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def joined(self, member: Member) -> None:
        nthreads = 1 if member.details is None else member.details.nthreads
        self._who[member] = (member.peer.ident, member.name, nthreads)

    def gone(self, member: Member) -> None:
        self._digest()
        self._note(self.hub.now(), self._who.pop(member), ("lost", (), (), ()))

    # Questions

    def topics(self) -> Mapping[str, Ask]:
        return {"story": self._story, "task_stream": self._task_stream}

    def _story(self, inquiry: Inquiry) -> None:
        """What has happened to some tasks."""
        keys: list[str] = read(inquiry, list[str], "a list of keys")
        self._digest()
        found: list[dict[str, Any]] = []
        self._search(inquiry, self._tell(frozenset(keys), found), found)

    def _task_stream(self, inquiry: Inquiry) -> None:
        """Which task ran where and when."""
        span: _Span = read(inquiry, _Span, "a map of start, stop and count")
        self._digest()
        found: deque[dict[str, Any]] = deque(maxlen=span.count)
        self._search(inquiry, self._ran(span, found), found)

    def _search(self, inquiry: Inquiry, steps: Generator[None, None, None], found: Collection[Any]) -> None:
        """Go on with a search until it has held up others for long enough, or is over."""
        until = time.perf_counter() + _SLICE
        while not inquiry.over:
            if next(steps, self) is self:
                inquiry.answer(list(found))
            elif time.perf_counter() > until:
                self.hub.loop.call_soon(self._search, inquiry, steps, found)
                return

    def _tell(self, wanted: frozenset[str], found: list[dict[str, Any]]) -> Generator[None, None, None]:
        """Steps of ``story``."""
        runs: dict[tuple[str, str, int], dict[int, str]] = {}
        for raw in list(self._notes):
            note = Note(*raw)
            what, names = note.what, note.names
            if what == "sent":
                if not wanted.isdisjoint(note.more):
                    for attempt, key in zip(names, note.more):
                        if key in wanted:
                            runs.setdefault(note.who, {})[attempt] = key
                            self._add(found, note, key)
            elif what == "lost":
                for key in runs.pop(note.who, {}).values():
                    self._add(found, note, key)
            elif what in _OF_ATTEMPTS:
                mine = runs.get(note.who)
                if mine and not mine.keys().isdisjoint(names):
                    for place, attempt in enumerate(names):
                        if attempt in mine:
                            key = mine.pop(attempt) if what in _ENDS else mine[attempt]
                            self._add(found, note, key, place)
            elif not wanted.isdisjoint(names):
                for place, key in enumerate(names):
                    if key in wanted and not (what == "doomed" and note.more[place] == key):
                        self._add(found, note, key, place)
            yield

    def _add(self, found: list[dict[str, Any]], note: Note, key: str, place: int = 0) -> None:
        about: Any = None
        if note.what == "finished":
            about = {"seconds": note.other[place], "nbytes": note.more[place]}
        elif note.what == "failed":
            about = {"seconds": note.other[place], "error": note.more[place]}
        elif note.what == "doomed":
            about = {"culprit": note.more[place]}
        time_ = self._epoch + note.now
        found.append({"time": time_, "key": key, "event": note.what, "member": note.who[1], "about": about})

    def _ran(self, span: _Span, found: deque[dict[str, Any]]) -> Generator[None, None, None]:
        """Steps of ``task_stream``."""
        runs: dict[tuple[str, str, int], dict[int, str]] = {}
        for raw in list(self._notes):
            note = Note(*raw)
            if note.what == "sent":
                runs.setdefault(note.who, {}).update(zip(note.names, note.more))
            elif note.what in _ENDS:
                mine = runs.get(note.who, {})
                keys = [mine.pop(attempt, None) for attempt in note.names]
                if note.what in ("finished", "failed"):
                    self._reckon(note, keys, span, found)
            elif note.what == "lost":
                runs.pop(note.who, None)
            yield

    def _reckon(self, note: Note, keys: Sequence[str | None], span: _Span, found: deque[dict[str, Any]]) -> None:
        """Add what a worker has reported at once: its threads have been busy until then."""
        nthreads = note.who[2]
        ended = self._epoch + note.now + sum(note.other) / -nthreads
        success = note.what == "finished"
        for key, seconds, nbytes in zip(keys, note.other, note.more if success else repeat(0)):
            ended += seconds / nthreads
            began = ended - seconds
            late = span.stop is not None and began > span.stop
            if key is not None and not late and not (span.start is not None and ended < span.start):
                found.append(
                    {
                        "key": key,
                        "worker": note.who[1],
                        "start": began,
                        "stop": ended,
                        "nbytes": nbytes,
                        "status": "finished" if success else "error",
                    }
                )
