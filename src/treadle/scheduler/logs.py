"""What tasks and workers have written: kept within bounds, also after the worker is gone, and passed on."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec

from treadle.scheduler.services import Ask, Heed, Hub, Inquiry, Service
from treadle.scheduler.topics import QuestionError
from treadle.wire.messages import Logs, Message

if TYPE_CHECKING:
    from treadle.scheduler.members import Member

__all__ = ["OUTPUT", "LogStore"]

#: The topic of the events that carry what tasks print.
OUTPUT: Final = "treadle.output"

#: Bytes that are kept of one task, and in all. A row counts as its text and so many bytes more.
LIMIT: Final = 64 << 10
TOTAL: Final = 64 << 20
ROW: Final = 100

#: Bytes that may wait for a client that does not read; then it is told how many rows it has missed.
UNSENT: Final = 4 << 20

_encode = msgspec.msgpack.Encoder().encode

#: Whose text it is: a key, or the ident of a worker, and which of these it is.
Owner: TypeAlias = "tuple[bool, str]"


class Line(NamedTuple):
    """What was written at once."""

    time: float
    worker: str
    #: Which attempt at which process: a line that is not finished goes on in the same one only.
    run: str
    #: ``stdout``, ``stderr``, the level of a log record, or ``dropped``.
    source: str
    text: str


class Written:
    """All that is kept of one owner."""

    __slots__ = ("dropped", "lines", "size")

    def __init__(self) -> None:
        self.lines: deque[Line] = deque()
        self.size = 0
        #: How many lines of text are not kept.
        self.dropped = 0


class LogStore(Service):
    """Takes what workers send of it, and answers who asks for it."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        #: The owner that has written last is the last.
        self._written: Final[OrderedDict[Owner, Written]] = OrderedDict()
        self._size = 0
        #: The clients that want to have what their tasks print, and how many rows each of them has missed.
        self._listeners: Final[dict[Member, int]] = {}
        self._events = 0

    def __repr__(self) -> str:
        return f"<LogStore: {self._size} bytes of {len(self._written)} tasks and workers>"

    def topics(self) -> Mapping[str, Ask]:
        return {"logs": self._logs, "worker_logs": self._worker_logs, "forward_output": self._forward}

    def messages(self) -> Mapping[type[Message], Heed]:
        return {Logs: self._take}

    def gone(self, member: Member) -> None:
        self._listeners.pop(member, None)

    # In

    def _take(self, member: Member, message: Logs) -> None:
        for attempt, key, time, source, text in message.rows:
            owner = (True, key) if attempt or key else (False, member.name)
            self._keep(owner, Line(time, member.name, f"{member.peer.ident} {attempt}", source, text))
        while self._size > TOTAL:
            _, written = self._written.popitem(last=False)
            self._size -= written.size
        if self._listeners:
            self._tell(member, message)

    def _keep(self, owner: Owner, line: Line) -> None:
        written = self._written.get(owner)
        if written is None:
            written = self._written[owner] = Written()
        else:
            self._written.move_to_end(owner)
        if line.source == "dropped":  # it stays among the others: a line does not go on after it
            written.dropped += int(line.text) if line.text.isdecimal() else 0
        written.lines.append(line)
        size = _size(line)
        written.size += size
        self._size += size
        while written.size > LIMIT and len(written.lines) > 1:
            oldest = written.lines.popleft()
            written.dropped += oldest.text.count("\n")
            size = _size(oldest)
            written.size -= size
            self._size -= size

    # Out

    def _logs(self, inquiry: Inquiry) -> None:
        """What a task has written: how many lines were dropped, and the rows that are left."""
        if not isinstance(inquiry.argument, str):
            raise QuestionError("the argument of 'logs' must be a key")
        inquiry.answer(self._of((True, inquiry.argument)))

    def _worker_logs(self, inquiry: Inquiry) -> None:
        """What workers, present or gone, have written outside of tasks; all of them if the argument is nil."""
        try:
            names = msgspec.convert(inquiry.argument, list[str] | None)
        except msgspec.ValidationError as error:
            raise QuestionError(f"the argument of 'worker_logs' must be a list of workers, or nil ({error})") from None
        if names is None:
            names = [name for of_task, name in self._written if not of_task]
        inquiry.answer({name: self._of((False, name)) for name in names})

    def _of(self, owner: Owner) -> tuple[int, list[Line]]:
        written = self._written.get(owner)
        return (0, []) if written is None else (written.dropped, list(written.lines))

    # To those who listen

    def _forward(self, inquiry: Inquiry) -> None:
        """Begin or end to send a client what its tasks print."""
        if not isinstance(inquiry.argument, bool):
            raise QuestionError("the argument of 'forward_output' must be true or false")
        if inquiry.argument:
            self._listeners.setdefault(inquiry.member, 0)
        else:
            self._listeners.pop(inquiry.member, None)
        inquiry.answer(None)

    def _tell(self, member: Member, message: Logs) -> None:
        rows: dict[Member, list[tuple[int, float, bytes]]] = {}
        for attempt, key, time, source, text in message.rows:
            if source == "dropped" or not (attempt or key):
                continue
            for listener in self._listeners:
                if self._is_of(key, listener):
                    self._events += 1
                    packed = _encode((key, member.name, source, text))
                    rows.setdefault(listener, []).append((self._events, time, packed))
        for listener, events in rows.items():
            self._push(listener, events)

    def _push(self, listener: Member, events: list[tuple[int, float, bytes]]) -> None:
        if listener.link.unsent > UNSENT:
            self._listeners[listener] += len(events)
            return
        missed, self._listeners[listener] = self._listeners[listener], 0
        if missed:
            events.insert(0, (self._events, events[0][1], _encode(("", "", "dropped", str(missed)))))
        self.hub.send(listener, "event", OUTPUT, events)

    def _is_of(self, key: str, listener: Member) -> bool:
        """Whether a client has submitted a task, or something that needs it."""
        task = self.hub.core.tasks.get(key)
        seen = 0
        while task is not None and seen < 1000:
            if listener.peer in task.clients:
                return True
            # Tasks of a graph that nobody wants for themselves belong to who wants what is made of them.
            task = task.dependents[-1] if task.dependents else None
            seen += 1
        return False


def _size(line: Line) -> int:
    return len(line.text) + ROW
