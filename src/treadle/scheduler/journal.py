"""What has come and gone: what is needed to tell the story of a task, kept until there is too much of it.

Nothing is looked at when it happens. Frames are kept as they travelled, packed; what is in them, and which task an
attempt belonged to, is found out when somebody asks. Of frames with big arguments or results an extract is kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from itertools import repeat
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec

from treadle.scheduler.keeping import read
from treadle.scheduler.ring import Ring
from treadle.scheduler.services import Ask, Inquiry, Service
from treadle.wire import messages

if TYPE_CHECKING:
    from treadle.scheduler.members import Member
    from treadle.scheduler.services import Hub

__all__ = ["LIMIT", "Journal"]

#: Bytes that all notes may take.
LIMIT: Final = 32 << 20
#: Up to so many bytes, and so many for each task in it, a frame is kept as it is.
SPARE: Final = 512
DENSE: Final = 400
#: Seconds within which two looks at clocks count as one.
_AT_ONCE: Final = 0.001
#: Seconds for which a search may hold up everything else.
_SLICE: Final = 0.005
#: Characters that are kept of an error.
_SHOWN: Final = 300

#: What a message has to tell: what has happened; the keys, or the attempts of the worker, that it has happened to; and
#: more about each of them.
_Tale: TypeAlias = "tuple[str, Sequence[Any], Sequence[Any], Sequence[Any]]"


class _Topic(NamedTuple):
    """What is worth a note in one kind of message."""

    #: Where the tasks are listed in a message.
    listed: Callable[[Any], Sequence[Any]]
    tell: Callable[[Any], _Tale]


def _finished(message: messages.Finished) -> _Tale:
    attempts, nbytes, seconds, _ = zip(*message.rows) if message.rows else ((), (), (), ())
    return "finished", attempts, nbytes, seconds


def _failed(message: messages.Failed) -> _Tale:
    lines = message.error[2].strip().splitlines()
    about = lines[-1][:_SHOWN] if lines else message.error[0]
    return "failed", (message.attempt,), (about,), (message.seconds,)


def _keys(what: str) -> _Topic:
    return _Topic(attrgetter("keys"), lambda message: (what, message.keys, (), ()))


def _attempts(what: str) -> _Topic:
    return _Topic(attrgetter("attempts"), lambda message: (what, message.attempts, (), ()))


def _rows(what: str) -> _Topic:
    return _Topic(attrgetter("rows"), lambda message: (what, [row[0] for row in message.rows], (), ()))


#: Of what comes, by type.
_CAME: Final[Mapping[Any, _Topic]] = {
    messages.Submit: _keys("submitted"),
    messages.Want: _keys("wanted"),
    messages.Release: _keys("released"),
    messages.Cancel: _keys("cancelled"),
    messages.Retry: _keys("retried"),
    messages.Placed: _rows("scattered"),
    messages.Finished: _Topic(attrgetter("rows"), _finished),
    messages.Failed: _Topic(lambda message: (message.attempt,), _failed),
    messages.Stopped: _attempts("stopped"),
    messages.Returned: _attempts("given back"),
    messages.Started: _attempts("started"),
    messages.Seceded: _attempts("seceded"),
    messages.Rejoined: _attempts("rejoined"),
    messages.Acquired: _rows("copied"),
}

_second: Final = itemgetter(1)


def _sent(message: Sequence[Any]) -> _Tale:
    return "sent", [row[0] for row in message[1]], [row[1] for row in message[1]], ()


def _doomed(message: Sequence[Any]) -> _Tale:
    return "doomed", [row[0] for row in message[1]], [row[1] for row in message[1]], ()


def _listed(what: str) -> _Topic:
    return _Topic(_second, lambda message: (what, message[1], (), ()))


#: Of what goes, by name.
_WENT: Final[Mapping[Any, _Topic]] = {
    "run": _Topic(_second, _sent),
    "failed": _Topic(_second, _doomed),
    "release": _listed("dropped"),
    "recall": _listed("recalled"),
    "cancel": _listed("told to stop"),
}

#: What names attempts.
_OF_ATTEMPTS: Final = frozenset(
    ("finished", "failed", "stopped", "given back", "started", "seceded", "rejoined", "recalled", "told to stop")
)
#: What ends an attempt.
_ENDS: Final = frozenset(("finished", "failed", "stopped", "given back"))

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[Any]).decode


#: Ident and name of a member, and how many tasks it executes at the same time (1 for a client).
_Who: TypeAlias = "tuple[str, str, int]"


class _Source(NamedTuple):
    """Where frames come from, and how to read them."""

    number: int
    decode: Callable[[bytes], list[Any]]
    kind: Callable[[Any], Any]
    topics: Mapping[Any, _Topic]

    def count(self, batch: Sequence[Any]) -> int:
        """How many tasks messages have something to tell of."""
        count = 0
        for message in batch:
            topic = self.topics.get(self.kind(message))
            if topic is not None:
                count += len(topic.listed(message))
        return count

    def tales(self, batch: Sequence[Any]) -> Iterator[_Tale]:
        for message in batch:
            topic = self.topics.get(self.kind(message))
            if topic is not None:
                yield topic.tell(message)


class _Extracts:
    """Reads what was written here."""

    number: Final = 3

    @staticmethod
    def decode(blob: bytes) -> list[Any]:
        return _decode(blob)

    @staticmethod
    def tales(batch: Sequence[Any]) -> Sequence[Any]:
        return batch


_FROM_CLIENT: Final = _Source(0, messages.FROM_CLIENT.decode, type, _CAME)
_FROM_WORKER: Final = _Source(1, messages.FROM_WORKER.decode, type, _CAME)
_FROM_HERE: Final = _Source(2, _decode, itemgetter(0), _WENT)
_EXTRACTS: Final = _Extracts()
#: By their numbers.
_ORIGINS: Final[Sequence[_Source | _Extracts]] = (_FROM_CLIENT, _FROM_WORKER, _FROM_HERE, _EXTRACTS)


class Note(NamedTuple):
    """Part of a frame, to be looked at."""

    now: float
    who: _Who
    what: str
    #: Keys, or attempts of the worker.
    names: Sequence[Any]
    #: More about each of them.
    more: Sequence[Any]
    other: Sequence[Any]


class _Span(msgspec.Struct):
    """The argument of ``task_stream``."""

    start: float | None = None
    stop: float | None = None
    count: messages.Count | None = None


class Journal(Service):
    """Takes notes, and answers ``story`` and ``task_stream`` from them."""

    def __init__(self, hub: Hub, limit: int = LIMIT) -> None:
        super().__init__(hub)
        self._ring: Final = Ring(limit)
        #: Who is meant by a number in the ring, and the numbers of those who are here.
        self._voices: Final[dict[int, _Who]] = {}
        self._numbers: Final[dict[Member, int]] = {}
        self._joined = 0
        #: The numbers of those who have left, and where their last note ends.
        self._left: Final[deque[tuple[int, int]]] = deque()
        #: What to add to our clock to get seconds since the epoch: looked up often, since that clock may be set.
        self._epoch = 0.0
        while not self._set_clock():
            pass

    def __repr__(self) -> str:
        return f"<Journal of {len(self._ring)} bytes>"

    # Notes

    def came(self, member: Member, control: memoryview, received: Sequence[Any], now: float) -> None:
        """A frame of a member has come: its control part, and the messages in it."""
        for message in received:
            if type(message) in _CAME:
                self._note(now, member, _FROM_WORKER if member.role == "worker" else _FROM_CLIENT, control, received)
                return

    def went(self, member: Member, control: bytes | memoryview, sent: Sequence[Any], now: float) -> None:
        """A frame was sent to a member: its control part, and the messages in it."""
        for message in sent:
            if message[0] in _WENT:
                self._note(now, member, _FROM_HERE, control, sent)
                return

    def _note(
        self, now: float, member: Member, source: _Source, control: bytes | memoryview, batch: Sequence[Any]
    ) -> None:
        origin = source.number
        if len(control) > SPARE and len(control) > SPARE + DENSE * source.count(batch):
            control = _encode(list(source.tales(batch)))
            origin = _EXTRACTS.number
        self._ring.append(now, self._numbers[member] + origin, control)

    def _set_clock(self) -> bool:
        """Compare the clocks. False if this process was held up in between, so that nothing can be said."""
        before, wall, after = self.hub.now(), time.time(), self.hub.now()
        if after - before > _AT_ONCE:
            return False
        self._epoch = wall - after
        return True

    def joined(self, member: Member) -> None:
        nthreads = 1 if member.details is None else member.details.nthreads
        number = self._numbers[member] = self._joined * len(_ORIGINS)
        self._voices[number] = (member.peer.ident, member.name, nthreads)
        self._joined += 1

    def gone(self, member: Member) -> None:
        number = self._numbers.pop(member)
        self._ring.append(self.hub.now(), number + _EXTRACTS.number, _encode([("lost", (), (), ())]))
        self._left.append((number, self._ring.end))
        while self._left[0][1] <= self._ring.first:
            del self._voices[self._left.popleft()[0]]

    def _notes(self) -> Iterator[tuple[float, _Who, _Source | _Extracts, bytes]]:
        for now, number, blob in self._ring.records():
            origin = number % len(_ORIGINS)
            yield now, self._voices[number - origin], _ORIGINS[origin], blob

    # Questions

    def topics(self) -> Mapping[str, Ask]:
        return {"story": self._story, "task_stream": self._task_stream}

    def _story(self, inquiry: Inquiry) -> None:
        """What has happened to some tasks."""
        keys: list[str] = read(inquiry, list[str], "a list of keys")
        self._set_clock()
        found: list[dict[str, Any]] = []
        self._search(inquiry, self._tell(frozenset(keys), found), found)

    def _task_stream(self, inquiry: Inquiry) -> None:
        """Which task ran where and when."""
        span: _Span = read(inquiry, _Span, "a map of start, stop and count")
        self._set_clock()
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
        # A frame that has not got these bytes does not name a task that is wanted.
        spelt = [key.encode() for key in wanted]
        #: The attempts of tasks that are wanted, of each worker that has any.
        runs: dict[_Who, dict[int, str]] = {}
        for now, who, source, blob in self._notes():
            if who in runs or any(key in blob for key in spelt):
                mine = runs.pop(who, {})
                for tale in source.tales(source.decode(blob)):
                    self._tell_of(Note(now, who, *tale), wanted, mine, found)
                if mine:
                    runs[who] = mine
            yield

    def _tell_of(self, note: Note, wanted: frozenset[str], mine: dict[int, str], found: list[dict[str, Any]]) -> None:
        """What a note says of tasks that are wanted.

        :param mine: the attempts of such tasks that its worker was given.
        """
        what, names = note.what, note.names
        if what == "sent":
            for attempt, key in zip(names, note.more):
                if key in wanted:
                    mine[attempt] = key
                    self._add(found, note, key)
        elif what == "lost":
            for key in mine.values():
                self._add(found, note, key)
            mine.clear()
        elif what in _OF_ATTEMPTS:
            for place, attempt in enumerate(names):
                if attempt in mine:
                    key = mine.pop(attempt) if what in _ENDS else mine[attempt]
                    self._add(found, note, key, place)
        else:
            for place, key in enumerate(names):
                if key in wanted and not (what == "doomed" and note.more[place] == key):
                    self._add(found, note, key, place)

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
        runs: dict[_Who, dict[int, str]] = {}
        for now, who, source, blob in self._notes():
            for tale in source.tales(source.decode(blob)):
                note = Note(now, who, *tale)
                if note.what == "sent":
                    runs.setdefault(who, {}).update(zip(note.names, note.more))
                elif note.what in _ENDS:
                    mine = runs.get(who, {})
                    keys = [mine.pop(attempt, None) for attempt in note.names]
                    if note.what in ("finished", "failed"):
                        self._reckon(note, keys, span, found)
                elif note.what == "lost":
                    runs.pop(who, None)
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
