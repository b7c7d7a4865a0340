"""One client's connection to a scheduler, shared by the client, its futures, and those who wait for them."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from time import monotonic
from typing import Any, TypeAlias, TypeVar

from treadle.client.claims import Claims
from treadle.client.fetching import Fetcher
from treadle.client.future import FINISHED, PENDING, Future, Place
from treadle.client.latch import Latch, deadline_of, run_async, run_blocking
from treadle.client.outbox import Options, Row
from treadle.client.registry import Registry, Unsettled
from treadle.client.shield import Shield
from treadle.errors import ClosedError, ConnectError, TreadleError, UserError
from treadle.net.dial import dial
from treadle.net.link import Link
from treadle.wire import messages

__all__ = ["Session", "sessions"]

T = TypeVar("T")

#: Number, seconds since the epoch, packed value.
EventRow: TypeAlias = "tuple[int, float, bytes]"

#: From this many tasks, or bytes of arguments, on, a batch does not wait for the loop.
FULL = 4096
FULL_BYTES = 32 << 20

#: Seconds after a batch in which a task waits for the loop to send it, with those that follow. One that comes later is
#: sent at once, by the thread that submits it: to wake the loop takes as long as to send.
BURST = 0.0001
#: Seconds for which releases are collected, unless something is asked that may depend on them: each message of them is
#: in the way of a round trip.
IDLE = 0.005

#: Seconds after which a lock is not waited for any longer where the thread that waits may be the one that has it.
HELD = 0.1

#: Seconds that the goodbye may take.
GOODBYE = 2.0


class Session:
    """Sends what futures need, and settles them with what comes back.

    The loop is that of the caller (an asynchronous client) or one of a thread of its own. Everything but
    :meth:`connect` and the methods that begin with an underscore may be called from any thread.
    """

    def __init__(self, address: str, token: bytes, ident: str) -> None:
        self.address = address
        self.token = token
        self.ident = ident
        self.registry = Registry()
        self.lock = self.registry.lock
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self.fetcher = Fetcher(self)
        self.claims = Claims(self.registry)
        #: The futures that stand for tasks of Dask's persisted collections, by the keys that those have there. Used
        #: with the lock held.
        self.persisted: weakref.WeakValueDictionary[Any, Future[Any]] = weakref.WeakValueDictionary()
        #: Why nothing can be asked any more.
        self.ended: TreadleError | None = None
        #: True in a forked child, whose parent the connection belongs to.
        self.abandoned = False
        self._link: Link | None = None
        #: Held while a batch is taken and sent, so that batches arrive in their order.
        self._sending = threading.Lock()
        self._scheduled = False
        #: When the last batch was sent, and whether the loop is going to look for keys that are not needed any more.
        self._sent = 0.0
        self._tidying = False
        self._count = itertools.count(1)
        self._replies: dict[int, _Reply] = {}
        #: Who is told of the events of a topic, by the topic.
        self._listeners: dict[str, Callable[[Sequence[EventRow]], object]] = {}
        #: Kept, because a loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[object]] = set()
        _sessions.add(self)

    def __repr__(self) -> str:
        return f"<Session {self.ident} at {self.address}, {'ended' if self.ended else 'open'}>"

    # The connection

    async def connect(self, timeout: float) -> None:
        """Dial the scheduler, on the loop that is to be this session's.

        :raises ConnectError: nobody answered in time.
        :raises RefusedError: the scheduler does not want this client.
        """
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        link = await dial(
            self.address,
            role="client",
            ident=self.ident,
            token=self.token,
            details={"pid": os.getpid()},
            decoder=messages.FROM_SCHEDULER_TO_CLIENT,
            timeout=timeout,
        )
        self._link = link
        link.start(self._receive, self._lost)

    @property
    def cluster(self) -> str:
        """The incarnation of the scheduler: no other cluster has the same."""
        return "" if self._link is None else self._link.incarnation

    def check(self) -> None:
        """:raises ClosedError: the client is closed, or not yet connected, or belongs to the parent process.
        :raises ConnectError: its connection was lost."""
        ended = self.ended
        if ended is not None:
            raise type(ended)(*ended.args)
        if self._link is None:
            raise ClosedError("this client is not connected yet: use `async with`, or `await` it first")

    def _lost(self, reason: str) -> None:
        """The connection is gone. Until a session can be resumed, everything that it had to bring is lost with it."""
        self.end(ConnectError(self.address, f"the connection to the scheduler was lost ({reason or 'it was closed'})"))

    def end(self, error: TreadleError) -> None:
        """Nothing will come any more. A :class:`ClosedError` cancels what is pending; another error fails it."""
        with self.lock:
            if self.ended is not None:
                return
            self.ended = error
            later = self.registry.end(None if isinstance(error, ClosedError) else error)
            replies, self._replies = list(self._replies.values()), {}
            for reply in replies:
                reply.fail(error)
        self.settle(later)

    async def disconnect(self, timeout: float | None = None) -> None:
        """Close all connections, on the session's loop.

        :param timeout: seconds for what is not sent yet; at most :data:`GOODBYE`.
        """
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.fetcher.close()
        if self._link is not None:
            patience = GOODBYE if timeout is None else min(timeout, GOODBYE)
            try:
                await asyncio.wait_for(self._link.drain(), patience)
            except asyncio.TimeoutError:
                pass  # nobody reads it
            self._link.close("the client was closed")
            await self._link.wait_closed()

    def abandon(self) -> None:
        """In a forked child: touch nothing that belongs to the parent."""
        self.abandoned = True
        self.registry = Registry()
        self.claims = Claims(self.registry)
        self.lock = self.registry.lock
        self._sending = threading.Lock()
        self.ended = ClosedError("this client belongs to the parent process; make a new Client in the forked one")

    # Out

    def nudge(self) -> None:
        """Have the loop send what there is to send, soon."""
        if not self._scheduled and self.loop is not None:
            with Shield():
                self._scheduled = True
                self._soon(self.loop, self.flush)

    def _soon(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        try:
            if threading.get_ident() == self.thread:
                loop.call_soon(call)
            else:
                loop.call_soon_threadsafe(call)
        except RuntimeError:
            pass  # the loop is closed

    def flush(self) -> None:
        """Send what there is to send, now and from this thread."""
        with Shield():
            self._scheduled = False
            if self.registry.outbox or self.registry.gone:
                self._send()

    def _send(self, hurry: bool = False) -> None:
        """Send a batch.

        :param hurry: somebody may wait for what comes of it, which releases would make later. Only where one batch
            follows another are they left to the next one; a message of their own would cost everybody more.
        """
        with self._sending:
            now = monotonic()
            releases = not hurry or now - self._sent > IDLE
            self._sent = now
            with self.lock:
                batch = self.registry.take(releases)
            link = self._link
            if batch and link is not None and self.ended is None:
                try:
                    link.send(batch)
                except Exception as error:
                    # What others have said is lost with it, and without that the rest has no meaning.
                    link.close(f"a message could not be sent: {type(error).__name__}: {error}")
                    raise

    def submit(
        self, futures: Sequence[Future[Any]], rows: Sequence[Row], options: Options, linked: bool, nbytes: int
    ) -> None:
        """Send tasks, whose payloads have ``nbytes`` bytes, and have the futures settled with their results.

        Errors as of :meth:`check`, also for the other methods that take new futures.
        """
        with Shield(), self.lock:
            self.check()
            outbox = self.registry.outbox
            self.registry.submit(futures, rows, options, linked)
            outbox.nbytes += nbytes
            full = len(outbox.rows) >= FULL or outbox.nbytes >= FULL_BYTES
        if full:
            self.flush()
        else:
            self.nudge()

    def submit_one(self, future: Future[Any], row: Row, options: Options) -> None:
        with Shield():
            with self.lock:
                self.check()
                outbox = self.registry.outbox
                self.registry.submit_one(future, row, options)
                outbox.nbytes += len(row[2])
                full = len(outbox.rows) >= FULL or outbox.nbytes >= FULL_BYTES
            if full:
                self._send()
            elif not self._scheduled:
                if self._quiet():
                    self._send(hurry=True)
                else:
                    self.nudge()

    def _quiet(self) -> bool:
        """Whether nothing was sent just now, and this thread may send."""
        return monotonic() - self._sent > BURST and threading.get_ident() != self.thread and not self._sending.locked()

    def ship(self, futures: Sequence[Future[Any]], batch: Sequence[tuple[Any, ...]]) -> None:
        """Send a graph that is packed into messages, some of whose results are wanted."""
        with Shield(), self.lock:
            self.check()
            for future in futures:
                self.registry.join(future)
        for message in batch:
            with Shield(), self.lock:
                self.registry.outbox.add(*message)
            self.flush()

    def post(self, *message: Any) -> None:
        """Send one message, after what is to be sent already."""
        with Shield(), self.lock:
            self.registry.outbox.add(*message)
        self.nudge()

    def anywhere(self, call: Callable[[], None]) -> None:
        """Call what uses this session, from wherever garbage may be collected: this very thread may have the locks."""
        for lock in (self._sending, self.lock):
            if not lock.acquire(timeout=HELD):
                if self.loop is not None:
                    self._soon(self.loop, call)
                return
            lock.release()
        call()

    def cancel(self, futures: Iterable[Future[Any]], force: bool = False, reason: str = "") -> None:
        with Shield(), self.lock:
            later = self.registry.cancel({future.key for future in futures}, force, reason)
        self.settle(later)
        self.flush()

    def retry(self, futures: Sequence[Future[Any]]) -> None:
        """Have failed tasks tried again. Futures of tasks that have not failed stay as they are.

        :raises UserError: a task is not known any more, because its future was cancelled or released.
        """
        self.check()
        for future in futures:
            if future._released or future.cancelled():
                raise UserError(f"{future!r} cannot be tried again, because its task is forgotten. Submit it again.")
        with Shield(), self.lock:
            self.registry.retry(futures)
        self.flush()

    def keep(self, futures: Sequence[Future[Any]]) -> None:
        """Have tasks run to their end, whoever lets go of their futures."""
        self.check()
        with Shield(), self.lock:
            self.registry.outbox.add("ask", self.count(), "keep", [future.key for future in futures])
        self.flush()

    def release(self, future: Future[Any]) -> None:
        """A future is not needed any more. If it is pending, nobody will hear of it again."""
        later: Unsettled = []
        with self.lock:
            if future._state == PENDING:
                self.registry._settle(future, None, later)
        self.settle(later)
        self.discard(future.key)

    def discard(self, key: str) -> None:
        """One of the futures of a key is gone. Safe wherever garbage may be collected."""
        if self.ended is None:
            self.registry.gone.append(key)
            if not self._tidying and self.loop is not None:
                with Shield():
                    self._tidying = True
                    self._soon(self.loop, self._tidy_later)

    def _tidy_later(self) -> None:
        assert self.loop is not None
        self.loop.call_later(IDLE, self._tidy)

    def _tidy(self) -> None:
        self._tidying = False  # first: what goes from now on asks for another look
        self.flush()

    async def ask(
        self, topic: str, argument: Any = None, deadline: float | None = None, number: int | None = None
    ) -> Any:
        """Steps: the scheduler's answer to a question. If the wait ends early, the scheduler is told so.

        :param deadline: when to give up.
        :param number: of :meth:`count`, if the caller has to know it.
        :raises UserError: the scheduler does not know what to make of it.
        :raises concurrent.futures.TimeoutError: the deadline has passed.
        """
        reply = _Reply(self.lock, deadline)
        if number is None:
            number = self.count()
        try:
            with Shield(), self.lock:
                self.check()
                self._replies[number] = reply
                self.registry.tidy()  # the answer may depend on it
                self.registry.outbox.add("ask", number, topic, argument)
            self.flush()
            await reply.latch
        except BaseException:
            if number in self._replies:
                self.post("withdraw", number)
            raise
        finally:
            with self.lock:
                self._replies.pop(number, None)
        if reply.error is not None:
            raise reply.error
        return reply.value

    def count(self) -> int:
        """A number for a question: no other one of this session has it."""
        return next(self._count)

    def listen(self, topic: str, listener: Callable[[Sequence[EventRow]], object] | None) -> None:
        """Have the events of a topic told to ``listener``, on the session's loop; None to end that.

        This tells the scheduler nothing; who wants events has to subscribe to them.
        """
        with self.lock:
            if listener is None:
                self._listeners.pop(topic, None)
            else:
                self._listeners[topic] = listener

    async def sleep(self, seconds: float) -> None:
        """Steps: let some time pass."""
        try:
            await Latch(self.lock, deadline=deadline_of(seconds))
        except FutureTimeoutError:
            pass

    # In

    def _receive(self, batch: list[Any], buffers: list[memoryview]) -> None:
        for message in batch:
            kind = type(message)
            if kind is messages.Done:
                if not self._tidying:  # some of it is not needed for long: who says so need not wake this loop
                    self._tidying = True
                    self._tidy_later()
                with self.lock:
                    later, moved = self.registry.done(message.rows)
                if later:
                    self.settle(later)
                if moved:
                    self.fetcher.resume(moved)
            elif kind is messages.TasksFailed:
                with self.lock:
                    later = self.registry.failed(message.rows)
                self.settle(later)
                self.fetcher.resume([key for key, _, _ in message.rows])
            elif kind is messages.Cancelled:
                with self.lock:
                    later = self.registry.cancelled(message.keys, message.reason)
                self.settle(later)
                self.fetcher.resume(message.keys)
                self.nudge()
            elif kind is messages.Fence:
                with self.lock:
                    self.registry.fences.back(message.number)
            elif kind is messages.TasksStarted:
                with self.lock:
                    self.registry.started(message.keys)
            elif kind is messages.Event:
                listener = self._listeners.get(message.topic)
                if listener is not None:
                    listener(message.rows)
            else:
                with self.lock:
                    reply = self._replies.get(message.id)
                    if reply is not None:
                        reply.take(message.ok, message.value)

    def settle(self, later: Unsettled) -> None:
        """Settle futures that somebody may watch by the standard library's means. Without the lock."""
        for future, held in later:
            if not future._settle(held):
                self.fetch_then(future, future._call_back)

    # Waiting

    def in_loop(self) -> bool:
        return threading.get_ident() == self.thread

    def wait_for(self, future: Future[Any], timeout: float | None, fetch: bool) -> None:
        """Wait in this thread until a future is done and, if it is asked for, its result is here."""
        if future._state != PENDING and not (fetch and type(future._held) is Place):
            return
        self.check_thread(future)
        run_blocking(self.obtain, [future], fetch, deadline_of(timeout))

    def check_thread(self, what: object) -> None:
        """:raises UserError: to wait for something in this thread would be to wait for ever."""
        if self.in_loop():
            raise UserError(
                f"waiting for {what!r} here would never end: this is the thread of the event loop that receives the "
                "results. Write `await` in a coroutine, or let another thread wait."
            )

    async def awaiting(self, future: Future[Any]) -> None:
        """Wait in the running event loop until a future is done and its result is here."""
        await run_async(self.obtain([future]))

    async def obtain(
        self,
        futures: Collection[Future[Any]],
        fetch: bool = True,
        deadline: float | None = None,
        eager: bool = False,
    ) -> Future[Any] | None:
        """Steps: until all futures are done, and the results of those that succeeded are here.

        :param eager: stop at the first that did not succeed, and return it.
        """
        if self.registry.outbox and not self.in_loop():  # there, this turn of the loop ends with it
            with Shield():
                self._send(hurry=True)
        latch = self._watch(futures, PENDING, None, eager, deadline)
        await self._watching(futures, latch)
        while fetch and latch.failed is None:
            remote = [future for future in futures if type(future._held) is Place]
            if not remote:
                break
            latch = self._watch(remote, FINISHED, Place, eager, deadline)
            self.fetcher.fetch([future.key for future in remote])
            await self._watching(remote, latch)
        return latch.failed

    def _watch(
        self, futures: Collection[Future[Any]], state: str, held: type | None, eager: bool, deadline: float | None
    ) -> Latch:
        """A latch that counts the futures of one state, and of those that are done one kind of result."""
        latch = Latch(self.lock, 0, eager, deadline)
        single = (latch,)
        with self.lock:
            for future in futures:
                if future._state == state and (held is None or type(future._held) is held):
                    latch.left += 1
                    future._watch = (*future._watch, latch) if future._watch else single
                elif eager and latch.failed is None and not future._succeeded():
                    latch.failed = future
            if latch.left == 0 or latch.failed is not None:
                latch.open()
        if self.abandoned and not latch.opened:
            self.check()
        return latch

    async def _watching(self, futures: Collection[Future[Any]], latch: Latch) -> None:
        try:
            await latch
        except BaseException:
            with self.lock:
                for future in futures:
                    future._watch = tuple(watcher for watcher in future._watch if watcher is not latch)
            raise

    def fetch_then(self, future: Future[Any], then: Callable[[], object]) -> None:
        """Fetch a result and then call, from the session's loop."""

        async def fetch() -> None:
            try:
                await run_async(self.obtain([future]))
            finally:
                then()

        self.start(fetch)

    def start(self, make: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a coroutine on the session's loop."""
        loop = self.loop
        assert loop is not None

        def begin() -> None:
            task = loop.create_task(make())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        if self.in_loop():
            begin()
        else:
            loop.call_soon_threadsafe(begin)

    async def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Steps: what a coroutine returns that has to run on the session's loop."""
        reply = _Reply(self.lock)
        running: list[asyncio.Task[Any] | None] = []

        async def whole() -> None:
            running.append(asyncio.current_task())
            try:
                value = await make()
            except BaseException as error:
                with self.lock:
                    reply.fail(error)
            else:
                with self.lock:
                    reply.take(True, value)

        self.start(whole)
        try:
            await reply.latch
        except BaseException:
            self.start(lambda: _cancel(running))
            raise
        if reply.error is not None:
            raise reply.error
        value: T = reply.value
        return value


async def _cancel(running: list[asyncio.Task[Any] | None]) -> None:
    for task in running:
        if task is not None:
            task.cancel()


class _Reply:
    """What is asked for, once it is there."""

    def __init__(self, lock: threading.Lock, deadline: float | None = None) -> None:
        self.latch = Latch(lock, deadline=deadline)
        self.value: Any = None
        self.error: BaseException | None = None

    def take(self, ok: bool, value: Any) -> None:
        if ok:
            self.value = value
        else:
            self.error = UserError(str(value))
        self.latch.open()

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.latch.open()


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def sessions() -> list[Session]:
    """Those of this process."""
    return list(_sessions)


def _abandon_all() -> None:
    for session in list(_sessions):
        session.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
