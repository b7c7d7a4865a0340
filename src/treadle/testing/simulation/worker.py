"""A worker's process: it feeds the real worker state, occupies threads, and passes data to others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from treadle.core.placement import LEVEL
from treadle.core.worker import ASYNCHRONOUS, Job, WorkerState
from treadle.testing.recording import UnexaminedError
from treadle.testing.simulation.network import Channel, Frame, Port
from treadle.testing.simulation.scheduler import Link
from treadle.testing.simulation.tasks import Run, pack

if TYPE_CHECKING:
    from treadle.testing.simulation.client import SimulatedClient
    from treadle.testing.simulation.cluster import SimulatedCluster

__all__ = ["SMALL", "SimulatedWorker"]

#: Results of at most so many bytes ride along with the news that they are there.
SMALL = 16384


class SimulatedWorker:
    """One worker of a :class:`SimulatedCluster`, which makes it: see :meth:`SimulatedCluster.add_worker`."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        ident: str,
        nthreads: int,
        *,
        name: str,
        host: str,
        memory_limit: int,
        resources: dict[str, float],
        supervised: bool,
        bandwidth: float,
        speed: float,
    ) -> None:
        self.cluster = cluster
        self.ident = ident
        self.address = f"{host}:{ident}"
        self.nthreads = nthreads
        self.name = name
        self.host = host
        self.memory_limit = memory_limit
        self.resources = resources
        self.supervised = supervised
        #: How many times faster than stated it runs its tasks.
        self.speed = speed
        self.state = WorkerState(nthreads)
        self.port = Port(bandwidth)
        self.up: Channel = cluster.channel(ident, "scheduler", self._to_scheduler, self._hung_up)
        self.down: Channel = cluster.channel("scheduler", ident, self.receive, self.stop)
        #: The scheduler's end, once it has answered.
        self.link: Link | None = None
        #: False from when the process has ended.
        self.alive = True
        #: The jobs that occupy a thread.
        self.running: list[Job] = []
        #: Those that have started and occupy none, and what is to be done as soon as one of them is admitted.
        self.aside: dict[Job, None] = {}
        self.parked: dict[Job, Callable[[], None]] = {}
        #: Through which its tasks submit others.
        self._client: SimulatedClient | None = None
        #: Seconds that tasks have occupied threads.
        self.busy = 0.0
        #: Names of functions by their numbers.
        self.functions: dict[int, str] = {}
        self._fetched_bytes = 0
        self._fetch_seconds = 0.0

    def __repr__(self) -> str:
        state = f"{len(self.running)} running" if self.alive else "ended"
        return f"<SimulatedWorker {self.ident!r}, {self.nthreads} threads, {state}>"

    def receive(self, frame: Frame) -> None:
        """Messages of the scheduler."""
        for message in frame:
            if not self.alive:
                return
            handler = _TO_WORKER.get(message[0])
            if handler is None:
                raise UnexaminedError(f"the worker {self.ident!r} does not know what it is told: {message!r:.200}")
            handler(self, message)
            self.check()
        self.advance()

    def advance(self) -> None:
        """Start what can be started, fetch what is to be fetched, say what there is to say."""
        state = self.state
        while (job := state.admit()) is not None:
            self.parked.pop(job)()
        while (job := state.take()) is not None:
            self._start(job)
        for job in state.take_away():
            self._start(job)
        assert len(self.running) <= self.nthreads, f"{self!r} executes more than it has threads for"
        for ident, address, keys in state.fetches():
            self.cluster.fetch(self, ident, address, keys)
        outbox = state.take_outbox()
        if outbox:
            self.up.send(outbox)
        state.take_garbage()
        self.check()

    def stop(self) -> None:
        """The process ends, whatever it was doing, and tells nobody: see :meth:`SimulatedCluster.kill`."""
        self.alive = False
        self.down.deaf = True
        self.up.close()
        if self._client is not None:
            self._client.close()

    def check(self) -> None:
        """Let the state check itself, if the cluster is checked."""
        if self.cluster.checked:
            self.state.sanity_check()

    def fetched(self, ident: str, rows: list[tuple[str, Any, int]], absent: list[str], asked_at: float) -> None:
        """A peer has answered."""
        if not self.alive:
            return
        usable = [row for row in rows if row[0] not in self.cluster.unusable]
        if usable:
            self._fetched_bytes += sum(nbytes for _, _, nbytes in usable)
            self._fetch_seconds += self.cluster.timeline.now - asked_at
            self.state.on_fetched(ident, usable)
            self.check()
        for key, _, _ in rows:
            if key in self.cluster.unusable:
                self.state.on_unusable(ident, key, ("refused", b"", f"{key} cannot be pickled", {"what": key}))
                self.check()
        if absent:
            self.state.on_not_held(ident, absent)
        self.advance()

    def unreachable(self, ident: str, keys: list[str]) -> None:
        """A peer does not answer."""
        if self.alive:
            self.state.on_unreachable(ident, keys)
            self.advance()

    def stored(self, rows: list[tuple[str, Any, int]]) -> None:
        """A client has brought values."""
        self.state.on_stored(rows)
        self.advance()

    def beat(self, interval: float) -> None:
        """Say how things are, and again after ``interval`` seconds."""
        if not self.alive:
            return
        link = self.link
        if link is not None and link.open and not self.up.stalled:
            frame: Frame = [("heartbeat", 0, 0.0, self._fetched_bytes, self._fetch_seconds)]
            self._fetched_bytes = 0
            self._fetch_seconds = 0.0
            self.cluster.scheduler.post_quietly(
                self.cluster.from_worker, self, frame if self.up.encode is None else self.up.encode(frame)
            )
        timeline = self.cluster.timeline
        timeline.background(timeline.now + interval, self.beat, interval)

    def _start(self, job: Job) -> None:
        cluster = self.cluster
        key = job.key
        number = cluster.runs.get(key, 0) + 1
        cluster.runs[key] = number
        run = cluster.behaviour(key, self.functions[job.fid], number)
        value = None if cluster.evaluate is None else cluster.evaluate(key, self.state.inputs(job))
        if job.away:
            self.aside[job] = None
        else:
            self.running.append(job)
        seconds = run.seconds / self.speed
        if (run.aside or run.children) and not job.away:
            cluster.timeline.after(seconds / 2, self._secede, job, run, seconds, value)
        else:
            cluster.timeline.after(seconds + cluster.costs.task, self._finish, job, run, seconds, value)

    def _secede(self, job: Job, run: Run, seconds: float, value: Any) -> None:
        """The task begins to wait, for time to pass or for tasks that it submits."""
        if not self.alive:
            return
        self.running.remove(job)
        self.aside[job] = None
        self.state.secede(job)
        waiting = dict.fromkeys(run.children)

        def over(key: str = "") -> None:
            waiting.pop(key, None)
            if waiting or not self.alive:
                return
            if run.children:
                client = self._client_for_tasks()
                client.release([key for key in run.children if key in client.futures])
            if run.rejoins:
                self._rejoin(job, run, seconds, value)
            else:
                self.cluster.timeline.after(seconds / 2, self._finish, job, run, seconds, value)

        if run.children:
            # One step more urgent than its parent: otherwise new parents would start before the first child does.
            urgency = 1 - job.order // LEVEL
            for future in self._client_for_tasks().submit(run.children, priority=urgency):
                future.then.append(partial(over, future.key))
        else:
            self.cluster.timeline.after(run.aside, over)
        self.advance()

    def _rejoin(self, job: Job, run: Run, seconds: float, value: Any) -> None:
        def go_on() -> None:
            del self.aside[job]
            self.running.append(job)
            self.cluster.timeline.after(seconds / 2 + self.cluster.costs.task, self._finish, job, run, seconds, value)

        if self.state.rejoin(job):
            go_on()
        else:
            self.parked[job] = go_on
        self.advance()

    def _client_for_tasks(self) -> SimulatedClient:
        if self._client is None:
            self._client = self.cluster.add_client(f"client-of-{self.ident}", of_tasks=True)
        return self._client

    def _finish(self, job: Job, run: Run, seconds: float, value: Any) -> None:
        if not self.alive or not (job in self.running or job in self.aside):
            return  # an asynchronous one may have been stopped before
        cluster = self.cluster
        if run.kills:
            cluster.kill(self)
            return
        if job in self.running:
            self.running.remove(job)
            self.busy += seconds
            cluster.busy += seconds
        else:
            del self.aside[job]
        cluster.last_run = cluster.timeline.now
        if run.error is not None:
            self.state.on_failure(job, seconds, ("raised", b"", run.error, {}))
        else:
            small = value is not None and job.flags & 1 and run.nbytes <= SMALL
            cluster.makers.setdefault(job.key, set()).add(self.ident)
            self.state.on_success(job, value, run.nbytes, seconds, pack(value) if small else None)
        self.advance()

    def cancel(self, attempts: list[int]) -> None:
        """The scheduler has cancelled these: those that are asynchronous can be stopped at once."""
        stopped = [job for job in self.aside if job.attempt in attempts and job.flags & ASYNCHRONOUS]
        self.state.on_cancel(attempts)
        for job in stopped:
            del self.aside[job]
            self.state.on_failure(job, 0.0, ("cancelled", b"", "", {}))

    def _to_scheduler(self, frame: Frame) -> None:
        self.cluster.scheduler.post(self.cluster.from_worker, self, frame)

    def _hung_up(self) -> None:
        self.cluster.scheduler.post(self.cluster.worker_hung_up, self)


def _learn(worker: SimulatedWorker, message: tuple[Any, ...]) -> None:
    worker.functions.update((fid, name) for fid, name, _ in message[1])
    worker.state.on_functions(message[1])


_TO_WORKER: dict[str, Callable[[SimulatedWorker, tuple[Any, ...]], object]] = {
    "functions": _learn,
    "run": lambda worker, message: worker.state.on_run(message[1], message[2]),
    "remake": lambda worker, message: worker.state.on_remake(message[1]),
    "where": lambda worker, message: worker.state.on_where(message[1]),
    "recall": lambda worker, message: worker.state.on_recall(message[1]),
    "cancel": lambda worker, message: worker.cancel(message[1]),
    "release": lambda worker, message: worker.state.on_release(message[1]),
    "acquire": lambda worker, message: worker.state.on_acquire(message[1]),
    "shutdown": lambda worker, message: worker.cluster.leave(worker, *message[2:]),
}
