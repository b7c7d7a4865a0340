"""What every worker has to have before it runs tasks: plugins and files, which are opaque here."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from treadle.scheduler.services import Ask, Heed, Hub, Inquiry, Service
from treadle.scheduler.topics import QuestionError
from treadle.wire.messages import Error, Message, Ready

if TYPE_CHECKING:
    from treadle.scheduler.members import Member

__all__ = ["Setups"]

log = logging.getLogger("treadle.scheduler")


#: A worker that leaves meanwhile proves nothing, but what ends all of them must not be sent to the next ones.
_ALL_GONE: Final = "all workers that were asked were gone before they had answered; the setup may have ended them"


class Registration(NamedTuple):
    """The argument of the question ``setup``."""

    name: str
    blob: bytes
    #: True: if the name is taken, leave everything as it is.
    idempotent: bool = False


class Row(NamedTuple):
    """One thing that all workers have."""

    number: int
    name: str
    blob: bytes


class Waiting:
    """A registration that workers have not answered yet."""

    def __init__(self, inquiry: Inquiry, row: Row, members: set[Member]) -> None:
        self.inquiry: Final = inquiry
        self.row: Final = row
        self.members: Final = members
        #: How many were asked, and the name of each that could not, with the reason.
        self.asked: Final = len(members)
        self.failures: Final[list[tuple[str, Error]]] = []
        #: How many have answered. Others were gone before they could.
        self.answers = 0

    def __repr__(self) -> str:
        return f"<Waiting for {len(self.members)} of {self.asked} workers to set up {self.row.name!r}>"


class Setups(Service):
    """Keeps the rows, sends them to whoever joins, and tells a client when all workers have one.

    A row is sent at once, and not at the end of the turn of the loop: it is to be there before the tasks that the core
    has for the worker in this turn.
    """

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._rows: Final[dict[str, Row]] = {}
        self._numbers: Final = itertools.count(1)
        self._waiting: Final[dict[int, Waiting]] = {}

    def __repr__(self) -> str:
        return f"<Setups: {', '.join(self._rows) or 'none'}>"

    def topics(self) -> Mapping[str, Ask]:
        return {"setup": self._setup, "teardown": self._teardown, "setups": self._names}

    def messages(self) -> Mapping[type[Message], Heed]:
        return {Ready: self._ready}

    def joined(self, member: Member) -> None:
        if member.role == "worker":
            for row in self._rows.values():
                member.link.send([("setup", [row])])

    def gone(self, member: Member) -> None:
        for waiting in list(self._waiting.values()):
            self._heard(waiting, member)

    def _setup(self, inquiry: Inquiry) -> None:
        """Have all workers set something up. Answered by how many were asked, and who could not and why."""
        try:
            given = msgspec.convert(inquiry.argument, Registration)
        except msgspec.ValidationError as error:
            raise QuestionError(f"the argument of 'setup' must be a name, bytes and a bool ({error})") from None
        if given.idempotent and given.name in self._rows:
            inquiry.answer((0, []))
            return
        self._remove(given.name)
        row = self._rows[given.name] = Row(next(self._numbers), given.name, given.blob)
        members = set(self.hub.roster.workers.values())
        for member in members:
            member.link.send([("setup", [row])])
        log.info("setup %d: %r, %d bytes, for %d workers and those to come", *row[:2], len(row.blob), len(members))
        self._waiting[row.number] = waiting = Waiting(inquiry, row, members)
        self._settle(waiting)

    def _teardown(self, inquiry: Inquiry) -> None:
        """Have something undone everywhere. Answered by whether there was anything of this name."""
        name = inquiry.argument
        if not isinstance(name, str):
            raise QuestionError("the argument of 'teardown' must be a name")
        inquiry.answer(self._remove(name))

    def _names(self, inquiry: Inquiry) -> None:
        inquiry.answer(list(self._rows))

    def _remove(self, name: str) -> bool:
        row = self._rows.pop(name, None)
        if row is None:
            return False
        for member in self.hub.roster.workers.values():
            member.link.send([("teardown", [row.number])])
        return True

    def _ready(self, member: Member, message: Ready) -> None:
        waiting = self._waiting.get(message.number)
        if message.error is not None:
            log.warning("setup %d failed on %s: %s", message.number, member, message.error[2].strip()[-2000:])
        if waiting is not None and member in waiting.members:
            waiting.answers += 1
            if message.error is not None:
                waiting.failures.append((member.name, message.error))
            self._heard(waiting, member)

    def _heard(self, waiting: Waiting, member: Member) -> None:
        if member in waiting.members:
            waiting.members.discard(member)
            self._settle(waiting)

    def _settle(self, waiting: Waiting) -> None:
        """Answer once everybody has. What could not be set up everywhere is undone where it could."""
        if waiting.members:
            return
        row = waiting.row
        if waiting.asked and not waiting.answers:
            waiting.failures.append(("all workers", ("raised", b"", _ALL_GONE, {})))
        del self._waiting[row.number]
        if waiting.failures and self._rows.get(row.name) is row:
            self._remove(row.name)
        answer: Any = (waiting.asked, waiting.failures)
        waiting.inquiry.answer(answer)
