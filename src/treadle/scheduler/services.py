"""What the scheduler does for its users besides scheduling: what each such service is given, and may react to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    import asyncio

    from treadle.core.records import Peer
    from treadle.core.scheduler import Scheduler
    from treadle.scheduler.members import Member, Roster
    from treadle.scheduler.settings import Settings
    from treadle.wire.messages import Message

__all__ = ["Ask", "Heed", "Hub", "Inquiry", "Listen", "Service"]


class Hub(Protocol):
    """What a service may use of the server."""

    @property
    def core(self) -> Scheduler: ...
    @property
    def roster(self) -> Roster: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    def now(self) -> float:
        """Seconds on the clock that the core lives by."""

    def send(self, member: Member, *message: Any) -> None:
        """Send one message, after what the core has to say to that member in this turn of the loop."""

    def attend(self, peer: Peer, listen: Listen) -> None:
        """Hear what the core has to say to a client that is none: one that ``core.on_client`` made for a service."""

    def watch(self, kind: type[Message], watcher: Heed) -> None:
        """Have somebody see each message of a kind before it is handled."""

    def stop(self, reason: str) -> None:
        """Have the process end, if it may, and everybody told why."""

    def flush_soon(self) -> None:
        """To be called after an event was fed to the core: what it has to say is sent at the end of this turn."""


class Inquiry:
    """A question of a client. It is answered once, at once or later, in the event loop."""

    __slots__ = ("_hub", "argument", "id", "member", "over", "topic")

    def __init__(self, hub: Hub, member: Member, number: int, topic: str, argument: Any) -> None:
        self._hub = hub
        self.member = member
        #: The client's number for it.
        self.id = number
        self.topic = topic
        self.argument = argument
        #: True once it was answered, or nobody waits for the answer any more.
        self.over = False

    def __repr__(self) -> str:
        return f"<Inquiry {self.id} of {self.member} about {self.topic!r}{', over' if self.over else ''}>"

    def answer(self, value: Any) -> None:
        """Answer with what msgpack can carry."""
        self._end(True, value)

    def refuse(self, reason: str) -> None:
        """Answer that there is no answer: the client raises a UserError with this text."""
        self._end(False, reason)

    def _end(self, ok: bool, value: Any) -> None:
        if not self.over:
            self.over = True
            self._hub.send(self.member, "answer", self.id, ok, value)


#: Takes an inquiry, and answers it now or later. A QuestionError refuses it.
Ask: TypeAlias = Callable[[Inquiry], None]
#: Takes a message of a worker.
Heed: TypeAlias = "Callable[[Member, Any], None]"
#: Takes what the core has to say, as it is sent to others.
Listen: TypeAlias = "Callable[[Sequence[tuple[Any, ...]]], None]"


class Service:
    """Base of all services: reacts to nothing. Everything is called in the event loop, and must return at once.

    What is given to the core here is passed by ``hub.core.on_…(…, hub.now())``, followed by ``hub.flush_soon()``.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub: Final = hub

    def topics(self) -> Mapping[str, Ask]:
        """The questions that this service answers."""
        return {}

    def messages(self) -> Mapping[type[Message], Heed]:
        """The messages of workers that are for this service."""
        return {}

    def joined(self, member: Member) -> None:
        """A worker or a client is connected now."""

    def gone(self, member: Member) -> None:
        """It is not any more. Its inquiries are over."""

    def withdrawn(self, member: Member, number: int) -> None:
        """The client does not wait for the answer to this inquiry any more: a grant that was answered is given back.

        Called for inquiries of all services, answered or not.
        """

    def close(self) -> None:
        """The scheduler ends."""
