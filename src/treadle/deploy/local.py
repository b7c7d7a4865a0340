"""A cluster on this machine, for as long as the program that starts it needs it."""

from __future__ import annotations

import asyncio
import errno
import itertools
import math
import os
import signal as _signal
import socket
import sys
import weakref
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, TypeVar

from treadle.config import ConfigError
from treadle.deploy.child import SchedulerProcess
from treadle.deploy.members import LocalWorker, Members
from treadle.deploy.sizes import memory_of_each, sizes
from treadle.errors import AddressInUseError, ClosedError, PeerError, UserError
from treadle.local.nesting import confined
from treadle.net.addresses import format_address
from treadle.net.secret import new_token
from treadle.scheduler.settings import LOG_LEVELS
from treadle.worker.supervisor import Supervisor

__all__ = ["ClusterError", "LocalCluster", "LocalWorker", "NestedClusterError", "Processes"]

_Self = TypeVar("_Self", bound="LocalCluster")

#: Seconds that processes may take to start. It takes tenths of a second, unless the machine is very busy.
PATIENCE: Final = 60.0


class ClusterError(PeerError):
    """The processes of a cluster do not start, or are gone."""


class NestedClusterError(UserError, RuntimeError):
    """A cluster is started where it would start again and again."""


class LocalCluster:
    """A scheduler and workers on this machine, each in a process of its own.

    >>> with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
    ...     print(client.submit(pow, 2, 10).result())
    1024

    A worker that dies is replaced. All processes end with :meth:`close`, when the cluster is forgotten, and when the
    program ends, in whatever way. They are fresh interpreters, with the module search path and the directory of the
    program, and they never run its main module: no ``if __name__ == "__main__":`` is needed.

    :param n_workers: how many worker processes.
    :param threads_per_worker: how many tasks each of them runs at the same time. Default for both: as many threads in
        all as there are cores; up to 4 of them in a process each, from there on about as many processes as threads
        in each (pure Python is parallel in processes only; threads share their data).
    :param memory_limit: what each worker may use: bytes, ``"4GB"``, or 0 for no limit. Default: its share of what the
        machine has. It is shown to whoever asks; the workers do not enforce it.
    :param resources: what each worker has for tasks that ask for it, such as ``{"GPU": 1}``.
    :param host: the address that the scheduler listens at.
    :param port: the port of the scheduler; 0 for any that is free.
    :param name: what the names of the workers begin with.
    :param silence_logs: True to hear of errors only, False to hear of all that comes and goes, on standard error; or
        a level: ``"debug"``, ``"info"``, ``"warning"``, ``"error"``.
    :param preload: modules, or files that end with ``.py``, that each worker imports before it joins. If one of them
        has a function ``treadle_setup``, it is called with the worker, and ``treadle_teardown`` at the end.
    :param scheduler_preload: the same for the scheduler.
    :param allow_run_on_scheduler: whether clients may have functions called in the process of the scheduler, by
        :meth:`~treadle.Client.run_on_scheduler`.
    :param asynchronous: start nothing yet: ``async with`` and ``await`` do.
    :raises ConfigError: an argument has a value that it cannot have.
    :raises AddressInUseError: somebody else listens on the port.
    :raises NestedClusterError: a task starts a cluster, or a process that only imports the main module does.
    :raises ClusterError: the processes do not start.
    """

    def __init__(
        self,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        memory_limit: str | float | None = None,
        resources: Mapping[str, float] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        name: str = "local",
        silence_logs: bool | str = True,
        preload: str | Sequence[str] = (),
        scheduler_preload: str | Sequence[str] = (),
        allow_run_on_scheduler: bool = False,
        asynchronous: bool = False,
    ) -> None:
        _refuse_nested()
        #: How many workers there are to be, and how many threads each of them has.
        self.n_workers, self.threads_per_worker = sizes(n_workers, threads_per_worker)
        #: Bytes for each worker; 0 for no limit.
        self.memory_limit: Final = memory_of_each(memory_limit, self.n_workers)
        self.resources: Final = _checked(resources)
        self.name: Final = name
        self.asynchronous: Final = asynchronous
        #: What proves that somebody belongs to this cluster.
        self.token: Final = new_token()
        #: ``host:port`` of the scheduler; empty before the start.
        self.address = ""
        self._host: Final = host
        self._port: Final = port
        self._log_level: Final = _level(silence_logs)
        self._preload: Final = _names(preload)
        self._scheduler_preload: Final = _names(scheduler_preload)
        self._allow_run: Final = bool(allow_run_on_scheduler)
        self._members: Final = Members()
        self._processes: Final = Processes()
        # Called by close(), when this object is forgotten, and when the program ends.
        self._end: Final = weakref.finalize(self, self._processes.end)
        if not asynchronous:
            self._start()

    def __repr__(self) -> str:
        if not self._end.alive:
            return f"<LocalCluster {self.name!r}, closed>"
        if not self.address:
            return f"<LocalCluster {self.name!r}, not started>"
        there = len(self.workers)
        count = str(there) if there == self.n_workers else f"{there} of {self.n_workers}"
        memory = f", memory: {self.memory_limit / 1e9:.1f} GB" if self.memory_limit else ""
        return (
            f"<LocalCluster {self.name!r} at {self.address}: {count} workers, "
            f"threads of each: {self.threads_per_worker}{memory}>"
        )

    def _repr_html_(self) -> str:
        from treadle.client.html import cluster_card
        from treadle.html import shown

        return shown(cluster_card, self)

    @property
    def scheduler_address(self) -> str:
        """The same as :attr:`address`."""
        return self.address

    @property
    def workers(self) -> list[LocalWorker]:
        """The workers that have joined, by name. One that has died is not among them, its replacement will be."""
        return self._members.workers()

    def scale(self, n: int, timeout: float = PATIENCE) -> None:
        """Have ``n`` workers, and wait until it is so. Workers that are too many leave, the last ones first.

        :raises ClusterError: new workers do not start.
        """
        self._check_open()
        self.n_workers = sizes(n, self.threads_per_worker).n_workers
        self._members.failure = ""
        self._processes.keep(self.n_workers)
        self._start_workers()
        self.wait_for_workers(n, timeout)

    def wait_for_workers(self, n: int | None = None, timeout: float = PATIENCE) -> None:
        """Wait until as many workers are there as should be, or ``n``.

        :raises ClusterError: that takes longer than ``timeout`` seconds, or cannot be any more.
        """
        self._check_open()
        members = self._members
        count = self.n_workers if n is None else n
        if not members.wait(lambda workers: len(workers) == count, timeout):
            if members.ended:
                reason = "its scheduler is gone"
            else:
                reason = members.failure or f"that took longer than {timeout:g} s"
            raise ClusterError(f"the cluster has {len(self.workers)} workers where {count} were to be: {reason}")

    def kill_worker(self, which: int | str = 0, signal: int = _signal.SIGKILL) -> LocalWorker:
        """Send a signal to a worker process, to see what happens then.

        :param which: the position of the worker in :attr:`workers`, or its name.
        :param signal: after SIGKILL this waits until the scheduler has noticed; the replacement comes a moment later.
        :returns: the worker that was there.
        """
        self._check_open()
        workers = self.workers
        found = [worker for place, worker in enumerate(workers) if which in (place, worker.name, worker.ident)]
        if not found:
            names = ", ".join(worker.name for worker in workers)
            raise ConfigError(f"there is no worker {which!r} in this cluster; there are: {names or 'none'}")
        worker = found[0]
        # Only what is a child of this process: another number may be somebody else's by now.
        if worker.pid in self._processes.pids():
            os.kill(worker.pid, signal)
        if signal == _signal.SIGKILL:
            self._members.wait(lambda left: worker not in left, PATIENCE)
        return worker

    def close(self, timeout: float = 5.0) -> None:
        """End all processes, by force those that need more than ``timeout`` seconds. May be called again."""
        self._processes.timeout = timeout
        self._end()

    # As a context manager, and in asynchronous code

    def __enter__(self: _Self) -> _Self:
        if self.asynchronous:
            raise ClosedError("an asynchronous cluster is started by `async with`, not by `with`")
        self._check_open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self: _Self) -> _Self:
        if not self.address and self._end.alive:
            await asyncio.get_running_loop().run_in_executor(None, self._start)
        self._check_open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __await__(self: _Self) -> Generator[Any, None, _Self]:
        return self.__aenter__().__await__()

    async def aclose(self, timeout: float = 5.0) -> None:
        """:meth:`close`, while others have their turn."""
        await asyncio.get_running_loop().run_in_executor(None, self.close, timeout)

    # Inside

    def _check_open(self) -> None:
        if not self._end.alive:
            raise ClosedError("this cluster is closed")
        if not self.address:
            raise ClosedError("this asynchronous cluster is not started yet; write `async with` or `await`")

    def _start(self) -> None:
        try:
            # Workers can connect to what listens already: they start while the scheduler does.
            with _listen(self._host, self._port) as listener:
                self.address = format_address(*listener.getsockname()[:2])
                settings = {
                    "log_level": self._log_level,
                    "preload": self._scheduler_preload,
                    "allow_run_on_scheduler": self._allow_run,
                    "allow_shutdown": True,
                }
                self._processes.scheduler = SchedulerProcess(listener, settings, self.token, self._members.tell)
            self._start_workers()
            self.wait_for_workers()
        except BaseException:
            self.close()
            raise

    def _start_workers(self) -> None:
        """Start those that are missing, each with a supervisor of its own, so that it can be ended alone."""
        self._processes.sweep()
        supervisors = self._processes.supervisors
        while len(supervisors) < self.n_workers:
            taken = {supervisor.name for supervisor in supervisors}
            supervisor = Supervisor(
                self.address,
                1,
                token=self.token,
                nthreads=self.threads_per_worker,
                memory_limit=self.memory_limit,
                resources=self.resources,
                name=next(name for number in itertools.count() if (name := f"{self.name}-{number}") not in taken),
                log_level=self._log_level,
                preload=self._preload,
                on_gave_up=self._members.give_up,
            )
            supervisor.start()
            supervisors.append(supervisor)


