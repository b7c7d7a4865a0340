"""What the code of a task can ask for: the worker that runs it, a client, and to be counted out while it waits."""

from __future__ import annotations

import asyncio
import copy
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from treadle.client.default import registered
from treadle.client.inside import Inside, current
from treadle.core.placement import LEVEL
from treadle.core.worker import Job
from treadle.errors import NotInTaskError
from treadle.worker import folders

if TYPE_CHECKING:
    from treadle.client.client import Client

__all__ = ["Activity", "WorkerInfo", "get_client", "get_worker", "rejoin", "secede", "worker_client"]


class WorkerInfo:
    """The worker that runs a task, as :func:`get_worker` gives it: to be read only."""

    def __init__(
        self,
        ident: str,
        name: str,
        address: str,
        nthreads: int,
        memory_limit: int,
        resources: Mapping[str, float],
        scheduler: str,
        token: bytes,
    ) -> None:
        #: Unique for ever.
        self.ident: Final = ident
        #: What people call it.
        self.name: Final = name or ident
        #: ``host:port`` where it serves data, and that of its scheduler.
        self.address: Final = address
        self.scheduler: Final = scheduler
        self.nthreads: Final = nthreads
        #: Bytes; 0 for no limit.
        self.memory_limit: Final = memory_limit
        self.resources: Final = dict(resources)
        #: The plugins of this worker, by name.
        self.plugins: Final[dict[str, Any]] = {}
        self._token: Final = token
        self._lock: Final = threading.Lock()
        self._folder = ""
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"<Worker {self.name!r} at {self.address}, {self.nthreads} threads>"

    @property
    def local_directory(self) -> str:
        """A directory for whatever tasks need on this machine. It is removed when the worker ends."""
        with self._lock:
            if not self._folder:
                self._folder = folders.make(self.ident)
            return self._folder

    def client(self, timeout: float = 10.0) -> Client:
        """The client that all tasks of this worker share."""
        with self._lock:
            client = self._client
            if client is None or client.closed or client.session.ended is not None:
                from treadle.client.lent import LentClient

                name = f"task-{self.name}"
                client = self._client = LentClient(
                    self.scheduler, set_as_default=False, timeout=timeout, token=self._token, name=name
                )
            return client

    def clear(self) -> None:
        """Remove what was made for tasks: the worker ends."""
        folder, self._folder = self._folder, ""
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


class Activity:
    """A task that is being run, as its own code sees it.

    :param worker: None where a part of a worker is tried out by itself.
    """

    def __init__(self, job: Job, worker: WorkerInfo | None) -> None:
        self.job = job
        self._worker = worker

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.job!r}>"

    @property
    def key(self) -> str:
        return self.job.key

    @property
    def attempt(self) -> int:
        return self.job.attempt

    @property
    def priority(self) -> int:
        return -(self.job.order // LEVEL)

    @property
    def worker(self) -> WorkerInfo:
        assert self._worker is not None
        return self._worker

    def client(self, timeout: float = 10.0) -> Client:
        """The client of the worker; with its asynchronous face where an event loop runs."""
        client = self.worker.client(timeout)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return client
        face = copy.copy(client)
        face.asynchronous = True
        return face

    def leave(self) -> None:
        """Occupies no thread: there is nothing to give up."""

    def come_back(self) -> None: ...

    def secede(self) -> None: ...

    def rejoin(self) -> None: ...


def get_worker() -> WorkerInfo:
    """The worker that runs this task.

    :raises NotInTaskError: this code is not a part of a task.
    """
    worker: WorkerInfo = _task("get_worker()").worker
    return worker


def get_client(timeout: float = 10.0) -> Client:
    """A client of the cluster that runs this task; outside of tasks, the default client.

    All tasks of a worker share it, so closing it does nothing. Where an event loop runs, as it does in an asynchronous
    task, what has to wait returns something to be awaited, as with ``Client(asynchronous=True)``.

    :param timeout: how many seconds to wait for a scheduler that does not answer.
    :raises NotInTaskError: this code is not a part of a task, and there is no default client.
    :raises ConnectError: the scheduler does not answer.
    """
    task = current()
    if task is None:
        default = registered()
        if default is None:
            raise _not_inside("get_client()")
        found: Client = default  # type: ignore[assignment]
        return found
    return task.client(timeout)


def secede() -> None:
    """Have this task occupy no thread of its worker from now on, until :func:`rejoin` or until it ends.

    Another task may run in its place. Whatever of Treadle's waits in a task does both by itself; this is for what waits
    for something else: a server, a file, a child process.

    :raises NotInTaskError: this code is not a part of a task.
    """
    _task("secede()").secede()


def rejoin() -> None:
    """After :func:`secede`: wait until a thread is free, and occupy it again.

    :raises NotInTaskError: this code is not a part of a task.
    """
    _task("rejoin()").rejoin()


@contextmanager
def worker_client(timeout: float = 10.0, separate_thread: bool = True) -> Iterator[Client]:
    """:func:`get_client` for a ``with`` block, in which this task occupies no thread of its worker.

    :param separate_thread: False: go on to occupy it. Waiting for futures does not need either.
    """
    client = get_client(timeout)
    task = _task("worker_client()") if separate_thread else None
    if task is not None:
        task.leave()
    try:
        yield client
    finally:
        if task is not None:
            task.come_back()


def _task(what: str) -> Inside:
    task = current()
    if task is None:
        raise _not_inside(what)
    return task


def _not_inside(what: str) -> NotInTaskError:
    return NotInTaskError(
        f"{what} was called outside of a task. It works in what a worker of a cluster runs: in functions that were "
        "given to client.submit or client.map, and in the thread in which the worker calls them."
    )
