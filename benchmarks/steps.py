"""Where the time of one task goes on a cluster, step by step, beside what it takes on a real one in the same run.

The steps are those of a real cluster, called one after another in this process, so that each can be timed by itself;
there are no sockets, and no thread waits for another. They are measured for a batch (``map`` and ``gather``), and for
a task that travels alone (``submit`` and ``result``), to which the costs of messages, turns and waiting belong undivided.

What is left is what these steps are not: system calls, event loops, waking up threads and processes, waiting for a core
or for the interpreter's lock. For batches it is told per process, as CPU time; for single tasks, as time that passed.

    python benchmarks/steps.py [--rounds 25] [--tasks 2000]
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
from collections.abc import Callable, Sequence
from itertools import count
from threading import Lock
from time import monotonic, perf_counter, process_time, sleep
from typing import Any, Final, TypeVar

import psutil
from cluster_peers import Plain, check
from cluster_tasks import increment
from rounds import banner

import treadle
from treadle.client.calls import Calls
from treadle.client.future import PENDING, Future
from treadle.client.outbox import Row
from treadle.client.session import Session
from treadle.core.records import Peer, Worker
from treadle.core.scheduler import Scheduler
from treadle.core.worker import Job, WorkerState
from treadle.scheduler import events
from treadle.wire import messages
from treadle.wire.frames import FrameReader, Limits, encode_frame
from treadle.wire.sizes import sizeof
from treadle.wire.values import pack_value, unpack_call
from treadle.worker.events import feed
from treadle.worker.slots import Slots

T = TypeVar("T")

#: Process and step.
Step = tuple[str, str]

WORKERS: Final = 2
#: Tasks in a batch on the real cluster, and how many of these batches and of single tasks are measured.
BATCH: Final = 10_000
BATCHES: Final = 15
SINGLES: Final = 300
#: Of single tasks, for each round of a batch.
SINGLES_PER_ROUND: Final = 20

LIMITS: Final = Limits(1 << 28, 0, 0)

CLIENT: Final = "client"
SCHEDULER: Final = "scheduler"
WORKER: Final = "worker"
#: Steps that happen when the result has been read already.
AFTERWARDS: Final = "release: "


class Clock:
    """Adds up how long the steps take."""

    def __init__(self) -> None:
        self.seconds: dict[Step, float] = {}

    def __call__(self, process: str, step: str, call: Callable[..., T], *args: Any) -> T:
        started = perf_counter()
        result = call(*args)
        seconds = perf_counter() - started
        self.seconds[process, step] = self.seconds.get((process, step), 0.0) + seconds
        return result


class Inbox:
    """Where the frames of one connection arrive."""

    def __init__(self, decoder: messages.MessageDecoder) -> None:
        self._reader = FrameReader(LIMITS)
        self._decode = decoder.decode

    def receive(self, pieces: Sequence[bytes | memoryview], clock: Clock, process: str, step: str) -> list[Any]:
        """The messages of one frame. What the system does, to put it into memory, is not timed."""
        data = b"".join(pieces)
        while True:
            space = self._reader.space()
            taken = min(len(space), len(data))
            space[:taken] = data[:taken]
            data = data[taken:]
            self._reader.filled(taken)
            received = clock(process, step, self._take)
            if received is not None:
                return received

    def _take(self) -> list[Any] | None:
        frame = self._reader.take()
        return None if frame is None else self._decode(frame[0])


class SteppedWorker:
    """A worker without threads. Its state hands out all tasks at once, so that each step can be timed for all."""

    def __init__(self, record: Worker) -> None:
        self.record = record
        self.inbox = Inbox(messages.TO_WORKER)
        self.reports = Inbox(messages.FROM_WORKER)
        self._state = WorkerState(1 << 20)
        self._lock = Lock()
        descriptor = Slots.create(1)
        self._slots = Slots(descriptor, 1)
        os.close(descriptor)

    def work(self, received: list[Any], clock: Clock) -> list[bytes | memoryview] | None:
        """Do what the scheduler asks for. Returns the frame of the reports, if there are tasks among it."""
        state = self._state
        if all(type(message) is messages.ReleaseKeys for message in received):
            clock(WORKER, AFTERWARDS + "drop the result", self._drop, received)
            return None
        clock(WORKER, "queue the task", feed, state, received)
        jobs = clock(WORKER, "take the best task", self._take)
        calls = clock(WORKER, "read the arguments", _read_arguments, state, jobs)
        started = perf_counter()
        values = clock(WORKER, "call the function", _call, calls)
        seconds = (perf_counter() - started) / len(jobs)
        packed = clock(WORKER, "measure and pack the result", _pack, values)
        clock(WORKER, "lock, slots and clock", self._keep_books, jobs)
        clock(WORKER, "settle", self._settle, jobs, values, packed, seconds)
        return clock(WORKER, 'encode "finished"', lambda: encode_frame(state.take_outbox()))

    def _drop(self, received: list[Any]) -> None:
        feed(self._state, received)
        self._state.take_garbage().clear()

    def _take(self) -> list[Job]:
        jobs: list[Job] = []
        take = self._state.take
        while (job := take()) is not None:
            jobs.append(job)
        return jobs

    def _keep_books(self, jobs: list[Job]) -> None:
        """What a thread does between two tasks besides."""
        execute = self._slots.execute
        acquire, release = self._lock.acquire, self._lock.release
        for job in jobs:
            acquire()
            release()
            execute(0, job.attempt)
            perf_counter()
            perf_counter()
            execute(0, 0)

    def _settle(self, jobs: list[Job], values: list[Any], packed: list[tuple[int, bytes]], seconds: float) -> None:
        on_success = self._state.on_success
        for job, value, (nbytes, data) in zip(jobs, values, packed):
            on_success(job, value, nbytes, seconds, data)


def _read_arguments(state: WorkerState, jobs: list[Job]) -> list[list[Any]]:
    return [unpack_call(job.payload, state.inputs(job))[0] for job in jobs]


def _call(calls: list[list[Any]]) -> list[Any]:
    return [increment(*args) for args in calls]


def _pack(values: list[Any]) -> list[tuple[int, bytes]]:
    return [(sizeof(value), pack_value(value)) for value in values]


class SteppedCluster:
    """The parts of a client, of a scheduler and of workers, and the ways between them."""

    def __init__(self) -> None:
        self._numbers = count()
        self._session = Session("127.0.0.1:1", b"", "client")
        self._calls = Calls(self._session)
        self._core = Scheduler()
        self._client = self._core.on_client("client", monotonic())
        self._requests = Inbox(messages.FROM_CLIENT)
        self._answers = Inbox(messages.FROM_SCHEDULER_TO_CLIENT)
        self._workers: dict[Peer, SteppedWorker] = {}
        for number in range(WORKERS):
            name = f"worker-{number}"
            record = self._core.on_worker(name, f"host:{number}", name, "host", 1, 0, {}, True, monotonic())
            self._workers[record] = SteppedWorker(record)

    def run(self, tasks: int, clock: Clock) -> None:
        """Tasks from their submission until they are forgotten.

        :param tasks: how many are given to one ``map``; 1 for ``submit``.
        """
        numbers = [next(self._numbers) for _ in range(tasks)]
        session = self._session
        if tasks == 1:
            rows = [clock(CLIENT, "key and payload", self._row, numbers[0])]
            futures = [clock(CLIENT, "Future objects", Future[int], rows[0][0], session)]
            clock(CLIENT, "registry", session.submit_one, futures[0], rows[0], None)
        else:
            rows = clock(CLIENT, "key and payload", self._calls.many, increment, [numbers], {}, None, True)
            futures = clock(CLIENT, "Future objects", self._futures, rows)
            clock(CLIENT, "registry", session.submit, futures, rows, None, False, 0)
        del rows
        frame = clock(CLIENT, 'encode "submit"', self._outgoing)
        clock(CLIENT, "latch", session._watch, futures, PENDING, None, True, None)
        received = self._requests.receive(frame, clock, SCHEDULER, 'decode "submit"')
        self._hear(events.FROM_CLIENT, self._client, received, clock, "on_submit: record, place")
        self._exchange(clock)
        results = clock(CLIENT, "result()", _results, futures)
        check("the results", results, [number + 1 for number in numbers])
        clock(CLIENT, AFTERWARDS + "drop the future", futures.clear)
        frame = clock(CLIENT, AFTERWARDS + "encode", self._outgoing)
        received = self._requests.receive(frame, clock, SCHEDULER, AFTERWARDS + "decode")
        self._hear(events.FROM_CLIENT, self._client, received, clock, AFTERWARDS + "forget the task")
        self._exchange(clock, AFTERWARDS)
        check("the tasks that are left", list(self._core.tasks), [])

    def _row(self, number: int) -> Row:
        return self._calls.one(increment, (number,), {}, None, True)

    def _futures(self, rows: list[Row]) -> list[Future[int]]:
        session = self._session
        return [Future(row[0], session) for row in rows]

    def _outgoing(self) -> list[bytes | memoryview]:
        return encode_frame(self._session.registry.take())

    def _hear(self, handlers: Any, peer: Peer, received: list[Any], clock: Clock, step: str) -> None:
        for message in received:
            clock(SCHEDULER, step, handlers[type(message)], self._core, peer, message, monotonic())

    def _exchange(self, clock: Clock, prefix: str = "") -> None:
        """Turns of the scheduler, until nobody has anything to say."""
        while peers := clock(SCHEDULER, prefix + "flush", self._core.flush):
            reports = []
            for peer in peers:
                worker = self._workers.get(peer)
                what = "encode" if prefix else 'encode "done"' if worker is None else 'encode "run"'
                frame = clock(SCHEDULER, prefix + what, _outbox, peer)
                if worker is None:
                    self._deliver(frame, clock)
                    continue
                what = "decode" if prefix else 'decode "run"'
                received = worker.inbox.receive(frame, clock, WORKER, prefix + what)
                report = worker.work(received, clock)
                if report is not None:
                    reports.append((worker, report))
            for worker, report in reports:
                received = worker.reports.receive(report, clock, SCHEDULER, 'decode "finished"')
                self._hear(events.FROM_WORKER, worker.record, received, clock, "on_finished: record, place the next")

    def _deliver(self, frame: list[bytes | memoryview], clock: Clock) -> None:
        received = self._answers.receive(frame, clock, CLIENT, 'decode "done"')
        clock(CLIENT, "settle futures", self._session._receive, received, [])


def _outbox(peer: Peer) -> list[bytes | memoryview]:
    return encode_frame(peer.take())


def _results(futures: list[Future[int]]) -> list[int]:
    for future in futures:
        future._unpack()
    return [future.result() for future in futures]


def measure_steps(tasks: int, rounds: int) -> tuple[dict[Step, float], dict[Step, float]]:
    """Medians in seconds per task: of a batch of ``tasks``, and of a single one."""
    cluster = SteppedCluster()
    for _ in range(3):
        cluster.run(tasks, Clock())
    batches: list[dict[Step, float]] = []
    singles: list[dict[Step, float]] = []
    for _ in range(rounds):
        gc.collect()
        gc.disable()
        batches.append(_timed(cluster, tasks))
        singles += [_timed(cluster, 1) for _ in range(SINGLES_PER_ROUND)]
        gc.enable()
    return _medians(batches), _medians(singles)


def _timed(cluster: SteppedCluster, tasks: int) -> dict[Step, float]:
    clock = Clock()
    cluster.run(tasks, clock)
    return {step: seconds / tasks for step, seconds in clock.seconds.items()}


def _medians(rounds: list[dict[Step, float]]) -> dict[Step, float]:
    return {step: statistics.median(seconds.get(step, 0.0) for seconds in rounds) for step in rounds[0]}


class Measured:
    """The same on a real cluster of 2 worker processes of 1 thread: seconds per task."""

    def __init__(self) -> None:
        self._numbers = count()
        with (
            treadle.LocalCluster(n_workers=WORKERS, threads_per_worker=1) as cluster,
            treadle.Client(cluster) as client,
        ):
            self._batch(client)
            before = _cpu_seconds()
            #: From the call of ``map`` to the return of ``gather``.
            self.batch = statistics.median(self._batch(client) for _ in range(BATCHES)) / BATCH
            sleep(0.5)  # the last results are released
            after = _cpu_seconds()
            #: CPU time by process, of all workers together; with what is done after the clock has been stopped.
            self.cpu = {process: (after[process] - before[process]) / BATCH / BATCHES for process in after}
            self.single = statistics.median([self._single(client) for _ in range(SINGLES)][SINGLES // 10 :])
        plain = Plain()
        try:
            #: Four messages on a plain TCP connection: two round trips.
            self.floor = 2 * statistics.median(plain.latency(SINGLES)[SINGLES // 10 :])
        finally:
            plain.close()

    def _batch(self, client: treadle.Client) -> float:
        numbers = [next(self._numbers) for _ in range(BATCH)]
        gc.collect()
        started = perf_counter()
        results = client.gather(client.map(increment, numbers))
        seconds = perf_counter() - started
        check("the results of the map", results, [number + 1 for number in numbers])
        return seconds

    def _single(self, client: treadle.Client) -> float:
        number = next(self._numbers)
        started = perf_counter()
        result = client.submit(increment, number).result()
        seconds = perf_counter() - started
        check("one result", result, number + 1)
        return seconds


def _cpu_seconds() -> dict[str, float]:
    used = {CLIENT: process_time(), SCHEDULER: 0.0, WORKER: 0.0}
    for child in psutil.Process().children(recursive=True):
        command = " ".join(child.cmdline())
        for process in (SCHEDULER, WORKER):
            if f"treadle.{process}.process" in command:
                times = child.cpu_times()
                used[process] += times.user + times.system
    return used


def report(steps: dict[Step, float]) -> dict[str, float]:
    """The table of the steps, and their sums per process, those of releasing included."""
    before = sum(seconds for (_, step), seconds in steps.items() if not step.startswith(AFTERWARDS))
    print(f"  {'process':11}{'step':38}{'us per task':>12}{'share':>8}")
    sums: dict[str, float] = {}
    for process in (CLIENT, SCHEDULER, WORKER):
        mine = {step: seconds for (owner, step), seconds in steps.items() if owner == process}
        for step, seconds in mine.items():
            share = "" if step.startswith(AFTERWARDS) else f"{seconds / before:8.1%}"
            print(f"  {process:11}{step:38}{seconds * 1e6:12.3f}{share:>8}")
        later = sum(seconds for step, seconds in mine.items() if step.startswith(AFTERWARDS))
        sums[process] = sum(mine.values())
        mine_before = sums[process] - later
        print(f"  {process:11}{'= sum':38}{mine_before * 1e6:12.3f}{mine_before / before:8.1%}")
        print(f"  {process:11}{'= sum, with release':38}{sums[process] * 1e6:12.3f}\n")
    print(f"  {'all':11}{'= sum':38}{before * 1e6:12.3f}")
    sums["all"] = before
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="how many rounds count (default 25)")
    parser.add_argument("--tasks", type=int, default=2000, help="tasks in a batch (default 2000)")
    options = parser.parse_args()
    banner("The steps of a trivial task on a cluster: microseconds per task, medians", "msgspec", "uvloop")
    batch, single = measure_steps(options.tasks, options.rounds)
    measured = Measured()

    print(f"A task among {options.tasks:,}: map + gather")
    sums = report(batch)
    print(f"\n  on a cluster, {BATCH:,} tasks, from map to the end of gather: {measured.batch * 1e6:.2f} us per task")
    print(f"\n  {'CPU time per task':20}{'steps':>10}{'cluster':>10}{'the rest':>10}")
    for process, seconds in measured.cpu.items():
        rest = seconds - sums[process]
        print(f"  {process:20}{sums[process] * 1e6:10.2f}{seconds * 1e6:10.2f}{rest * 1e6:10.2f}")
    print("  The rest: system calls, event loops, switching threads and waiting for the GIL, collecting garbage.\n")

    print("A task alone: submit, result()")
    sums = report(single)
    rest = measured.single - sums["all"]
    print(f"\n  on a cluster, from submit to the result, p50: {measured.single * 1e6:.0f} us")
    print(
        f"  the rest: {rest * 1e6:.0f} us, or {rest / measured.single:.0%}: four times a message is written and read,"
    )
    print("  and a process wakes up; twice one thread wakes up another one. Floor of the messages, as two")
    print(f"  round trips of 64 bytes on plain TCP: {measured.floor * 1e6:.0f} us")


if __name__ == "__main__":
    main()
