"""The scheduler's process: it feeds the real core, and needs time to do so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.scheduler import Scheduler
from treadle.errors import ProtocolError
from treadle.testing.recording import UnexaminedError
from treadle.testing.simulation.network import Channel, Frame
from treadle.testing.simulation.timeline import Timeline

if TYPE_CHECKING:
    from treadle.core.records import Client, Worker

__all__ = ["Costs", "Link", "SchedulerProcess"]

#: How often the core's clock ticks: while it has something to correct, and otherwise.
RESTLESS = 0.02
QUIET = 1.0


class Costs(NamedTuple):
    """Processor time in seconds of what the simulation does not run on the machine that it stands for."""

    #: Of the scheduler, for each frame that it receives or sends.
    frame: float = 0.0
    #: Of the scheduler, for each task that is submitted, and for each row of another message that it receives, such as
    #: a finished task.
    submit: float = 0.0
    row: float = 0.0
    #: Of a worker's thread, for each task, besides the task's own time.
    task: float = 0.0


class Link:
    """The scheduler's end of a connection."""

    def __init__(self, peer: Any, out: Channel) -> None:
        #: The core's record of the other side.
        self.peer = peer
        #: What goes to the other side.
        self.out = out
        #: False from when the scheduler has noticed that the other side is gone, or has hung up.
        self.open = True


class SchedulerProcess:
    """A serial server: what arrives while it works waits, and is then dealt with in one turn.

    Of each client, whose frames may be big, it reads one per turn.

    :param violation: called with a link and the error when a peer sends what it may not.
    :param checked: called after every event that the core was fed.
    """

    def __init__(
        self,
        timeline: Timeline,
        costs: Costs,
        violation: Callable[[Link, ProtocolError], None],
        checked: Callable[[], None] | None,
    ) -> None:
        self.core = Scheduler()
        self.timeline = timeline
        self.costs = costs
        self.violation = violation
        self.checked = checked
        self.links: dict[str, Link] = {}
        #: Seconds that the scheduler has worked.
        self.busy = 0.0
        self.frames_in = 0
        self.frames_out = 0
        self._free_at = 0.0
        self._inbox: list[tuple[Callable[..., float], tuple[Any, ...]]] = []
        self._waiting: dict[str, deque[tuple[Callable[..., float], tuple[Any, ...]]]] = {}
        self._awake = False
        self._ticks = 0
        self._tick_at = QUIET
        timeline.background(QUIET, self._clock, 0)

    def post(self, handler: Callable[..., float], *args: Any) -> None:
        """Something has arrived: ``handler(*args)`` deals with it in the next turn and returns what that costs."""
        self._inbox.append((handler, args))
        self._wake()

    def post_in_turn(self, ident: str, handler: Callable[..., float], *args: Any) -> None:
        """The same as :meth:`post` for a client: one of the things that it has sent is dealt with per turn."""
        self._waiting.setdefault(ident, deque()).append((handler, args))
        self._wake()

    def post_quietly(self, handler: Callable[..., float], *args: Any) -> None:
        """The same as :meth:`post` for what comes again and again, so that nothing waits for it."""
        self._inbox.append((handler, args))
        if not self._awake:
            self._awake = True
            self.timeline.background(max(self.timeline.now, self._free_at), self._turn)

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self.timeline.at(max(self.timeline.now, self._free_at), self._turn)

    def from_worker(self, link: Link, frame: Frame) -> float:
        """A handler: a frame of a worker."""
        return self._read(link, frame, _FROM_WORKER)

    def from_client(self, link: Link, frame: Frame) -> float:
        """A handler: a frame of a client."""
        return self._read(link, frame, _FROM_CLIENT)

    def event(self, function: Callable[..., object], *args: Any) -> float:
        """A handler: one call of the core, which is given the time as its last argument."""
        function(*args, self.timeline.now)
        if self.checked is not None:
            self.checked()
        return 0.0

    def _read(self, link: Link, frame: Frame, table: dict[str, Any]) -> float:
        cost = 0.0
        now = self.timeline.now
        for message in frame:
            if not link.open:
                break  # what a peer says after it is gone, or after what it should not have said, is not read
            handler = table.get(message[0])
            if handler is None:
                raise UnexaminedError(f"the scheduler does not know what {link.peer.ident!r} says: {message!r:.200}")
            rows = len(message[1]) if len(message) > 1 and isinstance(message[1], list) else 1
            cost += rows * (self.costs.submit if message[0] == "submit" else self.costs.row)
            if message[0] == "leaving":
                link.open = False
            try:
                handler(self.core, link.peer, message, now)
            except ProtocolError as error:
                self.violation(link, error)
            if self.checked is not None:
                self.checked()
        return self.costs.frame + cost

    def _turn(self) -> None:
        inbox, self._inbox = self._inbox, []
        self._awake = False
        cost = 0.0
        for handler, args in inbox:
            cost += handler(*args)
        for ident, waiting in list(self._waiting.items()):
            handler, args = waiting.popleft()
            cost += handler(*args)
            if not waiting:
                del self._waiting[ident]
        sent = self.core.flush()
        self.frames_in += len(inbox)
        self.frames_out += len(sent)
        cost += len(sent) * self.costs.frame
        self.busy += cost
        self._free_at = self.timeline.now + cost
        if sent:
            outgoing = [(peer.ident, peer.take()) for peer in sent]
            if cost:
                self.timeline.at(self._free_at, self._send, outgoing)
            else:
                self._send(outgoing)
        if self._waiting:
            self._wake()
        if self.core.restless and self._tick_at > self.timeline.now + RESTLESS:
            self._schedule_tick(RESTLESS)

    def _send(self, frames: list[tuple[str, Frame]]) -> None:
        for ident, frame in frames:
            link = self.links.get(ident)
            if link is not None and link.open:
                link.out.send(frame)

    def _schedule_tick(self, delay: float) -> None:
        self._ticks += 1
        self._tick_at = self.timeline.now + delay
        self.timeline.background(self._tick_at, self._clock, self._ticks)

    def _clock(self, serial: int) -> None:
        if serial != self._ticks:
            return
        self._schedule_tick(RESTLESS if self.core.restless else QUIET)
        self.post_quietly(self._tick)

    def _tick(self) -> float:
        self.core.tick(self.timeline.now)
        if self.checked is not None:
            self.checked()
        return 0.0