class Processes:
    """What has to be ended. It does not refer to the cluster, which may be forgotten meanwhile."""

    def __init__(self) -> None:
        self.scheduler: SchedulerProcess | None = None
        self.supervisors: Final[list[Supervisor]] = []
        #: Seconds that the end may take.
        self.timeout = 5.0
        self._owner: Final = os.getpid()

    def pids(self) -> set[int]:
        """The worker processes that run."""
        return {child.pid for supervisor in self.supervisors for child in supervisor.children}

    def keep(self, count: int) -> None:
        """End all workers but the first so many."""
        self.sweep()
        while len(self.supervisors) > count:
            self.supervisors.pop().stop(self.timeout)

    def sweep(self) -> None:
        """Forget the workers that have left for good."""
        for supervisor in list(self.supervisors):
            if supervisor.over:
                supervisor.stop(self.timeout)
                self.supervisors.remove(supervisor)

    def end(self) -> None:
        if self._owner != os.getpid():
            return  # in a forked child: they are the parent's
        if self.scheduler is not None:
            self.scheduler.close(self.timeout)  # it tells the workers to end, all at the same time
        self.keep(0)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ConfigError(f"{port} is no port; those are the whole numbers from 0 (any that is free) to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(format_address(host, port)) from None
        raise ConfigError(f"this machine cannot listen at {host}: {error.strerror}") from None


def _level(silence: bool | str) -> str:
    if isinstance(silence, bool):
        return "error" if silence else "info"
    if silence not in LOG_LEVELS:
        raise ConfigError(f"silence_logs must be True, False, or one of {', '.join(LOG_LEVELS)}, not {silence!r}")
    return silence


def _names(modules: str | Sequence[str]) -> list[str]:
    """Modules and files; the files by their whole paths, which mean the same to other processes."""
    names = [modules] if isinstance(modules, str) else list(modules)
    return [os.path.abspath(name) if name.endswith(".py") else name for name in names]


def _checked(resources: Mapping[str, float] | None) -> dict[str, float]:
    given: Mapping[str, Any] = resources or {}
    checked: dict[str, float] = {}
    for name, amount in given.items():
        if not isinstance(amount, (int, float)) or not 0 <= amount < math.inf:
            raise ConfigError(
                f"a worker cannot have {amount!r} of the resource {name!r}; amounts are numbers from 0 on"
            )
        checked[str(name)] = float(amount)
    return checked


def _refuse_nested() -> None:
    """Refuse to start where every process that is started would start the next one.

    :raises NestedClusterError: saying what to do instead.
    """
    if confined():
        raise NestedClusterError(
            "a task cannot start a cluster of its own: each of its workers could do so again. Submit all tasks from "
            "outside, or call treadle.get in the task, which computes a graph right there."
        )
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and getattr(processes.current_process(), "_inheriting", False):
        raise NestedClusterError(
            "a process of multiprocessing imports this main module to find its functions, and the module starts a "
            'cluster when it is imported. Start the cluster below `if __name__ == "__main__":`.'
        )
