"""The scheduler without its process: connections on one side, the core on the other."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from treadle.core.scheduler import Scheduler
from treadle.errors import InternalError, ProtocolError, RefusedError, UserError
from treadle.net.listener import HANDSHAKE_TIMEOUT, Listener
from treadle.scheduler.coordination import Coordinating
from treadle.scheduler.errands import Errands
from treadle.scheduler.events import FROM_CLIENT, FROM_WORKER, Handler
from treadle.scheduler.garbage import Sweeper
from treadle.scheduler.journal import Journal
from treadle.scheduler.logs import LogStore
from treadle.scheduler.management import Management
from treadle.scheduler.members import Member, Roster, WorkerDetails, plural, read_details, read_versions
from treadle.scheduler.plugins import Plugins
from treadle.scheduler.running import Running
from treadle.scheduler.scattering import Scattering
from treadle.scheduler.services import Ask, Heed, Hub, Inquiry, Listen, Service
from treadle.scheduler.settings import Settings
from treadle.scheduler.setups import Setups
from treadle.scheduler.sharing import Sharing
from treadle.scheduler.topics import QuestionError, Topics
from treadle.wire import messages
from treadle.wire.frames import AFTER_HANDSHAKE, Limits, encode_frame, sole_control

if TYPE_CHECKING:
    from treadle.core.records import Peer
    from treadle.net.link import Link
    from treadle.wire.handshake import Hello

__all__ = ["Observer", "Server"]

S = TypeVar("S", bound=Service)

log = logging.getLogger("treadle.scheduler")

#: Seconds between two looks at the clock: while the core waits for a moment to come, and otherwise.
SOON: Final = 0.02
LATER: Final = 1.0

#: Seconds between two signs of life of a worker.
HEARTBEAT: Final = 1.0

#: Seconds that the goodbye may take.
GOODBYE: Final = 1.0

_DEFAULTS: Final = Settings()

#: Values never pass through the scheduler, so nobody has a buffer to send to it.
LIMITS: Final = Limits(AFTER_HANDSHAKE.control, 0, 0)

_DECODERS: Final = {
    "client": messages.FROM_CLIENT,
    "worker": messages.FROM_WORKER,
    "supervisor": messages.FROM_SUPERVISOR,
}


#: In the order in which they are told of events.
_SERVICES: Final[list[Callable[[Hub], Service]]] = [
    Management,
    Running,
    Coordinating,
    Errands,
    Scattering,
    Sharing,
    Setups,
    LogStore,
    Plugins,
]


class Observer(Protocol):
    """Somebody who wants to know of workers that come and go."""

    def joined(self, member: Member) -> None: ...

    def gone(self, member: Member) -> None: ...


class Server:
    """Feeds one core with what arrives, and sends what it returns.

    What has arrived in one turn of the event loop is answered at its end: each peer gets one frame.
    """

    def __init__(
        self,
        *,
        token: bytes,
        incarnation: str,
        settings: Settings = _DEFAULTS,
        observer: Observer | None = None,
        stop: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        :param incarnation: a name that no other start of a scheduler has.
        :param stop: has this process end, and everybody told the reason.
        """
        self.core: Final = Scheduler()
        self.roster: Final = Roster()
        self._token: Final = token
        self._incarnation: Final = incarnation
        self.settings: Final = settings
        self._observer: Final = observer
        self._stop: Final = stop
        self._clock: Final = clock
        self._sweeper: Final = Sweeper(self.core)
        #: Who is behind the peers of the core.
        self._members: Final[dict[Peer, Member]] = {}
        self._answers: Final[list[tuple[Member, tuple[Any, ...]]]] = []
        #: Inquiries that are not over, by client and number.
        self._inquiries: Final[dict[Member, dict[int, Inquiry]]] = {}
        #: Peers without a connection, and who hears what the core has to say to them.
        self._listeners: Final[dict[Peer, Listen]] = {}
        self._journal: Final = Journal(self)
        self._services: Final[list[Service]] = [self._journal, *[make(self) for make in _SERVICES]]
        self._asks: Final[dict[str, Ask]] = {}
        self._from_client: Final[dict[type, Handler]] = {
            **FROM_CLIENT,
            messages.Ask: self._ask,
            messages.Withdraw: self._withdraw,
        }
        self._from_worker: Final[dict[type, Handler]] = {**FROM_WORKER, messages.Leaving: self._leave}
        for service in self._services:
            self._asks.update(service.topics())
            for kind, heed in service.messages().items():
                self._from_worker[kind] = self._handler(heed)
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._looked = clock()
        self._closing = False

    async def listen(self, host: str, port: int) -> None:
        """Open for business at an address.

        :raises AddressInUseError: somebody else listens there.
        """
        self._open(
            await Listener.listen(
                host,
                port,
                token=self._token,
                incarnation=self._incarnation,
                decoders=_DECODERS,
                admit=self._admit,
                connected=self._connected,
                limits=LIMITS,
            )
        )

    async def take_over(self, sock: socket.socket) -> None:
        """Open for business at a socket that listens already."""
        sock.setblocking(False)
        self._open(
            Listener(
                sock,
                self._token,
                self._incarnation,
                _DECODERS,
                self._admit,
                self._connected,
                LIMITS,
                HANDSHAKE_TIMEOUT,
            )
        )

    def _open(self, listener: Listener) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        #: ``host:port``.
        self.address = listener.address
        about = {"address": self.address, "incarnation": self._incarnation}
        self._topics = Topics(self.core, self.roster, about, self._asks)
        self._wake_at(LATER)

    async def close(self, reason: str) -> None:
        """Tell everybody, and close all connections."""
        self._closing = True
        self._tell_services("close")
        self._listener.close()
        if self._timer is not None:
            self._timer.cancel()
        for member in self.roster.workers.values():
            member.link.send([("shutdown", reason)])
        waiting = [asyncio.ensure_future(self._emptied())]
        waiting += [asyncio.ensure_future(member.link.drain()) for member in self.roster.clients.values()]
        await asyncio.wait(waiting, timeout=GOODBYE)
        for each in waiting:
            each.cancel()
        for member in self.roster.all():
            member.link.close(reason)

    async def _emptied(self) -> None:
        """Wait until the workers have gone. If we closed first, they might never read why."""
        while self.roster.workers:
            member = next(iter(self.roster.workers.values()))
            await member.link.wait_closed()
            self._forget(member)

    # Who comes and goes

    def _admit(self, hello: Hello, peer: str) -> dict[str, Any]:
        """Decide on a handshake, whose token is right; returns what to tell the other side."""
        who = f"the {hello.role} at {peer}"
        if self._closing:
            raise RefusedError("this scheduler is shutting down")
        if hello.role in ("client", "worker"):
            self.roster.check_versions(who, hello.python)
        details = read_details(hello.details) if hello.role == "worker" else None
        self.roster.check_unique(hello.role, hello.ident, details)
        hello.details.update(python=hello.python, treadle=hello.version)  # to be had from the link too
        return {"heartbeat": HEARTBEAT}

    def _connected(self, link: Link) -> None:
        if link.role == "supervisor":
            link.start(self._from_supervisor, _nothing)
            return
        details = read_details(link.details) if link.role == "worker" else None
        try:
            self.roster.check_unique(link.role, link.ident, details)
        except RefusedError as error:  # two of them shook hands at the same time
            log.warning("%s %s: connection closed, because %s", link.role, link.peer, error)
            link.close(str(error))
            return
        if details is not None:
            self._worker_joined(link, details)
        else:
            self._client_joined(link)

    def _worker_joined(self, link: Link, details: WorkerDetails) -> None:
        name = details.name or details.address
        now = self._clock()
        worker = self.core.on_worker(
            link.ident,
            details.address,
            name,
            details.host,
            details.nthreads,
            details.memory_limit,
            details.resources,
            details.supervised,
            now,
        )
        member = Member("worker", link, worker, name, read_versions(link.details), details)
        self._enter(member, self._from_worker, now)
        log.info("%s joins, pid %d: now %s", member, details.pid, self.roster.counts())
        if self._observer is not None:
            self._observer.joined(member)

    def _client_joined(self, link: Link) -> None:
        now = self._clock()
        client = self.core.on_client(link.ident, now)
        member = Member("client", link, client, link.ident, read_versions(link.details), None)
        self._enter(member, self._from_client, now)
        log.info("%s joins: now %s", member, plural(len(self.roster.clients), "client"))

    def _enter(self, member: Member, handlers: dict[type, Handler], now: float) -> None:
        member.heard = now
        self.roster.of(member.role)[member.peer.ident] = member
        self._members[member.peer] = member
        member.link.start(
            lambda received, buffers: self._receive(member, handlers, received),
            lambda reason: self._closed(member, reason),
        )
        self.flush_soon()
        self._tell_services("joined", member)

    def _closed(self, member: Member, reason: str) -> None:
        """The connection is gone, whoever closed it."""
        if not self._forget(member) or self._closing:
            return
        if member.role == "worker":
            log.warning("%s is lost (%s): %s left", member, reason, self.roster.counts())
            self._feed(self.core.on_worker_lost, member.peer, self._clock())
        else:
            log.info("%s is gone (%s): %s left", member, reason, plural(len(self.roster.clients), "client"))
            self._feed(self.core.on_client_gone, member.peer, self._clock())

    def _leave(self, core: Scheduler, worker: Any, message: messages.Leaving, now: float) -> None:
        member = self._members.get(worker)
        if member is not None and self._forget(member):
            log.info("%s leaves: %s left", member, self.roster.counts())
            if not self._closing:
                core.on_worker_left(worker, now)

    def _forget(self, member: Member) -> bool:
        """Take the member off all lists; False if it was on none."""
        if self._members.pop(member.peer, None) is None:
            return False
        self.roster.of(member.role).pop(member.peer.ident)
        for inquiry in self._inquiries.pop(member, {}).values():
            inquiry.over = True
        self._tell_services("gone", member)
        if self._observer is not None and member.role == "worker":
            self._observer.gone(member)
        return True

    # What they say

    def _receive(self, member: Member, handlers: dict[type, Handler], received: list[Any]) -> None:
        now = member.heard = self._clock()
        core = self.core
        peer = member.peer
        self.flush_soon()
        if peer in self._members:
            self._journal.came(member, member.link.control, received, now)
        for message in received:
            if peer not in self._members:
                return  # it has left: what it says after that concerns nobody
            if self._closing and type(message) is not messages.Leaving:
                continue
            try:
                handlers[type(message)](core, peer, message, now)
            except ProtocolError:
                raise  # costs the connection
            except Exception as error:
                _report(error, f"on {type(message).__name__} from {member}")

    def _from_supervisor(self, received: list[Any], buffers: list[memoryview]) -> None:
        for died in received:
            member = self.roster.workers.get(died.ident)
            reason = f"its process {died.pid} ended with status {died.exitcode}"
            known = self.core.workers.get(died.ident)
            log.warning("worker %s died: %s", died.ident if known is None else known.name, reason)
            if member is not None:
                # The news came before the end of the connection did.
                self._closed(member, reason)
                member.link.close(reason)
            self._feed(
                self.core.on_worker_died,
                died.ident,
                died.executing,
                died.exitcode,
                died.pid,
                died.host,
                died.log,
                self._clock(),
            )

    def _feed(self, event: Callable[..., None], *arguments: Any) -> None:
        """An event that is nobody's message."""
        self.flush_soon()
        try:
            event(*arguments)
        except Exception as error:
            _report(error, f"in {event.__name__}")

    def _handler(self, heed: Heed) -> Handler:
        """A handler of messages of workers for one service."""
        return lambda core, peer, message, now: heed(self._members[peer], message)

    def _ask(self, core: Scheduler, client: Any, message: messages.Ask, now: float) -> None:
        member = self._members[client]
        inquiry = Inquiry(self, member, message.id, message.topic, message.argument)
        try:
            ask = self._asks.get(message.topic)
            if ask is None:
                inquiry.answer(self._topics.answer(message.topic, message.argument))
            else:
                ask(inquiry)
        except QuestionError as error:
            inquiry.refuse(str(error))
        if not inquiry.over:
            self._inquiries.setdefault(member, {})[inquiry.id] = inquiry

    def _withdraw(self, core: Scheduler, client: Any, message: messages.Withdraw, now: float) -> None:
        member = self._members[client]
        inquiry = self._inquiries.get(member, {}).pop(message.id, None)
        if inquiry is not None:
            inquiry.over = True
        self._tell_services("withdrawn", member, message.id)

    def _tell_services(self, event: str, *args: Any) -> None:
        """Have all services react, also if one of them fails."""
        for service in self._services:
            try:
                getattr(service, event)(*args)
            except Exception as error:
                _report(error, f"in {event} of {type(service).__name__}")

    def watch(self, kind: type[messages.Message], watcher: Heed) -> None:
        """Have somebody see each message of a kind before it is handled."""
        for handlers in (self._from_client, self._from_worker):
            if kind in handlers:
                handlers[kind] = self._watched(handlers[kind], watcher)

    def _watched(self, handler: Handler, watcher: Heed) -> Handler:
        def watched(core: Scheduler, peer: Any, message: Any, now: float) -> None:
            watcher(self._members[peer], message)
            handler(core, peer, message, now)

        return watched

    def service(self, kind: type[S]) -> S:
        """The service of a class."""
        return next(service for service in self._services if isinstance(service, kind))

    # What they are told

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def now(self) -> float:
        return self._clock()

    def stop(self, reason: str) -> None:
        if self._stop is not None:
            self._stop(reason)

    def attend(self, peer: Peer, listen: Listen) -> None:
        self._listeners[peer] = listen

    def send(self, member: Member, *message: Any) -> None:
        """Send one message, after what the core has to say to that member in this turn of the loop."""
        if message[0] == "answer":
            self._inquiries.get(member, {}).pop(message[1], None)
        self._answers.append((member, message))
        self.flush_soon()

    def flush_soon(self) -> None:
        """Send what there is to send at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        now = self._clock()
        for peer in self.core.flush():
            rows = peer.take()
            member = self._members.get(peer)
            if member is not None:
                self._send(member, rows, now)
            elif peer in self._listeners:
                self._listeners[peer](rows)
        if self._answers:
            answers = self._answers.copy()
            self._answers.clear()
            for member, message in answers:
                if member.peer in self._members:
                    self._send(member, [message], now)
        if self.core.restless:
            self._wake_at(SOON)

    def _send(self, member: Member, rows: list[tuple[Any, ...]], now: float) -> None:
        link = member.link
        try:
            pieces = encode_frame(rows)
            link.send_pieces(pieces)  # first: somebody waits for it
            self._journal.went(member, sole_control(pieces), rows, now)
        except UserError as error:  # more than a frame can hold
            if len(rows) > 1:
                self._send(member, rows[: len(rows) // 2], now)
                self._send(member, rows[len(rows) // 2 :], now)
            else:
                link.close(str(error))
        except Exception as error:
            _report(error, f"on the way to {member}")
        limit = self.settings.unsent_limit
        if link.unsent > limit and member.role == "client":
            link.close(f"it does not read: {link.unsent:,} bytes wait for it, where {limit:,} are allowed to")

    # What the clock says

    def _wake_at(self, seconds: float) -> None:
        """Look at the clock in so many seconds, unless that happens earlier anyway."""
        due = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock()
        self._feed(self.core.tick, now)
        passed = now - self._looked
        if passed >= LATER:
            self._looked = now
            if passed > 2 * LATER:
                self._forgive(passed)
            self._check_silent(now)
            self._sweeper.look()
        self._wake_at(LATER)

    def _forgive(self, seconds: float) -> None:
        """This process was stopped, or starved: what the workers said meanwhile is still to be read."""
        for member in self.roster.workers.values():
            member.heard += seconds

    def _check_silent(self, now: float) -> None:
        for member in list(self.roster.workers.values()):
            if now - member.heard > self.settings.worker_timeout:
                member.link.close(f"it was silent for {now - member.heard:.0f} seconds")


def _nothing(reason: str) -> None:
    """What the end of a supervisor's connection means."""


def _report(error: Exception, where: str) -> None:
    """A bug of ours is logged with its story. Everybody else's work goes on."""
    kind = "a broken invariant" if isinstance(error, InternalError) else "an unexpected error"
    log.error("%s of the scheduler %s; please report this:", kind, where, exc_info=error)
