"""A scheduler whose peers are played by the test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from treadle.core.records import ACTOR, ASYNCHRONOUS, PURE, STARTS, Client, Worker
from treadle.core.scheduler import Scheduler
from treadle.core.states import NAMES

RAISED = ("raised", b"pickle", "ValueError: no", dict[str, Any]())


class Stage:
    """A scheduler whose peers are played by the test. Every event is followed by a check of all invariants."""

    def __init__(self, *nthreads: int, **options: Any) -> None:
        self.core = Scheduler()
        self.now = 0.0
        self.workers = [self.join(f"w{number}", threads, **options) for number, threads in enumerate(nthreads)]
        self.client = self.connect("client")

    def join(
        self,
        name: str,
        nthreads: int = 1,
        limit: int = 0,
        resources: dict[str, float] | None = None,
        supervised: bool = True,
    ) -> Worker:
        address = f"host:{name}"
        return self.core.on_worker(name, address, name, "host", nthreads, limit, resources or {}, supervised, self.now)

    def connect(self, ident: str) -> Client:
        client = self.core.on_client(ident, self.now)
        kinds = [0, PURE, ASYNCHRONOUS, STARTS, ACTOR]
        rows = [(number, b"%d" % number, "fghij"[number], b"pickle", kind) for number, kind in enumerate(kinds)]
        self.core.on_functions(client, rows)
        return client

    def submit(
        self,
        graph: dict[str, Sequence[str]],
        wanted: Sequence[str] | None = None,
        client: Client | None = None,
        function: int = 0,
        priority: int = 0,
        workers: list[str] | None = None,
        resources: dict[str, float] | None = None,
        retries: int = 0,
    ) -> None:
        keys = list(graph)
        places = {key: index for index, key in enumerate(keys)}
        deps: list[list[int | str]] = [[places.get(dep, dep) for dep in graph[key]] for key in keys]
        self.core.on_submit(
            client or self.client,
            keys,
            [function] * len(keys),
            [b"payload"] * len(keys),
            deps if any(deps) else [],
            None if wanted is None else [places[key] for key in wanted],
            (priority, workers, resources, retries),
            self.now,
        )
        self.core.sanity_check()

    def sent(self, peer: Worker | Client) -> list[tuple[Any, ...]]:
        self.core.flush()
        self.core.placement.dirty.extend(other for other in [*self.workers, self.client] if other.outbox)
        return peer.take()

    def runs(self, worker: Worker) -> dict[str, int]:
        """The attempts of the tasks that the worker was sent, by key."""
        rows = [row for message in self.sent(worker) if message[0] == "run" for row in message[1]]
        return {row[1]: row[0] for row in rows}

    def finish(self, worker: Worker, *keys: str, nbytes: int = 10, seconds: float = 0.001) -> None:
        attempts = {task.key: attempt for attempt, task in worker.processing.items()}
        self.now += seconds
        self.core.on_finished(worker, [(attempts[key], nbytes, seconds, b"\x01") for key in keys], self.now)
        self.core.sanity_check()

    def state(self, key: str) -> str:
        task = self.core.tasks.get(key)
        return "forgotten" if task is None else NAMES[task.state]

    def where(self, key: str) -> str:
        worker = self.core.tasks[key].worker
        assert worker is not None
        return worker.name
