"""The contestants of the cluster benchmarks: each starts 2 worker processes of 1 thread, and runs the same cases.

Every method that runs a case returns the seconds from the call to the end of the last task, and releases what it
made only after the clock has been stopped. Every call has new keys, so that nobody is served from a cache. Each
contestant is used in the form that is fastest with it: graphs are built beforehand and given whole where it takes them,
and futures are passed as arguments where it does not.
"""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import logging
import math
import multiprocessing
import os
import socket
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from time import perf_counter
from typing import Any, Protocol

from cluster_tasks import add, count, count_all, ends, increment, ones

WORKERS = 2


class Peer(Protocol):
    """What a contestant can be asked to run. A case that a contestant lacks is not asked of it."""

    def close(self) -> None: ...

    def map_wait(self, tasks: int) -> float:
        """Independent tasks, submitted as one map; the clock stops when all are done."""
        ...

    def map_gather(self, tasks: int) -> float:
        """The same, and all results in the caller's hands."""
        ...

    def tree(self, leaves: int) -> float:
        """A binary tree of additions over ``leaves`` (a power of two) tasks; the result is fetched."""
        ...

    def merge(self, tasks: int) -> float:
        """One task that takes the results of all others; its result is fetched."""
        ...

    def latency(self, samples: int) -> list[float]:
        """Seconds of each of ``samples`` round trips, one at a time: submit one task and wait for its result."""
        ...

    def transfer(self, length: int) -> float:
        """Worker 2 uses an array of ``length`` float64 that worker 1 holds, and returns a number."""
        ...


