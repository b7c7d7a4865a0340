"""Locks, semaphores, events, queues and variables: the core's answers, to the clients that asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Final, NamedTuple

import msgspec

from treadle.core.coordinated import LOCK, SEMAPHORE
from treadle.core.coordination import Coordination
from treadle.errors import UserError
from treadle.scheduler.keeping import Keeper, check_size, read
from treadle.scheduler.members import Member
from treadle.scheduler.services import Ask, Hub, Inquiry, Service
from treadle.scheduler.topics import QuestionError
from treadle.wire.limits import ITEM_BYTES

__all__ = ["Coordinating"]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
#: How many there may be; 0 for any number, where that makes sense.
Limit = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
#: The number of an inquiry.
Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]

#: How often, in the time of a lease, it is looked whether one has ended.
LOOKS: Final = 4

#: The packed value None.
_NOTHING: Final = b"\xc0"


class Reserved(NamedTuple):
    name: Name
    limit: Limit


class Put(NamedTuple):
    name: Name
    limit: Limit
    data: bytes
    keys: list[str]
    place: Number


class Take(NamedTuple):
    name: Name
    limit: Limit
    most: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    wait: bool


class Coordinating(Service):
    """Feeds a :class:`~treadle.core.coordination.Coordination` with what clients ask."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._core: Final = Coordination(hub.settings.lease)
        self._keeper: Final = Keeper(hub, "coordination")
        #: Those that are not answered yet, by client and number.
        self._open: Final[dict[str, dict[int, Inquiry]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looked = 0.0

    def topics(self) -> Mapping[str, Ask]:
        events: dict[str, Callable[[Inquiry], None]] = {
            "lock.acquire": self._acquire_lock,
            "semaphore.acquire": self._acquire,
            "event.wait": self._wait,
            "event.set": self._set,
            "queue.reserve": self._reserve,
            "queue.put": self._put,
            "queue.take": self._take,
            "queue.close": self._close_queue,
            "variable.set": self._assign,
            "variable.get": self._read,
            "variable.delete": self._delete,
            "lease.release": self._release,
            "lease.renew": self._renew,
        }
        return {**{topic: self._event(event) for topic, event in events.items()}, **self._questions()}

    def _questions(self) -> dict[str, Ask]:
        core = self._core
        return {
            "lock.locked": lambda inquiry: inquiry.answer(core.held(LOCK, _name(inquiry)) > 0),
            "semaphore.value": lambda inquiry: inquiry.answer(core.held(SEMAPHORE, _name(inquiry))),
            "event.is_set": lambda inquiry: inquiry.answer(core.is_set(_name(inquiry))),
            "queue.size": lambda inquiry: inquiry.answer(core.size(_name(inquiry))),
        }

    def gone(self, member: Member) -> None:
        if member.role == "client":
            ident = member.peer.ident
            self._open.pop(ident, None)
            self._core.on_gone(ident, self.hub.now())
            self._deliver()

    def withdrawn(self, member: Member, number: int) -> None:
        ident = member.peer.ident
        self._open.get(ident, {}).pop(number, None)
        self._core.on_withdrawn(ident, number, self.hub.now())
        self._deliver()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # What clients ask

    def _event(self, event: Callable[[Inquiry], None]) -> Ask:
        """A handler of inquiries that the core hears of."""

        def ask(inquiry: Inquiry) -> None:
            waiting = self._open.setdefault(inquiry.member.peer.ident, {})
            if inquiry.id in waiting:
                raise QuestionError(f"the number {inquiry.id} is that of an earlier inquiry, which is not over")
            waiting[inquiry.id] = inquiry
            try:
                event(inquiry)
            except (UserError, QuestionError) as error:
                del waiting[inquiry.id]
                raise QuestionError(str(error)) from None
            self._deliver()
            if inquiry.over:
                waiting.pop(inquiry.id, None)

        return ask

    def _acquire_lock(self, inquiry: Inquiry) -> None:
        name, wait = read(inquiry, tuple[Name, bool], "a name, and whether to wait")
        self._core.on_acquire(*_who(inquiry), LOCK, name, 1, wait, self.hub.now())

    def _acquire(self, inquiry: Inquiry) -> None:
        kind = tuple[Name, Annotated[int, msgspec.Meta(ge=1, le=2**31)], bool]
        name, limit, wait = read(inquiry, kind, "a name, the number of permits, and whether to wait")
        self._core.on_acquire(*_who(inquiry), SEMAPHORE, name, limit, wait, self.hub.now())

    def _wait(self, inquiry: Inquiry) -> None:
        self._core.on_wait(*_who(inquiry), _name(inquiry), self.hub.now())

    def _set(self, inquiry: Inquiry) -> None:
        name, on = read(inquiry, tuple[Name, bool], "a name, and whether the event is to be set")
        self._core.on_set(name, on, self.hub.now())
        inquiry.answer(None)

    def _reserve(self, inquiry: Inquiry) -> None:
        given: Reserved = read(inquiry, Reserved, "a name and a size")
        self._core.on_reserve(*_who(inquiry), given.name, given.limit, self.hub.now())

    def _put(self, inquiry: Inquiry) -> None:
        put: Put = read(inquiry, Put, "a name, a size, a packed value, keys, and the number of a place")
        check_size("the item", put.data, ITEM_BYTES)
        who = _who(inquiry)
        self._core.on_put(*who, put.name, put.limit, put.data, put.keys, put.place, self.hub.now())

    def _take(self, inquiry: Inquiry) -> None:
        take: Take = read(inquiry, Take, "a name, a size, how many items, and whether to wait")
        self._core.on_take(*_who(inquiry), take.name, take.limit, take.most, take.wait, self.hub.now())

    def _close_queue(self, inquiry: Inquiry) -> None:
        self._core.on_close_queue(inquiry.member.peer.ident, _name(inquiry), self.hub.now())
        inquiry.answer(None)

    def _assign(self, inquiry: Inquiry) -> None:
        name, data, keys = read(inquiry, tuple[Name, bytes, list[str]], "a name, a packed value, and keys")
        check_size("the value", data, ITEM_BYTES)
        self._core.on_assign(name, data, keys, self.hub.now())
        inquiry.answer(None)

    def _read(self, inquiry: Inquiry) -> None:
        name, wait = read(inquiry, tuple[Name, bool], "a name, and whether to wait")
        self._core.on_read(*_who(inquiry), name, wait, self.hub.now())

    def _delete(self, inquiry: Inquiry) -> None:
        self._core.on_delete(_name(inquiry))
        inquiry.answer(None)

    def _release(self, inquiry: Inquiry) -> None:
        number, consumed = read(inquiry, tuple[Number, bool], "the number of a lease, and whether its items are taken")
        held = self._core.on_release(inquiry.member.peer.ident, number, consumed, self.hub.now())
        inquiry.answer(held)

    def _renew(self, inquiry: Inquiry) -> None:
        self._core.on_renew(inquiry.member.peer.ident, self.hub.now())
        inquiry.answer(None)

    # What they are told

    def _deliver(self) -> None:
        core = self._core
        if core.kept:
            self._keeper.keep(core.kept)
            core.kept.clear()
        if core.dropped:
            self._keeper.drop(core.dropped)
            core.dropped.clear()
        for ident, number, value in core.answers:
            inquiry = self._open.get(ident, {}).pop(number, None)
            if inquiry is not None:
                inquiry.answer(value)
        core.answers.clear()
        for ident, number in core.lost:
            member = self.hub.roster.clients.get(ident)
            if member is not None:
                self.hub.send(member, "event", "lease.lost", [(number, time.time(), _NOTHING)])
        core.lost.clear()
        if self._timer is None and core.leased:
            self._look_later()

    # Silence

    def _look_later(self) -> None:
        """Look at the clock from time to time, while there are leases."""
        self._looked = self.hub.now()
        self._timer = self.hub.loop.call_later(self._core.lease / LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self.hub.now()
        overdue = now - self._looked - self._core.lease / LOOKS
        if overdue > self._core.lease / LOOKS:
            self._core.forgive(overdue)  # this process was stopped, or starved
        self._core.tick(now)
        self._deliver()


def _who(inquiry: Inquiry) -> tuple[str, int]:
    return inquiry.member.peer.ident, inquiry.id


def _name(inquiry: Inquiry) -> str:
    name: str = read(inquiry, Name, "a name")
    return name