def _submit(core: Scheduler, client: Client, message: tuple[Any, ...], now: float) -> None:
    _, keys, functions, payloads, deps, wanted, options = message
    given = options or {}
    read = (given.get("priority", 0), given.get("workers"), given.get("resources"), given.get("retries", 0))
    core.on_submit(client, keys, functions, payloads, deps, wanted, read, now)


def _leaving(core: Scheduler, worker: Worker, message: tuple[Any, ...], now: float) -> None:
    core.on_worker_left(worker, now)


_FROM_CLIENT: dict[str, Callable[[Scheduler, Any, tuple[Any, ...], float], object]] = {
    "functions": lambda core, client, message, now: core.on_functions(client, message[1]),
    "submit": _submit,
    "want": lambda core, client, message, now: core.on_want(client, message[1], now),
    "release": lambda core, client, message, now: core.on_release(client, message[1], now),
    "cancel": lambda core, client, message, now: core.on_cancel(client, message[1], now, *message[2:]),
    "retry": lambda core, client, message, now: core.on_retry(client, message[1], now),
    "placed": lambda core, client, message, now: core.on_placed(client, message[1], now),
    "missing": lambda core, client, message, now: core.on_client_missing(client, message[1], now),
    "fence": lambda core, client, message, now: core.on_fence(client, message[1]),
}

_FROM_WORKER: dict[str, Callable[[Scheduler, Any, tuple[Any, ...], float], object]] = {
    "finished": lambda core, worker, message, now: core.on_finished(worker, message[1], now),
    "failed": lambda core, worker, message, now: core.on_failed(worker, message[1], message[2], message[3], now),
    "acquired": lambda core, worker, message, now: core.on_acquired(worker, message[1], now),
    "missing": lambda core, worker, message, now: core.on_missing(worker, message[1], now),
    "unusable": lambda core, worker, message, now: core.on_unusable(worker, message[1], now),
    "returned": lambda core, worker, message, now: core.on_returned(worker, message[1], now),
    "stopped": lambda core, worker, message, now: core.on_stopped(worker, message[1], now),
    "seceded": lambda core, worker, message, now: core.on_seceded(worker, message[1], now),
    "rejoined": lambda core, worker, message, now: core.on_rejoined(worker, message[1], now),
    "started": lambda core, worker, message, now: core.on_started(worker, message[1], now),
    "heartbeat": lambda core, worker, message, now: core.on_heartbeat(
        worker, message[1], message[2], message[3], message[4], now
    ),
    "leaving": _leaving,
}