def check(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise RuntimeError(f"{what}: got {got!r} instead of {expected!r}")


class Stopwatch:
    """Seconds of a ``with`` block, which starts on a clean heap."""

    def __enter__(self) -> Stopwatch:
        gc.collect()
        self.started = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = perf_counter() - self.started


def tree_graph(leaves: int, name: str) -> tuple[dict[Any, Any], Any]:
    """A binary tree of additions in the plain form, and the key of its root."""
    level: list[Any] = [(f"leaf-{name}", i) for i in range(leaves)]
    graph: dict[Any, Any] = {key: (increment, i) for i, key in enumerate(level)}
    for depth in itertools.count(1):
        if len(level) == 1:
            break
        above = [(f"add{depth}-{name}", i) for i in range(len(level) // 2)]
        graph.update((key, (add, level[2 * i], level[2 * i + 1])) for i, key in enumerate(above))
        level = above
    return graph, level[0]


def merge_graph(tasks: int, name: str) -> tuple[dict[Any, Any], Any]:
    """Independent tasks and one that takes all their results, in the plain form, and the key of the latter."""
    leaves = [(f"leaf-{name}", i) for i in range(tasks)]
    graph: dict[Any, Any] = {key: (increment, i) for i, key in enumerate(leaves)}
    graph[f"merge-{name}"] = (count, leaves)
    return graph, f"merge-{name}"


def tree_sum(leaves: int) -> int:
    return leaves * (leaves + 1) // 2


class Futures:
    """What Treadle and Distributed have in common: the client's methods bear the same names."""

    client: Any
    wait: Callable[[Any], Any]

    def __init__(self) -> None:
        self._numbers: Iterator[int] = itertools.count(0, 1_000_000)

    def read(self, graph: dict[Any, Any]) -> dict[Any, Any]:
        """The graph in the form that the client takes with the least work."""
        return graph

    def workers(self) -> list[Any]:
        """What ``workers=`` takes to name each worker."""
        raise NotImplementedError

    def map_wait(self, tasks: int) -> float:
        start = next(self._numbers)
        with Stopwatch() as watch:
            futures = self.client.map(increment, range(start, start + tasks), pure=False)
            self.wait(futures)
        check("the last result of the map", futures[-1].result(), start + tasks)
        return watch.seconds

    def map_gather(self, tasks: int) -> float:
        start = next(self._numbers)
        with Stopwatch() as watch:
            results = self.client.gather(self.client.map(increment, range(start, start + tasks), pure=False))
        check("the results of the map", results, list(range(start + 1, start + tasks + 1)))
        return watch.seconds

    def tree(self, leaves: int) -> float:
        graph, root = tree_graph(leaves, uuid.uuid4().hex)
        graph = self.read(graph)
        with Stopwatch() as watch:
            result = self.client.get(graph, root)
        check("the sum of the tree", result, tree_sum(leaves))
        return watch.seconds

    def merge(self, tasks: int) -> float:
        graph, root = merge_graph(tasks, uuid.uuid4().hex)
        graph = self.read(graph)
        with Stopwatch() as watch:
            result = self.client.get(graph, root)
        check("the number of merged results", result, tasks)
        return watch.seconds

    def latency(self, samples: int) -> list[float]:
        start = next(self._numbers)
        seconds = []
        for number in range(start, start + samples):
            started = perf_counter()
            result = self.client.submit(increment, number, pure=False).result()
            seconds.append(perf_counter() - started)
            check("one result", result, number + 1)
        return seconds

    def transfer(self, length: int) -> float:
        first, second = self.workers()
        array = self.client.submit(ones, length, workers=[first], pure=False)
        self.wait([array])
        with Stopwatch() as watch:
            result = self.client.submit(ends, array, workers=[second], pure=False).result()
        check("the sum of the array's ends", result, 2.0)
        return watch.seconds


class Treadle(Futures):
    """Treadle's own local cluster."""

    def __init__(self) -> None:
        import treadle

        super().__init__()
        self.cluster = treadle.LocalCluster(n_workers=WORKERS, threads_per_worker=1)
        self.client = treadle.Client(self.cluster)
        self.wait = treadle.wait

    def workers(self) -> list[Any]:
        return list(self.client.scheduler_info()["workers"])

    def close(self) -> None:
        self.client.close()
        self.cluster.close()


class Distributed(Futures):
    """Dask's local cluster, as it comes (``saturation=None``) or with another ``worker-saturation``."""

    def __init__(self, saturation: float | None = None) -> None:
        dask: Any = import_module("dask")
        distributed: Any = import_module("distributed")
        super().__init__()
        warnings.filterwarnings("ignore", message="Sending large graph")
        # While others have their turn it is stopped, and must not take its workers for dead afterwards.
        dask.config.set({"distributed.scheduler.worker-ttl": None})
        if saturation is not None:
            dask.config.set({"distributed.scheduler.worker-saturation": saturation})
        self.cluster = distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        )
        self.client = distributed.Client(self.cluster)
        self.client.wait_for_workers(WORKERS)
        self.wait = distributed.wait

    def read(self, graph: dict[Any, Any]) -> dict[Any, Any]:
        from dask._task_spec import convert_legacy_graph

        converted: dict[Any, Any] = convert_legacy_graph(graph)
        return converted

    def workers(self) -> list[Any]:
        return list(self.client.scheduler_info()["workers"])

    def close(self) -> None:
        self.client.close()
        self.cluster.close()


def tuned() -> Distributed:
    """Distributed without queuing on the scheduler: much faster on maps of small tasks, at the cost of memory."""
    return Distributed(math.inf)


class Ray:
    """Ray with 2 CPUs; references are passed as arguments."""

    def __init__(self) -> None:
        ray: Any = import_module("ray")
        self.ray = ray
        self.directory = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
        ray.init(
            num_cpus=WORKERS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=1 << 30,
            _temp_dir=self.directory.name,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
        )
        self._numbers: Iterator[int] = itertools.count(0, 1_000_000)
        self.increment = ray.remote(increment)
        self.add = ray.remote(add)
        self.count_all = ray.remote(count_all)

    def close(self) -> None:
        self.ray.shutdown()
        self.directory.cleanup()

    def map_wait(self, tasks: int) -> float:
        start = next(self._numbers)
        with Stopwatch() as watch:
            references = [self.increment.remote(number) for number in range(start, start + tasks)]
            self.ray.wait(references, num_returns=tasks, fetch_local=False)
        check("the last result of the map", self.ray.get(references[-1]), start + tasks)
        return watch.seconds

    def map_gather(self, tasks: int) -> float:
        start = next(self._numbers)
        with Stopwatch() as watch:
            results = self.ray.get([self.increment.remote(number) for number in range(start, start + tasks)])
        check("the results of the map", results, list(range(start + 1, start + tasks + 1)))
        return watch.seconds

    def tree(self, leaves: int) -> float:
        with Stopwatch() as watch:
            level = [self.increment.remote(number) for number in range(leaves)]
            while len(level) > 1:
                level = [self.add.remote(level[i], level[i + 1]) for i in range(0, len(level), 2)]
            result = self.ray.get(level[0])
        check("the sum of the tree", result, tree_sum(leaves))
        return watch.seconds

    def merge(self, tasks: int) -> float:
        with Stopwatch() as watch:
            result = self.ray.get(self.count_all.remote(*[self.increment.remote(number) for number in range(tasks)]))
        check("the number of merged results", result, tasks)
        return watch.seconds

    def latency(self, samples: int) -> list[float]:
        seconds = []
        for number in range(samples):
            started = perf_counter()
            result = self.ray.get(self.increment.remote(number))
            seconds.append(perf_counter() - started)
            check("one result", result, number + 1)
        return seconds

    def transfer(self, length: int) -> float:
        """Ray's workers on one host share memory: nothing is copied but a reference."""
        holder, user = (self.ray.remote(Holder).remote() for _ in range(2))
        array = holder.make.remote(length)
        self.ray.wait([array], fetch_local=False)
        self.ray.get(user.warm.remote())
        with Stopwatch() as watch:
            result = self.ray.get(user.use.remote(array))
        check("the sum of the array's ends", result, 2.0)
        self.ray.kill(holder)
        self.ray.kill(user)
        return watch.seconds


class Holder:
    """An actor that makes or uses an array."""

    def warm(self) -> None:
        """Returns when the actor's process is up."""

    def make(self, length: int) -> Any:
        return ones(length)

    def use(self, array: Any) -> float:
        return ends(array)


class Pool:
    """``concurrent.futures.ProcessPoolExecutor``: it knows no graph, and is given each level of a tree as a map."""

    def __init__(self) -> None:
        self.pool = concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn"))
        list(self.pool.map(increment, range(100)))

    def close(self) -> None:
        self.pool.shutdown()

    def map_wait(self, tasks: int) -> float:
        with Stopwatch() as watch:
            futures = [self.pool.submit(increment, number) for number in range(tasks)]
            concurrent.futures.wait(futures)
        check("the last result of the map", futures[-1].result(), tasks)
        return watch.seconds

    def map_gather(self, tasks: int) -> float:
        with Stopwatch() as watch:
            results = list(self.pool.map(increment, range(tasks)))
        check("the results of the map", results, list(range(1, tasks + 1)))
        return watch.seconds

    def tree(self, leaves: int) -> float:
        with Stopwatch() as watch:
            level = list(self.pool.map(increment, range(leaves)))
            while len(level) > 1:
                level = list(self.pool.map(add, level[::2], level[1::2]))
        check("the sum of the tree", level[0], tree_sum(leaves))
        return watch.seconds

    def merge(self, tasks: int) -> float:
        with Stopwatch() as watch:
            result = self.pool.submit(count, list(self.pool.map(increment, range(tasks)))).result()
        check("the number of merged results", result, tasks)
        return watch.seconds

    def latency(self, samples: int) -> list[float]:
        seconds = []
        for number in range(samples):
            started = perf_counter()
            result = self.pool.submit(increment, number).result()
            seconds.append(perf_counter() - started)
            check("one result", result, number + 1)
        return seconds


class Plain:
    """The floor of all that travels between two processes: a plain TCP connection, on which one asks for bytes."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            context = multiprocessing.get_context("spawn")
            self.process = context.Process(target=serve, args=server.getsockname(), daemon=True)
            self.process.start()
            self.link, _ = server.accept()
        self.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self.link.close()
        self.process.join()

    def latency(self, samples: int) -> list[float]:
        seconds = []
        for _ in range(samples):
            started = perf_counter()
            self._fetch(bytearray(64))
            seconds.append(perf_counter() - started)
        return seconds

    def transfer(self, length: int) -> float:
        import numpy as np

        with Stopwatch() as watch:
            array = np.empty(length)
            self._fetch(array)
        check("the sum of the array's ends", ends(array), 2.0)
        return watch.seconds

    def _fetch(self, into: Any) -> None:
        view = memoryview(into).cast("B")
        self.link.sendall(len(view).to_bytes(64, "little"))
        arrived = 0
        while arrived < len(view):
            arrived += self.link.recv_into(view[arrived:])


def serve(host: str, port: int) -> None:
    """Answers 64 bytes, which are a number, with as many bytes: of an array of ones."""
    values: dict[int, memoryview] = {}
    with socket.create_connection((host, port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while request := link.recv(64, socket.MSG_WAITALL):
            size = int.from_bytes(request, "little")
            if size not in values:
                values[size] = memoryview(ones(size // 8)).cast("B")
            link.sendall(values[size])
