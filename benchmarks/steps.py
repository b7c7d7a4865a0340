"""Where the time of one task goes on a cluster, step by step, beside what it takes on a real one in the same run.

The steps are those of a real cluster, called one after another in this process, so that each can be timed by itself;
there are no sockets, and no thread waits for another. They are measured for a batch (``map`` and ``gather``), and for
a task that travels alone (``submit`` and ``result``), which bears the whole cost of its messages.

What these steps leave out is told as the rest, in CPU time per process: system calls, event loops, waking up threads
and processes, collecting garbage, and caches of the processor that somebody else has used meanwhile. How much the last
can be is told by the steps of single tasks, each of which comes after a pause.

    python benchmarks/steps.py [--rounds 15] [--tasks 2000]
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
from typing import Any, Final, NamedTuple, TypeVar

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
#: Tasks in a batch on the real cluster, and how many single tasks there are in each round.
BATCH: Final = 10_000
SINGLES: Final = 20
#: Single tasks, one after another, whose CPU time is measured: the system counts it in steps of 10 ms.
SERIES: Final = 3000
#: Seconds.
PAUSE: Final = 0.002
#: Rounds that do not count.
WARMUP: Final = 3

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
            rows = clock(
                CLIENT,
                "key and payload",
                self._calls.many,
                increment,
                [(number,) for number in numbers],
                {},
                None,
                True,
            )
            futures = clock(CLIENT, "Future objects", self._futures, rows)
            clock(CLIENT, "registry", session.submit, futures, rows, None, False, 0)
        del rows
        frame = clock(CLIENT, 'columns, encode "submit"', self._outgoing)
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


class Results(NamedTuple):
    """Medians in seconds per task, of a batch and of single tasks: the steps, and the real cluster."""

    batch_steps: dict[Step, float]
    single_steps: dict[Step, float]
    paused_steps: dict[Step, float]
    batch: float
    single: float
    #: CPU time by process, of all workers together.
    batch_cpu: dict[str, float]
    single_cpu: dict[str, float]
    #: Four messages on a plain TCP connection: two round trips.
    floor: float


def measure(tasks: int, rounds: int) -> Results:
    """The steps and the real cluster in turns."""
    steps: tuple[list[dict[Step, float]], ...] = ([], [], [])
    times: tuple[list[float], list[float]] = ([], [])
    plain = Plain()
    stepped, real = SteppedCluster(), RealCluster()
    try:
        for turn in range(WARMUP + rounds):
            if turn == WARMUP:
                real.reset()
            gc.collect()
            gc.disable()
            batch = _timed(stepped, tasks)
            singles = [_timed(stepped, 1) for _ in range(SINGLES)]
            paused = [_after_pause(stepped) for _ in range(SINGLES)]
            gc.enable()
            seconds, latencies = real.batch(), [real.single() for _ in range(SINGLES)]
            if turn >= WARMUP:
                steps[0].append(batch)
                steps[1].extend(singles)
                steps[2].extend(paused)
                times[0].append(seconds)
                times[1].extend(latencies)
        batch_cpu = {process: seconds / BATCH / rounds for process, seconds in real.used.items()}
        before = _cpu_seconds()
        for _ in range(SERIES):
            real.single()
        single_cpu = {process: (used - before[process]) / SERIES for process, used in _cpu_seconds().items()}
        floor = 2 * statistics.median(plain.latency(rounds * SINGLES))
    finally:
        real.close()
        plain.close()
    return Results(
        _medians(steps[0]),
        _medians(steps[1]),
        _medians(steps[2]),
        statistics.median(times[0]) / BATCH,
        statistics.median(times[1]),
        batch_cpu,
        single_cpu,
        floor,
    )


def _after_pause(cluster: SteppedCluster) -> dict[Step, float]:
    sleep(PAUSE)
    return _timed(cluster, 1)


def _timed(cluster: SteppedCluster, tasks: int) -> dict[Step, float]:
    clock = Clock()
    cluster.run(tasks, clock)
    return {step: seconds / tasks for step, seconds in clock.seconds.items()}


def _medians(rounds: list[dict[Step, float]]) -> dict[Step, float]:
    return {step: statistics.median(seconds.get(step, 0.0) for seconds in rounds) for step in rounds[0]}


class RealCluster:
    """A real cluster of 2 worker processes of 1 thread."""

    def __init__(self) -> None:
        self._numbers = count()
        self._cluster = treadle.LocalCluster(n_workers=WORKERS, threads_per_worker=1)
        self._client = treadle.Client(self._cluster)
        #: CPU seconds of the batches by process, with what is done after their clocks have been stopped.
        self.used = dict.fromkeys((CLIENT, SCHEDULER, WORKER), 0.0)

    def close(self) -> None:
        self._client.close()
        self._cluster.close()

    def batch(self) -> float:
        """Seconds from the call of ``map`` to the return of ``gather``."""
        numbers = [next(self._numbers) for _ in range(BATCH)]
        gc.collect()
        before = _cpu_seconds()
        started = perf_counter()
        results = self._client.gather(self._client.map(increment, numbers))
        seconds = perf_counter() - started
        sleep(0.1)  # the results are released
        for process, used in _cpu_seconds().items():
            self.used[process] += used - before[process]
        check("the results of the map", results, [number + 1 for number in numbers])
        return seconds

    def single(self) -> float:
        """Seconds from the call of ``submit`` to the return of ``result``."""
        number = next(self._numbers)
        started = perf_counter()
        result = self._client.submit(increment, number).result()
        seconds = perf_counter() - started
        check("one result", result, number + 1)
        return seconds

    def reset(self) -> None:
        """Count CPU time from here."""
        self.used = dict.fromkeys(self.used, 0.0)


def _cpu_seconds() -> dict[str, float]:
    used = {CLIENT: process_time(), SCHEDULER: 0.0, WORKER: 0.0}
    for child in psutil.Process().children(recursive=True):
        command = " ".join(child.cmdline())
        for process in (SCHEDULER, WORKER):
            if f"treadle.{process}.process" in command:
                times = child.cpu_times()
                used[process] += times.user + times.system
    return used


def sums_of(steps: dict[Step, float], released: bool = True) -> dict[str, float]:
    """Seconds per process, and of all.

    :param released: with what comes after the result has been read.
    """
    sums = dict.fromkeys((CLIENT, SCHEDULER, WORKER), 0.0)
    for (process, step), seconds in steps.items():
        if released or not step.startswith(AFTERWARDS):
            sums[process] += seconds
    return {**sums, "all": sum(sums.values())}


def report(steps: dict[Step, float]) -> dict[str, float]:
    """Print the table of the steps; returns their sums."""
    before, sums = sums_of(steps, False), sums_of(steps)
    print(f"  {'process':11}{'step':38}{'us per task':>12}{'share':>8}")
    for process in (CLIENT, SCHEDULER, WORKER):
        for (owner, step), seconds in steps.items():
            if owner == process:
                share = "" if step.startswith(AFTERWARDS) else f"{seconds / before['all']:8.1%}"
                print(f"  {process:11}{step:38}{seconds * 1e6:12.3f}{share}")
        print(f"  {process:11}{'= sum':38}{before[process] * 1e6:12.3f}{before[process] / before['all']:8.1%}")
        print(f"  {process:11}{'= sum, with release':38}{sums[process] * 1e6:12.3f}\n")
    print(f"  {'all':11}{'= sum':38}{before['all'] * 1e6:12.3f}")
    return sums


def compare(columns: dict[str, dict[str, float]], measured: dict[str, float]) -> None:
    """Print sums of steps beside what the processes of the cluster used."""
    measured = {**measured, "all": sum(measured.values())}
    print(f"  {'CPU time per task, us':24}" + "".join(f"{name:>14}" for name in [*columns, "cluster", "the rest"]))
    for process, seconds in measured.items():
        values = [column[process] for column in columns.values()]
        cells = [*values, seconds, seconds - values[0]]
        print(f"  {process:24}" + "".join(f"{value * 1e6:14.2f}" for value in cells))
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="how many rounds count (default 15)")
    parser.add_argument("--tasks", type=int, default=2000, help="tasks in a batch (default 2000)")
    options = parser.parse_args()
    banner("The steps of a trivial task on a cluster: microseconds per task, medians", "msgspec", "uvloop")
    results = measure(options.tasks, options.rounds)

    print(f"A task among {options.tasks:,}: map + gather")
    sums = report(results.batch_steps)
    print(f"\n  on a cluster, {BATCH:,} tasks, from map to the end of gather: {results.batch * 1e6:.2f} us per task\n")
    compare({"steps": sums}, results.batch_cpu)

    print("A task alone: submit, result()")
    sums = report(results.single_steps)
    print(f"\n  on a cluster, from submit to the result, p50: {results.single * 1e6:.0f} us")
    print(f"  two round trips of 64 bytes on plain TCP, which are four messages too: {results.floor * 1e6:.0f} us\n")
    compare({"steps": sums, "after pauses": sums_of(results.paused_steps)}, results.single_cpu)


if __name__ == "__main__":
    main()
