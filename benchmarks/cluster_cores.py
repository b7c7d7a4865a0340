"""The state machines alone: each is fed the messages that real workers would send at once, with no network.

A worker that is told to run a task answers at once that it has finished: 28 bytes, 100 µs. If it was told where to
fetch a dependency, it says first that it holds a copy now. What is timed is the thread's CPU time in the scheduler's
own methods, from the submitted columns or graph, in memory and in order, to the messages in the outboxes; reading and
writing bytes is not, nor what the workers do here.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import math
import pickle
from collections import deque
from collections.abc import Iterator
from time import thread_time, time
from typing import Any, Protocol, TypeVar

from cluster_peers import check, tree_graph
from cluster_tasks import increment

NBYTES = 28
SECONDS = 1e-4
#: How many workers are heard in one turn of the scheduler's loop, at most.
TURN = 16
#: Every this many seconds a scheduler that waits for a moment to come looks at the clock.
TICK = 0.02


T = TypeVar("T")


class Core(Protocol):
    """A scheduler with simulated workers. Each method returns seconds of CPU time."""

    def close(self) -> None: ...

    def flat(self, tasks: int, workers: int) -> float: ...

    def tree(self, leaves: int, workers: int) -> float: ...


class Columns:
    """Tasks in the form in which Treadle's client submits them."""

    def __init__(
        self, keys: list[str], functions: list[int], payloads: list[bytes], deps: list[list[int | str]]
    ) -> None:
        self.keys = keys
        self.functions = functions
        self.payloads = payloads
        self.deps = deps

    @classmethod
    def flat(cls, tasks: int) -> Columns:
        keys = [f"increment-{i}" for i in range(tasks)]
        return cls(keys, [1] * tasks, [b"\x91\xce" + i.to_bytes(4, "big") for i in range(tasks)], [])

    @classmethod
    def tree(cls, leaves: int) -> Columns:
        """Depth first: a tree in the order that keeps the fewest results."""
        columns = cls([], [], [], [])
        columns._subtree(leaves, itertools.count())
        return columns

    def _subtree(self, leaves: int, numbers: Iterator[int]) -> int:
        """Append the tasks of a tree; the index of its root. It is as deep as the tree: 15 for 2^15 leaves."""
        if leaves == 1:
            number = next(numbers)
            return self._append(f"increment-{number}", 1, b"\x91\xce" + number.to_bytes(4, "big"), [])
        left = self._subtree(leaves // 2, numbers)
        right = self._subtree(leaves // 2, numbers)
        return self._append(f"add-{len(self.keys)}", 2, b"\x92\xd4\x01\x00\xd4\x01\x01", [left, right])

    def _append(self, key: str, function: int, payload: bytes, deps: list[int | str]) -> int:
        self.keys.append(key)
        self.functions.append(function)
        self.payloads.append(payload)
        self.deps.append(deps)
        return len(self.keys) - 1


class Simulated:
    """What has no processes has nothing to close."""

    def close(self) -> None: ...


class TreadleCore(Simulated):
    """Treadle's core. Each result is a message of its own, as from workers that run nothing but such tasks."""

    def __init__(self, batched: bool = False) -> None:
        from treadle.scheduler.garbage import calm

        self.batched = batched
        calm()  # as the scheduler's process does

    def flat(self, tasks: int, workers: int) -> float:
        return self._run(Columns.flat(tasks), None, workers)

    def tree(self, leaves: int, workers: int) -> float:
        columns = Columns.tree(leaves)
        return self._run(columns, [len(columns.keys) - 1], workers)

    def _run(self, columns: Columns, wanted: list[int] | None, workers: int) -> float:
        from treadle.core.scheduler import Scheduler

        core = Scheduler()
        now = 0.0
        for number in range(workers):
            core.on_worker(f"w{number}", f"127.0.0.1:{number + 1}", f"w{number}", "host", 1, 0, {}, False, now)
        client = core.on_client("client", now)
        gc.collect()
        functions = [(1, bytes(16), "increment", b"", 0), (2, bytes(15) + b"1", "add", b"", 0)]

        started = thread_time()
        core.on_functions(client, functions)
        core.on_submit(
            client, columns.keys, columns.functions, columns.payloads, columns.deps, wanted, (0, None, None, 0), now
        )
        seconds = thread_time() - started
        done = 0
        looked = now
        waiting: deque[tuple[Any, list[Any]]] = deque()
        while True:
            started = thread_time()
            sent = [(peer, peer.take()) for peer in core.flush()]
            seconds += thread_time() - started
            for peer, messages in sent:
                if peer is client:
                    done += sum(len(message[1]) for message in messages if message[0] == "done")
                else:
                    waiting.append((peer, messages))
            if not waiting:
                break
            turn = [(worker, *_answer(messages)) for worker, messages in _take(waiting)]
            now += sum(len(finished) for _, _, finished in turn) * SECONDS / workers
            started = thread_time()
            for worker, acquired, finished in turn:
                if acquired:
                    core.on_acquired(worker, acquired, now)
                if self.batched:
                    core.on_finished(worker, finished, now)
                    continue
                for row in finished:
                    core.on_finished(worker, [row], now)
            if core.restless and now - looked >= TICK:
                looked = now
                core.tick(now)
            seconds += thread_time() - started
        check("the number of results", done, len(columns.keys) if wanted is None else len(wanted))
        return seconds


def _take(waiting: deque[T]) -> list[T]:
    """Those that are heard in the next turn of the scheduler's loop."""
    return [waiting.popleft() for _ in range(min(TURN, len(waiting)))]


def _answer(messages: list[tuple[Any, ...]]) -> tuple[list[Any], list[Any]]:
    """What a worker would send: rows of acquired copies, and of finished attempts."""
    acquired: list[Any] = []
    finished: list[Any] = []
    for message in messages:
        if message[0] == "run":
            acquired.extend((key, nbytes) for key, nbytes, _ in message[2])
            finished.extend((row[0], NBYTES, SECONDS, b"\x01" if row[6] & 1 else None) for row in message[1])
        elif message[0] == "remake":
            acquired.extend((row[0], NBYTES) for row in message[1])
    return acquired, finished


def batched() -> TreadleCore:
    """All that one worker finishes before the scheduler's next turn comes as one message."""
    return TreadleCore(batched=True)


class Outbox:
    """Stands for a connection: keeps what is sent.

    :param waiting: where it puts itself down when something is there to be read.
    """

    def __init__(self, name: str, waiting: deque[Outbox]) -> None:
        self.name = name
        self.messages: list[dict[str, Any]] = []
        self._waiting = waiting

    def send(self, *messages: dict[str, Any]) -> None:
        if messages and not self.messages:
            self._waiting.append(self)
        self.messages.extend(messages)

    async def write(self, message: Any) -> None:
        """The answer to a worker that has joined: nobody reads it."""


class DistributedCore(Simulated):
    """Distributed's scheduler object, not started: its handlers are called as its streams would call them.

    The graph is given to it deserialized, converted and ordered, which its scheduler has to do by itself otherwise.
    """

    def __init__(self, saturation: float | None = None) -> None:
        import dask
        import distributed  # noqa: F401 - which sets up its logging

        if saturation is not None:
            dask.config.set({"distributed.scheduler.worker-saturation": saturation})
        logging.getLogger("distributed").setLevel(logging.ERROR)
        logging.getLogger("distributed.scheduler").setLevel(logging.ERROR)
        self.kind = pickle.dumps(int)

    def flat(self, tasks: int, workers: int) -> float:
        from dask._task_spec import Task

        graph = {(key := f"increment-{i}"): Task(key, increment, i) for i in range(tasks)}
        order = {key: i for i, key in enumerate(graph)}
        return asyncio.run(self._run(graph, set(graph), order, workers))

    def tree(self, leaves: int, workers: int) -> float:
        import dask.order
        from dask._task_spec import convert_legacy_graph

        plain, root = tree_graph(leaves, "0123456789abcdef")
        graph = convert_legacy_graph(plain)
        return asyncio.run(self._run(graph, {root}, dask.order.order(graph), workers))

    async def _run(self, graph: dict[Any, Any], keys: set[Any], order: dict[Any, int], workers: int) -> float:
        waiting: deque[Outbox] = deque()
        scheduler = await _scheduler(workers, waiting)
        client = Outbox("client", deque())
        scheduler.client_comms["client"] = client
        held: dict[str, set[Any]] = {address: set() for address in scheduler.workers}

        gc.collect()
        began = time()
        started = thread_time()
        scheduler._create_taskstate_from_graph(
            start=began,
            dsk=graph,
            keys=keys,
            ordered=order,
            client="client",
            annotations_by_type={},
            global_annotations=None,
            stimulus_id="update-graph",
            submitting_task=None,
            span_metadata={"collections": [{"type": "low-level-graph"}]},
        )
        seconds = thread_time() - started
        while waiting:
            turn = [(box.name, *self._answer(box.messages, held[box.name])) for box in _take(waiting)]
            started = thread_time()
            for worker, acquired, finished in turn:
                if acquired:
                    scheduler.add_keys(worker=worker, keys=acquired, stimulus_id="acquired")
                for message in finished:
                    scheduler.handle_task_finished(worker=worker, **message)
            seconds += thread_time() - started
        done = {message["key"] for message in client.messages if message["op"] == "key-in-memory"}
        check("the keys of the results", done, keys)
        return seconds

    def _answer(self, messages: list[dict[str, Any]], held: set[Any]) -> tuple[list[Any], list[dict[str, Any]]]:
        """What a worker would send: keys of acquired copies, and messages about finished tasks."""
        acquired: list[Any] = []
        finished: list[dict[str, Any]] = []
        now = time()
        for message in messages:
            if message["op"] == "free-keys":
                held.difference_update(message["keys"])
            if message["op"] != "compute-task":
                continue
            acquired.extend(key for key in message["who_has"] if key not in held)
            held.update(message["who_has"])
            held.add(message["key"])
            finished.append(
                {
                    "key": message["key"],
                    "run_id": message["run_id"],
                    "stimulus_id": message["stimulus_id"],
                    "status": "OK",
                    "nbytes": NBYTES,
                    "type": self.kind,
                    "typename": "int",
                    "metadata": {},
                    "thread": 1,
                    "startstops": [{"action": "compute", "start": now, "stop": now + SECONDS}],
                }
            )
        messages.clear()
        return acquired, finished


def tuned_core() -> DistributedCore:
    return DistributedCore(math.inf)


async def _scheduler(workers: int, waiting: deque[Outbox]) -> Any:
    """Distributed's scheduler with so many workers of one thread, behind which there is nobody."""
    import distributed
    from distributed.scheduler import ClientState

    class Unconnected(distributed.Scheduler):
        async def handle_worker(self, comm: Any, worker: str) -> None:
            streams: dict[str, Any] = self.stream_comms
            streams[worker] = Outbox(worker, waiting)

    scheduler: Any = Unconnected(dashboard=False, dashboard_address=":0", validate=False)
    scheduler.clients["client"] = ClientState("client")
    metrics = {
        "bandwidth": {"total": 1e8, "workers": {}, "types": {}},
        "digests_total_since_heartbeat": {},
        "memory": 0,
        "spilled_bytes": {"memory": 0, "disk": 0},
    }
    for number in range(workers):
        await scheduler.add_worker(
            Outbox("", deque()),
            address=f"tcp://127.0.0.1:{number + 1}",
            status="running",
            server_id=f"w{number}",
            nthreads=1,
            name=f"w{number}",
            resolve_address=False,
            now=time(),
            resources={},
            memory_limit=0,
            metrics=metrics,
            services={},
            local_directory="",
            versions={},
            nanny="",
            extra={},
            stimulus_id="add-worker",
        )
    return scheduler
