"""A whole cluster in one thread, on a clock that jumps from event to event."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from treadle.core.scheduler import Scheduler
from treadle.errors import ProtocolError
from treadle.testing.recording import UnexaminedError
from treadle.testing.simulation.client import SimulatedClient, SimulatedFuture
from treadle.testing.simulation.network import Channel, Frame, Latency, transfer
from treadle.testing.simulation.scheduler import Costs, Link, SchedulerProcess
from treadle.testing.simulation.tasks import Behaviour, constant
from treadle.testing.simulation.timeline import Timeline
from treadle.testing.simulation.worker import SimulatedWorker

__all__ = ["SimulatedCluster", "StalledError", "copied"]

#: How many messages are remembered for :meth:`SimulatedCluster.story`.
REMEMBERED = 2000


class StalledError(AssertionError):
    """A simulated cluster has nothing more to do, or no more time, and futures are still pending."""


def copied(frame: Frame) -> Frame:
    """A copy, as the wire makes one: who changes a list later does not change what was sent."""
    return [_copied(message) for message in frame]


def _copied(value: Any) -> Any:
    if type(value) is list:
        return [_copied(item) for item in value]
    if type(value) is tuple:
        return tuple([_copied(item) for item in value])
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return value


class SimulatedCluster:
    """A scheduler, workers and clients: the real state machines, on simulated machines and a simulated network.

    Nothing waits, nothing is computed and nothing is random, but for what the arguments do: an hour of a thousand
    workers passes in a minute. ::

        cluster = SimulatedCluster(workers=4, behaviour=constant(0.010))
        client = cluster.add_client()
        futures = client.submit({"a": ("load", []), "b": ("load", []), "sum": ("add", ["a", "b"])}, ["sum"])
        cluster.run_until_done()
        assert futures[0].status == "done"

    :param workers: how many workers there are from the start; more can come, see :meth:`add_worker`.
    :param nthreads: how many threads each of them has.
    :param behaviour: how long tasks take, how big their results are, and whether they fail; see
        :mod:`treadle.testing.simulation.tasks`.
    :param latency: seconds that a message is on its way, or a function of the names of sender and receiver (the
        scheduler's is ``"scheduler"``), which is asked for every frame.
    :param bandwidth: bytes per second that a worker or a client can send, and receive.
    :param costs: the processor time that the scheduler and the workers need.
    :param evaluate: the value of a task from its key and the values of its inputs, such as
        :func:`~treadle.testing.simulation.tasks.checksum`. Without it all values are None.
    :param check: let scheduler and workers check all their invariants after every event, and copy all messages. Slow.
    :param encode: what becomes of each frame on its way: a function of the names of sender and receiver and the frame.
    :param violation: called with the name of a peer and the error when the scheduler refuses what that peer said, after
        which the scheduler hangs up. Without it the error is raised.
    :param heartbeat: seconds between two heartbeats of a worker; 0 for none.
    """

    def __init__(
        self,
        workers: int = 0,
        nthreads: int = 1,
        *,
        behaviour: Behaviour | None = None,
        latency: float | Latency = 100e-6,
        bandwidth: float = 1e9,
        costs: Costs | None = None,
        evaluate: Callable[[str, Sequence[Any]], Any] | None = None,
        check: bool = False,
        encode: Callable[[str, str, Frame], Frame] | None = None,
        violation: Callable[[str, ProtocolError], None] | None = None,
        heartbeat: float = 1.0,
    ) -> None:
        self.behaviour: Behaviour = behaviour or constant(0.001)
        self.latency: Latency = latency if callable(latency) else _constant(latency)
        self.bandwidth = bandwidth
        self.costs = costs or Costs()
        self.evaluate = evaluate
        self.checked = check
        self.heartbeat = heartbeat
        self.timeline = Timeline()
        #: By name, those too that are gone.
        self.workers: dict[str, SimulatedWorker] = {}
        self.clients: dict[str, SimulatedClient] = {}
        self.scheduler = SchedulerProcess(
            self.timeline, self.costs, self._violated, self._check_scheduler if check else None
        )
        #: True to have every worker that is killed replaced by one like it.
        self.replacing = False
        #: Asked twice for each transfer of data: True lets it fail.
        self.failing: Callable[[], bool] | None = None
        #: Keys whose values no other worker can use, as if they could not be pickled.
        self.unusable: set[str] = set()
        #: Called with each client and future of which there is a result, or that has failed.
        self.watch: Callable[[SimulatedClient, SimulatedFuture], object] | None = None
        #: How many times each key was started.
        self.runs: dict[str, int] = {}
        #: How many deaths of workers each key may have been blamed for.
        self.deaths: dict[str, int] = {}
        #: In how many each key was away, or may have been.
        self.absences: dict[str, int] = {}
        #: The workers on which each key was computed.
        self.makers: dict[str, set[str]] = {}
        #: Seconds that tasks have occupied threads, and when the last one ended.
        self.busy = 0.0
        self.last_run = 0.0
        #: How many futures are pending, and how many values are on their way to clients.
        self.unfinished = 0
        self.ungathered = 0
        self._encode = encode
        self._violation = violation
        self._cut: set[tuple[str, str]] = set()
        self._story: deque[tuple[float, str, str, Frame]] = deque(maxlen=REMEMBERED)
        for _ in range(workers):
            self.add_worker(nthreads)
        if workers:
            self.run_until(lambda: all(worker.link is not None for worker in self.workers.values()))

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.timeline.now

    @property
    def core(self) -> Scheduler:
        """The scheduler's state."""
        return self.scheduler.core

    # Processes come and go.

    def add_worker(
        self,
        nthreads: int = 1,
        *,
        ident: str = "",
        name: str = "",
        host: str = "host",
        memory_limit: int = 0,
        resources: dict[str, float] | None = None,
        supervised: bool = True,
        bandwidth: float = 0.0,
        speed: float = 1.0,
    ) -> SimulatedWorker:
        """Start a worker, which says hello to the scheduler."""
        ident = ident or f"worker-{len(self.workers)}"
        worker = SimulatedWorker(
            self,
            ident,
            nthreads,
            name=name or ident,
            host=host,
            memory_limit=memory_limit,
            resources=resources or {},
            supervised=supervised,
            bandwidth=bandwidth or self.bandwidth,
            speed=speed,
        )
        self.workers[ident] = worker
        worker.up.send([("hello",)])
        if self.heartbeat:
            self.timeline.background(self.now + self.heartbeat, worker.beat, self.heartbeat)
        return worker

    def add_client(self, ident: str = "", bandwidth: float = 0.0, *, of_tasks: bool = False) -> SimulatedClient:
        """Start a client, which says hello to the scheduler.

        :param of_tasks: it belongs to a worker, whose tasks submit others.
        """
        ident = ident or f"client-{len(self.clients)}"
        client = SimulatedClient(self, ident, bandwidth or self.bandwidth, of_tasks)
        self.clients[ident] = client
        client.up.send([("hello",)])
        return client

    def leave(self, worker: SimulatedWorker, again: bool = False) -> None:
        """A worker takes its leave and ends.

        :param again: another one like it takes its place, if it has a supervisor.
        """
        if worker.alive:
            worker.up.send([*worker.state.take_outbox(), ("leaving",)])
            worker.stop()
            if again and worker.supervised:
                self._replace(worker)

    def kill(
        self, worker: SimulatedWorker, *, exitcode: int = -9, report_after: float | None = 0.002, log: str = ""
    ) -> None:
        """A worker's process dies.

        :param report_after: in how many seconds its supervisor, if it has one, tells the scheduler; None for never.
        """
        if not worker.alive:
            return
        executing = [job.attempt for job in worker.running if job.attempt]
        worker.stop()
        if worker.supervised and report_after is not None:
            self._blame(self.deaths, [job.key for job in worker.running])
            report = (executing, exitcode, 4711, worker.host, log)
            self.timeline.after(report_after, self.scheduler.post, self._died, worker, report)
        if self.replacing:
            self._replace(worker)

    def _replace(self, worker: SimulatedWorker) -> None:
        self.add_worker(
            worker.nthreads,
            name=worker.name,
            host=worker.host,
            memory_limit=worker.memory_limit,
            resources=worker.resources,
            supervised=worker.supervised,
            bandwidth=worker.port.bandwidth,
            speed=worker.speed,
        )

    def give_up(self, worker: SimulatedWorker) -> None:
        """The scheduler has heard nothing of a worker for too long and hangs up; if the worker lives, it then ends."""
        self.scheduler.post(self.worker_hung_up, worker)
        if worker.link is not None:
            worker.link.out.close()

    def cut(self, one: str, other: str) -> None:
        """From now on neither of two workers or clients reaches the other. The scheduler still reaches both."""
        self._cut |= {(one, other), (other, one)}

    def mend(self, one: str, other: str) -> None:
        """Undo :meth:`cut`."""
        self._cut -= {(one, other), (other, one)}

    # Time passes.

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.timeline.run(self.now + seconds)

    def run_until(self, condition: Callable[[], bool], limit: float = 3600.0) -> None:
        """Let time pass until a condition holds, which is looked at after every event.

        :raises StalledError: it does not hold after ``limit`` seconds, or when nothing has happened for a minute.
        """
        timeline = self.timeline
        end = timeline.now + limit
        while not condition():
            timeline.step()
            if timeline.now > end or (not timeline.pending and timeline.now - timeline.last > 60):
                raise StalledError(f"after {timeline.now:.6g} s: {self.describe()}")

    def run_until_done(self, limit: float = 3600.0) -> None:
        """Let time pass until no future is pending and all that is gathered has come.

        :raises StalledError: see :meth:`run_until`.
        """
        self.run_until(lambda: self.unfinished == 0 and self.ungathered == 0, limit)

    def settle(self, quiet: float = 5.0, limit: float = 3600.0) -> None:
        """Let time pass until nothing but clocks has done anything for ``quiet`` seconds.

        :raises StalledError: that is not so after ``limit`` seconds.
        """
        timeline = self.timeline
        end = timeline.now + limit
        timeline.last = timeline.now
        while timeline.pending or timeline.now - timeline.last < quiet:
            timeline.step()
            if timeline.now > end:
                raise StalledError(f"not quiet after {limit:.6g} s: {self.describe()}")

    # What is known.

    def describe(self) -> str:
        """What is going on, and why the first few pending futures are pending."""
        parts = [f"{self.unfinished} futures pending, {self.ungathered} values on their way"]
        for client in self.clients.values():
            if client.alive:
                pending = [future.key for future in client.futures.values() if future.status == "pending"]
                parts += [f"{client.ident} waits for {key}: {self.core.explain(key)}" for key in pending[:3]]
        parts += [f"{worker!r}: {worker.state!r}" for worker in list(self.workers.values())[:10]]
        return "\n  ".join(parts)

    def story(self, about: str = "") -> str:
        """The last messages, if the cluster is checked: those in which a text occurs."""
        lines = [
            f"{time:12.6f} {sender} -> {receiver}: {message}"
            for time, sender, receiver, frame in self._story
            for message in frame
        ]
        return "\n".join(line for line in lines if about in line)

    # What processes do to one another.

    def channel(
        self, sender: str, receiver: str, deliver: Callable[[Frame], None], broken: Callable[[], None]
    ) -> Channel:
        """One direction of a new connection."""
        encode: Callable[[Frame], Frame] | None = None
        if self.checked or self._encode is not None:

            def encode(frame: Frame) -> Frame:
                return self._encoded(sender, receiver, frame)

        return Channel(self.timeline, sender, receiver, self.latency, deliver, broken, encode)

    def from_worker(self, worker: SimulatedWorker, frame: Frame) -> float:
        """The scheduler deals with what a worker says."""
        link = worker.link
        if link is None:
            record = self.core.on_worker(
                worker.ident,
                worker.address,
                worker.name,
                worker.host,
                worker.nthreads,
                worker.memory_limit,
                worker.resources,
                worker.supervised,
                self.now,
            )
            worker.link = self._connected(record, worker.down)
            return self.costs.frame
        return self.scheduler.from_worker(link, frame) if link.open else 0.0

    def from_client(self, client: SimulatedClient, frame: Frame) -> float:
        """The scheduler deals with what a client says."""
        link = client.link
        if link is None:
            client.link = self._connected(self.core.on_client(client.ident, self.now), client.down)
            return self.costs.frame
        return self.scheduler.from_client(link, frame) if link.open else 0.0

    def worker_hung_up(self, worker: SimulatedWorker) -> float:
        """The scheduler notices that a worker is not there any more."""
        link = worker.link
        if link is None or not link.open:
            return 0.0
        link.open = False
        if not worker.supervised:
            keys = [task.key for task in link.peer.processing.values()]
            self._blame(self.deaths, keys)
            self._blame(self.absences, keys)
        return self.scheduler.event(self.core.on_worker_lost, link.peer)

    def client_hung_up(self, client: SimulatedClient) -> float:
        """The scheduler notices that a client is not there any more."""
        link = client.link
        if link is None or not link.open:
            return 0.0
        link.open = False
        return self.scheduler.event(self.core.on_client_gone, link.peer)

    def fetch(self, reader: SimulatedWorker | SimulatedClient, ident: str, address: str, keys: list[str]) -> None:
        """A worker or a client asks a worker for values."""
        source = self.workers.get(ident)
        if source is None:
            raise UnexaminedError(f"{reader.ident!r} looks for {keys!r} at {ident!r}, which there never was")
        if source.address != address:
            raise UnexaminedError(f"{reader.ident!r} looks for {ident!r} at {address!r}, not at {source.address!r}")
        self.timeline.after(self.latency(reader.ident, ident), self._serve, reader, source, keys, self.now)

    def store(self, client: SimulatedClient, worker: SimulatedWorker, rows: list[tuple[str, Any, int]]) -> None:
        """A client brings values to a worker."""
        nbytes = sum(row[2] for row in rows)
        arrival = transfer(self.timeline, client.port, worker.port, nbytes, self.latency(client.ident, worker.ident))
        self.timeline.at(arrival, self._store, client, worker, rows)

    def _serve(
        self, reader: SimulatedWorker | SimulatedClient, source: SimulatedWorker, keys: list[str], asked_at: float
    ) -> None:
        latency = self.latency(source.ident, reader.ident)
        if not source.alive or not self._reaches(source.ident, reader.ident):
            self.timeline.after(latency, reader.unreachable, source.ident, keys)
            return
        rows: list[tuple[str, Any, int]] = []
        absent: list[str] = []
        for key in keys:
            held = source.state.store.get(key)
            if held is None:
                absent.append(key)
            else:
                rows.append((key, held[0], held[1]))
        nbytes = sum(row[2] for row in rows)
        arrival = transfer(self.timeline, source.port, reader.port, nbytes, latency)
        self.timeline.at(arrival, self._served, reader, source, rows, absent, asked_at)

    def _served(
        self,
        reader: SimulatedWorker | SimulatedClient,
        source: SimulatedWorker,
        rows: list[tuple[str, Any, int]],
        absent: list[str],
        asked_at: float,
    ) -> None:
        if source.alive and self._reaches(source.ident, reader.ident):
            reader.fetched(source.ident, rows, absent, asked_at)
        else:
            reader.unreachable(source.ident, [row[0] for row in rows] + absent)

    def _store(self, client: SimulatedClient, worker: SimulatedWorker, rows: list[tuple[str, Any, int]]) -> None:
        latency = self.latency(worker.ident, client.ident)
        if worker.alive and self._reaches(worker.ident, client.ident):
            worker.stored(rows)
            self.timeline.after(latency, client.placed, worker.ident, [(row[0], row[2]) for row in rows])
        else:
            self.timeline.after(latency, client.not_placed, [row[0] for row in rows])

    def _reaches(self, one: str, other: str) -> bool:
        return (one, other) not in self._cut and not (self.failing is not None and self.failing())

    def _connected(self, record: Any, down: Channel) -> Link:
        link = Link(record, down)
        self.scheduler.links[record.ident] = link
        if self.checked:
            self._check_scheduler()
        return link

    def _died(self, worker: SimulatedWorker, report: tuple[Any, ...]) -> float:
        """The scheduler is told how a worker's process ended."""
        if worker.link is not None:  # to the scheduler an asynchronous task is away before it has begun
            self._blame(self.absences, [task.key for task in worker.link.peer.processing.values()])
        return self.scheduler.event(self.core.on_worker_died, worker.ident, *report)

    def _blame(self, counts: dict[str, int], keys: Iterable[str]) -> None:
        for key in keys:
            counts[key] = counts.get(key, 0) + 1

    def _check_scheduler(self) -> None:
        self.core.sanity_check()

    def _violated(self, link: Link, error: ProtocolError) -> None:
        if self._violation is None:
            raise error
        ident: str = link.peer.ident
        self._violation(ident, error)
        if ident in self.clients:
            self.client_hung_up(self.clients[ident])
        else:
            self.worker_hung_up(self.workers[ident])
        link.out.close()

    def _encoded(self, sender: str, receiver: str, frame: Frame) -> Frame:
        if self._encode is not None:
            frame = self._encode(sender, receiver, frame)
        if self.checked:
            frame = copied(frame)
            if frame[0][0] != "heartbeat":
                self._story.append((self.now, sender, receiver, frame))
        return frame


def _constant(seconds: float) -> Latency:
    return lambda sender, receiver: seconds
