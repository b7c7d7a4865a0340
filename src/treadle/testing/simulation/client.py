"""A client's process: it submits, wants, releases and cancels, and keeps what it is told of its futures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from treadle.core.records import PURE
from treadle.testing.recording import UnexaminedError
from treadle.testing.simulation.network import Channel, Frame, Port
from treadle.testing.simulation.scheduler import Link
from treadle.testing.simulation.tasks import Graph, unpack

if TYPE_CHECKING:
    from treadle.testing.simulation.cluster import SimulatedCluster
    from treadle.testing.simulation.worker import SimulatedWorker

__all__ = ["SimulatedClient", "SimulatedFuture"]

#: The payload of every simulated task: no arguments.
_NOTHING = b"\x90"


class SimulatedFuture:
    """What a client knows of a key that it wants."""

    def __init__(self, key: str) -> None:
        self.key = key
        #: ``"pending"``, ``"done"``, ``"failed"`` or ``"cancelled"``.
        self.status = "pending"
        #: When done: the size, the packed result if it rode along, and who holds it.
        self.nbytes = 0
        self.packed: bytes | None = None
        self.worker = ""
        self.address = ""
        #: When failed: the key of the task that failed first, and ``[kind, blob, text, info]``.
        self.culprit = ""
        self.error: Sequence[Any] | None = None
        #: When cancelled: why.
        self.reason = ""
        #: Whether the scheduler has told that it runs, and what is to be called when it is not pending any more.
        self.started = False
        self.then: list[Callable[[], object]] = []
        #: The value, once it has been gathered, and whether it is to be.
        self.value: Any = None
        self.gathered = False
        self.gathering = False

    def __repr__(self) -> str:
        return f"<SimulatedFuture {self.key!r} {self.status}>"


class SimulatedClient:
    """One client of a :class:`SimulatedCluster`, which makes it: see :meth:`SimulatedCluster.add_client`."""

    def __init__(self, cluster: SimulatedCluster, ident: str, bandwidth: float, of_tasks: bool) -> None:
        self.cluster = cluster
        self.ident = ident
        self.of_tasks = of_tasks
        self.port = Port(bandwidth)
        self.up: Channel = cluster.channel(ident, "scheduler", self._to_scheduler, self._hung_up)
        self.down: Channel = cluster.channel("scheduler", ident, self.receive, self.stop)
        #: The scheduler's end, once it has answered.
        self.link: Link | None = None
        self.alive = True
        #: What it wants, by key.
        self.futures: dict[str, SimulatedFuture] = {}
        #: Every key that it has ever wanted: of these, late news may come.
        self.known: set[str] = set()
        #: Answers to what it has asked, by number: whether it went well, and the value or the text of what was wrong.
        self.answers: dict[int, tuple[bool, Any]] = {}
        #: How many answers to :meth:`cancel` are to come, by key.
        self.cancelling: dict[str, int] = {}
        #: The number of the last fence, and of the one before which news of a key that was released are old.
        self._fence = 0
        self._releasing: dict[str, int] = {}
        #: Scattered keys that the scheduler does not know of yet.
        self._unplaced: set[str] = set()
        self._functions: dict[tuple[str, int], int] = {}

    def __repr__(self) -> str:
        return f"<SimulatedClient {self.ident!r}, {len(self.futures)} futures{'' if self.alive else ', ended'}>"

    def submit(
        self,
        graph: Graph,
        wanted: Iterable[str] | None = None,
        *,
        priority: int = 0,
        workers: list[str] | None = None,
        resources: dict[str, float] | None = None,
        retries: int = 0,
        pure: bool = True,
        kind: int = 0,
    ) -> list[SimulatedFuture]:
        """Submit tasks, in this order, which must have dependencies first.

        :param graph: for each key, the name of the function and the keys of the dependencies.
        :param wanted: the keys of which futures are returned; None for all.
        :param pure: False if a second run of a function may give another result than the first.
        :param kind: what else is to be known of the functions: a sum of ASYNCHRONOUS, STARTS and ACTOR.
        """
        index = {key: number for number, key in enumerate(graph)}
        functions = [self._function(name, kind | PURE if pure else kind) for name, _ in graph.values()]
        deps = [[index.get(dep, dep) for dep in names] for _, names in graph.values()]
        keys = list(graph)
        places = None if wanted is None else [index[key] for key in wanted]
        options: dict[str, Any] = {}
        if priority:
            options["priority"] = priority
        if workers is not None:
            options["workers"] = workers
        if resources:
            options["resources"] = resources
        if retries:
            options["retries"] = retries
        futures = [self._want(key) for key in (keys if places is None else [keys[place] for place in places])]
        payloads = [_NOTHING] * len(keys)
        self.send(("submit", keys, functions, payloads, deps if any(deps) else [], places, options or None))
        return futures

    def want(self, keys: Iterable[str]) -> list[SimulatedFuture]:
        """Want the results of tasks that were submitted before, by whomever."""
        names = list(keys)
        futures = [self._want(key) for key in names]
        self.send(("want", names))
        return futures

    def can_want(self, key: str) -> bool:
        """False for what it has scattered and the scheduler does not know of yet."""
        return key not in self._unplaced

    def release(self, keys: Iterable[str]) -> None:
        """Want these no more. Nothing more is known of them."""
        names = list(keys)
        for key in names:
            self._settle(self.futures.pop(key))
        self._forget([key for key in names if key not in self._unplaced])

    def cancel(self, keys: Iterable[str], force: bool = False) -> None:
        """Want these no more, and stop them if nobody else does, or by force. Their futures are cancelled at once."""
        names = [key for key in keys if key not in self._unplaced]
        for key in names:
            self._settle(self.futures[key], "cancelled")
            self.cancelling[key] = self.cancelling.get(key, 0) + 1
        self._forget(names, "cancel", force)

    def retry(self, keys: Iterable[str]) -> None:
        """Have these, which have failed, tried again."""
        names = list(keys)
        for key in names:
            future = self.futures[key]
            if future.status == "failed" and key not in self._unplaced:
                future.status = "pending"
                self.cluster.unfinished += 1
        self.send(("retry", names))

    def scatter(
        self, rows: Mapping[str, int], worker: SimulatedWorker, value: Callable[[str], Any] | None = None
    ) -> None:
        """Store values of the given sizes on a worker, and want them. Nothing comes of it if the worker is gone.

        :param value: what the value of a key is; default: what the cluster evaluates it to, without inputs.
        """
        evaluate = self.cluster.evaluate
        stored: list[tuple[str, Any, int]] = []
        for key, nbytes in rows.items():
            self._want(key)
            self._unplaced.add(key)
            content = value(key) if value is not None else None if evaluate is None else evaluate(key, [])
            stored.append((key, content, nbytes))
        self.cluster.store(self, worker, stored)

    def placed(self, worker: str, rows: list[tuple[str, int]]) -> None:
        """A worker has stored what :meth:`scatter` brought."""
        if self.alive:
            self._unplaced.difference_update(key for key, _ in rows)
            self.send(("placed", [(key, nbytes, worker) for key, nbytes in rows]))
            unwanted = [key for key, _ in rows if key not in self.futures]
            if unwanted:
                self._forget(unwanted)

    def not_placed(self, keys: list[str]) -> None:
        """The worker for :meth:`scatter` is gone."""
        for key in keys:
            future = self.futures.get(key)
            if future is not None and future.status == "pending":
                future.error = ["lost", b"", "the worker was gone before it had the value", {}]
                self._settle(future, "failed")

    def gather(self, keys: Iterable[str]) -> None:
        """Have the values come here, as soon as they are there: see :attr:`SimulatedFuture.value`."""
        for key in keys:
            future = self.futures[key]
            if not future.gathered and not future.gathering:
                future.gathering = True
                self.cluster.ungathered += 1
                self._collect(future)

    def close(self) -> None:
        """Hang up, in good order."""
        self.stop()

    def stop(self) -> None:
        """The process ends."""
        if self.alive:
            self.alive = False
            self.down.deaf = True
            self.up.close()
            for future in self.futures.values():
                self._settle(future)

    def send(self, *messages: tuple[Any, ...]) -> None:
        """Send any messages, be they right or wrong."""
        self.up.send(list(messages))

    def receive(self, frame: Frame) -> None:
        """Messages of the scheduler."""
        for message in frame:
            handler = _TO_CLIENT.get(message[0])
            if handler is None:
                raise UnexaminedError(f"the client {self.ident!r} does not know what it is told: {message!r:.200}")
            handler(self, *message[1:])

    def fetched(self, ident: str, rows: list[tuple[str, Any, int]], absent: list[str], asked_at: float) -> None:
        """A worker has answered."""
        for key, value, _ in rows:
            future = self.futures.get(key)
            if future is not None and future.gathering:
                self._gathered(future, value)
        if absent:
            self.unreachable(ident, absent)

    def unreachable(self, ident: str, keys: list[str]) -> None:
        """A worker does not answer, or does not have these."""
        if not self.alive:
            return
        missing: list[tuple[str, str]] = []
        for key in keys:
            future = self.futures.get(key)
            if future is None or not future.gathering or future.status != "done":
                continue
            if future.worker == ident:
                future.status = "pending"
                self.cluster.unfinished += 1
                missing.append((key, ident))
            else:
                self._collect(future)  # it has moved meanwhile
        if missing:
            self.send(("missing", missing))

    def _function(self, name: str, kind: int) -> int:
        number = self._functions.get((name, kind))
        if number is None:
            number = len(self._functions)
            self._functions[name, kind] = number
            digest = f"{kind} {name}".encode()[:16].ljust(16, b"\0")
            self.send(("functions", [(number, digest, name, name.encode(), kind)]))
        return number

    def _want(self, key: str) -> SimulatedFuture:
        self.known.add(key)
        future = self.futures.get(key)
        if future is None or future.status == "cancelled":
            future = self.futures[key] = SimulatedFuture(key)
            self.cluster.unfinished += 1
        return future

    def _settle(self, future: SimulatedFuture, status: str = "released") -> None:
        if future.status == "pending":
            self.cluster.unfinished -= 1
        future.status = status
        for action in future.then:
            self.cluster.timeline.after(0.0, action)
        future.then = []
        if status != "done" and future.gathering:
            future.gathering = False
            self.cluster.ungathered -= 1

    def _collect(self, future: SimulatedFuture) -> None:
        if future.status != "done":
            if future.status != "pending":
                self._settle(future, future.status)
            return
        if future.packed is not None:
            self._gathered(future, unpack(future.packed))
        else:
            self.cluster.fetch(self, future.worker, future.address, [future.key])

    def _gathered(self, future: SimulatedFuture, value: Any) -> None:
        future.value = value
        future.gathered = True
        if future.gathering:
            future.gathering = False
            self.cluster.ungathered -= 1

    def _done(self, rows: list[Sequence[Any]]) -> None:
        for key, nbytes, packed, worker, address in rows:
            future = self._future(key)
            if future is None:
                continue
            waited = future.status == "pending"
            self._settle(future, "done")
            future.nbytes, future.packed, future.worker, future.address = nbytes, packed, worker, address
            self._watched(future)
            if waited and future.gathering:
                self._collect(future)

    def _failed(self, rows: list[Sequence[Any]]) -> None:
        for key, culprit, error in rows:
            future = self._future(key)
            if future is not None:
                self._settle(future, "failed")
                future.culprit, future.error = culprit, error
                self._watched(future)

    def _cancelled(self, keys: list[str], reason: str) -> None:
        for key in keys:
            future = self._future(key)
            answers = self.cancelling.get(key, 0)
            if answers:
                self.cancelling[key] = answers - 1
            elif future is not None:
                self._settle(future, "cancelled")
                future.reason = reason
                self._forget([key])  # it may have been wanted again while the answer was on its way

    def _watched(self, future: SimulatedFuture) -> None:
        if self.cluster.watch is not None:
            self.cluster.watch(self, future)

    def _started(self, keys: list[str]) -> None:
        for key in keys:
            future = self._future(key)
            if future is not None:
                future.started = True

    def _future(self, key: str) -> SimulatedFuture | None:
        """The future that there is news of; None if it was released or cancelled after what the news are about."""
        if key not in self.known:
            raise UnexaminedError(f"the client {self.ident!r} is told of {key!r}, which it never wanted")
        if key in self._releasing:
            return None
        future = self.futures.get(key)
        return future if future is not None and future.status != "cancelled" else None

    def _forget(self, keys: list[str], how: str = "release", *more: bool) -> None:
        """Tell the scheduler that these are not wanted. What it says of them before the fence has come back is old."""
        self._fence += 1
        self._releasing.update(dict.fromkeys(keys, self._fence))
        self.send((how, keys, *more), ("fence", self._fence))

    def _fenced(self, number: int) -> None:
        self._releasing = {key: last for key, last in self._releasing.items() if last > number}

    def _to_scheduler(self, frame: Frame) -> None:
        self.cluster.scheduler.post_in_turn(self.ident, self.cluster.from_client, self, frame)

    def _hung_up(self) -> None:
        self.cluster.scheduler.post_in_turn(self.ident, self.cluster.client_hung_up, self)


_TO_CLIENT: dict[str, Callable[..., None]] = {
    "done": SimulatedClient._done,
    "failed": SimulatedClient._failed,
    "cancelled": SimulatedClient._cancelled,
    "started": SimulatedClient._started,
    "fence": SimulatedClient._fenced,
}
