"""Actors: objects that live in this process, and whose methods others call.

Each has a thread of its own, apart from those that execute tasks: a task that waits for an actor never keeps it from
running. Calls are executed one at a time, in the order in which they came. If the class has coroutine methods, the
thread runs an event loop: these interleave where they await something, and nothing runs between.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections import deque
from collections.abc import Callable
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from treadle.client.inside import here
from treadle.errors import UserError
from treadle.net.loops import new_event_loop
from treadle.wire.failures import PackedError
from treadle.wire.functions import display_name
from treadle.wire.parcels import pack_parcel, unpack_arguments
from treadle.wire.values import brief
from treadle.worker.calls import failure, refusal
from treadle.worker.context import Activity, WorkerInfo

if TYPE_CHECKING:
    from treadle.client.actors import Actor
    from treadle.net.link import Link
    from treadle.wire.messages import Call
    from treadle.worker.calling import CallServer

__all__ = ["ATTRIBUTE", "CANCEL", "METHOD", "ActorHost", "Apart", "Making", "current_host", "host_of"]

#: The topics of calls: of a method, for an attribute, and to cancel one of these.
METHOD: Final = "actor"
ATTRIBUTE: Final = "actor-attribute"
CANCEL: Final = "actor-cancel"

#: How many replies one frame has at most, and from how many buffers on it is sent.
BATCH: Final = 2048
BATCH_BUFFERS: Final = 16384
#: Seconds that coroutines may take to end when their actor does.
PATIENCE: Final = 5.0

log = logging.getLogger("treadle.worker")

_number_of = msgspec.msgpack.Decoder(int).decode


class Item(NamedTuple):
    """A call that is to be executed."""

    link: Link
    number: int
    #: An attribute is to be read, instead of a method to be called.
    reads: bool
    packed: bytes
    parts: list[memoryview]


#: The messages and the buffers that are to be sent on each link.
Outgoing = dict["Link", tuple[list[tuple[Any, ...]], list[Any]]]


class Making:
    """The task that makes an actor: calls a class, and gives the instance a home in the process where that happens."""

    def __init__(self, cls: Callable[..., Any]) -> None:
        self.cls: Final = cls
        self.__name__ = display_name(cls)

    def __repr__(self) -> str:
        return f"<Making of {self.__name__}>"

    def __call__(self, key: str, *args: Any, **kwargs: Any) -> Actor:
        return current_host().admit(key, self.cls(*args, **kwargs))


class ActorHost:
    """The actors of this process.

    :param worker: what is to be told of this worker.
    :param cluster: the incarnation of the scheduler.
    :param wake: has the event loop of the process call a function, from any thread.
    :param stored: what this worker holds as the result of a task, with its size; None if it holds nothing.
    """

    def __init__(
        self,
        worker: WorkerInfo,
        cluster: str,
        wake: Callable[..., object],
        stored: Callable[[str], tuple[Any, int] | None],
    ) -> None:
        self.worker: Final = worker
        self.cluster: Final = cluster
        self._wake: Final = wake
        self._stored: Final = stored
        self._homes: Final[dict[str, Home]] = {}

    def __repr__(self) -> str:
        return f"<ActorHost of {len(self._homes)} actors>"

    def open(self, calls: CallServer) -> None:
        """Take calls from now on."""
        global _host
        _host = self
        calls.register(METHOD, self._receive)
        calls.register(ATTRIBUTE, self._receive)
        calls.register(CANCEL, self._cancel)

    def admit(self, key: str, instance: object) -> Actor:
        """A handle of a new actor, which lives as long as this handle and no other."""
        from treadle.client.actors import About, Actor

        kind = type(instance)
        members = _members(kind)
        methods = {name for name, member in members.items() if callable(member) and not name.startswith("_")}
        fields = {name for name in members if not name.startswith("_")} - methods
        about = About(
            key,
            kind.__name__,
            self.worker.ident,
            self.worker.name,
            self.worker.address,
            self.cluster,
            frozenset(methods),
            frozenset(fields),
        )
        coroutines = any(
            inspect.iscoroutinefunction(inspect.unwrap(each)) for each in members.values() if callable(each)
        )
        home = (AsyncHome if coroutines else ThreadHome)(key, instance, self)
        handle = Actor(about)
        self._homes[key] = home
        # Not at once: a handle may be found to be garbage in the middle of anything.
        weakref.finalize(handle, self._wake, self._dismiss, key, home).atexit = False
        home.start()
        return handle

    def _dismiss(self, key: str, home: Home) -> None:
        if self._homes.get(key) is home:
            del self._homes[key]
        home.close()

    def _receive(self, link: Link, call: Call, parts: list[memoryview]) -> None:
        home = self._homes.get(call.target)
        if home is None or not home.put(Item(link, call.id, call.topic == ATTRIBUTE, call.packed, parts)):
            link.send([("reply", call.id, self.released(call.target), 0)])

    def released(self, key: str) -> PackedError:
        """The error of a call of an actor that is not here any more."""
        reason = f"it was released, and is not on the worker {self.worker.name} any more"
        return "lost", b"", "", {"key": key, "worker": self.worker.name, "actor": True, "reason": reason}

    def keeps(self, handle: Actor) -> bool:
        """Whether this very handle is what the worker holds as the result that the actor is.

        Then it lives as long as the actor is wanted, and must not want it itself.
        """
        entry = self._stored(handle._about.key)
        return entry is not None and entry[0] is handle

    def wake(self, callback: Callable[[], object]) -> None:
        """Have the event loop of the process call something."""
        self._wake(callback)

    def _cancel(self, link: Link, call: Call, parts: list[memoryview]) -> None:
        home = self._homes.get(call.target)
        if home is not None and home.withdraw(link, _number_of(call.packed)):
            link.send([("reply", _number_of(call.packed), ("cancelled", b"", "", {}), 0)])
        link.send([("reply", call.id, None, 0, b"\xc0")])


def current_host() -> ActorHost:
    """The host of this process.

    :raises UserError: this process is no worker of a cluster.
    """
    if _host is None:
        raise UserError("actors live on the workers of a cluster; this process is none")
    return _host


def host_of(cluster: str) -> ActorHost | None:
    """The host of this process, if it is a worker of a cluster.

    :param cluster: the incarnation of its scheduler.
    """
    return _host if _host is not None and _host.cluster == cluster else None


_host: ActorHost | None = None


class Apart(Activity):
    """What an actor, or a call outside of tasks, is for its own code: a part of a worker, and of no task."""

    def __init__(self, key: str, worker: WorkerInfo) -> None:
        self._key: Final = key
        self._worker = worker

    def __repr__(self) -> str:
        return f"<Apart {self._key!r} on {self._worker!r}>"

    @property
    def key(self) -> str:
        return self._key

    @property
    def attempt(self) -> int:
        return 0

    @property
    def priority(self) -> int:
        return 0


class Home:
    """Where one actor lives. :meth:`put` is called in the event loop of the process."""

    def __init__(self, key: str, instance: object, host: ActorHost) -> None:
        self.key: Final = key
        self._instance: Final = instance
        self._host: Final = host
        #: Guards what follows.
        self._lock: Final = Lock()
        self._items: Final[deque[Item]] = deque()
        self._outgoing: Outgoing = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.key!r}, {len(self._items)} calls>"

    def start(self) -> None:
        Thread(target=self._live, name=f"treadle-actor-{self.key}", daemon=True).start()

    def _live(self) -> None:
        here.task = Apart(self.key, self._host.worker)
        self._work()

    def _work(self) -> None:
        raise NotImplementedError

    def put(self, item: Item) -> bool:
        """Take a call; False if this actor is gone."""
        raise NotImplementedError

    def close(self) -> None:
        """The actor is not needed any more: calls that were not begun are not executed."""
        raise NotImplementedError

    def withdraw(self, link: Link, number: int) -> bool:
        """Forget a call. False if it was begun."""
        with self._lock:
            for item in self._items:
                if item.link is link and item.number == number:
                    self._items.remove(item)
                    return True
        return False

    def _call(self, item: Item) -> Any:
        """What the method returns, or the value of the attribute."""
        name, args, kwargs = unpack_arguments(item.packed, item.parts)
        found = getattr(self._instance, name)
        if item.reads:
            return found
        return found(*args, **kwargs) if kwargs else found(*args)

    def _reply(self, item: Item, value: Any, error: PackedError | None) -> None:
        """Put a reply to those that are to be sent."""
        packed = b""
        parts: list[Any] = []
        if error is None:
            try:
                packed, parts = pack_parcel(value)
            except Exception as reason:
                error = refusal(value, reason)
        message = ("reply", item.number, error, len(parts), packed)
        with self._lock:
            messages, buffers = self._outgoing.setdefault(item.link, ([], []))
            messages.append(message)
            buffers.extend(parts)
            full = len(messages) >= BATCH or len(buffers) >= BATCH_BUFFERS
        if full:
            self._flush()

    def _flush(self) -> None:
        """Send the replies that there are."""
        with self._lock:
            outgoing, self._outgoing = self._outgoing, {}
        for link, (messages, buffers) in outgoing.items():
            try:
                link.send(messages, buffers)
            except Exception as error:
                log.exception("replies of the actor %r cannot be sent", self.key)
                link.close(f"replies cannot be sent: {brief(error)}")

    def _refuse_rest(self) -> None:
        """Answer what was not begun when the actor was released."""
        with self._lock:
            self._closed = True
            items = list(self._items)
            self._items.clear()
        for item in items:
            item.link.send([("reply", item.number, self._host.released(self.key), 0)])


class ThreadHome(Home):
    """Executes calls in a thread that sleeps when there are none.

    While calls follow one another, the event loop sends the replies, so that one to a short call is not stuck behind
    a long one.
    """

    def __init__(self, key: str, instance: object, host: ActorHost) -> None:
        super().__init__(key, instance, host)
        #: Closed while there is nothing to do.
        self._bell: Final = Lock()
        self._idle = False
        #: True while the event loop was told to send, and has not begun to.
        self._woken = False

    def put(self, item: Item) -> bool:
        with self._lock:
            if self._closed:
                return False
            self._items.append(item)
            if self._idle:
                self._idle = False
                self._bell.release()
        return True

    def close(self) -> None:
        self._refuse_rest()
        with self._lock:
            if self._idle:
                self._idle = False
                self._bell.release()

    def _work(self) -> None:
        self._bell.acquire()
        items = self._items
        while True:
            with self._lock:
                item = items.popleft() if items else None
                closed = self._closed
                wakes = item is not None and bool(self._outgoing) and not self._woken
                if wakes:
                    self._woken = True
            if item is None:
                self._flush()
                if closed:
                    return
                if self._sleeps():
                    self._bell.acquire()
                continue
            if wakes:
                self._host.wake(self._send)
            value: Any = None
            error: PackedError | None = None
            try:
                value = self._call(item)
            except BaseException as raised:
                error = failure(raised)
            self._reply(item, value, error)
            del item, value, error

    def _sleeps(self) -> bool:
        """Go to sleep, if there is nothing to do."""
        with self._lock:
            self._idle = not self._items and not self._closed
            return self._idle

    def _send(self) -> None:
        """In the event loop of the process."""
        self._woken = False
        self._flush()


class AsyncHome(Home):
    """Executes calls in an event loop of its own."""

    def __init__(self, key: str, instance: object, host: ActorHost) -> None:
        super().__init__(key, instance, host)
        self._loop: Final = new_event_loop()
        self._scheduled = False
        self._flushing = False
        #: Kept, because a loop holds its tasks weakly.
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    def put(self, item: Item) -> bool:
        with self._lock:
            if self._closed:
                return False
            self._items.append(item)
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon_threadsafe(self._drain)
        return True

    def close(self) -> None:
        self._refuse_rest()
        self._loop.call_soon_threadsafe(self._end)

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _end(self) -> None:
        self._ending = self._loop.create_task(self._end_tasks())

    async def _end_tasks(self) -> None:
        """Cancel what runs, and stop the loop when it has ended, or does not care."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)
        self._flush()
        self._loop.stop()

    def _drain(self) -> None:
        with self._lock:
            self._scheduled = False
            items = list(self._items)
            self._items.clear()
        for item in items:  # tasks take their first steps in the order in which they are created
            task = self._loop.create_task(self._execute(item))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _execute(self, item: Item) -> None:
        value: Any = None
        error: PackedError | None = None
        try:
            value = self._call(item)
            if inspect.iscoroutine(value):
                value = await value
        except BaseException as raised:
            error = failure(raised)
        self._reply(item, value, error)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._flushing = False
        self._flush()


def _members(kind: type) -> dict[str, Any]:
    """What a class has, by name, without running any code of its descriptors. Methods are plain functions."""
    members: dict[str, Any] = {}
    for name in dir(kind):
        member = inspect.getattr_static(kind, name, None)
        members[name] = member.__func__ if isinstance(member, (staticmethod, classmethod)) else member
    return members
